"""Published numbers as rows: the data package ``groma_eval.baselines`` (``results/baselines``) read into plain types.

Every row is one number as its source prints it. Numbers stay strings here, because the printed digits are part of the
fact: ``89.6`` and ``89.60`` round differently when averaged.
"""

from __future__ import annotations

import csv
import importlib.resources
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from groma_eval.core import HarnessError

TASKS = ("rec", "lvis_ground", "region_caption", "llava_bench", "ablations")
COLUMNS = (
    "method",
    "size",
    "year",
    "benchmark",
    "split",
    "metric",
    "value",
    "in_groma_table",
    "comparable",
    "source",
    "notes",
)


@dataclass(frozen=True)
class Baseline:
    """One published number. ``value`` keeps the source's digits; ``comparable`` is False where the number was not
    obtained under the column's own protocol (zero-shot beside trained, another metric, an average alone)."""

    method: str
    size: str
    year: str
    benchmark: str
    split: str
    metric: str
    value: Decimal
    in_groma_table: bool
    comparable: bool
    source: str
    notes: str


def load_baselines(task: str) -> list[Baseline]:
    """All published rows of ``task`` (one of :data:`TASKS`), in file order.

    Raises HarnessError for an unknown task or a row that does not read, naming the file and line.
    """
    if task not in TASKS:
        raise HarnessError(f"no published numbers for '{task}'; there are: {', '.join(TASKS)}")
    name = f"{task}.csv"
    text = (importlib.resources.files("groma_eval.baselines") / name).read_text(encoding="utf-8")
    return parse_baselines(text, name)


def parse_baselines(text: str, name: str = "baselines") -> list[Baseline]:
    """Rows of a baselines CSV; ``name`` is what errors call the file."""
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise HarnessError(f"{name} line 1: the columns must be {','.join(COLUMNS)}")
    rows = []
    for row in reader:
        where = f"{name} line {reader.line_num}"
        if None in row or None in row.values():
            raise HarnessError(f"{where}: expected {len(COLUMNS)} fields")
        for field in ("in_groma_table", "comparable"):
            if row[field] not in ("yes", "no"):
                raise HarnessError(f"{where}: {field} is '{row[field]}', must be yes or no")
        try:
            value = Decimal(row["value"])
        except InvalidOperation:
            raise HarnessError(f"{where}: value '{row['value']}' is not a number") from None
        if not value.is_finite():
            raise HarnessError(f"{where}: value '{row['value']}' is not a finite number")
        if not row["source"]:
            raise HarnessError(f"{where}: a published number needs its source")
        flags = {field: row[field] == "yes" for field in ("in_groma_table", "comparable")}
        rows.append(Baseline(**{**row, "value": value, **flags}))
    return rows
