"""What a scene is: attributes, the long-tailed category table, and the sampling of objects and their places.

All randomness comes from :class:`Rng`, a thin integer layer over the raw PCG64 stream (which NumPy keeps stable across
versions), seeded by (seed, split, index): a scene never depends on another scene, on the split's size or on how many
processes write it. Places are whole pixels and outlines are rounded to 1/64 pixel, so that no result hangs on the order
of floating point operations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np

from groma_eval.core import HarnessError

from .outlines import template

SIDE = 192  # pixels, width and height of a scene
SHAPES = (
    "circle", "square", "triangle", "star", "cross", "heart",
    "diamond", "crescent", "ring", "arrow", "ellipse", "hourglass",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SIZES = ("small", "medium", "large")
PATTERNS = ("plain", "striped", "dotted")
EXTENTS = {"small": (26, 32), "medium": (40, 48), "large": (58, 72)}  # the longer side of the box, pixels
LOCATIONS = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
SPLITS = {"train": 0, "val": 1, "test": 2}
BORDER_MARGIN = 4  # pixels: no box centre comes closer to a border of the 3x3 cells, so every location word is clear
MAX_IOU = 0.4  # of two boxes of a scene
MAX_CONTAINED = 0.5  # of the smaller of two boxes, covered by the other
MIN_VISIBLE = 0.7  # of an object's own pixels

# Categories by rank, commonest first. Colour and shape are dealt so that neighbours in rank differ in both, which keeps
# every single colour and shape common while their combinations are long-tailed.
CATEGORIES = tuple((COLOURS[r % 8], SHAPES[(r // 8 + 5 * (r % 8)) % 12]) for r in range(96))
CATEGORY_ID = {category: rank + 1 for rank, category in enumerate(CATEGORIES)}
_WEIGHTS = tuple(round(1_000_000 * (rank + 3) ** -1.2) for rank in range(96))


def frequency(rank: int) -> str:
    """LVIS frequency group of the category of this rank: f(requent), c(ommon), r(are).

    Fixed by rank, which is the order of expected training images, so that any split can be written alone. Measured in
    the default 24,000 training scenes (seed 0): f 1,001 to 8,591 images, c 364 to 954, r 204 to 383.
    """
    return "f" if rank < 24 else "c" if rank < 56 else "r"


class Rng:
    """Whole numbers from a raw PCG64 stream; the only source of chance in the generator."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))
        self._buffer: list[int] = []

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        if not self._buffer:
            self._buffer = self._bits.random_raw(256).tolist()
        return (self._buffer.pop() >> 11) * n >> 53

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, items: Sequence):
        return items[self.below(len(items))]

    def weighted(self, items: Sequence, weights: Sequence[int]):
        """One of ``items``, each as likely as its whole-number weight."""
        totals = list(accumulate(weights))
        return items[bisect_right(totals, self.below(totals[-1]))]

    def shuffled(self, items: Sequence) -> list:
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def bytes(self, *shape: int) -> np.ndarray:
        """Uniform uint8 array of this shape."""
        count = int(np.prod(shape))
        raw = self._bits.random_raw((count + 7) // 8).astype("<u8", copy=False)
        return raw.view(np.uint8)[:count].reshape(shape)


@dataclass(frozen=True)
class Thing:
    """One object. ``box`` is xyxy pixels, tight around the whole shape (hidden parts included)."""

    shape: str
    colour: str
    size: str
    pattern: str
    extent: int  # longer side of the box, pixels
    turn: int  # degrees
    left: int  # corner of the template's crop, pixels
    top: int
    box: tuple[float, float, float, float]
    area: float  # pixels of the whole shape

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2

    @property
    def location(self) -> str:
        return LOCATIONS[int(self.y * 3 // SIDE)][int(self.x * 3 // SIDE)]

    @property
    def category(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def attributes(self) -> dict[str, str]:
        names = ("shape", "colour", "size", "pattern", "location")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Scene:
    """``things`` in drawing order: a later one lies over an earlier one."""

    seed: int
    split: str
    index: int  # from 1
    things: tuple[Thing, ...]

    @property
    def stem(self) -> str:
        return f"shapes_{self.split}_{self.index:06d}"


def make_scene(seed: int, split: str, index: int) -> Scene:
    """The scene with this number. Raises :class:`HarnessError` for an unknown split."""
    if split not in SPLITS:
        raise HarnessError(f"shapes: no split {split!r}; choose from {', '.join(SPLITS)}")
    rng = Rng(seed, SPLITS[split], index, 0)
    while True:
        things = _place(rng, _descriptions(rng))
        if len(things) >= 3:
            return Scene(seed, split, index, tuple(things))


@cache
def _category_choices(colour: str | None, shape: str | None) -> tuple[list[tuple[str, str]], list[int]]:
    kept = [
        (category, weight)
        for category, weight in zip(CATEGORIES, _WEIGHTS, strict=True)
        if colour in (None, category[0]) and shape in (None, category[1])
    ]
    return [c for c, _ in kept], [w for _, w in kept]


def sample_category(rng: Rng, colour: str | None = None, shape: str | None = None) -> tuple[str, str]:
    """(colour, shape) from the long-tailed table, given either or neither."""
    return rng.weighted(*_category_choices(colour, shape))


_COPIED = (
    ("colour", "shape"), ("colour", "shape", "size"), ("colour", "shape", "pattern"),
    ("shape",), ("shape", "size"), ("shape", "pattern"), ("shape", "size", "pattern"),
    ("colour",), ("colour", "size"), ("colour", "pattern"),
)  # fmt: skip
_COPIED_WEIGHTS = (3, 2, 2, 3, 2, 2, 1, 3, 1, 1)


def _descriptions(rng: Rng) -> list[dict[str, str]]:
    """Attributes of 3 to 8 objects, about half of them copying one to three attributes of another."""
    found: list[dict[str, str]] = []
    for _ in range(rng.between(3, 8)):
        given: dict[str, str] = {}
        if found and rng.chance(55):
            model = rng.pick(found)
            given = {name: model[name] for name in rng.weighted(_COPIED, _COPIED_WEIGHTS)}
        colour, shape = sample_category(rng, given.get("colour"), given.get("shape"))
        size = given.get("size") or rng.weighted(SIZES, (38, 36, 26))
        pattern = given.get("pattern") or rng.weighted(PATTERNS, (36, 32, 32))
        found.append({"shape": shape, "colour": colour, "size": size, "pattern": pattern})
    return found


def _place(rng: Rng, descriptions: list[dict[str, str]]) -> list[Thing]:
    """Give each description a place; those for which none is found are left out."""
    things: list[Thing] = []
    owner = np.zeros((SIDE, SIDE), dtype=np.uint8)  # 1-based number of the object seen at a pixel
    pixels: list[int] = [0]  # own pixels and still visible pixels, by that number
    visible: list[int] = [0]
    for description in descriptions:
        extent = rng.between(*EXTENTS[description["size"]])
        turn = rng.pick((-10, -5, 0, 5, 10)) + (rng.pick((0, 90, 180, 270)) if description["shape"] == "arrow" else 0)
        outline = template(description["shape"], extent, turn)
        for _ in range(60):
            left, top = rng.between(1, SIDE - 1 - extent), rng.between(1, SIDE - 1 - extent)
            x, y = left + extent / 2, top + extent / 2
            if any(abs(c - border) < BORDER_MARGIN + 0.5 for c in (x, y) for border in (SIDE / 3, SIDE * 2 / 3)):
                continue
            box = tuple(round(o + v, 2) for o, v in zip((left, top, left, top), outline.box, strict=True))
            if any(_too_close(box, thing, description["colour"]) for thing in things):
                continue
            crop = owner[top : top + extent, left : left + extent]
            hidden = np.bincount(crop[outline.solid], minlength=len(things) + 1).tolist()
            if any(visible[k] - hidden[k] < MIN_VISIBLE * pixels[k] for k in range(1, len(things) + 1)):
                continue
            for k in range(1, len(things) + 1):
                visible[k] -= hidden[k]
            crop[outline.solid] = len(things) + 1
            pixels.append(outline.pixels)
            visible.append(outline.pixels)
            things.append(
                Thing(**description, extent=extent, turn=turn, left=left, top=top, box=box, area=outline.area)
            )
            break
    return things


def _too_close(box: tuple[float, ...], thing: Thing, colour: str) -> bool:
    """Whether the boxes overlap too much, or at all where one colour would hide the edge between them."""
    other = thing.box
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return False
    if thing.colour == colour:
        return True
    shared = width * height
    first = (box[2] - box[0]) * (box[3] - box[1])
    second = (other[2] - other[0]) * (other[3] - other[1])
    return shared > MAX_CONTAINED * min(first, second) or shared > MAX_IOU * (first + second - shared)
