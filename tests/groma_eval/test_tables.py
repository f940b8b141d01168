"""What stands in a table: rounding, averages, marks, protocols, sections."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.table_footnotes import Footnotes
from groma_eval.tables import average, build_table, half_up

PAPER_REC = {
    f"{f}_{s}": (F, s) for f, F in (("refcoco", "RefCOCO"), ("refcoco+", "RefCOCO+")) for s in ("val", "testA", "testB")
}
PAPER_REC |= {f"refcocog_{s}": ("RefCOCOg", s) for s in ("val", "test")}
# Groma's own eight cells.
GROMA = ["89.53", "92.09", "86.26", "83.90", "88.91", "78.05", "86.37", "87.01"]


@pytest.fixture
def make_run(tmp_path):
    """``make_run(name, {bench: (entry, metrics)})`` writes a finished run and gives its folder."""

    def make(name, benchmarks, run_id=None, counts=None, intervals=None, **model):
        folder = tmp_path / (run_id or name.replace(":", "-"))
        folder.mkdir()
        entries, results = {}, {}
        for bench, (entry, metrics) in benchmarks.items():
            entries[bench] = {"version": 1, "protocol": "paper", "task": "rec", "deviations": []} | entry
            results[bench] = {"metrics": metrics, "counts": counts or {}, "intervals": intervals or {}}
        manifest = {"run_id": run_id or f"run-{name}", "model": {"name": name} | model, "benchmarks": entries}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "metrics.json").write_text(json.dumps(results))
        return folder

    return make


def shapes(metrics, **entry):
    return {"shapes-rec": ({"family": "shapes-rec", "split": "test"} | entry, metrics)}


def refcoco(values, **entry):
    return {
        bench: ({"family": f, "split": s} | entry, {"acc@0.5": v} if not isinstance(v, dict) else v)
        for (bench, (f, s)), v in zip(PAPER_REC.items(), values)
    }


def column(grid, head, group=None):
    at = [i for i, c in enumerate(grid.columns) if c.head == head and group in (None, c.group)]
    assert len(at) == 1
    return {row.method: row.cells[at[0]] for row in grid.rows}


def test_half_up_is_decimal():
    assert str(half_up(2.675, 2)) == "2.68"
    assert round(2.675, 2) == 2.67  # binary has it just below
    assert str(half_up(86.515, 2)) == "86.52"
    assert str(half_up(0.125, 2)) == "0.13"  # and not to even
    assert str(half_up(100, 2)) == "100.00"
    assert str(half_up(1e-7, 1)) == "0.0"
    assert str(half_up(Decimal("2.45"), 1)) == "2.5"


@given(st.lists(st.decimals(0, 100, places=2), min_size=1, max_size=12))
def test_average_is_the_decimal_mean_rounded_half_up(cells):
    mean = sum(map(Fraction, cells)) / len(cells)
    wanted = (mean * 100 + Fraction(1, 2)).__floor__()  # half up, in exact arithmetic
    assert average(cells) * 100 == wanted


def test_average_has_the_most_digits_of_its_cells():
    assert str(average([Decimal("79.3"), Decimal("88.69")])) == "84.00"
    assert str(average([Decimal("90.0"), Decimal("92.5")])) == "91.3"


def test_measured_average_is_made_from_the_printed_cells(make_run):
    # Printed 50.01 eight times, though the exact mean is 50.006.
    run = make_run("m", refcoco([50.005] * 4 + [50.007] * 4))
    grid = build_table("rec", [run], "none").grids[0]
    assert {cell.text for cell in grid.rows[0].cells} == {"50.01"}
    assert len(grid.rows[0].cells) == 9
    # 1.004 is printed 1.00, so the average is 1.00, and not that of 1.004 and 1.006.
    cells = [1.004] * 4 + [1.006] * 4
    other = make_run("n", refcoco(cells))
    assert column(build_table("rec", [other], "none").grids[0], "Average")["n"].text == "1.01"


def test_paper_rows_reproduce_the_printed_average():
    grid = build_table("rec").grids[0]
    assert [c.text for c in next(r for r in grid.rows if r.method == "Groma").cells] == [*GROMA, "86.52"]
    assert [r.section for r in grid.rows] == ["Published"] * 10
    assert column(grid, "Average")["VisionLLM-H"].text == "–"


def test_a_printed_average_that_differs_is_said():
    grid = build_table("rec", (), "all").grids[0]
    row = next(r for r in grid.rows if (r.method, r.size) == ("InternVL3", "8B"))
    assert row.cells[8].text == "89.7"  # the cells' mean is 89.65
    assert "the source prints the average as 89.6" in [dict(grid.notes)[m] for m in row.marks]


def test_a_missing_split_leaves_no_average(make_run):
    run = make_run("m", dict(list(refcoco([50.0] * 8).items())[:7]))
    assert "Average" not in [c.head for c in build_table("rec", [run], "none").grids[0].columns]
    grid = build_table("rec", [run], "paper").grids[0]
    assert column(grid, "Average")["m"].value is None
    assert column(grid, "Average")["Groma"].text == "86.52"


def test_best_second_and_ties(make_run):
    runs = [make_run(n, shapes({"acc@0.5": v})) for n, v in zip("abcd", (90.001, 90.004, 80.0, 70.0))]
    cells = column(build_table("rec", runs).grids[0], "all")
    assert {n: c.place for n, c in cells.items()} == {"a": 1, "b": 1, "c": 2, "d": 0}  # a and b both print 90.00


def test_a_lone_row_has_no_best(make_run):
    run = make_run("a", shapes({"acc@0.5": 90.0}))
    assert column(build_table("rec", [run]).grids[0], "all")["a"].place == 0


def test_bounds_have_their_section_and_oracles_are_not_ranked(make_run):
    runs = [
        make_run("bound:oracle-proposal@m", shapes({"acc@0.5": 99.0}), oracle=True),
        make_run("bound:center", shapes({"acc@0.5": 10.0})),
        make_run("m", shapes({"acc@0.5": 80.0})),
    ]
    grid = build_table("rec", runs).grids[0]
    assert [(r.section, r.method) for r in grid.rows] == [
        ("Measured", "m"),
        ("Bounds", "bound:oracle-proposal@m"),
        ("Bounds", "bound:center"),
    ]
    assert {n: c.place for n, c in column(grid, "all").items()} == {
        "m": 1,
        "bound:oracle-proposal@m": 0,
        "bound:center": 2,
    }
    assert any("looks at the ground truth" in text for _, text in grid.notes)


def test_deviating_rows_are_marked_and_not_ranked(make_run):
    runs = [
        make_run("full", shapes({"acc@0.5": 80.0})),
        make_run("other", shapes({"acc@0.5": 70.0})),
        make_run("cut", shapes({"acc@0.5": 95.0}, deviations=["limit=10"])),
    ]
    grid = build_table("rec", runs).grids[0]
    assert {n: c.place for n, c in column(grid, "all").items()} == {"full": 1, "other": 2, "cut": 0}
    row = next(r for r in grid.rows if r.method == "cut")
    assert row.marks == ["†"]
    assert ("†", "departs from the card's protocol: limit=10") in grid.notes
    assert all(not r.marks for r in grid.rows if r is not row)


def test_rows_that_deviate_alike_compare_with_each_other(make_run):
    runs = [make_run(n, shapes({"acc@0.5": v}, deviations=["limit=10"])) for n, v in (("a", 1.0), ("b", 2.0))]
    grid = build_table("rec", runs).grids[0]
    assert {n: c.place for n, c in column(grid, "all").items()} == {"a": 2, "b": 1}
    assert [r.marks for r in grid.rows] == [["†"], ["†"]]


@pytest.mark.parametrize("change", [{"version": 2}, {"protocol": "released"}])
def test_versions_and_protocols_are_not_compared(make_run, change):
    runs = [
        make_run("a", shapes({"acc@0.5": 10.0})),
        make_run("b", shapes({"acc@0.5": 20.0})),
        make_run("c", shapes({"acc@0.5": 90.0}, **change)),
    ]
    grid = build_table("rec", runs).grids[0]
    places = {n: c.place for n, c in column(grid, "all").items()}
    if "version" in change:  # the newer version is the column's, the two older rows are marked
        assert places == {"a": 0, "b": 0, "c": 0}
        assert [r.marks for r in grid.rows] == [["†"], ["†"], []]
    else:
        assert places == {"a": 2, "b": 1, "c": 0}
        assert [r.marks for r in grid.rows] == [[], [], ["†"]]
    assert sum(text.startswith("measured under protocol") for _, text in grid.notes) == 1


def test_a_deviation_in_one_benchmark_marks_its_cell(make_run):
    benchmarks = refcoco([99.0] * 8)
    benchmarks["refcoco_testA"][0]["deviations"] = ["max_new_tokens=9"]
    grid = build_table("rec", [make_run("m", benchmarks)], "paper").grids[0]
    row = next(r for r in grid.rows if r.section == "Measured")
    assert row.marks == []
    assert [c.marks for c in row.cells] == [[], ["†"]] + [[]] * 7
    assert [c.place for c in row.cells] == [1, 0, 1, 1, 1, 1, 1, 1, 0]  # its average is not ranked either


def test_published_rows_pin_the_column_to_the_papers_protocol(make_run):
    run = make_run("m", refcoco([99.0] * 8, protocol="released"))
    grid = build_table("rec", [run], "paper").grids[0]
    row = next(r for r in grid.rows if r.section == "Measured")
    assert row.marks == ["†"]
    assert all(c.place == 0 for c in row.cells)
    assert any("the column: the paper's" in text for _, text in grid.notes)


def test_uncomparable_published_rows_are_not_ranked():
    grid = build_table("rec", (), "all").grids[0]
    average_column = column(grid, "Average")
    assert average_column["Qwen3-VL-235B-A22B-Thinking"].text == "92.1"
    assert average_column["Qwen3-VL-235B-A22B-Thinking"].place == 0
    assert all(row.cells[0].place == 0 for row in grid.rows if row.method.startswith(("Kosmos", "Florence")))
    assert not any(row.method.startswith(("Rex-Omni", "PaliGemma")) for row in grid.rows)


def test_published_rows_are_cited_and_measured_rows_named_by_run(make_run):
    run = make_run("m", refcoco([50.0] * 8), run_id="0123abc")
    grid = build_table("rec", [run], "paper").grids[0]
    notes = dict(grid.notes)
    for row in grid.rows:
        if row.section == "Published":
            assert "Table" in notes[row.source]
        else:
            assert row.source == "0123abc"


def test_published_rows_stay_away_from_what_they_cannot_stand_beside(make_run):
    run = make_run("m", shapes({"acc@0.5": 90.0}))
    assert [g.title for g in build_table("rec", [run]).grids] == [
        "Referring expression comprehension, accuracy (%): shapes-rec"
    ]
    asked = build_table("rec", [run], "paper").grids
    assert [len(g.rows) for g in asked] == [10, 1]
    assert len(build_table("rec", [run], "none").grids) == 1


def test_only_families_with_measured_values_have_columns(make_run):
    run = make_run("m", {"refcocog_val": ({"family": "RefCOCOg", "split": "val"}, {"acc@0.5": 50.0})})
    grid = build_table("rec", [run]).grids[0]
    assert [(c.group, c.head) for c in grid.columns] == [("RefCOCOg", "val"), ("RefCOCOg", "test")]
    grid = build_table("rec", [run], "none").grids[0]
    assert [c.head for c in grid.columns] == ["val"]


def test_groups_and_errors_of_shapes_rec(make_run):
    numbers = {"acc@0.5": 90.0, "not_proposed": 4.0, "not_selected": 6.0, "miou": 80.0, "acc@0.5/relation": 70.5}
    grid = build_table("rec", [make_run("m", shapes(numbers))]).grids[0]
    assert [(c.group, c.head) for c in grid.columns] == [
        ("shapes-rec", "all"),
        ("shapes-rec", "relation"),
        ("boxes", "mean IoU"),
        ("errors (% of expressions)", "not proposed"),
        ("errors (% of expressions)", "not selected"),
    ]
    assert [c.text for c in grid.rows[0].cells] == ["90.00", "70.50", "80.00", "4.00", "6.00"]


def test_several_splits_of_a_family_share_a_grid(make_run):
    entry = {"task": "vqa", "family": "mine"}
    benchmarks = {f"mine-{s}": (entry | {"split": s}, {"accuracy": 1.0, "accuracy/counting": 2.0}) for s in ("a", "b")}
    (grid,) = build_table("vqa", [make_run("m", benchmarks)]).grids
    assert [c.group for c in grid.columns] == ["mine a", "mine a: by type", "mine b", "mine b: by type"]


def test_errors_of_many_splits_have_a_grid_of_their_own(make_run):
    values = [{"acc@0.5": 90.0, "not_proposed": 4.0, "not_selected": 6.0}] * 8
    grids = build_table("rec", [make_run("m", refcoco(values))]).grids
    assert [len(g.columns) for g in grids] == [9, 16]
    assert len(grids[1].rows) == 1


def test_a_column_that_is_not_ranked_has_no_best(make_run):
    runs = [make_run(n, shapes({"acc@0.5": v, "not_proposed": v})) for n, v in (("a", 1.0), ("b", 2.0))]
    assert {c.place for c in column(build_table("rec", runs).grids[0], "not proposed").values()} == {0}


def test_answers_that_did_not_come_out_are_counted(make_run):
    run = make_run("m", refcoco([50.0] * 8), counts={"unparsed": 2, "failed": 0, "ok": 9})
    clean = make_run("n", refcoco([50.0] * 8))
    grid = build_table("rec", [run, clean], "paper").grids[0]
    assert [c.head for c in grid.columns if c.count] == ["unparsed"]
    cells = column(grid, "unparsed")
    assert (cells["m"].text, cells["n"].text, cells["Groma"].text) == ("16", "0", "–")


def test_intervals_are_half_widths(make_run):
    run = make_run("m", shapes({"acc@0.5": 90.0}), intervals={"acc@0.5": [88.5, 91.51]})
    assert str(build_table("rec", [run]).grids[0].rows[0].cells[0].half) == "1.51"


def test_absent_numbers_are_dashes(make_run):
    entry = {"task": "proposals", "family": "shapes-proposals", "split": "test"}
    runs = [
        make_run("a", {"p": (entry, {"ap": 50.0, "ar_l": -1.0, "ap50": None, "ap75": float("nan")})}),
        make_run("b", {"p": (entry, {"ap": 40.0, "ar@100": 3.0})}),
    ]
    grid = build_table("proposals", runs).grids[0]
    assert [c.head for c in grid.columns] == ["AP", "AR@100"]
    assert [c.text for c in grid.rows[0].cells] == ["50.0", "–"]


def test_benchmarks_of_one_family_and_split_are_both_kept(make_run):
    entry = {"task": "vqa", "family": "mine", "split": "test"}
    run = make_run("m", {"one": (entry, {"accuracy": 10.0}), "two": (entry, {"accuracy": 20.0})})
    grids = build_table("vqa", [run]).grids
    assert [g.rows[0].cells[0].text for g in grids] == ["10.0", "20.0"]


def test_all_prints_what_the_runs_have(make_run):
    run = make_run(
        "m",
        shapes({"acc@0.5": 1.0})
        | {"g": ({"task": "grounding", "family": "shapes-ground", "split": "test"}, {"ar": 2.0, "ar/r": 3.0})}
        | {"c": ({"task": "caption", "family": "shapes-caption", "split": "test"}, {"cider": 2.0, "attr/size": 3.0})},
    )
    assert [g.kind for g in build_table("all", [run]).grids] == ["rec", "grounding", "caption"]
    assert [g.kind for g in build_table("all").grids] == ["rec", "grounding", "caption", "vqa"]


def test_measured_meteor_is_marked_and_not_ranked_with_published(make_run):
    entry = {"task": "caption", "family": "RefCOCOg", "split": "val"}
    runs = [make_run(n, {"c": (entry, {"meteor": 99.0, "cider": v})}) for n, v in (("a", 200.0), ("b", 150.0))]
    grid = build_table("caption", runs).grids[0]
    assert {n: c.place for n, c in column(grid, "METEOR").items() if c.place} == {"Groma": 1, "GLaMM (re-evaluated)": 2}
    assert {n: c.place for n, c in column(grid, "CIDEr").items() if c.place} == {"a": 1, "b": 2}
    marks = {n: c.marks for n, c in column(grid, "METEOR").items()}
    assert (marks["a"], marks["b"], marks["Groma"]) == (["†"], ["†"], [])
    assert "without synonyms and paraphrases" in dict(grid.notes)["†"]
    alone = build_table("caption", runs, "none").grids[0]
    assert [c.place for c in column(alone, "METEOR").values()] == [1, 1]


def test_model_notes_are_footnotes(make_run):
    run = make_run("m", shapes({"acc@0.5": 1.0}), notes=["uses a pointer head"])
    grid = build_table("rec", [run]).grids[0]
    assert grid.rows[0].marks == ["a"]
    assert ("a", "uses a pointer head") in grid.notes


def test_footnote_marks_run_on():
    notes = Footnotes()
    assert [notes.letter(str(i)) for i in range(28)][24:] == ["y", "z", "aa", "ab"]
    assert [notes.dagger(str(i)) for i in range(6)] == ["†", "‡", "§", "¶", "‖", "††"]
    assert notes.cite("x") == notes.cite("x") == "[1]"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "metrics.json").unlink(), "metrics.json: missing"),
        (lambda f: (f / "manifest.json").write_text("{\n,"), "manifest.json line 2: not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "the top level must be an object"),
        (lambda f: (f / "manifest.json").write_text('{"model": {}}'), "benchmarks must be an object"),
        (lambda f: (f / "metrics.json").write_text('{"x": {"metrics": {}}}'), "'x' does not stand in manifest.json"),
        (
            lambda f: (f / "metrics.json").write_text('{"shapes-rec": {"metrics": {"acc@0.5": "9"}}}'),
            "shapes-rec.metrics.acc@0.5 is not a number",
        ),
    ],
)
def test_bad_runs_give_one_clear_line(make_run, spoil, message):
    folder = make_run("m", shapes({"acc@0.5": 1.0}))
    spoil(folder)
    with pytest.raises(HarnessError) as error:
        build_table("rec", [folder])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_calls(make_run, tmp_path):
    run = make_run("m", shapes({"acc@0.5": 1.0}))
    with pytest.raises(HarnessError, match="hold rec"):
        build_table("vqa", [run])
    with pytest.raises(HarnessError, match="not a run folder"):
        build_table("rec", [tmp_path / "nowhere"])
    with pytest.raises(HarnessError, match="unknown table 'x'"):
        build_table("x", [run])
    with pytest.raises(HarnessError, match="unknown baselines"):
        build_table("rec", [run], "some")
    with pytest.raises(HarnessError, match="nothing to print"):
        build_table("rec", (), "none")
