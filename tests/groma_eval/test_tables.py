"""What stands in a table: rounding, averages, marks, protocols, sections."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from finished_runs import refcoco, shapes, write_run
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.table_footnotes import Footnotes
from groma_eval.table_grid import average, half_up
from groma_eval.tables import build_table

# Groma's own eight cells.
GROMA = ["89.53", "92.09", "86.26", "83.90", "88.91", "78.05", "86.37", "87.01"]


@pytest.fixture
def make_run(tmp_path):
    """``make_run(name, {bench: (entry, metrics)})`` writes a finished run and gives its folder."""

    def make(name, benchmarks, run_id=None, **more):
        return write_run(tmp_path / (run_id or name.replace(":", "-")), name, benchmarks, run_id, **more)

    return make


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


def test_what_a_model_cannot_do_is_not_a_gap(make_run):
    run = make_run("m", refcoco([50.0]))
    refused = {"refcoco_testA": {"family": "RefCOCO", "split": "testA", "reason": "cannot"}}
    manifest = json.loads((run / "manifest.json").read_text()) | {"not_applicable": refused}
    (run / "manifest.json").write_text(json.dumps(manifest))
    grid = build_table("rec", [run]).grids[0]
    cells = [column(grid, head, "RefCOCO")["m"].text for head in ("val", "testA", "testB")]
    assert cells == ["50.00", "n/a", "–"]


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
    assert row.cells[8].text == "89.7"
    said = "the source prints the average 89.6, the mean of its cells is 89.65"
    assert said in [dict(grid.notes)[m] for m in row.marks]


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


def seen(images, of):
    return {"leakage": {"status": "seen", "images": images, "of": of}}


def test_training_on_test_pictures_is_marked_with_its_count(make_run):
    runs = [
        make_run("clean", shapes({"acc@0.5": 80.0})),
        make_run("saw", shapes({"acc@0.5": 90.0}, **seen(3, 320))),
        make_run("unsaid", shapes({"acc@0.5": 70.0}, leakage={"status": "unknown", "images": 0, "of": 320})),
        make_run("old", shapes({"acc@0.5": 60.0}, leakage=None)),
        make_run("bound:blind@m", shapes({"acc@0.5": 1.0}, leakage=None)),
    ]
    grid = build_table("rec", runs).grids[0]
    notes = dict(grid.notes)
    assert {row.method: [notes[mark] for mark in row.marks] for row in grid.rows} == {
        "clean": [],
        "saw": ["its training saw test pictures: 3 of 320"],
        "unsaid": ["whether its training saw the test pictures is not known"],
        "old": ["whether its training saw the test pictures is not known"],
        "bound:blind@m": [],
    }


def test_the_counts_of_many_splits_are_one_note_and_mark_their_cells(make_run):
    benchmarks = refcoco([99.0] * 8)
    for name, images in (("refcoco_testA", 750), ("refcocog_val", 12)):
        benchmarks[name][0].update(seen(images, 1300))
    grid = build_table("rec", [make_run("m", benchmarks)], "paper").grids[0]
    row = next(r for r in grid.rows if r.section == "Measured")
    assert row.marks == []
    assert [c.marks for c in row.cells] == [[], ["†"], [], [], [], [], ["†"], [], []]
    assert (
        dict(grid.notes)["†"]
        == "its training saw test pictures: 750 of 1300 of RefCOCO testA, 12 of 1300 of RefCOCOg val"
    )
    for name in benchmarks:
        benchmarks[name][0].update(seen(5, 9))
    grid = build_table("rec", [make_run("n", benchmarks)], "paper").grids[0]
    assert next(r for r in grid.rows if r.section == "Measured").marks == ["†"]


def test_published_rows_share_one_note_on_their_pictures(make_run):
    for kind in ("rec", "grounding", "caption", "vqa"):
        (grid,) = build_table(kind).grids
        said = [text for mark, text in grid.notes if "COCO is among Groma's" in text or "COCO and Visual" in text]
        assert len(said) == 1, kind
        assert "what they saw is unknown" in said[0]
    alone = build_table("rec", [make_run("m", refcoco([50.0] * 8))], "none").grids[0]
    assert not any("among Groma's training data" in text for _, text in alone.notes)


def test_published_rows_pin_the_column_to_the_papers_protocol(make_run):
    run = make_run("m", refcoco([99.0] * 8, protocol="released"))
    grid = build_table("rec", [run], "paper").grids[0]
    row = next(r for r in grid.rows if r.section == "Measured")
    assert row.marks == ["†"]
    assert all(c.place == 0 for c in row.cells)
    assert any("the column: the paper's" in text for _, text in grid.notes)


def test_the_papers_protocol_is_the_one_its_card_calls_so(make_run):
    """LVIS-Ground's card has no protocol "paper": the paper's is ``as-many`` there."""
    entry = {"task": "grounding", "family": "LVIS-Ground", "split": "val", "version": 2}
    runs = [
        make_run(name, {"lvis_ground": (entry | {"protocol": protocol}, {"ar": 99.0})})
        for name, protocol in (("m", "as-many"), ("n", "released"))
    ]
    (grid,) = build_table("grounding", runs).grids
    cells = column(grid, "AR")
    assert (cells["m"].place, cells["Groma"].place, cells["n"].place) == (1, 2, 0)
    marks = {
        row.method: [dict(grid.notes)[mark] for mark in row.marks] for row in grid.rows if row.section == "Measured"
    }
    assert marks == {
        "m": [],
        "n": ["measured under protocol released, card version 2 (the column: as-many, version 2)"],
    }


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
    cell = build_table("rec", [run]).grids[0].rows[0].cells[0]
    assert str(cell.half) == "1.51"
    assert [str(end) for end in cell.bounds] == ["88.50", "91.51"]


def test_an_interval_that_its_own_number_is_not_in_is_left_out(make_run):
    for at, bounds in enumerate(([91.0, 92.0], [88.0, 89.0], [None, 99.0], "x")):
        run = make_run(f"m{at}", shapes({"acc@0.5": 90.0}), intervals={"acc@0.5": bounds})
        cell = build_table("rec", [run]).grids[0].rows[0].cells[0]
        assert (cell.half, cell.bounds) == (None, None)


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


def test_meteor_without_its_data_is_marked_and_not_ranked_beside_the_whole(make_run):
    def run(name, meteor, cider, full):
        counts = {"ok": 9} | ({"full_meteor": 9} if full else {})
        numbers = {"meteor": meteor, "cider": cider}
        return make_run(
            name, {"c": ({"task": "caption", "family": "Visual Genome", "split": "test"}, numbers)}, counts=counts
        )

    few = [run("a", 99.0, 200.0, False), run("b", 98.0, 150.0, False)]
    whole = run("c", 18.0, 140.0, True)
    grid = build_table("caption", [*few, whole]).grids[0]
    assert {n: c.place for n, c in column(grid, "METEOR").items() if c.place} == {"Groma": 1, "c": 2}
    assert {n: c.place for n, c in column(grid, "CIDEr").items() if c.place} == {"a": 1, "Groma": 2}
    marks = {n: c.marks for n, c in column(grid, "METEOR").items()}
    assert (marks["a"], marks["b"], marks["c"], marks["Groma"]) == (["†"], ["†"], [], [])
    assert "without synonyms and paraphrases" in dict(grid.notes)["†"]
    grid = build_table("caption", [*few, whole], "none").grids[0]
    assert {n: c.place for n, c in column(grid, "METEOR").items()} == {"a": 0, "b": 0, "c": 0}  # c has none beside it
    grid = build_table("caption", few, "none").grids[0]
    assert [c.place for c in column(grid, "METEOR").values()] == [1, 2]


JUDGED = {"task": "vqa", "family": "LLaVA-Bench (COCO)", "split": "COCO val2014"}


def scores(*values):
    return {f"score/{key}": v for key, v in zip(("conversation", "detail", "reasoning", "overall"), values)}


def test_judged_runs_stand_in_the_papers_columns(make_run):
    runs = [
        make_run("m", {"llava_bench_coco": (JUDGED, scores(90.0, 80.0, 70.0, 99.0) | {"answer_words": 40.0})}),
        make_run(
            "n", {"llava_bench_coco": (JUDGED | {"deviations": ["judge=gpt-4o"]}, scores(99.0, 99.0, 99.0, 99.9))}
        ),
    ]
    (grid,) = build_table("vqa", runs).grids
    heads = ["Conversation", "Detail description", "Complex reasoning", "Overall"]
    assert [c.head for c in grid.columns] == heads
    rows = {row.method: row for row in grid.rows if row.section == "Measured"}
    assert [c.text for c in rows["m"].cells] == ["90.0", "80.0", "70.0", "99.0"]
    assert [c.place for c in rows["m"].cells] == [1, 2, 0, 1]
    # Another judge than the column's: its name stands in the mark, and nothing is ranked.
    assert [c.place for c in rows["n"].cells] == [0, 0, 0, 0]
    assert [dict(grid.notes)[mark] for mark in rows["n"].marks] == ["departs from the card's protocol: judge=gpt-4o"]
    assert rows["m"].marks == []


def test_runs_that_wait_for_their_judge_say_so(make_run):
    unjudged = {"unjudged": 90}
    run = make_run("m", {"llava_bench_coco": (JUDGED, dict.fromkeys(scores(1, 1, 1, 1)))}, counts=unjudged)
    (grid,) = build_table("vqa", [run], "paper").grids
    assert not any(row.section == "Measured" for row in grid.rows)
    assert ("", "m (run-m): 90 answers are not judged yet (groma-eval judge RUN)") in grid.notes
    with pytest.raises(HarnessError, match=r"not judged yet \(groma-eval judge RUN\): llava_bench_coco of run-m"):
        build_table("vqa", [run], "none")


def test_judged_answers_outside_the_paper(make_run):
    entry = {"task": "vqa", "family": "LLaVA-Bench (In-the-Wild)", "split": "test"}
    (grid,) = build_table("vqa", [make_run("m", {"wild": (entry, scores(1.0, 2.0, 3.0, 4.0))})]).grids
    assert [(c.group, c.head) for c in grid.columns][-1] == ("judged", "Overall")
    assert [c.text for c in grid.rows[0].cells] == ["1.0", "2.0", "3.0", "4.0"]


def test_yes_no_sets(make_run):
    numbers = {"accuracy": 85.0, "precision": 90.0, "recall": 80.0, "f1": 84.7, "yes_ratio": 44.0}
    other = numbers | {"yes_ratio": 60.0}
    benchmarks = [
        {f"pope_{s}": ({"task": "vqa", "family": "POPE", "split": s}, n) for s in ("random", "popular")}
        for n in (numbers, other)
    ]
    (grid,) = build_table("vqa", [make_run("m", benchmarks[0]), make_run("n", benchmarks[1])]).grids
    assert [(c.group, c.head) for c in grid.columns] == [
        *[("POPE random", head) for head in ("all", "F1")],
        *[("POPE random: yes", head) for head in ("P", "R", "yes ratio")],
        *[("POPE popular", head) for head in ("all", "F1")],
        *[("POPE popular: yes", head) for head in ("P", "R", "yes ratio")],
    ]
    assert {cell.place for cell in column(grid, "yes ratio", "POPE random: yes").values()} == {0}  # none is better
    assert {cell.place for cell in column(grid, "F1", "POPE random").values()} == {1}


def test_what_the_papers_table_has_no_room_for_has_a_grid_beside(make_run):
    entry = {"task": "grounding", "family": "LVIS-Ground", "split": "val", "protocol": "as-many"}
    numbers = {
        "ar": 30.0,
        "ar@0.5": 40.0,
        "ar_micro": 25.0,
        "ar/r": 20.0,
        "f1@0.5": 50.0,
        "ap": 5.0,
        "not_proposed": 3.0,
    }
    first, second = build_table("grounding", [make_run("m", {"lvis_ground": (entry, numbers)})]).grids
    assert [c.head for c in first.columns if not c.published] == ["not proposed"]
    assert second.title == "LVIS-Ground, average recall (%): further measures"
    assert [c.head for c in second.columns] == ["AR micro", "AR@r", "F1@0.5", "AP"]
    assert [row.section for row in second.rows] == ["Measured"]
    captions = {
        name: ({"task": "caption", "family": f, "split": s}, {"cider": 90.0, "bleu_4": 10.0, "rouge_l": 40.0})
        for name, f, s in (("a", "RefCOCOg", "val"), ("b", "Visual Genome", "test"))
    }
    first, second = build_table("caption", [make_run("n", captions)]).grids
    assert [c.head for c in first.columns] == ["METEOR", "CIDEr", "METEOR", "CIDEr"]
    assert [(c.group, c.head) for c in second.columns] == [
        ("RefCOCOg val", "BLEU-4"), ("RefCOCOg val", "ROUGE-L"),
        ("Visual Genome test", "BLEU-4"), ("Visual Genome test", "ROUGE-L"),
    ]  # fmt: skip
    # Only numbers of the paper's own table: nothing further.
    assert len(build_table("grounding", [make_run("o", {"lvis_ground": (entry, {"ar": 1.0})})]).grids) == 1


def test_phrase_grounding_needs_no_columns_of_its_own(make_run):
    entry = {"task": "rec", "family": "Flickr30k Entities", "split": "test"}
    (grid,) = build_table("rec", [make_run("m", {"flickr30k_test": (entry, {"acc@0.5": 71.234, "miou": 60.0})})]).grids
    assert [(c.group, c.head) for c in grid.columns] == [("Flickr30k Entities", "all"), ("boxes", "mean IoU")]
    assert grid.rows[0].cells[0].text == "71.23"


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
