"""The formats of training data by name, and how their records become samples.

A reader turns an annotation file into *records*: small JSON objects, one a sample, with normalised boxes. What is drawn
anew each epoch (which instruction, which of a picture's categories) is drawn when a record becomes a
:class:`~groma_model.data.samples.TrainingImage`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_model.data.coco_form import Record, read_detection, read_grounding, read_region_captions
from groma_model.data.fields import Box
from groma_model.data.row_forms import (
    read_conversations,
    read_grit,
    read_groma_instruct,
    read_grounded_captions,
    read_rec,
)
from groma_model.data.samples import DialogueTurn, TrainingImage, pointing_turn
from groma_model.instructions import INSTRUCTIONS
from groma_model.processing import TEMPLATES, PromptTemplate, render_question

#: Regions asked about in one dialogue, at most, and the overlap (IoU) above which two are not both in it: as released.
ROUNDS, OVERLAP = 10, 0.6
GROUND = "<ground_box>"
_TAG = "[grounding]"


@dataclass(frozen=True)
class Reader:
    """One format.

    ``read(annotations, options, tally)`` yields records and counts in ``tally`` what it leaves out. ``task`` is the key
    of the sample's dialogue (None: boxes alone). ``instructions``: the list of :data:`INSTRUCTIONS` that is drawn from.
    ``files`` says where the files come from. ``options``: what may be set, with the values allowed (None: a path).
    """

    read: Callable[[Path, Mapping[str, Any], Counter[str]], Iterator[Record]]
    task: str | None
    instructions: str | None
    files: str
    options: Mapping[str, tuple[str, ...] | None]


READERS: dict[str, Reader] = {
    "detection": Reader(
        read_detection, None, None,
        "COCO-form JSON: COCO's instances_train2017.json (cocodataset.org), Objects365 v2, OpenImages v6, V3Det and "
        "SA-1B as class_agnostic_*.json (FoundationVision/groma_data on the Hugging Face hub)",
        {"source": ("coco", "sa1b")},
    ),
    "rec": Reader(
        read_rec, "rec", "refcoco_rec",
        "RefCOCO/+/g: refcoco_train.json, refcoco+_train.json, refcocog_train.json (groma_data), or flat rows",
        {},
    ),
    "grit": Reader(
        read_grit, "rec", "grit",
        "grit_filtered_10m.json (groma_data); pictures from the addresses in GRIT (zzliang/GRIT on the hub)", {},
    ),
    "grounding": Reader(
        read_grounding, "grounding", "coco",
        "COCO's instances_train2017.json (cocodataset.org) or lvis_v1_train.json (lvisdataset.org)", {},
    ),
    "image_captions": Reader(
        read_conversations, "image_caption", None,
        "ShareGPT4V-PT: share-captioner_coco_lcs_sam_1246k_1107.json (Lin-Chen/ShareGPT4V on the hub)", {},
    ),
    "grounded_captions": Reader(
        read_grounded_captions, "scene", "flickr",
        "Flickr30k Entities: flickr_entities_train.json (groma_data), or JSONL rows with caption and phrases", {},
    ),
    "region_captions": Reader(
        read_region_captions, "caption", "visual_genome",
        "Visual Genome: vg_train_single.json, vg_train_multi.json (groma_data) or its own region_descriptions.json "
        "with image_data.json; RefCOCOg: refcocog_train.json (groma_data) with instructions: refcoco_cap",
        {"rounds": ("single", "multi"), "instructions": ("visual_genome", "refcoco_cap"), "image_data": None},
    ),
    "conversations": Reader(
        read_conversations, "vqa", None,
        "LLaVA-Instruct: llava_conversation_reasoning.json (groma_data); ShareGPT4V: "
        "sharegpt4v_instruct_gpt4-vision_cap100k.json (Lin-Chen/ShareGPT4V on the hub)",
        {},
    ),
    "groma_instruct": Reader(
        read_groma_instruct, "instruct", None,
        "groma_instruct.json (FoundationVision/groma_instruct on the hub), or what groma-train make-instruct writes",
        {},
    ),
}  # fmt: skip

#: The dialogues' keys: a recipe's ``tasks`` must name those of its mixture.
TASKS = tuple(dict.fromkeys(r.task for r in READERS.values() if r.task))


def to_sample(
    record: Record,
    reader: Reader,
    options: Mapping[str, Any],
    images: Path,
    template: PromptTemplate,
    draw: random.Random,
) -> TrainingImage:
    """The sample of a record: boxes alone, or one dialogue under the reader's task.

    Instructions are drawn from the released lists where the template's own are from them, else they are the template's.
    """
    width, height = record["size"]
    item = TrainingImage(images / record["image"], width, height)
    if reader.task is None:
        item.boxes = [_box(b) for b in record["boxes"]]
        item.source = options.get("source", "coco")
        return item
    name = options.get("instructions", reader.instructions)
    if "asks" in record:
        phrase, boxes = draw.choice(record["asks"])
        kind = "ground_all" if reader.task == "grounding" else "ground_one"
        asked = _instruction(name, kind, "<p>{text}</p>", template, draw)
        turns = [pointing_turn(asked, phrase, [_box(b) for b in boxes])]
    elif "regions" in record:
        turns = [
            DialogueTurn(render_question(_instruction(name, "describe", "{box}", template, draw), None, 1), text, box)
            for box, text in _spread(record["regions"], draw)
        ]
    elif "phrases" in record:
        asked = _instruction(name, "describe_scene", "", template, draw)
        turns = [_scene(asked, record)]
    else:
        turns = [_chat(turn, reader.task, template) for turn in record["turns"]]
    item.dialogues[reader.task] = [tuple(turns)]
    return item


def _instruction(name: str | None, kind: str, slot: str, template: PromptTemplate, draw: random.Random) -> str:
    if name is None or template.native != TEMPLATES["llava"].native:
        return template.native[kind]
    text = draw.choice(INSTRUCTIONS[name])
    return text.replace("{}", slot) if slot else _TAG + text


def _scene(instruction: str, record: Record) -> DialogueTurn:
    caption, pieces, boxes, position = record["caption"], [], [], 0
    for start, end, found in record["phrases"]:
        pieces += [
            _plain(caption[position:start]),
            f"<p>{_plain(caption[start:end])}</p><roi>{GROUND * len(found)}</roi>",
        ]
        boxes += [_box(b) for b in found]
        position = end
    answer = "".join([*pieces, _plain(caption[position:])]).strip()
    return DialogueTurn(instruction, answer, None, tuple(boxes))


def _chat(turn: list[Any], task: str, template: PromptTemplate) -> DialogueTurn:
    question, answer, boxes = turn
    instruction = template.native["converse"]
    if task == "instruct":
        instruction = instruction if _TAG in instruction else _TAG + instruction
        question = question.removeprefix(_TAG).strip()
    else:
        answer = _plain(answer)  # a grounded answer was checked when it was read
    return DialogueTurn(render_question(instruction, question, 0), answer, None, tuple(_box(b) for b in boxes))


def _plain(text: str) -> str:
    """The text without markup: it would be read as features or as an end that are not there. Blanks around it stay."""
    if "<" not in text and "[" not in text:
        return text
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return before + render_question("{text}", text, 0) + (after if text.strip() else "")


def _spread(regions: list[list[Any]], draw: random.Random) -> list[tuple[Box, str]]:
    """Up to :data:`ROUNDS` regions in drawn order, none of which overlaps one before it much."""
    kept: list[tuple[Box, str]] = []
    for box, text in draw.sample(regions, len(regions)):
        if len(kept) == ROUNDS:
            break
        if all(_iou(box, other) <= OVERLAP for other, _ in kept):
            kept.append((_box(box), text))
    return kept


def _iou(a: Box, b: Box) -> float:
    inside = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def _box(values: list[float]) -> Box:
    x1, y1, x2, y2 = values
    return (x1, y1, x2, y2)
