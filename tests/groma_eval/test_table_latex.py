"""LaTeX: escaping sign by sign, and real compilation where a TeX engine is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from decimal import Decimal

import pytest
from conftest import ROOT

from groma_eval.table_columns import Column
from groma_eval.table_formats import render
from groma_eval.table_grid import Cell, Grid, Row, Table
from groma_eval.table_latex import escape, label
from groma_eval.table_set import build_set
from groma_eval.tables import build_table

ENGINE = next((name for name in ("pdflatex", "lualatex", "xelatex") if shutil.which(name)), None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("50% & a_b #1 $x {y}", r"50\% \& a\_b \#1 \$x \{y\}"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("--limit ?` !` ,,", "-{}-limit ?{}` !{}` ,{},"),
        ("Müller Ñ ç Ế İ", "M\\\"{u}ller \\~{N} \\c{c} \\'{\\^{E}} \\.{I}"),
        ("e\u0301", r"\'{e}"),
        ("µ μ Ω λ", r"$\mu$ $\mu$ $\Omega$ $\lambda$"),
        ("“a” – 3×4 ≥ 2…", r"``a'' -- 3$\times$4 $\geq$ 2\ldots{}"),
        ("ﬁ ｘ ²", "fi x 2"),
        ("中 ❤", r"\texttt{U+4E2D} \texttt{U+2764}"),
        ("a\nb\u202ec\x1b", "a b c"),
    ],
)
def test_escape(text, wanted):
    assert escape(text) == wanted


def test_labels_hold_nothing_special():
    assert label("tab:rec {50%}_\\x") == "tab:rec-50-x"


def table(texts, columns=2):
    cells = [Cell(Decimal("91.00"), Decimal("0.52"), place=1, bounds=(Decimal("90.5"), Decimal("91.5")))] * columns
    rows = [Row("Measured", text, "7B", text, cells, ["†", "↑"], "") for text in texts]
    heads = [Column(f"group {i // 2} {texts[0]}", f"head {i} {texts[0]}") for i in range(columns)]
    notes = [("", texts[0]), ("†", texts[-1]), ("↑", "higher"), ("a", "b")]
    return Table("rec", [Grid("rec", f"Caption {texts[0]}", heads, rows, notes, "tab:x")])


def typeset(tmp_path, *tables):
    """The log of a document of these tables and of references to their labels; a failed compilation fails the test."""
    if ENGINE is None:
        pytest.skip("no TeX engine here; install texlive-latex-base and texlive-latex-recommended to run this")
    packages = {p for t in tables for found in re.findall(r"% needs \\usepackage\{(.*)\}", t) for p in found.split(",")}
    labels = [name for t in tables for name in re.findall(r"\\label\{(.*)\}", t)]
    body = "\n".join(tables) + "".join(f"\nSee \\ref{{{name}}}." for name in labels)
    source = "\\documentclass{article}\n" + "".join(f"\\usepackage{{{p}}}\n" for p in sorted(packages))
    source += f"\\begin{{document}}\n\\listoftables\n{body}\n\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(source, encoding="utf-8")
    command = [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    for _ in range(2):  # the second pass reads back captions and labels
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        log = (tmp_path / "t.log").read_text(encoding="utf-8", errors="replace")
        assert done.returncode == 0, "\n".join(line for line in log.splitlines() if line.startswith(("!", "l.")))
    return log


def test_nasty_names_compile(tmp_path):
    ascii_signs = "".join(map(chr, range(32, 127)))
    assorted = "".join(chr(c) for c in range(0xA0, 0x2600) if unicodedata.category(chr(c))[0] in "LNPS")[::7]
    texts = [ascii_signs, r"\input{/x}\write18{id} $$ ^^5c %", "[2em] *", "中文 ❤ é ß ﬁ Ω", assorted]
    log = typeset(tmp_path, render(table(texts), "latex", "bounds"), render(table(texts[1:4], 10), "latex", "half"))
    assert "undefined references" not in log
    assert "Missing character" not in log


def test_the_shipped_set_compiles(tmp_path):
    files = build_set(ROOT / "results" / "paper" / "tables.yaml", tmp_path)
    log = typeset(tmp_path, *(text for name, text in files.items() if name.endswith(".tex")))
    assert "undefined references" not in log
    assert "in paragraph" not in "".join(line for line in log.splitlines() if line.startswith("Overfull"))


def test_the_papers_tables_compile_and_fit(tmp_path):
    tables = (render(build_table(kind, (), "all"), "latex") for kind in ("rec", "grounding", "caption", "vqa"))
    log = typeset(tmp_path, *tables)
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\) in paragraph", log)]
    assert not wide
