"""COCO detection files: one ``propose`` question an image with all its ground-truth boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, need_text, pixel_box, read_json, rows_of, short


def load_images(path: Path, content: Any) -> dict[Any, dict[str, Any]]:
    """The ``images`` list by id, in file order, with ``size`` (width, height) and ``name`` (file name) added."""
    images: dict[Any, dict[str, Any]] = {}
    for index, row in enumerate(rows_of(path, content, "images")):
        where = f"{path}: images[{index}]"
        identity = need(row, "id", (int, str), where)
        if identity in images:
            raise HarnessError(f"{where}: image id {identity!r} occurs twice")
        if row.get("file_name") is not None:
            name = need_text(row, "file_name", where)
        else:  # LVIS v1 gives the picture's address instead
            name = "/".join(need_text(row, "coco_url", where).split("/")[-2:])
        images[identity] = {**row, "size": need_size(row, where), "name": name}
    return images


def checked_annotations(
    path: Path, content: Any, images: dict[Any, dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of the ``annotations`` list: each belongs to one of ``images``, and no ``id`` occurs twice."""
    seen = set()
    for index, row in enumerate(rows_of(path, content, "annotations")):
        where = f"{path}: annotations[{index}]"
        if need(row, "image_id", (int, str), where) not in images:
            raise HarnessError(f"{where}: image_id {short(row['image_id'])} is not among the file's images")
        if "id" in row:
            identity = need(row, "id", (int, str), where)
            if identity in seen:
                raise HarnessError(f"{where}: annotation id {identity!r} occurs twice")
            seen.add(identity)
        yield where, row


def load_annotations(path: Path, content: Any, images: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``annotations`` list, each with ``box`` (normalised xyxy) and ``area`` (pixels; w x h where not given)."""
    result = []
    for where, row in checked_annotations(path, content, images):
        value = need(row, "bbox", list, where)
        box = pixel_box(value, *images[row["image_id"]]["size"], where)
        result.append({**row, "box": box, "area": _area(row, where)})
    return result


def _area(row: dict[str, Any], where: str) -> float:
    if row.get("area") is None:
        return row["bbox"][2] * row["bbox"][3]
    area = need(row, "area", (int, float), where)
    if not 0 <= area < math.inf:
        raise HarnessError(f"{where}: field 'area' must be a number of pixels, not {short(area)}")
    return area


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """Every image of the file (also those without boxes), target ``{"boxes", "areas", "iscrowd"}``."""
    pictures = Pictures(images, need_images)
    content = read_json(annotations)
    by_id = load_images(annotations, content)
    targets: dict[Any, dict[str, list]] = {key: {"boxes": [], "areas": [], "iscrowd": []} for key in by_id}
    for row in load_annotations(annotations, content, by_id):
        target = targets[row["image_id"]]
        target["boxes"].append(row["box"])
        target["areas"].append(row["area"])
        target["iscrowd"].append(int(bool(row.get("iscrowd", 0))))
    return [
        Sample(
            str(key),
            pictures.find(image["name"]),
            *image["size"],
            (Question(str(key), "propose", target=targets[key]),),
        )
        for key, image in by_id.items()
    ]
