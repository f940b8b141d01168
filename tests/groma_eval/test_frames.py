"""Coordinate frames: what the numbers of a box mean, and how a wrong declaration is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.frames import FORMS, FRAMES, Frame, check_fit, is_box

side = st.integers(1, 4000)
frames = st.builds(Frame, st.sampled_from(FRAMES), st.sampled_from(FORMS))


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        (Frame("pixels"), (100, 50, 200, 200)),
        (Frame("pixels", "xywh"), (100, 50, 100, 150)),
        (Frame("0-1"), (0.25, 0.25, 0.5, 1)),
        (Frame("0-1", "xywh"), (0.25, 0.25, 0.25, 0.75)),
        (Frame("0-1000"), (250, 250, 500, 1000)),
        (Frame("0-999"), (249.75, 249.75, 499.5, 999)),
        (Frame("0-999", "xywh"), (249.75, 249.75, 249.75, 749.25)),
    ],
)
def test_one_box_in_every_frame(frame, numbers):
    assert frame.to_unit(numbers, 400, 200) == pytest.approx((0.25, 0.25, 0.5, 1.0), abs=1e-15)


@given(frames, st.tuples(*[st.floats(-1, 2)] * 4), side, side)
def test_frames_round_trip(frame, box, width, height):
    there = frame.from_unit(box, width, height)
    assert frame.to_unit(there, width, height) == pytest.approx(box, abs=1e-12)
    assert frame.from_unit(frame.to_unit(there, width, height), width, height) == pytest.approx(there, abs=1e-8)


def test_pixels_need_a_size_and_shares_do_not():
    assert Frame("0-1").to_unit((0, 0, 1, 1), 0, 0) == (0, 0, 1, 1)
    with pytest.raises(HarnessError, match="need the image's size"):
        Frame("pixels").to_unit((0, 0, 1, 1), 0, 0)


@pytest.mark.parametrize(("name", "form"), [("0-100", "xyxy"), ("Pixels", "xyxy"), ("pixels", "yxyx")])
def test_unknown_frames_are_refused(name, form):
    with pytest.raises(HarnessError, match="is one of"):
        Frame(name, form)


@pytest.mark.parametrize(
    "value", [None, "1,2,3,4", [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None], [True, 0, 1, 1],
              [0, 0, float("nan"), 1], [0, 0, 1, float("inf")], [0, 0, 1, 10**400], {"x": 1}],
)  # fmt: skip
def test_what_is_no_box(value):
    assert not is_box(value)


def test_what_is_a_box():
    assert is_box([1, 2.5, -3, 4])


def _boxes(*numbers, size=(640, 480)):
    return [(str(i), box, *size) for i, box in enumerate(numbers)]


def test_a_wrong_frame_is_refused():
    pixels = _boxes((0, 0, 300, 200), (10, 20, 30, 40))
    assert check_fit(pixels, Frame("pixels"), "p") is None
    with pytest.raises(HarnessError, match=r"p: all 2 boxes lie outside the declared frame \(0-1, xyxy\); first: id 0"):
        check_fit(pixels, Frame("0-1"), "p")
    shares = _boxes((0, 0, 1, 1), (0.2, 0.1, 0.9, 0.5))
    for name in ("pixels", "0-1000", "0-999"):
        with pytest.raises(HarnessError, match=r"all 2 boxes lie within one unit .* declare 0-1"):
            check_fit(shares, Frame(name), "p")
    assert check_fit(shares, Frame("0-1"), "p") is None
    assert check_fit([], Frame("0-1"), "p") is None


def test_some_boxes_outside_are_counted():
    thousandths = _boxes((0, 0, 500, 400), (500, 500, 1000, 1000), (0, 0, 645, 480))
    note = check_fit(thousandths, Frame("pixels"), "p")
    assert note.startswith("p: 1 of 3 boxes reach outside")  # 645 of 640 pixels is within the tolerance
    assert "id 1" in note
    assert "640x480" in note
