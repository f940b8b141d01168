"""Choosing regions and drawing their numbers: laws, and a slow plain definition."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from groma_model.boxes import iou_matrix
from groma_model.instruct.markers import data_url, draw_markers
from groma_model.instruct.regions import Region, RegionRules, choose_regions, draw, iou

SIDE = st.integers(0, 128).map(lambda n: n / 128)


@st.composite
def boxes(draw_from, least=0, most=25):
    found = []
    for _ in range(draw_from(st.integers(least, most))):
        x = sorted((draw_from(SIDE), draw_from(SIDE)))
        y = sorted((draw_from(SIDE), draw_from(SIDE)))
        found.append((x[0], y[0], x[1], y[1]))
    return found


@settings(max_examples=30, deadline=None)
@given(boxes(least=2, most=6))
def test_iou_is_that_of_the_box_module(found):
    expected = iou_matrix(torch.tensor(found, dtype=torch.float64), torch.tensor(found, dtype=torch.float64))
    ours = torch.tensor([[iou(a, b) for b in found] for a in found], dtype=torch.float64)
    assert torch.allclose(ours, expected, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(boxes(), st.integers(0, 5), st.sampled_from([0.2, 0.5, 0.9]), st.integers(1, 4), st.integers(4, 10))
def test_chosen_regions_keep_the_rules(found, seed, max_iou, least, most):
    rules = RegionRules(least, most, max_iou=max_iou)
    candidates = [Region(box, (f"text {i}",)) for i, box in enumerate(found)]
    chosen = choose_regions(candidates, rules, seed, "7")
    assert chosen == choose_regions(candidates, rules, seed, "7")
    usable = [
        box
        for box in found
        if min(box[2] - box[0], box[3] - box[1]) >= 0.03 and 0.004 <= (box[2] - box[0]) * (box[3] - box[1]) <= 0.9
    ]
    kept = [region.box for region in chosen]
    assert all(box in usable for box in kept)
    assert [box[0] for box in kept] == sorted(box[0] for box in kept)
    assert not kept or least <= len(kept) <= most
    assert all(iou(a, b) < max_iou for i, a in enumerate(kept) for b in kept[:i])
    if kept and len(kept) < most:  # nothing more could have been taken
        assert all(any(iou(box, other) >= max_iou for other in kept) for box in usable)


def test_too_few_regions_are_none():
    two = [Region((0.0, 0.0, 0.4, 0.4), ("a",)), Region((0.5, 0.5, 0.9, 0.9), ("b",))]
    assert choose_regions(two, RegionRules(3, 10), 0, "1") == ()
    assert len(choose_regions(two, RegionRules(2, 10), 0, "1")) == 2


def test_an_overlapping_region_leaves_its_description():
    boxes_of_two = [
        Region((0.1, 0.1, 0.5, 0.5), ("a cat",)),
        Region((0.1, 0.1, 0.5, 0.51), ("a grey cat",)),
        Region((0.1, 0.11, 0.5, 0.5), ("A cat",)),  # said already
        Region((0.6, 0.6, 0.9, 0.9), ("a cup",)),
    ]
    chosen = choose_regions(boxes_of_two, RegionRules(2, 10), 0, "1")
    assert [sorted(t.lower() for t in region.descriptions) for region in chosen] == [["a cat", "a grey cat"], ["a cup"]]


def test_seed_and_image_matter():
    many = [Region((x / 10, y / 10, x / 10 + 0.09, y / 10 + 0.09), (f"{x}{y}",)) for x in range(10) for y in range(10)]
    rules = RegionRules(3, 10)
    chosen = {choose_regions(many, rules, seed, image) for seed in (0, 1) for image in ("1", "2")}
    assert len(chosen) == 4
    assert draw(0, "1") == 0xA93875FE509AC2FA  # as everywhere: the first bytes of a SHA-256
    with pytest.raises(ValueError, match="lower limit first"):
        RegionRules(5, 4)
    with pytest.raises(ValueError, match="max_iou"):
        RegionRules(max_iou=0)


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (127, 127, 127), (230, 25, 75)])
@pytest.mark.parametrize("size", [(640, 480), (200, 300), (3000, 2000)])
def test_numbers_can_be_read_on_any_background(background, size):
    grid = [(x / 5 + 0.01, y / 2 + 0.01, x / 5 + 0.19, y / 2 + 0.45) for y in range(2) for x in range(5)]
    picture, plates = draw_markers(Image.new("RGB", size, background), grid)
    assert 512 <= max(picture.size) <= 1024
    assert abs(picture.width / picture.height - size[0] / size[1]) < 0.01
    seen = []
    for box, (left, top, right, bottom) in zip(grid, plates, strict=True):
        assert 0 <= left < right < picture.width
        assert 0 <= top < bottom < picture.height
        assert bottom - top >= 14
        middle = ((left + right) / 2 / picture.width, (top + bottom) / 2 / picture.height)
        assert abs(middle[0] - (box[0] + box[2]) / 2) < 0.01
        assert abs(middle[1] - (box[1] + box[3]) / 2) < 0.01
        plate = np.asarray(picture.crop((left + 2, top + 2, right - 1, bottom - 1)).convert("L"))
        assert plate.min() < 40
        assert (plate > 215).sum() >= 8
        seen.append((plate.shape, (plate > 127).tobytes()))
    assert len(set(seen)) == 10  # ten numbers, ten pictures of them


def test_the_same_number_looks_the_same_on_every_background():
    box = [(0.2, 0.2, 0.8, 0.8)]
    cut = []
    for colour in ((0, 0, 0), (255, 255, 255)):
        picture, (plate,) = draw_markers(Image.new("RGB", (600, 600), colour), box)
        cut.append(np.asarray(picture.crop((plate[0], plate[1], plate[2] + 1, plate[3] + 1))))
    assert np.array_equal(*cut)


@settings(max_examples=15, deadline=None)
@given(boxes(least=1, most=10), st.sampled_from([(50, 400), (320, 240), (9, 9)]))
def test_any_boxes_can_be_drawn(found, size):
    picture, plates = draw_markers(Image.new("L", size), found)
    assert len(plates) == len(found)
    assert max(picture.size) == 512
    for (x1, y1, x2, y2), plate in zip(found, plates, strict=True):
        if picture.width > 100:  # a plate touches its box
            assert plate[0] <= x2 * picture.width + 1 and plate[2] >= x1 * picture.width - 1  # noqa: PT018
            assert plate[1] <= y2 * picture.height + 1 and plate[3] >= y1 * picture.height - 1  # noqa: PT018


def test_numbers_of_boxes_with_one_middle_stand_apart():
    nested = [(0.1 * i, 0.1 * i, 1 - 0.1 * i, 1 - 0.1 * i) for i in range(4)]
    _, plates = draw_markers(Image.new("RGB", (640, 640)), nested)
    for i, a in enumerate(plates):
        for b in plates[:i]:
            assert min(a[2], b[2]) < max(a[0], b[0]) or min(a[3], b[3]) < max(a[1], b[1])


def test_each_box_has_its_own_number():
    """The numbers 1, 2, 3 as drawn on boxes of one size, found again on boxes from large to small and back."""

    def numbers(found):
        picture, plates = draw_markers(Image.new("RGB", (640, 640)), found)
        cut = (np.asarray(picture.crop((a + 2, b + 2, c - 1, d - 1)).convert("L")) > 127 for a, b, c, d in plates)
        return [(plate.shape, plate.tobytes()) for plate in cut]

    alike = numbers([(0.1, 0.1, 0.3, 0.3), (0.4, 0.4, 0.6, 0.6), (0.7, 0.7, 0.9, 0.9)])
    falling = [(0.0, 0.0, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9), (0.1, 0.7, 0.3, 0.9)]
    assert len(set(alike)) == 3
    assert numbers(falling) == numbers(falling[::-1]) == alike


def test_the_number_of_a_box_around_another_is_not_on_the_other():
    outer, inner = (0.1, 0.1, 0.9, 0.9), (0.4, 0.4, 0.6, 0.6)
    for boxes_of_two in ([outer, inner], [inner, outer]):
        _, plates = draw_markers(Image.new("RGB", (600, 600)), boxes_of_two)
        around, within = (plates[boxes_of_two.index(box)] for box in (outer, inner))
        assert within[0] < 300 < within[2]  # in its middle
        assert within[1] < 300 < within[3]
        assert around[2] < 240 or around[0] > 360 or around[3] < 240 or around[1] > 360


def test_data_url_is_the_picture():
    image = Image.new("RGB", (40, 30), (200, 10, 10))
    head, _, body = data_url(image).partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as read:
        assert (read.format, read.size) == ("JPEG", (40, 30))
        assert np.abs(np.asarray(read).astype(int) - (200, 10, 10)).max() < 8
