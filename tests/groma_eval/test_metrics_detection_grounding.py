"""Measures of grounded categories: by hand, against lvis-api, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.metrics.detection import score_detection
from groma_eval.metrics.grounding import average_precision, grounding_metrics, grounding_scores, lvis_percent

A, B, C = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.6, 0.3, 0.9)


def record(boxes, gt, category="cat", frequency="f", confidences=None, areas=None, size=(100, 100), **more):
    return {
        "image": "x",
        "width": size[0],
        "height": size[1],
        "category": category,
        "frequency": frequency,
        "boxes": boxes,
        "confidences": confidences,
        "gt_boxes": gt,
        "gt_areas": areas,
    } | more


unit = st.integers(0, 10).map(lambda n: n / 10)
solid = st.tuples(unit, unit, unit, unit).filter(lambda b: b[0] < b[2] and b[1] < b[3])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(solid, min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_ground_truth_fed_back_scores_exactly_100(groups):
    records = [record(g, g, f"c{n % 2}", "rc"[n % 2], [0.5] * len(g), image=f"i{n}") for n, g in enumerate(groups)]
    metrics = grounding_metrics(records)
    assert {"ar", "ar@0.5", "ar@0.75", "ar_micro", "recall@0.5", "precision@0.5", "f1@0.5"} <= set(metrics)
    assert set(metrics.values()) == {100.0}
    assert list(lvis_percent(records).values()) == pytest.approx([100.0] * len(lvis_percent(records)))
    assert average_precision(records) == pytest.approx({"ap": 100.0, "ap50": 100.0})


def test_grounding_metrics_by_hand():
    records = [
        record([A], [A, B], "cat", "f", areas=[10.0**2, 50.0**2]),  # one of two found
        record([C, C], [C], "dog", "r", areas=[200.0**2]),  # found, and once too often
        record([C], [A], "cat", "f", areas=[31.9**2]),  # missed
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
    for metric in ("as-many", "lvis"):
        metrics = grounding_metrics([record([(0.0, 0.0, 0.72, 1.0)], gt)], metric)
        assert metrics["ar"] == pytest.approx(50.0)  # .50 .55 .60 .65 .70
        assert (metrics["ar@0.5"], metrics["ar@0.75"]) == (100.0, 0.0)
        assert grounding_scores(record([(0.0, 0.0, 0.72, 1.0)], gt), metric)["ar"] == pytest.approx(0.5)


def test_lvis_counts_every_box_where_as_many_counts_k():
    answer = record([B, C, A], [A], confidences=[0.9, 0.8, 0.1], areas=[200.0**2], frequency="c")
    assert grounding_metrics([answer])["ar"] == 0.0
    found = grounding_metrics([answer], "lvis")
    assert (found["ar"], found["ar_l"], found["ar/c"]) == (100.0, 100.0, 100.0)
    assert found["precision@0.5"] == pytest.approx(100 / 3)
    assert not {"ar_micro", "ar_s", "ar/r"} & set(found)
    assert (grounding_scores(answer)["ar"], grounding_scores(answer, "lvis")["ar"]) == (0.0, 1.0)


def test_lvis_counts_300_boxes_of_an_image():
    first = record([B] * 300, [B], "cat")
    later = record([A], [A], "dog")
    assert lvis_percent([first, later])["ar"] == 50.0
    assert lvis_percent([first, later | {"image": "y"}])["ar"] == 100.0
    assert lvis_percent([first | {"confidences": [0.1] * 300}, later | {"confidences": [0.2]}])["ar"] == 100.0


def test_a_category_without_truth_counts_against_precision_only():
    gt = [(0.0, 0.0, 1.0, 1.0)]
    metrics = grounding_metrics([record(gt, gt), record(gt, [], category="absent")])
    assert (metrics["ar"], metrics["recall@0.5"], metrics["precision@0.5"]) == (100.0, 100.0, 50.0)
    assert grounding_scores(record(gt, [])) == {"tp": 0, "n_pred": 1, "n_gt": 0}
    assert grounding_metrics([]) == {}


def test_empty_answers_score_zero():
    nothing = [record([], [(0, 0, 1, 1)])]
    for metric in ("as-many", "lvis"):
        metrics = grounding_metrics(nothing, metric)
        assert metrics["ar"] == metrics["precision@0.5"] == metrics["f1@0.5"] == 0.0
    assert average_precision(nothing) == {}


@pytest.mark.parametrize("bad", [(0.4, 0.4, 0.0, 0.0), (0.2, 0.2, 0.2, 0.2), (float("nan"), 0.0, 0.4, 0.4)])
def test_unusable_boxes_find_nothing(bad):
    answer = [record([bad, A], [A, B], confidences=[0.9, 0.5])]
    assert lvis_percent(answer)["ar"] == 50.0
    assert average_precision([answer[0] | {"frequency": None}])["ap"] == pytest.approx(100 * 51 * 0.5 / 101)


def test_area_classes_are_cocos():
    gt = [(0.0, 0.0, 0.4, 0.4)]
    classes = []
    for side in (31.99, 32.0, 95.99, 96.0):
        found = grounding_metrics([record(gt, gt, areas=[side**2])])
        classes.append("".join(area for area in "sml" if f"ar_{area}" in found))
    assert classes == ["s", "m", "m", "l"]
    assert "ar_m" in grounding_metrics([record(gt, gt, size=(100, 100))])  # 40 x 40 pixels, by the box itself


def test_average_precision_needs_confidences():
    answer = record([A], [A])
    assert average_precision([answer]) == {}
    sure = record([A], [A], confidences=[0.7])
    assert average_precision([sure, record([], [B])])["ap50"] == pytest.approx(100 * 51 / 101)
    assert average_precision([sure, answer | {"image": "y"}]) == {}


def test_average_precision_by_hand():
    # The surest box is wrong: precision 1/2 at every recall.
    wrong_first = record([B, A], [A], confidences=[0.9, 0.8])
    right_first = wrong_first | {"confidences": [0.8, 0.9]}
    assert average_precision([wrong_first]) == pytest.approx({"ap": 50.0, "ap50": 50.0})
    assert average_precision([right_first]) == pytest.approx({"ap": 100.0, "ap50": 100.0})
    # Where not every instance is marked, a box that matches none is no error.
    assert average_precision([wrong_first | {"exhaustive": False}]) == pytest.approx({"ap": 100.0, "ap50": 100.0})
    # Two categories: their mean.
    both = [wrong_first, record([B], [B], "dog", "r", [0.1])]
    assert average_precision(both)["ap"] == pytest.approx(75.0)


def test_average_precision_is_cocos_without_lvis_fields():
    """COCO looks at 100 boxes an image and category, LVIS at 300 an image."""
    gt, boxes = [A], [*[B] * 100, A]
    confidences = [1 - n / 1000 for n in range(101)]
    plain = record(boxes, gt, frequency=None, confidences=confidences)
    assert average_precision([plain])["ap"] == 0.0
    assert average_precision([plain | {"frequency": "f"}])["ap"] == pytest.approx(100 / 101)


def test_lvis_recall_and_precision_are_those_of_lvis_api():
    """Random records as an LVIS file with its results, scored by lvis-api itself."""
    rng = np.random.default_rng(1)
    records = []
    truth = {"images": [], "categories": [], "annotations": []}
    truth["categories"] = [{"id": c, "name": str(c), "frequency": "rcf"[c % 3]} for c in range(5)]
    found = []
    for image in range(12):
        size = (300 + 10 * image, 200)
        scale = np.array([*size, *size])
        asked = rng.permutation(5)[:3].tolist()
        partly = [c for c in asked if rng.random() < 0.3]
        truth["images"].append({"id": image, "neg_category_ids": [], "not_exhaustive_category_ids": partly})
        for category in asked:
            corner = rng.uniform(0, 0.5, (3, 2))
            gt = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (3, 2))], axis=1)
            others = rng.uniform(0, 0.4, (2, 4)) + np.array([0, 0, 0.5, 0.5])
            boxes = np.concatenate([gt + rng.normal(0, 0.03, (3, 4)), others])
            confidences = rng.uniform(size=5).tolist()
            areas = rng.choice([500.0, 5000.0, 50000.0], 3).tolist()
            place = {"image_id": image, "category_id": category}
            xywh = lambda b: [*(b * scale)[:2], *((b * scale)[2:] - (b * scale)[:2])]  # noqa: B023, E731
            for box, area in zip(gt, areas):
                truth["annotations"].append({"id": len(truth["annotations"]), **place, "bbox": xywh(box), "area": area})
            found += [{**place, "bbox": xywh(b), "score": s} for b, s in zip(boxes, confidences)]
            records.append(
                record(
                    [tuple(b) for b in boxes],
                    gt,
                    category,
                    "rcf"[category % 3],
                    confidences,
                    areas,
                    size,
                    image=str(image),
                    exhaustive=category not in partly,
                )
            )
    standard, _ = score_detection(truth, found, "lvis", reference_metrics=True)
    metrics = lvis_percent(records) | average_precision(records)
    names = {"ar": "AR@300", "ar@0.5": "AR50", "ar@0.75": "AR75", "ap": "AP", "ap50": "AP50"}
    names |= {f"ar_{area}": f"AR{area}@300" for area in "sml"}
    assert {k: metrics[k] for k in names} == pytest.approx({k: 100 * standard[v] for k, v in names.items()}, abs=1e-6)
    assert 20 < metrics["ap"] < 90
    by_frequency = [
        metrics[f"ar/{group}"] * sum(c["frequency"] == group for c in truth["categories"]) for group in "rcf"
    ]
    assert sum(by_frequency) / 5 == pytest.approx(metrics["ar"])
