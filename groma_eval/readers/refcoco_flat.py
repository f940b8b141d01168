"""Referring expressions as one flat JSON list: ``[{img_id, sents, bbox, width, height, group?}, ...]``.

Rows may have besides ``category`` (the object's) and ``distractors`` (how many more of it the picture has).

``bbox`` is xywh in pixels; the picture is ``img_id`` without its last ``_number``; the sample id is the row index, so
repeated expressions count, as they do in the splits' official totals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Sample
from groma_eval.readers.common import need, need_size, need_text, read_json, rows_of, short
from groma_eval.readers.expressions import Expression, object_name, to_samples


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``ground_one`` questions (target ``{"boxes": [Box]}``) by image, in order of the images' first appearance."""
    return to_samples(parse(annotations, read_json(annotations)), images, need_images)


def parse(path: Path, content: Any) -> Iterator[Expression]:
    """The expressions of the file's ``content``, in its order."""
    for index, row in enumerate(rows_of(path, content)):
        where = f"{path}: row {index}"
        name = need(row, "img_id", str, where)
        picture = object_name(name, "img_id", where)
        text = need_text(row, "sents", where)
        for key, kind, what in (("group", str, "text"), ("category", str, "text"), ("distractors", int, "a number")):
            if row.get(key) is not None and not isinstance(row[key], kind):
                raise HarnessError(f"{where}: field '{key}' must be {what}, not {short(row[key])}")
        group, more = row.get("group"), (row.get("category"), row.get("distractors"))
        box = tuple(need(row, "bbox", list, where))
        yield Expression(picture, name, text, box, need_size(row, where), group, where, *more)
