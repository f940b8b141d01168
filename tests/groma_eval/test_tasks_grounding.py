"""The grounding task: its rules, and that a run on LVIS prints what the file scores."""

from __future__ import annotations

import json
import sys

import pytest

from groma_eval.core import HarnessError, Prediction, Question, Sample
from groma_eval.metrics.detection import score_detection
from groma_eval.readers import read
from groma_eval.tasks import grounding

A, B = (0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9)


def _one(target, prediction, rules=None):
    sample = Sample("x", None, 100, 100, (Question("q", "ground_all", target=target),))
    return grounding.score([sample], {"q": prediction}, {}, rules or {})


@pytest.fixture
def lvis(shared):
    """The LVIS sample as a run: questions, predictions by id, and the detections that were asked for."""
    folder = shared / "data" / "lvis"
    path = folder / "lvis_val_100.json"
    samples = read("lvis", path, None, need_images=False)
    sizes = {i["id"]: (i["width"], i["height"]) for i in json.loads(path.read_text())["images"]}
    predictions = {q.id: Prediction(q.id, confidences=[]) for s in samples for q in s.questions}
    asked = []
    for row in json.loads((folder / "detections_perturbed.json").read_text()):
        key = f"{row['image_id']}_{row['category_id']}"
        if key in predictions:
            (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
            predictions[key].boxes.append((x / width, y / height, (x + w) / width, (y + h) / height))
            predictions[key].confidences.append(row["score"])
            asked.append(row)
    assert len(asked) > 500
    return path, samples, predictions, asked


def test_as_many_is_what_the_file_scores(lvis):
    path, samples, predictions, asked = lvis
    result = grounding.score(samples, predictions, {}, {})
    standard, _ = score_detection(path, asked, "as-many")
    names = {"ar": "AR", "ar_micro": "AR_micro", "ar@0.5": "AR50", "ar@0.75": "AR75"}
    names |= {f"ar_{area}": f"AR{area}" for area in "sml"} | {f"ar/{group}": f"AR{group}" for group in "rcf"}
    figures = {name: result.metrics[name] for name in names}
    assert figures == pytest.approx({name: 100 * standard[key] for name, key in names.items()}, abs=1e-6)
    assert len({round(figures[name], 3) for name in names}) > 8  # else one could stand for another
    weights = [s.values["n_gt"] for s in result.scores]
    pooled = sum(s.values["ar"] * w for s, w in zip(result.scores, weights)) / sum(weights)
    assert 100 * pooled == pytest.approx(figures["ar_micro"])


def test_ap_is_that_of_lvis_over_what_was_asked(lvis):
    path, samples, predictions, asked = lvis
    metrics = grounding.score(samples, predictions, {}, {}).metrics
    standard, _ = score_detection(path, asked, "lvis", reference_metrics=True)
    assert (metrics["ap"], metrics["ap50"]) == pytest.approx((100 * standard["AP"], 100 * standard["AP50"]), abs=1e-6)
    assert "ap" not in grounding.score(samples, predictions, {}, {"rank": "emission"}).metrics


def test_the_released_rules_are_lvis_with_every_score_1(lvis):
    path, samples, predictions, asked = lvis
    result = grounding.score(samples, predictions, {}, {"metric": "lvis", "rank": "emission"})
    standard, _ = score_detection(path, [{**row, "score": 1.0} for row in asked], "lvis", reference_metrics=True)
    names = {"ar": "AR@300", "ar@0.5": "AR50", "ar@0.75": "AR75"} | {f"ar_{a}": f"AR{a}@300" for a in "sml"}
    figures = {name: result.metrics[name] for name in names}
    assert figures == pytest.approx({name: 100 * standard[key] for name, key in names.items()}, abs=1e-6)
    assert result.metrics["ar"] > grounding.score(samples, predictions, {}, {"rank": "emission"}).metrics["ar"]
    assert not {"ar_micro", "ap"} & set(result.metrics)
    assert {"ar", "ar@0.5", "tp", "n_pred", "n_gt"} <= set(result.scores[0].values)


@pytest.mark.parametrize("rules", [{"metric": "lvis-api"}, {"rank": "score"}, {"metric": ["lvis"]}])
def test_unknown_rules_are_refused(rules):
    with pytest.raises(HarnessError, match="mend the card"):
        _one({"boxes": [A], "category": 1}, Prediction("q"), rules)


def test_confidences_give_ap_and_order_decides_it():
    target = {"boxes": [A], "areas": [400], "category": 1, "frequency": None}
    wrong_first = _one(target, Prediction("q", boxes=[B, A], confidences=[0.9, 0.8])).metrics
    assert wrong_first["ap"] == pytest.approx(50)
    assert "ap" not in _one(target, Prediction("q", boxes=[B, A])).metrics
    partly = _one(target | {"exhaustive": False}, Prediction("q", boxes=[B, A], confidences=[0.9, 0.8])).metrics
    assert partly["ap"] == partly["ap50"] == pytest.approx(100)


def test_without_faster_coco_eval_only_ap_is_left_out(monkeypatch, capsys):
    target = {"boxes": [A], "areas": [400], "category": 1, "frequency": "r"}
    answer = Prediction("q", boxes=[A], confidences=[0.9])
    complete = _one(target, answer).metrics
    monkeypatch.setattr(grounding, "faster_is_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    metrics = _one(target, answer).metrics
    assert metrics == {k: v for k, v in complete.items() if k not in ("ap", "ap50")}
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "faster-coco-eval is not installed" in error
    with pytest.raises(HarnessError, match="faster-coco-eval"):
        _one(target, answer, {"metric": "lvis"})
