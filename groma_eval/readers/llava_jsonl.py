"""LLaVA-style questions, one JSON object a line, with optional known answers.

``{"question_id", "image", "text", "category", "type"?, "answer"?, "accept"?, "history"?, "box"?: xyxy px}``. A card may
name further files: ``answers``, a JSONL file with ``question_id`` and ``text`` (LLaVA-Bench keeps reference answers
apart), and, for a benchmark that a judge scores, ``context`` (what the judge is told of each picture) and
``judge_rules`` (what it is asked to do, by category).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.common import Pictures, need, need_size, need_text, pixel_box, read_json, read_jsonl

_TARGET_FIELDS = ("answer", "accept", "type", "category", "facts")


def read(
    annotations: Path,
    images: Path | None,
    need_images: bool = True,
    answers: Path | None = None,
    context: Path | None = None,
    judge_rules: Path | None = None,
    rule_prefix: str = "",
    answer_field: str | None = None,
    size: list[int] | None = None,
) -> list[Sample]:
    """``converse`` questions with target ``{"answer", "accept", "type", "category", "facts"}`` (what the row has).

    ``group`` is the row's ``category/type`` (or what it has of the two). Sizes come from the row's ``width`` and
    ``height``, else ``size`` (``[width, height]`` of every picture, a reader option), else the picture's header.

    ``answer_field`` names the row's field that holds the known answer, where it is not ``answer``; every row must have
    it. With ``context`` and ``judge_rules`` the target also has ``context`` (:func:`context_text`) and ``judge``
    (``{"rule", "role", "prompt"}``, the rule called ``rule_prefix`` + category), so that a stored run can be judged
    without these files.
    """
    pictures = Pictures(images, need_images)
    references = _references(answers) if answers else {}
    contexts = _contexts(context) if context else {}
    rules = _rules(judge_rules) if judge_rules else {}
    questions: dict[str, list[Question]] = {}
    heads: dict[str, tuple[Path | None, int, int]] = {}
    for number, row in read_jsonl(annotations):
        where = f"{annotations}: line {number}"
        identity = str(need(row, "question_id", (int, str), where))
        name = need(row, "image", str, where)
        text = need_text(row, "text", where)
        if name not in heads:
            path = pictures.find(name)
            heads[name] = (path, *_size(row, size, path, where))
        target: dict[str, Any] = {key: row[key] for key in _TARGET_FIELDS if key in row}
        if answer_field:
            target["answer"] = need(row, answer_field, str, where)
        if answers:
            if identity not in references:
                raise HarnessError(f"{where}: question '{identity}' has no answer in {answers}")
            target["answer"] = references[identity]
        if context:
            if name not in contexts:
                raise HarnessError(f"{where}: image '{name}' has no context in {context}")
            target["context"] = contexts[name]
        if judge_rules:
            rule = rule_prefix + need(row, "category", str, where)
            if rule not in rules:
                raise HarnessError(
                    f"{where}: field 'category': {judge_rules} has no rule '{rule}'; it has: {', '.join(rules)}"
                )
            target["judge"] = {"rule": rule, **rules[rule]}
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


def context_text(row: Mapping[str, Any], where: str) -> str:
    """What a judge is told of a picture, as LLaVA's review scripts write it.

    A row of LLaVA-Bench (COCO) has ``captions`` and ``instances`` (``category`` and ``bbox``, xyxy in [0, 1]): a
    caption a line, a blank line, ``category: [box]`` a line. One of LLaVA-Bench in the Wild has ``caption``, a text or
    a list of texts.
    """
    if "captions" not in row:
        caption = need(row, "caption", (str, list), where)
        return caption if isinstance(caption, str) else "\n".join(_texts(caption, "caption", where))
    captions = _texts(need(row, "captions", list, where), "captions", where)
    lines = []
    for index, instance in enumerate(need(row, "instances", list, where)):
        inside = f"{where}: instances[{index}]"
        if not isinstance(instance, dict):
            raise HarnessError(f"{inside}: must be an object, not {instance!r}")
        box = need(instance, "bbox", list, inside)
        if len(box) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box):
            raise HarnessError(f"{inside}: field 'bbox' must be four numbers, not {box!r}")
        lines.append(f"{need(instance, 'category', str, inside)}: {box}")
    return "\n".join(captions) + "\n\n" + "\n".join(lines)


def _texts(value: list, field: str, where: str) -> list[str]:
    if not value or not all(isinstance(text, str) for text in value):
        raise HarnessError(f"{where}: field '{field}' must be a list of texts")
    return value


def _contexts(path: Path) -> dict[str, str]:
    contexts: dict[str, str] = {}
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        image = need(row, "image", str, where)
        if image in contexts:
            raise HarnessError(f"{where}: field 'image': '{image}' occurs twice")
        contexts[image] = context_text(row, where)
    return contexts


def _rules(path: Path) -> dict[str, dict[str, str]]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise HarnessError(f"{path}: must hold an object of rules by category, each with 'role' and 'prompt'")
    rules = {}
    for name, rule in content.items():
        if not isinstance(rule, dict):
            raise HarnessError(f"{path}: rule '{name}': must be an object with 'role' and 'prompt', not {rule!r}")
        rules[name] = {key: need(rule, key, str, f"{path}: rule '{name}'") for key in ("role", "prompt")}
    return rules


def _history(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    turns = row.get("history") or []
    if not isinstance(turns, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in turns
    ):
        raise HarnessError(f"{where}: field 'history' must be a list of [question, answer] texts")
    return tuple((q, a) for q, a in turns)


def _references(path: Path) -> dict[str, str]:
    references: dict[str, str] = {}
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        identity = str(need(row, "question_id", (int, str), where))
        if identity in references:
            raise HarnessError(f"{where}: field 'question_id': '{identity}' occurs twice")
        references[identity] = need(row, "text", str, where)
    return references


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
