"""Finished runs as rows of a table: numbers, intervals, and marks for what a cell does not share with its column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from groma_eval.leakage import summarise
from groma_eval.table_choice import CellKey, Mark
from groma_eval.table_columns import COUNTS, Column, paper_protocol
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import Cell, Row, average_cell, half_up
from groma_eval.table_runs import Run

Key = tuple[int | str, str, tuple[str, ...]]  # card version, protocol, deviations: what two cells must share


def reference_key(kind: str, place: tuple[str, str], runs: list[Run], published: bool) -> Key | None:
    """The version and protocol a column is read under: without deviations before with, the newest version, the
    paper's protocol before others, then the commonest. Published rows pin it to the paper's protocol."""
    paper = paper_protocol(kind, place)
    keys = [_key(run.benchmarks[name]) for run in runs if (name := run.find(kind, *place))]
    if published:
        keys = [key for key in keys if key[1] == paper and not key[2]]
    return min(keys, key=lambda k: (bool(k[2]), _descending(k[0]), k[1] != paper, -keys.count(k), k[1:]), default=None)


def measured_row(
    kind: str,
    run: Run,
    columns: list[Column],
    keys: dict[tuple[str, str], Key | None],
    notes: Footnotes,
    signs: Mapping[CellKey, Mark],
) -> Row | None:
    """The row of a run, None where it has no number for a column. ``keys`` are the columns' :func:`reference_key` by
    family and split; cells under another are marked and not ranked."""
    cells = []
    leaks = _leakage_marks(kind, run, columns, notes)
    for column in columns:
        name = run.find(kind, column.family, column.split) if column.metric else None
        if column.average_of:
            cells.append(average_cell(cells, column))
        elif column.count:
            cells.append(Cell(Decimal(_count(kind, run, columns, column.count))))
        elif name is None or (value := number(run.results[name]["metrics"].get(column.metric))) is None:
            cells.append(Cell(not_applicable=(column.family, column.split) in run.not_applicable))
        else:
            key = _key(run.benchmarks[name])
            reference = keys[column.family, column.split]
            cell = Cell(half_up(value, column.digits), ranked=not run.oracle and key == reference)
            bounds = (run.results[name].get("intervals") or {}).get(column.metric)
            # An interval that its own number is not in is of something else than that number.
            if _is_interval(bounds) and bounds[0] <= value <= bounds[1]:
                low, high = (Decimal(repr(b)) for b in bounds)
                cell.half = half_up((high - low) / 2, column.digits)
                cell.bounds = (half_up(low, column.digits), half_up(high, column.digits))
            cell.marks = _key_marks(key, reference, paper_protocol(kind, (column.family, column.split)), notes)
            cell.apart = bool(column.note) and not (run.results[name].get("counts") or {}).get(column.unless)
            if cell.apart:
                cell.marks.append(notes.dagger(column.note))
            cell.marks += leaks[name]
            if mark := signs.get((run.id, column.family, column.split, column.metric)):
                cell.marks.append(notes.sign(mark.sign, mark.note))
            cells.append(cell)
    shown = [cell for cell, column in zip(cells, columns) if cell.value is not None and column.metric]
    if not shown:
        return None
    common = [m for m in shown[0].marks if all(m in cell.marks for cell in shown) and not _is_sign(m, signs)]
    for cell in shown:  # a mark that every cell bears stands once, at the method
        cell.marks = [m for m in cell.marks if m not in common]
    marks = common + [notes.letter(str(text)) for text in run.model.get("notes") or ()]
    if run.oracle:
        marks.append(notes.letter("looks at the ground truth: an upper bound, not ranked"))
    name, size = str(run.model.get("name") or "?"), str(run.model.get("size") or "-")
    return Row(run.section, name, size, run.id, cells, marks)


def _leakage_marks(kind: str, run: Run, columns: list[Column], notes: Footnotes) -> dict[str, list[str]]:
    """Marks, by benchmark, for test pictures that the model's training saw or may have seen; none for bounds."""
    found = {(c.family, c.split): run.find(kind, c.family, c.split) for c in columns if c.metric}
    marks: dict[str, list[str]] = {name: [] for name in found.values() if name}
    if run.section != "Measured":
        return marks
    seen = {}
    for (family, split), name in found.items():
        if name is None:
            continue
        status, images, of = summarise(run.benchmarks[name])
        if status == "unknown":
            marks[name].append(notes.dagger("whether its training saw the test pictures is not known"))
        elif status == "seen":
            seen[name] = f"{images} of {of}" + (f" of {family} {split}".rstrip() if len(marks) > 1 else "")
    for name in seen:
        marks[name].append(notes.dagger(f"its training saw test pictures: {', '.join(seen.values())}"))
    return marks


def _key_marks(key: Key, reference: Key | None, paper: str, notes: Footnotes) -> list[str]:
    """Marks of a cell that left its card's protocol or stands under another version or protocol than its column."""
    marks = []
    if key[2]:
        marks.append(notes.dagger(f"departs from the card's protocol: {', '.join(key[2])}"))
    if key[:2] != reference[:2] if reference else key[1] != paper:
        column = f"{reference[1]}, version {reference[0]}" if reference else "the paper's"
        marks.append(notes.dagger(f"measured under protocol {key[1]}, card version {key[0]} (the column: {column})"))
    return marks


def protocol_notes(keys: dict[tuple[str, str], Key | None]) -> Iterable[str]:
    """What measured rows were obtained under, column by column where that differs."""
    said: dict[str, list[str]] = {}
    for (family, split), key in keys.items():
        if key:
            said.setdefault(f"protocol {key[1]}, card version {key[0]}", []).append(f"{family} {split}".strip())
    where = {text: "" if len(said) == 1 else f" ({', '.join(places)})" for text, places in said.items()}
    return [f"Measured rows: {text}{where[text]}." for text in said]


def unjudged_notes(kind: str, places: Iterable[tuple[str, str]], runs: list[Run]) -> Iterable[str]:
    """Runs whose answers still wait for their judge."""
    for place in places:
        for run in runs:
            name = run.find(kind, *place)
            if name and (left := run.unjudged(name)):
                yield f"{run.model.get('name')} ({run.id}): {left} answers are not judged yet (groma-eval judge RUN)"


def count_columns(kind: str, columns: list[Column], runs: list[Run]) -> list[Column]:
    """Columns for answers that did not come out, where any run has some: they count as wrong, so they are shown."""
    wanted = [c for c in COUNTS if any(_count(kind, run, columns, c) for run in runs)]
    return [Column("counted wrong", c, digits=0, better=0, count=c) for c in wanted]


def number(value: Any) -> float | int | None:
    """A metric that is there. COCO's tools say -1 for "no such objects", and NaN is no number: both are a dash."""
    if value is None or value != value or value in (float("inf"), float("-inf")) or value < 0:
        return None
    return value


def _is_interval(bounds: Any) -> bool:
    return isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(b, int | float) for b in bounds)


def _count(kind: str, run: Run, columns: list[Column], count: str) -> int:
    names = {run.find(kind, c.family, c.split) for c in columns if c.metric} - {None}
    return sum(int((run.results[name].get("counts") or {}).get(count) or 0) for name in names)


def _key(entry: dict[str, Any]) -> Key:
    deviations = entry.get("deviations") or ()
    return entry.get("version", "?"), str(entry.get("protocol", "?")), tuple(sorted(str(d) for d in deviations))


def _descending(version: int | str) -> tuple[int, float]:
    return (0, -version) if isinstance(version, int | float) else (1, 0)


def _is_sign(mark: str, signs: Mapping[CellKey, Mark]) -> bool:
    return any(mark == each.sign for each in signs.values())
