"""The vqa task under each rule: short and exact answers, yes/no, and what a judge said."""

from __future__ import annotations

import pytest

from groma_eval.core import HarnessError, Prediction, Question, Sample
from groma_eval.tasks.vqa import score


def _samples(targets, group=None):
    """Two questions an image."""
    questions = [Question(str(i), "converse", text="?", target=t, group=group) for i, t in enumerate(targets)]
    return [Sample(f"image {i}", None, 10, 10, tuple(questions[i : i + 2])) for i in range(0, len(questions), 2)]


def _score(targets, texts, rules=None, reviews=None, group=None):
    predictions = {
        str(i): Prediction(str(i), text=text or "", status="ok" if text is not None else "failed")
        for i, text in enumerate(texts)
    }
    return score(_samples(targets, group), predictions, {}, rules or {}, reviews)


def test_exact_is_stricter_than_short_and_f1_lies_between():
    targets = [{"answer": "red"}, {"answer": "couch", "accept": ["sofa"]}, {"answer": "dog"}, {"answer": "two"}]
    texts = ["It is red.", "sofa", "cat", None]
    short, exact = (_score(targets, texts, {"match": m}, group="g").metrics for m in ("short", "exact"))
    assert (short["accuracy"], exact["accuracy"]) == (50, 25)
    assert short["f1"] == exact["f1"] == pytest.approx(100 * (0.5 + 1 + 0 + 0) / 4)
    assert exact["accuracy/g"] == 25


def test_facts_have_no_f1():
    result = _score([{"answer": "-", "facts": ["red cup", "dog"]}, {"answer": "red"}], ["a red cup", "red"])
    assert result.metrics == {"accuracy": 75, "f1": 100}
    assert [s.values for s in result.scores] == [{"accuracy": 0.5}, {"accuracy": 1, "f1": 1}]
    assert "f1" not in _score([{"facts": ["red cup"]}], ["a red cup"]).metrics


def test_yes_and_no():
    targets = [{"answer": a} for a in ("yes", "yes", "no", "no")]
    result = _score(targets, ["Yes, there is.", None, "No", "yes"], {"match": "yesno"}, group="random")
    assert result.metrics == {
        "accuracy": 50, "precision": 50, "recall": 50, "f1": 50, "yes_ratio": 50, "accuracy/random": 50,
    }  # fmt: skip
    assert result.counts["failed"] == 1
    assert result.scores[1].values == {"accuracy": 0, "yes": 0}


def test_a_judged_score_counts_questions_not_categories():
    targets = [{"category": c} for c in ("conv", "conv", "conv", "detail", "complex", "other kind")]
    reviews = {"0": (8, 4), "1": (8, 4), "2": (8, 4), "3": (10, 10), "4": (4, 6), "5": None}
    result = _score(targets, ["two words"] * 6, {"match": "judge"}, reviews)
    assert result.metrics["score/overall"] == pytest.approx(100 * 28 / 38)
    assert result.metrics["score/conversation"] == pytest.approx(50)
    assert result.metrics["score/detail"] == pytest.approx(100)
    assert result.metrics["score/reasoning"] == pytest.approx(150)
    assert result.metrics["score/other kind"] is None
    assert result.metrics["reference_mean"] == pytest.approx(76)
    assert result.metrics["model_mean"] == pytest.approx(56)
    counts = {name: result.counts[name] for name in ("questions", "judged", "excluded", "unjudged")}
    assert counts == {"questions": 6, "judged": 5, "excluded": 1, "unjudged": 0}
    assert result.scores[5].values == {"words": 2}


def test_no_score_before_every_question_is_judged():
    targets = [{"category": "conv"}] * 2
    for reviews in (None, {}, {"0": (8, 6)}, {"0": None, "1": None}, {"0": (0, 0), "1": (0, 5)}):
        result = _score(targets, ["a b", "c"], {"match": "judge"}, reviews)
        assert result.metrics["score/overall"] is None
        assert result.metrics["score/conversation"] is None
        assert result.metrics["answer_words"] == 1.5
    assert _score(targets, ["a b", None], {"match": "judge"}).metrics["answer_words"] == 1


@pytest.mark.parametrize(
    ("targets", "rules", "message"),
    [
        ([{"answer": "a"}], {"match": "fuzzy"}, "'match' is one of short, exact, yesno, judge; mend the card"),
        ([{}], {}, "question '0' has no known answer"),
        ([{}], {"match": "exact"}, "question '0' has no known answer"),
        ([{}], {"match": "yesno"}, "question '0' has no known answer"),
        ([{"answer": "maybe"}], {"match": "yesno"}, "label 'maybe' is neither yes nor no"),
    ],
)
def test_bad_rules_and_targets(targets, rules, message):
    with pytest.raises(HarnessError, match=message):
        _score(targets, ["x"], rules)
