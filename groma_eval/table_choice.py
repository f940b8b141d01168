"""What of a table is wanted: rows, columns, families, and cells that bear a mark of their own.

Rows and columns are named by patterns (``*`` and ``?``), whatever their case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from groma_eval.core import HarnessError
from groma_eval.table_columns import Column
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import Grid

#: A measured cell: run id, family, split and metric.
CellKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Mark:
    """A sign on a measured cell, and what it says."""

    sign: str
    note: str


@dataclass(frozen=True)
class Choice:
    """Everything by default.

    ``families``: benchmark families whose columns are wanted (of the paper's table all of them, though no run has
    them). ``rows``: patterns of methods, model names or run ids, in the order the rows are to stand in within their
    group. ``settings``: of published rows (:data:`groma_eval.baseline_rows.SETTINGS`). ``columns``: patterns of column
    names. ``unranked``: rows that are shown but neither best nor second, with the reason. ``marks``: signs on measured
    cells; ``remark``: what to say of all of them.
    """

    families: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    unranked: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[CellKey, Mark] = field(default_factory=dict)
    remark: str = ""


def position(patterns: Iterable[str], *names: str) -> int | None:
    """Where the first of ``patterns`` stands that one of ``names`` fits; None where none does."""
    folded = [name.casefold() for name in names]
    for at, pattern in enumerate(patterns):
        if any(fnmatchcase(name, pattern.casefold()) for name in folded):
            return at
    return None


def chosen(patterns: Sequence[str], entries: Iterable[tuple[tuple[str, ...], object]]) -> list:
    """The entries (their names, the thing) that fit, in the patterns' order; all of them where there is no pattern."""
    found = [(position(patterns, *names) if patterns else 0, thing) for names, thing in entries]
    kept = [(at, thing) for at, thing in found if at is not None]
    return [thing for _, thing in sorted(kept, key=lambda item: item[0])]


def check_patterns(patterns: Iterable[str], names: Sequence[tuple[str, ...]], what: str) -> None:
    """HarnessError naming a pattern that fits none of the ``names`` (those of each thing; the first is shown)."""
    for pattern in patterns:
        if not any(position([pattern], *each) is not None for each in names):
            there = ", ".join(dict.fromkeys(each[0] for each in names))
            raise HarnessError(f"{what} '{pattern}' fits nothing; there are: {there}")


def choose_columns(grids: Sequence[Grid], patterns: Sequence[str]) -> list[Grid]:
    """The grids with the columns that fit, in the patterns' order; a grid or row left without a number goes.

    A column answers to its two heads together (``RefCOCO+ val``), to either, and to its metric's name. Footnotes that
    nothing refers to any more go too, and the others are numbered anew.
    """
    if not patterns:
        return list(grids)
    check_patterns(patterns, [column_names(c) for grid in grids for c in grid.columns], "column")
    found = []
    for grid in grids:
        order = chosen(patterns, [(column_names(c), i) for i, c in enumerate(grid.columns)])
        rows = [replace(row, cells=[row.cells[i] for i in order]) for row in grid.rows]
        rows = [row for row in rows if any(cell.value is not None for cell in row.cells)]
        if rows:
            found.append(_renumbered(replace(grid, columns=[grid.columns[i] for i in order], rows=rows)))
    return found


def column_names(column: Column) -> tuple[str, ...]:
    """What a column answers to; the first is how it is called in messages."""
    names = (f"{column.group} {column.head}".strip(), column.group, column.head, column.metric)
    return tuple(dict.fromkeys(name for name in names if name))


def _renumbered(grid: Grid) -> Grid:
    """The same grid with footnotes in the order of its remaining marks."""
    texts, notes = dict(grid.notes), Footnotes()

    def anew(mark: str) -> str:
        text = texts[mark]
        if mark.startswith("["):
            return notes.cite(text)
        if mark.isascii():
            return notes.letter(text)
        return notes.dagger(text) if Footnotes.is_dagger(mark) else notes.sign(mark, text)

    rows = []
    for row in grid.rows:
        source = anew(row.source) if row.section == "Published" else row.source
        marks = [anew(mark) for mark in row.marks]
        cells = [replace(cell, marks=[anew(mark) for mark in cell.marks]) for cell in row.cells]
        rows.append(replace(row, source=source, marks=marks, cells=cells))
    for mark, text in grid.notes:
        if not mark:
            notes.plain(text)
    return replace(grid, rows=rows, notes=notes.listed())
