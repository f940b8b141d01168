"""LVIS files as grounding: every category present in an image is one query, answered by all its instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.coco import load_annotations, load_images
from groma_eval.readers.common import Pictures, need, need_text, read_json, rows_of, short


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``ground_all`` questions: the category's name with spaces for underscores, ``group`` its frequency (r, c or f).

    Target: ``{"boxes", "areas" (pixels, the file's), "category" (id), "frequency", "exhaustive"}``; ``exhaustive`` is
    False where LVIS says not every instance is marked. Images in file order, categories by id; images without
    annotations ask nothing and are left out. Entries that share a picture, one a category for instance, become one
    sample; its id is the first entry's.
    """
    return parse(annotations, read_json(annotations), Pictures(images, need_images))


def parse(annotations: Path, content: Any, pictures: Pictures) -> list[Sample]:
    """The samples of the file's ``content``; see :func:`read`."""
    by_id = load_images(annotations, content)
    for index, image in enumerate(by_id.values()):
        image.setdefault("not_exhaustive_category_ids", [])
        need(image, "not_exhaustive_category_ids", list, f"{annotations}: images[{index}]")
    categories = {}
    for index, row in enumerate(rows_of(annotations, content, "categories")):
        where = f"{annotations}: categories[{index}]"
        need_text(row, "name", where)
        if row.get("frequency") not in (None, "r", "c", "f"):
            raise HarnessError(f"{where}: field 'frequency' must be r, c or f, not {short(row['frequency'])}")
        categories[need(row, "id", int, where)] = row
    present: dict[Any, dict[int, dict[str, list]]] = {}
    for index, row in enumerate(load_annotations(annotations, content, by_id)):
        category = need(row, "category_id", int, f"{annotations}: annotations[{index}]")
        if category not in categories:
            raise HarnessError(
                f"{annotations}: annotations[{index}]: category_id {category} is not among the file's categories"
            )
        target = present.setdefault(row["image_id"], {}).setdefault(category, {"boxes": [], "areas": []})
        target["boxes"].append(row["box"])
        target["areas"].append(row["area"])
    asked: dict[str, list[Question]] = {}
    heads: dict[str, tuple[Any, tuple[int, int]]] = {}
    seen: dict[str, set[int]] = {}
    for key, image in by_id.items():
        for category, target in sorted(present.get(key, {}).items()):
            frequency = categories[category].get("frequency")
            exhaustive = category not in image["not_exhaustive_category_ids"]
            heads.setdefault(image["name"], (key, image["size"]))
            if category in seen.setdefault(image["name"], set()):
                name = image["name"]
                raise HarnessError(f"{annotations}: picture '{name}' is there twice and asks category {category} twice")
            seen[image["name"]].add(category)
            asked.setdefault(image["name"], []).append(
                Question(
                    f"{key}_{category}",
                    "ground_all",
                    text=categories[category]["name"].replace("_", " "),
                    target={**target, "category": category, "frequency": frequency, "exhaustive": exhaustive},
                    group=frequency,
                )
            )
    return [
        Sample(str(heads[name][0]), pictures.find(name), *heads[name][1], tuple(questions))
        for name, questions in asked.items()
    ]
