"""Captions of regions in COCO form, in two protocols that do not compare.

One region an entry (``regions="one"``): each ``images`` entry is a region. Its box is that of its annotation; its
references are the ``caption`` of its annotations, or the entry's ``captions`` (or ``caption``) where they have none. So
Groma's, GLaMM's and the prepared files have it: several references are several annotations of one box, of which all but
one may be marked ``ignore``. Several entries may share a ``file_name``; they become one sample with several questions.

All regions of an image (``regions="all"``): each ``images`` entry is a picture, each annotation a region of it with its
own ``bbox`` and ``caption``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.coco import checked_annotations, load_images
from groma_eval.readers.common import Pictures, need, need_text, pixel_box, read_json, short


def read(annotations: Path, images: Path | None, need_images: bool = True, regions: str = "one") -> list[Sample]:
    """``describe`` questions with target ``{"references": [str], "attributes"?: {name: value}}``.

    A question's id is the entry's, or the annotation's where ``regions`` is ``all``.

    Raises:
        HarnessError: bad data; a region without a box or a reference; several regions in an entry that may have one.
    """
    if regions not in ("one", "all"):
        raise HarnessError(f"{annotations}: option 'regions' is {regions!r}; it is one or all")
    pictures = Pictures(images, need_images)
    content = read_json(annotations)
    entries = load_images(annotations, content)
    rows: dict[Any, list[tuple[str, dict[str, Any]]]] = {key: [] for key in entries}
    for where, row in checked_annotations(annotations, content, entries):
        rows[row["image_id"]].append((where, row))
    questions: dict[str, list[Question]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for index, (key, entry) in enumerate(entries.items()):
        where = f"{annotations}: images[{index}]"
        sizes.setdefault(entry["name"], entry["size"])
        asked = questions.setdefault(entry["name"], [])
        if regions == "all":
            asked += [_question(str(need(row, "id", (int, str), at)), entry, [(at, row)], at) for at, row in rows[key]]
        else:
            asked.append(_question(str(key), entry, rows[key], where))
    return [
        Sample(name.rsplit(".", 1)[0], pictures.find(name), *sizes[name], tuple(asked))
        for name, asked in questions.items()
        if asked
    ]


def _question(identity: str, entry: dict[str, Any], rows: Sequence[tuple[str, dict[str, Any]]], where: str) -> Question:
    """The question of one region, given its annotations with their places."""
    places = [(at, row) for at, row in rows if not row.get("ignore") and "bbox" in row]
    if not places:
        raise HarnessError(f"{where}: entry {entry['id']!r} has no annotation with a box (its region)")
    boxes = {pixel_box(row["bbox"], *entry["size"], at) for at, row in places}
    if len(boxes) > 1:
        raise HarnessError(
            f"{where}: entry {entry['id']!r} has more than one annotation with a box of its own: several regions an "
            "image (a card with the option 'regions: all' reads them, such as vg_caption_all)"
        )
    target: dict[str, Any] = {"references": _references(entry, rows, where)}
    if places[0][1].get("attributes"):
        target["attributes"] = places[0][1]["attributes"]
    return Question(identity, "describe", box=boxes.pop(), target=target)


def _references(entry: dict[str, Any], rows: Sequence[tuple[str, dict[str, Any]]], where: str) -> list[str]:
    if any("caption" in row for _, row in rows):
        return [need_text(row, "caption", at) for at, row in rows if "caption" in row]
    captions = entry.get("captions", entry.get("caption"))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions:
        raise HarnessError(f"{where}: field 'captions' must be one or more texts, not {short(captions)}")
    return [need_text({"captions": caption}, "captions", where) for caption in captions]
