"""Predictions that somebody made elsewhere: one record a question, in a JSONL file or a JSON list.

::

    {"benchmark": "refcoco_val", "id": 17, "box": [x1, y1, x2, y2]}

``id`` is the question's id (REC: the row of the annotations). ``box`` is one box, ``boxes`` any number of them in the
order of emission, ``confidences`` one number a box; ``text`` is an answer in words, ``phrases`` (``[{"phrase": text,
"boxes": [box, ...]}]``) its grounding; ``raw`` may keep the model's text as emitted; ``benchmark`` is needed only where
a file holds several. What is null where an answer is wanted, or a box that is not four finite numbers, is *unparsed*; a
record with ``error`` is *failed*; a question without a record is *missing*. All three count as wrong.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import Box, HarnessError, Prediction, Question, Sample
from groma_eval.frames import Frame, check_fit, is_box, is_finite_number
from groma_eval.provenance import file_hash
from groma_eval.readers.common import short

ANSWER_FIELDS = ("box", "boxes", "text", "phrases", "error")
BOX_KINDS = frozenset({"ground_one", "ground_all", "propose"})
TEXT_KINDS = frozenset({"describe", "describe_scene", "converse"})


@dataclass(frozen=True)
class Record:
    """One checked record. ``where`` names file and line (or row) in messages."""

    where: str
    id: str
    benchmark: str | None
    fields: Mapping[str, Any]


Records = dict[str | None, dict[str, Record]]  # by benchmark (None: none named), then by question id


def read_records(path: Path) -> Records:
    """All records of a JSONL file or a JSON list, checked, by benchmark and question id.

    Raises:
        HarnessError: no such file, not JSON, a bad field, or two records of one question.
    """
    # One file often serves several benchmarks of a run, which ask for it one after another.
    return _read_records(path, file_hash(path))


@functools.lru_cache(maxsize=1)
def _read_records(path: Path, content_hash: str | None) -> Records:
    found: Records = {}
    for where, row in _rows(path):
        record = _checked(where, row)
        of_benchmark = found.setdefault(record.benchmark, {})
        if record.id in of_benchmark:
            raise HarnessError(f"{where}: id '{record.id}' occurs twice (first at {of_benchmark[record.id].where})")
        of_benchmark[record.id] = record
    if not found:
        raise HarnessError(f"{path}: the predictions file holds no records")
    return found


def to_prediction(record: Record, question: Question, sample: Sample, frame: Frame) -> Prediction:
    """A record as the answer to ``question`` of ``sample``, with its boxes normalised."""
    fields = record.fields
    raw = fields.get("raw") or fields.get("text") or ""
    if fields.get("error") is not None:
        return Prediction(record.id, raw=raw, status="failed", error=str(fields["error"]))
    problem = _unparsed(fields, question.kind)
    if problem:
        return Prediction(record.id, raw=raw, status="unparsed", error=problem)

    def normalised(boxes: Iterable[Sequence[float]]) -> list[Box]:
        return [frame.to_unit(box, sample.width, sample.height) for box in boxes]

    phrases = fields.get("phrases") or []
    boxes = normalised(_boxes(fields))
    if not all(map(is_box, boxes)):  # finite as written, but not their sums
        return Prediction(record.id, raw=raw, status="unparsed", error="a box is beyond all numbers")
    return Prediction(
        record.id,
        raw=raw,
        text=fields.get("text") or "",
        boxes=boxes,
        confidences=fields.get("confidences"),
        phrases=[{"phrase": item["phrase"], "boxes": normalised(item["boxes"])} for item in phrases],
    )


def _unparsed(fields: Mapping[str, Any], kind: str) -> str | None:
    """Why a record holds no usable answer to a question of ``kind``, None where it does."""
    if kind in BOX_KINDS:
        wanted = ("box", "boxes")
    else:
        wanted = ("text", "phrases") if kind == "describe_scene" else ("text",)
    if all(fields.get(key) is None for key in wanted):
        return f"no {' or '.join(wanted)}"
    if not all(map(is_box, _boxes(fields))):
        return "a box is not four finite numbers"
    if any(not is_box(box) for item in fields.get("phrases") or () for box in item["boxes"]):
        return "a phrase's box is not four finite numbers"
    return None


def _boxes(fields: Mapping[str, Any]) -> list[Any]:
    return [fields["box"]] if fields.get("box") is not None else list(fields.get("boxes") or ())


def _written_boxes(record: Record) -> Iterator[Sequence[float]]:
    phrases = (box for item in record.fields.get("phrases") or () for box in item["boxes"])
    yield from (box for box in [*_boxes(record.fields), *phrases] if is_box(box))


def check_records(records: Mapping[str, Record], samples: Sequence[Sample], frame: Frame, where: str) -> list[str]:
    """Notes on records of no question of ``samples``, and on boxes that reach outside the declared frame.

    Raises:
        HarnessError: not one record is of any of the questions, or the boxes cannot have been written in ``frame``.
    """
    of_question = {question.id: sample for sample in samples for question in sample.questions}
    unknown = [record for key, record in records.items() if key not in of_question]
    if unknown and len(unknown) == len(records):
        raise HarnessError(
            f"{unknown[0].where}: id '{unknown[0].id}' is no question of the benchmark, nor is any other of the "
            f"{len(records)} ids: another benchmark or split"
        )
    notes = []
    if unknown:
        notes.append(
            f"{unknown[0].where}: id '{unknown[0].id}' is none of the {len(of_question)} questions asked "
            f"({len(unknown)} of {len(records)} such records, which are not scored)"
        )
    known = ((key, record, of_question[key]) for key, record in records.items() if key in of_question)
    boxes = ((key, box, s.width, s.height) for key, record, s in known for box in _written_boxes(record))
    misfit = check_fit(boxes, frame, where)
    return [*notes, misfit] if misfit else notes


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise HarnessError(f"{path}: no such predictions file") from None
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the predictions file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: byte {error.start}: not UTF-8 text") from None
    if text.lstrip().startswith("["):
        for index, row in enumerate(_parsed(text, str(path))):
            yield f"{path}: row {index}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, _parsed(line, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise HarnessError(f"{where}: {place}: not JSON ({error.msg})") from None
    except (RecursionError, ValueError):  # nested, or a number written, beyond what Python reads
        raise HarnessError(f"{where}: not JSON that can be read (too deep, or a number too long)") from None


def _checked(where: str, row: Any) -> Record:
    if not isinstance(row, dict):
        raise HarnessError(f"{where}: a record must be an object, not {short(row)}")
    identity = row.get("id")
    if not isinstance(identity, (int, str)) or isinstance(identity, bool):
        raise HarnessError(
            f"{where}: field 'id' must be the question's id (a whole number or text), not {short(identity)}"
        )
    if not any(key in row for key in ANSWER_FIELDS):
        raise HarnessError(
            f"{where}: the record holds no answer: give one of {', '.join(ANSWER_FIELDS)} (it has: {', '.join(row)})"
        )
    if "box" in row and "boxes" in row:
        raise HarnessError(f"{where}: give 'box' or 'boxes', not both")
    for key, fits, wanted in _FIELD_RULES:
        if row.get(key) is not None and not fits(row[key]):
            raise HarnessError(f"{where}: field '{key}' must be {wanted}, not {short(row[key])}")
    confidences = row.get("confidences")
    if confidences is not None and len(confidences) != len(_boxes(row)):
        raise HarnessError(f"{where}: {len(_boxes(row))} boxes with {len(confidences)} confidences: give one a box")
    return Record(where, str(identity), row.get("benchmark"), row)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_finite_number, value))


def _are_phrases(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("phrase"), str) and isinstance(item.get("boxes"), list)
        for item in value
    )


_FIELD_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("benchmark", _is_text, "a benchmark's name"),
    ("text", _is_text, "text"),
    ("raw", _is_text, "text"),
    ("boxes", lambda value: isinstance(value, list), "a list of boxes"),
    ("confidences", _are_numbers, "a list of finite numbers"),
    ("phrases", _are_phrases, 'a list of {"phrase": text, "boxes": [box, ...]}'),
)
