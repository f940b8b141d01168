"""Region captions in COCO form: each ``images`` entry is a region with its captions and ONE annotation (its box).

Several entries may share a ``file_name``; they become one sample with several questions.
"""

from __future__ import annotations

from pathlib import Path

from groma_eval.core import HarnessError, Question, Sample
from groma_eval.readers.coco import load_annotations, load_images
from groma_eval.readers.common import Pictures, read_json


def read(annotations: Path, images: Path | None, need_images: bool = True) -> list[Sample]:
    """``describe`` questions; id = the entry's id, target ``{"references": [str], "attributes"?: {name: value}}``."""
    pictures = Pictures(images, need_images)
    content = read_json(annotations)
    entries = load_images(annotations, content)
    regions = {}
    for row in load_annotations(annotations, content, entries):
        if row["image_id"] in regions:
            raise HarnessError(f"{annotations}: images entry {row['image_id']!r} has more than one annotation")
        regions[row["image_id"]] = row
    questions: dict[str, list[Question]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for index, (key, entry) in enumerate(entries.items()):
        where = f"{annotations}: images[{index}]"
        if key not in regions:
            raise HarnessError(f"{where}: entry {key!r} has no annotation (its region's box)")
        captions = entry.get("captions", entry.get("caption"))
        captions = [captions] if isinstance(captions, str) else captions
        if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise HarnessError(f"{where}: field 'captions' must be one or more texts, not {captions!r}")
        target = {"references": captions}
        if regions[key].get("attributes"):
            target["attributes"] = regions[key]["attributes"]
        sizes.setdefault(entry["name"], entry["size"])
        questions.setdefault(entry["name"], []).append(
            Question(str(key), "describe", box=regions[key]["box"], target=target)
        )
    return [
        Sample(name.rsplit(".", 1)[0], pictures.find(name), *sizes[name], tuple(asked))
        for name, asked in questions.items()
    ]
