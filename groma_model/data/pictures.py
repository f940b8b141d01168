"""Where a picture's file is, and which picture of which collection it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

_COCO_2014 = re.compile(r"COCO_(?:train|val|test)\d{4}_0*(\d+)$")
_COCO_2017 = re.compile(r"\d{12}$")
_NUMBER = re.compile(r"(\d+)$")
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
#: Folders that tell the collection of the pictures in them.
_FOLDERS = {
    "coco": "coco", "train2014": "coco", "val2014": "coco", "train2017": "coco", "val2017": "coco",
    "vg": "vg", "visual_genome": "vg", "visualgenome": "vg", "vg_100k": "vg", "vg_100k_2": "vg", "vg_100k_all": "vg",
    "flickr30k": "flickr30k", "flickr30k-images": "flickr30k", "flickr30k_images": "flickr30k",
    "sa1b": "sa1b", "sa-1b": "sa1b", "sam": "sa1b", "objects365": "objects365", "objects365v2": "objects365",
    "openimages": "openimages", "v3det": "v3det",
}  # fmt: skip
_VG_FOLDERS = ("VG_100K", "VG_100K_2")


def find_picture(folder: Path, name: str) -> str | None:
    """The path below ``folder`` of the picture ``name`` (a file name, perhaps with folders), None where it is absent.

    COCO's pictures are found under their names of 2014 and of 2017, Visual Genome's in either of its two folders, and
    a name without extension under the usual ones.
    """
    base = os.path.basename(name)
    stem, extension = os.path.splitext(base)
    if extension.lower() not in _EXTENSIONS:
        stem, extension = base, ""
    names = [name, base] if extension else [name + e for e in _EXTENSIONS]
    extension = extension or ".jpg"
    if match := _COCO_2014.match(stem):
        names.append(f"{int(match[1]):012d}{extension}")
    elif _COCO_2017.match(stem):
        names += [f"COCO_train2014_{stem}{extension}", f"COCO_val2014_{stem}{extension}"]
    names += [f"{sub}/{base if base.endswith(extension) else stem + extension}" for sub in _VG_FOLDERS]
    for candidate in names:
        if os.path.isfile(folder / candidate):
            return candidate
    return None


def picture_id(path: str | Path, collection: str | None = None) -> tuple[str, str] | None:
    """(collection, id) of a picture: ``("coco", "139")``; None where the path does not tell.

    ``collection`` says it; else COCO's file names do, then the innermost folder that is known. The id is the number
    that the file's stem ends with (without zeros in front), or the whole stem where there is none.
    """
    path = Path(path)
    if (match := _COCO_2014.match(path.stem)) and collection in (None, "coco"):
        return "coco", match[1]
    if collection is None:
        for folder in reversed(path.parent.parts):
            if collection := _FOLDERS.get(folder.lower()):
                break
        else:
            if not _COCO_2017.match(path.stem):
                return None
            collection = "coco"
    number = _NUMBER.search(path.stem)
    return collection, str(int(number[1])) if number else path.stem
