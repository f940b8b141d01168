"""Readers of files in COCO's form: ``images``, ``annotations`` (boxes xywh in pixels) and perhaps ``categories``.

The annotations of a file need not be in the order of its images, so the boxes of one file are held in memory while it
is read, as plain arrays: about 64 bytes a box, and the texts where there are some. A file is read once (:mod:`.store`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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

Record = dict[str, Any]
#: Area in pixels at 448 x 448 of the boxes of SA-1B that are kept: it segments parts and whole scenes too.
SA1B_AREAS = (14 * 14, 400 * 400)


@dataclass
class _Entry:
    name: str
    size: tuple[int, int]
    caption: str | None
    partial: frozenset[int]  # categories of which not every instance is marked (LVIS)


@dataclass
class _Coco:
    """A file's entries by slot, and its boxes sorted by slot (stable)."""

    entries: list[_Entry]
    starts: np.ndarray
    boxes: np.ndarray
    categories: np.ndarray
    extras: dict[int, Any]
    order: np.ndarray
    names: dict[int, str] = field(default_factory=dict)

    def annotations(self, slot: int, tally: Counter[str]) -> Iterator[tuple[int, Box, Any]]:
        """(category, normalised box, extra) of each annotation of an entry, without boxes that are none."""
        for position in range(self.starts[slot], self.starts[slot + 1]):
            row = int(self.order[position])
            box = from_xywh([float(v) for v in self.boxes[row]], self.entries[slot].size, tally)
            if box is not None:
                yield int(self.categories[row]), box, self.extras.get(row)


def _load(path: Path, extra: str | None, tally: Counter[str], categories: bool = False) -> _Coco:
    """Read a file; ``extra``: the field of annotations that is kept beside box and category."""
    slots: dict[Any, int] = {}
    entries: dict[int, _Entry] = {}
    owners, boxes, kinds = array("q"), array("d"), array("q")
    extras: dict[int, Any] = {}
    names: dict[int, str] = {}
    wheres: dict[int, str] = {}
    for name, index, row in stream_json(path):
        if name not in ("images", "annotations", "categories"):
            continue
        where = place(path, name, index)
        if index is None:
            raise ValueError(f"{where}: must be a list, not {short(row)}")
        if name == "images":
            slot = slots.setdefault(need(row, "id", (int, str), where), len(slots))
            if slot in entries:
                raise ValueError(f"{where}: image id {short(row['id'])} occurs twice")
            entries[slot] = _entry(row, where)
        elif name == "categories":
            if categories:
                names[need(row, "id", int, where)] = need_text(row, "name", where)
        else:
            slot = slots.setdefault(need(row, "image_id", (int, str), where), len(slots))
            if slot not in entries:
                wheres.setdefault(slot, where)
            if row.get("iscrowd") or row.get("ignore"):
                tally["crowd_or_ignored"] += 1
                continue
            if extra and extra in row:
                extras[len(owners)] = row[extra]
            boxes.extend(four_numbers(need(row, "bbox", list, where), "bbox", where))
            kinds.append(need(row, "category_id", int, where) if categories else 0)
            owners.append(slot)
    if not entries:
        raise ValueError(f"{path}: field 'images' is missing or empty")
    for slot, where in wheres.items():
        if slot not in entries:
            raise ValueError(f"{where}: its image_id is not among the file's images")
    if categories and (unknown := set(kinds) - names.keys()):
        raise ValueError(f"{path}: category_id {min(unknown)} of an annotation is not among the file's categories")
    owner = np.frombuffer(owners, np.int64) if owners else np.zeros(0, np.int64)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(slots) + 1))
    table = np.frombuffer(boxes, np.float64).reshape(-1, 4) if boxes else np.zeros((0, 4))
    return _Coco(
        [entries[s] for s in range(len(slots))], starts, table, np.array(kinds, np.int64), extras, order, names
    )


def _entry(row: Any, where: str) -> _Entry:
    if row.get("file_name") is not None:
        name = need_text(row, "file_name", where)
    else:  # LVIS v1 gives the picture's address instead
        name = "/".join(need_text(row, "coco_url", where).split("/")[-2:])
    caption = need(row, "caption", str, where) if row.get("caption") is not None else None
    return _Entry(name, need_size(row, where), caption, frozenset(row.get("not_exhaustive_category_ids") or ()))


def _head(entry: _Entry) -> Record:
    return {"image": entry.name, "size": list(entry.size)}


def read_detection(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Class-agnostic boxes, a record an image; images without boxes are kept (nothing there is an answer too)."""
    source = options.get("source", "coco")
    content = _load(path, None, tally)
    for slot, entry in enumerate(content.entries):
        boxes = [box for _, box, _ in content.annotations(slot, tally)]
        if source == "sa1b":
            kept = [b for b in boxes if SA1B_AREAS[0] <= (b[2] - b[0]) * (b[3] - b[1]) * 448**2 <= SA1B_AREAS[1]]
            tally["sa1b_size_filter"] += len(boxes) - len(kept)
            boxes = kept
        yield {**_head(entry), "boxes": boxes}


def read_grounding(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """All instances of a category, a record an image; a sample draws one of its categories.

    Categories of which LVIS says that not every instance is marked are left out, images without any category too.
    """
    content = _load(path, None, tally, categories=True)
    for slot, entry in enumerate(content.entries):
        found: dict[int, list[Box]] = {}
        for category, box, _ in content.annotations(slot, tally):
            if category not in entry.partial:
                found.setdefault(category, []).append(box)
        if found:
            # Left to right: one fixed order to learn.
            asks = [[_category(content.names[c]), sorted(boxes)] for c, boxes in sorted(found.items())]
            yield {**_head(entry), "asks": asks}


def _category(name: str) -> str:
    return name.replace("_", " ").lower()


def read_expressions(path: Path, tally: Counter[str]) -> Iterator[Record]:
    """Referring expressions: an ``images`` entry is an expression (``caption``) with one annotated box."""
    content = _load(path, None, tally)
    for slot, entry in enumerate(content.entries):
        if entry.caption is None or not entry.caption.strip():
            raise ValueError(f"{path}: images: the entry of {entry.name!r} has no caption (its expression)")
        boxes = [box for _, box, _ in content.annotations(slot, tally)]
        if not boxes:
            tally["no_box"] += 1
            continue
        yield {**_head(entry), "asks": [[entry.caption.strip(), boxes[:1]]]}


def read_region_captions(path: Path, options: Mapping[str, Any], tally: Counter[str]) -> Iterator[Record]:
    """Regions with a caption each, the annotation's or else its entry's.

    Option ``rounds``: ``single``, a record a region; ``multi``, a record an image, of whose regions a sample asks
    several one after the other.
    """
    multi = options.get("rounds", "single") == "multi"
    if starts_with(path) == "[":
        pictures = _genome_regions(path, options, tally)
    else:
        pictures = _captioned_regions(path, tally)
    for head, regions in pictures:
        if multi and regions:
            yield {**head, "regions": regions}
        elif not multi:
            yield from ({**head, "regions": [region]} for region in regions)


def _captioned_regions(path: Path, tally: Counter[str]) -> Iterator[tuple[Record, list[list[Any]]]]:
    content = _load(path, "caption", tally)
    for slot, entry in enumerate(content.entries):
        regions = []
        for _, box, caption in content.annotations(slot, tally):
            caption = entry.caption if caption is None else caption
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError(f"{path}: images: a region of {entry.name!r} has no caption (text)")
            regions.append([box, _sentence(caption)])
        yield _head(entry), regions


def _genome_regions(
    path: Path, options: Mapping[str, Any], tally: Counter[str]
) -> Iterator[tuple[Record, list[list[Any]]]]:
    """Visual Genome's own ``region_descriptions.json``, with the sizes of its ``image_data.json``."""
    if not options.get("image_data"):
        raise ValueError(
            f"{path}: Visual Genome's own form needs the option image_data (its image_data.json, for sizes)"
        )
    heads: dict[int, Record] = {}
    for name, index, row in stream_json(Path(options["image_data"])):
        where = place(Path(options["image_data"]), name, index)
        identity = need(row, "image_id", int, where)
        url = need_text(row, "url", where)
        heads[identity] = {"image": "/".join(url.split("/")[-2:]), "size": list(need_size(row, where))}
    for name, index, row in stream_json(path):
        where = place(path, name, index)
        head = heads.get(need(row, "id", int, where))
        if head is None:
            raise ValueError(f"{where}: image {row['id']} is not in {options['image_data']}")
        regions = []
        for number, region in enumerate(need(row, "regions", list, where)):
            at = f"{where}: regions[{number}]"
            x, y, w, h = (need(region, key, (int, float), at) for key in ("x", "y", "width", "height"))
            box = normalised((x, y, x + w, y + h), *head["size"], tally)
            if box is not None:
                regions.append([box, _sentence(need_text(region, "phrase", at))])
        yield head, regions


def _sentence(caption: str) -> str:
    """As the released training writes region captions: lower case with a capital at the beginning."""
    return caption.strip().lower().capitalize()


def read_entities(path: Path, tally: Counter[str]) -> Iterator[Record]:
    """Grounded captions in Groma's form: an entry a caption, ``tokens_positive`` spans on each box."""
    content = _load(path, "tokens_positive", tally)
    for slot, entry in enumerate(content.entries):
        if entry.caption is None or not entry.caption.strip():
            raise ValueError(f"{path}: images: the entry of {entry.name!r} has no caption")
        spans: dict[tuple[int, int], list[Box]] = {}
        for _, box, positive in content.annotations(slot, tally):
            for span in positive if isinstance(positive, list) else [None]:
                spans.setdefault(check_span(span, entry.caption, f"{path}: images: {entry.name}"), []).append(box)
        record = {**_head(entry), "caption": entry.caption, "phrases": disjoint(spans, tally)}
        if record["phrases"]:
            yield record
        else:
            tally["no_box"] += 1


def check_span(span: Any, caption: str, where: str) -> tuple[int, int]:
    """(start, end) of a phrase that lies within the caption."""
    whole = isinstance(span, list) and len(span) == 2 and all(type(v) is int for v in span)
    if not whole or not 0 <= span[0] < span[1] <= len(caption):
        raise ValueError(f"{where}: a phrase's place {short(span)} is not [start, end] within the caption")
    return span[0], span[1]


def disjoint(spans: Mapping[tuple[int, int], list[Box]], tally: Counter[str]) -> list[list[Any]]:
    """``[start, end, boxes]`` in order; a phrase that begins within the one before it is left out."""
    phrases: list[list[Any]] = []
    for (start, end), boxes in sorted(spans.items()):
        if phrases and start < phrases[-1][1]:
            tally["overlapping_phrases"] += 1
        else:
            phrases.append([start, end, boxes])
    return phrases
