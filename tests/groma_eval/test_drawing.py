"""Pictures of grounded text: sizes, colours where they belong, untrusted text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from groma_eval.drawing import COLOURS, draw_grounded, printable
from groma_model.grounded_text import GroundedText, parse

BOXES = [(0.1, 0.2, 0.4, 0.6), (0.5, 0.5, 0.9, 0.95)]
GREY = (128, 128, 128)


def near(picture, x, y, colour, reach=4):
    """Whether ``colour`` is at pixel (x, y) or close by."""
    area = picture.crop((round(x) - reach, round(y) - reach, round(x) + reach + 1, round(y) + reach + 1))
    return colour in set(area.get_flattened_data() if hasattr(area, "get_flattened_data") else area.getdata())


def test_small_pictures_are_enlarged_and_text_stands_beneath():
    grounded = parse("<p>a red disc</p><roi><r0></roi> by <p>a ring</p><roi><r1></roi>", BOXES)
    picture = draw_grounded(Image.new("RGB", (96, 192), GREY), grounded)
    assert picture.mode == "RGB"
    assert picture.width == 480
    assert picture.height > 960
    for colour, (x1, y1, x2, y2) in zip(COLOURS, BOXES):
        # Corners at the box's place on the enlarged picture, in the phrase's colour; nothing in the middle.
        assert near(picture, x2 * 480, y2 * 960, colour)
        assert near(picture, x1 * 480, (y1 + y2) / 2 * 960, colour)
        assert picture.getpixel((round((x1 + x2) / 2 * 480), round((y1 + y2) / 2 * 960))) == GREY
    beneath = picture.crop((0, 960, picture.width, picture.height))
    used = {colour for _, colour in beneath.getcolors(beneath.width * beneath.height)}
    assert set(COLOURS[:2]) <= used
    assert not set(COLOURS[2:]) & used


def test_large_pictures_keep_their_size():
    picture = draw_grounded(Image.new("L", (640, 500)), GroundedText("", (), ()))
    assert picture.size == (640, 500)


def test_boxes_without_phrases_and_from_the_user_are_drawn():
    only = parse("<roi><r0></roi>", BOXES)
    loose = GroundedText("", (), (BOXES[0],), (0,))
    for grounded in (only, loose):
        picture = draw_grounded(Image.new("RGB", (480, 480), GREY), grounded, [BOXES[1]])
        assert picture.size == (480, 480)
        assert near(picture, 0.4 * 480, 0.6 * 480, COLOURS[0])
        assert near(picture, 0.9 * 480, 0.7 * 480, (255, 255, 255), reach=12)
        assert near(picture, 0.9 * 480, 0.7 * 480, (0, 0, 0), reach=12)


def test_the_picture_given_is_left_as_it_was():
    image = Image.new("RGB", (480, 480), GREY)
    draw_grounded(image, parse("<p>x</p><roi><r0></roi>", BOXES))
    assert image.getcolors() == [(480 * 480, GREY)]


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=200), st.lists(st.tuples(*[st.floats(-3, 3)] * 4), max_size=3), st.sampled_from([1, 7, 300]))
def test_any_text_and_boxes_can_be_drawn(text, boxes, side):
    raw = f"<p>{text}</p><roi>{''.join(f'<r{i}>' for i in range(len(boxes)))}</roi> {text}"
    picture = draw_grounded(Image.new("RGB", (side, 11)), parse(raw, boxes), boxes)
    assert picture.width <= 2400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\r\nb\tc", "a b c"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("\x9b2J\x07", "2J"),
        ("grün 红", "grün 红"),
        ("\ud800x", "x"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
