"""Referring expression comprehension: a phrase, one box (target ``{"boxes": [Box]}``).

Rules: ``iou`` (``">="`` or ``">"``) is how the IoU is held against the thresholds of ``acc@t``; ``answer`` (``first``
or ``most_confident``) which of several emitted boxes is judged. ``acc@0.5_strict`` (``>``) is given
whatever the rule, ``acc@0.5_loose`` (``>=``) beside a strict rule. An answer without a box is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.core import HarnessError, Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.boxes import TIE, rec_scores
from groma_eval.tasks.common import Regions, by_group, interval, is_proposed, join, percent

_NAMES = {"iou": "miou"}


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """Acc@t, mean IoU and centre accuracy over all expressions, in percent.

    Where proposals are exposed, ``not_proposed`` and ``not_selected`` split the misses: no proposal overlaps the target
    by 0.5, or one did and another was chosen.
    """
    _check(rules)
    answered, counts = join(samples, predictions, regions)
    scores = []
    for item in answered:
        target = item.question.target["boxes"][0]
        values = rec_scores(
            item.prediction.boxes,
            item.prediction.confidences,
            target,
            rules.get("iou", ">="),
            rules.get("answer", "first"),
        )
        if rules.get("iou") == ">":
            values["acc@0.5_loose"] = float(values["iou"] >= 0.5 - TIE)
        if item.regions is not None:
            wrong = not values["acc@0.5"]
            proposed = not wrong or is_proposed(item.regions, [target])[0]
            values |= {"not_proposed": float(not proposed), "not_selected": float(wrong and proposed)}
        scores.append(SampleScore(item.question.id, values))
    metrics = {}
    for key in dict.fromkeys(key for s in scores for key in s.values):
        metrics[_NAMES.get(key, key)] = percent(sum(s.values.get(key, 0.0) for s in scores), len(scores))
    hits = [s.values["acc@0.5"] for s in scores]
    for group, values in by_group(answered, hits):
        metrics[f"acc@0.5/{group}"] = percent(sum(values), len(values))
    intervals = {
        "acc@0.5": interval(hits, answered),
        "miou": interval([s.values["iou"] for s in scores], answered),
    }
    return TaskResult(metrics, counts, scores, intervals)


def _check(rules: Mapping[str, Any]) -> None:
    if rules.get("iou", ">=") not in (">=", ">") or rules.get("answer", "first") not in ("first", "most_confident"):
        raise HarnessError(
            f"rec rules {dict(rules)}: 'iou' is '>=' or '>', 'answer' is 'first' or 'most_confident'; mend the card"
        )
