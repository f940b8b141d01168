"""What a table is made of, as plain data, and the decimal arithmetic of its cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from groma_eval.table_columns import Column

SECTIONS = ("Published", "Measured", "Bounds")


@dataclass
class Cell:
    """One number as printed. ``half`` is half the width of its 95 % interval, ``bounds`` are the interval's ends.
    ``ranked`` cells may be best or second; ``place`` is then 1 or 2. ``marks`` are footnote marks. ``apart``: it is not
    quite what the column's name says, and is ranked only where none of the others is. ``not_applicable``: there is no
    number, for the model cannot do what the column asks."""

    value: Decimal | None = None
    half: Decimal | None = None
    ranked: bool = False
    place: int = 0
    apart: bool = False
    marks: list[str] = field(default_factory=list)
    bounds: tuple[Decimal, Decimal] | None = None
    not_applicable: bool = False

    @property
    def text(self) -> str:
        """The digits; where there is no number a dash, or ``n/a`` where there can be none."""
        missing = "n/a" if self.not_applicable else "–"
        return missing if self.value is None else f"{self.value:f}"


@dataclass
class Row:
    """A method. ``section`` is one of :data:`SECTIONS`; ``source`` is a citation mark or a run id. ``group`` sets rows
    apart within a section: those that do not compare with its others."""

    section: str
    method: str
    size: str
    source: str
    cells: list[Cell]
    marks: list[str] = field(default_factory=list)
    group: str = ""

    @property
    def heading(self) -> str:
        """The head that the row stands under."""
        return f"{self.section}, {self.group}" if self.group else self.section


@dataclass
class Grid:
    """One printed table; ``notes`` pairs a footnote mark (or "") with its text. ``title`` is its caption and ``label``
    what LaTeX refers to it by. ``main`` is False for the errors and further measures beside a table of the paper."""

    kind: str
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[tuple[str, str]]
    label: str = ""
    main: bool = True


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


def average_cell(cells: list[Cell], column: Column) -> Cell:
    """The plain mean of the cells that ``column`` averages, empty unless all of them hold a number."""
    parts = [cells[i] for i in column.average_of]
    values = [cell.value for cell in parts if cell.value is not None]
    if len(values) < len(parts):
        return Cell()
    return Cell(average(values), ranked=all(cell.ranked for cell in parts))


def rank(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Mark best and second distinct value among each column's ranked cells; ties share, and a lone cell is not set
    against itself. Cells that stand ``apart`` are compared only with each other."""
    for i, column in enumerate(columns):
        cells = [row.cells[i] for row in rows if row.cells[i].value is not None]
        whole = any(not cell.apart for cell in cells)
        ranked = [cell for cell in cells if cell.ranked and not (whole and cell.apart)]
        order = sorted({cell.value for cell in ranked}, reverse=True)[:2]
        for cell in cells:
            cell.place = 0
        if column.better and len(ranked) > 1:
            for cell in ranked:
                cell.place = order.index(cell.value) + 1 if cell.value in order else 0


def clean(text: str) -> str:
    """One line without control, formatting or surrogate characters."""
    kept = (" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    return " ".join("".join(kept).split())


def sections(grid: Grid) -> Iterator[tuple[str, list[Row]]]:
    """The rows under each head, sections and their groups in order."""
    for section in SECTIONS:
        rows = [row for row in grid.rows if row.section == section]
        for heading in dict.fromkeys(row.heading for row in rows):
            yield heading, [row for row in rows if row.heading == heading]


def interval(cell: Cell, style: str, bounds: str = "[{}, {}]") -> str:
    """A cell's 95 % interval in a style ("none", "half" or "bounds"): ``±0.52``, or its ends put into ``bounds``."""
    if style == "none" or cell.half is None:
        return ""
    if style == "bounds" and cell.bounds is not None:
        return bounds.format(*(f"{end:f}" for end in cell.bounds))
    return f"±{cell.half:f}"
