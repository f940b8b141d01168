"""As-many recall of detection files against a slow plain definition, its laws, and a sum by hand."""

from __future__ import annotations

import pytest
from detection_scenes import same
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.metrics.detection import score_detection

THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]


def plain_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def plain_found(boxes, true_boxes, threshold):
    """For each true box whether it is found: boxes in turn take the free true box they overlap best."""
    taken = set()
    for box in boxes:
        free = [n for n in range(len(true_boxes)) if n not in taken]
        good = [n for n in free if plain_iou(box, true_boxes[n]) >= threshold - 1e-9]
        if good:
            taken.add(max(good, key=lambda n: (plain_iou(box, true_boxes[n]), n)))
    return [n in taken for n in range(len(true_boxes))]


def plain_as_many(truth, detections):
    """Every figure from a flat list of (category, area, found at each threshold), one entry a true box."""
    rows = []
    for image in truth["images"]:
        for category in truth["categories"]:
            mine = [
                a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category["id"])
            ]
            given = [d for d in detections if (d["image_id"], d["category_id"]) == (image["id"], category["id"])]
            best = sorted(given, key=lambda d: -d["score"])[: len(mine)]
            found = [plain_found([d["bbox"] for d in best], [a["bbox"] for a in mine], t) for t in THRESHOLDS]
            rows += [(category, a["area"], [f[n] for f in found]) for n, a in enumerate(mine)]

    def macro(keep=lambda category, area: True, at=slice(None)):
        means = []
        for category in truth["categories"]:
            hits = [h for c, area, found in rows if c is category and keep(c, area) for h in found[at]]
            if hits:
                means.append(sum(hits) / len(hits))
        return sum(means) / len(means) if means else None

    every = [h for _, _, found in rows for h in found]
    figures = {
        "AR": macro(),
        "AR_micro": sum(every) / len(every) if every else None,
        "AR50": macro(at=slice(0, 1)),
        "AR75": macro(at=slice(5, 6)),
        "ARs": macro(lambda c, area: area < 1024),
        "ARm": macro(lambda c, area: 1024 <= area < 9216),
        "ARl": macro(lambda c, area: area >= 9216),
    }
    return figures | {f"AR{f}": macro(lambda c, area, f=f: c["frequency"] == f) for f in "rcf"}


place = st.fixed_dictionaries({"image_id": st.sampled_from([3, 9]), "category_id": st.sampled_from([1, 2, 5])})
box = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: [32.0 * v for v in b]
)


@st.composite
def files(draw, ties=True):
    annotations = draw(
        st.lists(st.tuples(place, box, st.sampled_from([100.0, 5000.0, 9216.0])), min_size=1, max_size=8)
    )
    score = st.sampled_from([0.1, 0.5, 0.9])
    found = draw(st.lists(st.tuples(place, box, score), max_size=10))
    # Some of the answers are the truth, or few would hit.
    found += draw(
        st.lists(st.sampled_from(annotations).flatmap(lambda a: st.tuples(st.just(a[0]), st.just(a[1]), score)))
    )
    truth = {
        "images": [{"id": 3}, {"id": 9}],
        "categories": [{"id": c, "name": str(c), "frequency": f} for c, f in ((1, "r"), (2, "f"), (5, "f"))],
        "annotations": [{"id": n, **p, "bbox": b, "area": a} for n, (p, b, a) in enumerate(annotations)],
    }
    detections = [{**p, "bbox": b, "score": s if ties else s + n / 1000} for n, (p, b, s) in enumerate(found)]
    return truth, detections


@settings(max_examples=60, deadline=None)
@given(files())
def test_it_is_the_plain_definition(content):
    truth, detections = content
    metrics, per_item = score_detection(truth, detections, "as-many")
    assert same(metrics, plain_as_many(truth, detections))
    boxes = sum(row["n_gt"] for row in per_item.values())
    assert boxes == len(truth["annotations"])
    assert sum(row["AR"] * row["n_gt"] for row in per_item.values()) / boxes == pytest.approx(metrics["AR_micro"])


@settings(max_examples=30, deadline=None)
@given(files(), st.sampled_from([0.25, 3.0, 128.0]))
def test_the_size_of_the_pictures_does_not_matter(content, factor):
    truth, detections = content
    expected, _ = score_detection(truth, detections, "as-many")
    larger = {
        **truth,
        "annotations": [
            {**r, "bbox": [factor * v for v in r["bbox"]], "area": factor**2 * r["area"]} for r in truth["annotations"]
        ],
    }
    found, _ = score_detection(larger, [{**d, "bbox": [factor * v for v in d["bbox"]]} for d in detections], "as-many")
    by_area = {"ARs", "ARm", "ARl"}
    assert same(
        {k: v for k, v in found.items() if k not in by_area}, {k: expected[k] for k in found if k not in by_area}
    )


@settings(max_examples=30, deadline=None)
@given(files(ties=False), st.randoms(use_true_random=False))
def test_detections_may_come_in_any_order(content, random):
    truth, detections = content
    shuffled = list(detections)
    random.shuffle(shuffled)
    assert score_detection(truth, shuffled, "as-many") == score_detection(truth, detections, "as-many")


@settings(max_examples=30, deadline=None)
@given(files())
def test_less_sure_boxes_beyond_k_change_nothing(content):
    truth, detections = content
    best = [{**r, "score": 0.95} for r in truth["annotations"]]
    extra = [*best, *detections]
    metrics, _ = score_detection(truth, extra, "as-many")
    assert {v for v in metrics.values() if v is not None} == {1.0}


def test_by_hand():
    cat, dog = {"image_id": 1, "category_id": 1}, {"image_id": 1, "category_id": 2}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "emu"}],
        "annotations": [
            {"id": 1, **cat, "bbox": [0, 0, 10, 10]},
            {"id": 2, **cat, "bbox": [50, 0, 40, 40]},
            {"id": 3, **dog, "bbox": [0, 50, 100, 100]},
        ],
    }
    detections = [
        {**cat, "bbox": [0, 0, 10, 7.2], "score": 0.9},  # IoU .72: found at five of the ten thresholds
        {**cat, "bbox": [70, 70, 9, 9], "score": 0.8},  # wrong, and takes the second of the two places
        {**cat, "bbox": [50, 0, 40, 40], "score": 0.7},
        {**dog, "bbox": [0, 50, 100, 100], "score": 0.1},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 1.0},  # answers no query
    ]
    metrics, per_item = score_detection(truth, detections, "as-many")
    assert per_item["1_1"] == {"AR": 0.25, "AR50": 0.5, "n_gt": 2, "n_pred": 3}
    assert metrics == pytest.approx(
        {
            "AR": (0.25 + 1) / 2,
            "AR_micro": 1.5 / 3,
            "AR50": 0.75,
            "AR75": 0.5,
            "ARs": 0.5,
            "ARm": 0.0,
            "ARl": 1.0,
            "ARr": None,
            "ARc": None,
            "ARf": None,
        }
    )
    # Of equal scores the earlier in the file counts.
    for row in detections:
        row["score"] = 0.5
    assert score_detection(truth, detections, "as-many")[0]["AR_micro"] == pytest.approx(0.5)
    assert score_detection(truth, detections[::-1], "as-many")[0]["AR_micro"] == pytest.approx(2 / 3)
