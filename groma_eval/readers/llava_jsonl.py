"""LLaVA-style questions, one JSON object a line, with optional known answers.

``{"question_id", "image", "text", "category", "type"?, "answer"?, "accept"?, "history"?, "box"?: xyxy px}``;
``answers`` may name a second JSONL file with ``question_id`` and ``text`` (LLaVA-Bench keeps reference answers apart).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, pixel_box, read_jsonl

_TARGET_FIELDS = ("answer", "accept", "type", "category", "facts")


def read(
    annotations: Path,
    images: Path | None,
    need_images: bool = True,
    answers: Path | None = None,
    size: list[int] | None = None,
) -> list[Sample]:
    """``converse`` questions with target ``{"answer", "accept", "type", "category", "facts"}`` (what the row has).

    ``group`` is the row's ``category/type`` (or what it has of the two). Sizes come from the row's ``width`` and
    ``height``, else ``size`` (``[width, height]`` of every picture, a reader option), else the picture's header.
    """
    pictures = Pictures(images, need_images)
    references = _references(answers) if answers else {}
    questions: dict[str, list[Question]] = {}
    heads: dict[str, tuple[Path | None, int, int]] = {}
    for number, row in read_jsonl(annotations):
        where = f"{annotations}: line {number}"
        identity = str(need(row, "question_id", (int, str), where))
        name = need(row, "image", str, where)
        text = need(row, "text", str, where)
        if name not in heads:
            path = pictures.find(name)
            heads[name] = (path, *_size(row, size, path, where))
        target: dict[str, Any] = {key: row[key] for key in _TARGET_FIELDS if key in row}
        if identity in references:
            target["answer"] = references[identity]
        box = row.get("box")
        if box is not None:
            if heads[name][1] <= 0:
                raise HarnessError(f"{where}: a box needs the picture's size (fields 'width' and 'height')")
            box = pixel_box(box, *heads[name][1:], where, "box", "xyxy")
        questions.setdefault(name, []).append(
            Question(
                identity,
                "converse",
                text=text,
                box=box,
                history=_history(row, where),
                target=target,
                group="/".join(str(row[key]) for key in ("category", "type") if row.get(key)) or None,
            )
        )
    return [Sample(name.rsplit(".", 1)[0], *heads[name], tuple(asked)) for name, asked in questions.items()]


def _history(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    turns = row.get("history") or []
    if not isinstance(turns, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in turns
    ):
        raise HarnessError(f"{where}: field 'history' must be a list of [question, answer] texts")
    return tuple((q, a) for q, a in turns)


def _references(path: Path) -> dict[str, str]:
    return {
        str(need(row, "question_id", (int, str), f"{path}: line {n}")): need(row, "text", str, f"{path}: line {n}")
        for n, row in read_jsonl(path)
    }


def _size(row: dict[str, Any], size: list[int] | None, path: Path | None, where: str) -> tuple[int, int]:
    if "width" in row or "height" in row:
        return need_size(row, where)
    if size:
        return int(size[0]), int(size[1])
    if path is not None and path.is_file():
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:  # reads the header only
                return image.size
        except (OSError, UnidentifiedImageError):
            pass  # the run counts it as unreadable
    return 0, 0
