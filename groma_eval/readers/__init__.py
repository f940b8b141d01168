"""Readers: one file a data format, from files to samples (an image with its questions, in file order).

A reader is ``read(annotations: Path, images: Path | None, need_images: bool, **options) -> list[Sample]``. It checks
every field it uses and raises HarnessError with file, row and field; it opens no picture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from groma_eval.core import HarnessError, Sample
from groma_eval.readers import coco, grounded_captions, llava_jsonl, lvis, refcoco, refcoco_flat, region_captions

READERS: dict[str, Callable[..., list[Sample]]] = {
    "refcoco": refcoco.read,
    "refcoco_flat": refcoco_flat.read,
    "lvis": lvis.read,
    "region_captions": region_captions.read,
    "grounded_captions": grounded_captions.read,
    "llava_jsonl": llava_jsonl.read,
    "coco": coco.read,
}

#: What each reader's questions ask.
QUESTION_KINDS = {
    "refcoco": "ground_one",
    "refcoco_flat": "ground_one",
    "lvis": "ground_all",
    "region_captions": "describe",
    "grounded_captions": "describe_scene",
    "llava_jsonl": "converse",
    "coco": "propose",
}


def locate(reader: str, folder: Path, name: str) -> Path:
    """The annotations to give to the reader, of a ``folder`` given in place of the file ``name``.

    That is the file of that name in it or, for a reader that finds its way in folders, the folder itself.
    """
    path = folder / name
    return path if path.exists() or reader != "refcoco" else folder


def files(reader: str, annotations: Path, **options) -> list[Path]:
    """The annotation files that the reader would read at ``annotations``, which may be a folder for some."""
    if reader == "refcoco":
        return refcoco.files(annotations, options.get("dataset"), options.get("split"))
    return [annotations]


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
