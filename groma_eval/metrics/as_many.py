"""The AS-MANY recall of named categories (Ma et al., *Groma*, 2024, appendix B).

A query is one category in one image. Of the boxes given for it the k surest count, k being the number of its true
boxes, so that giving more boxes than there are gains nothing. Which true boxes they find is
:func:`groma_eval.metrics.boxes.as_many_recall`; here the queries are put together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from groma_eval.metrics.boxes import AR_THRESHOLDS
from groma_eval.metrics.lvis_eval import FREQUENCIES

SMALL, LARGE = 32.0**2, 96.0**2  # pixels: COCO's bounds of small and large
_HALF, _THREE_QUARTERS = (int(np.abs(AR_THRESHOLDS - iou).argmin()) for iou in (0.5, 0.75))


@dataclass(frozen=True)
class Query:
    """One (image, category): ``hits`` (T, n) bool, which true boxes are found at IoU .50:.05:.95; ``areas`` (n,) px."""

    category: Any
    frequency: str | None
    hits: np.ndarray
    areas: np.ndarray


def as_many_metrics(queries: Iterable[Query]) -> dict[str, float | None]:
    """Recall in [0, 1] over all queries; None where there is no true box to it.

    ``AR``, ``AR50`` and ``AR75``, ``ARs``/``ARm``/``ARl`` (by the true box's area) and ``ARr``/``ARc``/``ARf`` (by the
    category's frequency) are means over categories, each with the true boxes of all its images pooled; ``AR_micro``
    is over all true boxes. The k of a query does not change with the area.
    """
    hits: dict[Any, list[np.ndarray]] = defaultdict(list)
    sizes: dict[Any, list[np.ndarray]] = defaultdict(list)
    frequency: dict[Any, str | None] = {}
    for query in queries:
        if query.hits.shape[1]:
            hits[query.category].append(query.hits)
            sizes[query.category].append((query.areas >= SMALL).astype(int) + (query.areas >= LARGE))
            frequency[query.category] = query.frequency
    pooled = {category: np.concatenate(found, axis=1) for category, found in hits.items()}
    metrics = {
        "AR": _mean([found.mean() for found in pooled.values()]),
        "AR_micro": float(np.concatenate(list(pooled.values()), axis=1).mean()) if pooled else None,
        "AR50": _mean([found[_HALF].mean() for found in pooled.values()]),
        "AR75": _mean([found[_THREE_QUARTERS].mean() for found in pooled.values()]),
    }
    for number, area in enumerate("sml"):
        inside = [found[:, np.concatenate(sizes[category]) == number] for category, found in pooled.items()]
        metrics[f"AR{area}"] = _mean([found.mean() for found in inside if found.size])
    for group in FREQUENCIES:
        metrics[f"AR{group}"] = _mean([f.mean() for category, f in pooled.items() if frequency[category] == group])
    return metrics


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
