"""Region captions: Groma's files from the hub, or files of that form from the data sets' own (see README.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.cards import Card
from groma_eval.core import HarnessError
from groma_eval.readers import refcoco, region_captions
from groma_eval.readers.common import need, need_size, pixel_box, read_json, read_text, rows_of, short
from groma_eval.readers.expressions import Expression
from groma_eval.readers.prepared import download, write_once

#: Groma's file of a benchmark, where there is one.
HUB = {"refcocog_caption_val": "refcocog_cap_val.json", "vg_caption_test": "vg_test.json"}
REGIONS, PICTURES = "region_descriptions.json", "image_data.json"
#: Files that tell which pictures of Visual Genome are the test set: DenseCap's, or a list of ids, one a line.
DENSECAP, IDS = "densecap_splits.json", "test_ids.txt"


def prepare(
    root: Path, cards: Sequence[Card], source: Path | None = None, seed: int = 0, overwrite: bool = False
) -> list[Path]:
    """Write the cards' annotation files below ``root``.

    Args:
        source: for RefCOCOg its validation split in any form that the REC cards read; for Visual Genome the folder of
            ``region_descriptions.json``, ``image_data.json`` and a list of the test pictures. None: Groma's files.
        seed: of the one region a picture that ``vg_caption_test`` takes.

    Raises:
        HarnessError: bad data, no connection, nothing to download, or a file of other content in the way.
    """
    if source is not None and len(cards) > 1:
        raise HarnessError(f"--source {source}: name one benchmark: {', '.join(card.name for card in cards)}")
    wanted = [card for card in cards if source is not None or card.name in HUB]
    if not wanted:
        raise HarnessError(
            f"data prepare {cards[0].name}: nothing to download; give the folder of {REGIONS}, {PICTURES} and "
            f"{DENSECAP} (or {IDS}) with --source"
        )
    texts = {}
    for card in wanted:
        if source is None:
            origin = download(HUB[card.name])
            region_captions.read(origin, None, False, **card.options)  # checks every field
            text = read_text(origin)
        elif card.name.startswith("refcocog"):
            text = _text(from_expressions(refcoco.expressions(source, "refcocog", "val")))
        else:
            text = _text(from_regions(source, card.options.get("regions", "one"), seed))
        texts[root / card.data["annotations"]] = text
    for path, text in texts.items():
        write_once(path, text, overwrite)
    for card in cards:
        if card not in wanted:
            print(f"{card.name}: nothing to download; see its README")
    return list(texts)


def from_expressions(expressions: Sequence[Expression]) -> dict[str, Any]:
    """Region captions of referring expressions: a region an object, its expressions the references."""
    images: dict[tuple[str, str], dict[str, Any]] = {}
    annotations = []
    for item in expressions:
        key = (item.picture, item.thing)
        if key not in images:
            width, height = item.size
            name = item.picture if "." in item.picture else item.picture + ".jpg"
            number = len(images)
            images[key] = {"id": number, "file_name": name, "width": width, "height": height, "captions": []}
            area = round(item.box[2] * item.box[3], 4)
            annotations.append({"id": number, "image_id": number, "bbox": list(item.box), "area": area})
        images[key]["captions"].append(item.text)
    return {"images": list(images.values()), "annotations": annotations}


def from_regions(folder: Path, regions: str, seed: int) -> dict[str, Any]:
    """Region captions of Visual Genome's own files in ``folder``, of the test pictures in the order of their list.

    ``regions`` is ``all`` (an ``images`` entry a picture, an annotation a region) or ``one`` (the region of each
    picture that comes first in the order of a hash of seed and region). Regions without an area, outside the picture or
    without text are left out, and counted in what is printed.
    """
    tests = _test_ids(folder)
    sizes = {}
    for index, row in enumerate(rows_of(folder / PICTURES, read_json(folder / PICTURES))):
        where = f"{folder / PICTURES}: row {index}"
        sizes[need(row, _either(row, "image_id"), int, where)] = need_size(row, where)
    described = {}
    for index, row in enumerate(rows_of(folder / REGIONS, read_json(folder / REGIONS))):
        where = f"{folder / REGIONS}: row {index}"
        described[need(row, "id", int, where)] = (where, need(row, "regions", list, where))
    images, annotations, dropped = [], [], 0
    for number in tests:
        if number not in sizes or number not in described:
            lacking = folder / (PICTURES if number not in sizes else REGIONS)
            raise HarnessError(f"{lacking}: picture {number}, of the test set, is not there")
        width, height = sizes[number]
        given = described[number][1]
        usable = list(_usable(given, (width, height), described[number][0]))
        dropped += len(given) - len(usable)
        head = {"file_name": f"{number}.jpg", "width": width, "height": height}
        if regions == "all" and usable:
            images.append({"id": number, **head})
            annotations += [{**region, "image_id": number} for region in usable]
        elif usable:
            region = min(usable, key=lambda region: (_rank(seed, region["id"]), region["id"]))
            images.append({"id": region["id"], **head})
            annotations.append({**region, "image_id": region["id"]})
    print(f"{len(annotations)} regions on {len(images)} pictures; {dropped} left out: no area, outside, or no text")
    content = {"images": images, "annotations": annotations}
    if regions == "all":
        return content
    drawn = {"description": "one region a picture of Visual Genome, drawn anew", "seed": seed}
    return {"info": drawn, **content}


def _usable(regions: Sequence[Any], size: tuple[int, int], where: str) -> Iterator[dict[str, Any]]:
    for index, region in enumerate(regions):
        place = f"{where}: regions[{index}]"
        if not isinstance(region, dict):
            raise HarnessError(f"{place}: must be an object, not {short(region)}")
        box = [need(region, key, (int, float), place) for key in ("x", "y", "width", "height")]
        text = need(region, "phrase", str, place).strip()
        identity = need(region, _either(region, "region_id"), int, place)
        try:
            pixel_box(box, *size, place)
        except HarnessError:
            continue
        if text:
            yield {"id": identity, "bbox": box, "area": box[2] * box[3], "caption": text}


def _either(row: Mapping[str, Any], key: str) -> str:
    """``key``, or ``id``, which the first edition has in its place."""
    return key if key in row else "id"


def _test_ids(folder: Path) -> list[int]:
    """The ids of the test pictures, in file order, each once."""
    if (folder / DENSECAP).is_file():
        content = read_json(folder / DENSECAP)
        ids = content.get("test") if isinstance(content, Mapping) else None
        where = f"{folder / DENSECAP}: field 'test'"
    elif (folder / IDS).is_file():
        words = read_text(folder / IDS).split()
        ids = [int(word) if word.isdecimal() else word for word in words]
        where = str(folder / IDS)
    else:
        raise HarnessError(f"{folder}: neither {DENSECAP} nor {IDS} (an id a line) is there to tell the test pictures")
    if not isinstance(ids, list) or not ids or not all(type(number) is int for number in ids):
        raise HarnessError(f"{where} must be a list of picture ids (whole numbers)")
    return list(dict.fromkeys(ids))


def _rank(seed: int, region: int) -> str:
    return hashlib.sha256(f"{seed} {region}".encode()).hexdigest()


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
