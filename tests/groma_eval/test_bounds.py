"""Bounds against hand calculation and pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from groma_eval.core import Decoding, HarnessError, ImageAnswer, ModelInfo, Prediction, Question, Sample
from groma_eval.models import majority
from groma_eval.models.bounds import BOUNDS, box_iou, choose_largest, choose_oracle, choose_random

DECODING = Decoding()
BOXES = [(0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.9, 0.9), (0.0, 0.0, 0.4, 0.4)]


class Proposing:
    """A model of known proposals per image, which remembers what picture it was shown."""

    info = ModelInfo("proposing", frozenset({"ground_one", "propose"}), size="1M", exposes_regions=True)

    def __init__(self, proposals):
        self.proposals = proposals
        self.shown = {}

    def answer(self, samples, decoding, prompts, protocol):
        for sample in samples:
            self.shown[sample.image_id] = sample.image
            boxes = self.proposals.get(sample.image_id)
            predictions = [Prediction(question.id, raw="seen") for question in sample.questions]
            if boxes is None:
                yield ImageAnswer(sample.image_id, predictions, error="broken picture")
            else:
                yield ImageAnswer(sample.image_id, predictions, boxes, [1 - i / 1000 for i in range(len(boxes))])


def sample(image_id="a", kind="ground_one", targets=(), image=None, text="thing", group=None, count=1):
    questions = tuple(
        Question(f"{image_id}/{i}", kind, text=text, target={"boxes": list(targets)}, group=group) for i in range(count)
    )
    return Sample(image_id, image, 100, 100, questions)


def ask(model, *samples, seed=0):
    answers = list(model.answer(samples, Decoding(seed=seed), {}, "paper"))
    assert sorted(a.image_id for a in answers) == sorted(s.image_id for s in samples)
    return {answer.image_id: answer for answer in answers}


def test_fixed_boxes_need_no_picture():
    for name, box in (("center", (0.25, 0.25, 0.75, 0.75)), ("whole-image", (0, 0, 1, 1))):
        model = BOUNDS[name].build(f"bound:{name}")
        prediction = ask(model, sample())["a"].predictions[0]
        assert prediction.boxes == [box]
        assert prediction.status == "ok"
        assert not model.info.needs_images
        assert model.info.capabilities == {"ground_one", "ground_all"}
        with pytest.raises(HarnessError, match="cannot answer 'describe'"):
            ask(model, sample(kind="describe"))


def test_iou_by_hand():
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_largest_takes_the_area_and_the_first_of_equals():
    question = Question("q", "ground_one")
    assert choose_largest(question, BOXES[:2], [0.9, 0.8], 0) == [1]
    assert choose_largest(question, [(0, 0, 0.5, 0.2), (0, 0, 0.2, 0.5)], [0.9, 0.8], 0) == [0]
    assert choose_largest(question, [], [], 0) == []


def test_random_depends_on_question_and_seed_alone():
    boxes = [(i / 100, 0.0, i / 100 + 0.1, 0.1) for i in range(50)]
    scores = [1.0] * 50
    drawn = [choose_random(Question(f"q{i}", "ground_one"), boxes, scores, 0) for i in range(200)]
    assert all(len(chosen) == 1 for chosen in drawn)
    assert len({chosen[0] for chosen in drawn}) > 30  # spread over the proposals, not the first ones
    assert drawn == [choose_random(Question(f"q{i}", "ground_one"), boxes, scores, 0) for i in range(200)]
    assert drawn != [choose_random(Question(f"q{i}", "ground_one"), boxes, scores, 1) for i in range(200)]
    many = [choose_random(Question(f"q{i}", "ground_all"), boxes, scores, 0) for i in range(200)]
    assert {len(chosen) for chosen in many} == {1, 2, 3}
    assert all(len(set(chosen)) == len(chosen) for chosen in many)
    assert len(choose_random(Question("q", "ground_all"), boxes[:1], scores[:1], 0)) == 1
    assert choose_random(Question("q", "ground_one"), [], [], 0) == []


def test_oracle_takes_the_best_proposal_of_each_target():
    targets = [(0.5, 0.5, 0.9, 0.88), (0.1, 0.1, 0.3, 0.29)]
    question = Question("q", "ground_all", target={"boxes": targets})
    assert sorted(choose_oracle(question, BOXES, [0.9, 0.8, 0.7], 0)) == [0, 1]
    one = Question("q", "ground_one", target={"boxes": [(0.02, 0.0, 0.4, 0.4)]})
    assert choose_oracle(one, BOXES, [0.9, 0.8, 0.7], 0) == [2]
    # A poor best one is still emitted: mean IoU is bounded as well.
    assert choose_oracle(Question("q", "ground_one", target={"boxes": [(0.25, 0.25, 0.35, 0.35)]}), BOXES, [], 0) == [2]
    assert choose_oracle(question, [], [], 0) == []


def test_proposal_bounds_pass_on_what_they_chose_from():
    inner = Proposing({"a": BOXES, "b": None, "c": []})
    for kind in ("oracle-proposal", "random-proposal", "largest-proposal"):
        model = BOUNDS[kind].build(f"bound:{kind}@x", inner)
        answers = ask(model, sample("a", targets=[BOXES[0]]), sample("b"), sample("c"))
        assert answers["a"].proposals == BOXES
        assert answers["a"].objectness == [1.0, 0.999, 0.998]
        assert answers["a"].predictions[0].question_id == "a/0"
        assert answers["a"].predictions[0].boxes[0] in BOXES
        assert answers["b"].error == "broken picture"
        assert [p.status for p in answers["b"].predictions] == ["failed"]
        assert [p.status for p in answers["c"].predictions] == ["unparsed"]
        assert model.info.oracle == (kind == "oracle-proposal")
    mute = Proposing({})
    mute.info = ModelInfo("mute", frozenset({"ground_one"}))
    with pytest.raises(HarnessError, match="exposes no region proposals"):
        BOUNDS["largest-proposal"].build("bound:largest-proposal@mute", mute)


def coco_matches(targets, proposals):
    """Number of targets pycocotools matches at IoU 0.5, the proposals of an image ranked by position."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        return [box[0] * 100, box[1] * 100, (box[2] - box[0]) * 100, (box[3] - box[1]) * 100]

    annotations = [
        {"id": i + 1, "image_id": n, "category_id": 1, "bbox": xywh(b), "area": xywh(b)[2] * xywh(b)[3], "iscrowd": 0}
        for i, (n, b) in enumerate((n, b) for n, boxes in enumerate(targets) for b in boxes)
    ]
    detections = [
        {"image_id": n, "category_id": 1, "bbox": xywh(box), "score": 1 - i / 1000}
        for n, boxes in enumerate(proposals)
        for i, box in enumerate(boxes)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(len(targets))],
            "annotations": annotations,
            "categories": [{"id": 1}],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [300]
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["recall"].squeeze()) * len(annotations)


def greedy_matches(targets, boxes):
    """Targets found at IoU 0.5 by going through ``boxes`` in order (the plain definition)."""
    free = list(targets)
    for box in boxes:
        best = max(free, key=lambda target: box_iou(box, target), default=None)
        if best is not None and box_iou(box, best) >= 0.5:
            free.remove(best)
    return len(targets) - len(free)


def test_oracle_recall_is_that_of_pycocotools():
    # Crowded on purpose: proposals jittered around targets that overlap each other.
    random = np.random.default_rng(3)
    targets, proposals, both = [], [], 0
    for _ in range(400):
        corners = random.uniform(0.1, 0.35, (random.integers(1, 5), 2))
        boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, random.uniform(0.2, 0.4, (len(corners), 2)))]
        jittered = [tuple(np.array(boxes[i]) + random.normal(0, 0.05, 4)) for i in random.integers(0, len(boxes), 4)]
        jittered = [box for box in jittered if box[0] < box[2] and box[1] < box[3]]
        targets.append(boxes)
        proposals.append(jittered)
    inner = Proposing({str(n): boxes for n, boxes in enumerate(proposals)})
    model = BOUNDS["oracle-proposal"].build("bound:oracle-proposal@x", inner)
    answers = ask(model, *(sample(str(n), "ground_all", boxes) for n, boxes in enumerate(targets)))
    found = 0
    for n, boxes in enumerate(targets):
        emitted = answers[str(n)].predictions[0].boxes
        assert set(emitted) <= set(proposals[n])
        assert len(emitted) <= len(boxes)
        both += len(emitted) > 1
        found += greedy_matches(boxes, emitted)
    assert both > 100
    assert found == pytest.approx(coco_matches(targets, proposals), abs=1e-6)
    assert 0.3 < found / sum(map(len, targets)) < 0.95


def test_blind_shows_the_next_different_picture():
    paths = [Path(name) for name in ("p0", "p0", "p1", "p2")]
    samples = [sample(f"s{i}", image=path) for i, path in enumerate(paths)]
    expected = {"s0": Path("p1"), "s1": Path("p1"), "s2": Path("p2"), "s3": Path("p0")}
    for batch in (1, 2, 4):
        inner = Proposing({s.image_id: [] for s in samples})
        model = BOUNDS["blind"].build("bound:blind@x", inner)
        model.prepare(samples)
        for start in range(0, 4, batch):
            ask(model, *samples[start : start + batch])
        assert inner.shown == expected, f"batch size {batch}"
    assert model.info.name == "bound:blind@x"
    assert model.info.capabilities == inner.info.capabilities
    assert "given another image" in model.info.notes


def test_blind_without_preparation_rotates_the_batch():
    samples = [sample(f"s{i}", image=Path(f"p{i}")) for i in range(3)]
    inner = Proposing({s.image_id: [] for s in samples})
    model = BOUNDS["blind"].build("bound:blind@x", inner)
    ask(model, *samples)
    assert all(inner.shown[s.image_id] != s.image for s in samples)
    alone = ask(model, samples[0])["s0"]
    assert alone.error is not None
    assert alone.predictions[0].status == "failed"


@pytest.fixture
def training(tmp_path):
    vqa = [("yes", "existence"), ("yes", "existence"), ("no", "existence"), ("red", "attribute"), ("blue", "attribute")]
    rows = [{"answer": answer, "type": kind, "category": "conversation"} for answer, kind in vqa]
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    captions = {"images": [{"captions": ["a red disc", "a disc"]}, {"captions": ["a disc"]}]}
    (tmp_path / "regions.json").write_text(json.dumps(captions))
    (tmp_path / "scenes.jsonl").write_text('{"caption": "b"}\n\n{"caption": "a"}\n')
    return tmp_path


def test_majority_counts_by_hand(training):
    table = majority.fit_majority(training / "vqa.jsonl", training / "regions.json", training / "scenes.jsonl")
    assert table == {
        # Of the equally frequent blue and red, and a and b, the alphabet decides.
        "converse": {"all": "yes", "groups": {"attribute": "blue", "conversation": "yes", "existence": "yes"}},
        "describe": "a disc",
        "describe_scene": "a",
    }
    assert majority.fit_any(training / "scenes.jsonl") == {"describe_scene": "a"}
    assert majority.fit_any(training / "regions.json") == {"describe": "a disc"}


def test_majority_answers(training, monkeypatch):
    table = training / "table.json"
    fitted = majority.fit_majority(region_captions=training / "regions.json", scene_captions=training / "scenes.jsonl")
    table.write_text(json.dumps(fitted | {"converse": {"all": "bundled", "groups": {}}}))
    monkeypatch.setattr(majority, "BUNDLED_TABLE", table)
    model = BOUNDS["majority"].build("bound:majority", training / "vqa.jsonl")
    assert model.info.capabilities == {"converse", "describe", "describe_scene"}
    asked = [
        sample("a", "converse", group="attribute"),
        sample("b", "converse", group="conversation/attribute"),
        sample("c", "converse", group="unheard of"),
        sample("d", "describe"),
        sample("e", "describe_scene"),
    ]
    texts = {name: answer.predictions[0].text for name, answer in ask(model, *asked).items()}
    assert texts == {"a": "blue", "b": "blue", "c": "yes", "d": "a disc", "e": "a"}
    bundled = BOUNDS["majority"].build("bound:majority")
    assert ask(bundled, asked[0])["a"].predictions[0].text == "bundled"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"answer": "x"}\n{"answer": 3}\n', "line 2: field 'answer'"),
        ("a.jsonl", '{"answer": "x"}\n{oops\n', "line 2, column 2: not JSON"),
        ("a.jsonl", "", "the annotation file is empty"),
        ("a.jsonl", "[1]\n", "line 1: must be an object"),
        ("a.json", "{\n{", "line 2, column 1: not JSON"),
        ("a.json", '{"annotations": []}', "field 'images'"),
        ("a.json", '{"images": [{"captions": [3]}]}', r"images\[0\]: field 'captions'"),
        ("a.json", '{"images": []}', "holds no samples"),
        ("a.json", '{"images": [{"captions": []}]}', "holds no training answers"),
        (None, "", "no such annotation file"),
    ],
)
def test_majority_says_what_is_wrong_with_a_file(tmp_path, name, content, message):
    path = tmp_path / (name or "absent.jsonl")
    if name:
        path.write_text(content)
    with pytest.raises(HarnessError, match=message) as caught:
        majority.fit_any(path)
    assert "\n" not in str(caught.value)
