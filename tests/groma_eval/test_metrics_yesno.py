"""Yes/no answers: read as LLaVA's POPE evaluation reads them, counted as by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.metrics.yesno import read_yes_no, score_yesno


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("No.", "no"),
        ("no, there is none", "no"),
        ("No,there", "yes"),  # one word without the comma: "Nothere"
        ("There is not a dog", "no"),
        ("Yes. No dog is there", "yes"),  # the first sentence alone
        ("There is a dog. It is not big", "yes"),
        ("I see no. 1", "no"),
        ("NO", "yes"),
        ("Not at all", "yes"),
        ("Nothing", "yes"),
        ("There isn't one", "yes"),
        ("cannot", "yes"),
        ("no!", "yes"),
        (" no \n", "no"),
        ("", "yes"),
        (".no", "yes"),
    ],
)
def test_reading(text, read):
    assert read_yes_no(text) == read


def test_metrics_by_hand():
    labels = {"a": "yes", "b": "yes", "c": "yes", "d": "no", "e": "no", "f": "No"}
    answers = {"a": "Yes.", "b": "yes", "c": "no", "d": "No", "e": "yes", "f": "no"}
    metrics, items = score_yesno(answers, labels)
    assert metrics == {
        "accuracy": pytest.approx(4 / 6),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "yes_ratio": 0.5,
    }
    assert items["c"] == {"answer": "no", "label": "yes", "correct": 0}
    assert items["f"] == {"answer": "no", "label": "no", "correct": 1}


def test_what_is_missing_is_wrong():
    labels = {"a": "yes", "b": "yes", "c": "no", "d": "no"}
    metrics, items = score_yesno({"a": "yes", "c": "no", "d": None}, labels)
    # b counts as "no", d as "yes": one hit, one miss, one false alarm, one correct rejection.
    assert metrics == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.25}
    assert items["b"] == {"answer": None, "label": "yes", "correct": 0}
    assert items["d"] == {"answer": None, "label": "no", "correct": 0}


def test_nothing_of_nothing_is_0():
    metrics, _ = score_yesno({"a": "no"}, {"a": "yes"})
    assert metrics == {"accuracy": 0, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}
    metrics, _ = score_yesno({"a": "no"}, {"a": "no"})
    assert metrics == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}


def test_bad_labels():
    with pytest.raises(HarnessError, match="no yes/no questions"):
        score_yesno({}, {})
    with pytest.raises(HarnessError, match="label 'maybe' is neither yes nor no"):
        score_yesno({"a": "yes"}, {"a": "maybe"})


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), min_size=1, max_size=40))
def test_metrics_against_the_confusion_table(pairs):
    word = {True: "Yes", False: "No", None: None}
    metrics, items = score_yesno(
        {str(i): word[said] for i, (_, said) in enumerate(pairs)},
        {str(i): word[label].lower() for i, (label, _) in enumerate(pairs)},
    )
    tp = fp = tn = fn = 0
    for label, said in pairs:
        counted = (not label) if said is None else said
        tp += counted and label
        fp += counted and not label
        fn += not counted and label
        tn += not counted and not label
    assert metrics["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert metrics["precision"] == pytest.approx(tp / (tp + fp) if tp + fp else 0)
    assert metrics["recall"] == pytest.approx(tp / (tp + fn) if tp + fn else 0)
    assert metrics["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    assert metrics["yes_ratio"] == sum(said is True for _, said in pairs) / len(pairs)
    assert sum(item["correct"] for item in items.values()) == tp + tn
