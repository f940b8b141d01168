"""Uncertainty of means of scores: by image, as the questions of one image are not independent.

Of any metric of a stored run: :mod:`groma_eval.statistics`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from groma_eval.core import HarnessError


def _cluster_sums(columns: Sequence[Sequence[float]], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of each column per cluster (n_clusters, n_columns) and the clusters' sizes (n_clusters,)."""
    numbers: dict[Hashable, int] = {}
    index = np.fromiter((numbers.setdefault(c, len(numbers)) for c in clusters), dtype=np.int64, count=len(clusters))
    values = [np.asarray(column, dtype=np.float64) for column in columns]
    if any(len(column) != len(index) for column in values):
        raise HarnessError(f"{[len(v) for v in values]} values for {len(index)} clusters: give one cluster a value")
    if not len(index):
        raise HarnessError("no values to draw from: an interval needs at least one scored question")
    sums = np.stack([np.bincount(index, weights=v, minlength=len(numbers)) for v in values], axis=1)
    return sums, np.bincount(index, minlength=len(numbers)).astype(np.float64)


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95 % interval of the mean of ``values``, whole clusters (images) being drawn, as of every other metric
    (:func:`groma_eval.statistics.resample.summarise`).

    The statistic is sum of values over number of values in the draw, so that clusters weigh by their size as they do in
    the metric itself. In the units of ``values``; the same input and seed give the same bytes. With one cluster both
    bounds are the mean.
    """
    from groma_eval.statistics import estimate
    from groma_eval.statistics.sums import OfSums, mean

    sums, sizes = _cluster_sums([values], clusters)
    found = estimate({"mean": OfSums(np.stack([sums[:, 0], sizes], axis=1), mean)}, resamples, seed)["mean"]
    if found.low is None or found.high is None:
        return found.value, found.value
    return found.low, found.high


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable],
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, float]:
    """Difference of the means of two models' scores on the same questions: ``delta`` = mean(a) - mean(b).

    ``lo``/``hi`` are its 95 % interval and ``p`` the two-sided p-value by image, as of every other metric
    (:func:`groma_eval.statistics.significance.difference`); with one cluster both bounds are ``delta`` and ``p`` is 1.
    """
    from groma_eval.statistics.significance import difference
    from groma_eval.statistics.sums import OfSums, mean

    sums, sizes = _cluster_sums([a, b], clusters)
    first, second = (OfSums(np.stack([column, sizes], axis=1), mean) for column in sums.T)
    found = difference([second], [first], resamples, seed)
    if found.p is None or found.low is None or found.high is None:
        return {"delta": found.difference, "lo": found.difference, "hi": found.difference, "p": 1.0}
    return {"delta": found.difference, "lo": found.low, "hi": found.high, "p": found.p}
