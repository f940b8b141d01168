"""REC as a task: both readings of the threshold, the split of the misses, and laws that scores obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.core import HarnessError, Prediction, Question, Sample
from groma_eval.metrics.boxes import REC_THRESHOLDS, rec_scores
from groma_eval.tasks import TASKS, Regions

grid = st.integers(0, 7).map(lambda n: n / 8)
solid = st.tuples(grid, grid, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2] / 8, b[1] + b[3] / 8)
)
statuses = st.sampled_from(["ok", "ok", "ok", "unparsed", "failed"])
THRESHOLDS = tuple(f"acc@{t:g}" for t in REC_THRESHOLDS)


def _samples(targets, each=2):
    questions = [Question(str(i), "ground_one", target={"boxes": [t]}) for i, t in enumerate(targets)]
    parts = [questions[i : i + each] for i in range(0, len(questions), each)]
    return [Sample(f"image{n}", None, 100, 100, tuple(part)) for n, part in enumerate(parts)]


def _score(samples, predictions, regions=None, **rules):
    return TASKS["rec"](samples, {p.question_id: p for p in predictions}, regions or {}, rules)


@st.composite
def answered(draw):
    targets = draw(st.lists(solid, min_size=1, max_size=6))
    predictions = [
        Prediction(str(i), boxes=draw(st.lists(solid, max_size=3)), status=draw(statuses)) for i in range(len(targets))
    ]
    return _samples(targets), predictions


@settings(max_examples=60, deadline=None)
@given(answered(), st.sampled_from([">=", ">"]))
def test_metrics_are_means_of_the_scores_of_single_questions(given_, rule):
    samples, predictions = given_
    result = _score(samples, predictions, iou=rule)
    targets = [q.target["boxes"][0] for s in samples for q in s.questions]
    plain = [rec_scores(p.boxes if p.status == "ok" else [], None, gt, rule) for p, gt in zip(predictions, targets)]
    assert [s.values for s in result.scores] == plain
    for name in plain[0]:
        mean = 100 * sum(values[name] for values in plain) / len(plain)
        assert result.metrics[{"iou": "miou"}.get(name, name)] == pytest.approx(mean, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(answered(), st.data())
def test_dropping_a_prediction_never_raises_a_score(given_, data):
    samples, predictions = given_
    drop = data.draw(st.integers(0, len(predictions) - 1))
    before = _score(samples, predictions)
    after = _score(samples, [p for i, p in enumerate(predictions) if i != drop])
    assert after.metrics.keys() == before.metrics.keys()
    for name, value in after.metrics.items():
        assert value <= before.metrics[name] + 1e-9
    assert after.counts["missing"] == 1
    assert sum(after.counts[s] for s in ("ok", "unparsed", "missing", "failed")) == len(predictions)


@settings(max_examples=40, deadline=None)
@given(st.lists(solid, min_size=1, max_size=6), st.sampled_from([">=", ">"]))
def test_perfect_predictions_give_100(targets, rule):
    result = _score(_samples(targets), [Prediction(str(i), boxes=[t]) for i, t in enumerate(targets)], iou=rule)
    assert set(result.metrics.values()) == {100.0}


@settings(max_examples=40, deadline=None)
@given(answered())
def test_the_strict_reading_is_never_above_the_other(given_):
    loose, strict = (_score(*given_, iou=rule).metrics for rule in (">=", ">"))
    for name in THRESHOLDS:
        assert loose[f"{name}_strict"] == strict[name] == strict[f"{name}_strict"] <= loose[name]
        assert strict[f"{name}_loose"] == loose[name]
    assert strict["miou"] == loose["miou"]


def test_ties_at_every_threshold():
    truth = (0.0, 0.0, 1.0, 0.5)
    samples = _samples([truth] * 4, each=4)
    shares = [Prediction(str(i), boxes=[(0.0, 0.0, t, 0.5)]) for i, t in enumerate(REC_THRESHOLDS)]
    metrics = _score(samples, shares).metrics
    assert [metrics[name] for name in THRESHOLDS] == [100, 75, 50, 25]
    assert [metrics[f"{name}_strict"] for name in THRESHOLDS] == [75, 50, 25, 0]


def test_misses_add_up_where_every_image_has_proposals():
    rng = np.random.default_rng(0)

    def boxes(n):
        corner = rng.uniform(0, 0.6, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (n, 2))], axis=1).tolist()

    targets, answers = boxes(60), boxes(60)
    samples = _samples(targets, each=5)
    regions = {s.image_id: Regions(boxes(40)) for s in samples}
    predictions = [Prediction(str(i), boxes=[box if i % 2 else targets[i]]) for i, box in enumerate(answers)]
    result = _score(samples, predictions, regions)
    metrics = result.metrics
    assert metrics["not_proposed"] > 0
    assert metrics["not_selected"] > 0
    assert metrics["acc@0.5"] + metrics["not_proposed"] + metrics["not_selected"] == pytest.approx(100)
    assert all({"not_proposed", "not_selected"} <= s.values.keys() for s in result.scores)
    # An image that failed has no proposals: its misses are counted as failed, not blamed on either part.
    del regions["image0"]
    failed = [Prediction(str(i), status="failed") for i in range(5)] + predictions[5:]
    result = _score(samples, failed, regions)
    assert result.counts["failed"] == 5
    assert not {"not_proposed", "not_selected"} & result.scores[0].values.keys()
    total = sum(result.metrics[name] for name in ("acc@0.5", "not_proposed", "not_selected"))
    assert total == pytest.approx(100 - 100 * 5 / 60)


def test_without_proposals_nothing_is_said_about_them():
    metrics = _score(_samples([(0, 0, 0.5, 0.5)]), []).metrics
    assert not {"not_proposed", "not_selected"} & metrics.keys()
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("boxes", [[], [(0, 0, 0.5, 0.5)] * 2])
def test_a_question_has_one_target(boxes):
    samples = [Sample("a", None, 1, 1, (Question("q7", "ground_one", target={"boxes": boxes}),))]
    with pytest.raises(HarnessError, match=f"question 'q7' has {len(boxes)} target boxes"):
        _score(samples, [])


def test_boxes_that_are_none_raise_one_line():
    with pytest.raises(HarnessError, match="x1, y1, x2, y2"):
        _score(_samples([(0, 0, 0.5, 0.5)] * 2), [Prediction("0", boxes=[(0, 0, 1)])])
