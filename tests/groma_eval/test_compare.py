"""Comparison of runs: what is held against what, what is refused, what is printed and written."""

from __future__ import annotations

import csv
import json
import re

import pytest
from stored_runs import answers, samples, write_run

from groma_eval.cli.evaluate import main
from groma_eval.compare import compare, read_systems
from groma_eval.compare_changes import write_changes
from groma_eval.compare_text import p_text, sentence, stars, text_report
from groma_eval.core import HarnessError

TASKS = ("rec", "grounding", "vqa")


def _run(folder, skill=0.7, seed=1, tasks=TASKS, images=25, **entry):
    made = {}
    for task in tasks:
        of = samples(task, images)
        made[f"toy-{task}"] = (task, of, answers(of, seed, skill))
    return write_run(folder, made, **entry)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        "weak": _run(root / "weak", 0.35, 1),
        "weak-2": _run(root / "weak-2", 0.35, 2),
        "strong": _run(root / "strong", 0.95, 3),
        "strong-2": _run(root / "strong-2", 0.95, 4),
        "third": _run(root / "third", 0.7, 5, ("rec",)),
    }


def _compare(*given, **options):
    return compare(read_systems([str(path) for path in given]), resamples=300, **options)


def test_the_headline_of_every_common_benchmark(runs):
    found = _compare(runs["weak"], runs["strong"])
    assert [(row.benchmark, row.metric) for row in found.rows] == [
        ("toy-rec", "acc@0.5"), ("toy-grounding", "ar"), ("toy-vqa", "accuracy"),
    ]  # fmt: skip
    for name, row in zip(("weak", "strong"), (found.rows[0], found.rows[0])):
        stored = json.loads((runs[name] / "metrics.json").read_text())["toy-rec"]["metrics"]["acc@0.5"]
        assert {"weak": row.result.a, "strong": row.result.b}[name] == pytest.approx(stored, abs=1e-5)
    assert all(row.result.difference > 0 for row in found.rows)
    assert all(row.result.p <= row.corrected for row in found.rows)
    assert {row.metric for row in found.split} == {"not_proposed", "not_selected"}
    assert found.notes == []


def test_the_sentence_a_researcher_would_quote(runs):
    row = _compare(runs["weak"], runs["strong"], benchmarks=["toy-rec"], with_breakdowns=False).rows[0]
    assert re.fullmatch(
        r"strong is better than weak on toy-rec \(acc@0\.5\) by \d+\.\d points "
        r"\(95 % CI \d+\.\d to \d+\.\d, p = 0\.00\d, 25 images, clustered by image\)\.",
        sentence(row),
    )
    back = _compare(runs["strong"], runs["weak"], benchmarks=["toy-rec"], with_breakdowns=False)
    assert sentence(back.rows[0]).startswith("weak is worse than strong on toy-rec (acc@0.5) by ")
    size, low, high = map(
        float, re.search(r"by (\S+) points \(95 % CI (\S+) to ([\d.]+),", sentence(back.rows[0])).groups()
    )
    assert 0 < low < size < high
    # Of misses fewer are better.
    misses = {r.metric: sentence(r) for r in back.split}
    assert misses["not_selected"].startswith("weak is worse than strong on toy-rec (not_selected)")


def test_no_difference_is_not_called_one(runs):
    found = _compare(runs["weak"], runs["weak-2"], benchmarks=["toy-vqa"], with_breakdowns=False)
    assert sentence(found.rows[0]).startswith("No difference between weak-2 and weak on toy-vqa (accuracy) is shown: ")
    assert "would be found four times in five" in sentence(found.rows[0])
    same = _compare(runs["weak"], f"again={runs['weak']}", benchmarks=["toy-vqa"], with_breakdowns=False).rows[0]
    assert sentence(same).endswith("no image shows one.")


def test_several_systems_are_held_against_the_first(runs):
    found = _compare(runs["third"], runs["weak"], runs["strong"])
    assert [(row.a, row.b) for row in found.rows] == [("third", "weak"), ("third", "strong")]
    assert {row.benchmark for row in found.rows} == {"toy-rec"}
    text = text_report(found, read_systems([str(runs[n]) for n in ("third", "weak", "strong")]))
    assert "its value" in text


@pytest.mark.parametrize("correction", ["holm", "bh", "none"])
def test_p_values_are_corrected_by_table(runs, correction):
    found = _compare(runs["weak"], runs["strong"], correction=correction)
    for family in (found.rows, found.split, found.parts):
        for row in family:
            if correction == "none":
                assert row.corrected == row.result.p
            else:
                assert row.result.p <= row.corrected <= min(1, len(family) * row.result.p) + 1e-12


def test_chosen_metrics(runs):
    found = _compare(runs["weak"], runs["strong"], metrics=["miou", "f1@0.5"], with_breakdowns=False)
    assert [(row.benchmark, row.metric) for row in found.rows] == [("toy-rec", "miou"), ("toy-grounding", "f1@0.5")]
    everything = _compare(runs["weak"], runs["strong"], metrics=["all"], benchmarks=["toy-rec"], with_breakdowns=False)
    stored = json.loads((runs["weak"] / "metrics.json").read_text())["toy-rec"]["metrics"]
    assert [row.metric for row in everything.rows] == list(stored)


def test_seeds_are_one_system(runs):
    weak, strong = (f"{runs[n]},{runs[n + '-2']}" for n in ("weak", "strong"))
    systems = read_systems([weak, f"ours={strong}"])
    assert [s.name for s in systems] == ["weak+weak-2", "ours"]
    found = compare(systems, resamples=300, with_breakdowns=False)
    row = found.rows[0]
    assert len(row.result.a_runs) == len(row.result.b_runs) == 2
    assert row.result.difference == pytest.approx(sum(row.result.b_runs) / 2 - sum(row.result.a_runs) / 2)
    change = next(c for c in found.changed if c.benchmark == row.benchmark)
    assert change.mcnemar is None
    assert change.undecided > 0
    assert change.both + change.only_a + change.only_b + change.neither + change.undecided == row.questions
    text = text_report(found, systems)
    assert "(2 runs)" in text
    assert "do not agree" in text
    assert "standard deviation over a system's runs" in text


def test_breakdowns_are_of_the_same_questions(runs):
    found = _compare(runs["weak"], runs["strong"])
    whole = {row.benchmark: row.questions for row in found.rows}
    sums: dict = {}
    for row in found.parts:
        key = row.benchmark, row.part[0]
        sums[key] = sums.get(key, 0) + row.questions
    assert sums["toy-rec", "expression length"] == whole["toy-rec"]
    assert sums["toy-rec", "box area"] == whole["toy-rec"]
    assert sums["toy-grounding", "frequency"] == whole["toy-grounding"]
    assert set(found.cuts) == {name for _, name in sums}


def test_changed_questions(runs, tmp_path):
    found = _compare(runs["weak"], runs["strong"], benchmarks=["toy-rec"], with_breakdowns=False)
    (change,) = found.changed
    assert change.both + change.only_a + change.only_b + change.neither == found.rows[0].questions
    assert change.undecided == 0
    assert 0 < change.mcnemar < 0.05
    accuracy = 100 * (change.both + change.only_b) / found.rows[0].questions
    assert accuracy == pytest.approx(found.rows[0].result.b)
    assert write_changes(tmp_path / "new/c.jsonl", found.changed) == change.only_a + change.only_b
    rows = [json.loads(line) for line in (tmp_path / "new/c.jsonl").read_text().splitlines()]
    assert sum(row["right"] == "weak" for row in rows) == change.only_a
    stored = map(json.loads, (runs["weak"] / "toy-rec/samples.jsonl").read_text().splitlines())
    by_id = {row["id"]: row for row in stored}
    for row in rows:
        assert bool(by_id[row["id"]]["scores"]["acc@0.5"]) == (row["right"] == "weak")
    assert {row["miss"] for row in rows if row["wrong"] == "weak"} <= {"not proposed", "not selected"}
    write_changes(tmp_path / "c.csv", found.changed)
    with (tmp_path / "c.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert json.loads(table[0]["target_boxes"]) == rows[0]["target_boxes"]


def test_a_models_text_is_no_formula(tmp_path):
    of = samples("vqa", 8)
    made = []
    for name, text in (("a", "yes"), ("b", "=1+1")):
        given = answers(of, 1, 1.0)
        for answer in given:
            for prediction in answer.predictions:
                prediction.text, prediction.status = text, "ok"
        made.append(write_run(tmp_path / name, {"toy": ("vqa", of, given)}))
    found = _compare(*made, with_breakdowns=False)
    write_changes(tmp_path / "c.csv", found.changed)
    with (tmp_path / "c.csv").open() as file:
        answered = [row["wrong_answer"] for row in csv.DictReader(file)]
    assert answered
    assert set(answered) == {"'=1+1"}


def test_other_protocols_are_refused_or_noted(runs, tmp_path):
    other = _run(tmp_path / "other", tasks=("rec",), protocol="released", version=2)
    with pytest.raises(HarnessError, match=r"toy-rec: version is 1 in .*weak and 2 in .*other.*--anyway"):
        _compare(runs["weak"], other)
    found = _compare(runs["weak"], other, anyway=True, with_breakdowns=False)
    assert len(found.notes) == 2
    assert "protocol is paper" in found.notes[1]
    changed = _run(tmp_path / "changed", tasks=("rec",), deviations=["limit=3"])
    assert "deviations" in _compare(runs["weak"], changed, with_breakdowns=False).notes[0]


def test_other_samples_are_refused_or_cut_down(runs, tmp_path):
    short = _run(tmp_path / "short", tasks=("rec",), images=9)
    with pytest.raises(HarnessError, match=r"have \d+ of \d+ questions in common; --intersection"):
        _compare(runs["weak"], short)
    found = _compare(runs["weak"], short, intersection=True, with_breakdowns=False)
    assert found.rows[0].result.images == 9
    assert re.match(r"toy-rec: compared on the \d+ of \d+ questions", found.notes[0])
    of = [s for s in samples("rec", 25, seed=9)]
    moved = write_run(tmp_path / "moved", {"toy-rec": ("rec", of, answers(of))})
    with pytest.raises(HarnessError, match="no question in common"):
        _compare(runs["weak"], moved, intersection=True)


def test_the_order_of_the_file_does_not_matter(runs, tmp_path):
    of = samples("rec", 25)
    turned = write_run(tmp_path / "turned", {"toy-rec": ("rec", of[::-1], answers(of, 3, 0.95)[::-1])})
    plain, other = (_compare(runs["weak"], run, benchmarks=["toy-rec"]).rows[0] for run in (runs["strong"], turned))
    assert other.result == plain.result


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{weak}"], "two runs at least"),
        (["{weak}", "{weak}"], "given twice"),
        (["{weak}", "nowhere"], "not a run folder"),
        (["{weak}", "{strong},{strong}"], "twice"),
        (["{weak}", "x="], "names no run folder"),
        (["{weak}", "{strong}", "--benchmarks", "other"], "has not finished benchmark 'other'"),
        (["{weak}", "{strong}", "--metrics", "nonsense"], "metric 'nonsense' is not among"),
        (["{weak}", "{strong}", "--metrics", ","], "names nothing"),
        (["{weak}", "{strong}", "--resamples", "3"], "100 at least"),
        (["{weak}", "{strong}", "--changed", "c.txt"], "must end in .jsonl or .csv"),
        (["{weak}", "{strong}", "--correction", "magic"], "invalid choice"),
    ],
)
def test_bad_calls_are_one_line_and_exit_2(runs, capsys, arguments, said):
    given = [text.format(**{name: str(path) for name, path in runs.items()}) for text in arguments]
    try:
        code = main(["compare", *given])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_the_command(runs, tmp_path, capsys):
    names = [str(runs["weak"]), str(runs["strong"]), "--resamples", "200"]
    assert main(["compare", *names, "--json", str(tmp_path / "c.json"), "--changed", str(tmp_path / "c.csv")]) == 0
    shown = capsys.readouterr().out
    assert "strong is better than weak on toy-rec" in shown
    assert "Changed questions" in shown
    assert "for the 3 comparisons" in shown
    content = json.loads((tmp_path / "c.json").read_text())
    assert [system["name"] for system in content["systems"]] == ["weak", "strong"]
    assert content["rows"][0]["difference"] == pytest.approx(content["rows"][0]["b"] - content["rows"][0]["a"])
    assert content["rows"][0]["p_corrected"] >= content["rows"][0]["p"]
    assert main(["compare", *names, "--json", str(runs["weak"] / "manifest.json" / "c.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_p_values_in_words(runs):
    assert [p_text(p) for p in (0.00001, 0.0021, 0.0499, 0.3)] == ["p < 0.001", "p = 0.002", "p = 0.050", "p = 0.30"]
    from dataclasses import replace

    row = _compare(runs["weak"], runs["strong"], benchmarks=["toy-rec"], with_breakdowns=False).rows[0]
    marks = [stars(replace(row, corrected=p)) for p in (0.0009, 0.009, 0.049, 0.05, None)]
    assert marks == ["***", "**", "*", "", ""]
