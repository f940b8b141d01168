"""Region selection against its plain definition; the region encoder's geometry on its own terms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_model.configuration import preset
from groma_model.regions import RegionEncoder, select_regions, select_regions_batch


def config(**fields):
    return preset("nano", **({"score_threshold": 0.3, "nms_threshold": 0.6, "max_regions": 30} | fields))


def plain_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def plain_selection(boxes, scores, cfg, users, grounds, ground_score, released):
    """Candidates, filter, greedy suppression, cut, assignment: one box after another."""
    pool = [(box, score, False) for box, score in zip(boxes, scores)]
    pool += [(box, 1.0, True) for box in users] + [(box, ground_score, True) for box in grounds]

    def passes(item):
        return item[1] > cfg.score_threshold or cfg.score_threshold == 0 or (item[2] and not released)

    alive = [i for i, item in enumerate(pool) if passes(item)]
    if not alive:
        alive = [max(range(len(pool)), key=lambda i: (pool[i][1], -i))]
    kept = []
    for i in sorted(alive, key=lambda i: (-pool[i][1], i)):
        if all(plain_iou(pool[i][0], pool[j][0]) <= cfg.nms_threshold for j in kept):
            kept.append(i)
    if released:
        kept = kept[: cfg.max_regions]
    else:
        chosen = sorted(kept, key=lambda i: not pool[i][2])[: cfg.max_regions]
        kept = [i for i in kept if i in chosen]

    def stands_for(i):
        if i in kept and not released:
            return kept.index(i)
        overlaps = [plain_iou(pool[i][0], pool[j][0]) for j in kept]
        return overlaps.index(max(overlaps))

    first_user, first_ground = len(boxes), len(boxes) + len(users)
    return (
        kept,
        [stands_for(i) for i in range(first_user, first_ground)],
        [stands_for(i) for i in range(first_ground, len(pool))],
    )


cell = st.integers(0, 5)
side = st.integers(1, 3)
box = st.tuples(cell, cell, side, side).map(lambda b: (b[0] / 8, b[1] / 8, (b[0] + b[2]) / 8, (b[1] + b[3]) / 8))
image = st.tuples(
    st.lists(st.tuples(box, st.integers(0, 8).map(lambda s: s / 8)), min_size=6, max_size=6),
    st.lists(box, max_size=3),
    st.lists(box, max_size=3),
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(image, min_size=1, max_size=3),
    st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    st.sampled_from([0.2, 0.6]),
    st.sampled_from([2, 5, 30]),
    st.booleans(),
)
def test_selection_is_the_plain_definition(images, threshold, nms_threshold, max_regions, released):
    kind = "released" if released else "given_kept"
    cfg = config(score_threshold=threshold, nms_threshold=nms_threshold, max_regions=max_regions, region_selection=kind)
    boxes = torch.tensor([[row[0] for row in image[0]] for image in images])
    scores = torch.tensor([[row[1] for row in image[0]] for image in images])
    users = [torch.tensor(image[1]).reshape(-1, 4) for image in images]
    grounds = [torch.tensor(image[2]).reshape(-1, 4) for image in images]
    batch = select_regions_batch(boxes, scores, cfg, users, grounds)
    for i, (proposals, given_by_user, truths) in enumerate(images):
        plain_boxes, plain_scores = [row[0] for row in proposals], [row[1] for row in proposals]
        kept, user, ground = plain_selection(plain_boxes, plain_scores, cfg, given_by_user, truths, 0.2, released)
        everything = torch.cat([boxes[i], users[i], grounds[i]])
        assert torch.equal(batch[i].boxes, everything[kept])
        assert batch[i].user_index.tolist() == user
        assert batch[i].ground_index.tolist() == ground
        alone = select_regions(boxes[i], scores[i], cfg, users[i], grounds[i])
        for name in ("boxes", "scores", "user_index", "ground_index"):
            assert torch.equal(getattr(alone, name), getattr(batch[i], name))


FAR = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.4, 0.4, 0.6, 0.6], [0.8, 0.8, 1.0, 1.0]])


def test_threshold_is_strict_and_order_is_by_score():
    selection = select_regions(FAR, torch.tensor([0.3, 0.5, 0.9]), config())
    torch.testing.assert_close(selection.scores, torch.tensor([0.9, 0.5]))
    assert torch.equal(selection.boxes, FAR[[2, 1]])
    assert selection.user_index.shape == selection.ground_index.shape == (0,)


def test_nothing_passes_leaves_the_best_proposal():
    selection = select_regions(FAR, torch.tensor([0.1, 0.25, 0.2]), config())
    assert torch.equal(selection.boxes, FAR[[1]])


def test_threshold_zero_passes_even_a_score_of_zero():
    assert len(select_regions(FAR, torch.zeros(3), config(score_threshold=0.0)).boxes) == 3


def test_user_box_suppresses_proposals_and_stands_first():
    user = torch.tensor([[0.41, 0.41, 0.6, 0.6]])
    selection = select_regions(FAR, torch.tensor([0.9, 0.95, 0.8]), config(), user_boxes=user)
    assert torch.equal(selection.boxes, torch.cat([user, FAR[[0, 2]]]))
    assert selection.user_index.tolist() == [0]


def test_ground_box_survives_a_threshold_above_its_score_but_not_as_released():
    truth = torch.tensor([[0.4, 0.0, 0.6, 0.2]])
    scores = torch.tensor([0.9, 0.7, 0.5])
    ours = select_regions(FAR, scores, config(), ground_boxes=truth)
    assert torch.equal(ours.boxes[ours.ground_index], truth)
    released = select_regions(FAR, scores, config(region_selection="released"), ground_boxes=truth)
    assert len(released.boxes) == 3


def test_suppressed_ground_box_is_represented_by_the_better_proposal():
    truth = torch.tensor([[0.4, 0.4, 0.6, 0.59]])
    selection = select_regions(FAR, torch.tensor([0.9, 0.7, 0.5]), config(), ground_boxes=truth)
    assert len(selection.boxes) == 3
    assert selection.ground_index.tolist() == [1]


def test_the_cut_takes_proposals_before_ground_boxes_but_not_as_released():
    truth = torch.tensor([[0.4, 0.0, 0.6, 0.2]])
    scores = torch.tensor([0.9, 0.7, 0.5])
    ours = select_regions(FAR, scores, config(max_regions=2), ground_boxes=truth)
    assert torch.equal(ours.boxes, torch.cat([FAR[[0]], truth]))
    as_released = config(max_regions=2, score_threshold=0.1, region_selection="released")
    released = select_regions(FAR, scores, as_released, None, truth)
    assert torch.equal(released.boxes, FAR[[0, 1]])


def test_boxes_are_clipped_but_not_as_released():
    outside = torch.tensor([[-0.1, 0.2, 0.3, 1.2]])
    assert select_regions(outside, torch.ones(1), config()).boxes.min() == 0
    assert torch.equal(select_regions(outside, torch.ones(1), config(region_selection="released")).boxes, outside)


def test_selection_carries_no_gradient():
    boxes = FAR.clone().requires_grad_()
    assert not select_regions(boxes, torch.ones(3, requires_grad=True), config()).boxes.requires_grad


# --- the region encoder ---------------------------------------------------------------------------------------------


def encoder(**fields):
    torch.manual_seed(0)
    return RegionEncoder(config(**fields)).eval()


def states(*maps):
    """(B, C, G, G) maps -> patch tokens."""
    return [item.flatten(2).transpose(1, 2) for item in maps]


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_features_come_from_the_boxes_own_place(scale):
    """Over maps of the patches' own coordinates, a box's bins read the coordinates of the bins' centres."""
    model = encoder(roi_size=4, region_scales=(scale,), region_layers=1)
    side = 8
    centres = (torch.arange(side) + 0.5) / side
    place = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))[None]  # x, y
    boxes = torch.tensor([[0.2, 0.3, 0.7, 0.5], [0.15, 0.1, 0.25, 0.9]])
    level = model._resize(place, side * scale)
    bins = model.align(level, boxes, torch.zeros(2, dtype=torch.long))
    steps = (torch.arange(4) + 0.5) / 4
    for read, (x1, y1, x2, y2) in zip(bins, boxes):
        torch.testing.assert_close(read[0, 0], x1 + (x2 - x1) * steps, atol=1e-5, rtol=0)
        torch.testing.assert_close(read[1, :, 0], y1 + (y2 - y1) * steps, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_box_reads_what_lies_in_it_and_nothing_farther_than_a_patch_away():
    model = encoder(region_fuse_convs=0)
    box = [torch.tensor([[0.25, 0.5, 0.5, 0.75]])]  # patches 2..3 by 4..5 of 8 x 8
    base = torch.randn(1, 96, 8, 8)
    plain = model(states(base, base, base), box)
    near = torch.zeros(8, 8, dtype=torch.bool)
    near[3:7, 1:5] = True
    outside = base.clone()
    outside[:, :, ~near] = 100.0
    assert torch.equal(model(states(*[outside] * 3), box), plain)
    for row, column in [(4, 2), (4, 3), (5, 2), (5, 3)]:
        inside = base.clone()
        inside[:, :, row, column] += 1.0
        assert (model(states(*[inside] * 3), box) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_a_map_that_is_nonzero_only_inside_a_box_is_seen_by_that_box_alone():
    model = encoder()
    level = torch.zeros(1, 96, 16, 16)
    level[:, :, 8:12, 4:8] = 1.0
    boxes = torch.tensor([[0.25, 0.5, 0.5, 0.75], [0.6, 0.1, 0.9, 0.4]])
    own, other = model.align(level, boxes, torch.zeros(2, dtype=torch.long))
    assert own.min() > 0.5
    assert other.abs().max() == 0


@torch.no_grad()
def test_released_geometry_reads_nothing_for_the_whole_image():
    """Its boxes (0.5, 0.5, 1, 1) at twice the scale begin at the far corner of every map."""
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    level, index = torch.ones(1, 96, 16, 16), torch.zeros(1, dtype=torch.long)
    bins = encoder(box_geometry="released").align(level, whole, index)
    assert bins[0, 0, 1:, 1:].abs().max() == 0
    assert encoder().align(level, whole, index).min() == 1


@torch.no_grad()
def test_images_do_not_mix_and_may_have_no_boxes():
    model = encoder()
    maps = [torch.randn(3, 96, 8, 8) for _ in range(3)]
    boxes = [FAR[:2], FAR[:0], FAR]
    together = model(states(*maps), boxes)
    assert together.shape == (5, 128)
    first = model(states(*[item[:1] for item in maps]), boxes[:1])
    last = model(states(*[item[2:] for item in maps]), boxes[2:])
    torch.testing.assert_close(together, torch.cat([first, last]), atol=1e-5, rtol=0)
    assert model(states(*maps), [FAR[:0]] * 3).shape == (0, 128)


@torch.no_grad()
def test_only_the_last_hidden_states_are_read():
    model = encoder()
    maps = [torch.randn(1, 96, 8, 8) for _ in range(5)]
    assert torch.equal(model(states(*maps), [FAR]), model(states(*maps[-3:]), [FAR]))


@torch.no_grad()
@pytest.mark.parametrize("geometry", ["xyxy", "released"])
def test_maps_are_mixed_as_if_after_resizing(geometry):
    """The 1x1 convolution over resized channels and coordinates, literally."""
    model = encoder(box_geometry=geometry, region_scales=(4, 2, 1))
    maps = [torch.randn(2, 96, 8, 8) for _ in range(3)]
    for ours, source, conv, scale in zip(model.feature_maps(states(*maps)), maps, model.input_convs, (4, 2, 1)):
        size = 8 * scale
        resized = torch.nn.functional.interpolate(
            source, size=(size, size), mode="bilinear", align_corners=geometry == "released"
        )
        axis = torch.linspace(-1, 1, size)
        x, y = axis.expand(size, size), axis[:, None].expand(size, size)
        literal = conv(torch.cat([resized, torch.stack([x, y]).expand(2, -1, -1, -1)], 1))
        torch.testing.assert_close(ours, literal, atol=1e-5, rtol=0)


def test_every_parameter_and_every_level_receives_a_gradient():
    model = encoder()
    maps = [torch.randn(2, 96, 8, 8, requires_grad=True) for _ in range(3)]
    model(states(*maps), [FAR, FAR[:1]]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(item.grad.abs().max() > 0 for item in maps)


@torch.no_grad()
def test_bfloat16_region_features():
    model = encoder()
    maps = [torch.randn(1, 96, 8, 8) for _ in range(3)]
    full = model(states(*maps), [FAR])
    half = model.bfloat16()([item.bfloat16() for item in states(*maps)], [FAR])
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.1)


def test_a_scale_for_every_level_is_required():
    with pytest.raises(ValueError, match="region_scales has 2 entries"):
        encoder(region_scales=(2, 1))
