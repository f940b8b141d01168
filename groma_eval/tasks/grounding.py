"""Grounding of categories: a name, all its instances (LVIS-Ground).

Target: ``{"boxes": [Box], "areas": [px], "category": id, "frequency": "r" | "c" | "f" | None, "exhaustive": bool}``.
The measures are in :mod:`groma_eval.metrics.grounding`.

Rules: ``metric`` is what ``ar`` and its kin are, ``as-many`` (the k surest boxes count, k being the number of true
ones) or ``lvis`` (LVIS's evaluation of all boxes). ``rank`` is what puts the answered boxes in order, ``confidence``
(of equal ones, and where the model gives none, the emission) or ``emission`` alone, as where every box is handed in
with the same score. Groma's released script is ``{metric: lvis, rank: emission}``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.core import HarnessError, Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.boxes import match_boxes, rank_order
from groma_eval.metrics.coco_eval import faster_is_installed
from groma_eval.metrics.grounding import average_precision, grounding_metrics, grounding_scores
from groma_eval.tasks.common import Answered, Regions, is_proposed, join, percent

_CHOICES = {"metric": ("as-many", "lvis"), "rank": ("confidence", "emission")}


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """Recall by category, precision and recall of all emitted boxes, and AP where confidences rank them, in percent.

    ``not_proposed`` and ``not_selected`` are percent of targets: no proposal overlaps it by 0.5, or one did and no
    emitted box found it.
    """
    for rule, choices in _CHOICES.items():
        if rules.get(rule, choices[0]) not in choices:
            raise HarnessError(
                f"grounding rules {dict(rules)}: '{rule}' is '{choices[0]}' or '{choices[1]}'; mend the card"
            )
    metric = rules.get("metric", "as-many")
    answered, counts = join(samples, predictions, regions)
    records, scores = [], []
    targets = unproposed = unselected = 0
    for item in answered:
        record = _record(item, rules)
        values = grounding_scores(record, metric)
        if item.regions is not None:
            proposed = is_proposed(item.regions, record["gt_boxes"])
            found = _found(record)
            values["not_proposed"] = sum(not p and not f for p, f in zip(proposed, found))
            values["not_selected"] = sum(p and not f for p, f in zip(proposed, found))
            unproposed += values["not_proposed"]
            unselected += values["not_selected"]
        targets += len(record["gt_boxes"])
        records.append(record)
        scores.append(SampleScore(item.question.id, values))
    metrics = grounding_metrics(records, metric) | _average_precision(records)
    if regions:
        metrics |= {"not_proposed": percent(unproposed, targets), "not_selected": percent(unselected, targets)}
    return TaskResult(metrics, counts, scores)


def _record(item: Answered, rules: Mapping[str, Any]) -> dict[str, Any]:
    target = item.question.target
    return {
        "image": item.sample.image_id,
        "width": item.sample.width,
        "height": item.sample.height,
        "category": target["category"],
        "frequency": target.get("frequency"),
        "exhaustive": target.get("exhaustive", True),
        "boxes": item.prediction.boxes,
        "confidences": None if rules.get("rank") == "emission" else item.prediction.confidences,
        "gt_boxes": target["boxes"],
        "gt_areas": target.get("areas"),
    }


def _average_precision(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if faster_is_installed():
        return average_precision(records)
    # The other figures stand without the package: a run that has been answered is not lost for want of it.
    print(
        "groma-eval: faster-coco-eval is not installed, so ap and ap50 are left out; install it and repeat with "
        "groma-eval score RUN",
        file=sys.stderr,
    )
    return {}


def _found(record: Mapping[str, Any]) -> list[bool]:
    order = rank_order(len(record["boxes"]), record["confidences"])
    matched = {g for _, g in match_boxes([record["boxes"][i] for i in order], record["gt_boxes"], 0.5)}
    return [g in matched for g in range(len(record["gt_boxes"]))]
