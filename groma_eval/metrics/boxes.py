"""Box metrics: IoU, scores of one referred box, one-to-one matching, AS-MANY recall.

Boxes are float ``xyxy``; any one frame will do (the harness uses [0, 1] of the original image), as every measure here
is a ratio. A box with a non-finite coordinate, or without area, overlaps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from groma_eval.core import HarnessError

REC_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
AR_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # .50:.05:.95, as in COCO

# Normalising pixel boxes costs the last bits, so that an IoU of exactly 1/2 may come out a hair below it. Within this
# distance an IoU counts as equal to the threshold: reached under ">=", not exceeded under ">".
TIE = 1e-9

_NO_BOX = (float("nan"),) * 4

Boxes = Sequence[Sequence[float]] | np.ndarray


def as_boxes(boxes: Boxes) -> np.ndarray:
    """``boxes`` as a float64 (n, 4) array, (0, 4) for none; raises HarnessError for another shape."""
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):  # rows of different lengths, or of something other than numbers
        raise HarnessError("boxes that are not four numbers each: give a list of (x1, y1, x2, y2)") from None
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise HarnessError(f"boxes of shape {array.shape}: give a list of (x1, y1, x2, y2)")
    return array


def iou_matrix(a: Boxes, b: Boxes) -> np.ndarray:
    """IoU of every box of ``a`` (n, 4) with every box of ``b`` (m, 4), xyxy -> (n, m) float64 in [0, 1]."""
    return _iou(as_boxes(a)[:, None], as_boxes(b)[None, :])


def paired_iou(a: Boxes, b: Boxes) -> np.ndarray:
    """IoU of each box of ``a`` (n, 4) with the box of ``b`` (n, 4) in the same row, xyxy -> (n,) float64 in [0, 1]."""
    a, b = as_boxes(a), as_boxes(b)
    if len(a) != len(b):
        raise HarnessError(f"{len(a)} boxes beside {len(b)}: give pairs")
    return _iou(a, b)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Unusable boxes become empty ones, so that neither NaN nor a negative area can reach the ratio.
    a = np.where(np.isfinite(a).all(axis=-1, keepdims=True), a, 0.0)
    b = np.where(np.isfinite(b).all(axis=-1, keepdims=True), b, 0.0)
    area_a = np.clip(a[..., 2:] - a[..., :2], 0.0, None).prod(axis=-1)
    area_b = np.clip(b[..., 2:] - b[..., :2], 0.0, None).prod(axis=-1)
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.clip(overlap, 0.0, None).prod(axis=-1)
    # An inverted box may still "overlap" by the formula above where only one box is inverted; without area, no overlap.
    intersection = np.where((area_a > 0) & (area_b > 0), intersection, 0.0)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0).clip(0.0, 1.0)


def iou_xyxy(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two xyxy boxes."""
    return float(iou_matrix([a], [b])[0, 0])


def rank_order(count: int, confidences: Sequence[float] | None) -> np.ndarray:
    """Indices (count,) by falling confidence, emission order where equal or where the model gives none."""
    if confidences is None:
        return np.arange(count)
    if len(confidences) != count:
        raise HarnessError(f"{count} boxes with {len(confidences)} confidences: give one confidence a box")
    # NaN sorts last: a confidence that is no number ranks below all that are.
    return np.argsort(-np.asarray(confidences, dtype=np.float64), kind="stable")


def picked_box(
    boxes: Boxes, confidences: Sequence[float] | None, pick: Literal["first", "most_confident"] = "first"
) -> Sequence[float]:
    """The one box of an answer that REC judges: the first or the surest; four NaN where there is none.

    Scoring the best of many would reward emitting many.
    """
    if not len(boxes):
        return _NO_BOX
    return boxes[0 if pick == "first" else rank_order(len(boxes), confidences)[0]]


def rec_table(picked: Boxes, gt: Boxes, rule: Literal[">=", ">"] = ">=") -> dict[str, np.ndarray]:
    """Scores of n referring expressions, one picked box (n, 4) and one true box (n, 4) each; every column is (n,).

    ``acc@t`` holds the IoU against the threshold by ``rule``, ``acc@t_strict`` always by ``>``, ``acc@t_loose`` (beside
    the rule ``>``) by ``>=``; each is 0 or 1. ``iou`` is in [0, 1]. ``centre_acc``: the picked box's centre lies within
    (or on the edge of) the true box. A row of NaN, no box, scores 0 throughout.
    """
    picked, gt = as_boxes(picked), as_boxes(gt)
    iou = paired_iou(picked, gt)
    loose = {f"acc@{t:g}": iou >= t - TIE for t in REC_THRESHOLDS}
    strict = {f"acc@{t:g}": iou > t + TIE for t in REC_THRESHOLDS}
    centre = (picked[:, :2] + picked[:, 2:]) / 2
    columns = dict(loose if rule == ">=" else strict)
    columns |= {f"{name}_strict": hits for name, hits in strict.items()}
    if rule == ">":
        columns |= {f"{name}_loose": hits for name, hits in loose.items()}
    columns |= {"iou": iou, "centre_acc": ((centre >= gt[:, :2]) & (centre <= gt[:, 2:])).all(axis=1)}
    return {name: column.astype(np.float64) for name, column in columns.items()}


def rec_scores(
    boxes: Boxes,
    confidences: Sequence[float] | None,
    gt: Sequence[float],
    rule: Literal[">=", ">"] = ">=",
    pick: Literal["first", "most_confident"] = "first",
) -> dict[str, float]:
    """Scores of one referring expression: :func:`rec_table` for the box that :func:`picked_box` takes of an answer."""
    if rule not in (">=", ">") or pick not in ("first", "most_confident"):
        raise HarnessError(
            f"REC rule {rule!r}, pick {pick!r}: rule is '>=' or '>', pick is 'first' or 'most_confident'"
        )
    table = rec_table([picked_box(as_boxes(boxes), confidences, pick)], [gt], rule)
    return {name: float(column[0]) for name, column in table.items()}


def match_boxes(pred: Boxes, gt: Boxes, iou: float = 0.5) -> list[tuple[int, int]]:
    """Greedy one-to-one matching: each prediction, in the order given, takes the free true box it overlaps best.

    Returns (prediction index, gt index) pairs of IoU >= ``iou``. Order ``pred`` by :func:`rank_order` first where
    confidences should decide.
    """
    found = _greedy(iou_matrix(pred, gt), np.array([iou]))[0]
    return sorted((int(p), g) for g, p in enumerate(found) if p >= 0)


def as_many_recall(
    boxes: Boxes, confidences: Sequence[float] | None, gt: Boxes, thresholds: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Which true boxes the AS-MANY protocol finds: (len(thresholds), n_gt) bool (Groma, appendix B).

    Of the emitted boxes, the first k by confidence (then emission) count, k being the number of true boxes; they are
    matched one to one at each threshold as COCO's evaluation matches: in rank order, each to the best box still free.
    """
    boxes, gt = as_boxes(boxes), as_boxes(gt)
    top = boxes[rank_order(len(boxes), confidences)[: len(gt)]]
    return _greedy(iou_matrix(top, gt), np.asarray(thresholds, dtype=np.float64)) >= 0


def _greedy(ious: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Greedy matching of (n, m) ``ious`` at each threshold -> (T, m) index of the matched prediction, -1 for none."""
    count, targets = ious.shape
    owner = np.full((len(thresholds), targets), -1)
    if not targets:
        return owner
    rows = np.arange(len(thresholds))
    for index in range(count):
        free = np.where(owner < 0, ious[index], -1.0)
        best = targets - 1 - free[:, ::-1].argmax(axis=1)  # COCO's tie: the later of two equally good boxes
        taken = free[rows, best] >= thresholds - TIE
        owner[rows[taken], best[taken]] = index
    return owner
