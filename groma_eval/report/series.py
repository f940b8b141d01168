"""The figures behind the report's plots, one set a run and benchmark.

Boxes are normalised xyxy, as stored. Intervals are 95 %, clustered by image. Lists are aligned with their ``x``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from groma_eval.metrics.boxes import TIE, as_many_recall, iou_matrix, match_boxes, paired_iou, picked_box, rank_order
from groma_eval.report.load import Answers, Row
from groma_eval.report.verdicts import areas, judge
from groma_eval.stats import clustered_interval

THRESHOLDS = np.round(np.arange(0.30, 0.951, 0.05), 2)
SIDES = (0, 16, 32, 64, 96, 192, 384, math.inf)  # square roots of areas in pixels; 32 and 96 are COCO's bounds
COUNTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300)
BINS = 10
_MANY_GROUPS = 24

Series = dict[str, Any]


def series_of(task: str, answers: Answers, rules: Mapping[str, Any]) -> dict[str, Series]:
    """Whatever of ``iou``, ``area``, ``recall``, ``calibration`` and ``groups`` the benchmark has figures for."""
    found: dict[str, Series | None] = {"recall": recall_curve(answers), "groups": _groups(task, answers)}
    if task == "rec":
        found |= _rec(answers, rules)
    elif task == "grounding":
        found |= _grounding(answers, rules)
    elif task == "proposals":
        found["calibration"] = _objectness(answers)
    return {name: series for name, series in found.items() if series is not None}


def _rec(answers: Answers, rules: Mapping[str, Any]) -> dict[str, Series | None]:
    rows = [row for row in answers.rows.values() if len(row["target"].get("boxes") or ()) == 1]
    if not rows:
        return {}
    pick = rules.get("answer", "first")
    empty = picked_box([], None)
    usable = [row["status"] == "ok" and bool(row["boxes"]) for row in rows]
    picked = [picked_box(r["boxes"], r["confidences"], pick) if ok else empty for r, ok in zip(rows, usable)]
    iou = paired_iou(picked, [row["target"]["boxes"][0] for row in rows])
    strict = rules.get("iou", ">=") == ">"
    hits = np.stack([iou > t + TIE if strict else iou >= t - TIE for t in THRESHOLDS])
    images = [row["image_id"] for row in rows]
    half = hits[list(THRESHOLDS).index(0.5)]
    pairs = [
        (_confidence_of_picked(row, pick), bool(hit))
        for row, ok, hit in zip(rows, usable, half)
        if ok and row["confidences"]
    ]
    sizes = [areas(row, *_size(answers, row))[0] for row in rows]
    return {
        "iou": {"what": "accuracy", **_over_iou(hits, images)},
        "area": {"what": "accuracy at IoU 0.5", **_by_area(half, sizes, images)},
        "calibration": calibration(pairs, "confidence of the judged box", "accuracy at IoU 0.5"),
    }


def _confidence_of_picked(row: Row, pick: str) -> float:
    return row["confidences"][0 if pick == "first" else int(rank_order(len(row["boxes"]), row["confidences"])[0])]


def _grounding(answers: Answers, rules: Mapping[str, Any]) -> dict[str, Series | None]:
    hits, images, sizes, pairs = [], [], [], []
    for row in answers.rows.values():
        truth = row["target"].get("boxes") or []
        boxes = row["boxes"] if row["status"] == "ok" else []
        confidences = row["confidences"] if boxes and rules.get("rank") != "emission" else None
        if truth:
            hits.append(as_many_recall(boxes, confidences, truth, THRESHOLDS))
            images += [row["image_id"]] * len(truth)
            sizes += areas(row, *_size(answers, row))
        if confidences:
            order = rank_order(len(boxes), confidences)
            matched = {p for p, _ in match_boxes([boxes[i] for i in order], truth, 0.5)}
            pairs += [(confidences[i], rank in matched) for rank, i in enumerate(order)]
    if not images:
        return {}
    table = np.concatenate(hits, axis=1)
    return {
        "iou": {"what": "recall of true boxes by the k surest boxes", **_over_iou(table, images)},
        "area": {
            "what": "recall of true boxes at IoU 0.5",
            **_by_area(table[list(THRESHOLDS).index(0.5)], sizes, images),
        },
        "calibration": calibration(pairs, "confidence of an answered box", "share that finds a true box at IoU 0.5"),
    }


def _objectness(answers: Answers) -> Series | None:
    pairs = []
    for row in answers.rows.values():
        image = answers.images[row["image_id"]]
        if row["status"] == "ok" and image["proposals"] and image["objectness"]:
            best = iou_matrix(image["proposals"], row["target"].get("boxes") or []).max(axis=1, initial=0.0)
            pairs += list(zip(image["objectness"], (best >= 0.5 - TIE).tolist(), strict=True))
    return calibration(pairs, "objectness of a proposal", "share that overlaps a true box by 0.5")


def calibration(pairs: Sequence[tuple[float, bool]], confidence: str, share: str) -> Series | None:
    """A reliability diagram of (confidence, hit) pairs in ten bins of equal width, the last one closed.

    ``ece`` is the expected calibration error: the mean over all pairs of |share of hits - mean confidence| of their bin
    (Guo et al., ICML 2017). None where there are no pairs, or a confidence is no probability.
    """
    if not pairs or not all(0.0 <= c <= 1.0 for c, _ in pairs):
        return None
    values = np.array([c for c, _ in pairs], dtype=np.float64)
    hits = np.array([hit for _, hit in pairs], dtype=np.float64)
    index = np.minimum((values * BINS).astype(int), BINS - 1)
    count = np.bincount(index, minlength=BINS)
    filled = np.maximum(count, 1)
    mean = np.bincount(index, weights=values, minlength=BINS) / filled
    right = np.bincount(index, weights=hits, minlength=BINS) / filled
    return {
        "x": _list(mean, count),
        "y": _list(right, count),
        "n": count.tolist(),
        "ece": float((count * np.abs(mean - right)).sum() / len(values)),
        "confidence": confidence,
        "share": share,
    }


def recall_curve(answers: Answers) -> Series | None:
    """Share of true boxes that one of an image's first k proposals overlaps by 0.5 (``y``) and by 0.75 (``y75``).

    A box that several questions ask for counts once for each. ``most`` is the largest number of proposals of an image;
    the curve ends there. None without proposals or true boxes.
    """
    first: list[np.ndarray] = []  # (2, n): how many proposals it takes, infinite where none does
    most = 0
    for image_id, boxes in _truth_by_image(answers):
        proposals = answers.images[image_id]["proposals"]
        if proposals is None:
            continue
        most = max(most, len(proposals))
        ious = iou_matrix(proposals, boxes)
        first.append(np.stack([_first_hit(ious >= t - TIE) for t in (0.5, 0.75)]))
    if not first or not most:
        return None
    needed = np.concatenate(first, axis=1)
    counts = [k for k in COUNTS if k < most] + [most]
    half, strict = ([float((row <= k).mean()) for k in counts] for row in needed)
    return {"x": counts, "y": half, "y75": strict, "n": needed.shape[1], "most": most}


def _first_hit(hits: np.ndarray) -> np.ndarray:
    """Number of rows of (n, m) ``hits`` until each column's first True: (m,), infinite where there is none."""
    if not len(hits):
        return np.full(hits.shape[1], math.inf)
    return np.where(hits.any(axis=0), hits.argmax(axis=0) + 1.0, math.inf)


def _truth_by_image(answers: Answers) -> Iterator[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for row in answers.rows.values():
        if boxes := row["target"].get("boxes"):
            found.setdefault(row["image_id"], []).extend(boxes)
    yield from found.items()


def _over_iou(hits: np.ndarray, images: Sequence[str]) -> Series:
    bounds = [_interval(row, images) for row in hits]
    return {
        "x": THRESHOLDS.tolist(),
        "y": hits.mean(axis=1).tolist(),
        "lo": [low for low, _ in bounds],
        "hi": [high for _, high in bounds],
        "n": hits.shape[1],
    }


def _by_area(hits: np.ndarray, sizes: Sequence[float], images: Sequence[str]) -> Series:
    side = np.sqrt(np.asarray(sizes, dtype=np.float64))
    names, members = [], []
    for low, high in pairwise(SIDES):
        names.append(f"{low}²–{high}²" if high < math.inf else f"≥ {low}²")
        members.append(np.flatnonzero((side >= low) & (side < high)))
    names[0] = f"< {SIDES[1]}²"
    return {"x": names, **_by_member(hits, members, images)}


def _by_member(values: np.ndarray, members: Sequence[np.ndarray], images: Sequence[str]) -> Series:
    series: Series = {"y": [], "lo": [], "hi": [], "n": []}
    for index in members:
        bounds = _interval(values[index], [images[i] for i in index]) if len(index) else (None, None)
        series["y"].append(float(values[index].mean()) if len(index) else None)
        series["lo"].append(bounds[0])
        series["hi"].append(bounds[1])
        series["n"].append(len(index))
    return series


def _groups(task: str, answers: Answers) -> Series | None:
    """The mean of the answers' values (right ones where the task knows right) by group."""
    values, images, members = [], [], {}
    right = True
    for row in answers.rows.values():
        verdict = judge(task, row)
        right &= verdict.right is not None
        if verdict.value is None and verdict.right is None:
            continue
        for name in filter(None, (row["group"] or "").split("/")):
            members.setdefault(name, []).append(len(values))
        values.append(verdict)
        images.append(row["image_id"])
    if not 2 <= len(members) <= _MANY_GROUPS:
        return None
    numbers = np.array([float(v.right) if right else v.value for v in values])
    names = sorted(members)
    what = "share of right answers" if right else "mean value"
    return {"what": what, "x": names, **_by_member(numbers, [np.array(members[n]) for n in names], images)}


def _interval(values: np.ndarray, images: Sequence[str]) -> tuple[float, float]:
    values = values.astype(np.float64)
    if values.min() == values.max():  # every draw has the same mean
        return float(values[0]), float(values[0])
    return clustered_interval(values.tolist(), images)


def _size(answers: Answers, row: Row) -> tuple[float, float]:
    image = answers.images[row["image_id"]]
    return image["width"], image["height"]


def _list(values: np.ndarray, count: np.ndarray) -> list[float | None]:
    return [float(v) if n else None for v, n in zip(values, count)]
