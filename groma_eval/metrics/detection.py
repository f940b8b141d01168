"""Detection metrics: COCO AP/AR of class-agnostic proposals, and the recall and precision of grounded categories.

Scores are percentages. Areas are in pixels of the original image; small, medium and large are COCO's: below 32^2, below
96^2, and above.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.boxes import AR_THRESHOLDS, as_boxes, as_many_recall, match_boxes, rank_order

SMALL, LARGE = 32.0**2, 96.0**2
_AREAS = {"all": 0, "s": 1, "m": 2, "l": 3}


@dataclass(frozen=True)
class CocoScores:
    """What COCOeval accumulates: precision (T, R, K, A, M) and recall (T, K, A, M), -1 where there is no ground truth.

    T = IoU .50:.05:.95, R = 101 recall points, K = categories, A = all/s/m/l, M = ``max_dets``.
    """

    precision: np.ndarray
    recall: np.ndarray
    max_dets: tuple[int, ...]

    def ap(self, iou: float | None = None, area: str = "all", max_dets: int = 100) -> float | None:
        """Average precision in [0, 1] (at one IoU or over all), None where no ground truth falls in ``area``."""
        return _mean(self._at(self.precision, iou, area, max_dets))

    def ar(self, iou: float | None = None, area: str = "all", max_dets: int = 100) -> float | None:
        """Recall in [0, 1] (at one IoU or averaged over all), None where no ground truth falls in ``area``."""
        return _mean(self._at(self.recall, iou, area, max_dets))

    def _at(self, table: np.ndarray, iou: float | None, area: str, max_dets: int) -> np.ndarray:
        rows = slice(None) if iou is None else [int(np.abs(AR_THRESHOLDS - iou).argmin())]
        return table[rows][..., _AREAS[area], self.max_dets.index(max_dets)]


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None


def coco_scores(
    dataset: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    max_dets: Sequence[int] = (1, 10, 100),
    by_category: bool = True,
) -> CocoScores:
    """Run pycocotools' box evaluation, silently, on COCO dictionaries (``bbox`` xywh in pixels).

    ``dataset`` has ``images``, ``annotations`` (with ``area``, ``iscrowd``, non-zero ``id``) and ``categories``;
    ``detections`` have ``image_id``, ``category_id``, ``bbox``, ``score``; none at all is allowed. Without
    ``by_category`` every box is of one class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [
        {**d, "id": number, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0}
        for number, d in enumerate(detections, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, result = COCO(), COCO()
        # COCOeval marks annotations in place: give it copies.
        truth.dataset = {**dataset, "annotations": [dict(a) for a in dataset["annotations"]]}
        result.dataset = {**dataset, "annotations": found}
        truth.createIndex()
        result.createIndex()
        evaluation = COCOeval(truth, result, "bbox")
        evaluation.params.maxDets = sorted(max_dets)
        evaluation.params.useCats = int(by_category)
        evaluation.evaluate()
        evaluation.accumulate()
    return CocoScores(evaluation.eval["precision"], evaluation.eval["recall"], tuple(sorted(max_dets)))


def proposal_metrics(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Class-agnostic COCO AP and AR of region proposals, in percent.

    One mapping an image: ``width``, ``height`` (pixels), ``boxes`` (proposals, normalised xyxy), ``scores`` (one a
    proposal, or None for rank order), ``gt_boxes`` (normalised xyxy), and optionally ``gt_areas`` (pixels; default the
    boxes' own) and ``gt_iscrowd``.

    ``ap``/``ap50``/``ap75`` use COCO's 100 proposals an image; ``ar@K`` the best K; ``ar_s``/``ar_m``/``ar_l`` and
    ``ar50`` (recall at IoU 0.5) 300. A figure without any ground truth to it (no small object, say) is left out.
    """
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        scale = np.array([image["width"], image["height"]] * 2, dtype=np.float64)
        truth = as_boxes(image["gt_boxes"]) * scale
        own_areas = np.prod(np.clip(truth[:, 2:] - truth[:, :2], 0, None), axis=1)
        areas = image.get("gt_areas")
        crowds = image.get("gt_iscrowd")
        for row, box in enumerate(truth):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": _xywh(box),
                    "area": float(own_areas[row] if areas is None else areas[row]),
                    "iscrowd": int(crowds[row]) if crowds is not None else 0,
                }
            )
        boxes = as_boxes(image["boxes"]) * scale
        scores = image.get("scores")
        if scores is None:
            scores = -np.arange(len(boxes), dtype=np.float64)
        elif len(scores) != len(boxes):
            raise HarnessError(f"{len(boxes)} proposals with {len(scores)} scores: give one score a proposal")
        detections.extend(
            {"image_id": number, "category_id": 1, "bbox": _xywh(box), "score": float(score)}
            for box, score in zip(boxes, scores)
        )
    dataset = {
        "images": [{"id": n, "width": i["width"], "height": i["height"]} for n, i in enumerate(images, start=1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    found = coco_scores(dataset, detections, max_dets=(1, 10, 100, 300), by_category=False)
    metrics = {"ap": found.ap(), "ap50": found.ap(0.5), "ap75": found.ap(0.75)}
    metrics |= {f"ar@{limit}": found.ar(max_dets=limit) for limit in found.max_dets}
    metrics |= {f"ar_{area}": found.ar(area=area, max_dets=300) for area in ("s", "m", "l")}
    metrics["ar50"] = found.ar(0.5, max_dets=300)
    return {name: 100.0 * value for name, value in metrics.items() if value is not None}


def _xywh(box: np.ndarray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def grounding_scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Per-question scores of one grounded category (a record of :func:`grounding_metrics`).

    ``ar``, ``ar@0.5`` are AS-MANY recalls in [0, 1]; ``tp``, ``n_pred``, ``n_gt`` count one-to-one matches at IoU 0.5
    among all emitted boxes.
    """
    hits = _as_many(record)
    boxes = as_boxes(record["boxes"])
    ranked = boxes[rank_order(len(boxes), record.get("confidences"))]
    scores = {"ar": float(hits.mean()), "ar@0.5": float(hits[0].mean())} if hits.size else {}
    return scores | {
        "tp": len(match_boxes(ranked, record["gt_boxes"], 0.5)),
        "n_pred": len(boxes),
        "n_gt": hits.shape[1],
    }


def _as_many(record: Mapping[str, Any]) -> np.ndarray:
    return as_many_recall(record["boxes"], record.get("confidences"), record["gt_boxes"], AR_THRESHOLDS)


def _area_classes(record: Mapping[str, Any]) -> np.ndarray:
    """0 small, 1 medium, 2 large for each true box: by the annotation's area, the box's own where it has none."""
    areas = record.get("gt_areas")
    if areas is None:
        boxes = as_boxes(record["gt_boxes"])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * record["width"] * record["height"]
    areas = np.asarray(areas, dtype=np.float64)
    return (areas >= SMALL).astype(int) + (areas >= LARGE)


def grounding_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Grounding of categories in percent: AS-MANY average recall, and precision and recall of everything emitted.

    A record is one (image, category): ``category``, ``frequency`` (r/c/f or None), ``boxes``, ``confidences`` (or
    None), ``gt_boxes`` (normalised xyxy), ``gt_areas`` (pixels, or None), ``width``, ``height``.

    ``ar``, ``ar@0.5``, ``ar@0.75``, ``ar_s/m/l`` and ``ar/r|c|f`` average over categories, each with all its true boxes
    pooled, as the LVIS evaluation does; ``ar_micro`` pools all boxes. The k of AS-MANY is per record and does not
    change with the area. ``recall/precision/f1@0.5`` match all emitted boxes one to one and pool. A figure without any
    ground truth to it is left out.
    """
    found: dict[str, list[np.ndarray]] = defaultdict(list)  # category -> (T, n) hits
    sizes: dict[str, list[np.ndarray]] = defaultdict(list)
    frequency: dict[str, str | None] = {}
    matched = emitted = wanted = 0
    for record in records:
        category = record["category"]
        found[category].append(_as_many(record))
        sizes[category].append(_area_classes(record))
        frequency[category] = record.get("frequency")
        scores = grounding_scores(record)
        matched, emitted, wanted = matched + scores["tp"], emitted + scores["n_pred"], wanted + scores["n_gt"]

    pooled = {c: np.concatenate(hits, axis=1) for c, hits in found.items()}
    pooled = {c: hits for c, hits in pooled.items() if hits.shape[1]}
    metrics: dict[str, float] = {}
    if pooled:
        at_half, at_three_quarters = 0, 5
        recalls = {c: hits.mean(axis=1) for c, hits in pooled.items()}
        metrics["ar"] = np.mean([r.mean() for r in recalls.values()])
        metrics["ar@0.5"] = np.mean([r[at_half] for r in recalls.values()])
        metrics["ar@0.75"] = np.mean([r[at_three_quarters] for r in recalls.values()])
        for number, area in enumerate(("s", "m", "l")):
            inside = [hits[:, np.concatenate(sizes[c]) == number] for c, hits in pooled.items()]
            if any(hits.size for hits in inside):
                metrics[f"ar_{area}"] = np.mean([hits.mean() for hits in inside if hits.size])
        metrics["ar_micro"] = np.concatenate(list(pooled.values()), axis=1).mean()
        metrics["recall@0.5"] = matched / wanted
        metrics["precision@0.5"] = matched / emitted if emitted else 0.0
        metrics["f1@0.5"] = 2 * matched / (emitted + wanted)
        for group in sorted({f for f in frequency.values() if f}):
            inside = [r.mean() for c, r in recalls.items() if frequency[c] == group]
            if inside:
                metrics[f"ar/{group}"] = np.mean(inside)
    return {name: 100.0 * float(value) for name, value in metrics.items()}
