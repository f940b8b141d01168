"""Flickr30k Entities: the data set's own files to flat rows, a phrase and the union of its boxes (see README.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from groma_eval.cards import Card
from groma_eval.core import HarnessError
from groma_eval.readers.common import read_text
from groma_eval.readers.prepared import rows_text, write_once

#: A phrase in a sentence: ``[/EN#CHAIN/TYPE/TYPE words]``.
_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")


def prepare(root: Path, cards: Sequence[Card], source: Path | None = None, overwrite: bool = False) -> list[Path]:
    """Write the cards' annotation files below ``root`` from the folder ``source``.

    It holds ``Sentences/``, ``Annotations/`` and the list of each split's pictures, ``test.txt`` for instance.

    Raises:
        HarnessError: no folder, a file that is absent or bad, or a file of other content in the way.
    """
    if source is None:
        raise HarnessError(
            f"data prepare {cards[0].name}: Flickr30k Entities is not downloaded; give the folder of its Sentences, "
            "Annotations and test.txt with --source"
        )
    texts = {}
    for card in cards:
        rows: list[dict[str, Any]] = []
        dropped = 0
        for number in read_text(source / f"{card.split}.txt").split():
            found = list(phrases(source, number))
            rows += [row for row in found if row["bbox"][2] > 0 and row["bbox"][3] > 0]
            dropped += sum(row["bbox"][2] <= 0 or row["bbox"][3] <= 0 for row in found)
        print(f"{card.name}: {len(rows)} phrases" + (f"; {dropped} left out: a box without area" if dropped else ""))
        texts[root / card.data["annotations"]] = rows_text(rows)
    for path, text in texts.items():
        write_once(path, text, overwrite)
    return list(texts)


def phrases(folder: Path, number: str) -> Iterator[dict[str, Any]]:
    """The flat rows of one picture: every phrase of its sentences that has boxes, in order.

    ``bbox`` is xywh in pixels of the union of the phrase's boxes, ``group`` the phrase's first type. Phrases of scenes,
    of things that are not visible and of things without a box have none and are left out.
    """
    size, boxes = _annotations(folder / "Annotations" / f"{number}.xml")
    path = folder / "Sentences" / f"{number}.txt"
    for line, sentence in enumerate(read_text(path).splitlines(), 1):
        found = _PHRASE.findall(sentence)
        if len(found) != sentence.count("[/EN#"):
            raise HarnessError(f"{path}: line {line}: a phrase is not written as [/EN#CHAIN/TYPE words]")
        for chain, types, words in found:
            if chain not in boxes:
                continue
            x1, y1 = (min(box[i] for box in boxes[chain]) for i in (0, 1))
            x2, y2 = (max(box[i] for box in boxes[chain]) for i in (2, 3))
            yield {
                "img_id": f"{number}_{chain}",
                "sents": " ".join(words.split()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "height": size[1],
                "width": size[0],
                "group": types.split("/")[0],
            }


def _annotations(path: Path) -> tuple[tuple[int, int], dict[str, list[tuple[int, int, int, int]]]]:
    """The picture's (width, height) and the boxes of each chain, xyxy in pixels from 0 (the file counts from 1).

    An object may belong to several chains. A document type, and with it every entity, is refused.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise HarnessError(f"{path}: declares a document type or entities, which annotations have no use for")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise HarnessError(f"{path}: line {error.position[0]}, column {error.position[1]}: not XML") from None
    size = (_number(tree, "size/width", path), _number(tree, "size/height", path))
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    for element in tree.iter("object"):
        place = element.find("bndbox")
        if place is None:
            continue
        x1, y1, x2, y2 = (_number(place, key, path) - 1 for key in ("xmin", "ymin", "xmax", "ymax"))
        for name in element.findall("name"):
            boxes.setdefault((name.text or "").strip(), []).append((x1, y1, x2, y2))
    return size, boxes


def _number(tree: ElementTree.Element, place: str, path: Path) -> int:
    text = (tree.findtext(place) or "").strip()
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise HarnessError(f"{path}: <{place}> must be a whole number, not {text[:40]!r}")
    return int(text)
