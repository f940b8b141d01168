"""The measures of grounded categories: what was found of each category asked about, and what else was answered.

A record is one question, a category in an image, as a mapping: ``image`` (id), ``width`` and ``height`` (pixels),
``category``, ``frequency`` (r/c/f or None), ``exhaustive`` (False where not every instance is marked), ``boxes``
(answered, normalised xyxy), ``confidences`` (one a box, or None), ``gt_boxes`` (normalised xyxy), ``gt_areas`` (pixels,
or None for the boxes' own). Metrics are percentages, per-question scores shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groma_eval.metrics.as_many import Query, as_many_metrics
from groma_eval.metrics.boxes import AR_THRESHOLDS, as_boxes, as_many_recall, match_boxes, rank_order
from groma_eval.metrics.coco_eval import coco_tables
from groma_eval.metrics.lvis_eval import frequency_groups, lvis_tables

Record = Mapping[str, Any]

_AS_MANY_NAMES = {"AR": "ar", "AR50": "ar@0.5", "AR75": "ar@0.75", "ARs": "ar_s", "ARm": "ar_m", "ARl": "ar_l"}
_AS_MANY_NAMES |= {"AR_micro": "ar_micro", "ARr": "ar/r", "ARc": "ar/c", "ARf": "ar/f"}


def grounding_scores(record: Record, metric: str = "as-many") -> dict[str, float]:
    """Scores of one question.

    ``ar`` and ``ar@0.5`` are the recall of its true boxes, averaged over IoU .50:.05:.95 and at 0.5: of the k surest
    boxes under ``as-many``, of all of them under ``lvis``. ``tp``, ``n_pred`` and ``n_gt`` count one-to-one matches at
    IoU 0.5 among all boxes.
    """
    boxes, truth = as_boxes(record["boxes"]), as_boxes(record["gt_boxes"])
    ranked = boxes[rank_order(len(boxes), record.get("confidences"))]
    matched = len(match_boxes(ranked, truth, 0.5))
    scores: dict[str, float] = {}
    if len(truth) and metric == "lvis":
        scores["ar"] = float(np.mean([len(match_boxes(ranked, truth, iou)) for iou in AR_THRESHOLDS]) / len(truth))
        scores["ar@0.5"] = matched / len(truth)
    elif len(truth):
        hits = _hits(record)
        scores = {"ar": float(hits.mean()), "ar@0.5": float(hits[0].mean())}
    return scores | {"tp": matched, "n_pred": len(boxes), "n_gt": len(truth)}


def grounding_metrics(records: Sequence[Record], metric: str = "as-many") -> dict[str, float]:
    """Recall by ``metric`` (:func:`as_many_percent`, :func:`lvis_percent`), and what all answered boxes are worth.

    ``recall@0.5``, ``precision@0.5`` and ``f1@0.5`` match all answered boxes one to one and pool the questions. A
    figure without any ground truth to it is left out.
    """
    metrics = lvis_percent(records) if metric == "lvis" else as_many_percent(records)
    counts = [grounding_scores(record, metric) for record in records]
    matched, emitted, wanted = (sum(c[key] for c in counts) for key in ("tp", "n_pred", "n_gt"))
    if wanted:
        metrics["recall@0.5"] = 100.0 * matched / wanted
        metrics["precision@0.5"] = 100.0 * matched / emitted if emitted else 0.0
        metrics["f1@0.5"] = 200.0 * matched / (emitted + wanted)
    return metrics


def as_many_percent(records: Sequence[Record]) -> dict[str, float]:
    """AS-MANY recall (:mod:`groma_eval.metrics.as_many`).

    ``ar``, ``ar@0.5``, ``ar@0.75``, ``ar_s``/``ar_m``/``ar_l`` and ``ar/r``, ``ar/c``, ``ar/f`` are means over
    categories; ``ar_micro`` is over true boxes.
    """
    found = as_many_metrics(Query(r["category"], r.get("frequency"), _hits(r), _areas(r)) for r in records)
    return _percent({name: found[key] for key, name in _AS_MANY_NAMES.items()})


def lvis_percent(records: Sequence[Record]) -> dict[str, float]:
    """Recall as LVIS's evaluation gives it, a mean over categories, of up to 300 boxes an image.

    Without confidences every box has the score 1, as the released script of Groma hands them in: the first boxes of
    an image count. Names are those of :func:`as_many_percent` but ``ar_micro``, which LVIS does not know; the recall
    by frequency is the mean over the categories of that frequency.
    """
    dataset, detections, frequencies = _as_detection(records)
    tables = lvis_tables(dataset, detections)
    metrics = {"ar": tables.ar(), "ar@0.5": tables.ar(0.5), "ar@0.75": tables.ar(0.75)}
    metrics |= {f"ar_{area}": tables.ar(area=area) for area in "sml"}
    groups = frequency_groups(tables, frequencies)
    metrics |= {f"ar/{group}": tables.ar(among=among) for group, among in groups.items() if among}
    return _percent(metrics)


def average_precision(records: Sequence[Record]) -> dict[str, float]:
    """``ap`` and ``ap50`` of the answered boxes by their confidences, means over categories; {} without confidences.

    Where a record has a frequency, or is not exhaustive, LVIS's rules are used (unmatched boxes of a category that is
    not exhaustively marked are no error; 300 boxes an image), else COCO's (100 boxes an image and category). In both
    only what was asked counts: a category is asked about in images that have it, never in those where it is verified
    absent, so the boxes a detector would lose precision with there are not seen, and the figure is not the AP of LVIS.
    """
    answered = [record for record in records if len(record["boxes"])]
    if not answered or any(record.get("confidences") is None for record in answered):
        return {}
    dataset, detections, _ = _as_detection(records)
    federated = any(r.get("frequency") is not None or not r.get("exhaustive", True) for r in records)
    tables = lvis_tables(dataset, detections) if federated else coco_tables(dataset, detections)
    return _percent({"ap": tables.ap(), "ap50": tables.ap(0.5)})


def _as_detection(records: Sequence[Record]) -> tuple[dict[str, Any], list[dict[str, Any]], dict[int, str | None]]:
    """Records as an LVIS data set with its detections (pixels), and the frequencies by category number."""
    images: dict[Any, dict[str, Any]] = {}
    categories: dict[Any, dict[str, Any]] = {}
    annotations, detections = [], []
    for record in records:
        image = images.setdefault(
            record["image"], {"id": len(images) + 1, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        )
        category = categories.setdefault(
            record["category"], {"id": len(categories) + 1, "frequency": record.get("frequency")}
        )
        if not record.get("exhaustive", True):
            image["not_exhaustive_category_ids"].append(category["id"])
        place = {"image_id": image["id"], "category_id": category["id"]}
        for box, area in zip(_pixels(record, "gt_boxes"), _areas(record)):
            annotations.append({**place, "bbox": box, "area": float(area)})
        boxes = _pixels(record, "boxes")
        scores = record.get("confidences") or [1.0] * len(boxes)
        detections += [{**place, "bbox": box, "score": float(score)} for box, score in zip(boxes, scores, strict=True)]
    dataset = {"images": list(images.values()), "annotations": annotations, "categories": list(categories.values())}
    return dataset, detections, {c["id"]: c["frequency"] for c in categories.values()}


def _pixels(record: Record, field: str) -> list[list[float]]:
    """Pixel xywh of a record's normalised xyxy boxes; those without area or not finite as empty ones."""
    boxes = as_boxes(record[field]) * ([record["width"], record["height"]] * 2)
    boxes = np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, 0.0)
    # Two negative sides would pass for a box of positive area.
    return np.concatenate([boxes[:, :2], np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)], axis=1).tolist()


def _hits(record: Record) -> np.ndarray:
    return as_many_recall(record["boxes"], record.get("confidences"), record["gt_boxes"], AR_THRESHOLDS)


def _areas(record: Record) -> np.ndarray:
    """(n,) pixels: the annotations' areas, the boxes' own where they have none."""
    areas = record.get("gt_areas")
    if areas is None:
        boxes = as_boxes(record["gt_boxes"])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * record["width"] * record["height"]
    return np.asarray(areas, dtype=np.float64)


def _percent(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: 100.0 * value for name, value in metrics.items() if value is not None}
