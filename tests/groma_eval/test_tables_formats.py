"""Every format against a table typed out, and with names that try to break out of it."""

from __future__ import annotations

import argparse
import csv
import html.parser
import io
import itertools
import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.cli import table as command
from groma_eval.core import HarnessError
from groma_eval.table_columns import Column
from groma_eval.table_formats import FORMATS, render
from groma_eval.table_grid import Cell, Grid, Row, Table, clean


def small(method="my_model", note="limit=10", head="testA"):
    columns = [Column("RefCOCO", "val"), Column("RefCOCO", head), Column("", "Average")]
    published = [Cell(Decimal("89.53"), place=2), Cell(Decimal("92.09"), place=1), Cell(Decimal("90.81"))]
    measured = [Cell(Decimal("91.00"), Decimal("0.52"), place=1), Cell(Decimal("9.50"), marks=["†"]), Cell()]
    rows = [
        Row("Published", "Groma", "7B", "[1]", published, ["a"]),
        Row("Measured", method, "12M", "4f&2", measured),
    ]
    notes = [("", "Measured rows: protocol paper."), ("†", note), ("a", "no fine-tuning")]
    notes.append(("[1]", "arXiv:2404.13013v1, Table 2"))
    return Table("rec", [Grid("rec", "Accuracy (%)", columns, rows, notes)])


GOLDEN = {
    "text": """Accuracy (%)
--------------------------------------------------------------
                                    RefCOCO
                           --------------------------
Method       Size  Source              val      testA  Average
--------------------------------------------------------------
Published
  Groma (a)  7B    [1]      _89.53_         **92.09**    90.81
Measured
  my_model   12M   4f&2    **91.00** ±0.52     9.50†         –
--------------------------------------------------------------
**best**, _second_ of the cells of one protocol
Measured rows: protocol paper.
† limit=10
a no fine-tuning
[1] arXiv:2404.13013v1, Table 2
""",
    "md": r"""**Accuracy (%)**

| Method | Size | Source | RefCOCO val | RefCOCO testA | Average |
|---|---|---|---:|---:|---:|
| *Published* | | | | | |
| Groma<sup>a</sup> | 7B | \[1\] | <ins>89.53</ins> | **92.09** | 90.81 |
| *Measured* | | | | | |
| my\_model | 12M | 4f&amp;2 | **91.00** ±0.52 | 9.50<sup>†</sup> | – |

- Measured rows: protocol paper.
- <sup>†</sup> limit=10
- <sup>a</sup> no fine-tuning
- <sup>\[1\]</sup> arXiv:2404.13013v1, Table 2
""",
    "latex": r"""% needs \usepackage{booktabs}
\begin{table*}[t]
\centering
\caption{Accuracy (\%)}
\begin{tabular}{lllrrr}
\toprule
 &  &  & \multicolumn{2}{c}{RefCOCO} & \multicolumn{1}{c}{} \\
\cmidrule(lr){4-5}
Method & Size & Source & val & testA & Average \\
\midrule
\multicolumn{6}{l}{\textit{Published}} \\
Groma\textsuperscript{a} & 7B & {[}1{]} & \underline{89.53} & \textbf{92.09} & 90.81 \\
\midrule
\multicolumn{6}{l}{\textit{Measured}} \\
my\_model & 12M & 4f\&2 & \textbf{91.00}\,{\scriptsize $\pm$0.52} & 9.50\textsuperscript{\dag{}} & -- \\
\bottomrule
\end{tabular}

\smallskip
\begin{minipage}{\textwidth}\footnotesize
Measured rows: protocol paper.\par
\textsuperscript{\dag{}} limit=10\par
\textsuperscript{a} no fine-tuning\par
\textsuperscript{{[}1{]}} arXiv:2404.13013v1, Table 2\par
\end{minipage}
\end{table*}
""",
    "csv": """table,section,method,size,source,RefCOCO val,RefCOCO val ±,RefCOCO testA,Average,notes
Accuracy (%),Published,Groma,7B,"arXiv:2404.13013v1, Table 2",89.53,,92.09,90.81,no fine-tuning
Accuracy (%),Measured,my_model,12M,4f&2,91.00,0.52,9.50,,limit=10
""",
    "html": """<table class="groma-table">
<caption>Accuracy (%)</caption>
<thead><tr><th scope="col" rowspan="2">Method</th><th scope="col" rowspan="2">Size</th><th scope="col" rowspan="2">Source</th><th scope="colgroup" colspan="2">RefCOCO</th><th scope="colgroup" colspan="1"></th></tr>
<tr><th scope="col">val</th><th scope="col">testA</th><th scope="col">Average</th></tr></thead>
<tbody class="published">
<tr><th scope="rowgroup" colspan="6">Published</th></tr>
<tr><th scope="row">Groma<sup>a</sup></th><td>7B</td><td>[1]</td><td><u>89.53</u></td><td><b>92.09</b></td><td>90.81</td></tr>
</tbody>
<tbody class="measured">
<tr><th scope="rowgroup" colspan="6">Measured</th></tr>
<tr><th scope="row">my_model</th><td>12M</td><td>4f&amp;2</td><td><b>91.00</b> <small>&#177;0.52</small></td><td>9.50<sup>&#8224;</sup></td><td>&#8211;</td></tr>
</tbody>
</table>
<p class="groma-note"> Measured rows: protocol paper.</p>
<p class="groma-note"><sup>&#8224;</sup> limit=10</p>
<p class="groma-note"><sup>a</sup> no fine-tuning</p>
<p class="groma-note"><sup>[1]</sup> arXiv:2404.13013v1, Table 2</p>
""",  # noqa: E501
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_golden(fmt):
    assert render(small(), fmt, intervals=True) == GOLDEN[fmt]


@pytest.mark.parametrize("fmt", FORMATS)
def test_without_intervals_there_are_none(fmt):
    text = render(small(), fmt)
    assert "0.52" not in text
    assert "91.00" in text


def test_text_lines_up():
    lines = render(small(), "text", intervals=True).splitlines()
    rows = [line for line in lines if "7B" in line or "12M" in line]
    assert len({line.index(".") for line in (row[25:] for row in rows)}) == 1


def test_grids_follow_each_other():
    table = Table("all", small().grids * 2)
    assert render(table, "md").count("**Accuracy (%)**") == 2


NASTY = 'a\\b & c_d 50% #1 {x} ~y ^z $m$ <b>*[l](u)*|`q`\n\x1b[31mred\u202e "q"'


def test_text_drops_control_characters():
    text = render(small(NASTY), "text")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == len(GOLDEN["text"].splitlines())


def test_latex_escapes_every_special():
    text = render(small(NASTY, NASTY), "latex")
    row = next(line for line in text.splitlines() if "12M" in line)
    assert row.startswith(
        r"a\textbackslash{}b \& c\_d 50\% \#1 \{x\} \textasciitilde{}y \textasciicircum{}z \$m\$ "
        r"\textless{}b\textgreater{}{*}{[}l{]}(u){*}\textbar{}`q` {[}31mred ''q'' & 12M"
    )


@given(st.text(max_size=40))
def test_latex_rows_keep_their_cells_and_balance(name):
    text = render(small(name), "latex")
    row = next(line for line in text.splitlines() if "& 12M &" in line)
    assert len(re.findall(r"(?<!\\)&", row)) == 5
    assert row.endswith(r" \\")
    bare = re.sub(r"\\[{}&%$#_]", "", row)
    assert bare.count("{") == bare.count("}")
    assert row.isascii()
    # "~" and "^" only as accents.
    assert not re.search(r"(?<!\\)[~^]|[\x00-\x1f]", bare)


@pytest.mark.parametrize("name", ["[x]", "*", "*[2em]"])
def test_latex_line_breaks_take_no_argument(name):
    lines = render(small(name), "latex").splitlines()
    for before, line in itertools.pairwise(lines):
        if before.endswith(r"\\"):
            assert not line.startswith(("[", "*"))


@given(st.text(max_size=40))
def test_markdown_rows_keep_their_cells(name):
    lines = render(small(name), "md").splitlines()
    row = next(line for line in lines if "| 12M |" in line)
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 7
    assert "<" not in re.sub(r"</?(sup|ins)>", "", row)


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@given(st.text(max_size=40))
def test_html_holds_no_foreign_tags(name):
    plain, other = Reader(), Reader()
    plain.feed(render(small("x"), "html"))
    text = render(small(f"<script>{name}", f'"><img src=x>{name}'), "html")
    other.feed(text)
    assert other.tags == plain.tags
    assert text.isascii()
    assert clean(f"<script>{name}") in other.text


@given(st.text(max_size=40))
def test_csv_reads_back_and_holds_no_formula(name):
    rows = list(csv.reader(io.StringIO(render(small(name), "csv"))))
    assert {len(row) for row in rows} == {9}
    assert rows[2][2].lstrip("'") == clean(name).lstrip("'")
    assert len(rows[2][2]) < 2 or rows[2][2][0] not in "=+-@"


def test_csv_formula_is_defused():
    assert "'=1+1" in render(small("=1+1"), "csv")


def test_csv_run_id_is_not_taken_for_a_footnote():
    table = small()
    table.grids[0].rows[1].source = "a"
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [row["source"] for row in rows] == ["arXiv:2404.13013v1, Table 2", "a"]


def test_unknown_format():
    with pytest.raises(HarnessError, match="choose one of text, md, latex, csv, html"):
        render(small(), "pdf")


def parse(*args):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(args)


def test_command_prints_and_writes(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    entry = {"version": 1, "protocol": "paper", "task": "vqa", "family": "mine", "split": "test", "deviations": []}
    entry["leakage"] = {"status": "clean", "images": 0, "of": 4}
    manifest = {"run_id": "0ff", "model": {"name": "m", "size": "1M"}, "benchmarks": {"mine": entry}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "metrics.json").write_text(json.dumps({"mine": {"metrics": {"accuracy": 12.35}, "counts": {}}}))
    assert command.run(parse("vqa", str(run), "--format", "csv")) == 0
    assert capsys.readouterr().out.splitlines()[1] == "Question answering (%): mine,Measured,m,1M,0ff,12.4,"
    out = tmp_path / "new" / "t.md"
    assert command.run(parse("all", str(run), "--baselines", "none", "--format", "md", "--out", str(out))) == 0
    assert "| m | 1M | 0ff | 12.4 |" in out.read_text(encoding="utf-8")
    with pytest.raises(HarnessError, match="cannot be written"):
        command.run(parse("vqa", str(run), "--out", str(run / "metrics.json" / "x")))


def test_command_prints_the_papers_rows_without_runs(capsys):
    assert command.run(parse("grounding")) == 0
    assert "**28.8**" in capsys.readouterr().out
