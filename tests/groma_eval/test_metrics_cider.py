"""CIDEr against the reference tool's figures, a slow plain definition and hand calculations."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from caption_data import FAKECAP, TEST_A, expected, tokenised
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.metrics.cider import cider


@pytest.mark.parametrize("name", [FAKECAP, TEST_A])
def test_cider_equals_the_reference(shared, name):
    known = expected(shared, name)
    score, per_item = cider(*tokenised(shared, name), tokenise=str.split)
    assert score / 100 == pytest.approx(known["corpus"]["CIDEr"], abs=1e-12)
    for key, item in known["per_item"].items():
        assert per_item[key] / 100 == pytest.approx(item["CIDEr"], abs=1e-12)


def test_cider_by_hand():
    # Two images, one word each: idf = log 2, n = 2..4 empty, so that a perfect answer scores 10 / 4 (x100).
    score, items = cider({"a": "cat", "b": "dog"}, {"a": ["cat"], "b": ["cow"]})
    assert items == {"a": pytest.approx(250.0), "b": 0.0}
    assert score == pytest.approx(125.0)
    # A perfect answer of four words or more scores 10 (x100).
    _, items = cider({"a": "one two three four", "b": "x"}, {"a": ["one two three four"], "b": ["y"]})
    assert items["a"] == pytest.approx(1000.0)
    # Length penalty exp(-d^2 / 72) for d bigrams too many, counts clipped: only the unigram part is left to share.
    said, references = {"a": "cat cat", "b": "x"}, {"a": ["cat"], "b": ["y"]}
    assert cider(said, references)[1]["a"] == pytest.approx(250.0 * 0.5 * math.exp(-1 / 72))
    # The original has neither: "cat cat" points where "cat" does.
    assert cider(said, references, original=True)[1]["a"] == pytest.approx(250.0)
    # With one image every idf is 0.
    assert cider({"a": "cat"}, {"a": ["cat"]}) == (0.0, {"a": 0.0})


def slow_cider(said, references, original):
    """One item at a time, n by n, over the whole vocabulary."""

    def count(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    per_item = {}
    for key in said:
        total = 0.0
        for n in range(1, 5):
            documents = [set().union(*(count(text, n) for text in texts)) for texts in references.values()]
            for text in references[key]:
                mine, other = count(said[key], n), count(text, n)
                vocabulary = set(mine) | set(other)
                idf = {g: math.log(len(documents) / max(1, sum(g in d for d in documents))) for g in vocabulary}
                left = {g: mine[g] * idf[g] for g in vocabulary}
                right = {g: other[g] * idf[g] for g in vocabulary}
                dot = sum((left[g] if original else min(left[g], right[g])) * right[g] for g in vocabulary)
                norms = math.hypot(*left.values()) * math.hypot(*right.values())
                apart = sum(count(said[key], 2).values()) - sum(count(text, 2).values())
                penalty = 1 if original else math.exp(-(apart**2) / 72)
                total += penalty * dot / norms / len(references[key]) if norms else 0.0
        per_item[key] = 1000 * total / 4
    return per_item


captions = st.lists(st.sampled_from(["a", "red", "circle", "near", "the", "blue", "square"]), max_size=7).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=5), st.booleans())
def test_cider_is_the_plain_definition(items, original):
    said = {str(n): item[0] for n, item in enumerate(items)}
    references = {str(n): item[1] for n, item in enumerate(items)}
    score, per_item = cider(said, references, original=original)
    slow = slow_cider(said, references, original)
    assert per_item == pytest.approx(slow, abs=1e-9)
    assert score == pytest.approx(sum(slow.values()) / len(slow), abs=1e-9)
    # The order of items and of references is nothing to it.
    turned = {key: references[key][::-1] for key in reversed(references)}
    assert cider(said, turned, original=original)[1] == pytest.approx(per_item, abs=1e-9)
