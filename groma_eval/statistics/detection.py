"""Stored statistics of the grounding and the proposals task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groma_eval.metrics.as_many import LARGE, SMALL
from groma_eval.metrics.boxes import AR_THRESHOLDS, as_boxes, as_many_recall
from groma_eval.metrics.lvis_eval import FREQUENCIES, MAX_DETS, limit_per_image
from groma_eval.statistics.matching import Cell, Matches, match_cells
from groma_eval.statistics.ranked import average_precision_of, recall_of
from groma_eval.statistics.resample import Statistic
from groma_eval.statistics.sums import OfSums, mean_of_shares, share

_COCO_LIMIT = 100
_HALF, _THREE_QUARTERS = (int(np.abs(AR_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75))

Record = Mapping[str, Any]  # as in groma_eval.metrics.grounding


def as_many_statistics(records: Sequence[Record], numbers: np.ndarray, images: int) -> dict[str, Statistic]:
    """The AS-MANY recalls (:func:`groma_eval.metrics.grounding.as_many_percent`); ``numbers``: each record's image."""
    hits = [as_many_recall(r["boxes"], r["confidences"], r["gt_boxes"], AR_THRESHOLDS) for r in records]
    sizes = [found.shape[1] for found in hits]
    image = np.repeat(numbers, sizes)
    category = np.repeat(_category_numbers(records), sizes)
    frequency = np.repeat([str(r["frequency"]) for r in records], sizes)
    area = np.concatenate([_areas(r) for r in records])
    found = np.concatenate(hits, axis=1)  # (T, true boxes)
    mean = found.mean(axis=0)
    columns = {"ar": mean, "ar@0.5": found[_HALF], "ar@0.75": found[_THREE_QUARTERS]}
    everything = np.ones(len(image), dtype=bool)
    wanted = {name: (column, everything) for name, column in columns.items()}
    size = (area >= SMALL).astype(int) + (area >= LARGE)
    wanted |= {f"ar_{name}": (mean, size == number) for number, name in enumerate("sml")}
    wanted |= {f"ar/{group}": (mean, frequency == group) for group in FREQUENCIES}
    made: dict[str, Statistic] = {}
    for name, (column, kept) in wanted.items():
        if kept.any():
            made[name] = mean_of_shares(images, image[kept], category[kept], column[kept], np.ones(kept.sum()))
    if len(image):
        sums = [np.bincount(image, mean, images), np.bincount(image, minlength=images)]
        made["ar_micro"] = OfSums(np.stack(sums, axis=1).astype(np.float64), share)
    return made


def lvis_statistics(records: Sequence[Record], numbers: np.ndarray, images: int) -> dict[str, Statistic]:
    """LVIS's recalls of all answered boxes (:func:`groma_eval.metrics.grounding.lvis_percent`)."""
    matches = _lvis_matches(records, numbers, images)
    made = {"ar": recall_of(matches), "ar@0.5": recall_of(matches, iou=0.5), "ar@0.75": recall_of(matches, iou=0.75)}
    made |= {f"ar_{area}": recall_of(matches, area) for area in "sml"}
    frequency = {int(c): r["frequency"] for c, r in zip(_category_numbers(records), records)}
    for group in FREQUENCIES:
        among = [number for number, of in frequency.items() if of == group]
        made[f"ar/{group}"] = recall_of(matches, among=among)
    return {name: statistic for name, statistic in made.items() if statistic.whole.sum()}


def precision_statistics(records: Sequence[Record], numbers: np.ndarray, images: int) -> dict[str, Statistic]:
    """``ap`` and ``ap50`` by the rules of :func:`groma_eval.metrics.grounding.average_precision`."""
    answered = [record for record in records if len(record["boxes"])]
    if not answered or any(record["confidences"] is None for record in answered):
        return {}
    if any(r["frequency"] is not None or not r["exhaustive"] for r in records):
        matches = _lvis_matches(records, numbers, images)
    else:
        matches = match_cells(_cells(records, numbers), images, _COCO_LIMIT)
    if not matches.wanted[0].any():
        return {}
    return {"ap": average_precision_of(matches), "ap50": average_precision_of(matches, 0.5)}


def proposal_statistics(rows: Sequence[Mapping[str, Any]], numbers: np.ndarray, images: int) -> dict[str, Statistic]:
    """AP and AR of proposals (:func:`groma_eval.metrics.detection.proposal_metrics`), whose rows these are."""
    cells = []
    for number, row in zip(numbers, rows):
        truth = _xywh(row, "gt_boxes")
        boxes = _xywh(row, "boxes")
        scores = row["scores"]
        scores = -np.arange(len(boxes), dtype=np.float64) if scores is None else np.asarray(scores, dtype=np.float64)
        crowd = np.zeros(len(truth), dtype=bool) if row["gt_iscrowd"] is None else np.array(row["gt_iscrowd"], bool)
        areas = truth[:, 2] * truth[:, 3] if row["gt_areas"] is None else np.asarray(row["gt_areas"], np.float64)
        cells.append(Cell(int(number), 0, boxes, scores, truth, areas, crowd.reshape(len(truth))))
    matches = match_cells(cells, images, MAX_DETS)
    made: dict[str, Statistic] = {
        "ap": average_precision_of(matches, max_dets=100),
        "ap50": average_precision_of(matches, 0.5, 100),
        "ap75": average_precision_of(matches, 0.75, 100),
    }
    recalls = {f"ar@{limit}": recall_of(matches, max_dets=limit) for limit in (1, 10, 100, 300)}
    recalls |= {f"ar_{area}": recall_of(matches, area) for area in "sml"}
    recalls["ar50"] = recall_of(matches, iou=0.5)
    made = made if matches.wanted[0].any() else {}
    return made | {name: recall for name, recall in recalls.items() if recall.whole.sum()}


def _lvis_matches(records: Sequence[Record], numbers: np.ndarray, images: int) -> Matches:
    cells = _cells(records, numbers)
    # An image's 300 best boxes, of all categories together.
    rows = [
        {"image_id": cell.image, "score": score, "cell": c, "box": b}
        for c, cell in enumerate(cells)
        for b, score in enumerate(cell.scores.tolist())
    ]
    kept: list[list[int]] = [[] for _ in cells]
    for row in limit_per_image(rows):
        kept[row["cell"]].append(row["box"])
    limited = []
    for cell, boxes in zip(cells, kept):
        # lvis-api passes over true boxes and detections without area.
        order = [b for b in sorted(boxes) if cell.boxes[b, 2] * cell.boxes[b, 3] > 0]
        true = cell.gt_areas > 0
        limited.append(
            Cell(
                cell.image, cell.category, cell.boxes[order], cell.scores[order], cell.gt_boxes[true],
                cell.gt_areas[true], cell.gt_crowd[true], cell.exhaustive,
            )
        )  # fmt: skip
    return match_cells(limited, images, MAX_DETS)


def _cells(records: Sequence[Record], numbers: np.ndarray) -> list[Cell]:
    cells = []
    for number, category, record in zip(numbers, _category_numbers(records), records):
        boxes, truth = _xywh(record, "boxes"), _xywh(record, "gt_boxes")
        scores = np.ones(len(boxes)) if record["confidences"] is None else np.array(record["confidences"], np.float64)
        no_crowd = np.zeros(len(truth), dtype=bool)
        cells.append(
            Cell(int(number), int(category), boxes, scores, truth, _areas(record), no_crowd, record["exhaustive"])
        )
    return cells


def _category_numbers(records: Sequence[Record]) -> np.ndarray:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(record["category"], len(known)) for record in records])


def _xywh(record: Record, field: str) -> np.ndarray:
    """Pixel boxes (n, 4); those that are not finite, or inverted, as empty ones."""
    boxes = as_boxes(record[field]) * ([record["width"], record["height"]] * 2)
    boxes = np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, 0.0)
    return np.concatenate([boxes[:, :2], np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)], axis=1)


def _areas(record: Record) -> np.ndarray:
    """(n,) pixels: the annotations' areas, the boxes' own where they have none."""
    if record.get("gt_areas") is not None:
        return np.asarray(record["gt_areas"], dtype=np.float64)
    boxes = as_boxes(record["gt_boxes"])
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * record["width"] * record["height"]
