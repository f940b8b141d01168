"""ROUGE-L against the reference tool's figures, a table of lengths and hand calculations."""

from __future__ import annotations

import pytest
from caption_data import FAKECAP, TEST_A, expected, tokenised
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.metrics.rouge import longest_common_subsequence, rouge_l


@pytest.mark.parametrize("name", [FAKECAP, TEST_A])
def test_rouge_equals_the_reference(shared, name):
    known = expected(shared, name)
    score, per_item = rouge_l(*tokenised(shared, name), tokenise=str.split)
    assert score / 100 == pytest.approx(known["corpus"]["ROUGE_L"], abs=1e-12)
    for key, item in known["per_item"].items():
        assert per_item[key] / 100 == pytest.approx(item["ROUGE_L"], abs=1e-12)


def test_rouge_by_hand():
    # Two of three words, two of four: F with beta 1.2.
    _, items = rouge_l({"a": "the red cat"}, {"a": ["the cat sat down"]})
    assert items["a"] == pytest.approx(100 * 2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3))
    # Precision and recall are the best of any reference: 2/2 of the first, 1/1 of the second.
    assert rouge_l({"a": "the cat"}, {"a": ["the black cat", "cat"]})[1]["a"] == pytest.approx(100.0)
    assert rouge_l({"a": "x", "b": "y"}, {"a": ["x"], "b": ["z"]})[0] == pytest.approx(50.0)


@pytest.mark.parametrize(("said", "reference", "score"), [("", "a cat", 0.0), ("a", "", 0.0), ("", "", 100.0)])
def test_empty_texts(said, reference, score):
    assert rouge_l({"a": said}, {"a": [reference]})[1]["a"] == pytest.approx(score)


def slow_length(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


sentences = st.lists(st.sampled_from("abcde"), max_size=90)


@given(sentences, sentences)
def test_the_longest_common_subsequence(first, second):
    assert longest_common_subsequence(first, second) == slow_length(first, second)
