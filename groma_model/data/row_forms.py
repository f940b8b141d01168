"""Readers of files that are lists of rows: expressions, grounded captions, conversations. A row is read at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groma_model.data.coco_form import Record, check_span, disjoint, read_entities, read_expressions
from groma_model.data.fields import (
    Box,
    four_numbers,
    from_xywh,
    need,
    need_size,
    need_text,
    normalised,
    place,
    short,
)
from groma_model.data.json_stream import starts_with, stream_json

GROUND = "<ground_box>"
_SPAN = re.compile(r"(?:<p>([^<>]*)</p>\s*)?<roi>((?:\s*<ground_box>)+)\s*</roi>")
_TAG = re.compile(r"</?(?:p|roi|s|img)>|<(?:image|region|refer_box|ground_box|refer_feat|sep|unk|r\d+)>|\[PAD\]")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    empty = True
    for name, index, row in stream_json(path):
        if name is not None:
            raise ValueError(f"{path}: must hold a list of rows, not an object with the field '{name}'")
        empty = False
        yield place(path, None, index), row
    if empty:
        raise ValueError(f"{path}: holds no samples")


def read_rec(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Referring expressions, a record each: flat rows or COCO's form."""
    if starts_with(path) == "{" and path.suffix != ".jsonl":
        yield from read_expressions(path, tally)
        return
    for where, row in _rows(path):
        name, _, last = need_text(row, "img_id", where).rpartition("_")
        if not name or not last.isdigit():
            raise ValueError(f"{where}: field 'img_id' must be a picture's name, '_' and a number")
        size = need_size(row, where)
        text = need_text(row, "sents", where)
        box = from_xywh(four_numbers(need(row, "bbox", list, where), "bbox", where), size, tally)
        if box is not None:
            yield {"image": name, "size": list(size), "asks": [[text, [box]]]}


def read_grit(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Phrases of web captions with their boxes, a record a picture; a sample draws one of its phrases.

    ``ref_exps``: ``[start, end, x1, y1, x2, y2, ...]``, boxes normalised.
    """
    for where, row in _rows(path):
        name = need_text(row, "filename", where)
        caption = need_text(row, "caption", where) and row["caption"]
        spans: dict[tuple[int, int], list[Box]] = {}
        for index, entry in enumerate(need(row, "ref_exps", list, where)):
            at = f"{where}: ref_exps[{index}]"
            if not isinstance(entry, list) or len(entry) < 6 or not all(type(v) in (int, float) for v in entry):
                raise ValueError(f"{at}: {short(entry)} is not [start, end, x1, y1, x2, y2]")
            span = check_span([int(v) for v in entry[:2]], caption, at)
            x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in four_numbers(entry[2:6], "ref_exps", at))
            if x2 <= x1 or y2 <= y1 or not caption[span[0] : span[1]].strip():
                tally["dropped_boxes"] += 1
                continue
            spans.setdefault(span, []).append((x1, y1, x2, y2))
        if not spans:
            tally["no_box"] += 1
            continue
        asks = [[caption[start:end].strip(), boxes] for (start, end), boxes in sorted(spans.items())]
        yield {"image": name, "size": _size_or_none(row, where), "asks": asks}


def read_grounded_captions(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Captions whose phrases have boxes, a record a caption: prepared rows (JSONL) or Groma's file in COCO's form."""
    if path.suffix != ".jsonl":
        yield from read_entities(path, tally)
        return
    for where, row in _rows(path):
        size = need_size(row, where)
        caption = need_text(row, "caption", where) and row["caption"]
        spans: dict[tuple[int, int], list[Box]] = {}
        for index, phrase in enumerate(need(row, "phrases", list, where)):
            at = f"{where}: phrases[{index}]"
            span = check_span([need(phrase, "start", int, at), need(phrase, "end", int, at)], caption, at)
            for value in need(phrase, "boxes", list, at):
                box = normalised(tuple(four_numbers(value, "boxes", at)), *size, tally)
                if box is not None:
                    spans.setdefault(span, []).append(box)
        phrases = disjoint(spans, tally)
        if phrases:
            yield {"image": need_text(row, "image", where), "size": list(size), "caption": caption, "phrases": phrases}
        else:
            tally["no_box"] += 1


def read_conversations(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """LLaVA's form: ``image`` and ``conversations`` of turns ``{from: human | gpt, value}``.

    Rows without a picture (ShareGPT's text) are counted and left out: the prompt of this model begins with one.
    """
    for where, row in _rows(path):
        turns = need(row, "conversations", list, where)
        if "image" not in row:
            tally["no_picture"] += 1
            continue
        pairs = [[q.replace("<image>", ""), a, []] for q, a, _ in _pairs(turns, where, "conversations")]
        yield {
            "image": need_text(row, "image", where),
            "size": _size_or_none(row, where),
            "turns": [[" ".join(q.split("\n")).strip(), " ".join(a.split("\n")).strip(), b] for q, a, b in pairs],
        }


def read_groma_instruct(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Grounded conversations: ``boxes`` (xywh, pixels) and ``conversation``, whose answers have ``box_inds``.

    An answer's ``<ground_box>`` stand for the boxes of its ``box_inds``, in order. A conversation that points at a box
    without an area is left out.
    """
    for where, row in _rows(path):
        size = need_size(row, where)
        boxes = [
            from_xywh(four_numbers(box, f"boxes[{i}]", where), size, tally)
            for i, box in enumerate(need(row, "boxes", list, where))
        ]
        turns = []
        for index, (question, answer, reply) in enumerate(_pairs(need(row, "conversation", list, where), where,
                                                                 "conversation")):  # fmt: skip
            at = f"{where}: conversation[{2 * index + 1}]"
            inds = reply.get("box_inds") or []
            if not isinstance(inds, list) or not all(type(i) is int and 0 <= i < len(boxes) for i in inds):
                raise ValueError(f"{at}: field 'box_inds' = {short(inds)} must number the row's {len(boxes)} boxes")
            turns.append([question.strip(), _grounded(answer.strip(), len(inds), at), [boxes[i] for i in inds]])
        if any(box is None for turn in turns for box in turn[2]):
            tally["no_box"] += 1
            continue
        yield {"image": need_text(row, "file_name", where), "size": list(size), "turns": turns}


def _grounded(answer: str, count: int, where: str) -> str:
    """The answer with its spans in the one form that training uses; ValueError where the markup is not whole."""
    text = _SPAN.sub(_span, answer)
    rest = _TAG.search(_SPAN.sub("", answer))
    if rest:
        raise ValueError(f"{where}: field 'value' has {rest[0]} outside a whole <p>phrase</p><roi><ground_box></roi>")
    if text.count(GROUND) != count:
        raise ValueError(f"{where}: field 'value' points {text.count(GROUND)} times, 'box_inds' has {count} boxes")
    return text


def _span(match: re.Match[str]) -> str:
    phrase = f"<p>{match[1].strip()}</p>" if match[1] is not None else ""
    return f"{phrase}<roi>{GROUND * match[2].count(GROUND)}</roi>"


def _pairs(turns: list[Any], where: str, field: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(question, answer, the answer's object) of turns that alternate."""
    if not turns or len(turns) % 2:
        raise ValueError(f"{where}: field '{field}' must hold questions with their answers, not {len(turns)} turns")
    for index in range(0, len(turns), 2):
        for offset, wanted in enumerate((("human", "user"), ("gpt", "assistant"))):
            turn, at = turns[index + offset], f"{where}: {field}[{index + offset}]"
            if need(turn, "from", str, at) not in wanted:
                raise ValueError(f"{at}: field 'from' is {short(turn['from'])}; turns go human, gpt, human, gpt, ...")
            need(turn, "value", str, at)
        yield turns[index]["value"], turns[index + 1]["value"], turns[index + 1]


def _size_or_none(row: Mapping[str, Any], where: str) -> list[int]:
    """The picture's size; zeros where the file does not give it (its boxes, if any, are normalised)."""
    return list(need_size(row, where)) if "width" in row and "height" in row else [0, 0]
