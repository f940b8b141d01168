"""Box metrics against hand calculation and slow plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.metrics.boxes import (
    AR_THRESHOLDS,
    as_many_recall,
    iou_matrix,
    iou_xyxy,
    match_boxes,
    rank_order,
    rec_scores,
)

grid = st.integers(0, 8).map(lambda n: n / 8)
box = st.tuples(grid, grid, grid, grid).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
solid = box.filter(lambda b: b[2] > b[0] and b[3] > b[1])


def plain_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def plain_greedy(pred, gt, threshold):
    """Owner of each true box, one prediction after another; the later of equally good boxes, as COCO has it."""
    owner = [None] * len(gt)
    for p, candidate in enumerate(pred):
        best, best_iou = None, threshold
        for g, truth in enumerate(gt):
            if owner[g] is None and plain_iou(candidate, truth) >= best_iou:
                best, best_iou = g, plain_iou(candidate, truth)
        if best is not None:
            owner[best] = p
    return owner


def test_iou_by_hand():
    assert iou_xyxy((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou_xyxy((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0  # touching
    assert iou_xyxy((0, 0, 4, 2), (0, 0, 2, 2)) == 0.5


@given(st.lists(box, max_size=5), st.lists(box, max_size=5))
def test_iou_is_symmetric_bounded_and_equals_the_plain_definition(a, b):
    ious = iou_matrix(a, b)
    assert ious.shape == (len(a), len(b))
    assert (ious >= 0).all()
    assert (ious <= 1).all()
    assert np.array_equal(ious, iou_matrix(b, a).T)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            assert ious[i, j] == pytest.approx(plain_iou(one, other), abs=1e-12)


@pytest.mark.parametrize(
    "bad", [(0.8, 0.8, 0.2, 0.2), (0.5, 0.5, 0.5, 0.9), (float("nan"), 0, 1, 1), (0, 0, np.inf, 1)]
)
def test_unusable_boxes_overlap_nothing(bad):
    assert iou_xyxy(bad, (0, 0, 1, 1)) == 0.0
    assert iou_xyxy(bad, bad) == 0.0


def test_boxes_of_another_shape_are_named():
    with pytest.raises(HarnessError, match="x1, y1, x2, y2"):
        iou_matrix([(0, 0, 1)], [(0, 0, 1, 1)])


def test_rec_scores_at_the_threshold_differ_by_rule():
    half = [(0.0, 0.0, 0.5, 1.0)]
    loose = rec_scores(half, None, (0, 0, 1, 1), rule=">=")
    strict = rec_scores(half, None, (0, 0, 1, 1), rule=">")
    assert (loose["acc@0.5"], loose["acc@0.5_strict"], loose["acc@0.3"], loose["acc@0.7"]) == (1.0, 0.0, 1.0, 0.0)
    assert strict["acc@0.5"] == strict["acc@0.5_strict"] == 0.0
    assert loose["iou"] == 0.5


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 100), st.integers(0, 100))
def test_an_exact_half_stays_half_after_normalising_pixels(w, h, x, y):
    size = np.array([1920.0, 1080.0] * 2)
    gt = np.array([x, y, x + 2 * w, y + h]) / size
    pred = np.array([x, y, x + w, y + h]) / size
    scores = rec_scores([pred], None, gt)
    assert (scores["acc@0.5"], scores["acc@0.5_strict"]) == (1.0, 0.0)


def test_rec_judges_one_box_only():
    gt = (0.0, 0.0, 0.4, 0.4)
    boxes = [(0.6, 0.6, 1.0, 1.0), gt]
    assert rec_scores(boxes, [0.2, 0.9], gt)["acc@0.5"] == 0.0
    assert rec_scores(boxes, [0.2, 0.9], gt, pick="most_confident")["acc@0.5"] == 1.0
    assert rec_scores(boxes, [0.9, 0.9], gt, pick="most_confident")["acc@0.5"] == 0.0  # a tie keeps emission order
    assert set(rec_scores([], None, gt).values()) == {0.0}


def test_centre_accuracy_is_of_the_picked_box():
    gt = (0.4, 0.4, 0.6, 0.6)
    assert rec_scores([(0, 0, 1, 1)], None, gt)["centre_acc"] == 1.0
    assert rec_scores([(0, 0, 0.7, 0.7)], None, gt)["centre_acc"] == 0.0


def test_an_unknown_rule_is_refused():
    with pytest.raises(HarnessError):
        rec_scores([(0, 0, 1, 1)], None, (0, 0, 1, 1), rule="=>")


def test_rank_order_is_stable_and_checks_lengths():
    assert rank_order(4, [0.5, 0.9, 0.5, float("nan")]).tolist() == [1, 0, 2, 3]
    assert rank_order(3, None).tolist() == [0, 1, 2]
    with pytest.raises(HarnessError):
        rank_order(2, [0.5])


@given(st.lists(solid, max_size=6), st.lists(solid, max_size=6), st.sampled_from([0.3, 0.5, 0.75]))
def test_match_boxes_equals_the_plain_definition(pred, gt, threshold):
    owner = plain_greedy(pred, gt, threshold)
    assert match_boxes(pred, gt, threshold) == sorted((p, g) for g, p in enumerate(owner) if p is not None)


@settings(max_examples=60)
@given(st.data())
def test_as_many_recall_equals_the_plain_definition(data):
    gt = data.draw(st.lists(solid, max_size=5))
    boxes = data.draw(st.lists(solid, max_size=8))
    confidences = data.draw(
        st.none() | st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes))
    )
    scores = confidences or [0.0] * len(boxes)
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    top = [boxes[i] for i in order[: len(gt)]]
    expected = [[p is not None for p in plain_greedy(top, gt, t)] for t in (0.5, 0.75)]
    assert as_many_recall(boxes, confidences, gt, (0.5, 0.75)).tolist() == expected


@given(st.lists(solid, min_size=1, max_size=5, unique=True))
def test_ground_truth_fed_back_is_found_whole(gt):
    assert as_many_recall(gt, None, gt, AR_THRESHOLDS).all()
    assert match_boxes(gt, gt, 0.95) == [(i, i) for i in range(len(gt))]


def test_as_many_takes_the_most_confident_k():
    gt = [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)]
    boxes = [(0, 0.5, 0.5, 1.0), gt[0], gt[1]]
    assert as_many_recall(boxes, None, gt, [0.5]).tolist() == [[True, False]]
    assert as_many_recall(boxes, [0.1, 0.8, 0.9], gt, [0.5]).tolist() == [[True, True]]
    # A doubled box takes one of the k places but cannot match twice.
    assert as_many_recall([gt[0], gt[0], gt[1]], None, gt, [0.5]).sum() == 1
