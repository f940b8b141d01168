"""Numbers drawn on a picture, so that a vision-language model can name its regions (set-of-mark prompting)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from groma_model.instruct.regions import Box

#: Part of what an answer is cached under: another drawing is another question.
DRAWING = "outline-and-number-1"
LONGEST_SIDE = 1024  # pixels sent; larger pictures cost more and show a model little more
Plate = tuple[int, int, int, int]
_LEAST_LONG_SIDE = 512  # smaller pictures are enlarged: a number needs its pixels
_COLOURS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip


def draw_markers(image: Image.Image, boxes: Sequence[Box]) -> tuple[Image.Image, list[Plate]]:
    """A new RGB picture with box i outlined and numbered i + 1, and where the numbers are.

    The picture keeps its shape; its longer side is brought to 512 to 1024 pixels. A number is white on a black plate
    with a coloured edge, so that it can be read on any background. It stands at the middle of its box; where smaller
    boxes or other numbers are there, on the corner or side of its box that keeps clear of them best.

    Args:
        image: any mode and size.
        boxes: xyxy, normalised.

    Returns:
        The picture, and for each box its number's plate, xyxy in pixels of that picture.
    """
    scale = min(max(1.0, _LEAST_LONG_SIDE / max(image.size)), LONGEST_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    picture = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(width, height) / 320))
    font = ImageFont.load_default(max(16, round(max(width, height) / 40)))
    pixels = [(box[0] * width, box[1] * height, box[2] * width, box[3] * height) for box in boxes]
    for index, box in enumerate(pixels):
        pen.rectangle(_outline(box, width, height), outline=_COLOURS[index % len(_COLOURS)], width=line)
    plates: dict[int, Plate] = {}
    by_area = sorted(range(len(pixels)), key=lambda i: _area(pixels[i]))  # a small box leaves its number no other place
    for order, index in enumerate(by_area):
        text = str(index + 1)
        left, top, right, bottom = font.getbbox(text)
        size = (round(right - left) + 4 * line, round(bottom - top) + 4 * line)
        smaller = [pixels[other] for other in by_area[:order]]
        plate = _place(pixels[index], size, list(plates.values()), smaller, (width, height))
        plates[index] = plate
        pen.rectangle(plate, fill=(0, 0, 0), outline=_COLOURS[index % len(_COLOURS)], width=max(1, line // 2))
        pen.text((plate[0] + 2 * line - left, plate[1] + 2 * line - top), text, fill=(255, 255, 255), font=font)
    return picture, [plates[index] for index in range(len(pixels))]


def data_url(image: Image.Image) -> str:
    """The picture as a JPEG in a ``data:`` address, as chat-completions endpoints take it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _outline(box: Box, width: int, height: int) -> Plate:
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    return left, top, max(left, min(round(box[2]), width) - 1), max(top, min(round(box[3]), height) - 1)


def _place(
    box: Box, size: tuple[int, int], placed: Sequence[Plate], smaller: Sequence[Box], picture: tuple[int, int]
) -> Plate:
    """Of nine places in and on ``box`` the first that covers least of the plates there are and of smaller boxes."""
    best, least = None, None
    for across, down in ((1, 1), (0, 0), (2, 0), (0, 2), (2, 2), (1, 0), (1, 2), (0, 1), (2, 1)):
        left = round(box[0] + (box[2] - box[0] - size[0]) * across / 2)
        top = round(box[1] + (box[3] - box[1] - size[1]) * down / 2)
        left, top = max(0, min(left, picture[0] - 1 - size[0])), max(0, min(top, picture[1] - 1 - size[1]))
        plate = (left, top, left + size[0], top + size[1])
        # A number that is covered cannot be read; one on another object only misleads.
        covered = 10 * sum(_common(plate, other) for other in placed) + sum(_common(plate, other) for other in smaller)
        if least is None or covered < least:
            best, least = plate, covered
    assert best is not None
    return best


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0, min(a[2], b[2]) + 1 - max(a[0], b[0])) * max(0, min(a[3], b[3]) + 1 - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
