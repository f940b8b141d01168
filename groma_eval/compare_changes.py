"""The questions that one system answers right and another wrong."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.report.verdicts import RIGHT, judge
from groma_eval.statistics import Item, StoredBenchmark, mcnemar

_FIELDS = (
    "benchmark", "id", "image_id", "path", "text", "right", "wrong", "miss", "target_boxes", "right_boxes",
    "wrong_boxes", "right_answer", "wrong_answer",
)  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """How many questions of a benchmark both, one or neither system has right, and those that only one has.

    ``meaning`` says what right is. ``mcnemar``: the p-value of the test that takes questions for independent. Of a
    system of several runs only the questions count that all of them have right, or all wrong; ``undecided`` counts the
    others, and there is no McNemar. ``rows`` are as :func:`write_changes` writes them.
    """

    benchmark: str
    a: str
    b: str
    meaning: str
    both: int
    only_a: int
    only_b: int
    neither: int
    undecided: int
    mcnemar: float | None
    rows: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        names = ("benchmark", "meaning", "both", "only_a", "only_b", "neither", "undecided", "mcnemar")
        return {"a_name": self.a, "b_name": self.b} | {name: getattr(self, name) for name in names}


def changes(names: tuple[str, str], a: Sequence[StoredBenchmark], b: Sequence[StoredBenchmark]) -> list[Changes]:
    """The changes from ``a`` to ``b``, runs of the same questions in one order; none where the task knows no right."""
    sides = [_right(side) for side in (a, b)]
    if sides[0] is None or sides[1] is None:
        return []
    pairs = list(zip(*sides))
    decided = [(index, pair) for index, pair in enumerate(pairs) if None not in pair]
    rows = [_row(names, index, pair[0], a[0], b[0]) for index, pair in decided if pair[0] != pair[1]]
    counts = Counter(pair for _, pair in decided)
    first = a[0]
    return [
        Changes(
            first.name,
            *names,
            RIGHT[first.task],
            both=counts[True, True],
            only_a=counts[True, False],
            only_b=counts[False, True],
            neither=counts[False, False],
            undecided=len(pairs) - len(decided),
            mcnemar=mcnemar(*sides)[2] if len(a) == len(b) == 1 else None,
            rows=tuple(rows),
        )
    ]


def _right(side: Sequence[StoredBenchmark]) -> list[bool | None] | None:
    """Whether each question is right, None where the runs do not agree; None alone where the task knows no right."""
    votes = [[judge(one.task, {"scores": item.scores}).right for item in one.items] for one in side]
    if any(vote is None for run in votes for vote in run):
        return None
    return [of[0] if len(set(of)) == 1 else None for of in zip(*votes)]


def _row(
    names: tuple[str, str], index: int, a_is_right: bool, a: StoredBenchmark, b: StoredBenchmark
) -> dict[str, Any]:
    """``miss``: what the wrong one missed by, where proposals tell. Boxes are normalised xyxy."""
    better, worse = (a.items[index], b.items[index]) if a_is_right else (b.items[index], a.items[index])
    question = better.question
    return {
        "benchmark": a.name,
        "id": question.id,
        "image_id": better.sample.image_id,
        "path": str(better.sample.image or ""),
        "text": question.text,
        "right": names[0 if a_is_right else 1],
        "wrong": names[1 if a_is_right else 0],
        "miss": _miss(worse),
        "target_boxes": question.target.get("boxes"),
        "right_boxes": better.prediction.boxes,
        "wrong_boxes": worse.prediction.boxes,
        "right_answer": better.prediction.text,
        "wrong_answer": worse.prediction.text,
    }


def _miss(item: Item) -> str:
    kinds = [kind for kind in ("not_proposed", "not_selected") if item.scores.get(kind)]
    return " and ".join(kind.replace("_", " ") for kind in kinds)


def write_changes(path: Path, found: Iterable[Changes]) -> int:
    """Write all changed questions to ``path``, CSV or JSON lines by its ending; returns how many.

    Raises:
        HarnessError: another ending, or a file that cannot be written.
    """
    rows = [row for one in found for row in one.rows]
    if path.suffix not in (".jsonl", ".csv"):
        raise HarnessError(f"--changed {path}: must end in .jsonl or .csv")
    text = io.StringIO()
    if path.suffix == ".csv":
        table = csv.DictWriter(text, _FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    write_text(path, text.getvalue(), "--changed")
    return len(rows)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value  # a spreadsheet would take a model's text for a formula
    return value


def write_text(path: Path, text: str, option: str) -> None:
    """Write a file in one step. Raises HarnessError naming the ``option`` where it cannot be written."""
    beside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HarnessError(f"{option} {path}: cannot be written ({error.strerror})") from None
