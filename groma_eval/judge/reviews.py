"""Reviews in LLaVA's form: read, summarised, and kept beside a run's samples.

A line is ``{"id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple": [reference, model]}``;
``tuple`` is ``[-1, -1]`` where the review could not be read. A run's own ``BENCHMARK/reviews.jsonl`` adds to each line
``judge`` (how it was judged) and ``content_hash`` (what was judged).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Prediction, Sample
from groma_eval.judge.prompts import content_hash, review_messages
from groma_eval.readers.common import need, read_jsonl

Scores = tuple[float, float]  # the reference's, the model's

FILE = "reviews.jsonl"
UNREADABLE = [-1, -1]
_SCALE = 10.0


def parse_review(text: str) -> Scores | None:
    """The two scores on a review's first line, separated by blanks or a comma; None where it has not just these two.

    As LLaVA's ``parse_score``, but for two things: any number of blanks may stand between the scores, and scores off
    the scale from 0 to 10 that the judge is given are not taken.
    """
    words = text.split("\n")[0].replace(",", " ").split()
    if len(words) != 2:
        return None
    try:
        reference, model = map(float, words)
    except ValueError:
        return None
    return (reference, model) if 0 <= reference <= _SCALE and 0 <= model <= _SCALE else None


@dataclass(frozen=True)
class Review:
    """One line of a review file, ``row`` as it stands; ``scores`` is None where the review could not be read."""

    question_id: str
    category: str | None
    scores: Scores | None
    row: Mapping[str, Any]


def read_reviews(path: Path) -> list[Review]:
    """All reviews of a file, in its order.

    A line whose ``tuple`` (``score`` in LLaVA's older files) is missing, null or ``[-1, -1]`` could not be read.

    Raises:
        HarnessError: no such file, no reviews in it, or a line that is none (file, line and field are named).
    """
    if not path.is_file():
        raise HarnessError(f"{path}: no such review file")
    return [_review(row, f"{path}: line {number}") for number, row in read_jsonl(path)]


def _review(row: Mapping[str, Any], where: str) -> Review:
    identity = str(need(row, "question_id", (int, str), where))
    category = need(row, "category", str, where) if "category" in row else None
    field = "score" if "tuple" not in row and "score" in row else "tuple"
    value = row.get(field)
    if value is None or value == UNREADABLE:
        return Review(identity, category, None, row)
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_score, value)):
        raise HarnessError(f"{where}: field '{field}' must be two numbers, 0 or more, not {value!r}")
    return Review(identity, category, (float(value[0]), float(value[1])), row)


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


@dataclass(frozen=True)
class Summary:
    """A line of a summary: ``score`` = 100 x mean model / mean reference (None where the reference has 0 or nothing is
    left), the two means x 10, how many reviews they are made from and how many could not be read."""

    category: str
    score: float | None
    reference: float | None
    model: float | None
    used: int
    excluded: int


def summarise(reviews: Sequence[Review]) -> list[Summary]:
    """``all`` and each category, by name, as LLaVA's ``summarize_gpt_review.py`` prints them.

    Means are rounded to three decimals before they are divided, the printed values to one; reviews that could not be
    read are left out (LLaVA's script counts them as -1).
    """
    groups: dict[str, list[Review]] = {"all": list(reviews)}
    for review in reviews:
        if review.category is not None:
            groups.setdefault(review.category, []).append(review)
    return [_summary(name, group) for name, group in sorted(groups.items())]


def _summary(name: str, reviews: Sequence[Review]) -> Summary:
    scores = [review.scores for review in reviews if review.scores]
    excluded = len(reviews) - len(scores)
    if not scores:
        return Summary(name, None, None, None, 0, excluded)
    reference, model = (round(math.fsum(column) / len(scores), 3) for column in zip(*scores))
    ratio = round(model / reference * 100, 1) if reference else None
    return Summary(name, ratio, round(reference * 10, 1), round(model * 10, 1), len(scores), excluded)


def write_reviews(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``folder``/reviews.jsonl in one step."""
    beside = folder / (FILE + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, folder / FILE)


def stored_scores(
    folder: Path, samples: Sequence[Sample], predictions: Mapping[str, Prediction]
) -> dict[str, Scores | None] | None:
    """Scores by question id from ``folder``/reviews.jsonl (None for a review that could not be read), as the task takes
    them; None where the benchmark was not judged.

    A question whose text, answer, reference, context or rule is not what was judged is left out: its review is of
    something else.
    """
    if not (folder / FILE).is_file():
        return None
    reviews = {review.question_id: review for review in read_reviews(folder / FILE)}
    scores = {}
    for sample in samples:
        for question in sample.questions:
            review = reviews.get(question.id)
            messages = review_messages(question, answer_of(predictions.get(question.id)))
            if review is not None and review.row.get("content_hash") == content_hash(messages):
                scores[question.id] = review.scores
    return scores


def answer_of(prediction: Prediction | None) -> str:
    """What is judged: the answer without grounding markup; a missing or failed one is empty."""
    return prediction.text if prediction is not None and prediction.status == "ok" else ""


def judged_fields(folder: Path, deviations: Sequence[str], rules: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a benchmark with reviews: ``judge``, and ``deviations`` with those that judging adds.

    The card's rules name the judge and its settings; another judge, other settings and reviews that could not be read
    are departures from the protocol, which tables mark. Without reviews, ``deviations`` alone as given.
    """
    if rules.get("match") != "judge" or not (folder / FILE).is_file():
        return {"deviations": list(deviations)}
    reviews = read_reviews(folder / FILE)
    judge = reviews[0].row.get("judge")
    if not isinstance(judge, dict) or any(review.row.get("judge") != judge for review in reviews):
        raise HarnessError(f"{folder / FILE}: field 'judge' is not the same in all lines; judge the run again")
    found = list(deviations)
    names = {"model": "judge", "temperature": "judge temperature", "max_tokens": "judge tokens"}
    for key, name in names.items():
        wanted = rules.get("judge" if key == "model" else key, judge.get(key))
        if judge.get(key, wanted) != wanted:
            found.append(f"{name}={judge[key]}")
    if unreadable := sum(review.scores is None for review in reviews):
        found.append(f"incomplete: {unreadable} of {len(reviews)} questions have no usable review")
    return {"deviations": found, "judge": judge}
