"""COCO box evaluation: tables of precision and recall, through faster-coco-eval or through pycocotools.

Both give the same numbers; pycocotools is the reference (Lin et al., *Microsoft COCO*, 2014, and its toolbox). Boxes
are pixel ``xywh``, values are shares in [0, 1].
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.boxes import AR_THRESHOLDS

AREAS = {"all": 0, "s": 1, "m": 2, "l": 3}
RECALL_POINTS = 101
MAX_DETS = (1, 10, 100)


@dataclass(frozen=True)
class EvalTables:
    """What an evaluation accumulates: precision (T, R, K, A, M) and recall (T, K, A, M), -1 without ground truth.

    T = IoU .50:.05:.95, R = 101 recall points, K = ``categories`` (ids, rising), A = all/s/m/l, M = ``max_dets``.
    """

    precision: np.ndarray
    recall: np.ndarray
    categories: tuple[int, ...]
    max_dets: tuple[int, ...]

    def ap(
        self,
        iou: float | None = None,
        area: str = "all",
        max_dets: int | None = None,
        among: Sequence[int] | None = None,
    ) -> float | None:
        """Average precision in [0, 1] at one IoU or over all, with the largest of ``max_dets`` unless given.

        ``among``: indices of the categories to average over. None where no ground truth falls in what is asked.
        """
        return self._mean(self.precision, iou, area, max_dets, among)

    def ar(
        self,
        iou: float | None = None,
        area: str = "all",
        max_dets: int | None = None,
        among: Sequence[int] | None = None,
    ) -> float | None:
        """Recall in [0, 1] averaged over categories (and over the IoUs), arguments as in :meth:`ap`."""
        return self._mean(self.recall, iou, area, max_dets, among)

    def _mean(self, table: np.ndarray, iou: float | None, area: str, max_dets: int | None, among: Any) -> float | None:
        limit = -1 if max_dets is None else self.max_dets.index(max_dets)
        values = table[..., AREAS[area], limit]
        if iou is not None:
            values = values[int(np.abs(AR_THRESHOLDS - iou).argmin())]
        if among is not None:
            values = values[..., list(among)]
        counted = values[values > -1]
        return float(counted.mean()) if counted.size else None


def faster_is_installed() -> bool:
    """Whether faster-coco-eval can be imported; pycocotools gives the same COCO numbers where it cannot."""
    return importlib.util.find_spec("faster_coco_eval") is not None


def coco_tables(
    dataset: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    max_dets: Sequence[int] = MAX_DETS,
    by_category: bool = True,
    reference: bool = False,
) -> EvalTables:
    """COCO's box evaluation, silently, on COCO dictionaries.

    Args:
        dataset: ``images`` (``id``), ``annotations`` (``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd``)
            and ``categories`` (``id``); ids are whole numbers.
        detections: ``image_id``, ``category_id``, ``bbox``, ``score``; none at all is allowed.
        max_dets: how many of the best-scored boxes of an image and category count.
        by_category: without it every box is of one class.
        reference: through pycocotools instead of faster-coco-eval.

    Raises:
        HarnessError: the package that is to compute is not installed.
    """
    limits = tuple(sorted(max_dets))
    if reference:
        return _reference_tables(dataset, detections, limits, by_category)
    return faster_tables(dataset, detections, limits, by_category)


def coco_metrics(tables: EvalTables) -> dict[str, float | None]:
    """COCO's twelve figures in [0, 1] from tables with 1, 10 and 100 detections; None where COCO prints -1."""
    metrics = {"AP": tables.ap(), "AP50": tables.ap(0.5), "AP75": tables.ap(0.75)}
    metrics |= {f"AP{area}": tables.ap(area=area) for area in "sml"}
    metrics |= {f"AR{limit}": tables.ar(max_dets=limit) for limit in MAX_DETS}
    return metrics | {f"AR{area}": tables.ar(area=area) for area in "sml"}


def annotation_rows(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies of the annotations with what the tools read, as they mark them in place, numbered from 1.

    The tools hold 0 for "not matched", so that a true box of id 0 would never count as found.
    """
    return [
        {
            "id": number,
            "image_id": row["image_id"],
            "category_id": row["category_id"],
            "bbox": row["bbox"],
            "area": row["area"],
            "iscrowd": int(row.get("iscrowd", 0)),
        }
        for number, row in enumerate(dataset["annotations"], start=1)
    ]


def detection_rows(detections: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the detections, numbered from 1, with the area that the tools take: the box's own."""
    return [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(detections, start=1)
    ]


def _reference_tables(
    dataset: Mapping[str, Any], detections: Iterable[Mapping[str, Any]], max_dets: tuple[int, ...], by_category: bool
) -> EvalTables:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise HarnessError(f"pycocotools cannot be imported ({error}): pip install pycocotools") from None
    with contextlib.redirect_stdout(io.StringIO()):
        truth, result = COCO(), COCO()
        truth.dataset = {**dataset, "annotations": annotation_rows(dataset)}
        result.dataset = {**dataset, "annotations": detection_rows(detections)}
        truth.createIndex()
        result.createIndex()
        evaluation = COCOeval(truth, result, "bbox")
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(by_category)
        categories = tuple(evaluation.params.catIds) if by_category else (-1,)
        evaluation.evaluate()
        evaluation.accumulate()
    return EvalTables(evaluation.eval["precision"], evaluation.eval["recall"], categories, max_dets)


def faster_tables(
    dataset: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    max_dets: tuple[int, ...],
    by_category: bool = True,
    federated: bool = False,
) -> EvalTables:
    """The tables through faster-coco-eval; ``federated``: by the rules of LVIS, ``max_dets`` an image and category.

    A category's figures depend on its own boxes alone, and most images have none of it. So each category is evaluated
    by itself on the images that have something of it: the tool's work and memory otherwise grow with images times
    categories (24 million pairs for LVIS val), of which nearly all are empty.
    """
    from tqdm import tqdm

    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise HarnessError(
            f"faster-coco-eval cannot be imported ({error}): pip install faster-coco-eval, or let the reference tools "
            "compute (--reference-metrics)"
        ) from None

    def evaluate(images: list, categories: list, annotations: list, found: list) -> Mapping[str, Any]:
        truth, result = COCO(), COCO()
        for side, boxes in ((truth, annotations), (result, found)):
            side.dataset = {"images": images, "categories": categories, "annotations": boxes}
            side.createIndex()
        evaluation = COCOeval_faster(truth, result, "bbox", lvis_style=federated)
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(by_category)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval

    annotations, found = annotation_rows(dataset), detection_rows(detections)
    if not by_category:
        tables = evaluate(list(dataset["images"]), list(dataset["categories"]), annotations, found)
        return EvalTables(np.asarray(tables["precision"]), np.asarray(tables["recall"]), (-1,), max_dets)
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    images = {image["id"]: image for image in dataset["images"]}
    true_boxes, found_boxes = _by_category(annotations), _by_category(found)
    shape = (len(categories), len(AREAS), len(max_dets))
    precision = np.full((len(AR_THRESHOLDS), RECALL_POINTS, *shape), -1.0)
    recall = np.full((len(AR_THRESHOLDS), *shape), -1.0)
    for index, category in enumerate(tqdm(categories, desc="categories", leave=False, disable=None)):
        own, given = true_boxes.get(category["id"], []), found_boxes.get(category["id"], [])
        if not own:  # nothing to find: -1, as the tools have it
            continue
        seen = sorted({box["image_id"] for box in (*own, *given)})
        # By LVIS's rules the tool wants to know every category's frequency, for means that are not taken here.
        tables = evaluate([images[key] for key in seen], [{**category, "frequency": "f"}], own, given)
        precision[:, :, index] = np.asarray(tables["precision"])[:, :, 0]
        recall[:, index] = np.asarray(tables["recall"])[:, 0]
    return EvalTables(precision, recall, tuple(category["id"] for category in categories), max_dets)


def _by_category(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["category_id"]].append(row)
    return groups
