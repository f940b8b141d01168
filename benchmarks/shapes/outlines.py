"""The outlines of the twelve shapes and their anti-aliased masks.

Every shape is one or two closed polygons with vertices rounded to 1/64 pixel, filled by the even-odd rule in whole
numbers on a grid three times finer than the picture: the same mask on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, cos, pi, radians, sin, sqrt

import numpy as np

UNIT = 64  # vertex units a pixel
SUB = 3  # sub-pixels a pixel and axis: coverage counts 0..9

Polygon = list[tuple[float, float]]


@dataclass(frozen=True)
class Template:
    """A shape drawn in an ``extent`` x ``extent`` crop."""

    coverage: np.ndarray  # (extent, extent) int, sub-pixels inside, 0..9
    solid: np.ndarray  # (extent, extent) bool: at least half inside
    box: tuple[float, float, float, float]  # xyxy pixels of the crop
    area: float  # pixels
    pixels: int  # of ``solid``


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, steps: int) -> Polygon:
    turns = [start + (stop - start) * i / steps for i in range(steps)]
    return [(x + rx * cos(t), y + ry * sin(t)) for t in turns]


def _circle(radius: float, ry: float | None = None) -> Polygon:
    return _arc(0, 0, radius, radius if ry is None else ry, 0, 2 * pi, 72)


def _star() -> Polygon:
    return [
        ((1 if k % 2 == 0 else 0.42) * sin(k * pi / 5), -(1 if k % 2 == 0 else 0.42) * cos(k * pi / 5))
        for k in range(10)
    ]


def _heart() -> Polygon:
    turns = [2 * pi * k / 72 for k in range(72)]
    return [(16 * sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t))) for t in turns]


def _crescent() -> Polygon:
    # A disc of radius 1 less a disc of radius 0.85 whose centre lies 0.55 to the right; they meet at these angles.
    offset, inner = 0.55, 0.85
    x = (1 - inner**2 + offset**2) / (2 * offset)
    outer_angle = np.arctan2(sqrt(1 - x * x), x)
    inner_angle = np.arctan2(sqrt(1 - x * x), x - offset)
    outside = _arc(0, 0, 1, 1, float(outer_angle), 2 * pi - float(outer_angle), 56)
    inside = _arc(offset, 0, inner, inner, 2 * pi - float(inner_angle), float(inner_angle), 56)
    return outside + inside


_CROSS = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
_ARROW = [(-10, -4), (1, -4), (1, -9), (10, 0), (1, 9), (1, 4), (-10, 4)]

OUTLINES: dict[str, list[Polygon]] = {
    "circle": [_circle(1)],
    "square": [[(-1, -1), (1, -1), (1, 1), (-1, 1)]],
    "triangle": [[(0, -1), (1.1, 0.9), (-1.1, 0.9)]],
    "star": [_star()],
    "cross": [[(float(x), float(y)) for x, y in _CROSS]],
    "heart": [_heart()],
    "diamond": [[(0, -1), (0.66, 0), (0, 1), (-0.66, 0)]],
    "crescent": [_crescent()],
    "ring": [_circle(1), _circle(0.52)],
    "arrow": [[(float(x), float(y)) for x, y in _ARROW]],
    "ellipse": [_circle(1, 0.56)],
    "hourglass": [[(-0.85, -1), (0.85, -1), (0.16, 0), (0.85, 1), (-0.85, 1), (-0.16, 0)]],
}


@cache
def template(shape: str, extent: int, turn: int) -> Template:
    """The shape turned by ``turn`` degrees, its longer side ``extent`` pixels, in the middle of its crop."""
    c, s = cos(radians(turn)), sin(radians(turn))
    turned = [[(x * c - y * s, x * s + y * c) for x, y in polygon] for polygon in OUTLINES[shape]]
    xs = [x for polygon in turned for x, _ in polygon]
    ys = [y for polygon in turned for _, y in polygon]
    scale = extent * UNIT / max(max(xs) - min(xs), max(ys) - min(ys))
    x0, y0 = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    half = extent * UNIT / 2
    whole = [[(round((x - x0) * scale + half), round((y - y0) * scale + half)) for x, y in p] for p in turned]
    fine = _fill(whole, extent)
    coverage = fine.reshape(extent, SUB, extent, SUB).sum(axis=(1, 3), dtype=np.int32)
    coverage.flags.writeable = False
    solid = coverage >= 5
    xs = [x for polygon in whole for x, _ in polygon]
    ys = [y for polygon in whole for _, y in polygon]
    box = (min(xs) / UNIT, min(ys) / UNIT, max(xs) / UNIT, max(ys) / UNIT)
    return Template(coverage, solid, box, round(int(coverage.sum()) / SUB**2, 2), int(solid.sum()))


def _fill(polygons: list[list[tuple[int, int]]], extent: int) -> np.ndarray:
    """Even-odd fill, (SUB*extent, SUB*extent) bool; sub-pixel k has its centre at (2k+1)*UNIT/(2*SUB) units."""
    n = extent * SUB
    toggles = np.zeros((n, n + 1), dtype=np.uint8)
    for polygon in polygons:
        for (xa, ya), (xb, yb) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            if ya == yb:
                continue
            if ya > yb:
                xa, ya, xb, yb = xb, yb, xa, ya
            # Rows whose centre lies in [ya, yb), in units of 1/(2*SUB) so that all stays whole.
            first = max(0, ceil((2 * SUB * ya / UNIT - 1) / 2))
            for row in range(first, n):
                y = (2 * row + 1) * UNIT
                if y >= 2 * SUB * yb:
                    break
                # x of the crossing times 2*SUB*(yb-ya); first column whose centre lies right of it.
                crossing = 2 * SUB * xa * (yb - ya) + (xb - xa) * (y - 2 * SUB * ya)
                column = -((UNIT * (yb - ya) - crossing) // (2 * UNIT * (yb - ya)))
                toggles[row, min(max(column, 0), n)] ^= 1
    return np.bitwise_xor.accumulate(toggles, axis=1)[:, :n].astype(bool)
