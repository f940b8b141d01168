"""Which regions of a picture a conversation is about."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]

_MOST_DESCRIPTIONS = 5  # of one region: more say the same again


@dataclass(frozen=True)
class Region:
    """A box, xyxy normalised to the original image, and what is known of it."""

    box: Box
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class RegionRules:
    """``least`` to ``most`` regions an image (paper: 3 to 10), no two with an IoU of ``max_iou`` or more, each with a
    share of the picture from ``min_area`` to ``max_area`` and both sides at least ``min_side`` of the picture's.

    ValueError for limits that nothing can meet.
    """

    least: int = 3
    most: int = 10
    max_iou: float = 0.5
    min_area: float = 0.004
    max_area: float = 0.9
    min_side: float = 0.03

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"regions an image: {self.least} to {self.most}; must be 1 or more, the lower limit first")
        if not 0 < self.max_iou <= 1:
            raise ValueError(f"max_iou {self.max_iou}: must be above 0 and at most 1")


def choose_regions(candidates: Sequence[Region], rules: RegionRules, seed: int, image_id: str) -> tuple[Region, ...]:
    """At most ``rules.most`` of ``candidates``, or none where fewer than ``rules.least`` are left by the rules.

    Candidates are taken in random order, the same for the same seed and image, each unless it overlaps one taken
    before; the descriptions of one left out for that go to the region that it overlaps most. The result stands in
    order of the boxes' left sides.
    """
    usable = [region for region in candidates if _fits(region.box, rules)]
    random.Random(draw(seed, image_id)).shuffle(usable)
    kept: list[tuple[Box, list[str]]] = []
    full = False
    for region in usable:
        overlap, nearest = max(((iou(region.box, box), i) for i, (box, _) in enumerate(kept)), default=(0.0, -1))
        if overlap >= rules.max_iou:
            kept[nearest][1].extend(region.descriptions)
        elif not full:
            kept.append((region.box, list(region.descriptions)))
            full = len(kept) == rules.most
    if len(kept) < rules.least:
        return ()
    kept.sort(key=lambda item: item[0])
    return tuple(Region(box, _different(texts)[:_MOST_DESCRIPTIONS]) for box, texts in kept)


def draw(seed: int, image_id: str) -> int:
    """A number of 64 bits for an image, the same on every machine and in every order of the images."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:8], "big")


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two xyxy boxes of one frame; 0 where the union is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _fits(box: Box, rules: RegionRules) -> bool:
    width, height = box[2] - box[0], box[3] - box[1]
    return min(width, height) >= rules.min_side and rules.min_area <= width * height <= rules.max_area


def _different(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple({text.casefold(): text for text in reversed(texts)}.values())[::-1]
