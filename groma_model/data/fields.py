"""Checked access to the fields of annotation rows: every error is one ValueError with file, row and field."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: xyxy, normalised to [0, 1] of the original image.
Box = tuple[float, float, float, float]

#: Digits kept of a normalised box: finer than float32, in which training holds it.
_DIGITS = 8
_NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def need(row: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``row[key]``, which must be there and of ``kind``."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: must be an object, not {short(row)}")
    if key not in row:
        raise ValueError(f"{where}: field '{key}' is missing")
    value = row[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = " or ".join(_NAMES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where}: field '{key}' must be {wanted}, not {short(value)}")
    return value


def need_text(row: Any, key: str, where: str) -> str:
    """Text that is not blank, without the blanks around it."""
    text = need(row, key, str, where).strip()
    if not text:
        raise ValueError(f"{where}: field '{key}' is empty")
    return text


def need_size(row: Any, where: str) -> tuple[int, int]:
    """``width`` and ``height`` in pixels, both above 0."""
    for key in ("width", "height"):
        if not 0 < need(row, key, (int, float), where) < math.inf:
            raise ValueError(f"{where}: field '{key}' must be above 0, not {short(row[key])}")
    return int(row["width"]), int(row["height"])


def four_numbers(value: Any, field: str, where: str) -> list[float]:
    """A box as the file has it: four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise ValueError(f"{where}: field '{field}' = {short(value)} is not four finite numbers")
    return value


def normalised(xyxy: tuple[float, float, float, float], width: float, height: float, tally: Counter[str]) -> Box | None:
    """A pixel box clipped to the image and normalised; None, counted in ``tally``, where less than a pixel is left.

    The large sets all have a few boxes without an area or outside their picture. The released training leaves out what
    is under a pixel wide or high before it is clipped; here it must also have an area inside the picture.
    """
    x1, y1, x2, y2 = xyxy
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    if x2 - x1 < 1 or y2 - y1 < 1 or right <= left or bottom <= top:
        tally["dropped_boxes"] += 1
        return None
    return (
        round(left / width, _DIGITS),
        round(top / height, _DIGITS),
        round(right / width, _DIGITS),
        round(bottom / height, _DIGITS),
    )


def from_xywh(box: list[float], size: tuple[int, int], tally: Counter[str]) -> Box | None:
    """A pixel xywh box; see :func:`normalised`."""
    x, y, w, h = box
    return normalised((x, y, x + w, y + h), *size, tally)


def place(path: Path, field: str | None, index: int | None) -> str:
    """``FILE: field[3]``, ``FILE: row 3`` or ``FILE: line 3``, as errors name it."""
    if field is not None:
        return f"{path}: {field}" + ("" if index is None else f"[{index}]")
    return f"{path}: {'line' if path.suffix == '.jsonl' else 'row'} {index}"


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def short(value: Any) -> str:
    """``value`` as an error shows it: one line of bounded length."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
