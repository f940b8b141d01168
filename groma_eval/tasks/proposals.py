"""Class-agnostic detection by region proposals alone: COCO AP and AR (target ``{"boxes", "areas", "iscrowd"}``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.core import Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.boxes import TIE, iou_matrix
from groma_eval.metrics.detection import proposal_metrics
from groma_eval.tasks.common import Regions, join


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """AP and AR in percent (:func:`groma_eval.metrics.detection.proposal_metrics`); an image that failed has none.

    Per image: the number of true boxes, of proposals, and of true boxes that some proposal overlaps by 0.5.
    """
    answered, counts = join(samples, predictions, regions)
    images, scores = [], []
    for item in answered:
        target = item.question.target
        usable = item.prediction.status == "ok" and item.regions is not None
        boxes = item.regions.boxes if usable else []
        images.append(
            {
                "width": item.sample.width,
                "height": item.sample.height,
                "boxes": boxes,
                "scores": item.regions.objectness if usable else None,
                "gt_boxes": target["boxes"],
                "gt_areas": target.get("areas"),
                "gt_iscrowd": target.get("iscrowd"),
            }
        )
        hits = iou_matrix(boxes, target["boxes"]) >= 0.5 - TIE
        values = {"n_gt": len(target["boxes"]), "n_proposals": len(boxes), "covered@0.5": int(hits.any(axis=0).sum())}
        scores.append(SampleScore(item.question.id, values))
    return TaskResult(proposal_metrics(images), counts, scores)
