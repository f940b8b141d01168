"""Draw grounded text on its picture: boxes with their phrases in matching colours, the text beneath."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from groma_eval.core import Box
    from groma_model.grounded_text import GroundedText

#: Distinct, and dark enough to be read as text on white.
COLOURS = (
    (200, 30, 30), (20, 90, 200), (0, 125, 60), (145, 40, 160), (190, 95, 0), (0, 115, 135), (165, 20, 95), (95, 85, 0),
)  # fmt: skip
_INK = (25, 25, 25)
_USER = (0, 0, 0)
_MIN_SIDE = 480
_MAX_SIDE = 2400
_MARGIN = 10
_LABEL_LENGTH = 40


def draw_grounded(image: Image, grounded: GroundedText, boxes_from_user: Sequence[Box] = ()) -> Image:
    """A new RGB picture with the boxes of ``grounded`` on ``image`` and its text beneath.

    Small pictures are enlarged to a shorter side of 480 pixels (but no longer side above 2400), so that labels can be
    read. A phrase, its boxes and their labels share a colour; boxes without a phrase are numbered.

    Args:
        image: any mode and size.
        grounded: text and spans; boxes are xyxy, normalised.
        boxes_from_user: boxes named in the question, xyxy normalised; drawn dashed.
    """
    from PIL import Image as PILImage
    from PIL import ImageDraw, ImageFont

    scale = max(1.0, min(_MIN_SIDE / min(image.size), _MAX_SIDE / max(image.size)))
    width, height = (max(1, round(side * scale)) for side in image.size)
    picture = image.convert("RGB").resize((width, height), PILImage.Resampling.BICUBIC)
    unit = min(width, height)
    label_font = ImageFont.load_default(max(13, round(unit / 34)))
    text_font = ImageFont.load_default(max(16, round(unit / 28)))
    line_width = max(2, round(unit / 190))

    canvas_width = max(width, _MIN_SIDE)
    pieces = _pieces(grounded)
    lines = _wrap(pieces, text_font, canvas_width - 2 * _MARGIN)
    line_height = round(1.4 * sum(text_font.getmetrics()))
    panel = len(lines) * line_height + 2 * _MARGIN if lines else 0
    canvas = PILImage.new("RGB", (canvas_width, height + panel), (255, 255, 255))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)

    size = (width, height)
    entries = [(_pixels(box, size), label, colour) for label, colour, boxes in _labelled(grounded) for box in boxes]
    placed: list[Box] = []
    for box, _, colour in entries:
        draw.rectangle(box, outline=colour, width=line_width)
    for number, user_box in enumerate(boxes_from_user, 1):
        box = _pixels(user_box, size)
        _dashed(draw, box, line_width)
        entries.append((box, "your box" if len(boxes_from_user) == 1 else f"your box {number}", _USER))
    # Labels come after all boxes, so that no line crosses a label.
    for box, label, colour in entries:
        _label(draw, box, label, colour, label_font, size, placed)

    y = height + _MARGIN
    for line in lines:
        x = float(_MARGIN)
        for word, colour in line:
            draw.text((x, y), word, fill=colour or _INK, font=text_font)
            length = text_font.getlength(word)
            if colour is not None:
                base = y + sum(text_font.getmetrics()) + 1
                draw.line((x, base, x + length, base), fill=colour, width=2)
            x += length
        y += line_height
    return canvas


def printable(text: str) -> str:
    """Untrusted text without control, format and surrogate characters (terminal escapes, reversed text); new lines
    and tabs become spaces."""
    spaced = re.sub(r"[\n\r\t]+", " ", text)
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _labelled(grounded: GroundedText) -> list[tuple[str, tuple[int, int, int], Sequence[Box]]]:
    # Label, colour and boxes of each span, then of the boxes that stand in no span.
    entries: list[tuple[str, tuple[int, int, int], Sequence[Box]]] = []
    numbered = 0
    in_spans = {tuple(box) for span in grounded.spans for box in span.boxes}
    for index, span in enumerate(grounded.spans):
        label = printable(span.phrase).strip()
        if label:
            entries.append((label, _colour(index), span.boxes))
        else:
            for box in span.boxes:
                numbered += 1
                entries.append((str(numbered), _colour(index), [box]))
    for box in dict.fromkeys(tuple(box) for box in grounded.boxes):
        if box not in in_spans:
            numbered += 1
            entries.append((str(numbered), _colour(len(grounded.spans) + numbered - 1), [box]))
    return entries


def _pieces(grounded: GroundedText) -> list[tuple[str, tuple[int, int, int] | None]]:
    # The text cut at the spans, each piece with its colour; of overlapping spans the first one counts.
    pieces: list[tuple[str, tuple[int, int, int] | None]] = []
    position = 0
    for index, span in sorted(enumerate(grounded.spans), key=lambda item: item[1].start):
        if span.start < position or span.end <= span.start:
            continue
        pieces += [(grounded.text[position : span.start], None), (grounded.text[span.start : span.end], _colour(index))]
        position = span.end
    pieces.append((grounded.text[position:], None))
    return [(printable(text), colour) for text, colour in pieces if printable(text)]


def _wrap(
    pieces: Sequence[tuple[str, tuple[int, int, int] | None]], font: FreeTypeFont, width: int
) -> list[list[tuple[str, tuple[int, int, int] | None]]]:
    lines: list[list[tuple[str, tuple[int, int, int] | None]]] = []
    used = float(width + 1)
    for text, colour in pieces:
        for token in re.findall(r"\s+|\S+", text):
            word = " " if token.isspace() else token
            while word:
                length = font.getlength(word)
                if used + length <= width:
                    lines[-1].append((word, colour))
                    used += length
                    break
                if word == " ":
                    break
                # A new line; a word longer than a whole line is cut.
                fitting = next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width), 1)
                lines.append([(word[:fitting], colour)])
                used, word = font.getlength(word[:fitting]), word[fitting:]
    return lines


def _pixels(box: Sequence[float], size: tuple[int, int]) -> Box:
    width, height = size
    x1, x2 = sorted(min(max(value * width, 0.0), width - 1.0) for value in (box[0], box[2]))
    y1, y2 = sorted(min(max(value * height, 0.0), height - 1.0) for value in (box[1], box[3]))
    return (x1, y1, x2, y2)


def _label(
    draw: ImageDraw,
    box: Box,
    label: str,
    colour: tuple[int, int, int],
    font: FreeTypeFont,
    size: tuple[int, int],
    placed: list[Box],
) -> None:
    short = label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"
    width, height = font.getlength(short) + 6, sum(font.getmetrics()) + 2
    x = min(max(box[0], 0.0), max(0.0, size[0] - width))
    candidates = [box[1] - height, box[1] + 1, box[3] - height, box[3] + 1]
    inside = [y for y in candidates if 0 <= y <= size[1] - height] or [max(0.0, min(box[1], size[1] - height))]
    free = [y for y in inside if not any(_overlap((x, y, x + width, y + height), other) for other in placed)]
    y = (free or inside)[0]
    area = (x, y, x + width, y + height)
    placed.append(area)
    draw.rectangle(area, fill=colour)
    draw.text((x + 3, y), short, fill=(255, 255, 255), font=font)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _dashed(draw: ImageDraw, box: Box, width: int) -> None:
    # Black and white in turn, to be seen on any background.
    x1, y1, x2, y2 = box
    for (ax, ay), (bx, by) in pairwise([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]):
        steps = max(2, round((abs(bx - ax) + abs(by - ay)) / (5 * width)))
        for step in range(steps):
            at, to = step / steps, (step + 1) / steps
            ends = (ax + (bx - ax) * at, ay + (by - ay) * at, ax + (bx - ax) * to, ay + (by - ay) * to)
            draw.line(ends, fill=(0, 0, 0) if step % 2 else (255, 255, 255), width=width)
