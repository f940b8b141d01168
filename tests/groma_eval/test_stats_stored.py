"""Stored statistics give back every metric of every task, and of any draw of images what the task would give."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from stored_runs import answers, samples, write_run

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.statistics import compare_stored, estimates, metric_intervals, read_stored, statistics_of
from groma_eval.statistics.resample import value_of
from groma_eval.store import make_record, predictions_of, regions_of
from groma_eval.tasks import TASKS

RULES = {
    "rec": {"iou": ">=", "answer": "first"},
    "vqa": {},
    "yesno": {"match": "yesno"},
    "caption": {},
    "grounding": {"metric": "as-many"},
    "lvis": {"metric": "lvis", "rank": "confidence"},
    "emission": {"metric": "lvis", "rank": "emission"},
    "proposals": {},
}
TASK = {"yesno": "vqa", "lvis": "grounding", "emission": "grounding"}


@pytest.fixture(scope="module", params=RULES)
def case(request, tmp_path_factory):
    task = TASK.get(request.param, request.param)
    of = samples(task)
    given = answers(of)
    folder = tmp_path_factory.mktemp("run") / request.param
    write_run(folder, {"toy": (task, of, given)}, {"toy": RULES[request.param]})
    return folder, task, of, given, RULES[request.param]


def test_every_metric_is_given_back(case):
    folder = case[0]
    stored = json.loads((folder / "metrics.json").read_text())["toy"]["metrics"]
    found = {name: value_of(s) for name, s in statistics_of(read_stored(folder, "toy")).items()}
    assert found.keys() == stored.keys()
    assert len(found) > 3
    for name, value in stored.items():
        assert found[name] == pytest.approx(value, abs=2e-5), name


def _copy(sample: Sample, number: int) -> Sample:
    def renamed(question: Question) -> Question:
        return replace(question, id=f"{question.id} copy {number}")

    return replace(sample, image_id=f"{sample.image_id} copy {number}", questions=tuple(map(renamed, sample.questions)))


def test_a_draw_of_images_is_what_the_task_gives_for_their_copies(case):
    folder, task, of, given, rules = case
    statistics = statistics_of(read_stored(folder, "toy"))
    weights = np.random.default_rng(3).multinomial(len(of), np.full(len(of), 1 / len(of))).astype(float)
    drawn, records = [], []
    for sample, answer, weight in zip(of, given, weights):
        for number in range(int(weight)):
            copy = _copy(sample, number)
            drawn.append(copy)
            predictions = [
                replace(p, question_id=q.id) for p, q in zip(answer.predictions, copy.questions, strict=True)
            ]
            records.append(make_record(replace(answer, image_id=copy.image_id, predictions=predictions), None))
    metrics = TASKS[task](drawn, predictions_of(records), regions_of(records), rules).metrics
    compared = 0
    for name, statistic in statistics.items():
        value = statistic.replicates(weights[None])[0]
        if name == "cider":
            continue  # its document frequencies stay those of the whole benchmark
        if not np.isfinite(value):
            assert name not in metrics or metrics[name] == 0, name
            continue
        assert value == pytest.approx(metrics[name], abs=1e-4), name
        compared += 1
    assert compared > 2


def test_intervals_hold_the_metric(case):
    found = estimates(read_stored(case[0], "toy"), resamples=300)
    for name, estimate in found.items():
        assert estimate.images == len(case[2])
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, name
        assert estimate.se >= 0
    kept = metric_intervals(case[0], "toy", resamples=300)
    assert kept == {name: [e.low, e.high] for name, e in found.items()}


def test_a_run_compared_with_itself(case):
    stored = read_stored(case[0], "toy")
    found = compare_stored([stored], [stored], resamples=150)
    assert found.keys() == statistics_of(stored).keys()
    assert all((d.difference, d.p) == (0, 1) for d in found.values())


def test_what_is_asked_for_alone(case):
    stored = read_stored(case[0], "toy")
    everything = statistics_of(stored)
    for name in everything:
        (found,) = statistics_of(stored, [name]).items()
        assert found[0] == name
        assert value_of(found[1]) == value_of(everything[name])
    with pytest.raises(HarnessError, match="has no metric 'nonsense'"):
        estimates(stored, ["nonsense"], 150)


def test_a_judges_scores(tmp_path):
    from groma_eval.judge.prompts import content_hash, review_messages
    from groma_eval.judge.reviews import write_reviews

    of = samples("vqa", images=6, category="conv", context="a scene", judge={"role": "Assistant", "prompt": "Judge."})
    given = answers(of)
    folder = write_run(tmp_path / "run", {"toy": ("vqa", of, given)}, {"toy": {"match": "judge"}})
    assert statistics_of(read_stored(folder, "toy")).keys() == {"answer_words"}
    texts = {p.question_id: p.text if p.status == "ok" else "" for a in given for p in a.predictions}
    questions = [q for sample in of for q in sample.questions]
    scores = {q.id: (8.0, float(n % 9)) if n != 2 else None for n, q in enumerate(questions)}
    rows = [
        {
            "question_id": q.id,
            "tuple": list(scores[q.id] or (-1, -1)),
            "content_hash": content_hash(review_messages(q, texts[q.id])),
        }
        for q in questions
    ]
    write_reviews(folder / "toy", rows)
    found = {name: value_of(s) for name, s in statistics_of(read_stored(folder, "toy")).items()}
    usable = [pair for pair in scores.values() if pair]
    assert found["score/overall"] == pytest.approx(100 * sum(m for _, m in usable) / sum(r for r, _ in usable))
    assert found["score/conversation"] == found["score/overall"]
    assert (found["reference_mean"], found["model_mean"]) == pytest.approx((80.0, 10 * np.mean([m for _, m in usable])))


def test_a_subset_is_scored_on_its_own(tmp_path):
    of = samples("rec")
    folder = write_run(tmp_path / "run", {"toy": ("rec", of, answers(of))})
    stored = read_stored(folder, "toy")
    ids = stored.ids[::-2]
    part = stored.only(ids)
    assert part.ids == ids
    right = [item.scores["acc@0.5"] for item in stored.items if item.question.id in ids]
    assert value_of(statistics_of(part)["acc@0.5"]) == pytest.approx(100 * np.mean(right))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(HarnessError, match="no finished run"):
        read_stored(tmp_path, "toy")
    of = samples("rec", 3)
    folder = write_run(tmp_path / "run", {"toy": ("rec", of, answers(of))})
    with pytest.raises(HarnessError, match="has no benchmark 'other'"):
        read_stored(folder, "other")
    (folder / "toy" / "parts").mkdir()
    with pytest.raises(HarnessError, match="not finished"):
        read_stored(folder, "toy")
    (folder / "toy" / "parts").rmdir()
    (folder / "toy" / "samples.jsonl").write_text("{broken\n")
    with pytest.raises(HarnessError, match="line 1"):
        read_stored(folder, "toy")


def test_other_questions_cannot_be_compared(tmp_path):
    made = []
    for images in (4, 5):
        of = samples("rec", images)
        made.append(read_stored(write_run(tmp_path / str(images), {"toy": ("rec", of, answers(of))}), "toy"))
    with pytest.raises(HarnessError, match="other questions"):
        compare_stored(made[:1], made[1:])


@pytest.mark.parametrize("kind", ["grounding", "lvis"])
def test_the_jackknife_of_means_over_categories_is_leaving_out(tmp_path, kind):
    of = samples("grounding", 8)
    folder = write_run(tmp_path / "run", {"toy": ("grounding", of, answers(of))}, {"toy": RULES[kind]})
    found = statistics_of(read_stored(folder, "toy"), ["ar", "ap", "ap50"])
    for statistic in found.values():
        assert statistic.interval == "jackknife"
        assert statistic.jackknife() == pytest.approx(statistic.replicates(1.0 - np.eye(8)), nan_ok=True)
    made = estimates(read_stored(folder, "toy"), ["ar", "ap"])
    knife = found["ap"].jackknife()
    se = np.sqrt(7 / 8 * ((knife - knife.mean()) ** 2).sum())
    assert made["ap"].se == pytest.approx(se)
    assert made["ap"].high == pytest.approx(min(100, made["ap"].value + 2.364624 * se), abs=1e-4)
