"""Referring expressions, whatever file they come from: what every form of RefCOCO is read to, and the flat form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, pixel_box, short

#: A picture's name with the number of an object in it, as the flat and the REFER form write it.
OBJECT_NAME = re.compile(r"(.+)_(\d+)(\.(?:jpe?g|png))?", re.IGNORECASE | re.DOTALL)
_EXTENSION = re.compile(r"\.(?:jpe?g|png)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression of one object. ``box`` is xywh in pixels, as the file has it; ``size`` (width, height).

    ``category``: the object's, where the file says it; ``distractors``: how many more objects of it its picture has.
    """

    picture: str  # file name, with or without its extension
    thing: str  # names the object within the file: expressions of one object share it
    text: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    group: str | None
    where: str  # file and row, for errors
    category: str | None = None
    distractors: int | None = None


def object_name(value: str, field: str, where: str) -> str:
    """The picture of a name like ``COCO_train2014_000000580957_4`` (``.jpg`` stays); HarnessError where it has none."""
    found = OBJECT_NAME.fullmatch(value)
    if not found:
        raise HarnessError(f"{where}: field '{field}' must be an image name and '_number', not {short(value)}")
    return found.group(1) + (found.group(3) or "")


def _stem(name: str) -> str:
    return _EXTENSION.sub("", name)


def to_samples(expressions: Iterable[Expression], images: Path | None, need_images: bool) -> list[Sample]:
    """``ground_one`` questions (target ``{"boxes": [Box]}``, with ``category`` and ``distractors`` where they are
    known) by image, in order of the images' first appearance.

    A question's id is the expression's number, from 0, in the file (of a file of several splits: in its split), so
    repeated expressions count, as they do in the official totals.
    """
    pictures = Pictures(images, need_images)
    questions: dict[str, list[Question]] = {}
    heads: dict[str, tuple[str, tuple[int, int]]] = {}
    for number, item in enumerate(expressions):
        stem = _stem(item.picture)
        known = heads.setdefault(stem, (item.picture, item.size))[1]
        if known != item.size:
            raise HarnessError(f"{item.where}: size {item.size} differs from {known} in an earlier row of '{stem}'")
        box = pixel_box(item.box, *item.size, item.where)
        target = {"boxes": [box], "category": item.category, "distractors": item.distractors}
        target = {key: value for key, value in target.items() if value is not None}
        questions.setdefault(stem, []).append(
            Question(str(number), "ground_one", text=item.text, target=target, group=item.group)
        )
    return [Sample(stem, pictures.find(heads[stem][0]), *heads[stem][1], tuple(q)) for stem, q in questions.items()]


def to_flat(expressions: Iterable[Expression]) -> list[dict[str, Any]]:
    """The rows of a flat file (:mod:`groma_eval.readers.refcoco_flat`) with the same expressions in the same order.

    Objects that the source does not number are numbered within their picture, in order of appearance.
    """
    rows = []
    numbers: dict[str, dict[str, int]] = {}
    for item in expressions:
        stem, named = _stem(item.picture), _stem(item.thing)
        if not re.fullmatch(re.escape(stem) + r"_\d+", named):
            seen = numbers.setdefault(stem, {})
            named = f"{stem}_{seen.setdefault(item.thing, len(seen))}"
        width, height = item.size
        row = {"img_id": named, "sents": item.text, "bbox": list(item.box), "height": height, "width": width}
        more = {"group": item.group, "category": item.category, "distractors": item.distractors}
        rows.append(row | {key: value for key, value in more.items() if value is not None})
    return rows
