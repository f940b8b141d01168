"""Tables in the paper's style from finished runs and published numbers.

A table is a list of grids (see :mod:`groma_eval.table_columns`). Only RUN/metrics.json and RUN/manifest.json are read.
Every number is rounded half up in decimal to the digits it is printed with, and an average is the mean of the printed
cells, so a reader with a pencil arrives at the same digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from groma_eval.baseline_rows import Baseline, load_baselines
from groma_eval.core import HarnessError
from groma_eval.table_choice import Choice, check_patterns, choose_columns, chosen, position
from groma_eval.table_columns import (
    ERROR_HEAD,
    KINDS,
    PAPER,
    TITLES,
    Column,
    error_columns,
    further_columns,
    plain_columns,
)
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import SECTIONS, Grid, Row, Table, rank
from groma_eval.table_measured import count_columns, measured_row, number, protocol_notes, reference_key, unjudged_notes
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
            numbers += [m for m, v in run.results[name]["metrics"].items() if number(v) is not None]
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
        keys[place] = reference_key(
            kind, place, runs, published=any((b.benchmark, b.split) == place for b in baselines)
        )
    columns = columns + count_columns(kind, columns, runs)
    rows = published_rows(columns, baselines, notes)
    for section in SECTIONS[1:]:
        for run in runs:
            if run.section == section and (row := measured_row(kind, run, columns, keys, notes, choice.marks)):
                rows.append(row)
    used = [i for i in range(len(columns)) if any(row.cells[i].value is not None for row in rows)]
    for row in rows:
        row.cells = [row.cells[i] for i in used]
    # Only whole columns go, so the indices an average was made from are no longer needed.
    columns = [replace(columns[i], average_of=()) for i in used]
    for row in rows:
        _unrank(row, choice.unranked, notes)
    rank(columns, rows)
    for text in (*protocol_notes(keys), *unjudged_notes(kind, keys, runs)):
        notes.plain(text)
    if choice.remark and any(row.section != "Published" for row in rows):
        notes.plain(choice.remark)
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
