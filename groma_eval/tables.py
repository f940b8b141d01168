"""Tables in the paper's style from finished runs and published numbers.

A table is a list of grids (see :mod:`groma_eval.table_columns`). Only RUN/metrics.json and RUN/manifest.json are read.
Every number is rounded half up in decimal to the digits it is printed with, and an average is the mean of the printed
cells, so a reader with a pencil arrives at the same digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from groma_eval.baseline_rows import Baseline, load_baselines
from groma_eval.core import HarnessError
from groma_eval.table_columns import COUNTS, ERROR_HEAD, KINDS, PAPER, TITLES, Column, error_columns, plain_columns
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_runs import Run, read_run

BASELINES = ("paper", "all", "none")
SECTIONS = ("Published", "Measured", "Bounds")


@dataclass
class Cell:
    """One number as printed. ``half`` is half the width of its 95 % interval. ``ranked`` cells may be best or second;
    ``place`` is then 1 or 2. ``marks`` are footnote marks."""

    value: Decimal | None = None
    half: Decimal | None = None
    ranked: bool = False
    place: int = 0
    marks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The digits, or a dash where there is no number."""
        return "–" if self.value is None else f"{self.value:f}"


@dataclass
class Row:
    """A method. ``section`` is one of :data:`SECTIONS`; ``source`` is a citation mark or a run id."""

    section: str
    method: str
    size: str
    source: str
    cells: list[Cell]
    marks: list[str] = field(default_factory=list)


@dataclass
class Grid:
    """One printed table; ``notes`` pairs a footnote mark (or "") with its text."""

    kind: str
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[tuple[str, str]]


@dataclass
class Table:
    """What ``groma-eval table`` prints: one grid or several."""

    kind: str
    grids: list[Grid]


def half_up(value: Decimal | float | int, digits: int) -> Decimal:
    """``value`` rounded half up to ``digits`` decimals, in decimal: 86.515 is 86.52, whatever binary makes of it."""
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    return exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)


def average(cells: Sequence[Decimal]) -> Decimal:
    """Plain mean of printed cells, rounded half up to the most digits any of them is printed with."""
    digits = max(-int(c.as_tuple().exponent) for c in cells)
    return half_up(sum(cells, Decimal(0)) / len(cells), digits)


def build_table(kind: str, runs: Sequence[Path | str] = (), baselines: str | None = None) -> Table:
    """The table of ``kind`` (one of :data:`table_columns.KINDS`, or "all") for finished runs.

    ``baselines`` "paper" adds the rows of the paper's own table, "all" every published row, "none" nothing. None means
    "paper", but only where a run has results beside which they can stand (or where there are no runs at all).
    Raises HarnessError for a bad run, an unknown kind, or when there is nothing to print.
    """
    if kind not in (*KINDS, "all"):
        raise HarnessError(f"unknown table '{kind}'; choose one of {', '.join((*KINDS, 'all'))}")
    if baselines not in (None, *BASELINES):
        raise HarnessError(f"unknown baselines '{baselines}'; choose one of {', '.join(BASELINES)}")
    loaded = [read_run(path) for path in dict.fromkeys(Path(r) for r in runs)]
    kinds = KINDS if kind == "all" else (kind,)
    grids = [grid for k in kinds for grid in _grids(k, loaded, baselines)]
    if not grids:
        held = sorted({str(r.benchmarks[b].get("task")) for r in loaded for b in r.results})
        raise HarnessError(f"nothing to print for '{kind}': the runs given hold {', '.join(held) or 'no results'}")
    return Table(kind, grids)


def _grids(kind: str, runs: list[Run], baselines: str | None) -> list[Grid]:
    """The paper's grid (if it has rows), one grid for each other family, and errors where there is no room beside."""
    paper = PAPER.get(kind)
    places = {(c.family, c.split) for c in paper.columns} if paper else set()
    found: dict[tuple[str, str], list[str]] = {}  # place -> metric names, in the order the runs give them
    for run in runs:
        for place, name in run.places(kind).items():
            numbers = found.setdefault(place, [])
            numbers += [m for m, v in run.results[name]["metrics"].items() if _number(v) is not None]
    grids = []
    measured = [place for place in found if place in places]
    wanted = measured or not runs or (baselines in ("paper", "all"))
    if paper and (measured or (wanted and baselines != "none")):
        rows = [] if baselines == "none" else load_baselines(paper.baselines)
        rows = [b for b in rows if baselines == "all" or b.in_groma_table]
        families = {f for f, _ in measured} or {c.family for c in paper.columns}
        columns = [c for c in paper.columns if c.family in families]
        if paper.average and len(columns) == len(paper.columns):
            columns.append(Column("", paper.average, digits=columns[0].digits, average_of=tuple(range(len(columns)))))
        beside = len(measured) == 1
        errors = []
        for f, s in measured:
            errors += error_columns(kind, ERROR_HEAD[kind] if beside else f"{f} {s}", f, s, found[f, s])
        grids.append(_grid(kind, paper.title, columns + (errors if beside else []), runs, rows))
        if errors and not beside:
            grids.append(_grid(kind, f"{paper.title}: {ERROR_HEAD[kind]}", errors, runs, []))
    for family in dict.fromkeys(f for f, s in found if (f, s) not in places):
        columns = []
        splits = [s for f, s in found if f == family and (f, s) not in places]
        for split in splits:
            columns += plain_columns(kind, family, split, found[family, split], alone=len(splits) == 1)
        if columns:
            grids.append(_grid(kind, f"{TITLES[kind]}: {family}", columns, runs, []))
    return [grid for grid in grids if grid.rows]


def _grid(kind: str, title: str, columns: list[Column], runs: list[Run], baselines: list[Baseline]) -> Grid:
    notes = Footnotes()
    keys = {}
    for place in dict.fromkeys((c.family, c.split) for c in columns if c.metric):
        keys[place] = _reference(kind, place, runs, published=any((b.benchmark, b.split) == place for b in baselines))
    columns = columns + _count_columns(kind, columns, runs)
    rows = _published_rows(columns, baselines, notes)
    for section in SECTIONS[1:]:
        for run in runs:
            if run.section == section and (row := _measured_row(kind, run, columns, keys, notes)):
                rows.append(row)
    used = [i for i in range(len(columns)) if any(row.cells[i].value is not None for row in rows)]
    for row in rows:
        row.cells = [row.cells[i] for i in used]
    # Only whole columns go, so the indices an average was made from are no longer needed.
    columns = [replace(columns[i], average_of=()) for i in used]
    for i, column in enumerate(columns):
        if column.note and any(row.section == "Published" and row.cells[i].value is not None for row in rows):
            for row in rows:
                row.cells[i].ranked &= row.section == "Published"
    _place(columns, rows)
    for text in _protocol_notes(keys):
        notes.plain(text)
    return Grid(kind, title, columns, rows, notes.listed())


Key = tuple[int | str, str, tuple[str, ...]]  # card version, protocol, deviations: what two cells must share


def _key(entry: dict[str, Any]) -> Key:
    deviations = entry.get("deviations") or ()
    return entry.get("version", "?"), str(entry.get("protocol", "?")), tuple(sorted(str(d) for d in deviations))


def _reference(kind: str, place: tuple[str, str], runs: list[Run], published: bool) -> Key | None:
    """The version and protocol a column is read under: without deviations before with, the newest version, the
    paper's protocol before others, then the commonest. Published rows pin it to the paper's protocol."""
    keys = [_key(run.benchmarks[name]) for run in runs if (name := run.find(kind, *place))]
    if published:
        keys = [key for key in keys if key[1] == "paper" and not key[2]]
    return min(
        keys, key=lambda k: (bool(k[2]), _descending(k[0]), k[1] != "paper", -keys.count(k), k[1:]), default=None
    )


def _descending(version: int | str) -> tuple[int, float]:
    return (0, -version) if isinstance(version, int | float) else (1, 0)


def _number(value: Any) -> float | int | None:
    """A metric that is there. COCO's tools say -1 for "no such objects", and NaN is no number: both are a dash."""
    if value is None or value != value or value in (float("inf"), float("-inf")) or value < 0:
        return None
    return value


def _published_rows(columns: list[Column], baselines: list[Baseline], notes: Footnotes) -> list[Row]:
    methods: dict[tuple[str, str, str], list[Baseline]] = {}
    for b in baselines:
        methods.setdefault((b.method, b.size, b.year), []).append(b)
    rows = []
    for (method, size, _), numbers in methods.items():
        at = {(b.benchmark, b.split, b.metric): b for b in numbers}
        cells, used, remarks = [], [], []
        for column in columns:
            b = at.get((column.family, column.split, column.published)) if column.published else None
            cells.append(Cell(b.value, ranked=b.comparable) if b else Cell())
            used += [b] if b else []
        metric = next((c.published for c in columns if c.published), "")
        printed = next((b for b in numbers if b.split == "average" and b.metric == metric), None)
        for i, column in enumerate(columns):
            if column.average_of:
                cells[i] = _average_cell(cells, column)
                if cells[i].value is None and printed:
                    cells[i] = Cell(printed.value, ranked=False)
                    used.append(printed)
                elif printed and cells[i].value != printed.value:
                    remarks.append(f"the source prints the average as {printed.value}")
        if used:
            source = notes.cite(used[0].source)
            remarks = [b.notes for b in used if b.notes] + remarks
            marks = [notes.letter(text) for text in dict.fromkeys(remarks)]
            rows.append(Row("Published", method, size, source, cells, marks))
    return rows


def _average_cell(cells: list[Cell], column: Column) -> Cell:
    parts = [cells[i] for i in column.average_of]
    values = [cell.value for cell in parts if cell.value is not None]
    if len(values) < len(parts):
        return Cell()
    return Cell(average(values), ranked=all(cell.ranked for cell in parts))


def _measured_row(
    kind: str, run: Run, columns: list[Column], keys: dict[tuple[str, str], Key | None], notes: Footnotes
) -> Row | None:
    cells = []
    for column in columns:
        name = run.find(kind, column.family, column.split) if column.metric else None
        if column.average_of:
            cells.append(_average_cell(cells, column))
        elif column.count:
            cells.append(Cell(Decimal(_count(kind, run, columns, column.count))))
        elif name is None or (value := _number(run.results[name]["metrics"].get(column.metric))) is None:
            cells.append(Cell())
        else:
            key = _key(run.benchmarks[name])
            reference = keys[column.family, column.split]
            cell = Cell(half_up(value, column.digits), ranked=not run.oracle and key == reference)
            bounds = (run.results[name].get("intervals") or {}).get(column.metric)
            if isinstance(bounds, list) and len(bounds) == 2 and all(_number(b) is not None for b in bounds):
                low, high = (Decimal(repr(b)) for b in bounds)
                cell.half = half_up((high - low) / 2, column.digits)
            cell.marks = _key_marks(key, reference, notes)
            if column.note:
                cell.marks.append(notes.dagger(column.note))
            cells.append(cell)
    shown = [cell for cell, column in zip(cells, columns) if cell.value is not None and column.metric]
    if not shown:
        return None
    common = [m for m in shown[0].marks if all(m in cell.marks for cell in shown)]
    for cell in shown:  # a mark that every cell bears stands once, at the method
        cell.marks = [m for m in cell.marks if m not in common]
    marks = common + [notes.letter(str(text)) for text in run.model.get("notes") or ()]
    if run.oracle:
        marks.append(notes.letter("looks at the ground truth: an upper bound, not ranked"))
    name, size = str(run.model.get("name") or "?"), str(run.model.get("size") or "-")
    return Row(run.section, name, size, run.id, cells, marks)


def _key_marks(key: Key, reference: Key | None, notes: Footnotes) -> list[str]:
    """Marks of a cell that left its card's protocol or stands under another version or protocol than its column."""
    marks = []
    if key[2]:
        marks.append(notes.dagger(f"departs from the card's protocol: {', '.join(key[2])}"))
    if key[:2] != reference[:2] if reference else key[1] != "paper":
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


def _place(columns: list[Column], rows: list[Row]) -> None:
    """Best and second distinct value of each ranked column; ties share, and a lone row is not set against itself."""
    for i, column in enumerate(columns):
        ranked = [row.cells[i] for row in rows if row.cells[i].ranked and row.cells[i].value is not None]
        if not column.better or len(ranked) < 2:
            continue
        order = sorted({cell.value for cell in ranked}, reverse=True)[:2]
        for cell in ranked:
            cell.place = order.index(cell.value) + 1 if cell.value in order else 0


def _protocol_notes(keys: dict[tuple[str, str], Key | None]) -> Iterable[str]:
    said: dict[str, list[str]] = {}
    for (family, split), key in keys.items():
        if key:
            said.setdefault(f"protocol {key[1]}, card version {key[0]}", []).append(f"{family} {split}".strip())
    where = {text: "" if len(said) == 1 else f" ({', '.join(places)})" for text, places in said.items()}
    return [f"Measured rows: {text}{where[text]}." for text in said]
