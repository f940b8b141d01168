"""NMS and RoIAlign against slow, literal definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_model.ops.nms import nms
from groma_model.ops.roi_align import _has_torchvision, _torchvision_roi_align, roi_align


def plain_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def plain_nms(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(plain_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


# Coordinates and scores on a coarse grid, so that equal scores and IoUs of exactly the threshold occur.
corner = st.integers(0, 6)
boxes_and_scores = st.lists(
    st.tuples(corner, corner, st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)), min_size=0, max_size=12
)


@settings(max_examples=150, deadline=None)
@given(boxes_and_scores, st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75]))
def test_nms_is_the_plain_definition(rows, threshold):
    boxes = [(x / 8, y / 8, (x + w) / 8, (y + h) / 8) for x, y, w, h, _ in rows]
    scores = [score / 5 for *_, score in rows]
    ours = nms(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), threshold)
    assert ours.tolist() == plain_nms(boxes, scores, threshold)


def test_nms_keeps_a_box_whose_iou_is_exactly_the_threshold():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def plain_sample(channel, y, x):
    height, width = channel.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * channel[top, left].item() + dx * channel[top, right].item()
    lower = (1 - dx) * channel[bottom, left].item() + dx * channel[bottom, right].item()
    return (1 - dy) * upper + dy * lower


def plain_roi_align(features, boxes, image_index, size, ratio):
    out = torch.zeros(len(boxes), features.shape[1], size, size, dtype=torch.float64)
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        bin_width, bin_height = (x2 - x1) / size, (y2 - y1) / size
        for c in range(features.shape[1]):
            channel = features[image_index[r], c]
            for i in range(size):
                for j in range(size):
                    ys = [y1 - 0.5 + bin_height * (i + (s + 0.5) / ratio) for s in range(ratio)]
                    xs = [x1 - 0.5 + bin_width * (j + (s + 0.5) / ratio) for s in range(ratio)]
                    out[r, c, i, j] = sum(plain_sample(channel, y, x) for y in ys for x in xs) / ratio**2
    return out


def random_case(seed, dtype=torch.float64):
    """Boxes inside, across the border, far outside, backwards and empty, on a map that is not square."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, 7, 10, generator=generator, dtype=dtype)
    boxes = torch.rand(9, 4, generator=generator, dtype=dtype) * 20 - 5
    boxes[-1] = boxes[-1, [0, 1, 0, 1]]
    return features, boxes, torch.randint(0, 2, (9,), generator=generator)


@pytest.mark.parametrize(("size", "ratio"), [(1, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_roi_align_is_the_plain_definition(seed, size, ratio):
    case = random_case(seed)
    torch.testing.assert_close(roi_align(*case, size, ratio), plain_roi_align(*case, size, ratio), atol=1e-10, rtol=0)


def test_roi_align_reads_the_border_up_to_one_pixel_outside_and_nothing_beyond():
    features = torch.full((1, 1, 4, 4), 3.0)
    # One bin with one sample at the box's centre: index = centre - 0.5.
    centres = torch.tensor([-0.5, -0.51, 4.5, 4.51])
    boxes = torch.stack([centres - 1, torch.ones(4), centres + 1, torch.full((4,), 3.0)], 1)
    expected = [3.0, 0.0, 3.0, 0.0]
    assert roi_align(features, boxes, torch.zeros(4, dtype=torch.long), 1, 1).flatten().tolist() == expected


def test_backwards_box_gives_the_mirrored_bins():
    features, _, _ = random_case(3)
    box = torch.tensor([[1.2, 2.0, 7.4, 5.5], [7.4, 5.5, 1.2, 2.0]], dtype=torch.float64)
    forward, backward = roi_align(features, box, torch.zeros(2, dtype=torch.long), 4, 2)
    torch.testing.assert_close(backward, forward.flip(1, 2))


def test_roi_align_gradient():
    features, boxes, index = random_case(4)
    assert torch.autograd.gradcheck(lambda maps: roi_align(maps, boxes, index, 2, 2), features.requires_grad_())


def test_roi_align_without_boxes_is_empty():
    features, boxes, index = random_case(5)
    assert roi_align(features, boxes[:0], index[:0], 3, 2).shape == (0, 3, 3, 3)


def test_half_precision_maps_are_pooled_in_float32():
    features, boxes, index = random_case(6, torch.float32)
    ours = roi_align(features.bfloat16(), boxes, index, 3, 2)
    assert ours.dtype is torch.bfloat16
    assert torch.equal(ours, roi_align(features.bfloat16().float(), boxes, index, 3, 2).bfloat16())


def test_torchvision_on_cuda_is_the_plain_definition():
    if not _has_torchvision() or not torch.cuda.is_available():
        pytest.skip("needs torchvision and a CUDA device")
    for seed in range(3):
        features, boxes, index = random_case(seed, torch.float32)
        expected = plain_roi_align(features, boxes, index, 3, 2).float()
        ours = roi_align(features.cuda(), boxes.cuda(), index.cuda(), 3, 2)
        torch.testing.assert_close(ours.cpu(), expected, atol=1e-5, rtol=0)


def test_torchvision_operators_agree_on_the_cpu():
    """Boxes of positive size only: for others its CPU code is not the CUDA kernel's equal."""
    if not _has_torchvision():
        pytest.skip("needs torchvision")
    features, boxes, index = random_case(7, torch.float32)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:].abs()], 1)
    theirs = _torchvision_roi_align(features, torch.cat([index[:, None].float(), boxes], 1), 3, 2)
    torch.testing.assert_close(roi_align(features, boxes, index, 3, 2), theirs, atol=1e-5, rtol=0)
    corner = torch.rand(60, 2)
    boxes, scores = torch.cat([corner, corner + torch.rand(60, 2)], 1), torch.rand(60)
    assert torch.equal(nms(boxes, scores, 0.4), torch.ops.torchvision.nms(boxes, scores, 0.4))
