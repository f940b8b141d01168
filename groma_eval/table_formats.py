"""A table as text, Markdown, LaTeX, CSV or HTML.

Names, run ids and notes come from runs and files of others, so every format escapes them; control and bidirectional
characters are dropped everywhere. Best is bold and second underlined: ``**x**`` and ``_x_`` in text, none in CSV.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable

from groma_eval.core import HarnessError
from groma_eval.table_columns import merge_heads
from groma_eval.table_grid import Cell, Grid, Row, Table, clean, interval, sections
from groma_eval.table_latex import label, latex

HEADS = ("Method", "Size", "Source")


#: How 95 % intervals of measured cells are printed: not at all, as half their width, or by their two ends.
INTERVALS = ("none", "half", "bounds")


def render(table: Table, fmt: str = "text", intervals: bool | str = False) -> str:
    """``table`` in one of :data:`FORMATS`, ending in a newline. ``intervals`` (one of :data:`INTERVALS`; True: half)
    adds the measured cells' 95 % intervals; in CSV they have columns of their own."""
    if fmt not in FORMATS:
        raise HarnessError(f"unknown format '{fmt}'; choose one of {', '.join(FORMATS)}")
    style = {True: "half", False: "none"}.get(intervals, intervals)
    if style not in INTERVALS:
        raise HarnessError(f"unknown style of intervals '{intervals}'; choose one of {', '.join(INTERVALS)}")
    return "\n".join(FORMATS[fmt](grid, style) for grid in table.grids)


def _spaced(text: str) -> str:
    return f" {text}" if text else ""


def _text(grid: Grid, intervals: str) -> str:
    signs = {0: "", 1: "**", 2: "_"}

    def tail(c: Cell) -> str:
        return signs[c.place] + "".join(c.marks) + _spaced(interval(c, intervals))

    # What follows the digits is padded to one width a column, so that the decimal points stand under each other.
    tails = [max((len(tail(row.cells[i])) for row in grid.rows), default=0) for i in range(len(grid.columns))]

    def line(row: Row) -> list[str]:
        marks = f" ({','.join(row.marks)})" if row.marks else ""
        cells = [signs[c.place] + c.text + tail(c).ljust(width) for c, width in zip(row.cells, tails)]
        return [f"  {clean(row.method)}{marks}", clean(row.size), clean(row.source), *cells]

    groups = [(section, [line(row) for row in rows]) for section, rows in sections(grid)]
    heads = [*HEADS, *(clean(c.head) for c in grid.columns)]
    widths = [max(len(r[i]) for r in [heads, *(row for _, rows in groups for row in rows)]) for i in range(len(heads))]
    uppers = [(clean(group), span) for group, span in merge_heads(grid.columns)]
    at = len(HEADS)
    for group, span in uppers:  # a long upper head widens the last column beneath it
        width = sum(widths[at : at + span]) + 2 * (span - 1)
        widths[at + span - 1] += max(0, len(group) - width)
        at += span

    def join(cells: list[str]) -> str:
        left = [c.ljust(w) for c, w in zip(cells[:3], widths)]
        return "  ".join(left + [c.rjust(w) for c, w in zip(cells[3:], widths[3:])]).rstrip()

    upper, rule, at = "  ".join(" " * w for w in widths[:3]), "  ".join(" " * w for w in widths[:3]), 3
    for group, span in uppers:
        width = sum(widths[at : at + span]) + 2 * (span - 1)
        upper += "  " + group.center(width)
        rule += "  " + ("-" if group else " ") * width
        at += span
    full = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [clean(grid.title), full]
    if any(group for group, _ in uppers):
        lines += [upper.rstrip(), rule.rstrip()]
    lines += [join(heads), full]
    for section, rows in groups:
        lines += [section, *map(join, rows)]
    lines.append(full)
    if any(c.place for row in grid.rows for c in row.cells):
        lines.append("**best**, _second_ of the cells of one protocol")
    lines += [f"{mark} {clean(text)}".strip() for mark, text in grid.notes]
    return "\n".join(lines) + "\n"


_MD = {c: f"\\{c}" for c in "\\`*_[]|#~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _escape(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(c, c) for c in clean(text))


def _md(grid: Grid, intervals: str) -> str:
    places = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}

    def esc(text: str) -> str:
        return _escape(text, _MD)

    def sup(marks: list[str]) -> str:
        return f"<sup>{','.join(map(esc, marks))}</sup>" if marks else ""

    def cell(c: Cell) -> str:
        return places[c.place].format(c.text) + sup(c.marks) + _spaced(interval(c, intervals, "\\[{}, {}\\]"))

    heads = [esc(f"{c.group} {c.head}" if c.group and c.head else c.group or c.head) for c in grid.columns]
    lines = [f"**{esc(grid.title)}**", ""]
    lines.append("| " + " | ".join([*HEADS, *heads]) + " |")
    lines.append("|" + "---|" * 3 + "---:|" * len(heads))
    for section, rows in sections(grid):
        lines.append(f"| *{section}* |" + " |" * (2 + len(heads)))
        for row in rows:
            cells = [esc(row.method) + sup(row.marks), esc(row.size), esc(row.source), *map(cell, row.cells)]
            lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for mark, text in grid.notes:
        lines.append(f"- {sup([mark])} {esc(text)}" if mark else f"- {esc(text)}")
    return "\n".join(lines).rstrip() + "\n"


def _safe(text: str) -> str:
    """A field no spreadsheet takes for a formula."""
    text = clean(text)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text


def _csv(grid: Grid, intervals: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    beside = {"none": (), "half": ("±",), "bounds": ("low", "high")}[intervals]
    halves = [beside if any(r.cells[i].half is not None for r in grid.rows) else () for i in range(len(grid.columns))]
    heads: list[str] = []
    for column, more in zip(grid.columns, halves):
        head = clean(f"{column.group} {column.head}")
        heads += [_safe(head), *(_safe(f"{head} {name}") for name in more)]
    writer.writerow(["table", "section", *(h.lower() for h in HEADS), *heads, "notes"])
    texts = dict(grid.notes)
    for row in grid.rows:
        cells: list[str] = []
        for cell, more in zip(row.cells, halves):
            cells.append("" if cell.value is None else f"{cell.value:f}")
            ends = (cell.half,) if intervals == "half" else cell.bounds or (None, None)
            cells += ["" if end is None else f"{end:f}" for _, end in zip(more, ends)]
        marks = dict.fromkeys([*row.marks, *(mark for cell in row.cells for mark in cell.marks)])
        source = texts[row.source] if row.section == "Published" else row.source
        notes = "; ".join(texts[mark] for mark in marks)
        names = [grid.title, row.heading, row.method, row.size, source]
        writer.writerow([*map(_safe, names), *cells, _safe(notes)])
    return out.getvalue()


def _html(grid: Grid, intervals: str) -> str:
    places = {0: "{}", 1: "<b>{}</b>", 2: "<u>{}</u>"}

    def esc(text: str) -> str:
        # Plain ASCII, so that the fragment reads the same under any declared character set.
        return html.escape(clean(text)).encode("ascii", "xmlcharrefreplace").decode()

    def sup(marks: list[str]) -> str:
        return f"<sup>{','.join(map(esc, marks))}</sup>" if marks else ""

    def cell(c: Cell) -> str:
        half = interval(c, intervals)
        half = f" <small>{esc(half)}</small>" if half else ""
        return f"<td>{places[c.place].format(esc(c.text))}{sup(c.marks)}{half}</td>"

    width = len(HEADS) + len(grid.columns)
    spans = merge_heads(grid.columns)
    upper = "".join(f'<th scope="colgroup" colspan="{span}">{esc(group)}</th>' for group, span in spans)
    heads = "".join(f'<th scope="col">{esc(c.head)}</th>' for c in grid.columns)
    fixed = "".join(f'<th scope="col" rowspan="2">{h}</th>' for h in HEADS)
    name = f' id="{esc(label(grid.label))}"' if grid.label else ""
    lines = [f'<table class="groma-table"{name}>', f"<caption>{esc(grid.title)}</caption>"]
    lines += [f"<thead><tr>{fixed}{upper}</tr>", f"<tr>{heads}</tr></thead>"]
    for section, rows in sections(grid):
        lines.append(f'<tbody class="{rows[0].section.lower()}">')
        lines.append(f'<tr><th scope="rowgroup" colspan="{width}">{section}</th></tr>')
        for row in rows:
            name = f'<th scope="row">{esc(row.method)}{sup(row.marks)}</th>'
            rest = f"<td>{esc(row.size)}</td><td>{esc(row.source)}</td>"
            lines.append(f"<tr>{name}{rest}{''.join(map(cell, row.cells))}</tr>")
        lines.append("</tbody>")
    lines.append("</table>")
    lines += [f'<p class="groma-note">{sup([m] if m else [])} {esc(text)}</p>' for m, text in grid.notes]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Grid, str], str]] = {
    "text": _text,
    "md": _md,
    "latex": latex,
    "csv": _csv,
    "html": _html,
}
