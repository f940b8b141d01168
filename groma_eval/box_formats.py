"""How models write boxes: every textual format and its coordinate frame, parsed and formatted, both ways.

A model adapter *declares* one of :data:`FORMATS`; nothing here guesses from the numbers. A format has a syntax (how
four numbers, or two location tokens, stand in the text) and a frame (what they mean):

- those of :mod:`groma_eval.frames`: ``pixels`` of the original image, ``0-1``, ``0-1000``, ``0-999``;
- ``input-pixels``: of the picture as the model was given it, after resizing (Qwen2.5-VL);
- ``padded-square``: shares of the square that the picture was padded to at its right or bottom (OWLv2);
- ``patches-32``: two indices into a grid of 32 x 32 patches (Kosmos-2);
- ``bins-1000``: 1000 bins a side, read at their middle (Florence-2);
- ``bins-1024``: 1024 bins a side, read at their near edge (PaliGemma).

Boxes inside the harness are float xyxy in [0, 1] of the original image; what is parsed is not clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from groma_eval import box_syntax as syntax
from groma_eval.core import Box, HarnessError
from groma_eval.frames import FRAMES, Frame

GRID = 32  # patches a side, Kosmos-2
#: Frames beside those of ``frames.FRAMES``, which only formats of their own use.
MODEL_FRAMES = ("input-pixels", "padded-square", "patches-32", "bins-1000", "bins-1024")


@dataclass(frozen=True)
class Canvas:
    """Sizes in pixels: of the original image, and of the picture that the model saw where they differ."""

    width: int
    height: int
    input_width: int | None = None
    input_height: int | None = None


@dataclass
class Parsed:
    """What a text holds: its words without markup, all boxes in the order of emission, and phrases with their boxes."""

    text: str
    boxes: list[Box] = field(default_factory=list)
    phrases: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class BoxFormat:
    """A way to write boxes. ``frame`` is None where a format leaves it open: it must be declared beside it.

    ``find(text)`` gives what of a text is boxes, ``write(numbers)`` one box as text; both in numbers of the frame.
    ``digits``: decimals that are written.
    """

    name: str
    frame: str | None
    about: str
    find: Callable[[str], list[syntax.Found]]
    write: Callable[[Sequence[float]], str]
    digits: int = 0

    def parse(self, text: str, canvas: Canvas) -> Parsed:
        """Boxes and words of a model's answer."""
        found = self.find(text)
        parsed = Parsed(syntax.without(text, found))
        for item in found:
            boxes = [to_unit(self._frame, numbers, canvas) for numbers in item.numbers]
            boxes = [box for box in boxes if all(map(math.isfinite, box))]
            parsed.boxes += boxes
            if item.phrase and boxes:
                parsed.phrases.append({"phrase": item.phrase, "boxes": boxes})
        return parsed

    def format(self, box: Box, canvas: Canvas) -> str:
        """A box as the model would write (and read) it; it is clipped to the picture and rounded as the format does."""
        clipped = [min(max(value, 0.0), 1.0) for value in box]
        numbers = from_unit(self._frame, (clipped[0], clipped[1], clipped[2], clipped[3]), canvas)
        return self.write([round(number, self.digits) if self.digits else round(number) for number in numbers])

    @property
    def _frame(self) -> str:
        if self.frame is None:
            raise HarnessError(f"box format {self.name!r} says nothing of its frame; declare it with frame=...")
        return self.frame


def to_unit(frame: str, numbers: Sequence[float], canvas: Canvas) -> Box:
    """Numbers of a frame (xyxy; ``patches-32``: two indices) as a box in [0, 1] of the original, not clipped."""
    if frame == "patches-32":
        return _patches_to_unit(int(numbers[0]), int(numbers[1]))
    if frame == "bins-1000":
        return Frame("0-1000").to_unit([number + 0.5 for number in numbers], 0, 0)
    if frame == "bins-1024":
        return Frame("0-1").to_unit([number / 1024 for number in numbers], 0, 0)
    if frame == "input-pixels":
        return Frame("pixels").to_unit(numbers, *_input_size(canvas))
    if frame == "padded-square":
        side = max(canvas.width, canvas.height)
        return Frame("pixels").to_unit([number * side for number in numbers], canvas.width, canvas.height)
    return Frame(frame).to_unit(numbers, canvas.width, canvas.height)


def from_unit(frame: str, box: Box, canvas: Canvas) -> tuple[float, ...]:
    """The inverse of :func:`to_unit`, up to the size of a bin or patch where the frame has such; the box lies in
    [0, 1]."""
    if frame == "patches-32":
        return _unit_to_patches(box)
    if frame in ("bins-1000", "bins-1024"):
        bins = int(frame.removeprefix("bins-"))
        return tuple(min(math.floor(value * bins), bins - 1) for value in box)
    if frame == "input-pixels":
        return Frame("pixels").from_unit(box, *_input_size(canvas))
    if frame == "padded-square":
        side = max(canvas.width, canvas.height)
        return tuple(value / side for value in Frame("pixels").from_unit(box, canvas.width, canvas.height))
    return Frame(frame).from_unit(box, canvas.width, canvas.height)


def _input_size(canvas: Canvas) -> tuple[int, int]:
    if not canvas.input_width or not canvas.input_height:
        raise HarnessError("boxes in pixels of the model's input need the size that the picture was resized to")
    return canvas.input_width, canvas.input_height


def _patches_to_unit(first: int, last: int) -> Box:
    # Kosmos-2's decoding (microsoft/unilm, kosmos-2/demo): corners are the middles of the two patches, but a box of a
    # single row or column of patches covers these whole.
    x1, y1, x2, y2 = first % GRID, first // GRID, last % GRID, last // GRID
    if x1 == x2 or y1 == y2:
        return (x1 / GRID, y1 / GRID, (x2 + 1) / GRID, (y2 + 1) / GRID)
    return ((x1 + 0.5) / GRID, (y1 + 0.5) / GRID, (x2 + 0.5) / GRID, (y2 + 0.5) / GRID)


def _unit_to_patches(box: Box) -> tuple[int, int]:
    x1, y1 = (min(math.floor(value * GRID), GRID - 1) for value in box[:2])
    # The patch that the far edge ends in; a box without extent has its first patch alone.
    x2, y2 = (max(math.ceil(value * GRID) - 1, first) for value, first in zip(box[2:], (x1, y1)))
    return (y1 * GRID + x1, y2 * GRID + x2)


def smart_resize(
    width: int, height: int, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 12_845_056
) -> tuple[int, int]:
    """Width and height that Qwen-VL models resize a picture to: multiples of ``factor``, within a number of pixels.

    The defaults are those of the Qwen2.5-VL checkpoints (their ``preprocessor_config.json``).
    """
    if max(width, height) > 200 * min(width, height):
        raise HarnessError(f"a picture of {width}x{height} is too narrow: Qwen-VL takes sides of 1:200 at most")
    new_width, new_height = (round(side / factor) * factor for side in (width, height))
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width, new_height = (
            max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height)
        )  # fmt: skip
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return new_width, new_height


#: Textual formats by name, as ``--model-args format=NAME`` takes them.
FORMATS: dict[str, BoxFormat] = {
    form.name: form
    for form in (
        BoxFormat(
            "kosmos-2", "patches-32", "<object><patch_index_0044><patch_index_0863></object>",
            syntax.find_patches, syntax.write_patches,
        ),
        BoxFormat(
            "florence-2", "bins-1000", "a car<loc_54><loc_375><loc_906><loc_707>",
            syntax.find_florence, lambda n: "".join(f"<loc_{v}>" for v in n),
        ),
        BoxFormat(
            "paligemma", "bins-1024", "<loc0256><loc0000><loc0512><loc1023> cat ; ..., y before x",
            syntax.find_paligemma, lambda n: "".join(f"<loc{n[i]:04d}>" for i in (1, 0, 3, 2)),
        ),
        BoxFormat(
            "qwen2-vl", "0-1000", "<|box_start|>(x1,y1),(x2,y2)<|box_end|>",
            syntax.find_pairs, lambda n: f"<|box_start|>({n[0]},{n[1]}),({n[2]},{n[3]})<|box_end|>",
        ),
        BoxFormat(
            "qwen2.5-vl", "input-pixels", 'JSON with "bbox_2d": [x1, y1, x2, y2] in pixels of the resized picture',
            syntax.find_json, lambda n: f"[{n[0]}, {n[1]}, {n[2]}, {n[3]}]",
        ),
        BoxFormat(
            "qwen3-vl", "0-1000", 'JSON with "bbox_2d": [x1, y1, x2, y2], 0-1000',
            syntax.find_json, lambda n: f"[{n[0]}, {n[1]}, {n[2]}, {n[3]}]",
        ),
        BoxFormat(
            "internvl", "0-1000", "<ref>a cat</ref><box>[[x1, y1, x2, y2]]</box>",
            syntax.find_internvl, lambda n: f"<box>[[{n[0]}, {n[1]}, {n[2]}, {n[3]}]]</box>",
        ),
        BoxFormat(
            "shikra", "0-1", "[0.125,0.250,0.500,0.875], decimals as of Shikra and LLaVA",
            syntax.find_lists, lambda n: "[" + ",".join(f"{v:.3f}" for v in n) + "]", 3,
        ),
        BoxFormat(
            "json", None, "[x1, y1, x2, y2] anywhere, in the frame that is declared",
            syntax.find_json, lambda n: f"[{n[0]:g}, {n[1]:g}, {n[2]:g}, {n[3]:g}]",
        ),
    )
}  # fmt: skip


def box_format(name: str, frame: str | None = None) -> BoxFormat:
    """The format called ``name``; ``frame`` where the format leaves it open.

    Raises:
        HarnessError: no such format, no such frame, or a frame given to a format that has its own (or none to one that
            has not).
    """
    if name not in FORMATS:
        raise HarnessError(f"box format {name!r}: it is one of {', '.join(FORMATS)}")
    found = FORMATS[name]
    if found.frame is not None:
        if frame not in (None, found.frame):
            raise HarnessError(f"box format {name!r} is in the frame {found.frame}, not {frame}; leave frame out")
        return found
    if frame not in FRAMES:
        problem = "needs a frame" if frame is None else f"in frame {frame!r}"
        raise HarnessError(f"box format {name!r} {problem}: frame is one of {', '.join(FRAMES)}")
    return replace(found, frame=frame, digits=3 if frame == "0-1" else 0)
