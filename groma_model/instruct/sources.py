"""Pictures with described regions, from Visual Genome's files or from COCO's."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from groma_model.data.fields import four_numbers, need, need_size, need_text, place
from groma_model.data.json_stream import stream_json
from groma_model.instruct.regions import Box, Region, RegionRules, choose_regions, draw


@dataclass(frozen=True)
class SourceImage:
    """A picture and what is known of it. ``file_name`` is relative to the folder of images; ``regions`` in the order of
    their numbers; ``coco_id`` is the picture's id in COCO, None where it is not from there."""

    id: str
    file_name: str
    width: int
    height: int
    coco_id: int | None
    regions: tuple[Region, ...]
    captions: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Selection:
    """Chosen pictures, in an order that the seed gives; how many were looked at, had too few regions, have no file."""

    images: tuple[SourceImage, ...]
    looked_at: int
    too_few_regions: int
    missing: int


def read_visual_genome(
    folder: Path,
    images: Path,
    caption_files: Sequence[Path] = (),
    *,
    rules: RegionRules,
    seed: int = 0,
    limit: int | None = None,
) -> Selection:
    """Choose pictures and their regions from Visual Genome (homes.cs.washington.edu/~ranjay/visualgenome).

    Args:
        folder: holds ``image_data.json``, ``region_descriptions.json`` and, where wanted, ``question_answers.json``.
        images: holds ``VG_100K`` and ``VG_100K_2``, or all pictures side by side.
        caption_files: COCO captions; Visual Genome's pictures that are also in COCO get them by ``coco_id``.
        rules: what regions are chosen.
        seed: which pictures and regions; those of a limit are the first of any larger one.
        limit: how many pictures at most (1 or more), None for all.

    Raises:
        ValueError: a file is missing or malformed, or two pictures have one id (one line: file, entry, field).
    """
    about: dict[Any, tuple[str, Mapping[str, Any]]] = {}
    for where, row in _entries(folder / "image_data.json"):
        about[need(row, "image_id", int, where)] = where, row

    def found() -> Iterator[_Found]:
        for where, entry in _entries(folder / "region_descriptions.json"):
            identity = _id_of(entry, where)
            if identity not in about:
                raise ValueError(f"{where}: image {identity} is not in image_data.json; take both of one version")
            listed, row = about[identity]
            size = need_size(row, listed)
            yield _Found(
                str(identity),
                where,
                size,
                row.get("coco_id"),
                partial(_file_of, row, identity, images),
                partial(_described, entry, size, where),
            )

    selection = _select(found(), images, rules, seed, limit)
    wanted = {image.id for image in selection.images}
    questions: dict[str, list[tuple[str, str]]] = {}
    if (folder / "question_answers.json").is_file():
        for where, entry in _entries(folder / "question_answers.json"):
            identity = str(_id_of(entry, where))
            if identity in wanted:
                questions[identity] = [
                    (_text(need(qa, "question", str, where)), _text(need(qa, "answer", str, where)))
                    for qa in need(entry, "qas", list, where)
                ]
    captions = _captions(caption_files)
    chosen = (
        replace(image, captions=captions.get(image.coco_id, ()), questions=tuple(questions.get(image.id, ())))
        for image in selection.images
    )
    return replace(selection, images=tuple(chosen))


def read_coco(
    instances: Path,
    images: Path,
    caption_files: Sequence[Path] = (),
    *,
    rules: RegionRules,
    seed: int = 0,
    limit: int | None = None,
) -> Selection:
    """Choose pictures and their regions from a COCO instances file; a region's description is its category.

    Crowds are left out. Arguments and errors are those of :func:`read_visual_genome`.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = []
    names: dict[int, str] = {}
    boxes: dict[int, list[tuple[str, int, list[float]]]] = {}  # by image: where, category, xywh
    seen: set[str | None] = set()
    for field, index, row in stream_json(instances):
        where = place(instances, field, index)
        seen.add(field)
        if field == "images" and index is not None:
            need(row, "id", int, where)
            rows.append((where, row))
        elif field == "categories" and index is not None:
            names[need(row, "id", int, where)] = _text(need_text(row, "name", where))
        elif field == "annotations" and index is not None and not _is_crowd(row, where):
            box = four_numbers(need(row, "bbox", list, where), "bbox", where)
            category = need(row, "category_id", int, where)
            boxes.setdefault(need(row, "image_id", int, where), []).append((where, category, box))
    for field in ("images", "annotations", "categories"):
        if field not in seen:
            raise ValueError(f"{instances}: field '{field}' is missing or empty; must be a COCO instances file")
    for identity in boxes.keys() - {row["id"] for _, row in rows}:
        raise ValueError(f"{boxes[identity][0][0]}: image {identity} is not among the file's images")
    for where, category, _ in (one for many in boxes.values() for one in many):
        if category not in names:
            raise ValueError(f"{where}: category {category} is not among the file's categories")

    def found() -> Iterator[_Found]:
        for where, row in rows:
            size = need_size(row, where)

            def candidates(identity: int = row["id"], size: tuple[int, int] = size) -> list[Region]:
                return [Region(_normalised(box, size), (names[c],)) for _, c, box in boxes.get(identity, ())]

            name = partial(need_text, row, "file_name", where)
            yield _Found(str(row["id"]), where, size, row["id"], name, candidates)

    selection = _select(found(), images, rules, seed, limit)
    captions = _captions(caption_files)
    return replace(
        selection,
        images=tuple(replace(image, captions=captions.get(image.coco_id, ())) for image in selection.images),
    )


@dataclass(frozen=True)
class _Found:
    """A picture as a source lists it; its file and candidates are worked out only where it may be chosen."""

    id: str
    where: str
    size: tuple[int, int]
    coco_id: int | None
    file_name: Callable[[], str]
    candidates: Callable[[], list[Region]]


def _select(pictures: Iterable[_Found], images: Path, rules: RegionRules, seed: int, limit: int | None) -> Selection:
    """Of all pictures that qualify, the ``limit`` with the lowest :func:`draw`, in that order."""
    kept: list[tuple[int, str, SourceImage]] = []  # a heap by the negative draw: the highest draw goes first
    seen: set[str] = set()
    looked_at = few = missing = 0
    for found in pictures:
        if found.id in seen:
            raise ValueError(f"{found.where}: image {found.id} stands there twice")
        seen.add(found.id)
        rank = draw(seed, found.id)
        full = limit is not None and len(kept) >= limit
        if full and rank >= -kept[0][0]:
            continue  # it cannot be among the first
        looked_at += 1
        regions = choose_regions(found.candidates(), rules, seed, found.id)
        if not regions:
            few += 1
            continue
        file_name = found.file_name()
        if not (images / file_name).is_file():
            missing += 1
            continue
        image = SourceImage(found.id, file_name, *found.size, found.coco_id, regions)
        (heapq.heappushpop if full else heapq.heappush)(kept, (-rank, found.id, image))
    chosen = tuple(image for _, _, image in sorted(kept, key=lambda item: -item[0]))
    return Selection(chosen, looked_at, few, missing)


def _described(entry: Mapping[str, Any], size: tuple[int, int], where: str) -> list[Region]:
    regions = []
    for index, region in enumerate(need(entry, "regions", list, where)):
        at = f"{where}: regions[{index}]"
        corners = [need(region, name, (int, float), at) for name in ("x", "y", "width", "height")]
        if phrase := _text(need(region, "phrase", str, at)).rstrip(". "):
            regions.append(Region(_normalised(four_numbers(corners, "x, y, width, height", at), size), (phrase,)))
    return regions


def _file_of(row: Mapping[str, Any], identity: int, images: Path) -> str:
    """Where the picture is under ``images``: as its address ends, in either folder, or beside all others."""
    parts = str(row.get("url", "")).rsplit("/", 2)
    named = ["/".join(parts[1:])] if len(parts) == 3 and parts[1].startswith("VG_100K") else []
    choices = [*named, *(f"{folder}{identity}.jpg" for folder in ("VG_100K/", "VG_100K_2/", ""))]
    return next((name for name in choices if (images / name).is_file()), choices[0])


def _captions(paths: Sequence[Path]) -> dict[int | None, tuple[str, ...]]:
    captions: dict[int | None, tuple[str, ...]] = {}
    for path in paths:
        for field, index, row in stream_json(path):
            if field == "annotations" and index is not None:
                where = place(path, field, index)
                identity = need(row, "image_id", int, where)
                captions[identity] = (*captions.get(identity, ()), _text(need_text(row, "caption", where)))
    if paths and not captions:
        raise ValueError(f"{paths[0]}: no captions; must be a COCO captions file")
    return captions


def _normalised(box: Sequence[float], size: tuple[int, int]) -> Box:
    """xywh in pixels to xyxy in [0, 1]; parts outside the picture are cut off."""
    x, y, w, h = box
    corners = (x / size[0], y / size[1], (x + w) / size[0], (y + h) / size[1])
    return tuple(min(1.0, max(0.0, value)) for value in corners)  # type: ignore[return-value]


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each entry of a JSON list is, and the entry."""
    for field, index, row in stream_json(path):
        if field is not None:
            raise ValueError(f"{path}: must be a JSON list, as Visual Genome has it, not an object")
        yield place(path, None, index), row


def _id_of(entry: Any, where: str) -> int:
    """Files of version 1.0 call it ``image_id``, later ones ``id``."""
    return need(entry, "image_id" if isinstance(entry, Mapping) and "image_id" in entry else "id", int, where)


def _is_crowd(row: Any, where: str) -> bool:
    need(row, "image_id", int, where)
    return bool(row.get("iscrowd"))


def _text(text: str) -> str:
    return " ".join(text.split())
