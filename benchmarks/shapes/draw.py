"""Drawing a scene: a textured background of low contrast, then the objects, all in whole numbers."""

from __future__ import annotations

import numpy as np

from .outlines import SUB, template
from .world import SIDE, SPLITS, Rng, Scene, Thing

RGB = {
    "red": (215, 38, 38),
    "green": (38, 160, 56),
    "blue": (48, 78, 225),
    "yellow": (240, 215, 45),
    "purple": (150, 58, 190),
    "orange": (245, 132, 28),
    "cyan": (70, 210, 220),
    "white": (240, 240, 240),
}
_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.int32)


def draw(scene: Scene) -> np.ndarray:
    """The picture, (192, 192, 3) uint8."""
    rng = Rng(scene.seed, SPLITS[scene.split], scene.index, 1)
    canvas = _background(rng)
    for thing in scene.things:
        _paint(canvas, thing, rng)
    if rng.chance(40):
        canvas += (rng.bytes(SIDE, SIDE, 1) >> 5).astype(np.int32) - 4
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _background(rng: Rng) -> np.ndarray:
    """Muted greys, (192, 192, 3) int32: noise, a gradient, a checker or stripes, with a mild tint."""
    base = rng.between(70, 130)
    tint = np.array([rng.between(-12, 12) for _ in range(3)], dtype=np.int32)
    strength = rng.between(10, 22)
    kind = rng.pick(("noise", "noise", "gradient", "checker", "bars"))
    if kind == "noise":
        level = _smooth_noise(rng, rng.pick((4, 6, 8, 12, 24))) * strength // 128
    elif kind == "gradient":
        across, down = rng.between(-4, 4), rng.between(-4, 4)
        level = (across * (_COLUMNS - SIDE // 2) + down * (_ROWS - SIDE // 2)) * strength // 400
    elif kind == "checker":
        cell = rng.between(10, 32)
        level = ((_COLUMNS // cell + _ROWS // cell) % 2) * strength - strength // 2
    else:
        across, down, period = rng.pick(((1, 0, 16), (0, 1, 16), (1, 1, 24), (1, -1, 24)))
        level = (((across * _COLUMNS + down * _ROWS) // (period // 2)) % 2) * strength - strength // 2
    if kind != "noise":
        level = level + _smooth_noise(rng, 8) * 6 // 128
    return (base + level)[..., None] + tint


def _smooth_noise(rng: Rng, cells: int) -> np.ndarray:
    """Bilinear value noise with ``cells`` cells a side, (192, 192) int32 in about -128..127."""
    grid = rng.bytes(cells + 1, cells + 1).astype(np.int32) - 128
    step = SIDE // cells
    at, rest = np.divmod(np.arange(SIDE, dtype=np.int32), step)
    rows = (grid[at] * (step - rest)[:, None] + grid[at + 1] * rest[:, None]) // step
    return (rows[:, at] * (step - rest) + rows[:, at + 1] * rest) // step


def _paint(canvas: np.ndarray, thing: Thing, rng: Rng) -> None:
    n = thing.extent
    mask = template(thing.shape, n, thing.turn).coverage[..., None]
    colour = np.array([v + rng.between(-14, 14) for v in RGB[thing.colour]], dtype=np.int32)
    ink = _pattern(thing, rng)
    paint = np.where(ink[..., None], colour * 3 // 10, colour) if ink is not None else colour
    crop = canvas[thing.top : thing.top + n, thing.left : thing.left + n]
    crop += (paint - crop) * mask // SUB**2


def _pattern(thing: Thing, rng: Rng) -> np.ndarray | None:
    """Where the dark ink of stripes or dots goes, (extent, extent) bool."""
    n = thing.extent
    x, y = _COLUMNS[:n, :n], _ROWS[:n, :n]
    step = {"small": 7, "medium": 9, "large": 12}[thing.size]
    phase = rng.below(step)
    if thing.pattern == "striped":
        across, down = rng.pick(((1, 0), (0, 1), (1, 1), (1, -1)))
        if across and down:
            step = step * 4 // 3
        return (across * x + down * y + phase) % step < step * 3 // 7
    if thing.pattern == "dotted":
        # A quincunx of discs: radius about a quarter of the spacing, in doubled coordinates to stay whole.
        step += 1
        row = (y + phase) // step
        u = 2 * ((x + phase + (row % 2) * (step // 2)) % step) - (step - 1)
        v = 2 * ((y + phase) % step) - (step - 1)
        return 16 * (u * u + v * v) <= 5 * step * step
    return None
