"""Detection: anybody's boxes against COCO or LVIS ground truth, and class-agnostic region proposals.

Areas are in pixels of the original image; small, medium and large are COCO's: below 32^2, below 96^2, and above.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.as_many import Query, as_many_metrics
from groma_eval.metrics.boxes import AR_THRESHOLDS, as_boxes, as_many_recall
from groma_eval.metrics.coco_eval import EvalTables, coco_metrics, coco_tables, faster_is_installed
from groma_eval.metrics.detection_files import GroundTruth, read_detections, read_ground_truth
from groma_eval.metrics.lvis_eval import MAX_DETS, lvis_metrics, lvis_tables

PROTOCOLS = ("coco", "lvis", "as-many")

Metrics = dict[str, float | None]
PerItem = dict[str, dict[str, Any]]


def score_detection(
    references: Path | str | Mapping[str, Any],
    predictions: Path | str | Sequence[Mapping[str, Any]],
    protocol: str,
    reference_metrics: bool = False,
) -> tuple[Metrics, PerItem]:
    """Score detections. Values are in [0, 1], as the reference tools give them; None where nothing is to be measured.

    Args:
        references: a COCO or LVIS annotation file, or its content.
        predictions: COCO results (``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}]``, pixels),
            a file or its content.
        protocol: ``coco`` (COCO's twelve figures), ``lvis`` (those of LVIS, by its federated rules) or ``as-many``
            (:mod:`groma_eval.metrics.as_many`: recall of the k best-scored boxes, equal scores in file order, for
            every image and category with k true boxes; crowd regions are left aside).
        reference_metrics: compute through pycocotools and lvis-api instead of faster-coco-eval.

    Returns:
        Metrics by name, and values by item: by category id under ``coco`` and ``lvis``, by ``IMAGE_CATEGORY`` under
        ``as-many``.

    Raises:
        HarnessError: an unknown protocol, malformed files, ids that the references do not have, a missing package.
    """
    if protocol not in PROTOCOLS:
        raise HarnessError(f"protocol '{protocol}': detection protocols are {', '.join(PROTOCOLS)}")
    if protocol == "as-many" and reference_metrics:
        raise HarnessError("as-many has no reference tool: leave --reference-metrics out")
    truth = read_ground_truth(references, federated=protocol == "lvis")
    found = read_detections(predictions, truth)
    if protocol == "as-many":
        return _score_as_many(truth, found)
    if protocol == "coco":
        tables = coco_tables(truth.dataset, found, reference=reference_metrics)
        return coco_metrics(tables), _by_category(tables, truth, "AR100")
    tables = lvis_tables(truth.dataset, found, reference=reference_metrics)
    frequencies = {category["id"]: category["frequency"] for category in truth.dataset["categories"]}
    return lvis_metrics(tables, frequencies), _by_category(tables, truth, f"AR@{MAX_DETS}")


def _by_category(tables: EvalTables, truth: GroundTruth, recall_name: str) -> PerItem:
    """AP, AP50 and recall of every category that has ground truth, by the file's category id."""
    ids = {number: str(key) for key, number in truth.categories.items()}
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    rows = {}
    for index, number in enumerate(tables.categories):
        ap = tables.ap(among=[index])
        if ap is not None:
            values = {"AP": ap, "AP50": tables.ap(0.5, among=[index]), recall_name: tables.ar(among=[index])}
            rows[ids[number]] = {"category": names[number], **values}
    return rows


def _score_as_many(truth: GroundTruth, found: Sequence[Mapping[str, Any]]) -> tuple[Metrics, PerItem]:
    from tqdm import tqdm

    wanted: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in truth.dataset["annotations"]:
        if not row["iscrowd"]:
            wanted[row["image_id"], row["category_id"]].append(row)
    given: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in found:
        given[row["image_id"], row["category_id"]].append(row)
    frequency = {category["id"]: category["frequency"] for category in truth.dataset["categories"]}
    image_ids, category_ids = ({number: key for key, number in ids.items()} for ids in (truth.images, truth.categories))
    queries, rows = [], {}
    for (image, category), true_boxes in tqdm(sorted(wanted.items()), desc="queries", leave=False, disable=None):
        answered = given.get((image, category), [])
        hits = as_many_recall(_xyxy(answered), [row["score"] for row in answered], _xyxy(true_boxes), AR_THRESHOLDS)
        areas = np.array([row["area"] for row in true_boxes], dtype=np.float64)
        queries.append(Query(category, frequency[category], hits, areas))
        rows[f"{image_ids[image]}_{category_ids[category]}"] = {
            "AR": float(hits.mean()),
            "AR50": float(hits[0].mean()),
            "n_gt": len(true_boxes),
            "n_pred": len(answered),
        }
    return as_many_metrics(queries), rows


def _xyxy(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = as_boxes([row["bbox"] for row in rows])
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


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
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    # The figures are the same either way; pycocotools is the slower one.
    found = coco_tables(dataset, detections, (1, 10, 100, 300), by_category=False, reference=not faster_is_installed())
    metrics = {"ap": found.ap(max_dets=100), "ap50": found.ap(0.5, max_dets=100), "ap75": found.ap(0.75, max_dets=100)}
    metrics |= {f"ar@{limit}": found.ar(max_dets=limit) for limit in found.max_dets}
    metrics |= {f"ar_{area}": found.ar(area=area) for area in "sml"}
    metrics["ar50"] = found.ar(0.5)
    return {name: 100.0 * value for name, value in metrics.items() if value is not None}


def _xywh(box: np.ndarray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
