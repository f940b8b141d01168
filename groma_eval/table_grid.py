"""What a table is made of, as plain data, and the decimal arithmetic of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from groma_eval.table_columns import Column

SECTIONS = ("Published", "Measured", "Bounds")


@dataclass
class Cell:
    """One number as printed. ``half`` is half the width of its 95 % interval. ``ranked`` cells may be best or second;
    ``place`` is then 1 or 2. ``marks`` are footnote marks. ``apart``: it is not quite what the column's name says, and
    is ranked only where none of the others is."""

    value: Decimal | None = None
    half: Decimal | None = None
    ranked: bool = False
    place: int = 0
    apart: bool = False
    marks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The digits, or a dash where there is no number."""
        return "–" if self.value is None else f"{self.value:f}"


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


def average_cell(cells: list[Cell], column: Column) -> Cell:
    """The plain mean of the cells that ``column`` averages, empty unless all of them hold a number."""
    parts = [cells[i] for i in column.average_of]
    values = [cell.value for cell in parts if cell.value is not None]
    if len(values) < len(parts):
        return Cell()
    return Cell(average(values), ranked=all(cell.ranked for cell in parts))
