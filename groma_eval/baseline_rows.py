"""Published numbers as rows: the data package ``groma_eval.baselines`` (``results/baselines``) read into plain types.

Every row is one number as its source prints it. Numbers stay decimal here, because the printed digits are part of the
fact: ``89.6`` and ``89.60`` round differently when averaged.
"""

from __future__ import annotations

import csv
import importlib.resources
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from groma_eval.core import HarnessError

TASKS = ("rec", "lvis_ground", "region_caption", "llava_bench", "ablations", "groma_elsewhere")
COLUMNS = (
    "method",
    "size",
    "year",
    "benchmark",
    "split",
    "metric",
    "value",
    "in_groma_table",
    "setting",
    "source",
    "notes",
)
#: The setting of a number that compares with the rest of its column.
STANDARD = "standard"
#: How a number was obtained, in the order of the groups that tables print, with the group's head. None but those of
#: the standard setting is ranked.
SETTINGS = {
    STANDARD: "",
    "fine-tuned": "specialists and models fine-tuned on the task",
    "zero-shot": "zero-shot or few-shot",
    "other-protocol": "under another protocol",
    "other-judge": "by another judge",
    "other-metric": "in another metric",
    "average-only": "of which only an average is published",
}


@dataclass(frozen=True)
class Baseline:
    """One published number. ``value`` keeps the source's digits; ``setting`` is one of :data:`SETTINGS`."""

    method: str
    size: str
    year: str
    benchmark: str
    split: str
    metric: str
    value: Decimal
    in_groma_table: bool
    setting: str
    source: str
    notes: str

    @property
    def comparable(self) -> bool:
        """Whether the number was obtained as its column's others were, so that it may be ranked among them."""
        return self.setting == STANDARD


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
        if row["in_groma_table"] not in ("yes", "no"):
            raise HarnessError(f"{where}: in_groma_table is '{row['in_groma_table']}', must be yes or no")
        if row["setting"] not in SETTINGS:
            raise HarnessError(f"{where}: setting is '{row['setting']}', must be one of {', '.join(SETTINGS)}")
        try:
            value = Decimal(row["value"])
        except InvalidOperation:
            raise HarnessError(f"{where}: value '{row['value']}' is not a number") from None
        if not value.is_finite():
            raise HarnessError(f"{where}: value '{row['value']}' is not a finite number")
        if not row["source"]:
            raise HarnessError(f"{where}: a published number needs its source")
        rows.append(Baseline(**{**row, "value": value, "in_groma_table": row["in_groma_table"] == "yes"}))
    return rows
