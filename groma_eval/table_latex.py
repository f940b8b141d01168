"""A table in LaTeX, with booktabs' rules. It compiles with pdfLaTeX, XeLaTeX and LuaLaTeX whatever stands in it."""

from __future__ import annotations

import re
import unicodedata

from groma_eval.table_columns import merge_heads
from groma_eval.table_grid import Cell, Grid, clean, interval, sections

#: More number columns than this are shrunk to the width of the text where they are wider.
WIDE = 3

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # After a line's "\\" a star or a bracket would be read as the line break's argument.
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "‖": r"$\|$",
    "±": r"$\pm$",
}
#: Letters and signs that pdfLaTeX's fonts have under another name.
_NAMED = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "—": "---", "‐": "-", "−": "$-$", "‘": "`", "’": "'", "“": "``",
    "”": "''", "…": r"\ldots{}", "·": r"$\cdot$", "•": r"\textbullet{}", "°": r"\textdegree{}", "£": r"\pounds{}",
    "©": r"\copyright{}", "®": r"\textregistered{}", "™": r"\texttrademark{}", "×": r"$\times$", "÷": r"$\div$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "∞": r"$\infty$", "√": r"$\surd$",
    "←": r"$\leftarrow$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "↔": r"$\leftrightarrow$",
    "∈": r"$\in$", "∗": r"$\ast$", "★": r"$\star$", "△": r"$\triangle$", "✓": r"$\surd$", "¿": "?`", "¡": "!`",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi"
_GREEK_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
for _letters, _names in (("αβγδεζηθικλμνξπρστυφχψω", f"{_GREEK} omega"), ("ΓΔΘΛΞΠΣΦΨΩ", _GREEK_CAPITALS)):
    _NAMED |= {letter: rf"$\{name}$" for letter, name in zip(_letters, _names.split(), strict=True)}
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b",
}  # fmt: skip
#: Pairs that TeX's fonts would join to one sign.
_JOINED = frozenset(("--", "?`", "!`", ",,", "``", "''"))


def escape(text: str) -> str:
    """``text`` as LaTeX prints it, in one line of ASCII. A sign that pdfLaTeX's fonts have not is named by its number,
    as in ``U+4E2D``."""
    pieces, before = [], ""
    for c in unicodedata.normalize("NFC", clean(text)):
        pieces.append(("{}" if before + c in _JOINED else "") + _sign(c))
        before = c
    return "".join(pieces)


def _sign(c: str) -> str:
    known = _SPECIAL.get(c) or _NAMED.get(c)
    if known or c.isascii():
        return known or c
    base, *accents = unicodedata.normalize("NFD", c)
    if accents and base.isascii() and base.isalpha() and all(a in _ACCENTS for a in accents):
        for accent in accents:
            base = rf"\{_ACCENTS[accent]}{{{base}}}"
        return base
    alike = unicodedata.normalize("NFKC", c)
    if alike != c and all(a.isascii() or a in _NAMED for a in alike):
        return "".join(map(_sign, alike))
    return rf"\texttt{{U+{ord(c):04X}}}"


def label(text: str) -> str:
    """Whether-or-not-safe text as a label: letters, digits and ``:.-`` kept, others made hyphens."""
    return re.sub(r"[^A-Za-z0-9:.\-]+", "-", text)


def latex(grid: Grid, intervals: str) -> str:
    """One grid as a floating table over the page's width; the comment in its first line says what it needs."""
    places = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}

    def sup(marks: list[str]) -> str:
        return rf"\textsuperscript{{{','.join(map(escape, marks))}}}" if marks else ""

    def cell(c: Cell) -> str:
        half = interval(c, intervals)
        if half:
            half = rf"\,{{\scriptsize {escape(half)}}}"
        return places[c.place].format(escape(c.text)) + sup(c.marks) + half

    heads = ("Method", "Size", "Source")
    width = len(heads) + len(grid.columns)
    upper, rules, at = ["", "", ""], [], len(heads) + 1
    for group, span in merge_heads(grid.columns):
        upper.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
        at += span
    fit = len(grid.columns) > WIDE
    lines = [f"% needs \\usepackage{{booktabs{',graphicx' if fit else ''}}}", r"\begin{table*}[t]", r"\centering"]
    lines.append(rf"\caption{{{escape(grid.title)}}}")
    if grid.label:
        lines.append(rf"\label{{{label(grid.label)}}}")
    if fit:
        lines.append(r"\sbox0{%")
    lines += [rf"\begin{{tabular}}{{lll{'r' * len(grid.columns)}}}", r"\toprule"]
    if rules:
        lines += [" & ".join(upper) + r" \\", "".join(rules)]
    lines += [" & ".join([*heads, *(escape(c.head) for c in grid.columns)]) + r" \\"]
    for section, rows in sections(grid):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{section}}}}} \\"]
        for row in rows:
            cells = [escape(row.method) + sup(row.marks), escape(row.size), escape(row.source), *map(cell, row.cells)]
            lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}%" if fit else "")]
    if fit:
        lines.append(r"\ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}\else\usebox0\fi")
    if grid.notes:
        notes = [f"{sup([mark])} {escape(text)}" if mark else escape(text) for mark, text in grid.notes]
        lines += ["", r"\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        lines += [rf"{note}\par" for note in notes] + [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"
