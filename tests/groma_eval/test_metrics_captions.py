"""Caption metrics against the figures of the COCO caption evaluation (run with Java) and hand calculation."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.metrics.captions import cider, meteor, ptb_tokens
from groma_eval.metrics.meteor import MeteorStats, align

CORPORA = ["expected_fakecap.json", "expected_refcoco_testA.json"]


def corpus(shared, name):
    expected = json.loads((shared / "data" / "captions" / name).read_text())
    items = expected["per_item"]
    said = {key: item["hyp_tok"] for key, item in items.items()}
    references = {key: item["refs_tok"] for key, item in items.items()}
    return expected, said, references


@pytest.mark.parametrize("name", CORPORA)
def test_cider_equals_the_reference_on_given_tokens(shared, name):
    expected, said, references = corpus(shared, name)
    score, per_item = cider(said, references, tokenise=str.split)
    assert score / 100 == pytest.approx(expected["corpus"]["CIDEr"], rel=1e-9)
    for key, item in expected["per_item"].items():
        assert per_item[key] / 100 == pytest.approx(item["CIDEr"], rel=1e-6, abs=1e-9)


def test_raw_captions_tokenise_and_score_as_the_reference(shared):
    folder = shared / "data" / "captions"
    expected, tokens, reference_tokens = corpus(shared, "expected_fakecap.json")
    references: dict[str, list[str]] = {}
    for item in json.loads((folder / "en_captions_val2014.json").read_text())["annotations"]:
        references.setdefault(str(item["image_id"]), []).append(item["caption"])
    results = json.loads((folder / "en_captions_val2014_fakecap_results.json").read_text())
    said = {str(item["image_id"]): item["caption"] for item in results}
    for key, text in said.items():
        assert " ".join(ptb_tokens(text)) == tokens[key]
        assert [" ".join(ptb_tokens(r)) for r in references[key]] == reference_tokens[key]
    score, _ = cider(said, {key: references[key] for key in said})
    assert score / 100 == pytest.approx(expected["corpus"]["CIDEr"], rel=1e-9)


@pytest.fixture
def two_sentences(shared):
    folder = shared / "data" / "captions" / "two_sentences"
    lines = [(folder / f).read_text().splitlines() for f in ("hyp.txt", "ref1.txt", "ref2.txt")]
    return {str(n): h for n, h in enumerate(lines[0])}, {str(n): list(r) for n, r in enumerate(zip(*lines[1:]))}


def test_the_smallest_case(two_sentences):
    assert cider(*two_sentences)[0] / 100 == pytest.approx(1.242192, abs=1e-6)
    # Full METEOR, with synonyms and paraphrases, gives 29.5797 here.
    assert meteor(*two_sentences)[0] == pytest.approx(26.7315, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "identical", "corpus_score"), [(CORPORA[0], 0.60, 18.468), (CORPORA[1], 0.88, 15.736)]
)
def test_meteor_items_without_synonyms_equal_the_reference(shared, name, identical, corpus_score):
    expected, said, references = corpus(shared, name)
    score, per_item = meteor(said, references, tokenise=str.split)
    differences = [per_item[key] / 100 - item["METEOR"] for key, item in expected["per_item"].items()]
    # Items in which no synonym or paraphrase has a part must agree to the last digits; few may come out above.
    assert sum(abs(d) < 1e-9 for d in differences) / len(differences) > identical
    assert sum(d > 1e-9 for d in differences) / len(differences) < 0.05
    assert score == pytest.approx(corpus_score, abs=0.001)
    assert score < 100 * expected["corpus"]["METEOR"]


def test_meteor_by_hand():
    # "hand" against "left hand": P = 1, R = 1/2, one chunk for one match.
    expected = 100 * (1 / (0.15 + 0.85 / 0.5)) * (1 - 0.6)
    assert meteor({"a": "hand"}, {"a": ["left hand"]})[1]["a"] == pytest.approx(expected)
    # Function words weigh a third of content words: "the hand" against "hand": P = .75 / (.75 + .25).
    expected = 100 * (1 / (0.15 / 0.75 + 0.85)) * (1 - 0.6)
    assert meteor({"a": "the hand"}, {"a": ["hand"]})[1]["a"] == pytest.approx(expected)
    # A stem match earns 0.6; two words in one chunk.
    assert meteor({"a": "running"}, {"a": ["runs"]})[1]["a"] == pytest.approx(60.0)
    stats = MeteorStats(2, 3, 0, 0, 1.6, 0.0, 1.6, 0.0, 2, 1)
    by_hand = 1 / (0.15 / 0.8 + 0.85 / (1.6 / 3)) * (1 - 0.6 * 0.5**0.2)
    assert stats.score() == pytest.approx(by_hand)


def test_meteor_takes_the_best_reference_and_sums_statistics():
    score, items = meteor({"a": "red ball", "b": "dog"}, {"a": ["blue cube", "red ball"], "b": ["cat"]})
    assert items == {"a": 100.0, "b": 0.0}
    # Corpus: 2 of 3 words match in P and R, fragmentation 1 chunk of 2 matches.
    assert score == pytest.approx(100 * (2 / 3) * (1 - 0.6 * 0.5**0.2))


def slow_alignment_cost(said, reference):
    """(-matches, chunks) of the best exact alignment, by trying all."""
    best = (0, 0)
    choices = [[None, *(m for m, w in enumerate(said) if w == r)] for r in reference]
    for links in itertools.product(*choices):
        used = [m for m in links if m is not None]
        if len(used) != len(set(used)):
            continue
        chunks = sum(
            m is not None and (at == 0 or links[at - 1] is None or links[at - 1] != m - 1) for at, m in enumerate(links)
        )
        best = min(best, (-len(used), chunks))
    return best


@settings(max_examples=150)
@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_alignment_has_the_most_matches_and_then_the_fewest_chunks(said, reference):
    links = [link and link[0] for link in align(said, reference)]
    used = [m for m in links if m is not None]
    assert len(used) == len(set(used))
    chunks = sum(
        m is not None and (at == 0 or links[at - 1] is None or links[at - 1] != m - 1) for at, m in enumerate(links)
    )
    assert (-len(used), chunks) == slow_alignment_cost(said, reference)


WORDS = ["a", "red", "circle", "near", "the", "blue", "square"]
captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=2, max_size=5), st.randoms())
def test_scores_do_not_depend_on_the_order_of_items(items, shuffler: random.Random):
    keys = [str(n) for n in range(len(items))]
    said = {key: item[0] for key, item in zip(keys, items)}
    references = {key: item[1] for key, item in zip(keys, items)}
    shuffler.shuffle(keys)
    for metric in (cider, meteor):
        score, per_item = metric(said, references)
        # Of equally good references METEOR adds up the first, so that theirs must keep its order.
        turn = slice(None, None, -1) if metric is cider else slice(None)
        again, per_item_again = metric({k: said[k] for k in keys}, {k: references[k][turn] for k in keys})
        assert again == pytest.approx(score, rel=1e-12, abs=1e-9)
        assert per_item_again == pytest.approx(per_item, rel=1e-12, abs=1e-9)
        assert all(value >= 0 for value in per_item.values())


def test_cider_by_hand():
    # Two images, one word each: idf = log 2, n = 2..4 empty, so that a perfect answer scores 10 / 4 (x100).
    score, items = cider({"a": "cat", "b": "dog"}, {"a": ["cat"], "b": ["cow"]})
    assert items == {"a": pytest.approx(250.0), "b": 0.0}
    assert score == pytest.approx(125.0)
    # A perfect answer of four words or more scores 10 (x100).
    _, items = cider({"a": "one two three four", "b": "x"}, {"a": ["one two three four"], "b": ["y"]})
    assert items["a"] == pytest.approx(1000.0)
    # Length penalty exp(-d^2 / 72) for d bigrams too many, counts clipped: only the unigram part is left to share.
    _, items = cider({"a": "cat cat", "b": "x"}, {"a": ["cat"], "b": ["y"]})
    assert items["a"] == pytest.approx(250.0 * 0.5 * math.exp(-1 / 72))


def test_empty_answers_score_zero_and_missing_ones_are_refused():
    references = {"a": ["a cat"], "b": ["a dog"]}
    for metric in (cider, meteor):
        assert metric({"a": "", "b": "a dog"}, references)[1]["a"] == 0.0
        with pytest.raises(HarnessError, match="'b'"):
            metric({"a": "a cat"}, references)
        with pytest.raises(HarnessError, match="no captions"):
            metric({}, {})
        with pytest.raises(HarnessError, match="reference"):
            metric({"a": "x"}, {"a": []})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
        ("Red, white and blue; well-lit!", "red white and blue well-lit"),
        ('A sign (small) says "STOP"...', "a sign -lrb- small -rrb- says stop"),
        ("The clock reads 5:55 on Morgan Rd.", "the clock reads 5:55 on morgan rd."),
        ("We cannot see #25 -- at all", "we can not see # 25 at all"),
        ("the 'stop' sign, it’s red", "the stop sign it 's red"),
        ("", ""),
    ],
)
def test_tokens(text, tokens):
    assert " ".join(ptb_tokens(text)) == tokens
