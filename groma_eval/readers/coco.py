"""COCO detection files: one ``propose`` question an image with all its ground-truth boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, pixel_box, read_json, rows_of


def load_images(path: Path, content: Any) -> dict[Any, dict[str, Any]]:
    """The ``images`` list by id, in file order, with ``size`` (width, height) and ``name`` (file name) added."""
    images: dict[Any, dict[str, Any]] = {}
    for index, row in enumerate(rows_of(path, content, "images")):
        where = f"{path}: images[{index}]"
        identity = need(row, "id", (int, str), where)
        if identity in images:
            raise HarnessError(f"{where}: image id {identity!r} occurs twice")
        name = row.get("file_name")
        if name is None:  # LVIS v1 gives the picture's address instead
            name = "/".join(need(row, "coco_url", str, where).split("/")[-2:])
        images[identity] = {**row, "size": need_size(row, where), "name": name}
    return images


def load_annotations(path: Path, content: Any, images: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``annotations`` list, each with ``box`` (normalised xyxy) and ``area`` (pixels; w x h where not given)."""
    result = []
    for index, row in enumerate(rows_of(path, content, "annotations")):
        where = f"{path}: annotations[{index}]"
        image = images.get(need(row, "image_id", (int, str), where))
        if image is None:
            raise HarnessError(f"{where}: image_id {row['image_id']!r} is not among the file's images")
        value = need(row, "bbox", list, where)
        box = pixel_box(value, *image["size"], where)
        result.append({**row, "box": box, "area": row.get("area", value[2] * value[3])})
    return result


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
        target["iscrowd"].append(int(row.get("iscrowd", 0)))
    return [
        Sample(
            str(key),
            pictures.find(image["name"]),
            *image["size"],
            (Question(str(key), "propose", target=targets[key]),),
        )
        for key, image in by_id.items()
    ]
