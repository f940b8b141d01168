"""The proposals task: COCO figures of a detection file's own boxes as proposals, and per-image counts."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from groma_eval.core import Prediction
from groma_eval.metrics.detection import score_detection
from groma_eval.readers import read
from groma_eval.tasks import Regions, proposals


def test_proposals_are_scored_as_the_file_of_one_class(shared):
    folder = shared / "data" / "detection"
    content = json.loads((folder / "instances_val2014_100.json").read_text())
    found = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    samples = read("coco", folder / "instances_val2014_100.json", None, need_images=False)
    # Boxes of equal score in different images count in the order of the images, which COCO sorts by id.
    samples.sort(key=lambda sample: int(sample.image_id))
    boxes, scores = defaultdict(list), defaultdict(list)
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    for row in found:
        (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
        boxes[str(row["image_id"])].append((x / width, y / height, (x + w) / width, (y + h) / height))
        scores[str(row["image_id"])].append(row["score"])
    regions = {s.image_id: Regions(boxes[s.image_id], scores[s.image_id]) for s in samples}
    predictions = {q.id: Prediction(q.id) for s in samples for q in s.questions}
    result = proposals.score(samples, predictions, regions, {})

    content["categories"] = [{"id": 1, "name": "object"}]
    for row in [*content["annotations"], *found]:
        row["category_id"] = 1
    standard, _ = score_detection(content, found, "coco", reference_metrics=True)
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"} | {f"ar@{n}": f"AR{n}" for n in (1, 10, 100)}
    figures = {name: result.metrics[name] for name in names}
    assert figures == pytest.approx({name: 100 * standard[key] for name, key in names.items()}, abs=1e-6)
    assert sum(s.values["n_gt"] for s in result.scores) == len(content["annotations"])
    assert sum(s.values["n_proposals"] for s in result.scores) == len(found)
    assert all(s.values["covered@0.5"] <= s.values["n_gt"] for s in result.scores)
