"""Tables in the paper's style from finished runs and published numbers.

A table is a list of grids (see :mod:`groma_eval.table_columns`). Only RUN/metrics.json and RUN/manifest.json are read.
Every number is rounded half up in decimal to the digits it is printed with, and an average is the mean of the printed
cells, so a reader with a pencil arrives at the same digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from groma_eval.baseline_rows import Baseline, load_baselines
from groma_eval.core import HarnessError
from groma_eval.leakage import summarise
from groma_eval.table_choice import CellKey, Choice, Mark, check_patterns, choose_columns, chosen, position
from groma_eval.table_columns import (
    COUNTS,
    ERROR_HEAD,
    KINDS,
    PAPER,
    TITLES,
    Column,
    error_columns,
    further_columns,
    paper_protocol,
    plain_columns,
)
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import SECTIONS, Cell, Grid, Row, Table, average_cell, half_up, rank
from groma_eval.table_published import published_rows
from groma_eval.table_runs import Run, read_run

BASELINES = ("paper", "all", "none")


def build_table(
    kind: str, runs: Sequence[Path | str] = (), baselines: str | None = None, choice: Choice | None = None
) -> Table:
    """The table of ``kind`` (one of :data:`table_columns.KINDS`, or "all") for finished runs.

    ``baselines`` "paper" adds the rows of the paper's own table, "all" every published row, "none" nothing. None means
    "paper", but only where a run has results beside which they can stand (or where there are no runs at all).
    ``choice`` narrows it: what is best or second is decided among the rows that remain.
    Raises HarnessError for a bad run, an unknown kind, a pattern that fits nothing, or when there is nothing to print.
    """
    choice = choice or Choice()
    if kind not in (*KINDS, "all"):
        raise HarnessError(f"unknown table '{kind}'; choose one of {', '.join((*KINDS, 'all'))}")
    if baselines not in (None, *BASELINES):
        raise HarnessError(f"unknown baselines '{baselines}'; choose one of {', '.join(BASELINES)}")
    loaded = [read_run(path) for path in dict.fromkeys(Path(r) for r in runs)]
    kinds = KINDS if kind == "all" else (kind,)
    _check_choice(kinds, loaded, baselines, choice)
    loaded = chosen(choice.rows, [(_names(run), run) for run in loaded])
    grids = choose_columns([grid for k in kinds for grid in _grids(k, loaded, baselines, choice)], choice.columns)
    if not grids:
        held = sorted({str(r.benchmarks[b].get("task")) for r in loaded for b in r.results})
        waiting = [f"{name} of {run.id}" for run in loaded for name in run.results if run.unjudged(name)]
        hint = f"; not judged yet (groma-eval judge RUN): {', '.join(waiting)}" if waiting else ""
        raise HarnessError(
            f"nothing to print for '{kind}': the runs given hold {', '.join(held) or 'no results'}{hint}"
        )
    return Table(kind, grids)


def captioned(table: Table, caption: str | None = None, label: str | None = None) -> Table:
    """The same table with a caption and a label of the user's own.

    Raises HarnessError unless it has one main grid, which they belong to.
    """
    main = [grid for grid in table.grids if grid.main]
    if (caption or label) and len(main) != 1:
        titles = "; ".join(grid.title for grid in main) or "none"
        raise HarnessError(f"a caption or label needs one table, these are {len(main)}: {titles}")
    for grid in main:
        grid.title, grid.label = caption or grid.title, label or grid.label
    return table


def _names(row: Run | Baseline) -> tuple[str, ...]:
    """What the patterns of a choice may call a row by."""
    return (row.method,) if isinstance(row, Baseline) else (str(row.model.get("name") or "?"), row.id)


def _published(kind: str, baselines: str | None, settings: Sequence[str] = ()) -> list[Baseline]:
    if kind not in PAPER or baselines == "none":
        return []
    rows = load_baselines(PAPER[kind].baselines)
    return [b for b in rows if (baselines == "all" or b.in_groma_table) and (not settings or b.setting in settings)]


def _check_choice(kinds: Sequence[str], runs: list[Run], baselines: str | None, choice: Choice) -> None:
    """Nothing that was asked for by name may be missing without a word."""
    families = {c.family for kind in kinds if kind in PAPER for c in PAPER[kind].columns}
    families |= {family for kind in kinds for run in runs for family, _ in run.places(kind)}
    for family in choice.families:
        if family not in families:
            raise HarnessError(f"no benchmark '{family}'; there are: {', '.join(sorted(families)) or 'none'}")
    rows = [*runs, *(b for kind in kinds for b in _published(kind, baselines, choice.settings))]
    names = [_names(row) for row in rows]
    check_patterns(choice.rows, names, "row")
    check_patterns(choice.unranked, names, "unranked row")


def _grids(kind: str, runs: list[Run], baselines: str | None, choice: Choice) -> list[Grid]:
    """The paper's grid (if it has rows), one grid for each other family, and errors where there is no room beside."""
    paper = PAPER.get(kind)
    places = {(c.family, c.split) for c in paper.columns} if paper else set()
    found: dict[tuple[str, str], list[str]] = {}  # place -> metric names, in the order the runs give them
    for run in runs:
        for place, name in run.places(kind).items():
            numbers = found.setdefault(place, [])
            numbers += [m for m, v in run.results[name]["metrics"].items() if _number(v) is not None]
    grids = []
    if choice.families:
        found = {place: numbers for place, numbers in found.items() if place[0] in choice.families}
    measured = [place for place in found if place in places]
    wanted = measured or not runs or (baselines in ("paper", "all"))
    if paper and (measured or (wanted and baselines != "none")):
        rows = chosen(choice.rows, [(_names(b), b) for b in _published(kind, baselines, choice.settings)])
        families = set(choice.families) or {f for f, _ in measured} or {c.family for c in paper.columns}
        columns = [c for c in paper.columns if c.family in families]
        if paper.average and len(columns) == len(paper.columns):
            columns.append(Column("", paper.average, digits=columns[0].digits, average_of=tuple(range(len(columns)))))
        beside = len(measured) == 1
        errors = []
        for f, s in measured:
            errors += error_columns(kind, ERROR_HEAD[kind] if beside else f"{f} {s}", f, s, found[f, s])
        shown = columns + (errors if beside else [])
        grids.append(_grid(kind, paper.title, shown, runs, rows, choice, paper.pictures))
        if errors and not beside:
            grids.append(_grid(kind, f"{paper.title}: {ERROR_HEAD[kind]}", errors, runs, [], choice))
            grids[-1].main = False
        if further := [column for place in measured for column in further_columns(kind, *place, found[place])]:
            grids.append(_grid(kind, f"{paper.title}: further measures", further, runs, [], choice))
            grids[-1].main = False
    for family in dict.fromkeys(f for f, s in found if (f, s) not in places):
        columns = []
        splits = [s for f, s in found if f == family and (f, s) not in places]
        for split in splits:
            columns += plain_columns(kind, family, split, found[family, split], alone=len(splits) == 1)
        if columns:
            grids.append(_grid(kind, f"{TITLES[kind]}: {family}", columns, runs, [], choice))
    return [grid for grid in grids if grid.rows]


def _grid(
    kind: str,
    title: str,
    columns: list[Column],
    runs: list[Run],
    baselines: list[Baseline],
    choice: Choice,
    pictures: str = "",
) -> Grid:
    notes = Footnotes()
    keys = {}
    for place in dict.fromkeys((c.family, c.split) for c in columns if c.metric):
        keys[place] = _reference(kind, place, runs, published=any((b.benchmark, b.split) == place for b in baselines))
    columns = columns + _count_columns(kind, columns, runs)
    rows = published_rows(columns, baselines, notes)
    for section in SECTIONS[1:]:
        for run in runs:
            if run.section == section and (row := _measured_row(kind, run, columns, keys, notes, choice.marks)):
                rows.append(row)
    used = [i for i in range(len(columns)) if any(row.cells[i].value is not None for row in rows)]
    for row in rows:
        row.cells = [row.cells[i] for i in used]
    # Only whole columns go, so the indices an average was made from are no longer needed.
    columns = [replace(columns[i], average_of=()) for i in used]
    for row in rows:
        _unrank(row, choice.unranked, notes)
    rank(columns, rows)
    for text in (*_protocol_notes(keys), *_unjudged_notes(kind, keys, runs)):
        notes.plain(text)
    if pictures and any(row.section == "Published" for row in rows):
        notes.plain(pictures)
    return Grid(kind, title, columns, rows, notes.listed())


def _unrank(row: Row, reasons: Mapping[str, str], notes: Footnotes) -> None:
    at = position(reasons, row.method, row.source)
    if at is None:
        return
    for cell in row.cells:
        cell.ranked = False
    row.marks.append(notes.letter(f"not ranked: {list(reasons.values())[at]}"))


Key = tuple[int | str, str, tuple[str, ...]]  # card version, protocol, deviations: what two cells must share


def _key(entry: dict[str, Any]) -> Key:
    deviations = entry.get("deviations") or ()
    return entry.get("version", "?"), str(entry.get("protocol", "?")), tuple(sorted(str(d) for d in deviations))


def _reference(kind: str, place: tuple[str, str], runs: list[Run], published: bool) -> Key | None:
    """The version and protocol a column is read under: without deviations before with, the newest version, the
    paper's protocol before others, then the commonest. Published rows pin it to the paper's protocol."""
    paper = paper_protocol(kind, place)
    keys = [_key(run.benchmarks[name]) for run in runs if (name := run.find(kind, *place))]
    if published:
        keys = [key for key in keys if key[1] == paper and not key[2]]
    return min(keys, key=lambda k: (bool(k[2]), _descending(k[0]), k[1] != paper, -keys.count(k), k[1:]), default=None)


def _descending(version: int | str) -> tuple[int, float]:
    return (0, -version) if isinstance(version, int | float) else (1, 0)


def _number(value: Any) -> float | int | None:
    """A metric that is there. COCO's tools say -1 for "no such objects", and NaN is no number: both are a dash."""
    if value is None or value != value or value in (float("inf"), float("-inf")) or value < 0:
        return None
    return value


def _measured_row(
    kind: str,
    run: Run,
    columns: list[Column],
    keys: dict[tuple[str, str], Key | None],
    notes: Footnotes,
    signs: Mapping[CellKey, Mark],
) -> Row | None:
    cells = []
    leaks = _leakage_marks(kind, run, columns, notes)
    for column in columns:
        name = run.find(kind, column.family, column.split) if column.metric else None
        if column.average_of:
            cells.append(average_cell(cells, column))
        elif column.count:
            cells.append(Cell(Decimal(_count(kind, run, columns, column.count))))
        elif name is None or (value := _number(run.results[name]["metrics"].get(column.metric))) is None:
            cells.append(Cell())
        else:
            key = _key(run.benchmarks[name])
            reference = keys[column.family, column.split]
            cell = Cell(half_up(value, column.digits), ranked=not run.oracle and key == reference)
            bounds = (run.results[name].get("intervals") or {}).get(column.metric)
            # An interval that its own number is not in is of something else than that number.
            if isinstance(bounds, list) and len(bounds) == 2 and bounds[0] <= value <= bounds[1]:
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


def _is_sign(mark: str, signs: Mapping[CellKey, Mark]) -> bool:
    return any(mark == each.sign for each in signs.values())


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


def _count_columns(kind: str, columns: list[Column], runs: list[Run]) -> list[Column]:
    """Columns for answers that did not come out, where any run has some: they count as wrong, so they are shown."""
    wanted = [c for c in COUNTS if any(_count(kind, run, columns, c) for run in runs)]
    return [Column("counted wrong", c, digits=0, better=0, count=c) for c in wanted]


def _count(kind: str, run: Run, columns: list[Column], count: str) -> int:
    names = {run.find(kind, c.family, c.split) for c in columns if c.metric} - {None}
    return sum(int((run.results[name].get("counts") or {}).get(count) or 0) for name in names)


def _protocol_notes(keys: dict[tuple[str, str], Key | None]) -> Iterable[str]:
    said: dict[str, list[str]] = {}
    for (family, split), key in keys.items():
        if key:
            said.setdefault(f"protocol {key[1]}, card version {key[0]}", []).append(f"{family} {split}".strip())
    where = {text: "" if len(said) == 1 else f" ({', '.join(places)})" for text, places in said.items()}
    return [f"Measured rows: {text}{where[text]}." for text in said]


def _unjudged_notes(kind: str, places: Iterable[tuple[str, str]], runs: list[Run]) -> Iterable[str]:
    for place in places:
        for run in runs:
            name = run.find(kind, *place)
            if name and (left := run.unjudged(name)):
                yield f"{run.model.get('name')} ({run.id}): {left} answers are not judged yet (groma-eval judge RUN)"
