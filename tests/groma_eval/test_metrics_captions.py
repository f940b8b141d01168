"""All caption metrics at once, from texts, against the reference tool's figures."""

from __future__ import annotations

import pytest
from caption_data import FAKECAP, TEST_A, expected, texts

from groma_eval.core import HarnessError
from groma_eval.metrics.bleu import bleu
from groma_eval.metrics.captions import ORIGINAL, score_captions
from groma_eval.metrics.cider import cider
from groma_eval.metrics.meteor import ALL_MATCHERS, FEW_MATCHERS, METEOR_NOTE, meteor
from groma_eval.metrics.rouge import rouge_l

NAMES = ["BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "METEOR", "ROUGE_L", "CIDEr"]


@pytest.mark.parametrize("name", [FAKECAP, TEST_A])
def test_texts_score_as_the_reference_tool_scores_them(shared, name):
    known = expected(shared, name)
    scores = score_captions(*texts(shared, name))
    assert list(scores.metrics) == NAMES
    assert scores.per_item.keys() == known["per_item"].keys()
    for metric in NAMES:
        if metric != "METEOR":  # which depends on the data that are here, and has a test of its own
            assert scores.metrics[metric] == pytest.approx(known["corpus"][metric], abs=1e-9)
    for key, item in known["per_item"].items():
        for metric in ("ROUGE_L", "CIDEr"):
            assert scores.per_item[key][metric] == pytest.approx(item[metric], abs=1e-9)


def test_the_smallest_case(shared):
    folder = shared / "data" / "captions" / "two_sentences"
    said, *others = ((folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2"))
    scores = score_captions(dict(enumerate(said)), dict(enumerate(map(list, zip(*others))))).metrics
    assert scores["ROUGE_L"] == pytest.approx(0.522104, abs=1e-6)
    assert scores["CIDEr"] == pytest.approx(1.242192, abs=1e-6)


REFERENCES = {"a": ["a cat sat on the mat", "a cat"], "b": ["two dogs bark"], "c": ["a red bus"]}


def test_a_missing_caption_is_an_empty_one_unless_left_out():
    said = {"c": "a blue bus", "a": "a cat sat"}
    scores, empty = score_captions(said, REFERENCES), score_captions({**said, "b": ""}, REFERENCES)
    assert list(scores.per_item) == list(REFERENCES)
    assert (scores.metrics, scores.per_item) == (empty.metrics, empty.per_item)
    assert scores.notes == ["1 of 3 items have no prediction and count as empty captions", *empty.notes]
    assert [scores.per_item["b"][name] for name in NAMES] == pytest.approx([0.0] * 7, abs=1e-3)
    predicted = score_captions(said, REFERENCES, only_predicted=True)
    alone = score_captions(said, {key: REFERENCES[key] for key in "ac"})
    assert (predicted.metrics, predicted.per_item) == (alone.metrics, alone.per_item)
    assert predicted.notes == ["only predicted items are scored: 1 of 3 are left out", *alone.notes]
    assert score_captions({**said, "b": "x"}, REFERENCES, only_predicted=True).notes == empty.notes


def test_each_metric_alone_gives_the_same():
    said = {"a": "A cat's mat.", "b": "", "c": "A bus (red)"}
    scores = score_captions(said, REFERENCES, original=True)
    alone = {"METEOR": meteor, "ROUGE_L": rouge_l, "CIDEr": cider, ORIGINAL: lambda *x: cider(*x, original=True)}
    for name, metric in alone.items():
        corpus, items = metric(said, REFERENCES)
        assert scores.metrics[name] == pytest.approx(corpus / 100)
        assert {key: item[name] for key, item in scores.per_item.items()} == pytest.approx(
            {key: value / 100 for key, value in items.items()}
        )
    corpus, items = bleu(said, REFERENCES)
    assert [scores.metrics[f"BLEU_{n}"] for n in range(1, 5)] == pytest.approx([value / 100 for value in corpus])
    assert scores.per_item["a"]["BLEU_2"] == pytest.approx(items["a"][1] / 100)


def test_meteor_without_its_data_says_so(monkeypatch):
    said, references = {"a": "a cat"}, {"a": ["a cat"]}
    for matchers, notes in ((FEW_MATCHERS, [METEOR_NOTE]), (ALL_MATCHERS, [])):
        monkeypatch.setattr("groma_eval.metrics.captions.meteor_matchers", lambda data, found=matchers: found)
        scores = score_captions(said, references)
        assert (scores.full_meteor, scores.notes) == (not notes, notes)


def test_fractions_are_one_token_to_rouge_and_two_words_to_cider():
    # "1 1/2 cups": ROUGE-L splits tokens at spaces alone, so "1 1/2" has nothing in common with "1".
    scores = score_captions({"a": "1 cup", "b": "x"}, {"a": ["1 1/2 cup"], "b": ["y"]})
    assert scores.per_item["a"]["ROUGE_L"] == pytest.approx(0.5)
    assert scores.per_item["a"]["BLEU_1"] == pytest.approx(0.6065306, abs=1e-6)  # 2 of 2 words, exp(1 - 3/2)


@pytest.mark.parametrize(
    ("said", "references", "message"),
    [
        ({"z": "a"}, REFERENCES, "'z'"),
        ({}, {}, "no captions"),
        ({"a": "x"}, {"a": []}, "'a' has no list of references"),
        ({"a": "x"}, {"a": "a cat"}, "'a' has no list of references"),
    ],
)
def test_what_cannot_be_scored(said, references, message):
    with pytest.raises(HarnessError, match=message) as error:
        score_captions(said, references)
    assert "\n" not in str(error.value)


def test_single_metrics_want_the_same_ids():
    for metric in (bleu, cider, meteor, rouge_l):
        with pytest.raises(HarnessError, match="'b'"):
            metric({"a": "a cat"}, {"a": ["a cat"], "b": ["a dog"]})
        with pytest.raises(HarnessError, match="no captions"):
            metric({}, {})
        with pytest.raises(HarnessError, match="reference"):
            metric({"a": "x"}, {"a": []})
