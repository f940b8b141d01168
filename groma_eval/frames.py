"""Coordinate frames: how the four numbers of a box are to be read, declared by whoever wrote them, never guessed.

Inside the harness a box is float xyxy in [0, 1] of the original image; this module is where other frames become that.

- ``pixels``: of the original image;
- ``0-1``: shares of width and height;
- ``0-1000`` and ``0-999``: 1000 (or 999) is the right and the bottom edge. Numbers that were made as ``1000 x / width``
  and cut off at 999 are ``0-1000``.

The form is ``xyxy`` (two corners), ``xywh`` (corner and size) or ``cxcywh`` (centre and size), in any frame. How models
write boxes as text, and the frames that belong to single models, are in :mod:`groma_eval.box_formats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from groma_eval.core import Box, HarnessError

_FAR_EDGE = {"0-1": 1.0, "0-1000": 1000.0, "0-999": 999.0}
FRAMES = ("pixels", *_FAR_EDGE)
FORMS = ("xyxy", "xywh", "cxcywh")
#: A box fits its frame when it reaches no farther out of the picture than this share of its side: rounding and models
#: that guess what is cut off overshoot a little, another frame overshoots by far.
OVERSHOOT = 0.1


@dataclass(frozen=True)
class Frame:
    """A declared frame and form, such as ``Frame("pixels", "xywh")``; unknown ones raise HarnessError."""

    name: str = "pixels"
    form: str = "xyxy"

    def __post_init__(self) -> None:
        if self.name not in FRAMES:
            raise HarnessError(f"frame {self.name!r}: it is one of {', '.join(FRAMES)}")
        if self.form not in FORMS:
            raise HarnessError(f"box format {self.form!r}: it is one of {', '.join(FORMS)}")

    def to_unit(self, numbers: Sequence[float], width: int, height: int) -> Box:
        """Four numbers of this frame as xyxy in [0, 1] of a ``width`` x ``height`` pixel image (not clipped)."""
        x1, y1, x2, y2 = map(float, numbers)
        if self.form == "xywh":
            x2, y2 = x1 + x2, y1 + y2
        elif self.form == "cxcywh":
            x1, y1, x2, y2 = x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2
        x, y = self._far_edges(width, height)
        return (x1 / x, y1 / y, x2 / x, y2 / y)

    def from_unit(self, box: Box, width: int, height: int) -> tuple[float, float, float, float]:
        """The inverse of :meth:`to_unit`."""
        x, y = self._far_edges(width, height)
        x1, y1, x2, y2 = box[0] * x, box[1] * y, box[2] * x, box[3] * y
        if self.form == "cxcywh":
            return ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        return (x1, y1, x2 - x1, y2 - y1) if self.form == "xywh" else (x1, y1, x2, y2)

    def _far_edges(self, width: int, height: int) -> tuple[float, float]:
        if self.name != "pixels":
            return _FAR_EDGE[self.name], _FAR_EDGE[self.name]
        if width <= 0 or height <= 0:
            raise HarnessError("boxes in pixels need the image's size, which the annotations do not give; use 0-1")
        return width, height


def is_box(value: Any) -> bool:
    """Whether ``value`` is a list of four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_finite_number, value))


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is an int or float that is finite."""
    # An integer beyond the floats (JSON allows it) has no finite float either.
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_fit(boxes: Iterable[tuple[str, Sequence[float], int, int]], frame: Frame, where: str) -> str | None:
    """Whether boxes can have been written in ``frame``: None, or a note that tells how many cannot.

    Args:
        boxes: (name for messages, the four numbers as written, image width, image height).
        where: file, named in the message.

    Raises:
        HarnessError: not one of the boxes fits the frame, or all of them lie within one unit of the top left corner of
            a frame that is wider than one: the frame is declared wrong.
    """
    total = outside = dots = 0
    first = ""
    for name, numbers, width, height in boxes:
        total += 1
        unit = frame.to_unit(numbers, width, height)
        if min(unit) < -OVERSHOOT or max(unit) > 1 + OVERSHOOT:
            outside += 1
            first = first or f"first: id {name}, {list(numbers)}, image {width}x{height}"
        dots += all(-1 <= value <= 1 for value in numbers)
    declared = f"the declared frame ({frame.name}, {frame.form})"
    if total and outside == total:
        raise HarnessError(
            f"{where}: all {total} boxes lie outside {declared}; {first}; declare the frame they were written in"
        )
    if total and dots == total and frame.name != "0-1":
        raise HarnessError(
            f"{where}: all {total} boxes lie within one unit of the corner of {declared}; if they are shares of width "
            "and height, declare 0-1"
        )
    return f"{where}: {outside} of {total} boxes reach outside {declared}; {first}" if outside else None
