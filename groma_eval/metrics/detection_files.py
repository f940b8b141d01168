"""Ground truth in COCO or LVIS form and detections as COCO results, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.metrics.lvis_eval import FREQUENCIES
from groma_eval.readers.common import need, read_json, rows_of, short

Identity = int | str


@dataclass(frozen=True)
class GroundTruth:
    """A checked data set. ``dataset`` has its images, annotations and categories numbered from 1.

    Images and categories are numbered in the order of their ids, which is the order in which the tools go through
    them. ``images`` and ``categories`` give the numbers by the file's ids.
    """

    dataset: dict[str, list[dict[str, Any]]]
    images: dict[Identity, int]
    categories: dict[Identity, int]


def read_ground_truth(source: Path | str | Mapping[str, Any], federated: bool = False) -> GroundTruth:
    """A COCO or LVIS file (or its content).

    ``area`` is the box's own where an annotation has none; ``iscrowd`` 0. ``federated``: the fields by which LVIS says
    what was annotated must be there.

    Raises:
        HarnessError: file, row and field of what is wrong.
    """
    name, content = _load(source, "ground truth")
    image_rows = rows_of(name, content, "images")
    category_rows = rows_of(name, content, "categories")
    images = _numbers(name, "images", image_rows)
    categories = _numbers(name, "categories", category_rows)
    dataset = {
        "images": [
            _image(f"{name}: images[{i}]", row, images, categories, federated) for i, row in enumerate(image_rows)
        ],
        "categories": [
            _category(f"{name}: categories[{i}]", row, categories, federated) for i, row in enumerate(category_rows)
        ],
        "annotations": [],
    }
    seen: set[Identity] = set()
    for index, row in enumerate(rows_of(name, content, "annotations")):
        where = f"{name}: annotations[{index}]"
        identity = need(row, "id", (int, str), where)
        if identity in seen:
            raise HarnessError(f"{where}: annotation id {short(identity)} occurs twice")
        seen.add(identity)
        box = _box(row, where)
        area = row.get("area", box[2] * box[3])
        if not _is_finite(area) or area < 0:
            raise HarnessError(f"{where}: field 'area' = {short(area)} is not a number of pixels, 0 or more")
        if row.get("iscrowd", 0) not in (0, 1):
            raise HarnessError(f"{where}: field 'iscrowd' = {short(row['iscrowd'])} is neither 0 nor 1")
        if federated and row.get("ignore"):
            raise HarnessError(f"{where}: is marked 'ignore', which LVIS does not have: remove the mark or the box")
        dataset["annotations"].append(
            {**_place(row, images, categories, where), "bbox": box, "area": area, "iscrowd": int(row.get("iscrowd", 0))}
        )
    return GroundTruth(dataset, images, categories)


def read_detections(source: Path | str | Sequence[Mapping[str, Any]], truth: GroundTruth) -> list[dict[str, Any]]:
    """COCO results, ``[{"image_id", "category_id", "bbox": [x, y, w, h], "score"}]`` in pixels, in file order.

    The ids are replaced by ``truth``'s numbers. An empty list is a detector that found nothing.

    Raises:
        HarnessError: file, row and field of what is wrong; ids that ``truth`` does not have.
    """
    name, content = _load(source, "detections")
    if not isinstance(content, Sequence) or isinstance(content, (str, bytes)):
        raise HarnessError(f"{name}: must hold a list of detections (COCO results), not {type(content).__name__}")
    found = []
    for index, row in enumerate(content):
        where = f"{name}: detections[{index}]"
        if not isinstance(row, Mapping):
            raise HarnessError(f"{where}: must be an object, not {short(row)}")
        score = need(row, "score", (int, float), where)
        if not _is_finite(score):
            raise HarnessError(f"{where}: field 'score' = {short(score)} is not a finite number")
        place = _place(row, truth.images, truth.categories, where)
        found.append({**place, "bbox": _box(row, where), "score": float(score)})
    return found


def _load(source: Any, what: str) -> tuple[Any, Any]:
    """(name for messages, content) of a path or of content given as such."""
    if not isinstance(source, (str, Path)):
        return what, source
    path = Path(source)
    if not path.is_file():
        raise HarnessError(f"{path}: no such file of {what}")
    return path, read_json(path)


def _numbers(name: Any, field: str, rows: Sequence[Mapping[str, Any]]) -> dict[Identity, int]:
    ids = []
    for index, row in enumerate(rows):
        ids.append(need(row, "id", (int, str), f"{name}: {field}[{index}]"))
    numbers = {key: number for number, key in enumerate(sorted(ids, key=lambda k: (isinstance(k, str), k)), start=1)}
    if len(numbers) < len(ids):
        twice = next(key for index, key in enumerate(ids) if key in ids[:index])
        raise HarnessError(f"{name}: {field}: id {short(twice)} occurs twice")
    return numbers


def _image(
    where: str,
    row: Mapping[str, Any],
    images: Mapping[Identity, int],
    categories: Mapping[Identity, int],
    federated: bool,
) -> dict[str, Any]:
    made: dict[str, Any] = {"id": images[row["id"]]}
    if federated:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if field not in row:
                raise HarnessError(
                    f"{where}: field '{field}' is missing, so this is no LVIS file (protocols coco and as-many do "
                    "without)"
                )
            named = need(row, field, list, where)
            if not all(isinstance(key, (int, str)) for key in named):
                raise HarnessError(f"{where}: field '{field}' = {short(named)} is not a list of category ids")
            # A list may name categories that the file leaves out: nothing can be found of them.
            made[field] = [categories[key] for key in named if key in categories]
    return made


def _category(
    where: str, row: Mapping[str, Any], categories: Mapping[Identity, int], federated: bool
) -> dict[str, Any]:
    frequency = row.get("frequency")
    if federated and (not isinstance(frequency, str) or frequency not in tuple(FREQUENCIES)):
        raise HarnessError(f"{where}: field 'frequency' = {short(frequency)} is not r, c or f, so this is no LVIS file")
    return {"id": categories[row["id"]], "name": str(row.get("name", row["id"])), "frequency": frequency}


def _place(
    row: Mapping[str, Any], images: Mapping[Identity, int], categories: Mapping[Identity, int], where: str
) -> dict[str, int]:
    place = {}
    for field, known in (("image_id", images), ("category_id", categories)):
        key = need(row, field, (int, str), where)
        if key not in known:
            raise HarnessError(f"{where}: {field} {short(key)} is not in the ground truth")
        place[field] = known[key]
    return place


def _box(row: Mapping[str, Any], where: str) -> list[float]:
    """The row's ``bbox``: four finite numbers, sides 0 or more (the tools take empty boxes; they overlap nothing)."""
    box = row.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise HarnessError(f"{where}: field 'bbox' = {short(box)} is not four finite numbers")
    if box[2] < 0 or box[3] < 0:
        raise HarnessError(f"{where}: field 'bbox' = {short(box)} has a negative size: give [x, y, width, height]")
    return [float(value) for value in box]


def _is_finite(value: Any) -> bool:
    # A bound, not math.isfinite: JSON allows whole numbers that no float can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100
