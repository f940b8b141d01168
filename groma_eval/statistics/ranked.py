"""Average precision and recall of any draw of images, from cached matches (:mod:`groma_eval.statistics.matching`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from groma_eval.metrics.boxes import AR_THRESHOLDS
from groma_eval.statistics.matching import AREAS, Matches
from groma_eval.statistics.sums import MeanOfShares, mean_of_shares

RESAMPLES = 200  # of average precision, which every draw must rank anew
_RECALLS = np.linspace(0.0, 1.0, 101)
_CHUNK = 2_000_000
_MOST_WORK = 20_000_000  # pairs of image and detection, above which the jackknife is left for the bootstrap


def recall_of(
    matches: Matches,
    area: str = "all",
    iou: float | None = None,
    max_dets: int | None = None,
    among: Sequence[int] | None = None,
) -> MeanOfShares:
    """COCO's AR in percent: the mean over categories (``among``: these) of recall, at one IoU or over .50:.05:.95."""
    lane = AREAS.index(area)
    counted = matches.right[lane] if iou is None else matches.right[lane, _level(iou)][None]
    kept = counted if max_dets is None else counted & (matches.rank < max_dets)
    wanted = matches.wanted[lane] > 0
    hit = kept.any(axis=0)
    if among is not None:
        wanted &= np.isin(matches.cell_category, among)
        hit &= np.isin(matches.category, among)
    return mean_of_shares(
        matches.images,
        np.concatenate([matches.image[hit], matches.cell_image[wanted]]),
        np.concatenate([matches.category[hit], matches.cell_category[wanted]]),
        np.concatenate([kept[:, hit].mean(axis=0), np.zeros(wanted.sum())]),
        np.concatenate([np.zeros(hit.sum()), matches.wanted[lane, wanted]]),
    )


def _level(iou: float) -> int:
    return int(np.abs(AR_THRESHOLDS - iou).argmin())


@dataclass(frozen=True)
class _Category:
    """Detections of one category, best first: ``image`` (D,), ``right``, ``wrong`` (T, D); its true boxes by image:
    ``gt_image`` and ``gt_count``."""

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    gt_image: np.ndarray
    gt_count: np.ndarray


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision in percent: mean over IoU thresholds and over the categories that have true boxes.

    An image of weight k counts as k images: with equal weights it is what the COCO evaluation gives, with others what
    it gives of so many copies, but that equal scores within an image are not interleaved with those of its copies.
    """

    images: int
    categories: Sequence[_Category]
    resamples: int | None = RESAMPLES

    def replicates(self, weights: np.ndarray) -> np.ndarray:
        total = np.zeros(len(weights))
        count = np.zeros(len(weights))
        for category in self.categories:
            wanted = weights[:, category.gt_image] @ category.gt_count
            there = wanted > 0
            step = max(1, _CHUNK // max(1, len(category.image)))
            for at in range(0, len(weights), step):
                rows = slice(at, at + step)
                found = _precision(category, weights[rows], np.maximum(wanted[rows], 1e-12))
                total[rows] += np.where(there[rows], found, 0.0)
            count += there
        with np.errstate(invalid="ignore"):
            return 100.0 * total / count

    @property
    def interval(self) -> str:
        """``jackknife`` where there are several categories and it is not too costly, else ``t``."""
        work = sum(len(c.gt_image) * len(c.image) for c in self.categories)
        return "jackknife" if len(self.categories) > 1 and work <= _MOST_WORK else "t"

    def jackknife(self) -> np.ndarray | None:
        """Without one image only the categories that it has change."""
        if self.interval != "jackknife":
            return None
        total, count = np.zeros(self.images), np.full(self.images, float(len(self.categories)))
        for category in self.categories:
            own = np.union1d(category.image, category.gt_image)
            local = replace(
                category, image=np.searchsorted(own, category.image), gt_image=np.searchsorted(own, category.gt_image)
            )
            without = np.concatenate([1.0 - np.eye(len(own)), np.ones((1, len(own)))])
            wanted = without[:, local.gt_image] @ local.gt_count
            found = np.where(wanted > 0, _precision(local, without, np.maximum(wanted, 1e-12)), 0.0)
            total += found[-1]
            total[own] += found[:-1] - found[-1]
            count[own] -= wanted[:-1] <= 0
        with np.errstate(invalid="ignore"):
            return 100.0 * total / count


def average_precision_of(matches: Matches, iou: float | None = None, max_dets: int | None = None) -> AveragePrecision:
    """COCO's AP at one IoU or over .50:.05:.95, of each cell's ``max_dets`` best detections (None: all)."""
    levels = slice(None) if iou is None else slice(_level(iou), _level(iou) + 1)
    right = matches.right[0, levels]
    wrong = ~right & ~matches.ignored[0, levels]
    kept = np.ones(len(matches.rank), dtype=bool) if max_dets is None else matches.rank < max_dets
    categories = []
    counted = matches.wanted[0] > 0
    for number in np.unique(matches.cell_category[counted]):
        truth = np.flatnonzero((matches.cell_category == number) & counted)
        own = np.flatnonzero((matches.category == number) & kept)
        own = own[np.argsort(-matches.score[own], kind="stable")]
        categories.append(
            _Category(
                matches.image[own], right[:, own], wrong[:, own], matches.cell_image[truth], matches.wanted[0, truth]
            )
        )
    return AveragePrecision(matches.images, categories)


def _precision(category: _Category, weights: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean over thresholds of the interpolated precision (R,) of one category."""
    drawn = weights[:, category.image]
    total = np.zeros(len(weights))
    for right, wrong in zip(category.right, category.wrong):
        at = np.flatnonzero(right)  # recall grows here alone, and precision is highest here
        if not len(at):
            continue
        hits = np.cumsum(drawn[:, at], axis=1)
        errors = np.cumsum(drawn * wrong, axis=1)[:, at]
        precision = hits / (hits + errors + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(_RECALLS, hits / wanted[:, None], side="right")
        total += (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return total / (len(category.right) * len(_RECALLS))
