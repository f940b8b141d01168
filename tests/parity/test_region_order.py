"""The numbering of regions: it changes answers exactly as in the released code, and here it can be repeated."""

from __future__ import annotations

import pytest
import torch
from fixture import close, tensors

from groma_model.boxes import xyxy_to_cxcywh
from groma_model.checkpoints import load_checkpoint
from groma_model.packing import feature_indices
from groma_model.regions import Selection, reorder, shuffle

#: The same picture and question; the second file numbers the regions the other way round.
RECORDED = ("10_forward_grounding", "11_forward_grounding_reversed_perm")


@pytest.fixture(scope="module")
def loaded(shared):
    model, processor = load_checkpoint(shared / "parity" / "small" / "checkpoint")
    return model.eval(), processor


@pytest.fixture(scope="module")
def pixels(shared):
    return tensors(shared, "01_vit")["pixel_values"]


@torch.no_grad()
def test_another_order_changes_the_answer_as_in_the_released_code(shared, loaded, pixels):
    model, processor = loaded
    states, _, (selection,) = model.propose(pixels[:1])
    maps, images, names = model.region_encoder.fused_maps(states), model.image_tokens(states), processor.ids
    ours, theirs = [], []
    for recorded in (tensors(shared, name) for name in RECORDED):
        numbered = reorder(selection, recorded["randperm.0"])
        distance = (xyxy_to_cxcywh(numbered.boxes) - recorded["selected_boxes.0"]).abs().max()
        assert distance <= 1e-5
        regions = model.encode_regions(maps, [numbered.boxes])[0]
        ids = recorded["expanded_input_ids"]
        count = images.shape[1]
        index = feature_indices(ids[0].tolist(), names["<image>"], names["<region>"], names["<refer_feat>"], count)
        features = torch.cat([images[0], regions])[None]
        embeddings = model.embed(ids, torch.tensor([index]), features, count)
        causal = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        hidden = model.run_llm(embeddings, causal, torch.arange(ids.shape[1])[None])
        ours.append(model.logits(hidden[0, -1:])[0])
        theirs.append(recorded["logits"][0, -1])
    change, expected = ours[1] - ours[0], theirs[1] - theirs[0]
    assert expected.abs().max() > 0.1  # the order matters ...
    close(change, expected, 2e-3, "change of the logits by the order of regions")  # ... and as much as it does there


@torch.no_grad()
def test_order_by_score_is_the_same_every_time(loaded, pixels, monkeypatch):
    model, _ = loaded
    monkeypatch.setattr(model.config, "region_order", "score")
    first, second = (model.perceive(pixels) for _ in range(2))
    for one, two, a, b in zip(
        first.selections, second.selections, first.region_tokens, second.region_tokens, strict=True
    ):
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("count", [5, 7])
def test_the_shuffle_depends_on_the_number_of_regions_alone(loaded, pixels, monkeypatch, count):
    model, _ = loaded
    assert model.config.region_order == "shuffled"  # as the released code, whose permutation is another every call
    monkeypatch.setattr(model.config, "score_threshold", 0.0)
    monkeypatch.setattr(model.config, "max_regions", count)
    shuffled = []
    for seed in range(2):
        torch.manual_seed(seed)
        shuffled += [model.perceive(pixels[i : i + 1]).selections[0] for i in range(len(pixels))]
    monkeypatch.setattr(model.config, "region_order", "score")
    ranked = [model.perceive(pixels[i : i + 1]).selections[0] for i in range(len(pixels))] * 2
    orders = []
    for mixed, best in zip(shuffled, ranked, strict=True):
        assert len(mixed.boxes) == count
        order = (mixed.boxes[:, None] - best.boxes).abs().sum(-1).argmin(1)
        assert torch.equal(best.boxes[order], mixed.boxes)
        assert torch.equal(best.scores[order], mixed.scores)
        assert order.sort().values.tolist() == list(range(count))  # the same set
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 1
    assert orders[0] != list(range(count))


def test_references_follow_their_regions():
    boxes = torch.rand(6, 4)
    selection = Selection(boxes, torch.arange(6.0).flip(0), torch.tensor([2]), torch.tensor([5, 0]))
    mixed = shuffle(selection)
    assert torch.equal(mixed.boxes[mixed.user_index], boxes[[2]])
    assert torch.equal(mixed.boxes[mixed.ground_index], boxes[[5, 0]])
