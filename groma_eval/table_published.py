"""Published numbers as rows of a table, in groups of those that may be compared."""

from __future__ import annotations

from decimal import Decimal

from groma_eval.baseline_rows import SETTINGS, Baseline
from groma_eval.table_columns import Column
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import Cell, Row, average_cell


def published_rows(columns: list[Column], baselines: list[Baseline], notes: Footnotes) -> list[Row]:
    """A row for each method that has a number in a column; those of one setting stand together.

    Only numbers of the standard setting are ranked. A row stands in the group of its first number's setting; a number
    of another one is marked. Where a source prints an average that its cells do not give, the row says both.
    """
    methods: dict[tuple[str, str, str], list[Baseline]] = {}
    for b in baselines:
        methods.setdefault((b.method, b.size, b.year), []).append(b)
    found = []
    metric = next((c.published for c in columns if c.published), "")
    for numbers in methods.values():
        at = {(b.benchmark, b.split, b.metric): b for b in numbers}
        shown = [at.get((c.family, c.split, c.published)) if c.published else None for c in columns]
        printed = next((b for b in numbers if b.split == "average" and b.metric == metric), None)
        averaged = any(c.average_of for c in columns)
        first = next((b for b in (*shown, printed if averaged else None) if b), None)
        if first:
            found.append((first, shown, printed))
    order = list(SETTINGS)
    found.sort(key=lambda item: order.index(item[0].setting))
    return [_published_row(columns, *item, notes) for item in found]


def _published_row(
    columns: list[Column],
    first: Baseline,
    shown: list[Baseline | None],
    printed: Baseline | None,
    notes: Footnotes,
) -> Row:
    """The row of a method: ``first`` of its numbers, those ``shown`` in the columns, and the average as ``printed``."""
    remarks = [b.notes for b in shown if b and b.notes]
    cells: list[Cell] = []
    for column, b in zip(columns, shown):
        if b:
            cells.append(Cell(b.value, ranked=b.comparable))
            if b.setting != first.setting:
                how = SETTINGS[b.setting] or "as most models"
                cells[-1].marks.append(notes.dagger(f"unlike the rest of its row: {how}; not ranked with it"))
            continue
        cells.append(average_cell(cells, column) if column.average_of else Cell())
        if column.average_of and printed:
            if cells[-1].value is None:
                cells[-1] = Cell(printed.value)
                remarks += [printed.notes] if printed.notes else []
            elif cells[-1].value != printed.value:
                parts = [cells[i].value for i in column.average_of]
                mean = sum(parts, Decimal(0)) / len(parts)
                remarks.append(f"the source prints the average {printed.value}, the mean of its cells is {mean}")
    source = notes.cite(first.source)
    marks = [notes.letter(text) for text in dict.fromkeys(remarks)]
    return Row("Published", first.method, first.size, source, cells, marks, SETTINGS[first.setting])
