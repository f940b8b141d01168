"""Referring expressions in COCO form, as Groma (and before it MDETR) releases them.

``images`` has an entry an expression (``id``, ``file_name``, ``width``, ``height``, ``caption``, perhaps
``dataset_name``), ``annotations`` one box an entry (``image_id``, ``bbox`` xywh in pixels). ``file_name`` is COCO's of
2014 or of 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.readers.coco import load_annotations, load_images
from groma_eval.readers.common import need_text, short
from groma_eval.readers.expressions import Expression


def parse(path: Path, content: Any, dataset: str | None) -> Iterator[Expression]:
    """The expressions of the file's ``content``, in the order of its ``images``.

    Raises:
        HarnessError: bad data, an entry without its one box, or entries of another data set than ``dataset``.
    """
    entries = load_images(path, content)
    boxes: dict[Any, list[float]] = {}
    for index, row in enumerate(load_annotations(path, content, entries)):
        if row["image_id"] in boxes:
            raise HarnessError(f"{path}: annotations[{index}]: a second box for images entry {row['image_id']!r}")
        boxes[row["image_id"]] = row["bbox"]
    for index, (key, entry) in enumerate(entries.items()):
        where = f"{path}: images[{index}]"
        if key not in boxes:
            raise HarnessError(f"{where}: entry {key!r} has no annotation (its object's box)")
        named = entry.get("dataset_name")
        if dataset and named in ("refcoco", "refcoco+", "refcocog") and named != dataset:
            raise HarnessError(f"{where}: field 'dataset_name' is {short(named)}: not {dataset}'s expressions")
        text = need_text(entry, "caption", where)
        yield Expression(entry["name"], str(boxes[key]), text, tuple(boxes[key]), entry["size"], None, where)
