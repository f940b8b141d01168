"""Intervals and differences beside the figures: the stored ones, else those of :mod:`groma_eval.statistics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groma_eval.metrics.about import find
from groma_eval.report.load import StoredRun
from groma_eval.statistics import StoredBenchmark, compare_stored, estimate, read_stored, statistics_of
from groma_eval.tasks import TASKS

RESAMPLES = 2000  # of differences: every metric of every benchmark is compared
_DIGITS = 1e-4  # stored figures are rounded

Interval = list[float]


def intervals_of(run: StoredRun, benchmark: str) -> dict[str, Interval]:
    """95 % intervals, clustered by image, of a finished benchmark's metrics.

    A stored interval counts where it holds the metric's value: one that does not is that of another statistic.
    """
    result = run.metrics[benchmark]
    values = {m: v for m, v in result["metrics"].items() if isinstance(v, int | float)}
    found = {m: b for m, b in (result.get("intervals") or {}).items() if m in values and _holds(b, values[m])}
    wanted = [metric for metric in values if metric not in found]
    task = str((run.entry(benchmark) or {}).get("task"))
    if wanted and task in TASKS:
        statistics = statistics_of(read_stored(run.path, benchmark, run.entry(benchmark)), wanted)
        chosen = {metric: statistics[metric] for metric in wanted if metric in statistics}
        limits = {metric: about.range for metric in chosen if (about := find(task, metric))}
        for metric, estimated in estimate(chosen, limits=limits).items():
            if estimated.low is not None and estimated.high is not None:
                found[metric] = [estimated.low, estimated.high]
    return {metric: bounds for metric, bounds in found.items() if _holds(bounds, values[metric])}


def _holds(bounds: Any, value: float) -> bool:
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(isinstance(b, int | float) for b in bounds):
        return False
    return bounds[0] - _DIGITS <= value <= bounds[1] + _DIGITS


def differences_of(a: StoredRun, b: StoredRun, benchmark: str) -> dict[str, Mapping[str, float]]:
    """``b`` less ``a`` of each metric, as ``delta``, ``lo``, ``hi`` and ``p``; {} where they differ in questions."""
    entry = a.entry(benchmark) or {}
    if entry.get("task") not in TASKS:
        return {}
    left, right = (read_stored(run.path, benchmark, run.entry(benchmark)) for run in (a, b))
    if _asked(left) != _asked(right):
        return {}
    return {
        metric: {"delta": d.difference, "lo": d.low, "hi": d.high, "p": d.p}
        for metric, d in compare_stored([left], [right], resamples=RESAMPLES).items()
        if d.low is not None and d.high is not None and d.p is not None
    }


def _asked(stored: StoredBenchmark) -> list[Any]:
    return [(item.question.id, item.question.target) for item in stored.items]
