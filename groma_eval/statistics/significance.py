"""Two runs (or two groups of seeds) on the same images: difference, interval, p-value, and what many of them mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.statistics.resample import (
    RESAMPLES,
    Estimate,
    Statistic,
    Swappable,
    bootstrap_weights,
    summarise,
    swap_weights,
    value_of,
)

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """``b`` - ``a`` of one metric on the same images, in the metric's unit.

    ``a`` and ``b`` are means over their runs, ``a_runs`` and ``b_runs``. ``se``, ``low`` and ``high`` are those of
    ``difference``, by the bootstrap that draws each image for both at once. ``p``: two-sided, of the swap test by
    image, for average precision of Student's t on ``se``. ``detectable``: the least true
    difference that a test at 5 % finds with the chance 80 %. None where one image leaves nothing to be said;
    ``detectable`` also where no image shows a difference.
    """

    a: float
    b: float
    difference: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    images: int
    resamples: int
    method: str
    a_runs: tuple[float, ...] = ()
    b_runs: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(a: Sequence[Statistic], b: Sequence[Statistic], resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Compare one metric of the runs ``a`` with that of the runs ``b``; all have the same images in the same order.

    The interval is that of :func:`groma_eval.statistics.resample.summarise`. The p-value is that of approximate
    randomisation by image (Yeh, COLING 2000): were the two alike, an image's answers could change places.
    """
    images = a[0].images
    if any(s.images != images for s in (*a, *b)):
        raise HarnessError("two runs of different images cannot be paired; give runs of the same samples")
    limits = [s.resamples for s in (*a, *b) if s.resamples is not None]
    resamples = min([resamples, *limits])
    values = [[value_of(s) for s in side] for side in (a, b)]
    means = [float(np.mean(side)) for side in values]
    method, draws = a[0].interval, np.zeros(0)
    if method != "jackknife":
        draws = np.concatenate([_delta(a, b, weights) for weights in bootstrap_weights(images, resamples, seed)])
    knives = [[s.jackknife() for s in side] for side in (a, b)]
    cheap = all(knife is not None for side in knives for knife in side)
    knife = np.mean(knives[1], axis=0) - np.mean(knives[0], axis=0) if cheap else None
    found = summarise(means[1] - means[0], draws, knife, images, method=method)
    p = None
    if found.se is not None:
        p = _swap_p(a, b, resamples, seed) if isinstance(a[0], Swappable) else _t_p(found)
    return Difference(
        means[0], means[1], found.value, found.se, found.low, found.high, p,
        detectable_difference(found.se) if found.se else None,
        images, resamples, found.method, tuple(values[0]), tuple(values[1]),
    )  # fmt: skip


def _delta(a: Sequence[Statistic], b: Sequence[Statistic], weights: np.ndarray) -> np.ndarray:
    left, right = (np.mean([s.replicates(weights) for s in side], axis=0) for side in (a, b))
    return right - left


def _swap_p(a: Sequence[Any], b: Sequence[Any], resamples: int, seed: int) -> float:
    """Share of swaps with a larger difference than the one found, those that tie with it by half (mid-p).

    Sums of right answers are whole numbers, so that many swaps tie; counting them whole would make the test find
    differences less often than it may (Lancaster, JASA 1961). The runs of a side are pooled, each with an equal part of
    the weight, so that sides of different size can swap.
    """
    both = a[0]
    for statistic in (*a[1:], *b):
        both = both.beside(statistic)

    def delta(swapped: np.ndarray) -> np.ndarray:
        mine, theirs = swapped, 1.0 - swapped
        one = [theirs / len(a)] * len(a) + [mine / len(b)] * len(b)
        other = [mine / len(a)] * len(a) + [theirs / len(b)] * len(b)
        return both.replicates(np.concatenate(other, axis=1)) - both.replicates(np.concatenate(one, axis=1))

    found = abs(float(delta(np.zeros((1, a[0].images)))[0]))
    slack = 1e-9 * max(1.0, found)  # a swap that gives the same sums in another order ties
    if found <= slack:
        return 1.0
    larger, ties, drawn = 0, 1, 1  # what was found is one of the swaps
    for swapped in swap_weights(a[0].images, resamples, seed):
        values = np.abs(delta(swapped))
        larger += int((values > found + slack).sum())
        ties += int((np.abs(values - found) <= slack).sum())
        drawn += int(np.isfinite(values).sum())
    return max(1, larger + ties / 2) / drawn


def _t_p(found: Estimate) -> float:
    from scipy.special import stdtr

    if not found.se:
        return 1.0 if found.value == 0 else 0.0
    return float(2.0 * stdtr(found.images - 1, -abs(found.value) / found.se))


def detectable_difference(se: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The least true difference that a two-sided test at ``alpha`` finds with chance ``power``, given its ``se``."""
    from scipy.special import ndtri

    return float((ndtri(1 - alpha / 2) + ndtri(power)) * se)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int, float]:
    """(only a right, only b right, exact two-sided p) of two models' right answers to the same questions.

    McNemar's test (Psychometrika 1947) takes questions for independent, which those of one image are not: a reference,
    too sure of itself wherever an image has several questions.
    """
    from scipy.stats import binom

    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, min(1.0, 2.0 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scand. J. Stat. 1979): bounds the chance of any false claim."""
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1.0, raised)
    return corrected.tolist()


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Benjamini and Hochberg, JRSS B 1995): bounds the share of false claims."""
    values = np.asarray(ps, dtype=np.float64)
    if not len(values):
        return []
    order = np.argsort(values, kind="stable")[::-1]
    lowered = np.minimum.accumulate(values[order] * len(values) / np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1.0, lowered)
    return corrected.tolist()
