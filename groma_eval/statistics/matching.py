"""COCO's and LVIS's matching of detections to true boxes, kept per image so that any draw of images can be scored.

The rules are those of the COCO evaluation (Lin et al., 2014): detections in falling order of score each take the free
true box they overlap best, one that counts before one that does not. Boxes are pixel ``xywh``. What a tool would print
for a draw in which an image appears k times is what these matches give with the image's weight k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groma_eval.metrics.boxes import AR_THRESHOLDS

AREAS = ("all", "s", "m", "l")
_BOUNDS = np.array([(0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)])  # pixels, both ends counted


@dataclass(frozen=True)
class Cell:
    """Detections and true boxes of one category in one image, by number. ``exhaustive``: whether all are marked.

    ``boxes`` (d, 4), ``scores`` (d,), ``gt_boxes`` (g, 4), ``gt_areas`` (g,), ``gt_crowd`` (g,) bool.
    """

    image: int
    category: int
    boxes: np.ndarray
    scores: np.ndarray
    gt_boxes: np.ndarray
    gt_areas: np.ndarray
    gt_crowd: np.ndarray
    exhaustive: bool = True


@dataclass(frozen=True)
class Matches:
    """All cells' matches. Per detection, best first within its cell (D entries, cells in their order): ``image``,
    ``category``, ``score``, ``rank`` (D,), ``right`` and ``ignored`` (A, T, D) bool. Per cell: ``cell_image``,
    ``cell_category`` (C,) and ``wanted`` (A, C), the true boxes that count. ``images`` is the number of images.
    """

    images: int
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    cell_image: np.ndarray
    cell_category: np.ndarray
    wanted: np.ndarray


def match_cells(cells: Sequence[Cell], images: int, max_dets: int) -> Matches:
    """Match every cell with its ``max_dets`` best-scored detections, at IoU .50:.05:.95 and by COCO's areas."""
    found = [_match(cell, max_dets) for cell in cells]
    sizes = [right.shape[2] for _, right, _, _ in found]
    shape = (len(AREAS), len(AR_THRESHOLDS), 0)
    none = np.zeros(shape, dtype=bool)
    return Matches(
        images,
        np.repeat([cell.image for cell in cells], sizes).astype(np.int64),
        np.repeat([cell.category for cell in cells], sizes).astype(np.int64),
        np.concatenate([np.zeros(0), *(scores for scores, _, _, _ in found)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *map(np.arange, sizes)]),
        np.concatenate([none, *(right for _, right, _, _ in found)], axis=2),
        np.concatenate([none, *(ignored for _, _, ignored, _ in found)], axis=2),
        np.array([cell.image for cell in cells], dtype=np.int64),
        np.array([cell.category for cell in cells], dtype=np.int64),
        np.array([wanted for _, _, _, wanted in found], dtype=np.float64).reshape(len(cells), len(AREAS)).T,
    )


def _match(cell: Cell, max_dets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores (d,), right and ignored (A, T, d), and the true boxes that count by area (A,)."""
    order = np.argsort(-cell.scores, kind="stable")[:max_dets]
    boxes = cell.boxes[order]
    outside = (cell.gt_areas < _BOUNDS[:, :1]) | (cell.gt_areas > _BOUNDS[:, 1:])
    aside = outside | cell.gt_crowd  # (A, g): true boxes that neither count nor cost
    own = boxes[:, 2] * boxes[:, 3]
    # A detection that finds nothing is no error where it has not the size, or not all was marked.
    excused = (own < _BOUNDS[:, :1]) | (own > _BOUNDS[:, 1:]) | (not cell.exhaustive)  # (A, d)
    right = np.zeros((len(AREAS), len(AR_THRESHOLDS), len(boxes)), dtype=bool)
    ignored = np.repeat(excused[:, None], len(AR_THRESHOLDS), axis=1)
    ious = _overlaps(boxes, cell.gt_boxes, cell.gt_crowd)
    if ious.size:
        _take(ious, aside, cell.gt_crowd, right, ignored)
    return cell.scores[order], right, ignored, (~aside).sum(axis=1)


def _take(ious: np.ndarray, aside: np.ndarray, crowd: np.ndarray, right: np.ndarray, ignored: np.ndarray) -> None:
    """Fill ``right`` and ``ignored`` (A, T, d) from ``ious`` (d, g): each detection takes a true box or none."""
    least = np.minimum(AR_THRESHOLDS, 1 - 1e-10)
    free = np.ones((len(AREAS), len(least), ious.shape[1]), dtype=bool)
    last = ious.shape[1] - 1
    for d in np.flatnonzero(ious.max(axis=1) >= least[0]):
        fits = (free | crowd) & (ious[d] >= least[:, None])  # (A, T, g)
        counting = fits & ~aside[:, None]
        chosen = np.where(counting.any(axis=2, keepdims=True), counting, fits)
        taken = chosen.any(axis=2)
        # Of equally good boxes the later one, as in COCO's loop.
        best = last - np.where(chosen, ious[d], -1.0)[..., ::-1].argmax(axis=2)
        area, threshold = np.nonzero(taken)
        box = best[area, threshold]
        free[area, threshold, box] = False
        set_aside = aside[area, box]
        right[area, threshold, d] = ~set_aside
        ignored[area, threshold, d] = set_aside


def _overlaps(boxes: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (d, g) of xywh boxes; with a crowd region the share of the detection that lies in it."""
    a, b = boxes[:, None], truth[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)
    own, theirs = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
    union = np.where(crowd, own, own + theirs - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
