"""Training samples, read from the standard files of the benchmarks.

Everything is grouped by image, as everywhere else: one image with its objects and all dialogues about it. File formats:
COCO instances (detection), flat RefCOCO rows (REC), LVIS (multi-instance grounding), region captions, grounded scene
captions (JSONL) and LLaVA-style conversations (JSONL); ``benchmarks/shapes/README.md`` describes each.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groma_model.processing import PromptTemplate, render_question

Box = tuple[float, float, float, float]
GROUND = "<ground_box>"


@dataclass(frozen=True)
class DialogueTurn:
    """A question and its answer as text, boxes xyxy normalised.

    ``<refer_box>`` in the question stands for ``refer_box``; each ``<ground_box>`` in the answer for one of
    ``ground_boxes``, in order.
    """

    question: str
    answer: str
    refer_box: Box | None = None
    ground_boxes: tuple[Box, ...] = ()


@dataclass
class TrainingImage:
    """An image with its objects and dialogues by task.

    Tasks of ``shapes``: ``rec``, ``grounding``, ``caption``, ``scene``, ``vqa``; of mixtures: those of its readers.

    Width and height are 0 where the data does not give them. ``source`` says which objectness head the boxes train
    (``coco`` or ``sa1b``), None where the recipe alone does.
    """

    path: Path
    width: int
    height: int
    boxes: list[Box] = field(default_factory=list)
    attributes: list[Mapping[str, str]] = field(default_factory=list)
    dialogues: dict[str, list[tuple[DialogueTurn, ...]]] = field(default_factory=lambda: defaultdict(list))
    source: str | None = None


def read_training_images(
    folder: Path, split: str, template: PromptTemplate, tasks: Sequence[str]
) -> list[TrainingImage]:
    """All images of one split of a data set in the ``shapes`` layout.

    Args:
        folder: holds ``images/SPLIT`` and ``annotations/*_SPLIT.*``.
        template: renders instructions.
        tasks: which dialogues to read; none of them for detection.

    Raises:
        ValueError: naming the file and the mend when one is missing or malformed.
    """
    notes = folder / "annotations"
    instances = _load(notes / f"instances_{split}.json")
    by_name: dict[str, TrainingImage] = {}
    by_id: dict[Any, TrainingImage] = {}
    for row in instances["images"]:
        item = TrainingImage(folder / "images" / split / row["file_name"], row["width"], row["height"])
        by_name[Path(row["file_name"]).stem] = by_id[row["id"]] = item
    for row in instances["annotations"]:
        item = by_id[row["image_id"]]
        item.boxes.append(_xywh(row["bbox"], item))
        item.attributes.append(row.get("attributes", {}))
    if "rec" in tasks:
        for row in _load(notes / f"rec_{split}.json"):
            item = by_name[row["img_id"].rpartition("_")[0]]
            turn = pointing_turn(template.native["ground_one"], row["sents"], [_xywh(row["bbox"], item)])
            item.dialogues["rec"].append((turn,))
    if "grounding" in tasks:
        _read_lvis(_load(notes / f"lvis_{split}.json"), by_id, template)
    if "caption" in tasks:
        _read_region_captions(_load(notes / f"region_captions_{split}.json"), by_name, template)
    if "scene" in tasks:
        for row in _load_lines(notes / f"scene_captions_{split}.jsonl"):
            item = by_name[Path(row["image"]).stem]
            item.dialogues["scene"].append((scene_turn(row, item, template),))
    if "vqa" in tasks:
        for row in _load_lines(notes / f"vqa_{split}.jsonl"):
            item = by_name[Path(row["image"]).stem]
            item.dialogues["vqa"].append(conversation(row, item, template))
    return list(by_name.values())


def pointing_turn(instruction: str, phrase: str, boxes: Sequence[Box]) -> DialogueTurn:
    """REC and multi-instance grounding: the answer only points."""
    answer = f"<roi>{GROUND * len(boxes)}</roi>"
    return DialogueTurn(render_question(instruction, phrase, 0), answer, None, tuple(boxes))


def scene_turn(row: Mapping[str, Any], item: TrainingImage, template: PromptTemplate) -> DialogueTurn:
    """A grounded caption: every phrase with the boxes it is tied to."""
    pieces, boxes, position = [], [], 0
    caption = row["caption"]
    for phrase in sorted(row["phrases"], key=lambda p: p["start"]):
        pieces.append(caption[position : phrase["start"]])
        pieces.append(f"<p>{caption[phrase['start'] : phrase['end']]}</p><roi>{GROUND * len(phrase['boxes'])}</roi>")
        boxes += [_xyxy(b, item) for b in phrase["boxes"]]
        position = phrase["end"]
    answer = "".join([*pieces, caption[position:]])
    return DialogueTurn(template.native["describe_scene"], answer, None, tuple(boxes))


def conversation(row: Mapping[str, Any], item: TrainingImage, template: PromptTemplate) -> tuple[DialogueTurn, ...]:
    """A conversation: its history as given, then the question, answered by pointing at the evidence first."""
    box = _xyxy(row["box"], item) if row.get("box") else None
    evidence = [[_xyxy(b, item) for b in group] for group in row.get("evidence") or []]
    pointing = "".join(f"<roi>{GROUND * len(group)}</roi>" for group in evidence)
    turns = []
    for question, answer in row.get("history") or []:
        named = box if "<box>" in question else None
        turns.append(
            DialogueTurn(render_question(template.native["converse"], question, int(named is not None)), answer, named)
        )
    named = box if "<box>" in row["text"] or (box is not None and not turns) else None
    turns.append(
        DialogueTurn(
            render_question(template.native["converse"], row["text"], int(named is not None)),
            f"{pointing} {row['answer']}".strip(),
            named,
            tuple(b for group in evidence for b in group),
        )
    )
    return tuple(turns)


def _read_lvis(data: Mapping[str, Any], by_id: Mapping[Any, TrainingImage], template: PromptTemplate) -> None:
    names = {c["id"]: c["name"].replace("_", " ") for c in data["categories"]}
    queries: dict[tuple[Any, int], list[Box]] = defaultdict(list)
    for row in data["annotations"]:
        queries[row["image_id"], row["category_id"]].append(_xywh(row["bbox"], by_id[row["image_id"]]))
    for (image_id, category), boxes in queries.items():
        ordered = sorted(boxes, key=lambda b: (b[0], b[1]))  # left to right: one fixed order to learn
        turn = pointing_turn(template.native["ground_all"], names[category], ordered)
        by_id[image_id].dialogues["grounding"].append((turn,))


def _read_region_captions(
    data: Mapping[str, Any], by_name: Mapping[str, TrainingImage], template: PromptTemplate
) -> None:
    entries = {row["id"]: row for row in data["images"]}
    for row in data["annotations"]:
        entry = entries[row["image_id"]]
        item = by_name[Path(entry["file_name"]).stem]
        captions = entry.get("captions") or [entry["caption"]]
        question = render_question(template.native["describe"], None, 1)
        box = _xywh(row["bbox"], item)
        item.dialogues["caption"].append((DialogueTurn(question, captions[0], box),))


def corpus(images: Iterable[TrainingImage], template: PromptTemplate) -> Iterable[str]:
    """All text as the model will see it, for a tokenizer: each image's prefix, each turn with its template."""
    for item in images:
        yield template.prefix()
        for dialogues in item.dialogues.values():
            for turns in dialogues:
                for turn in turns:
                    yield template.question(turn.question)
                    yield turn.answer


def _xywh(box: Sequence[float], item: TrainingImage) -> Box:
    x, y, w, h = box
    return (x / item.width, y / item.height, (x + w) / item.width, (y + h) / item.height)


def _xyxy(box: Sequence[float], item: TrainingImage) -> Box:
    x1, y1, x2, y2 = box
    return (x1 / item.width, y1 / item.height, x2 / item.width, y2 / item.height)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: prepare the data first (groma-eval data prepare shapes)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None


def _load_lines(path: Path) -> list[Any]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: prepare the data first (groma-eval data prepare shapes)") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from None
    return rows
