"""Exact match and token F1 of short answers, by hand and against a plain definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.metrics.vqa import exact_match, match_answer, token_f1


@pytest.mark.parametrize(
    ("text", "answer", "exact", "f1"),
    [
        ("The red cup.", "red cup", True, 1),
        ("It is red", "red", False, 2 * 1 * (1 / 3) / (1 + 1 / 3)),
        ("red cup", "red dog", False, 0.5),
        ("red red cup", "red cup", False, 0.8),
        ("three", "3", True, 1),
        ("", "red", False, 0),
        ("red", "the", False, 0),
        ("a", "the", True, 1),
        ("blue", "red", False, 0),
    ],
)
def test_by_hand(text, answer, exact, f1):
    assert exact_match(text, answer) is exact
    assert token_f1(text, answer) == pytest.approx(f1)


def test_the_best_of_several_answers_counts():
    assert exact_match("sofa", "couch", ["sofa"])
    assert token_f1("a red sofa", "couch", ["sofa", "red sofa"]) == 1


WORDS = st.lists(st.sampled_from(["red", "cup", "dog", "table"]), min_size=1, max_size=6)


@given(WORDS, WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(said, wanted):
    rest, shared = list(wanted), 0
    for word in said:
        if word in rest:
            rest.remove(word)
            shared += 1
    precision, recall = shared / len(said), shared / len(wanted)
    expected = 2 * precision * recall / (precision + recall) if shared else 0
    assert token_f1(" ".join(said), " ".join(wanted)) == pytest.approx(expected)
    assert token_f1(" ".join(said), " ".join(wanted)) == pytest.approx(token_f1(" ".join(wanted), " ".join(said)))


@given(st.text(), st.text())
def test_an_exact_match_is_one_in_every_sense(text, answer):
    if exact_match(text, answer):
        assert token_f1(text, answer) == 1
        assert match_answer(text, answer) or not answer.strip() or not match_answer(answer, answer)
