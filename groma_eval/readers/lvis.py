"""LVIS files as grounding: every category present in an image is one query, answered by all its instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.coco import load_annotations, load_images
from groma_eval.readers.common import Pictures, need, read_json, rows_of


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``ground_all`` questions: the category's name with spaces for underscores, ``group`` its frequency (r, c or f).

    Target: ``{"boxes", "areas" (pixels, the file's), "category" (id), "frequency", "exhaustive"}``; ``exhaustive`` is
    False where LVIS says not every instance is marked. Images in file order, categories by id; images without
    annotations ask nothing and are left out.
    """
    pictures = Pictures(images, need_images)
    content = read_json(annotations)
    by_id = load_images(annotations, content)
    categories = {}
    for index, row in enumerate(rows_of(annotations, content, "categories")):
        where = f"{annotations}: categories[{index}]"
        need(row, "name", str, where)
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
    samples = []
    for key, image in by_id.items():
        questions = []
        for category, target in sorted(present.get(key, {}).items()):
            frequency = categories[category].get("frequency")
            exhaustive = category not in image.get("not_exhaustive_category_ids", ())
            questions.append(
                Question(
                    f"{key}_{category}",
                    "ground_all",
                    text=categories[category]["name"].replace("_", " "),
                    target={**target, "category": category, "frequency": frequency, "exhaustive": exhaustive},
                    group=frequency,
                )
            )
        if questions:
            samples.append(Sample(str(key), pictures.find(image["name"]), *image["size"], tuple(questions)))
    return samples
