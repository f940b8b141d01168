"""COCO figures and class-agnostic proposals against the toolbox's documented figures and pycocotools itself."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from detection_scenes import same, scene

from groma_eval.core import HarnessError
from groma_eval.metrics import detection
from groma_eval.metrics.boxes import match_boxes
from groma_eval.metrics.detection import proposal_metrics, score_detection

COCO_FIGURES = {
    "AP": 0.50458,
    "AP50": 0.69697,
    "AP75": 0.57298,
    "APs": 0.58563,
    "APm": 0.51940,
    "APl": 0.50140,
    "AR1": 0.38681,
    "AR10": 0.59368,
    "AR100": 0.59535,
    "ARs": 0.63981,
    "ARm": 0.56642,
    "ARl": 0.56429,
}


@pytest.mark.parametrize("reference", [False, True])
def test_coco_example_gives_the_toolbox_figures(shared, capsys, reference):
    folder = shared / "data" / "detection"
    truth = folder / "instances_val2014_100.json"
    metrics, per_item = score_detection(truth, folder / "instances_val2014_fakebbox100_results.json", "coco", reference)
    assert metrics == pytest.approx(COCO_FIGURES, abs=5e-6)
    assert list(metrics) == list(COCO_FIGURES)
    assert capsys.readouterr().out == ""
    assert np.mean([row["AP"] for row in per_item.values()]) == pytest.approx(metrics["AP"])
    assert per_item["1"]["category"] == "person"


def test_coco_example_to_the_last_digit_of_pycocotools(shared):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = shared / "data" / "detection"
    paths = [str(folder / f"instances_val2014_{n}.json") for n in ("100", "fakebbox100_results")]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(paths[0])
        standard = COCOeval(truth, truth.loadRes(paths[1]), "bbox")
        standard.evaluate()
        standard.accumulate()
        standard.summarize()
    for reference in (False, True):
        metrics, _ = score_detection(*paths, "coco", reference)
        assert list(metrics.values()) == pytest.approx(standard.stats.tolist(), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_both_coco_backends_agree(seed):
    truth, detections = scene(seed, many=seed % 4 == 0)
    fast, fast_items = score_detection(truth, detections, "coco")
    slow, slow_items = score_detection(truth, detections, "coco", reference_metrics=True)
    assert same(fast, slow)
    assert fast_items.keys() == slow_items.keys()
    assert fast["AP"] > 0


@pytest.mark.parametrize("protocol", ["coco", "lvis", "as-many"])
def test_perfect_detections_give_1_and_none_give_0(protocol):
    truth, _ = scene(5, crowds=False)
    for row in truth["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    perfect = [{k: r[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for r in truth["annotations"]]
    for detections, value in ((perfect, 1.0), ([], 0.0)):
        for reference in (False,) if protocol == "as-many" else (False, True):
            metrics, _ = score_detection(truth, detections, protocol, reference)
            # One detection an image and category cannot find several objects.
            figures = [v for name, v in metrics.items() if v is not None and name != "AR1"]
            assert len(figures) > 8
            assert figures == pytest.approx([value] * len(figures))


@pytest.mark.parametrize("protocol", ["coco", "lvis", "as-many"])
def test_the_order_of_the_records_changes_nothing(protocol):
    truth, detections = scene(8)
    boxes = {(r["image_id"], r["category_id"], *r["bbox"]): r for r in truth["annotations"]}
    truth["annotations"] = list(boxes.values())  # of two equal boxes the first and the last would change places
    detections = [{**row, "score": (n + 1) / 1000} for n, row in enumerate(detections)]
    expected, _ = score_detection(truth, detections, protocol)
    rng = np.random.default_rng(0)
    shuffled = {field: [rows[i] for i in rng.permutation(len(rows))] for field, rows in truth.items()}
    found, _ = score_detection(shuffled, [detections[i] for i in rng.permutation(len(detections))], protocol)
    assert same(expected, found, 1e-12)
    assert expected[next(iter(expected))] > 0


@pytest.mark.parametrize("protocol", ["coco", "lvis", "as-many"])
def test_ids_may_be_anything(protocol):
    truth, detections = scene(3)
    expected, _ = score_detection(truth, detections, protocol)
    image, category = (lambda n: f"é/{n:04d}"), (lambda n: n * 10**12 + 7)
    for row in truth["images"]:
        row["id"] = image(row["id"])
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            row[field] = [category(c) for c in row[field]] + [5]  # one the file leaves out
    for row in truth["categories"]:
        row["id"] = category(row["id"])
    for row in [*truth["annotations"], *detections]:
        row |= {"image_id": image(row["image_id"]), "category_id": category(row["category_id"])}
    assert same(score_detection(truth, detections, protocol)[0], expected, 0.0)


def test_what_is_not_there_is_null():
    truth, detections = scene(4)
    for row in truth["annotations"]:
        row["area"] = 50.0
    metrics, _ = score_detection(truth, detections, "coco")
    assert metrics["APm"] is metrics["APl"] is metrics["ARl"] is None
    assert metrics["APs"] > 0


def test_a_crowd_forgives_what_lies_in_it():
    place = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, **place, "bbox": [0, 0, 10, 10]},
            {"id": 2, **place, "bbox": [50, 50, 100, 100], "iscrowd": 1},
        ],
    }
    found = [
        {**place, "bbox": [60, 60, 10, 10], "score": 0.9},
        {**place, "bbox": [0, 0, 10, 10], "score": 0.5},
    ]
    assert score_detection(truth, found, "coco")[0]["AP"] == 1.0
    # Under as-many a crowd region is no true box: k is 1, and the surer box is the wrong one.
    assert score_detection(truth, found, "as-many")[0]["AR"] == 0.0
    truth["annotations"][1]["iscrowd"] = 0
    assert score_detection(truth, found, "coco")[0]["AP"] < 0.5


def test_a_missing_package_is_one_line(monkeypatch):
    truth, detections = scene(1)
    for package, protocol, reference in (
        ("faster_coco_eval", "coco", False),
        ("faster_coco_eval", "lvis", False),
        ("pycocotools.coco", "coco", True),
        ("lvis.lvis", "lvis", True),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(HarnessError, match="pip install") as error:
                score_detection(truth, detections, protocol, reference)
            assert "\n" not in str(error.value)


def test_importing_brings_no_evaluation_package():
    code = (
        "import sys, groma_eval.tasks, groma_eval.cli.score_detection;"
        "print([m for m in ('faster_coco_eval', 'pycocotools', 'lvis', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_protocols_are_checked():
    with pytest.raises(HarnessError, match="coco, lvis, as-many"):
        score_detection({}, [], "voc")
    with pytest.raises(HarnessError, match="no reference tool"):
        score_detection({}, [], "as-many", reference_metrics=True)


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


def test_proposals_need_no_faster_coco_eval(scenes, monkeypatch):
    expected = proposal_metrics(scenes)
    monkeypatch.setattr(detection, "faster_is_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert proposal_metrics(scenes) == pytest.approx(expected, abs=1e-9)


def test_proposal_recall_at_half_by_definition(scenes):
    plain = [{k: v for k, v in s.items() if k != "gt_iscrowd"} for s in scenes]
    hits = total = 0
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
    assert found["ap"] == found["ap50"] == 0.0  # precision looks at 100 proposals
    assert "ar_s" not in found


def test_no_proposals_score_nothing_and_lengths_are_checked():
    image = {"width": 10, "height": 10, "boxes": [], "scores": None, "gt_boxes": [(0, 0, 1, 1)]}
    assert proposal_metrics([image])["ar@300"] == 0.0
    with pytest.raises(HarnessError, match="one score"):
        proposal_metrics([image | {"boxes": [(0, 0, 1, 1)], "scores": []}])
