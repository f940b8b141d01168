"""Chosen rows and columns: what stays, in which order, what is then best, and which footnotes are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from finished_runs import refcoco, shapes, write_run

from groma_eval.core import HarnessError
from groma_eval.table_choice import Choice, Mark
from groma_eval.table_grid import Table
from groma_eval.tables import build_table, captioned


def rec(tmp_path=None, baselines="paper", runs=(), **choice):
    return build_table("rec", runs, baselines, Choice(**choice))


def places(grid, head, group):
    at = next(i for i, c in enumerate(grid.columns) if (c.group, c.head) == (group, head))
    return {row.method: row.cells[at].place for row in grid.rows}


def test_columns_come_in_the_order_asked_and_the_average_is_still_of_all_eight():
    (grid,) = rec(columns=("average", "refcocog *", "RefCOCO val")).grids
    assert [(c.group, c.head) for c in grid.columns] == [
        ("", "Average"), ("RefCOCOg", "val"), ("RefCOCOg", "test"), ("RefCOCO", "val"),
    ]  # fmt: skip
    groma = next(row for row in grid.rows if row.method == "Groma")
    assert [cell.text for cell in groma.cells] == ["86.52", "86.37", "87.01", "89.53"]


def test_footnotes_of_what_is_gone_are_gone_and_the_others_numbered_anew():
    whole = rec().grids[0]
    (grid,) = rec(columns=("RefCOCOg *",)).grids
    assert "VisionLLM-H" in [row.method for row in whole.rows]  # it has RefCOCO val alone
    assert "VisionLLM-H" not in [row.method for row in grid.rows]
    used = {mark for row in grid.rows for mark in [*row.marks, row.source, *(m for c in row.cells for m in c.marks)]}
    assert {mark for mark, _ in grid.notes if mark} == used
    texts, before = dict(grid.notes), dict(whole.notes)
    for row in grid.rows:
        old = next(r for r in whole.rows if r.method == row.method)
        assert [texts[m] for m in row.marks] == [before[m] for m in old.marks]
        assert texts[row.source] == before[old.source]
    assert next(mark for mark, _ in grid.notes if mark.startswith("[")) == "[1]"


def test_best_and_second_are_of_the_chosen_rows():
    (grid,) = rec(rows=("Shikra", "ferret", "MiniGPT*")).grids
    assert [row.method for row in grid.rows] == ["Shikra", "Ferret", "MiniGPT-v2"]
    assert places(grid, "val", "RefCOCO") == {"Shikra": 0, "Ferret": 2, "MiniGPT-v2": 1}
    (grid,) = rec(rows=("MiniGPT*", "Shikra")).grids
    assert [row.method for row in grid.rows] == ["MiniGPT-v2", "Shikra"]


def test_settings_choose_among_published_rows():
    (grid,) = rec(settings=("fine-tuned",)).grids
    assert [row.method for row in grid.rows] == ["MDETR", "Grounding-DINO-L", "UNINEXT-L"]


def test_unranked_rows_are_shown_with_the_reason():
    (grid,) = rec(unranked={"qwen-vl": "larger"}).grids
    row = next(row for row in grid.rows if row.method == "Qwen-VL")
    assert "not ranked: larger" in [dict(grid.notes)[mark] for mark in row.marks]
    assert {cell.place for cell in row.cells} == {0}
    assert places(grid, "testA", "RefCOCO")["Groma"] == 1
    assert places(rec().grids[0], "testA", "RefCOCO") | {"Groma": 2, "Qwen-VL": 1} == places(
        rec().grids[0], "testA", "RefCOCO"
    )


def test_runs_are_chosen_by_name_or_id(tmp_path):
    runs = [write_run(tmp_path / n, n, shapes({"acc@0.5": v}), f"id-{n}") for n, v in (("a", 1.0), ("b", 2.0))]
    (grid,) = build_table("rec", runs, choice=Choice(rows=("id-b", "a"))).grids
    assert [row.method for row in grid.rows] == ["b", "a"]
    (grid,) = build_table("rec", runs, choice=Choice(rows=("b",))).grids
    assert [(row.method, row.cells[0].place) for row in grid.rows] == [("b", 0)]


def test_families_keep_the_papers_columns_whatever_the_runs_have(tmp_path):
    benchmarks = dict(list(refcoco([50.0] * 8).items())[-1:]) | shapes({"acc@0.5": 1.0})
    run = write_run(tmp_path / "r", "m", benchmarks)
    (grid,) = rec(runs=[run], families=("RefCOCO", "RefCOCO+", "RefCOCOg")).grids
    assert len(grid.columns) == 9
    row = next(row for row in grid.rows if row.section == "Measured")
    assert [cell.text for cell in row.cells] == ["–"] * 7 + ["50.00", "–"]
    (grid,) = rec(runs=[run], families=("shapes-rec",)).grids
    assert [c.group for c in grid.columns] == ["shapes-rec"]


def test_marks_stand_on_their_cells_alone(tmp_path):
    run = write_run(tmp_path / "r", "m", refcoco([50.0] * 8), "id")
    mark = Mark("↑", "higher than x")
    marks = {("id", family, split, "acc@0.5"): mark for family, split in (("RefCOCO", "val"), ("RefCOCOg", "test"))}
    (grid,) = build_table("rec", [run], "none", Choice(marks=marks)).grids
    assert [c.marks for c in grid.rows[0].cells] == [["↑"]] + [[]] * 6 + [["↑"], []]
    assert ("↑", "higher than x") in grid.notes
    every = dict.fromkeys([("id", f, s, "acc@0.5") for f, s in {(c.family, c.split) for c in grid.columns}], mark)
    (grid,) = build_table("rec", [run], "none", Choice(marks=every, columns=("RefCOCO *", "Average"))).grids
    assert [c.marks for c in grid.rows[0].cells] == [["↑"]] * 3 + [[]]  # not lifted to the method's name
    assert ("↑", "higher than x") in grid.notes


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"columns": ("val", "nothing*")}, "column 'nothing*' fits nothing; there are: RefCOCO val, RefCOCO testA"),
        ({"rows": ("Grooma",)}, "row 'Grooma' fits nothing; there are: MDETR, Grounding-DINO-L"),
        ({"rows": ("Groma",), "settings": ("fine-tuned",)}, "row 'Groma' fits nothing; there are: MDETR"),
        ({"unranked": {"x": "y"}}, "unranked row 'x' fits nothing"),
        ({"families": ("RefCoco",)}, "no benchmark 'RefCoco'; there are: RefCOCO, RefCOCO+, RefCOCOg"),
    ],
)
def test_what_fits_nothing_is_said(choice, message):
    with pytest.raises(HarnessError) as error:
        rec(**choice)
    assert message in str(error.value)


def test_a_caption_belongs_to_the_main_table(tmp_path):
    values = [{"acc@0.5": 90.0, "not_proposed": 4.0, "not_selected": 6.0}] * 8
    run = write_run(tmp_path / "r", "m", refcoco(values))
    table = captioned(build_table("rec", [run]), "Mine", "tab:x")
    assert [(g.title, g.label, g.main) for g in table.grids] == [
        ("Mine", "tab:x", True),
        ("Referring expression comprehension, accuracy at IoU 0.5 (%): errors (% of expressions)", "", False),
    ]
    two = Table("rec", [replace(table.grids[0]), replace(table.grids[0])])
    with pytest.raises(HarnessError, match="needs one table, these are 2: Mine; Mine"):
        captioned(two, "x")
    assert captioned(two) is two
