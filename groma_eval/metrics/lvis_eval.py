"""LVIS box evaluation with its federated rules, through faster-coco-eval or through lvis-api.

The rules (Gupta et al., *LVIS*, 2019, and lvis-api): an image counts for a category only where the category
is annotated or verified absent; unmatched detections are no error where not every instance was annotated; an image's
300 best-scored detections count, over all categories together. Boxes are pixel ``xywh``, values shares in [0, 1].
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import types
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.coco_eval import EvalTables, annotation_rows, detection_rows, faster_tables

MAX_DETS = 300
FREQUENCIES = "rcf"  # rare, common, frequent: in up to 10, up to 100, more training images


def lvis_tables(
    dataset: Mapping[str, Any], detections: Iterable[Mapping[str, Any]], reference: bool = False
) -> EvalTables:
    """LVIS's box evaluation, silently, on LVIS dictionaries.

    Args:
        dataset: ``images`` (``id``, ``neg_category_ids``, ``not_exhaustive_category_ids``), ``annotations``
            (``image_id``, ``category_id``, ``bbox``, ``area``) and ``categories`` (``id``, ``frequency``); ids are
            whole numbers.
        detections: ``image_id``, ``category_id``, ``bbox``, ``score``; none at all is allowed.
        reference: through lvis-api instead of faster-coco-eval.

    Raises:
        HarnessError: the package that is to compute is not installed.
    """
    # LVIS has no crowds; a file may carry the field all the same.
    dataset = {**dataset, "annotations": [{**row, "iscrowd": 0} for row in dataset["annotations"]]}
    if reference:
        return _reference_tables(dataset, detections)
    # lvis-api passes over true boxes and, once 300 are taken, detections without area: neither found nor an error.
    dataset["annotations"] = [row for row in dataset["annotations"] if row["area"] > 0]
    found = [row for row in limit_per_image(detections) if row["bbox"][2] * row["bbox"][3] > 0]
    return faster_tables(dataset, found, (MAX_DETS,), federated=True)


def limit_per_image(detections: Iterable[Mapping[str, Any]], limit: int = MAX_DETS) -> list[Mapping[str, Any]]:
    """An image's ``limit`` best-scored detections of all categories together, the earlier ones of equal score.

    Images with no more keep the order given; as lvis-api does it.
    """
    images: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in detections:
        images[row["image_id"]].append(row)
    kept = []
    for rows in images.values():
        if len(rows) > limit:
            rows = sorted(rows, key=lambda row: row["score"], reverse=True)[:limit]
        kept.extend(rows)
    return kept


def lvis_metrics(tables: EvalTables, frequencies: Mapping[int, str]) -> dict[str, float | None]:
    """LVIS's thirteen figures in [0, 1], and the recall at IoU 0.5 and 0.75; None where lvis-api gives -1.

    ``frequencies``: r, c or f by category id. Every figure is a mean over categories.
    """
    metrics = {"AP": tables.ap(), "AP50": tables.ap(0.5), "AP75": tables.ap(0.75)}
    metrics |= {f"AP{area}": tables.ap(area=area) for area in "sml"}
    for group, among in frequency_groups(tables, frequencies).items():
        metrics[f"AP{group}"] = tables.ap(among=among)
    metrics[f"AR@{MAX_DETS}"] = tables.ar()
    metrics |= {f"AR{area}@{MAX_DETS}": tables.ar(area=area) for area in "sml"}
    return metrics | {"AR50": tables.ar(0.5), "AR75": tables.ar(0.75)}


def frequency_groups(tables: EvalTables, frequencies: Mapping[int, str | None]) -> dict[str, list[int]]:
    """Indices into ``tables.categories`` of the rare, the common and the frequent ones."""
    return {
        group: [index for index, key in enumerate(tables.categories) if frequencies[key] == group]
        for group in FREQUENCIES
    }


def _reference_tables(dataset: Mapping[str, Any], detections: Iterable[Mapping[str, Any]]) -> EvalTables:
    from_files, results, evaluator = _lvis_api()
    with _quiet():
        truth = _in_memory(from_files, {**dataset, "annotations": annotation_rows(dataset)})
        rows = detection_rows(detections)
        # LVISResults looks into the first detection to see what kind it has, and so fails where there is none.
        found = results(truth, rows) if rows else _in_memory(results, {**dataset, "annotations": []})
        evaluation = evaluator(truth, found, "bbox")
        categories = tuple(evaluation.params.cat_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return EvalTables(precision[..., None], recall[..., None], categories, (MAX_DETS,))


def _in_memory(kind: type, dataset: dict[str, Any]) -> Any:
    """An ``LVIS`` object of a dictionary: its constructor takes nothing but the path of a file."""
    made = kind.__new__(kind)
    made.logger = logging.getLogger("lvis")
    made.dataset = dataset
    made._create_index()
    return made


class _NumpyWithFloat(types.ModuleType):
    """NumPy as lvis-api expects it: all its names, and ``float``, which NumPy 1.24 removed."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _lvis_api() -> tuple[type, type, type]:
    """lvis-api's classes LVIS, LVISResults and LVISEval, the last one able to run.

    ``lvis.eval`` of lvis 0.5.3 uses ``np.float``. Its code is executed a second time here, as a module of its own that
    is not entered in ``sys.modules``, and the name ``np`` of that copy is set to a stand-in with a ``float``. So
    neither NumPy nor the ``lvis.eval`` that others may have imported is changed, and there is nothing to restore.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from lvis.lvis import LVIS
        from lvis.results import LVISResults

        spec = importlib.util.find_spec("lvis.eval")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise HarnessError(
            f"lvis-api cannot be imported ({error}): pip install lvis, or leave --reference-metrics out"
        ) from None
    finally:  # importing lvis configures the root logger
        root.handlers[:] = handlers
        root.setLevel(level)
    module.np = _NumpyWithFloat("numpy")
    return LVIS, LVISResults, module.LVISEval


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lvis-api's warnings: that detections came from memory, and of its own deprecated calls."""
    logger = logging.getLogger("lvis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
