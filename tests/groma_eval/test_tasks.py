"""Tasks: truth scores 100, denominators count every question, misses split into not proposed and not selected."""

from __future__ import annotations

import pytest

from groma_eval.core import HarnessError, Prediction, Question, Sample
from groma_eval.tasks import TASKS, Regions
from groma_eval.tasks.caption import released_text

A, B = (0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9)


def _samples(kind, targets, group=None):
    questions = [Question(str(i), kind, target=t, group=group) for i, t in enumerate(targets)]
    return [Sample("x", None, 100, 100, tuple(questions[:2])), Sample("y", None, 100, 100, tuple(questions[2:]))]


def _score(task, samples, predictions, regions=None, rules=None):
    return TASKS[task](samples, {p.question_id: p for p in predictions}, regions or {}, rules or {})


def test_rec_counts_every_expression():
    samples = _samples("ground_one", [{"boxes": [A]}] * 5, "attribute/extra")
    result = _score(
        "rec",
        samples,
        [
            Prediction("0", boxes=[A]),
            Prediction("1", boxes=[B, A]),  # only the first counts
            Prediction("2", boxes=[A], status="unparsed"),
            Prediction("3", boxes=[A], status="failed"),
        ],
    )
    assert result.counts == {"questions": 5, "images": 2, "ok": 2, "unparsed": 1, "missing": 1, "failed": 1}
    assert result.metrics["acc@0.5"] == 20.0
    assert result.metrics["acc@0.5/attribute"] == result.metrics["acc@0.5/extra"] == 20.0
    assert result.metrics["miou"] == 20.0
    assert [s.question_id for s in result.scores] == list("01234")


def test_rec_ties_and_picks():
    half = (0.0, 0.0, 0.1, 0.2)
    samples = _samples("ground_one", [{"boxes": [A]}])
    tie = [Prediction("0", boxes=[half])]
    assert _score("rec", samples, tie).metrics["acc@0.5"] == 100
    assert _score("rec", samples, tie).metrics["acc@0.5_strict"] == 0
    strict = _score("rec", samples, tie, rules={"iou": ">"}).metrics
    assert (strict["acc@0.5"], strict["acc@0.5_loose"]) == (0, 100)
    two = [Prediction("0", boxes=[B, A], confidences=[0.1, 0.9])]
    assert _score("rec", samples, two).metrics["acc@0.5"] == 0
    assert _score("rec", samples, two, rules={"answer": "most_confident"}).metrics["acc@0.5"] == 100
    with pytest.raises(HarnessError, match="mend the card"):
        _score("rec", samples, two, rules={"answer": "best"})


def test_rec_misses_are_split():
    samples = _samples("ground_one", [{"boxes": [A]}, {"boxes": [B]}, {"boxes": [A]}, {"boxes": [B]}])
    regions = {"x": Regions([A, (0.3, 0.3, 0.4, 0.4)]), "y": Regions([A, B])}
    wrong = (0.95, 0.95, 1.0, 1.0)
    predictions = [Prediction(str(i), boxes=[A if i == 0 else wrong]) for i in range(4)]
    metrics = _score("rec", samples, predictions, regions).metrics
    assert metrics["acc@0.5"] == 25  # 0
    assert metrics["not_proposed"] == 25  # 1: nothing overlaps B in x
    assert metrics["not_selected"] == 50  # 2 and 3


def test_grounding_truth_and_misses():
    target = {"boxes": [A, B], "areas": [400, 1600], "category": 1, "frequency": "r"}
    other = {"boxes": [B], "areas": [1600], "category": 2, "frequency": "f"}
    samples = _samples("ground_all", [target, other, other])
    perfect = [Prediction(str(i), boxes=list(t["boxes"])) for i, t in enumerate([target, other, other])]
    metrics = _score("grounding", samples, perfect).metrics
    for key in ("ar", "ar@0.5", "ar_micro", "recall@0.5", "precision@0.5", "f1@0.5", "ar/r", "ar/f"):
        assert metrics[key] == 100, key
    regions = {"x": Regions([A]), "y": Regions([A, B])}
    result = _score("grounding", samples, [Prediction("0", boxes=[A]), Prediction("1", boxes=[])], regions)
    assert result.counts["missing"] == 1
    assert result.metrics["recall@0.5"] == 25  # one of four
    assert result.metrics["precision@0.5"] == 100
    assert result.metrics["not_proposed"] == 50  # both B's of x
    assert result.metrics["not_selected"] == 25  # the one of y


def test_grounding_may_leave_confidences_aside():
    samples = _samples("ground_all", [{"boxes": [A], "areas": [400], "category": 1, "frequency": "r"}])
    given = [Prediction("0", boxes=[B, A], confidences=[0.1, 0.9])]
    assert _score("grounding", samples, given).metrics["ar"] == 100
    assert _score("grounding", samples, given, rules={"rank": "emission"}).metrics["ar"] == 0
    with pytest.raises(HarnessError, match="mend the card"):
        _score("grounding", samples, given, rules={"rank": "score"})


def test_captions_as_the_released_scripts_clean_them():
    raw = "'a <p> red cup </p><roi><r4> <r99></roi> on\na [grounding]  table <b <c> here '\n"
    assert released_text(raw) == "a red cup ona [grounding] table here"
    samples = _samples("describe", [{"references": ["red cup"]}, {"references": ["blue dog"]}])
    given = [Prediction("0", raw="<p> red cup </p>", text="other"), Prediction("1", raw="blue dog", text="other")]
    assert _score("caption", samples, given).metrics["meteor"] == 0
    assert _score("caption", samples, given, rules={"text": "released"}).metrics["meteor"] > 40
    assert given[0].text == "other"
    failed = [Prediction("0", raw="red cup", status="failed")]
    assert _score("caption", samples, failed, rules={"text": "released"}).metrics["meteor"] == 0
    with pytest.raises(HarnessError, match="mend the card"):
        _score("caption", samples, given, rules={"text": "raw"})


def test_caption_scores_attributes_and_phrases():
    regions = [
        {"references": ["a small red cup at the top left"], "attributes": {"colour": "red", "location": "top left"}},
        {"references": ["a big blue dog on a wooden table"], "attributes": {"colour": "blue", "location": "top"}},
        {"references": ["two green trees by the road side"], "attributes": {"colour": "green", "location": "left"}},
    ]
    samples = _samples("describe", regions)
    perfect = [Prediction(str(i), text=t["references"][0]) for i, t in enumerate(regions)]
    metrics = _score("caption", samples, perfect).metrics
    assert metrics["cider"] == pytest.approx(1000)
    assert metrics["attr/colour"] == 100
    assert metrics["attr/location"] == pytest.approx(100 / 3)
    empty = _score("caption", samples, []).metrics
    assert empty["cider"] == empty["attr/colour"] == 0
    phrases = [{"phrase": "a cup", "boxes": [A]}, {"phrase": "a dog", "boxes": [B]}]
    scenes = _samples("describe_scene", [{"references": ["a cup and a dog"], "phrases": phrases}] * 2)
    given = [
        Prediction("0", text="a cup and a dog", phrases=phrases),
        Prediction("1", text="a cup", phrases=[{"phrase": "a cup", "boxes": [B]}]),
    ]
    metrics = _score("caption", scenes, given).metrics
    assert metrics["phrase_precision"] == pytest.approx(100 * 2 / 3)
    assert metrics["phrase_recall"] == 50
    assert metrics["phrase_f1"] == pytest.approx(100 * 4 / 7)


def test_vqa_groups_and_facts():
    samples = [
        Sample(
            "x",
            None,
            10,
            10,
            (
                Question("a", "converse", target={"answer": "red"}, group="detail/attribute"),
                Question("b", "converse", target={"answer": "yes"}, group="detail/existence"),
                Question("c", "converse", target={"answer": "-", "facts": ["red cup", "dog"]}, group="description"),
            ),
        )
    ]
    given = [Prediction("a", text="It is red."), Prediction("b", text="No."), Prediction("c", text="A red cup.")]
    metrics = _score("vqa", samples, given).metrics
    assert metrics["accuracy"] == 50
    assert metrics["accuracy/detail"] == 50
    assert metrics["accuracy/attribute"] == 100
    assert metrics["accuracy/existence"] == 0
    assert metrics["accuracy/description"] == 50
    with pytest.raises(HarnessError, match="no known answer"):
        _score("vqa", [Sample("x", None, 1, 1, (Question("a", "converse"),))], given)


def test_proposals_truth_and_failure():
    target = {"boxes": [A, B], "areas": [400, 1600], "iscrowd": [0, 0]}
    samples = _samples("propose", [target, {"boxes": [], "areas": [], "iscrowd": []}, target])
    given = [Prediction(str(i)) for i in range(3)]
    regions = {name: Regions([A, B], [0.9, 0.8]) for name in "xy"}
    result = _score("proposals", samples, given, regions)
    assert result.metrics["ar@100"] == result.metrics["ar50"] == 100
    assert result.metrics["ar@1"] == 50
    failed = _score("proposals", samples, [given[0], given[1], Prediction("2", status="failed")], regions)
    assert failed.metrics["ar50"] == 50
    assert failed.counts["failed"] == 1


def test_nothing_to_score():
    with pytest.raises(HarnessError, match="no questions"):
        _score("rec", [], [])
