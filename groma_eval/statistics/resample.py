"""Resampling whole images: standard errors, intervals, and the swaps of a paired test.

The questions of an image are not independent, so the image is what is drawn (the *cluster*). A statistic is known to
this module by one thing: its value under weights of the images (a bootstrap draw is a row of whole numbers, how often
each image was drawn). Where it is a function of sums over images that is a product of matrices, so that ten thousand
resamples cost what a few evaluations of the metric would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
_LEAST_FREEDOM = 20  # fewer are not told apart by a kurtosis estimated from some hundred images
_CHUNK = 4_000_000  # weights drawn at once: bounds memory


class Statistic(Protocol):
    """A metric of ``images`` images as a function of their weights, unchanged where all weights are scaled alike.

    ``interval``: how its interval is made (see :class:`Estimate`). ``resamples`` bounds what is drawn (None: no bound).
    """

    images: int
    resamples: int | None

    @property
    def interval(self) -> str: ...

    def replicates(self, weights: np.ndarray) -> np.ndarray:
        """Values (R,) under weights (R, images), NaN where the metric has none."""
        ...

    def jackknife(self) -> np.ndarray | None:
        """Values (images,) with each image left out, or None where that costs too much."""
        ...


@runtime_checkable
class Swappable(Protocol):
    """A statistic that can be made of two runs' images at once, as the swap test needs it."""

    def beside(self, other: Any) -> Any:
        """The statistic of the images of both, this one's first."""
        ...


@dataclass(frozen=True)
class Estimate:
    """A metric with its uncertainty, in the metric's unit; ``se``, ``low`` and ``high`` are None with one image.

    ``method``: ``bca`` (bias-corrected and accelerated bootstrap), ``jackknife`` (t interval on the jackknife's
    standard error), ``t`` (t interval on the bootstrap's) or ``exact`` (binomial, where all images are at the metric's
    limit). ``images`` are the clusters, ``resamples`` the draws.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    images: int
    resamples: int
    method: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bootstrap_weights(images: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Chunks (r, images) of how often each image is drawn, ``resamples`` rows in all; a row sums to ``images``."""
    rng = np.random.default_rng(seed)
    for rows in _chunks(images, resamples):
        drawn = rng.integers(0, images, (rows, images))
        drawn += images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def swap_weights(images: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Chunks (r, images) of 0 and 1, each with the chance 1/2: whether an image's two answers change places."""
    rng = np.random.default_rng(seed)
    for rows in _chunks(images, resamples):
        yield rng.integers(0, 2, (rows, images)).astype(np.float64)


def _chunks(images: int, resamples: int) -> Iterator[int]:
    step = max(1, _CHUNK // images)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def value_of(statistic: Statistic) -> float:
    """The metric itself: every image once."""
    return float(statistic.replicates(np.ones((1, statistic.images)))[0])


def summarise(
    value: float,
    draws: np.ndarray,
    jackknife: np.ndarray | None,
    images: int,
    limits: tuple[float, float | None] | None = None,
    method: str = "bca",
) -> Estimate:
    """The estimate from a metric's bootstrap ``draws`` (R,) (none for ``jackknife``) and its leave-one-image-out values
    (None for ``t``).

    ``limits``: the metric's lowest and highest value (None: it has no bound). An interval does not leave them, and at
    one that every image reaches it is not empty: see :func:`_unseen`.

    The interval is BCa (Efron, JASA 1987) at quantiles widened as Hesterberg (*What Teachers Should Know About the
    Bootstrap*, 2015) widens the percentile interval: Student's t times sqrt(n / (n - 1)) in place of the normal
    quantile, here with Satterthwaite's degrees of freedom, which are fewer where few images carry most of the
    variance. By the other methods value ± t x standard error.

    Means over categories are left to the jackknife: a category that few images have hardly varies between bootstrap
    draws, so that intervals from these are too short, whereas the jackknife's are a little too long.
    """
    known = draws if jackknife is None or method != "jackknife" else jackknife
    known, draws = known[np.isfinite(known)], draws[np.isfinite(draws)]
    if images < 2 or len(known) < 2:
        return Estimate(value, None, None, None, images, len(draws), method)
    if np.ptp(known) <= _near(value):
        low, high = _unseen(value, images, limits)
        return Estimate(value, 0.0, low, high, images, len(draws), "exact" if low < high else method)
    scale = (len(known) - 1) / np.sqrt(len(known)) if method == "jackknife" else 1.0
    se, t = float(scale * known.std(ddof=1)), t_quantile(images - 1)
    if method != "bca":
        low, high = np.clip([value - t * se, value + t * se], *(limits or (None, None)))
        return Estimate(value, se, float(low), float(high), images, len(draws), method)
    low, high = np.quantile(draws, _bca_levels(value, draws, jackknife[np.isfinite(jackknife)], images))
    return Estimate(value, se, float(low), float(high), images, len(draws), "bca")


def _near(value: float) -> float:
    """Draws that are equal but for the last bits of a sum count as equal."""
    return 1e-9 * max(1.0, abs(value))


def _unseen(value: float, images: int, limits: tuple[float, float | None] | None) -> tuple[float, float]:
    """Bounds where all images are alike, so that a bootstrap sees no spread at all.

    Where all are at a limit of the metric: of n images none fell short, so that with the interval's confidence fewer
    than 1 - 0.025^(1/n) of all images do (the exact binomial bound, "rule of three"), were each of these wholly wrong.
    """
    low, high = limits or (None, None)
    if low is not None and high is not None and min(abs(value - low), abs(value - high)) <= _near(value):
        reach = (high - low) * (1 - ((1 - LEVEL) / 2) ** (1 / images))
        return (value, low + reach) if abs(value - low) <= _near(value) else (high - reach, value)
    return value, value


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Two-sided Student quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def _bca_levels(value: float, draws: np.ndarray, jackknife: np.ndarray, images: int) -> np.ndarray:
    """The two quantile levels of the BCa interval."""
    from scipy.special import ndtr, ndtri

    near = _near(value)
    below = (draws < value - near).mean() + 0.5 * (np.abs(draws - value) <= near).mean()
    bias = ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    spread = (away**2).sum()
    skew, freedom = 0.0, images - 1.0
    if spread > near**2:  # else, below rounding, every image counts alike
        skew = (away**3).sum() / (6.0 * spread**1.5)
        kurtosis = len(away) * (away**4).sum() / spread**2
        freedom = float(np.clip(2 * images / max(kurtosis - 1, 1e-9), min(_LEAST_FREEDOM, freedom), freedom))
    quantile = t_quantile(freedom) * np.sqrt(images / (images - 1))
    edges = bias + np.array([-quantile, quantile])
    return ndtr(bias + edges / np.maximum(1e-6, 1.0 - skew * edges))
