"""What all readers share: JSON with located errors, box validation, finding picture files."""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groma_eval.core import Box, HarnessError

_EXTENSIONS = (".jpg", ".png", ".jpeg")
#: COCO's file names: of 2014 with the picture's part of the set, of 2017 the number alone.
_COCO_2014 = re.compile(r"COCO_(?:train|val|test)\d{4}_(\d{12})$")
_COCO_2017 = re.compile(r"\d{12}$")
_COCO_PARTS = ("train2014", "val2014")
#: Folders in which distributed image sets keep their pictures, searched below the images folder.
_SUBFOLDERS = (*_COCO_PARTS, "train2017", "val2017", "VG_100K", "VG_100K_2", "flickr30k-images")


def read_json(path: Path) -> Any:
    """A JSON file; absent, empty or malformed files raise HarnessError with line and column."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """``text`` as JSON; HarnessError names the place within ``where``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}: line {error.lineno}, column {error.colno}"
        raise HarnessError(f"{place}: not JSON ({error.msg})") from None
    except RecursionError:
        raise HarnessError(f"{where}: not usable JSON (nested too deeply)") from None
    except ValueError as error:  # an integer of thousands of digits
        raise HarnessError(f"{where}: not usable JSON ({error})") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each non-blank line; malformed lines raise HarnessError with their number."""
    empty = True
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise HarnessError(f"{path}: line {number}, column {error.colno}: not JSON ({error.msg})") from None
        except (RecursionError, ValueError) as error:
            raise HarnessError(f"{path}: line {number}: not usable JSON ({type(error).__name__})") from None
        if not isinstance(row, dict):
            raise HarnessError(f"{path}: line {number}: must be an object, not {short(row)}")
        empty = False
        yield number, row
    if empty:
        raise HarnessError(f"{path}: the annotation file holds no samples")


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark; HarnessError where it is absent, empty or no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise HarnessError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the annotation file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: byte {error.start}: not UTF-8 text") from None
    if not text.strip():
        raise HarnessError(f"{path}: the annotation file is empty")
    return text


def rows_of(path: Path, value: Any, field: str | None = None) -> list[dict[str, Any]]:
    """``value`` (or its ``field``) as a non-empty list of objects; anything else raises HarnessError."""
    if field is not None:
        if not isinstance(value, dict) or field not in value:
            raise HarnessError(f"{path}: field '{field}' is missing")
        value = value[field]
    name = f"field '{field}'" if field else "the file"
    if not isinstance(value, list):
        raise HarnessError(f"{path}: {name} must hold a list, not {short(value)}")
    if not value:
        raise HarnessError(f"{path}: {name} holds no samples: the list is empty")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise HarnessError(f"{path}: {field or 'row'} {index}: must be an object, not {short(row)}")
    return value


def need(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``row[key]``, which must be there and of ``kind``; ``where`` names file and row in the error."""
    if not isinstance(row, Mapping):
        raise HarnessError(f"{where}: must be an object, not {short(row)}")
    try:
        value = row[key]
    except KeyError:
        raise HarnessError(f"{where}: field '{key}' is missing") from None
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
        wanted = " or ".join(names[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise HarnessError(f"{where}: field '{key}' must be {wanted}, not {short(value)}")
    return value


def need_text(row: Mapping[str, Any], key: str, where: str) -> str:
    """The row's ``key``: text that is not blank and can be written as UTF-8."""
    text = need(row, key, str, where)
    if not text.strip():
        raise HarnessError(f"{where}: field '{key}' is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HarnessError(f"{where}: field '{key}' is no Unicode text (lone surrogate at {error.start})") from None
    return text


def need_size(row: Mapping[str, Any], where: str) -> tuple[int, int]:
    """The row's ``width`` and ``height`` in pixels, both above 0."""
    width, height = (need(row, key, (int, float), where) for key in ("width", "height"))
    for key, side in (("width", width), ("height", height)):
        if not (_is_finite(side) and side > 0):
            raise HarnessError(f"{where}: field '{key}' must be above 0, not {short(side)}")
    return int(width), int(height)


def pixel_box(value: Any, width: int, height: int, where: str, field: str = "bbox", form: str = "xywh") -> Box:
    """A pixel box of the file (``xywh`` or ``xyxy``) as a normalised xyxy tuple, as written (not clipped).

    Raises HarnessError where it is not four finite numbers, empty, or wholly outside the ``width`` x ``height`` image.
    """
    problem = None
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(map(_is_number, value)):
        problem = "is not four numbers"
    elif not all(map(_is_finite, value)):
        problem = "is not finite"
    if problem is None:
        x1, y1, x2, y2 = value
        if form == "xywh":
            x2, y2 = x1 + x2, y1 + y2
        if not (_is_finite(x2) and _is_finite(y2)):
            problem = "is not finite"
        elif x2 <= x1 or y2 <= y1:
            problem = "is empty (width and height must be above 0)"
        elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            problem = f"is wholly outside the {width}x{height} image"
        else:
            return (x1 / width, y1 / height, x2 / width, y2 / height)
    shown = short(list(value) if isinstance(value, tuple) else value)  # as the file has it
    raise HarnessError(f"{where}: field '{field}' = {shown} {problem}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def short(value: Any) -> str:
    """``value`` as an error shows it: one line of bounded length, however large or deep it is."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Pictures:
    """Finds picture files below ``folder`` without opening them.

    ``find`` gives a path that exists where there is one, else the first place it should be (so that a run can count it
    as unreadable), or None where no folder is given. Without ``needed`` nothing on disk is looked at.
    """

    def __init__(self, folder: Path | None, needed: bool) -> None:
        self.folder = folder
        self.needed = needed
        if needed and folder is not None:
            if not folder.is_dir():
                raise HarnessError(f"{folder}: no such folder of images (give --images DIR)")
            self._files = self._list(folder, "")
            for sub in _SUBFOLDERS:
                if (folder / sub).is_dir():
                    self._files |= self._list(folder / sub, sub + "/")
        elif needed:
            raise HarnessError("the model needs pictures, but no images folder is given (give --images DIR)")

    @staticmethod
    def _list(folder: Path, prefix: str) -> set[str]:
        with os.scandir(folder) as entries:
            return {prefix + entry.name for entry in entries}

    def find(self, name: str) -> Path | None:
        """The file for ``name``: a file name (with extension) or a bare stem, possibly with folders."""
        if self.folder is None:
            return None
        has_extension = name.lower().endswith(_EXTENSIONS)
        if not self.needed:
            return self.folder / (name if has_extension else name + ".jpg")
        stem, extension = (name.rsplit(".", 1)[0], ["." + name.rsplit(".", 1)[1]]) if has_extension else (name, [])
        base = stem.rsplit("/", 1)[-1]
        stems = [stem] + ([base] if base != stem else [])
        # COCO released the same pictures twice, under other names.
        if match := _COCO_2014.match(base):
            stems.append(match.group(1))
        elif _COCO_2017.match(base):
            stems += [f"COCO_{part}_{base}" for part in _COCO_PARTS]
        for candidate in stems:
            for ending in extension or _EXTENSIONS:
                for prefix in ("", *(sub + "/" for sub in _SUBFOLDERS)):
                    path = prefix + candidate + ending
                    if path in self._files or ("/" in candidate and not prefix and (self.folder / path).is_file()):
                        return self.folder / path
        return self.folder / (name if has_extension else name + ".jpg")
