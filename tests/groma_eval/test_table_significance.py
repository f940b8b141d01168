"""Signs on cells: which cells are tested, what they are tested for, and the correction over all of them."""

from __future__ import annotations

import json
import random

import pytest
from finished_runs import write_answered

from groma_eval.core import HarnessError
from groma_eval.statistics import compare_stored, read_stored
from groma_eval.table_choice import Choice
from groma_eval.table_significance import compared_table, significance
from groma_eval.tables import build_table


def run(tmp_path, name, rights, **more):
    return write_answered(tmp_path / name, name, rights, **more)


def signs(runs, against):
    found, _ = significance(build_table("rec", runs), runs, against)
    return {(run_id.removeprefix("id-"), metric): mark.sign for (run_id, _, _, metric), mark in found.items()}


def test_clear_differences_are_marked_and_equal_runs_are_not(tmp_path):
    random.seed(0)
    base = [random.random() < 0.5 for _ in range(200)]
    same = run(tmp_path, "same", base)
    up = run(tmp_path, "up", [right or random.random() < 0.6 for right in base])
    down = run(tmp_path, "down", [right and i % 2 == 0 for i, right in enumerate(base)])
    reference = run(tmp_path, "ref", base)
    found = signs([up, reference, same, down], reference)
    assert found == {
        **dict.fromkeys([("up", m) for m in ("acc@0.5", "acc@0.5/a", "acc@0.5/b", "miou")], "↑"),
        **dict.fromkeys([("down", m) for m in ("acc@0.5", "acc@0.5/b", "miou")], "↓"),
    }


def test_p_values_are_corrected_over_all_cells(tmp_path):
    """By a plain definition: the k-th smallest of n p-values counts while it is below 0.05 / (n - k)."""
    random.seed(1)
    base = [random.random() < 0.5 for _ in range(100)]
    runs = [run(tmp_path, "ref", base)]
    runs += [run(tmp_path, f"r{n}", [right or random.random() < n / 40 for right in base]) for n in range(1, 7)]
    ps = {}
    for folder in runs[1:]:
        stored = [read_stored(each, "shapes-rec") for each in (runs[0], folder)]
        for metric, result in compare_stored([stored[0]], [stored[1]], ["acc@0.5"]).items():
            ps[folder.name, metric] = result.p
    order = sorted(ps, key=ps.__getitem__)
    held = [ps[cell] < 0.05 / (len(order) - k) for k, cell in enumerate(order)]
    wanted = set(order[: held.index(False)])
    assert 0 < len(wanted) < sum(p < 0.05 for p in ps.values())  # the correction takes some away
    table = build_table("rec", runs, choice=Choice(columns=("acc@0.5",)))
    found, _ = significance(table, runs, runs[0])
    assert {(run_id.removeprefix("id-"), metric) for run_id, _, _, metric in found} == wanted


def test_the_mark_says_what_was_done(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40), run(tmp_path, "b", [0] * 40)]
    marks, remark = significance(build_table("rec", runs), runs, runs[1])
    (note,) = {mark.note for mark in marks.values()}
    assert remark == ""
    assert note == "higher than b (id-b), p < 0.05 (paired test by image, Holm over 4 cells)"


def test_where_nothing_differs_the_table_says_so(tmp_path):
    runs = [run(tmp_path, "a", [1] * 10), run(tmp_path, "b", [1] * 10)]
    (grid,) = compared_table("rec", runs, None, Choice(), runs[1]).grids
    said = "No cell differs from b (id-b) at p < 0.05 (paired test by image, Holm over 4 cells)."
    assert ("", said) in grid.notes


def test_images_are_the_unit_not_questions(tmp_path):
    """Twelve images of many like questions, won by 8 to 4: by questions certain, by images a toss-up."""
    rights = [image < 8 for image in range(12) for _ in range(20)]
    pairs = {"grouped": 20, "single": 1}
    for name, each in pairs.items():
        runs = [
            run(tmp_path / name, "a", rights, each=each),
            run(tmp_path / name, "b", [not right for right in rights], each=each),
        ]
        assert bool(signs(runs, runs[1])) == (name == "single")


@pytest.mark.parametrize("change", [{"version": 2}, {"protocol": "released"}, {"deviations": ["limit=9"]}])
def test_other_rules_are_not_tested(tmp_path, change):
    runs = [run(tmp_path, "a", [1] * 40, entry=change), run(tmp_path, "b", [0] * 40)]
    with pytest.raises(HarnessError, match="nothing to test against it"):
        signs(runs, runs[1])


def test_other_questions_are_not_tested(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40, first=1), run(tmp_path, "b", [0] * 40)]
    with pytest.raises(HarnessError, match="the same questions"):
        signs(runs, runs[1])


def test_a_run_without_stored_answers_is_not_tested(tmp_path):
    runs = [run(tmp_path, name, [name == "a"] * 40) for name in "abc"]
    (runs[2] / "shapes-rec" / "samples.jsonl").unlink()
    assert {name for name, _ in signs(runs, runs[1])} == {"a"}


def test_a_printed_number_that_is_not_what_the_answers_give_is_not_tested(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40), run(tmp_path, "b", [0] * 40)]
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    metrics["shapes-rec"]["metrics"]["acc@0.5"] = 90.0
    (runs[0] / "metrics.json").write_text(json.dumps(metrics))
    assert ("a", "acc@0.5") not in signs(runs, runs[1])
    assert ("a", "miou") in signs(runs, runs[1])


def test_broken_answers_are_named(tmp_path):
    runs = [run(tmp_path, "a", [1] * 4), run(tmp_path, "b", [0] * 4)]
    (runs[0] / "shapes-rec" / "samples.jsonl").write_text('{"id": 1\n')
    with pytest.raises(HarnessError, match=r"samples\.jsonl"):
        signs(runs, runs[1])
