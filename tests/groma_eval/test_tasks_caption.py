"""The caption task's metrics: names, scale, values by sample, and what METEOR they rest on."""

from __future__ import annotations

import pytest

from groma_eval.core import Prediction, Question, Sample
from groma_eval.metrics.captions import score_captions
from groma_eval.metrics.meteor import ALL_MATCHERS, FEW_MATCHERS
from groma_eval.tasks import TASKS

REFERENCES = {"0": ["a red cup", "the cup"], "1": ["two dogs on a lawn"], "2": ["a man's hat"]}
SAID = {"0": "A red cup.", "1": "two dogs", "2": "a man's hat"}
NAMES = {
    "cider": "CIDEr", "meteor": "METEOR", "rouge_l": "ROUGE_L",
    "bleu_1": "BLEU_1", "bleu_2": "BLEU_2", "bleu_3": "BLEU_3", "bleu_4": "BLEU_4",
}  # fmt: skip


def result(said):
    questions = [Question(key, "describe", target={"references": texts}) for key, texts in REFERENCES.items()]
    samples = [Sample("x", None, 9, 9, tuple(questions[:2])), Sample("y", None, 9, 9, tuple(questions[2:]))]
    return TASKS["caption"](samples, {key: Prediction(key, text=text) for key, text in said.items()}, {}, {})


def test_metrics_are_a_hundred_times_the_reference_tools():
    found, scores = result(SAID), score_captions(SAID, REFERENCES)
    assert found.metrics == pytest.approx({ours: 100 * scores.metrics[name] for ours, name in NAMES.items()})
    assert [score.question_id for score in found.scores] == list(REFERENCES)
    for score in found.scores:
        item = scores.per_item[score.question_id]
        assert score.values == pytest.approx({ours: 100 * item[name] for ours, name in NAMES.items()})


def test_a_missing_answer_is_an_empty_caption():
    some, empty = result({"0": SAID["0"]}), result({"0": SAID["0"], "1": "", "2": ""})
    assert some.metrics == empty.metrics
    assert some.counts["missing"] == 2


def test_the_count_full_meteor_tells_which_meteor_it_is(monkeypatch):
    for matchers, count in ((ALL_MATCHERS, 3), (FEW_MATCHERS, None)):
        monkeypatch.setattr("groma_eval.metrics.captions.meteor_matchers", lambda data, found=matchers: found)
        assert result(SAID).counts.get("full_meteor") == count
