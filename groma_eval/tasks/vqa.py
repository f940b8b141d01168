"""Questions with known answers (target ``{"answer", "accept"?, "facts"?}``), or answers that a judge scored.

Rules: ``match`` is how an answer is held against the known one (see :mod:`groma_eval.metrics.vqa` and
:mod:`groma_eval.metrics.yesno`):

- ``short`` (default): the exact answer, or a plain sentence that ends in it; a target with ``facts`` is scored by the
  share of them that the answer names.
- ``exact``: the exact answer and nothing more.
- ``yesno``: the answer is read as yes or no (POPE).
- ``judge``: a language model compares the answer with the reference (LLaVA-Bench); what it said is handed in as
  ``reviews`` (:mod:`groma_eval.judge`). Until a run is judged its scores are None. ``judge``, ``temperature`` and
  ``max_tokens`` name the judge that the protocol stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groma_eval.core import HarnessError, Prediction, Question, Sample, SampleScore, TaskResult
from groma_eval.metrics.vqa import exact_match, facts_score, match_answer, token_f1
from groma_eval.metrics.yesno import score_yesno
from groma_eval.tasks.common import Answered, Regions, by_group, join, percent

MATCHES = ("short", "exact", "yesno", "judge")
# LLaVA-Bench's categories under the names that its published tables use.
_CATEGORIES = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}

Reviews = Mapping[str, tuple[float, float] | None]  # by question id: scores of reference and model; None: unreadable


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
    reviews: Reviews | None = None,
) -> TaskResult:
    """Metrics in percent over all questions.

    ``accuracy``, ``accuracy/GROUP`` for each part of a question's group, and with known answers ``f1``; ``yesno`` also
    ``precision``, ``recall``, ``f1`` and ``yes_ratio`` of "yes"; ``judge``: ``score/overall``, ``score/CATEGORY``,
    ``reference_mean`` and ``model_mean`` (x 10), and ``answer_words``.

    Raises:
        HarnessError: an unknown rule, or a question without what the rule needs.
    """
    match = rules.get("match", "short")
    if match not in MATCHES:
        raise HarnessError(f"vqa rules {dict(rules)}: 'match' is one of {', '.join(MATCHES)}; mend the card")
    answered, counts = join(samples, predictions, regions)
    if match == "judge":
        return _judged(answered, counts, reviews)
    if match == "yesno":
        return _yes_no(answered, counts)
    return _known(answered, counts, match)


def _known(answered: Sequence[Answered], counts: dict[str, int], match: str) -> TaskResult:
    rights = [_right(item.question, item.prediction.text, match) for item in answered]
    values: list[dict[str, Any]] = [{"accuracy": right} for right in rights]
    for item, value in zip(answered, values):
        if not item.question.target.get("facts"):
            target = item.question.target
            value["f1"] = token_f1(item.prediction.text, target["answer"], target.get("accept", ()))
    metrics = {"accuracy": percent(sum(rights), len(rights))}
    if overlaps := [value["f1"] for value in values if "f1" in value]:
        metrics["f1"] = percent(sum(overlaps), len(overlaps))
    metrics |= _by_group(answered, rights)
    return TaskResult(metrics, counts, _scores(answered, values))


def _right(question: Question, text: str, match: str) -> float:
    target = question.target
    if target.get("facts"):
        return facts_score(text, target["facts"])
    right = exact_match if match == "exact" else match_answer
    return float(right(text, _answer(question), target.get("accept", ())))


def _answer(question: Question) -> str:
    if "answer" not in question.target:
        raise HarnessError(f"question '{question.id}' has no known answer, so it cannot be scored as vqa")
    return question.target["answer"]


def _yes_no(answered: Sequence[Answered], counts: dict[str, int]) -> TaskResult:
    answers = {a.question.id: a.prediction.text if a.prediction.status == "ok" else None for a in answered}
    shares, items = score_yesno(answers, {a.question.id: _answer(a.question) for a in answered})
    rights = [float(items[a.question.id]["correct"]) for a in answered]
    said = [float(items[a.question.id]["answer"] == "yes") for a in answered]
    values = [{"accuracy": right, "yes": yes} for right, yes in zip(rights, said)]
    metrics = {name: 100.0 * share for name, share in shares.items()} | _by_group(answered, rights)
    return TaskResult(metrics, counts, _scores(answered, values))


def _judged(answered: Sequence[Answered], counts: dict[str, int], reviews: Reviews | None) -> TaskResult:
    """LLaVA-Bench's score: 100 x mean model / mean reference over all questions with a usable review.

    No score is given while a question has not been judged, or was answered anew since.
    """
    reviews = reviews or {}
    usable = [item for item in answered if reviews.get(item.question.id)]
    counts = counts | {"judged": len(usable), "excluded": sum(r is None for r in reviews.values())}
    counts["unjudged"] = len(answered) - len(reviews)
    groups: dict[str, list[Answered]] = {"overall": usable}
    for item in answered:
        category = str(item.question.target.get("category", ""))
        group = groups.setdefault(_CATEGORIES.get(category, category or "other"), [])
        group += [item] if reviews.get(item.question.id) else []
    metrics: dict[str, float | None] = {}
    for name, items in groups.items():
        given = np.array([reviews[item.question.id] for item in items])  # (n, 2): reference, model
        metrics[f"score/{name}"] = None
        if not counts["unjudged"] and len(items) and given[:, 0].sum() > 0:
            metrics[f"score/{name}"] = float(100 * given[:, 1].sum() / given[:, 0].sum())
    if metrics["score/overall"] is not None:
        given = np.array([reviews[item.question.id] for item in usable])
        metrics |= {"reference_mean": float(10 * given[:, 0].mean()), "model_mean": float(10 * given[:, 1].mean())}
    words = [len(item.prediction.text.split()) for item in answered]
    metrics["answer_words"] = sum(words) / len(words)
    values = []
    for item, count in zip(answered, words):
        pair = reviews.get(item.question.id)
        values.append({"words": count} | ({"reference": pair[0], "model": pair[1]} if pair else {}))
    return TaskResult(metrics, counts, _scores(answered, values))


def _by_group(answered: Sequence[Answered], values: Sequence[float]) -> dict[str, float]:
    return {f"accuracy/{group}": percent(sum(found), len(found)) for group, found in by_group(answered, values)}


def _scores(answered: Sequence[Answered], values: Sequence[dict[str, Any]]) -> list[SampleScore]:
    return [SampleScore(item.question.id, value) for item, value in zip(answered, values)]
