"""Referring expression comprehension: a phrase, one box (target ``{"boxes": [Box]}``).

Rules: ``iou`` (``">="`` or ``">"``) is how the IoU is held against the thresholds of ``acc@t``; ``answer`` (``first``
or ``most_confident``) which of several emitted boxes is judged. Both readings are always stored: ``acc@t_strict``
(``>``) whatever the rule, ``acc@t_loose`` (``>=``) beside a strict one. An answer without a box is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groma_eval.core import HarnessError, Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.boxes import picked_box, rec_table
from groma_eval.tasks.common import Answered, Regions, by_group, interval, is_proposed, join, percent

_NAMES = {"iou": "miou"}


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """Acc@t by both rules, mean IoU and centre accuracy over all expressions, in percent.

    Where proposals are exposed, ``not_proposed`` and ``not_selected`` split the misses of the images that have them: no
    proposal overlaps the target by 0.5, or one did and another (or nothing) was chosen.
    """
    rule, pick = _checked(rules)
    answered, counts = join(samples, predictions, regions)
    picked = [picked_box(item.prediction.boxes, item.prediction.confidences, pick) for item in answered]
    columns = rec_table(picked, [_target(item) for item in answered], rule)
    metrics = {_NAMES.get(name, name): percent(float(column.sum()), len(answered)) for name, column in columns.items()}
    if any(item.regions is not None for item in answered):
        columns |= _misses(answered, columns["acc@0.5"])
        for name in ("not_proposed", "not_selected"):
            metrics[name] = percent(float(np.nansum(columns[name])), len(answered))
    for group, values in by_group(answered, columns["acc@0.5"].tolist()):
        metrics[f"acc@0.5/{group}"] = percent(sum(values), len(values))
    intervals = {
        "acc@0.5": interval(columns["acc@0.5"].tolist(), answered),
        "miou": interval(columns["iou"].tolist(), answered),
    }
    return TaskResult(metrics, counts, _by_question(answered, columns), intervals)


def _target(item: Answered) -> Sequence[float]:
    boxes = item.question.target.get("boxes") or ()
    if len(boxes) != 1:
        raise HarnessError(f"question '{item.question.id}' has {len(boxes)} target boxes; a REC question has one")
    return boxes[0]


def _misses(answered: Sequence[Answered], hits: np.ndarray) -> dict[str, np.ndarray]:
    """0 or 1 an expression, NaN where its image has no proposals."""
    missing = np.full((2, len(answered)), np.nan)
    for row, item in enumerate(answered):
        if item.regions is not None:
            wrong = not hits[row]
            proposed = not wrong or is_proposed(item.regions, [_target(item)])[0]
            missing[:, row] = not proposed, wrong and proposed
    return {"not_proposed": missing[0], "not_selected": missing[1]}


def _by_question(answered: Sequence[Answered], columns: Mapping[str, np.ndarray]) -> list[SampleScore]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        SampleScore(item.question.id, {name: value for name, value in zip(columns, row) if value == value})
        for item, row in zip(answered, rows, strict=True)
    ]


def _checked(rules: Mapping[str, Any]) -> tuple[Any, Any]:
    rule, pick = rules.get("iou", ">="), rules.get("answer", "first")
    if rule not in (">=", ">") or pick not in ("first", "most_confident"):
        raise HarnessError(
            f"rec rules {dict(rules)}: 'iou' is '>=' or '>', 'answer' is 'first' or 'most_confident'; mend the card"
        )
    return rule, pick
