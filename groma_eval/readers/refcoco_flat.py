"""Referring expressions as one flat JSON list: ``[{img_id, sents, bbox, width, height, group?}, ...]``.

``bbox`` is xywh in pixels; the picture is ``img_id`` without its last ``_number``; the sample id is the row index, so
repeated expressions count, as they do in the splits' official totals.
"""

from __future__ import annotations

from pathlib import Path

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, pixel_box, read_json, rows_of


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``ground_one`` questions (target ``{"boxes": [Box]}``) by image, in order of the images' first appearance."""
    pictures = Pictures(images, need_images)
    questions: dict[str, list[Question]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for index, row in enumerate(rows_of(annotations, read_json(annotations))):
        where = f"{annotations}: row {index}"
        img_id = need(row, "img_id", str, where)
        stem, _, number = img_id.rpartition("_")
        if not stem or not number.isdigit():
            raise HarnessError(f"{where}: field 'img_id' must be an image name and '_number', not {img_id!r}")
        text = need(row, "sents", str, where)
        size = need_size(row, where)
        if sizes.setdefault(stem, size) != size:
            raise HarnessError(f"{where}: size {size} differs from {sizes[stem]} in an earlier row of image '{stem}'")
        box = pixel_box(need(row, "bbox", list, where), *size, where)
        questions.setdefault(stem, []).append(
            Question(str(index), "ground_one", text=text, target={"boxes": [box]}, group=row.get("group"))
        )
    return [Sample(stem, pictures.find(stem), *sizes[stem], tuple(asked)) for stem, asked in questions.items()]
