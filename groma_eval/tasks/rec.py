"""Referring expression comprehension: a phrase, one box (target ``{"boxes": [Box]}``).

Rules: ``iou`` (``">="`` or ``">"``) is how the IoU is held against the thresholds of ``acc@t``; ``answer`` (``first``
or ``most_confident``) which of several emitted boxes is judged. Both readings are always stored: ``acc@t_strict``
(``>``) whatever the rule, ``acc@t_loose`` (``>=``) beside a strict one. An answer without a box is a miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from groma_eval.core import HarnessError, Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.boxes import picked_box, rec_table
from groma_eval.tasks.common import Answered, Regions, by_group, is_proposed, join, percent

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
    return TaskResult(metrics, counts, _by_question(answered, columns))


def _target(item: Answered) -> Sequence[float]:
    boxes = item.question.target.get("boxes") or ()
    if len(boxes) != 1:
        raise HarnessError(f"question '{item.question.id}' has {len(boxes)} target boxes; a REC question has one")
    return boxes[0]


def _misses(answered: Sequence[Answered], hits: np.ndarray) -> dict[str, np.ndarray]:
    """0 or 1 an expression, NaN where its image has no proposals."""
    missing = np.full((2, len(answered)), np.nan)
    # An image's expressions follow one another, and their targets are held against its proposals in one step.
    for _, group in groupby(range(len(answered)), key=lambda row: answered[row].sample.image_id):
        rows = list(group)
        regions = answered[rows[0]].regions
        if regions is None:
            continue
        missing[:, rows] = 0
        if wrong := [row for row in rows if not hits[row]]:
            proposed = np.array(is_proposed(regions, [_target(answered[row]) for row in wrong]))
            missing[:, wrong] = ~proposed, proposed
    return {"not_proposed": missing[0], "not_selected": missing[1]}


class _Row(Mapping[str, float]):
    """One expression's scores, read from the columns: as many dicts would be most of the memory of a large split."""

    __slots__ = ("_columns", "_row")

    def __init__(self, columns: Mapping[str, np.ndarray], row: int) -> None:
        self._columns = columns
        self._row = row

    def __getitem__(self, name: str) -> float:
        value = self._columns[name][self._row].item()
        if value != value:  # NaN: not scored
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, column in self._columns.items() if column[self._row] == column[self._row])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _by_question(answered: Sequence[Answered], columns: Mapping[str, np.ndarray]) -> list[SampleScore]:
    return [SampleScore(item.question.id, _Row(columns, row)) for row, item in enumerate(answered)]


def _checked(rules: Mapping[str, Any]) -> tuple[Any, Any]:
    rule, pick = rules.get("iou", ">="), rules.get("answer", "first")
    if rule not in (">=", ">") or pick not in ("first", "most_confident"):
        raise HarnessError(
            f"rec rules {dict(rules)}: 'iou' is '>=' or '>', 'answer' is 'first' or 'most_confident'; mend the card"
        )
    return rule, pick
