"""Readers: one file a data format, from files to samples (an image with its questions, in file order).

A reader is ``read(annotations: Path, images: Path | None, need_images: bool, **options) -> list[Sample]``. It checks
every field it uses and raises HarnessError with file, row and field; it opens no picture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from groma_eval.core import HarnessError, Sample
from groma_eval.readers import coco, grounded_captions, llava_jsonl, lvis, refcoco_flat, region_captions

READERS: dict[str, Callable[..., list[Sample]]] = {
    "refcoco_flat": refcoco_flat.read,
    "lvis": lvis.read,
    "region_captions": region_captions.read,
    "grounded_captions": grounded_captions.read,
    "llava_jsonl": llava_jsonl.read,
    "coco": coco.read,
}

#: What each reader's questions ask.
QUESTION_KINDS = {
    "refcoco_flat": "ground_one",
    "lvis": "ground_all",
    "region_captions": "describe",
    "grounded_captions": "describe_scene",
    "llava_jsonl": "converse",
    "coco": "propose",
}


def read(reader: str, annotations: Path, images: Path | None, need_images: bool = True, **options) -> list[Sample]:
    """Samples of ``annotations`` by the reader's name; question ids are checked to be unique.

    Raises HarnessError for bad data (file, row and field named).
    """
    samples = READERS[reader](annotations, images, need_images, **options)
    seen: set[str] = set()
    for sample in samples:
        for question in sample.questions:
            if question.id in seen:
                raise HarnessError(f"{annotations}: question id '{question.id}' occurs twice")
            seen.add(question.id)
    return samples
