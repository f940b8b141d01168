"""Uncertainty of every metric, and paired comparison of runs, from finished run folders alone.

What others call::

    stored = read_stored("runs/a", "shapes-rec")          # a benchmark of a run, as stored
    found = estimates(stored)                             # {metric: Estimate}: value, se, low, high, ...
    metric_intervals("runs/a", "shapes-rec")              # {metric: [low, high]} as in metrics.json
    compared = compare_stored([stored_a], [stored_b])     # {metric: Difference}: b - a, low, high, p, detectable
    holm([d.p for d in compared.values()])                # p-values corrected for their number

Several runs on a side are seeds of one system: their mean is what is compared. Draws are of whole images; intervals
are of 95 %; the same folders give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.about import find
from groma_eval.statistics.resample import (
    RESAMPLES,
    Estimate,
    Statistic,
    bootstrap_weights,
    summarise,
    value_of,
)
from groma_eval.statistics.significance import (
    Difference,
    benjamini_hochberg,
    detectable_difference,
    difference,
    holm,
    mcnemar,
)
from groma_eval.statistics.stored import Item, StoredBenchmark, read_stored, statistics_of

__all__ = [
    "Difference", "Estimate", "Item", "Statistic", "StoredBenchmark", "benjamini_hochberg", "compare_stored",
    "detectable_difference", "estimate", "estimates", "holm", "mcnemar", "metric_intervals", "read_stored",
    "statistics_of",
]  # fmt: skip


def estimates(
    stored: StoredBenchmark, metrics: Iterable[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Value, standard error and 95 % interval of each metric (None: all that can be measured)."""
    chosen = _chosen(stored, metrics)
    about = {name: find(stored.task, name) for name in chosen}
    return estimate(chosen, resamples, seed, {name: info.range for name, info in about.items() if info})


def estimate(
    statistics: Mapping[str, Statistic],
    resamples: int = RESAMPLES,
    seed: int = 0,
    limits: Mapping[str, tuple[float, float | None]] | None = None,
) -> dict[str, Estimate]:
    """Estimates of several metrics of the same images from the same draws; ``limits``: lowest and highest values."""
    found: dict[str, Estimate] = {}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    images = max((s.images for s in statistics.values() if s.interval != "jackknife"), default=0)
    drawn = 0
    for weights in bootstrap_weights(images, resamples, seed) if images else ():
        for name, statistic in statistics.items():
            left = len(weights) if statistic.resamples is None else statistic.resamples - drawn
            if left > 0 and statistic.interval != "jackknife":
                draws[name].append(statistic.replicates(weights[:left]))
        drawn += len(weights)
    for name, statistic in statistics.items():
        values = np.concatenate([np.zeros(0), *draws[name]])
        limit, knife = (limits or {}).get(name), statistic.jackknife()
        found[name] = summarise(value_of(statistic), values, knife, statistic.images, limit, statistic.interval)
    return found


def metric_intervals(
    run: str | Path, benchmark: str, entry: Mapping[str, Any] | None = None, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """``{metric: [low, high]}`` of a finished benchmark, as metrics.json holds them; no interval from one image."""
    found = estimates(read_stored(run, benchmark, entry), resamples=resamples)
    return {name: [e.low, e.high] for name, e in found.items() if e.low is not None and e.high is not None}


def compare_stored(
    a: Sequence[StoredBenchmark],
    b: Sequence[StoredBenchmark],
    metrics: Iterable[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """``b`` - ``a`` of each metric (of ``metrics``) that all have; several runs on a side are seeds.

    Raises:
        HarnessError: the runs do not hold the same questions; cut them down with ``only`` first.
    """
    order = a[0].ids
    for other in (*a[1:], *b):
        if other.ids != order:
            raise HarnessError(
                f"{a[0].run} and {other.run} hold other questions of {a[0].name}; compare what both have (only)"
            )
    wanted = None if metrics is None else list(metrics)
    sides = [[statistics_of(stored, wanted) for stored in side] for side in (a, b)]
    first, *others = [*sides[0], *sides[1]]
    return {
        name: difference([s[name] for s in sides[0]], [s[name] for s in sides[1]], resamples, seed)
        for name in first
        if all(name in other for other in others)
    }


def _chosen(stored: StoredBenchmark, metrics: Iterable[str] | None) -> dict[str, Statistic]:
    if metrics is None:
        return statistics_of(stored)
    wanted = list(metrics)
    found = statistics_of(stored, wanted)
    unknown = next((name for name in wanted if name not in found), None)
    if unknown is not None:
        raise HarnessError(
            f"{stored.run}: {stored.name} has no metric '{unknown}'; it has {', '.join(statistics_of(stored))}"
        )
    return found
