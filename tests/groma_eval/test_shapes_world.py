"""The scenes themselves: reproducible to the bit, independent of one another, and within the promised difficulty."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from groma_eval.benchmarks.shapes.draw import RGB, draw
from groma_eval.benchmarks.shapes.outlines import UNIT, template
from groma_eval.benchmarks.shapes.world import CATEGORIES, COLOURS, SHAPES, Rng, Scene, make_scene
from PIL import Image, ImageDraw

from groma_eval.core import HarnessError

SCENES = [make_scene(0, split, index) for split in ("train", "val", "test") for index in range(1, 61)]


def painted(scene: Scene) -> np.ndarray:
    """Number (from 1) of the object seen at each pixel, 0 for the background: painted anew, one over the other."""
    owner = np.zeros((192, 192), dtype=int)
    for number, thing in enumerate(scene.things, 1):
        solid = template(thing.shape, thing.extent, thing.turn).solid
        owner[thing.top : thing.top + thing.extent, thing.left : thing.left + thing.extent][solid] = number
    return owner


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_a_scene_is_the_same_bytes_on_every_machine() -> None:
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in (1, 7):
            scene = make_scene(0, split, index)
            digest.update(draw(scene).tobytes())
            digest.update(repr([(t.attributes, t.box) for t in scene.things]).encode())
    assert digest.hexdigest() == "c04155dd812c9e6a0dee2f280926fe48ce36985ad2a1f1c87116d200c2e93fd8"


def test_pictures_differ_between_splits_seeds_and_numbers() -> None:
    scenes = [*SCENES, *(make_scene(1, "test", i) for i in range(1, 61))]
    assert len({draw(scene).tobytes() for scene in scenes}) == len(scenes)
    assert len({repr(scene.things) for scene in scenes}) == len(scenes)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(HarnessError, match="train, val, test"):
        make_scene(0, "testA", 1)


def test_objects_lie_inside_apart_and_mostly_visible() -> None:
    for scene in SCENES:
        owner = painted(scene)
        assert 3 <= len(scene.things) <= 8
        for number, thing in enumerate(scene.things, 1):
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= 192
            assert 0 <= y1 < y2 <= 192
            seen = int((owner == number).sum())
            assert seen >= 0.7 * template(thing.shape, thing.extent, thing.turn).solid.sum()
            low, high = {"small": (26, 32), "medium": (40, 48), "large": (58, 72)}[thing.size]
            assert low - 0.05 <= max(x2 - x1, y2 - y1) <= high + 0.05
            assert all(abs(c - border) >= 4 for c in ((x1 + x2) / 2, (y1 + y2) / 2) for border in (64, 128))
            assert all(iou(thing.box, other.box) <= 0.4 for other in scene.things[number:])


def test_location_is_the_cell_of_the_box_centre() -> None:
    words = {(0, 0): "top left", (1, 0): "top", (2, 0): "top right", (0, 1): "left", (1, 1): "center",
             (2, 1): "right", (0, 2): "bottom left", (1, 2): "bottom", (2, 2): "bottom right"}  # fmt: skip
    for thing in (t for scene in SCENES for t in scene.things):
        x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
        assert thing.location == words[(x > 64) + (x > 128), (y > 64) + (y > 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extent", [26, 47, 72])
def test_the_mask_fills_its_box_and_nothing_else(shape: str, extent: int) -> None:
    for turn in (-10, 0, 5):
        mask = template(shape, extent, turn)
        rows, columns = np.nonzero(mask.coverage.any(axis=1))[0], np.nonzero(mask.coverage.any(axis=0))[0]
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        # A thin tip may miss the sub-pixel centres, so a side may lie up to two pixels inside the box, never outside.
        for side, (found, stated) in enumerate(zip(seen, mask.box)):
            inward = found - stated if side < 2 else stated - found
            assert -1 <= inward <= 2.5
        assert mask.area == pytest.approx(mask.coverage.sum() / 9, abs=0.01)


@pytest.mark.parametrize("shape", ["square", "triangle", "cross", "arrow", "hourglass", "diamond"])
def test_the_fill_agrees_with_another_rasteriser(shape: str) -> None:
    """Against Pillow's polygon fill at eight times the resolution: the areas agree within the edge pixels."""
    from groma_eval.benchmarks.shapes.outlines import OUTLINES

    points = np.array(OUTLINES[shape][0], dtype=float)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 64 * 8 / (high - low).max()
    canvas = Image.new("1", (512, 512))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in (points - (low + high) / 2) * scale + 256], fill=1)
    fine = np.asarray(canvas, dtype=float).reshape(64, 8, 64, 8).mean(axis=(1, 3))
    assert np.abs(fine - template(shape, 64, 0).coverage / 9).mean() < 0.01
    assert UNIT == 64


def test_plain_objects_show_their_colour() -> None:
    """The middle colour of what is seen of a plain object is nearest to its own name's among the eight."""
    checked = 0
    for scene in SCENES[:90]:
        picture, owner = draw(scene).astype(int), painted(scene)
        for number, thing in enumerate(scene.things, 1):
            if thing.pattern == "plain":
                colour = np.median(picture[owner == number], axis=0)
                nearest = min(COLOURS, key=lambda name: float(((colour - np.array(RGB[name])) ** 2).sum()))
                assert nearest == thing.colour
                checked += 1
    assert checked > 100


def test_patterns_show_ink() -> None:
    """Stripes and dots darken between a tenth and two thirds of an object, a plain one nothing."""
    for scene in SCENES[:60]:
        picture, owner = draw(scene).astype(int), painted(scene)
        for number, thing in enumerate(scene.things, 1):
            pixels = picture[owner == number]
            dark = float((pixels.sum(axis=1) < 0.6 * sum(RGB[thing.colour])).mean())
            assert dark < 0.02 if thing.pattern == "plain" else 0.1 < dark < 0.67


def test_categories_are_long_tailed_and_scenes_repeat_them() -> None:
    assert len(set(CATEGORIES)) == 96
    scenes = [make_scene(3, "train", index) for index in range(1, 401)]
    images = Counter(c for scene in scenes for c in {t.category for t in scene.things})
    head = sum(images[c] for c in CATEGORIES[:8]) / 8
    tail = sum(images[c] for c in CATEGORIES[-40:]) / 40
    assert head > 10 * tail
    assert tail > 400 * 40 / 24000  # the rarest are still learnable: 40 images and more in a full training set
    repeated = sum(len({t.category for t in s.things}) < len(s.things) for s in scenes)
    assert repeated > 0.3 * len(scenes)


def test_chance_is_even_and_keyed() -> None:
    rng = Rng(5, 0, 1)
    counts = Counter(rng.below(7) for _ in range(7000))
    assert set(counts) == set(range(7))
    assert max(abs(n - 1000) for n in counts.values()) < 150
    assert [Rng(5, 0, 1).below(10**6) for _ in range(2)] == [Rng(5, 0, 1).below(10**6)] * 2
    assert Rng(5, 0, 1).below(10**9) != Rng(5, 0, 2).below(10**9)
    weighted = Counter(rng.weighted("abc", (1, 2, 7)) for _ in range(5000))
    assert weighted["a"] < weighted["b"] < weighted["c"]
    assert sorted(rng.shuffled(range(20))) == list(range(20))
