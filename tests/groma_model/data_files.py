"""Tiny training files of every form. Imported by test modules as ``from data_files import ...``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from groma_model.data.readers import READERS

NAMES = ("a.jpg", "b.jpg", "c.jpg")
WIDTH, HEIGHT = 200, 100


def pictures(folder: Path, names=NAMES) -> Path:
    """Blank pictures of 200 x 100."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def image(identity: Any, name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": identity, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}


def annotation(identity: Any, *bbox: float, **more: Any) -> dict[str, Any]:
    return {"image_id": identity, "bbox": list(bbox), "category_id": 1, **more}


def coco(images: list, annotations: list, **more: Any) -> dict[str, Any]:
    return {"info": {"year": 1}, "images": images, "annotations": annotations, **more}


CATEGORIES = [{"id": 1, "name": "traffic_Light"}, {"id": 7, "name": "dog"}]
TALK = [{"from": "human", "value": "<image>\nWhat is\nthis?"}, {"from": "gpt", "value": "A <roi>dog</s>.\nYes."}]
GROUNDED = [
    {"from": "human", "value": "What is there?", "box_inds": None},
    {"from": "gpt", "box_inds": [1, 0, 2],
     "value": "Two <p> dogs </p> <roi> <ground_box> <ground_box> </roi>, <p>a cat</p><roi><ground_box></roi>."},
]  # fmt: skip

#: By reader: (file name, content, options, number of records).
FORMS: dict[str, tuple[str, Any, dict[str, str], int]] = {
    "detection": (
        "det.json",
        coco([image(1), image(2, "b.jpg")], [annotation(1, 20, 10, 40, 20), annotation(1, 0, 0, 50, 50, iscrowd=1)]),
        {}, 2,
    ),
    "rec": (
        "rec.json", [{"img_id": "a_3", "sents": "the dog", "bbox": [20, 10, 40, 20], "width": 200, "height": 100}],
        {}, 1,
    ),
    "grit": (
        "grit.json",
        [{"filename": "a.jpg", "caption": "a dog and a cat",
          "ref_exps": [[0, 5, 0.1, 0.1, 0.3, 0.3, 0.9], [10, 15, 0.5, 0.5, 1.2, 0.9], [0, 5, 0.4, 0.1, 0.6, 0.3]]}],
        {}, 1,
    ),
    "grounding": (
        "ground.json",
        coco(
            [image(1), image(2, "b.jpg", not_exhaustive_category_ids=[7])],
            [annotation(1, 100, 10, 40, 20), annotation(1, 20, 10, 40, 20), annotation(2, 1, 1, 9, 9, category_id=7)],
            categories=CATEGORIES,
        ),
        {}, 1,
    ),
    "image_captions": ("pt.json", [{"id": "x", "image": "a.jpg", "conversations": TALK}], {}, 1),
    "grounded_captions": (
        "flickr.json",
        coco(
            [image(1, caption="A dog near two cats.")],
            [annotation(1, 20, 10, 40, 20, tokens_positive=[[0, 5]]),
             annotation(1, 0, 0, 20, 10, tokens_positive=[[11, 19]]),
             annotation(1, 40, 0, 20, 10, tokens_positive=[[11, 19]])],
        ),
        {}, 1,
    ),
    "region_captions": (
        "vg.json",
        coco([image(1)],
             [annotation(1, 20, 10, 40, 20, caption="A Red Dog"), annotation(1, 100, 50, 20, 20, caption="grass")]),
        {}, 2,
    ),
    "conversations": (
        "llava.json", [{"id": "y", "image": "a.jpg", "conversations": TALK}, {"conversations": TALK}], {}, 1,
    ),
    "groma_instruct": (
        "groma.json",
        [{"file_name": "a.jpg", "width": 200, "height": 100, "conversation": GROUNDED,
          "boxes": [[0, 0, 20, 10], [20, 10, 40, 20], [100, 50, 100, 50]]}],
        {}, 1,
    ),
}  # fmt: skip


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else json.dumps(content)
    path.write_text(content if isinstance(content, str) else text)
    return path


def records(reader: str, path: Path, **options: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    tally: Counter[str] = Counter()
    return list(READERS[reader].read(path, options, tally)), tally
