"""Signs on cells: which cells are tested, what they are tested for, and the correction over all of them."""

from __future__ import annotations

import json
import random

import pytest
from finished_runs import shapes, write_run
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.stats import paired_bootstrap
from groma_eval.table_significance import RESAMPLES, holm, significance
from groma_eval.tables import build_table


def run(tmp_path, name, rights, miou=50.0, entry=None, ids=None):
    """A run whose questions come two an image, in the groups "a" and "b" in turn."""
    rows = [
        (f"q{i if ids is None else ids[i]}", f"im{i // 2}", "ab"[i % 2], {"acc@0.5": float(right), "iou": None})
        for i, right in enumerate(rights)
    ]
    groups = {g: [r for i, r in enumerate(rights) if "ab"[i % 2] == g] for g in "ab"}
    metrics = {"acc@0.5": 100 * sum(rights) / len(rights), "miou": miou}
    metrics |= {f"acc@0.5/{g}": 100 * sum(each) / len(each) for g, each in groups.items()}
    return write_run(tmp_path / name, name, shapes(metrics, **(entry or {})), f"id-{name}", scores={"shapes-rec": rows})


def signs(runs, against):
    found = significance(build_table("rec", runs), runs, against)
    return {(run_id.removeprefix("id-"), metric): mark.sign for (run_id, _, _, metric), mark in found.items()}


def test_clear_differences_are_marked_and_equal_runs_are_not(tmp_path):
    random.seed(0)
    base = [random.random() < 0.5 for _ in range(200)]
    same = run(tmp_path, "same", base)
    up = run(tmp_path, "up", [right or random.random() < 0.6 for right in base])
    down = run(tmp_path, "down", [right and i % 2 == 0 for i, right in enumerate(base)])
    reference = run(tmp_path, "ref", base)
    assert signs([up, reference, same, down], reference) == {
        ("up", "acc@0.5"): "↑", ("up", "acc@0.5/a"): "↑", ("up", "acc@0.5/b"): "↑",
        ("down", "acc@0.5"): "↓", ("down", "acc@0.5/b"): "↓",
    }  # fmt: skip


def test_the_mark_says_what_was_done(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40), run(tmp_path, "b", [0] * 40)]
    (note,) = {mark.note for mark in significance(build_table("rec", runs), runs, runs[1]).values()}
    assert note == "higher than b (id-b), p < 0.05 (paired bootstrap over images, Holm over 3 cells)"


def test_images_are_the_unit_not_questions(tmp_path):
    """Twelve images of many like questions: by questions certain, by images a toss-up."""
    rows = {name: [] for name in "ab"}
    for image in range(12):
        for i in range(50):
            for name, wins in (("a", image < 7), ("b", image >= 7)):
                rows[name].append((f"q{image}-{i}", f"im{image}", "a", {"acc@0.5": float(wins)}))
    runs = [
        write_run(
            tmp_path / n, n, shapes({"acc@0.5": 100 * (7, 5)[n == "b"] / 12}), f"id-{n}", scores={"shapes-rec": r}
        )
        for n, r in rows.items()
    ]
    assert signs(runs, runs[1]) == {}
    values = [[row[3]["acc@0.5"] for row in rows[name]] for name in "ab"]
    assert paired_bootstrap(*values, list(range(600)), resamples=RESAMPLES)["p"] < 0.001


@pytest.mark.parametrize("change", [{"version": 2}, {"protocol": "released"}, {"deviations": ["limit=9"]}])
def test_other_rules_are_not_tested(tmp_path, change):
    runs = [run(tmp_path, "a", [1] * 40, entry=change), run(tmp_path, "b", [0] * 40)]
    with pytest.raises(HarnessError, match="nothing to test against it"):
        signs(runs, runs[1])


def test_other_questions_are_not_tested(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40, ids=range(1, 41)), run(tmp_path, "b", [0] * 40)]
    with pytest.raises(HarnessError, match="the same questions"):
        signs(runs, runs[1])


def test_a_metric_that_is_no_mean_of_its_scores_is_not_tested(tmp_path):
    runs = [run(tmp_path, "a", [1] * 40), run(tmp_path, "b", [0] * 40)]
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    metrics["shapes-rec"]["metrics"]["acc@0.5"] = 90.0
    (runs[0] / "metrics.json").write_text(json.dumps(metrics))
    assert signs(runs, runs[1]) == {("a", "acc@0.5/a"): "↑", ("a", "acc@0.5/b"): "↑"}


def test_broken_samples_are_named(tmp_path):
    runs = [run(tmp_path, "a", [1] * 4), run(tmp_path, "b", [0] * 4)]
    (runs[0] / "shapes-rec" / "samples.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(HarnessError, match=r"samples\.jsonl: cannot be read"):
        signs(runs, runs[1])


def test_holm_by_hand():
    # Sorted: .001 <= .05/4, .012 <= .05/3, .03 > .05/2 and everything after it is kept.
    assert holm([0.03, 0.001, 0.04, 0.012]) == [False, True, False, True]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_between_bonferroni_and_each_alone(p_values):
    rejected = holm(p_values)
    for p, reject in zip(p_values, rejected):
        assert reject <= (p <= 0.05)
        assert reject >= (p <= 0.05 / len(p_values))
    kept = [p for p, reject in zip(p_values, rejected) if not reject]
    assert all(p <= min(kept, default=1) for p, reject in zip(p_values, rejected) if reject)
