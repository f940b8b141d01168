"""tables.yaml: a whole set from one file, its mistakes in one line, and the shipped one against the paper's numbers."""

from __future__ import annotations

import csv
import io
import re
from decimal import Decimal

import pytest
from conftest import ROOT
from finished_runs import refcoco, shapes, write_answered, write_run

from groma_eval.baseline_rows import load_baselines
from groma_eval.cli import evaluate
from groma_eval.core import HarnessError
from groma_eval.table_set import FIELDS, build_set, find_runs, load_set

PAPER = ROOT / "results" / "paper" / "tables.yaml"
SPLITS = [(f, s) for f in ("RefCOCO", "RefCOCO+") for s in ("val", "testA", "testB")] + [("RefCOCOg", "val")]
SPLITS += [("RefCOCOg", "test")]


def write(tmp_path, text):
    path = tmp_path / "tables.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run(*arguments):
    return evaluate.main(["table", *map(str, arguments)])


def table2(tmp_path):
    """Method to its nine cells, and the methods set bold or underlined in each column."""
    text = build_set(PAPER, tmp_path)["table2_rec.tex"]
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.removesuffix(r"\\").split(" & ")]
        if len(cells) == 12 and cells[0] not in ("", "Method"):
            rows[re.sub(r"\\textsuperscript\{.*?\}", "", cells[0])] = cells[3:]
    assert len(rows) == 10
    best, second = (
        [{m for m, cells in rows.items() if cells[i].startswith(sign)} for i in range(9)]
        for sign in (r"\textbf", r"\underline")
    )
    return {m: [re.sub(r"\\\w+\{(.*)\}", r"\1", cell) for cell in cells] for m, cells in rows.items()}, best, second


def test_table_2_has_the_papers_numbers(tmp_path):
    rows, _, _ = table2(tmp_path)
    wanted: dict[str, list[str]] = {}
    for b in load_baselines("rec"):
        if b.in_groma_table:
            at = 8 if b.split == "average" else SPLITS.index((b.benchmark, b.split))
            wanted.setdefault(b.method, ["--"] * 9)[at] = str(b.value)
    assert rows == wanted
    assert rows["Groma"] == ["89.53", "92.09", "86.26", "83.90", "88.91", "78.05", "86.37", "87.01", "86.52"]


def test_table_2_sets_best_and_second_of_the_compared_models(tmp_path):
    """By plain comparison of the printed numbers: specialists and the row that the paper greys stand aside."""
    rows, best, second = table2(tmp_path)
    aside = {"MDETR", "Grounding-DINO-L", "UNINEXT-L", "Qwen-VL"}
    for i in range(9):
        ranked = {m: Decimal(cells[i]) for m, cells in rows.items() if m not in aside and cells[i] != "--"}
        order = sorted(ranked, key=ranked.__getitem__, reverse=True)
        assert best[i] == {order[0]} == {"Groma"}
        assert second[i] == {order[1]}
    mini, shikra, ferret = {"MiniGPT-v2"}, {"Shikra"}, {"Ferret"}
    assert second == [mini, mini, mini, shikra, ferret, mini, mini, ferret, mini]


def test_table_2_is_that_of_the_reference_file(tmp_path, shared):
    rows, _, _ = table2(tmp_path)
    with (shared / "published" / "rec_wide.csv").open(encoding="utf-8") as file:
        wide = [row for row in csv.reader(file) if "IN GROMA TABLE 2" in row[-1]]
    numbers = {tuple(re.findall(r"\d\d\.\d\d", ",".join(row[4:13]))) for row in wide}
    assert len(numbers) == 10
    assert {tuple(cell for cell in cells if cell != "--") for cells in rows.values()} == numbers


def test_the_shipped_set_has_tables_2_to_5_in_four_formats(tmp_path):
    files = build_set(PAPER, tmp_path)
    assert {name.rsplit(".", 1)[1] for name in files} == {"tex", "md", "csv", "html"}
    assert len(files) == 16
    groma = {}
    for name, text in files.items():
        if name.endswith(".csv"):
            row = next(row for row in csv.DictReader(io.StringIO(text)) if row["method"] == "Groma")
            groma[name] = [v for k, v in row.items() if k[0].isupper()]
            assert row["section"] == "Published"
            assert row["source"].startswith("arXiv:2404.13013v1, Table " + name[5])
    assert groma == {
        "table2_rec.csv": ["89.53", "92.09", "86.26", "83.90", "88.91", "78.05", "86.37", "87.01", "86.52"],
        "table3_lvis_ground.csv": ["28.8", "37.9", "30.3", "8.7", "35.6", "64.3"],
        "table4_region_caption.csv": ["16.8", "107.3", "19.0", "158.4"],
        "table5_llava_bench.csv": ["82.6", "84.0", "88.8", "85.2"],
    }


def test_our_runs_join_the_papers_tables_and_other_runs_do_not(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "mine", "mine", refcoco([95.0] * 8), "0123abc")
    write_run(runs / "tiny", "groma-tiny", shapes({"acc@0.5": 94.6}))
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "manifest.json").write_text("{}")
    text = build_set(PAPER, tmp_path)["table2_rec.md"]
    assert r"| mine | - | 0123abc | **95.00** |" in text
    assert "*Measured*" in text
    assert "groma-tiny" not in text
    assert "| <ins>89.53</ins> |" in text


def test_the_page_shows_table_2_as_it_is_made(tmp_path):
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert build_set(PAPER, tmp_path)["table2_rec.md"] in page


def test_the_page_names_every_field():
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert not [name for name in FIELDS if f"`{name}`" not in page]


def test_one_command_writes_the_set(tmp_path, capsys):
    out = tmp_path / "new" / "tables"
    assert run("--from", PAPER, "--runs-root", tmp_path, "--out", out) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
    assert sorted(p.name for p in out.iterdir()) == sorted(build_set(PAPER, tmp_path))
    assert (out / "table2_rec.tex").read_text(encoding="utf-8") == build_set(PAPER, tmp_path)["table2_rec.tex"]


FULL = """
tables:
  - file: mine
    task: rec
    benchmarks: [shapes-rec]
    published: none
    runs: [runs/a, "runs/*"]
    rows: [b, a]
    columns: [all, a]
    unranked: {b: too large}
    against: runs/a
    intervals: bounds
    caption: 50% & more
    label: tab:x_1
    formats: [latex, text]
"""


def test_every_field(tmp_path):
    for name, right in (("a", 0), ("b", 1)):
        bounds = {"acc@0.5": [100 * right - 1, 100 * right + 1]}
        write_answered(tmp_path / "runs" / name, name, [right] * 40, intervals=bounds)
    files = build_set(write(tmp_path, FULL), tmp_path)
    assert list(files) == ["mine.tex", "mine.txt"]
    lines = files["mine.tex"].splitlines()
    assert r"\caption{50\% \& more}" in lines
    assert r"\label{tab:x-1}" in lines
    up = r"\textsuperscript{$\uparrow$}"
    assert (
        rf"b\textsuperscript{{a}} & - & id-b & 100.00{up}\,{{\scriptsize {{[}}99.00, 101.00{{]}}}} & 100.00{up} \\"
        in lines
    )
    assert r"\textsuperscript{a} not ranked: too large\par" in lines
    assert files["mine.txt"].startswith("50% & more\n")


def test_runs_are_found_by_path_and_by_pattern(tmp_path):
    for name in ("b", "a", "deep/c"):
        write_run(tmp_path / name, "m", shapes({"acc@0.5": 1.0}))
    (tmp_path / "d").mkdir()
    assert find_runs(["*"], tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs(["b", "*"], tmp_path) == [tmp_path / "b", tmp_path / "a"]
    assert find_runs(["**/c"], tmp_path) == [tmp_path / "deep/c"]
    assert find_runs([str(tmp_path / "?")]) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs(["nothing*"], tmp_path) == []


ONE = "tables:\n  - {file: t, task: rec"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: [", "line 1, column 10: not YAML"),
        ("a: 1\n", "unknown field 'a'; there are: formats, tables"),
        ("[]", "must hold 'tables:'"),
        ("tables: []", "tables: must be a list of at least one table"),
        ("formats: pdf\ntables: []", "tables: must be a list"),
        (
            "formats: [pdf]\ntables: [{file: t, task: rec}]",
            "formats: must be one of text, md, latex, csv, html, not 'pdf'",
        ),
        ("tables: [3]", "table 1: must be fields with values"),
        ("tables: [{task: rec}]", "table 1: file: is missing"),
        ("tables: [{file: t}]", "table 1 (t): task: is missing"),
        ("tables: [{file: ../t, task: rec}]", "table 1 (../t): file: must be a file name"),
        ("tables: [{file: .t, task: rec}]", "file: must be a file name"),
        ("tables: [{file: 3, task: rec}]", "table 1: file: must be a file name"),
        ("tables: [{file: t, task: rec}, {file: t, task: vqa}]", "table 2 (t): file: another table has this name too"),
        (ONE + ", colums: [val]}", "table 1 (t): unknown field 'colums'; did you mean columns?"),
        (ONE + ", task: vqa}", "line 2, column 26: not YAML ('task' is given twice)"),
        ("tables: [{file: t, task: ref}]", "table 1 (t): task: must be one of rec, grounding"),
        (ONE + ", columns: []}", "columns: must not be empty; leave the field out"),
        (ONE + ", columns: [1]}", "columns: must be text, not 1"),
        (ONE + ", columns: [nothing]}", "table 1 (t): column 'nothing' fits nothing; there are: RefCOCO val"),
        (ONE + ", rows: [nothing]}", "table 1 (t): row 'nothing' fits nothing"),
        (ONE + ", benchmarks: [RefCoco]}", "table 1 (t): no benchmark 'RefCoco'; there are: RefCOCO, "),
        (ONE + ", published: some}", "published: must be one of paper, all, none"),
        (ONE + ", published: none}", "table 1 (t): runs: is missing, and published is none"),
        (ONE + ", settings: [best]}", "settings: must be one of standard, fine-tuned"),
        (ONE + ", unranked: [Groma]}", "unranked: must be rows with the reason of each"),
        (ONE + ", intervals: true}", "intervals: must be one of none, half, bounds, not True"),
        (ONE + ", caption: ''}", "caption: must be text"),
        (ONE + ", against: runs/a}", "against: needs runs to compare with it"),
        (ONE + ", runs: [absent]}", "table 1 (t): absent: not a run folder"),
        ("tables: [{file: t, task: proposals, runs: x}]", "benchmarks: is missing; the paper has no table"),
        ("tables: [{file: t, task: [1]}]", "task: must be one of"),
        ("? [a]\n: 1", "not YAML"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, text)
    assert run("--from", path, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert str(path) in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", PAPER], "--from needs a folder"),
        (["rec", "--from", PAPER, "--out", "x"], "a table beside --from"),
        (["--from", PAPER, "--out", "x", "--columns", "val"], "--columns beside --from"),
        (["--from", PAPER, "--out", "x", "--bounds"], "--bounds beside --from"),
        (["--from", "absent.yaml", "--out", "x"], "absent.yaml: cannot be read (No such file or directory)"),
        (["rec", "--runs-root", "x"], "--runs-root goes with --from"),
        ([], None),
        (["rec", "--columns", "nothing"], "column 'nothing' fits nothing"),
        (["rec", "--columns", ","], None),
        (["rec", "--bounds", "--intervals"], None),
    ],
)
def test_bad_calls_are_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if message is None:
        with pytest.raises(SystemExit) as error:
            run(*arguments)
        assert error.value.code == 2
    else:
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_options_may_come_before_the_table(tmp_path, capsys):
    folder = write_run(tmp_path / "r", "m", refcoco([50.0] * 8))
    texts = []
    for arguments in (["rec", folder, "--format", "md"], ["--format", "md", "rec", folder]):
        assert run(*arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_an_unreadable_set_and_a_folder_that_cannot_be_made(tmp_path, capsys):
    path = tmp_path / "tables.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HarnessError, match="cannot be read"):
        load_set(path)
    assert run("--from", PAPER, "--runs-root", tmp_path, "--out", path / "x") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_several_tables_in_one_entry_are_refused(tmp_path):
    entry = {"family": "other", "split": "test"}
    write_run(tmp_path / "r", "m", shapes({"acc@0.5": 1.0}) | {"o": (entry, {"acc@0.5": 2.0})})
    path = write(tmp_path, "tables: [{file: t, task: rec, runs: r, benchmarks: [shapes-rec, other], published: none}]")
    with pytest.raises(HarnessError, match=r"table 1 \(t\): benchmarks: these are 2 tables"):
        build_set(path, tmp_path)


def test_the_command_chooses_rows_columns_caption_and_intervals(tmp_path, capsys):
    run_folder = write_run(tmp_path / "r", "m", refcoco([50.0] * 8), "id", intervals={"acc@0.5": [48.5, 51.25]})
    arguments = ["rec", run_folder, "--rows", "Groma,m", "--columns", "RefCOCO val,Average", "--caption", "Mine"]
    assert run(*arguments, "--bounds", "--format", "csv") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0][5:] == ["RefCOCO val", "RefCOCO val low", "RefCOCO val high", "Average", "notes"]
    source = "arXiv:2404.13013v1, Table 2; also FoundationVision/Groma README @d3a95b6"
    assert [row[:5][::2] + row[5:9] for row in rows[1:]] == [
        ["Mine", "Groma", source, "89.53", "", "", "86.52"],
        ["Mine", "m", "id", "50.00", "48.50", "51.25", "50.00"],
    ]
    assert run(*arguments, "--bounds", "--label", "tab:a") == 0
    assert "_50.00_ [48.50, 51.25]" in capsys.readouterr().out
