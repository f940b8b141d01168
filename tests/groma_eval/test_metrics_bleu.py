"""BLEU against the reference tool's corpus figures, a slow plain definition and hand calculations."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from caption_data import FAKECAP, TEST_A, expected, tokenised
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.metrics.bleu import bleu


@pytest.mark.parametrize("name", [FAKECAP, TEST_A])
def test_bleu_equals_the_reference(shared, name):
    known = expected(shared, name)["corpus"]
    scores, per_item = bleu(*tokenised(shared, name), tokenise=str.split)
    assert [score / 100 for score in scores] == pytest.approx([known[f"BLEU_{n}"] for n in range(1, 5)], abs=1e-12)
    assert per_item.keys() == expected(shared, name)["per_item"].keys()


def test_bleu_by_hand():
    # 3 of 4 words and 1 of 3 pairs are right, none of more; as long as the reference.
    scores, items = bleu({"a": "the red cat sat"}, {"a": ["the cat sat down"]})
    assert scores == items["a"]
    assert scores == pytest.approx([75.0, 100 * math.sqrt(0.75 / 3), 0.0, 0.0], abs=0.01)
    # A word counts as often as one reference has it: once of three.
    assert bleu({"a": "cat cat cat"}, {"a": ["cat", "cat on cats"]})[0][0] == pytest.approx(100 / 3)
    # Two words short of four: exp(1 - 4/2). Of references equally far in length the shorter one counts.
    assert bleu({"a": "the cat"}, {"a": ["the cat sat down"]})[0][0] == pytest.approx(100 * math.exp(-1))
    assert bleu({"a": "the cat"}, {"a": ["the cat sat", "the"]})[0][0] == pytest.approx(100.0)
    # Over a corpus counts and lengths are summed: 3 of 6 words, and as many as the references have.
    scores, items = bleu({"a": "one", "b": "a b c d e"}, {"a": ["one two"], "b": ["a b x y"]})
    assert scores[0] == pytest.approx(50.0)
    assert items["a"][0] == pytest.approx(100 * math.exp(-1))


def slow_bleu(pairs):
    """BLEU-1..4 of all pairs (words, [words of a reference]) together, with the tool's 1e-15 and 1e-9 against zeros."""
    right, possible, length, reference_length = [0] * 4, [0] * 4, 0, 0
    for words, others in pairs:
        length += len(words)
        reference_length += sorted((abs(len(other) - len(words)), len(other)) for other in others)[0][1]
        for n in range(1, 5):
            grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            possible[n - 1] += sum(grams.values())
            for gram, count in grams.items():
                most = max(sum(gram == tuple(o[i : i + n]) for i in range(len(o) - n + 1)) for o in others)
                right[n - 1] += min(count, most)
    brevity = min(1.0, math.exp(1 - (reference_length + 1e-9) / (length + 1e-15)))
    precisions = [(r + 1e-15) / (p + 1e-9) for r, p in zip(right, possible)]
    return [100 * brevity * math.exp(sum(map(math.log, precisions[:n])) / n) for n in range(1, 5)]


captions = st.lists(st.sampled_from("abcd"), max_size=8)
items = st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(items)
def test_bleu_is_the_plain_definition(items):
    said = {str(n): " ".join(words) for n, (words, _) in enumerate(items)}
    references = {str(n): [" ".join(other) for other in others] for n, (_, others) in enumerate(items)}
    scores, per_item = bleu(said, references, tokenise=str.split)
    assert scores == pytest.approx(slow_bleu(items))
    for n, pair in enumerate(items):
        assert per_item[str(n)] == pytest.approx(slow_bleu([pair]))
