"""Questions with known answers (target ``{"answer", "accept"?, "facts"?}``), scored without a judge.

A target with ``facts`` is scored by the share of them that the answer names; any other by exact answer (see
:mod:`groma_eval.metrics.vqa`). ``accuracy/GROUP`` is given for each part of a question's group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.core import HarnessError, Prediction, Question, Sample, SampleScore, TaskResult
from groma_eval.metrics.vqa import facts_score, match_answer
from groma_eval.tasks.common import Regions, by_group, interval, join, percent


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """Accuracy over all questions and by group, in percent."""
    answered, counts = join(samples, predictions, regions)
    rights = [_right(item.question, item.prediction.text) for item in answered]
    metrics = {"accuracy": percent(sum(rights), len(rights))}
    for group, values in by_group(answered, rights):
        metrics[f"accuracy/{group}"] = percent(sum(values), len(values))
    scores = [SampleScore(a.question.id, {"accuracy": right}) for a, right in zip(answered, rights)]
    return TaskResult(metrics, counts, scores, {"accuracy": interval(rights, answered)})


def _right(question: Question, text: str) -> float:
    target = question.target
    if target.get("facts"):
        return facts_score(text, target["facts"])
    if "answer" not in target:
        raise HarnessError(f"question '{question.id}' has no known answer, so it cannot be scored as vqa")
    return float(match_answer(text, target["answer"], target.get("accept", ())))
