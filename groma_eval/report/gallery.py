"""The gallery's data: for each benchmark a list that filters and rows need, details and proposals in chunks.

Boxes are whole ten-thousandths of the picture's sides, four to a box, in one flat list. Questions of several runs are
joined by id; a run that has another question, picture or truth under an id is not shown beside the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groma_eval.report.escape import clean
from groma_eval.report.load import Answers, Row, StoredRun
from groma_eval.report.verdicts import RIGHT, area_bits, judge

CHUNK = 64  # questions, or images, in a data file
MAX_PROPOSALS = 100  # best ones shown of an image
_SCALE = 10_000
_STATUS = ("ok", "unparsed", "missing", "failed")
_SAME = ("image_id", "kind", "text", "box", "target")


@dataclass(frozen=True)
class Gallery:
    """``listing`` is the benchmark's list, ``details`` and ``proposals`` (by run number) its chunks, all JSON-ready.

    ``differing`` is, by run number, how many of its questions differ from the first run's under the same id.
    """

    listing: dict[str, Any]
    details: list[list[Any]]
    proposals: dict[int, list[list[Any]]]
    differing: dict[int, int]


def build_gallery(
    name: str, runs: Mapping[int, tuple[StoredRun, Answers]], picture_of: Mapping[str, int | None]
) -> Gallery:
    """The gallery of one benchmark; ``runs`` by number, ``picture_of`` the number of each recorded path's picture."""
    task = str(next(iter(runs.values()))[0].manifest["benchmarks"][name].get("task"))
    first: dict[str, Row] = {}
    images: dict[str, Row] = {}
    for _, answers in runs.values():
        for key, row in answers.rows.items():
            first.setdefault(key, row)
        for key, image in answers.images.items():
            known = images.setdefault(key, image)
            if picture_of.get(known["path"]) is None and picture_of.get(image["path"]) is not None:
                images[key] = image
    image_number = {key: number for number, key in enumerate(images)}
    tags: dict[tuple[str, str], int] = {}
    rows_of, differing = {}, {}
    for number, (_, answers) in runs.items():
        same = {key: row for key, row in answers.rows.items() if _agrees(row, first[key])}
        rows_of[number], differing[number] = same, len(answers.rows) - len(same)
    listing = {
        "task": task,
        "right": RIGHT.get(task, "as the task scores it"),
        "ids": list(first),
        "image": [image_number[row["image_id"]] for row in first.values()],
        "text": [row["text"] or "" for row in first.values()],
        "tags": [[tags.setdefault(tag, len(tags)) for tag in _tags(row)] for row in first.values()],
        "area": [
            area_bits(row, images[row["image_id"]]["width"], images[row["image_id"]]["height"])
            for row in first.values()
        ],
        "asked": [_flat([row["box"]]) if row["box"] else [] for row in first.values()],
        "truth": [_flat(_truth_boxes(row)) for row in first.values()],
        "images": [
            [key, image["path"] or "", image["width"], image["height"], picture_of.get(image["path"])]
            for key, image in images.items()
        ],
        "runs": {number: _column(task, first, rows) for number, rows in rows_of.items()},
    }
    listing["tagNames"] = [list(tag) for tag in tags]
    keys = list(first)
    details = [
        clean([_detail(first[key], {n: rows[key] for n, rows in rows_of.items() if key in rows}) for key in part])
        for part in _parts(keys)
    ]
    proposals = {}
    for number, (_, answers) in runs.items():
        if any(image["proposals"] for image in answers.images.values()):
            proposals[number] = [[_proposals(answers.images.get(key)) for key in part] for part in _parts(list(images))]
    return Gallery(clean(listing), details, proposals, differing)


def _agrees(row: Row, other: Row) -> bool:
    return row is other or all(row[field] == other[field] for field in _SAME)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]


def _tags(row: Row) -> list[tuple[str, str]]:
    """What a question can be filtered by: kind and name. A group of one letter is a frequency, as LVIS has it."""
    target = row["target"]
    named = {"r": "rare", "c": "common", "f": "frequent"}
    frequency = target.get("frequency")
    found = [("group", part) for part in (row["group"] or "").split("/") if part and part != frequency]
    if frequency:
        found.append(("frequency", named.get(str(frequency), str(frequency))))
    if row["kind"] == "ground_all" and row["text"]:
        found.append(("category", row["text"]))
    attributes = target.get("attributes")
    if isinstance(attributes, dict):
        found += [(str(name), str(value)) for name, value in attributes.items()]
    return list(dict.fromkeys(found))


def _truth_boxes(row: Row) -> list[Sequence[float]]:
    """The true boxes: the target's own, then those of its phrases, each once."""
    boxes = list(row["target"].get("boxes") or [])
    boxes += [box for phrase in row["target"].get("phrases") or [] for box in phrase["boxes"]]
    return _distinct(boxes)


def _answer_boxes(row: Row) -> list[Sequence[float]]:
    """The answered boxes as emitted, then those of its phrases that are not among them."""
    known = set(map(tuple, row["boxes"]))
    extra = [box for phrase in row["phrases"] for box in phrase["boxes"] if tuple(box) not in known]
    return [*row["boxes"], *_distinct(extra)]


def _distinct(boxes: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return list({tuple(box): box for box in boxes}.values())


def _flat(boxes: Sequence[Sequence[float]]) -> list[int]:
    # A model may emit any finite number; beyond one picture's side outside, where it stands makes no difference.
    return [round(min(max(value, -1.0), 2.0) * _SCALE) for box in boxes for value in box]


def _column(task: str, first: Mapping[str, Row], rows: Mapping[str, Row]) -> dict[str, list[Any]]:
    """One run's answers in the list's order; None in every column where it has none."""
    columns: dict[str, list[Any]] = {name: [] for name in ("status", "right", "value", "miss", "answer", "boxes")}
    for key in first:
        row = rows.get(key)
        if row is None:
            values: tuple[Any, ...] = (None,) * len(columns)
        else:
            verdict = judge(task, row)
            value = None if verdict.value is None else round(verdict.value, 4)
            right = None if verdict.right is None else int(verdict.right)
            status = _STATUS.index(row["status"])
            values = (status, right, value, verdict.miss, row["answer"] or row["raw"], _flat(_answer_boxes(row)))
        for column, item in zip(columns.values(), values, strict=True):
            column.append(item)
    return columns


def _detail(row: Row, by_run: Mapping[int, Row]) -> dict[str, Any]:
    target = row["target"]
    truth = _truth_boxes(row)
    texts = [str(text) for text in target.get("references") or [] if isinstance(text, str)]
    if isinstance(target.get("answer"), str):
        texts.insert(0, target["answer"])
    detail: dict[str, Any] = {"kind": row["kind"], "truth": texts}
    if phrases := target.get("phrases"):
        detail["spans"] = _pieces(texts[0] if texts else "", phrases, truth)
    detail["runs"] = {number: _answer(item) for number, item in by_run.items()}
    return detail


def _answer(row: Row) -> dict[str, Any]:
    boxes = _answer_boxes(row)
    return {
        "prompt": row["prompt"],
        "raw": row["raw"],
        "pieces": _pieces(row["answer"], row["phrases"], boxes),
        "confidences": [round(c, 4) for c in row["confidences"]] if row["confidences"] else None,
        "scores": {k: v for k, v in row["scores"].items() if isinstance(v, int | float)},
        "error": row["error"],
    }


def _pieces(text: str, phrases: Sequence[Mapping[str, Any]], boxes: Sequence[Sequence[float]]) -> list[list[Any]]:
    """``text`` cut at its phrases: [piece, [numbers of its boxes]], or [piece] between them.

    Phrases are sought in their order, each after the one before; what is not found, or empty, stands in no piece.
    """
    number = {tuple(box): index for index, box in reversed(list(enumerate(boxes)))}
    pieces: list[list[Any]] = []
    position = 0
    for item in phrases:
        phrase = item["phrase"]
        start = text.find(phrase, position) if phrase else -1
        if start < 0:
            continue
        if start > position:
            pieces.append([text[position:start]])
        pieces.append([phrase, [number[tuple(box)] for box in item["boxes"]]])
        position = start + len(phrase)
    if position < len(text):
        pieces.append([text[position:]])
    return pieces


def _proposals(image: Row | None) -> list[Any]:
    """[flat boxes, objectness or None, how many there are in all] of an image's best proposals."""
    if image is None or image["proposals"] is None:
        return []
    best = image["proposals"][:MAX_PROPOSALS]
    objectness = image["objectness"]
    scores = [round(value, 3) for value in objectness[:MAX_PROPOSALS]] if objectness else None
    return [_flat(best), scores, len(image["proposals"])]
