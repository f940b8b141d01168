"""LVIS figures by both backends against lvis-api's own, and its federated rules by hand."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
from detection_scenes import same, scene

from groma_eval.metrics.detection import score_detection
from groma_eval.metrics.lvis_eval import limit_per_image

BACKENDS = pytest.mark.parametrize("reference", [False, True])


@BACKENDS
def test_the_sample_gives_what_lvis_api_gives(shared, capsys, reference):
    folder = shared / "data" / "lvis"
    expected = json.loads((folder / "expected_detections_perturbed.json").read_text())
    metrics, per_item = score_detection(
        folder / "lvis_val_100.json", folder / "detections_perturbed.json", "lvis", reference
    )
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected, abs=1e-6)
    assert np.mean([row["AR@300"] for row in per_item.values()]) == pytest.approx(metrics["AR@300"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(12))
def test_both_backends_agree(seed):
    truth, detections = scene(seed, many=seed % 4 == 0)
    fast, _ = score_detection(truth, detections, "lvis")
    slow, _ = score_detection(truth, detections, "lvis", reference_metrics=True)
    assert same(fast, slow)
    assert fast["AP"] > 0


def test_scenes_hold_what_is_hard():
    """The agreement above would mean little on sets without these."""
    sets = [scene(seed, many=seed % 4 == 0) for seed in range(12)]
    images = [image for truth, _ in sets for image in truth["images"]]
    assert any(image["neg_category_ids"] for image in images)
    assert any(image["not_exhaustive_category_ids"] for image in images)
    assert any(0 in d["bbox"][2:] for _, found in sets for d in found)
    assert any(sum(d["image_id"] == i["id"] for d in found) > 300 for truth, found in sets for i in truth["images"])


@BACKENDS
def test_nothing_found_is_zero(reference):
    truth, _ = scene(2)
    metrics, _ = score_detection(truth, [], "lvis", reference)
    assert set(metrics.values()) <= {0.0, None}
    assert metrics["AP"] == metrics["AR@300"] == 0.0


def test_numpy_and_lvis_stay_as_they_are():
    import lvis.eval

    truth, detections = scene(2)
    handlers = list(logging.getLogger().handlers)
    score_detection(truth, detections, "lvis", reference_metrics=True)
    assert not hasattr(np, "float")
    assert lvis.eval.np is np
    assert sys.modules["lvis.eval"] is lvis.eval
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("lvis").level == logging.NOTSET


BOX, OTHER = [10, 10, 40, 40], [200, 200, 40, 40]


def _set(**fields) -> dict:
    """Image 1 with one cat, image 2 without anything annotated; ``fields`` are image 1's or, with ``_2``, image 2's."""
    images = [{"id": n, "neg_category_ids": [], "not_exhaustive_category_ids": []} for n in (1, 2)]
    for name, value in fields.items():
        images[name.endswith("_2")][name.removesuffix("_2")] = value
    return {
        "images": images,
        "categories": [{"id": 1, "name": "cat", "frequency": "r"}, {"id": 2, "name": "dog", "frequency": "f"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}],
    }


def _found(*rows) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in rows
    ]


RIGHT = (1, 1, BOX, 0.5)


@BACKENDS
@pytest.mark.parametrize(
    ("fields", "wrong", "half"),
    [
        ({}, (1, 1, OTHER, 0.9), True),  # annotated here, so a false positive counts
        ({"not_exhaustive_category_ids": [1]}, (1, 1, OTHER, 0.9), False),  # it may be an instance left unmarked
        ({}, (2, 1, OTHER, 0.9), False),  # nobody looked for cats in image 2
        ({"neg_category_ids_2": [1]}, (2, 1, OTHER, 0.9), True),  # somebody did, and there is none
        ({}, (1, 2, OTHER, 0.9), False),  # dogs have no ground truth at all
        ({"neg_category_ids_2": [1]}, (2, 1, [5, 5, 0, 40], 0.9), False),  # lvis-api passes over boxes without area
    ],
)
def test_what_is_an_error(reference, fields, wrong, half):
    metrics, _ = score_detection(_set(**fields), _found(RIGHT, wrong), "lvis", reference)
    assert metrics["AP"] == pytest.approx(0.5 if half else 1.0)
    assert metrics["APr"] == metrics["AP"]
    assert metrics["APc"] is metrics["APf"] is None
    assert metrics["AR@300"] == 1.0


@BACKENDS
def test_an_image_has_300_detections_over_all_categories(reference):
    dogs = [(1, 2, OTHER, 0.9)] * 299
    assert score_detection(_set(), _found(*dogs, RIGHT), "lvis", reference)[0]["AR@300"] == 1.0
    crowded = _found(*dogs, (1, 2, OTHER, 0.9), RIGHT)
    assert score_detection(_set(), crowded, "lvis", reference)[0]["AR@300"] == 0.0
    assert score_detection(_set(), crowded, "coco", reference)[0]["AR100"] == 1.0


def test_of_equal_scores_the_earlier_stay():
    rows = [{"image_id": n % 2, "score": 1.0, "n": n} for n in range(10)]
    rows[8]["score"] = 2.0
    assert [row["n"] for row in limit_per_image(rows, 3)] == [8, 0, 2, 1, 3, 5]
    assert [row["n"] for row in limit_per_image(rows, 5)] == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
