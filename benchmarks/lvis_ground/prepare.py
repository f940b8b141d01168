"""LVIS-Ground: Groma's file from the hub, or the set drawn anew from an LVIS validation file by the paper's rule.

The rule (Ma et al., 2024, Sec. 5.2 and App. B): one category a query, at most five images a category, drawn at random.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.cards import Card
from groma_eval.readers import lvis
from groma_eval.readers.common import Pictures, read_json
from groma_eval.readers.prepared import download, write_once

IMAGES_PER_CATEGORY = 5
#: The paper's own count. The rule draws as many from one and the same LVIS file, whatever the seed.
PAPER_QUERIES = 4299
_IMAGE_FIELDS = ("id", "file_name", "coco_url", "width", "height", "neg_category_ids", "not_exhaustive_category_ids")
_ANNOTATION_FIELDS = ("id", "image_id", "category_id", "bbox", "area")
_CATEGORY_FIELDS = ("id", "name", "synset", "frequency")


def prepare(
    root: Path, cards: Sequence[Card], source: Path | None = None, seed: int = 0, overwrite: bool = False
) -> list[Path]:
    """Write the card's annotation file below ``root``: drawn from ``source``, or else Groma's ``lvis_test.json``.

    Raises:
        HarnessError: bad data, no connection, or a file of other content in the way.
    """
    (card,) = cards
    path = root / card.data["annotations"]
    origin = source or download("lvis_test.json")
    content = read_json(origin)
    lvis.parse(origin, content, Pictures(None, False))  # checks every field
    if source is not None:
        content = draw(content, seed, source.name)
    samples = lvis.parse(path, content, Pictures(None, False))
    queries = sum(len(sample.questions) for sample in samples)
    print(f"{queries} queries on {len(samples)} pictures (the paper counts {PAPER_QUERIES} queries)")
    write_once(path, json.dumps(content, ensure_ascii=False) + "\n", overwrite)
    return [path]


def draw(content: Mapping[str, Any], seed: int, source: str) -> dict[str, Any]:
    """An LVIS file of the drawn queries: for each category, at most five of its images with its annotations there.

    A category's images are put in the order of a hash of seed, category and image, and the first five taken: the draw
    depends neither on the file's order, nor on other categories, nor on a library's generator.
    """
    images: dict[int, set[int]] = {}
    for row in content["annotations"]:
        images.setdefault(row["category_id"], set()).add(row["image_id"])
    chosen = {
        (category, image)
        for category, candidates in images.items()
        for image in sorted(candidates, key=lambda image: (_rank(seed, category, image), image))[:IMAGES_PER_CATEGORY]
    }
    annotations = [row for row in content["annotations"] if (row["category_id"], row["image_id"]) in chosen]
    pictures = {image for _, image in chosen}
    drawn = {"seed": seed, "images_per_category": IMAGES_PER_CATEGORY, "source": source}
    return {
        "info": {"description": "LVIS-Ground, drawn by the paper's rule", **drawn},
        "images": [_only(row, _IMAGE_FIELDS) for row in _by_id(content["images"]) if row["id"] in pictures],
        "annotations": [_only(row, _ANNOTATION_FIELDS) for row in _by_id(annotations)],
        "categories": [_only(row, _CATEGORY_FIELDS) for row in _by_id(content["categories"])],
    }


def _rank(seed: int, category: int, image: int) -> str:
    return hashlib.sha256(f"{seed} {category} {image}".encode()).hexdigest()


def _by_id(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: row["id"])


def _only(row: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {key: row[key] for key in fields if key in row}
