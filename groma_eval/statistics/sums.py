"""Metrics that are functions of sums over images: shares, means, F1, BLEU, METEOR, and means over categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Formula = Callable[[np.ndarray], np.ndarray]  # totals (..., columns) -> values (...)
MANY, FEWER = 5000, 2000  # what means over the categories of a large set cost is bounded by drawing less often
_CHUNK = 8_000_000


@dataclass(frozen=True)
class OfSums:
    """A metric that ``formula`` makes of the column totals of ``sums`` (images, columns)."""

    sums: np.ndarray
    formula: Formula
    resamples: int | None = None
    interval = "bca"

    @property
    def images(self) -> int:
        return len(self.sums)

    def replicates(self, weights: np.ndarray) -> np.ndarray:
        return self._of(weights @ self.sums)

    def jackknife(self) -> np.ndarray:
        return self._of(self.sums.sum(axis=0) - self.sums)

    def beside(self, other: OfSums) -> OfSums:
        return OfSums(np.concatenate([self.sums, other.sums]), self.formula, self.resamples)

    def _of(self, totals: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.formula(totals)


def share(totals: np.ndarray) -> np.ndarray:
    """100 x first / second; NaN for nothing of nothing."""
    return 100.0 * totals[..., 0] / totals[..., 1]


def mean(totals: np.ndarray) -> np.ndarray:
    """First / second: the mean of values that are in the metric's unit already."""
    return totals[..., 0] / totals[..., 1]


def share_or_zero(totals: np.ndarray) -> np.ndarray:
    """100 x first / second; 0 for nothing of nothing, as precision without answers."""
    return np.nan_to_num(share(totals), nan=0.0)


def f1(totals: np.ndarray) -> np.ndarray:
    """F1 in percent of (matched, answered, true); 0 without any."""
    return np.nan_to_num(200.0 * totals[..., 0] / (totals[..., 1] + totals[..., 2]), nan=0.0)


@dataclass(frozen=True)
class MeanOfShares:
    """The mean over categories of their shares, in percent: recall as LVIS and COCO average it.

    An entry is one (image, category), in the categories' order: ``image`` and ``category`` (entries,) numbers, ``part``
    and ``whole`` (entries,) its hits and its true boxes; :func:`mean_of_shares` makes them. A category with nothing to
    find (in a draw) is left out.
    """

    images: int
    image: np.ndarray
    category: np.ndarray
    part: np.ndarray
    whole: np.ndarray
    resamples: int | None = None
    interval = "jackknife"

    def replicates(self, weights: np.ndarray) -> np.ndarray:
        if not len(self.image):
            return np.full(len(weights), np.nan)
        step = max(1, _CHUNK // len(self.image))
        return np.concatenate([self._mean(weights[at : at + step]) for at in range(0, len(weights), step)])

    def _mean(self, weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, self.image]
        starts = np.flatnonzero(np.diff(self.category, prepend=self.category[0] - 1))
        part = np.add.reduceat(drawn * self.part, starts, axis=1)
        whole = np.add.reduceat(drawn * self.whole, starts, axis=1)
        there = whole > 0
        shares = np.divide(part, whole, out=np.zeros_like(part), where=there)
        with np.errstate(invalid="ignore"):
            return 100.0 * shares.sum(axis=1) / there.sum(axis=1)

    def jackknife(self) -> np.ndarray:
        """Without one image only its own categories change."""
        own = np.unique(self.category, return_inverse=True)[1]
        part, whole = np.bincount(own, self.part), np.bincount(own, self.whole)
        there = whole > 0
        shares = np.divide(part, whole, out=np.zeros_like(part), where=there)
        less_part, less_whole = part[own] - self.part, whole[own] - self.whole
        left = less_whole > 0
        changed = np.divide(less_part, less_whole, out=np.zeros_like(less_part), where=left) - shares[own]
        total = shares.sum() + np.bincount(self.image, changed, self.images)
        count = there.sum() + np.bincount(self.image, left.astype(int) - there[own], self.images)
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100.0 * total / count

    def beside(self, other: MeanOfShares) -> MeanOfShares:
        image = np.concatenate([self.image, other.image + self.images])
        joined = [np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("category", "part", "whole")]
        return mean_of_shares(self.images + other.images, image, *joined)


def mean_of_shares(
    images: int,
    image: np.ndarray,
    category: np.ndarray,
    part: np.ndarray,
    whole: np.ndarray,
) -> MeanOfShares:
    """The statistic of entries in any order, those of one image and category added up.

    Beyond :data:`MANY` entries it is resampled :data:`FEWER` times.
    """
    pairs, at = np.unique(np.stack([category, image]), axis=1, return_inverse=True)
    sums = [np.bincount(at.ravel(), column, pairs.shape[1]) for column in (part, whole)]
    return MeanOfShares(images, pairs[1], pairs[0], *sums, FEWER if pairs.shape[1] > MANY else None)


def per_image(numbers: np.ndarray, images: int, columns: Sequence[np.ndarray]) -> np.ndarray:
    """Sums (images, columns) of columns of questions whose images are ``numbers``."""
    return np.stack([np.bincount(numbers, np.asarray(c, dtype=np.float64), images) for c in columns], axis=1)
