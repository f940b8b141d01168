"""Grounded scene captions, one JSON object a line: a caption whose phrases are tied to boxes.

``{"image", "image_id", "width", "height", "caption", "phrases": [{"start", "end", "phrase", "boxes": [xyxy px]}]}``
"""

from __future__ import annotations

from pathlib import Path

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, need_text, pixel_box, read_jsonl


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``describe_scene`` questions; target ``{"references": [str], "phrases": [{"phrase", "boxes": [Box]}]}``."""
    pictures = Pictures(images, need_images)
    questions: dict[str, list[Question]] = {}
    heads: dict[str, tuple] = {}
    for number, row in read_jsonl(annotations):
        where = f"{annotations}: line {number}"
        name = need(row, "image", str, where)
        size = need_size(row, where)
        caption = need_text(row, "caption", where)
        phrases = []
        for index, phrase in enumerate(need(row, "phrases", list, where)):
            place = f"{where}: phrases[{index}]"
            text = need(phrase, "phrase", str, place)
            if (
                "start" in phrase
                and caption[need(phrase, "start", int, place) : need(phrase, "end", int, place)] != text
            ):
                raise HarnessError(f"{place}: 'start' and 'end' do not mark {text!r} in the caption")
            boxes = [pixel_box(box, *size, place, "boxes", "xyxy") for box in need(phrase, "boxes", list, place)]
            phrases.append({"phrase": text, "boxes": boxes})
        identity = str(row.get("image_id", name.rsplit(".", 1)[0]))
        heads.setdefault(identity, (pictures.find(name), *size))
        asked = questions.setdefault(identity, [])
        asked.append(
            Question(
                identity if not asked else f"{identity}#{len(asked)}",
                "describe_scene",
                target={"references": [caption], "phrases": phrases},
            )
        )
    return [Sample(identity, *heads[identity], tuple(asked)) for identity, asked in questions.items()]
