"""Detection metrics against the COCO toolbox's documented figures, pycocotools itself and hand calculation."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.metrics.detection import coco_scores, grounding_metrics, grounding_scores, proposal_metrics


def record(boxes, gt, category="cat", frequency="f", confidences=None, areas=None, size=(100, 100)):
    return {
        "category": category,
        "frequency": frequency,
        "boxes": boxes,
        "confidences": confidences,
        "gt_boxes": gt,
        "gt_areas": areas,
        "width": size[0],
        "height": size[1],
    }


def test_coco_example_gives_the_toolbox_figures(shared, capsys):
    folder = shared / "data" / "detection"
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    detections = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = coco_scores(dataset, detections)
    figures = [found.ap(), found.ap(0.5), found.ap(0.75), *(found.ap(area=a) for a in "sml")]
    figures += [found.ar(max_dets=m) for m in (1, 10, 100)] + [found.ar(area=a) for a in "sml"]
    expected = [0.50458, 0.69697, 0.57298, 0.58563, 0.51940, 0.50140]
    expected += [0.38681, 0.59368, 0.59535, 0.63981, 0.56642, 0.56429]
    assert figures == pytest.approx(expected, abs=5e-6)
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(3)
    images = []
    for _ in range(12):
        size = np.array([400.0, 300.0, 400.0, 300.0])
        corner = rng.uniform(0, 0.6, (6, 2))
        gt = np.concatenate([corner, corner + rng.uniform(0.03, 0.4, (6, 2))], axis=1)
        noise = rng.normal(0, 0.02, (6, 4))
        others = np.sort(rng.uniform(0, 1, (8, 2, 2)), axis=1).reshape(8, 4)
        boxes = np.concatenate([gt + noise, others])
        areas = np.prod((gt * size)[:, 2:] - (gt * size)[:, :2], axis=1) * 0.8  # as masks: smaller than the boxes
        images.append(
            {
                "width": 400,
                "height": 300,
                "boxes": boxes,
                "scores": rng.uniform(size=len(boxes)),
                "gt_boxes": gt,
                "gt_areas": areas,
                "gt_iscrowd": [0, 0, 0, 0, 0, 1],
            }
        )
    return images


def test_proposal_metrics_equal_pycocotools(scenes):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scale = np.array([400.0, 300.0, 400.0, 300.0])
    xywh = lambda b: [*(b * scale)[:2], *((b * scale)[2:] - (b * scale)[:2])]  # noqa: E731
    dataset = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "thing"}], "info": {}}
    results = []
    for n, image in enumerate(scenes):
        dataset["images"].append({"id": n + 50, "width": 400, "height": 300})
        for box, area, crowd in zip(image["gt_boxes"], image["gt_areas"], image["gt_iscrowd"]):
            item = {"id": len(dataset["annotations"]) + 1, "image_id": n + 50, "category_id": 7}
            dataset["annotations"].append(item | {"bbox": xywh(box), "area": area, "iscrowd": crowd})
        for box, score in zip(image["boxes"], image["scores"]):
            results.append({"image_id": n + 50, "category_id": 7, "bbox": xywh(box), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        standard = COCOeval(truth, truth.loadRes(results), "bbox")
        standard.evaluate()
        standard.accumulate()
        standard.summarize()
    found = proposal_metrics(scenes)
    names = ["ap", "ap50", "ap75"]
    assert [found[n] for n in names] == pytest.approx(100 * standard.stats[:3], abs=1e-9)
    # Fewer than 100 proposals an image: recall at 300 is recall at 100.
    names = ["ar@1", "ar@10", "ar@100", "ar_s", "ar_m", "ar_l"]
    assert [found[n] for n in names] == pytest.approx(100 * standard.stats[6:], abs=1e-9)
    assert found["ar@300"] == found["ar@100"]


def test_proposal_recall_at_half_by_definition(scenes):
    plain = [{k: v for k, v in s.items() if k != "gt_iscrowd"} for s in scenes]
    hits = total = 0
    from groma_eval.metrics.boxes import match_boxes

    for image in plain:
        ranked = image["boxes"][np.argsort(-image["scores"])]
        hits += len(match_boxes(ranked, image["gt_boxes"], 0.5))
        total += len(image["gt_boxes"])
    assert proposal_metrics(plain)["ar50"] == pytest.approx(100 * hits / total)


def test_more_proposals_reach_300():
    gt = [(0.1, 0.1, 0.5, 0.5)]
    wrong = [(0.6, 0.6, 0.9, 0.9)] * 150
    found = proposal_metrics([{"width": 500, "height": 500, "boxes": [*wrong, *gt], "scores": None, "gt_boxes": gt}])
    assert (found["ar@100"], found["ar@300"], found["ar50"], found["ar_l"]) == (0.0, 100.0, 100.0, 100.0)
    assert "ar_s" not in found


def test_no_proposals_score_nothing_and_lengths_are_checked():
    image = {"width": 10, "height": 10, "boxes": [], "scores": None, "gt_boxes": [(0, 0, 1, 1)]}
    assert proposal_metrics([image])["ar@300"] == 0.0
    with pytest.raises(HarnessError, match="one score"):
        proposal_metrics([image | {"boxes": [(0, 0, 1, 1)], "scores": []}])


unit = st.integers(0, 10).map(lambda n: n / 10)
solid = st.tuples(unit, unit, unit, unit).filter(lambda b: b[0] < b[2] and b[1] < b[3])


@settings(max_examples=40)
@given(st.lists(st.lists(solid, min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_ground_truth_fed_back_scores_exactly_100(groups):
    records = [record(g, g, category=f"c{n % 2}", frequency="rc"[n % 2]) for n, g in enumerate(groups)]
    metrics = grounding_metrics(records)
    assert {"ar", "ar@0.5", "ar@0.75", "ar_micro", "recall@0.5", "precision@0.5", "f1@0.5"} <= set(metrics)
    assert set(metrics.values()) == {100.0}


def test_grounding_metrics_by_hand():
    a, b, c = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.6, 0.3, 0.9)
    records = [
        record([a], [a, b], "cat", "f", areas=[10.0**2, 50.0**2]),  # one of two found
        record([c, c], [c], "dog", "r", areas=[200.0**2]),  # found, and once too often
        record([c], [a], "cat", "f", areas=[31.9**2]),  # missed
    ]
    metrics = grounding_metrics(records)
    assert metrics["ar"] == pytest.approx((100 / 3 + 100) / 2)
    assert metrics["ar/f"] == pytest.approx(100 / 3)
    assert metrics["ar/r"] == 100.0
    assert metrics["ar_micro"] == pytest.approx(50.0)
    assert (metrics["ar_s"], metrics["ar_m"], metrics["ar_l"]) == (50.0, 0.0, 100.0)
    assert metrics["recall@0.5"] == pytest.approx(50.0)
    assert metrics["precision@0.5"] == pytest.approx(50.0)
    assert metrics["f1@0.5"] == pytest.approx(50.0)


def test_average_recall_runs_over_the_ten_thresholds():
    gt = [(0.0, 0.0, 1.0, 1.0)]
    metrics = grounding_metrics([record([(0.0, 0.0, 0.72, 1.0)], gt)])
    assert metrics["ar"] == pytest.approx(50.0)  # .50 .55 .60 .65 .70
    assert (metrics["ar@0.5"], metrics["ar@0.75"]) == (100.0, 0.0)


def test_a_category_without_truth_counts_against_precision_only():
    gt = [(0.0, 0.0, 1.0, 1.0)]
    metrics = grounding_metrics([record(gt, gt), record(gt, [], category="absent")])
    assert (metrics["ar"], metrics["recall@0.5"], metrics["precision@0.5"]) == (100.0, 100.0, 50.0)
    assert grounding_scores(record(gt, [])) == {"tp": 0, "n_pred": 1, "n_gt": 0}
    assert grounding_metrics([]) == {}


def test_empty_answers_score_zero():
    metrics = grounding_metrics([record([], [(0, 0, 1, 1)])])
    assert metrics["ar"] == metrics["precision@0.5"] == metrics["f1@0.5"] == 0.0


def test_average_precision_looks_at_100_proposals():
    gt = [(0.1, 0.1, 0.5, 0.5)]
    boxes = [*[(0.6, 0.6, 0.9, 0.9)] * 150, *gt]
    found = proposal_metrics([{"width": 500, "height": 500, "boxes": boxes, "scores": None, "gt_boxes": gt}])
    assert found["ap"] == found["ap50"] == 0.0


def test_area_classes_are_cocos():
    gt = [(0.0, 0.0, 0.4, 0.4)]
    classes = []
    for side in (31.99, 32.0, 95.99, 96.0):
        found = grounding_metrics([record(gt, gt, areas=[side**2])])
        classes.append("".join(area for area in "sml" if f"ar_{area}" in found))
    assert classes == ["s", "m", "m", "l"]
    assert "ar_m" in grounding_metrics([record(gt, gt, size=(100, 100))])  # 40 x 40 pixels, by the box itself
