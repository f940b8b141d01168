from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_model.grounded_text import parse, render

BOXES = [(0.1 * i, 0.1, 0.1 * i + 0.1, 0.3) for i in range(8)]


def test_phrases_are_tied_to_their_regions():
    raw = "<p>two dogs</p><roi><r4><r1></roi> catch <p>a frisbee</p> <roi><r7></roi>."
    grounded = parse(raw, BOXES, [0.9, 0.8, 0.7])
    assert grounded.text == "two dogs catch a frisbee."
    assert [(s.phrase, s.regions) for s in grounded.spans] == [("two dogs", (4, 1)), ("a frisbee", (7,))]
    assert grounded.spans[1].boxes == (BOXES[7],)
    assert [grounded.text[s.start : s.end] for s in grounded.spans] == ["two dogs", "a frisbee"]
    assert grounded.confidences == (0.9, 0.8, 0.7)


def test_an_answer_may_only_point():
    grounded = parse("<roi><r3></roi> red", BOXES)
    assert grounded.text == "red"
    assert (grounded.spans[0].phrase, grounded.spans[0].regions) == ("", (3,))


def test_a_region_that_does_not_exist_is_dropped_and_its_confidence_with_it():
    grounded = parse("<roi><r9><r2></roi>", BOXES, [0.6, 0.5])
    assert (grounded.regions, grounded.confidences, grounded.dropped) == ((2,), (0.5,), 1)


def test_text_between_phrase_and_regions_unties_them():
    grounded = parse("<p>a dog</p> runs <roi><r1></roi>", BOXES)
    assert [(s.phrase, s.regions) for s in grounded.spans] == [("", (1,))]


@given(st.text(alphabet="<>/piror0123456789[]grounding sx", max_size=80))
def test_any_text_parses_and_spans_stay_inside(raw):
    grounded = parse(raw, BOXES)
    for span in grounded.spans:
        assert 0 <= span.start <= span.end <= len(grounded.text)
        assert grounded.text[span.start : span.end] == span.phrase
        assert span.boxes == tuple(BOXES[i] for i in span.regions)


words = st.sampled_from(["a dog", "two cups", "red", "left of", "runs"])


@given(st.lists(st.tuples(words, st.lists(st.integers(0, 7), max_size=3)), min_size=1, max_size=6))
def test_render_and_parse_are_inverse(pieces):
    text, spans = "", []
    for phrase, regions in pieces:
        text += " " if text else ""
        if regions:
            spans.append((len(text), len(text) + len(phrase), regions))
        text += phrase
    grounded = parse(render(text, spans), BOXES)
    assert grounded.text == text
    assert [(s.start, s.end, list(s.regions)) for s in grounded.spans] == spans


def test_render_refuses_overlapping_spans():
    with pytest.raises(ValueError, match="overlaps"):
        render("a dog runs", [(0, 5, [1]), (3, 7, [2])])
