"""The browser chat's sessions, without a browser: boxes by clicks, turns, messages, untrusted text made harmless."""

from __future__ import annotations

import copy
import html.parser
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from groma_eval import web
from groma_eval.drawing import COLOURS, printable
from groma_model.grounded_text import GroundedText, Span, parse

BOXES = [(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0)]
SIZE = (200, 100)


class FakeScene:
    """Answers with two phrases, or by ``raw``; keeps its history as a real scene does."""

    def __init__(self, raw="<p>a dog</p><roi><r0></roi> on <p>grass</p><roi><r1></roi>."):
        self.raw, self.asked, self.history = raw, [], []

    def chat(self, question, history=None, boxes=(), max_new_tokens=None):
        self.history = list(history)
        self.asked.append((question, list(history), tuple(boxes), max_new_tokens))
        if question == "fail":
            raise ValueError("the dialogue is\ntoo long")
        self.history.append((question, self.raw))
        return parse(self.raw, BOXES)


class FakeGroma:
    def __init__(self, scene):
        self.scene = scene

    def perceive(self, image):
        assert image.mode == "RGB"
        return self.scene


@pytest.fixture
def scene():
    return FakeScene()


@pytest.fixture
def session(scene):
    return web.start(FakeGroma(scene), Image.new("RGBA", SIZE, "blue"))


def clicks(session, *points):
    """Clicks at points of the picture's own pixels, as they fall on the shown one."""
    for x, y in points:
        session = web.click(session, x * web.scale(session), y * web.scale(session))
    return session


def test_two_clicks_are_a_box_in_whatever_order(session):
    begun = clicks(session, (100, 20))
    assert begun.boxes == ()
    assert "opposite corner" in begun.message
    for second in ((20, 60), (180, 0)):
        (box,) = clicks(begun, second).boxes
        xs, ys = sorted((100, second[0])), sorted((20, second[1]))
        assert box == pytest.approx((xs[0] / 200, ys[0] / 100, xs[1] / 200, ys[1] / 100))
    two = clicks(session, (0, 0), (100, 50), (100, 50), (200, 100))
    assert two.boxes == (pytest.approx((0, 0, 0.5, 0.5)), pytest.approx((0.5, 0.5, 1, 1)))
    assert two.message == "The next question has 2 boxes."
    assert web.clear_boxes(two) == session


def test_an_empty_box_is_told_and_forgotten(session):
    after = clicks(session, (50, 50), (51, 90))
    assert (after.boxes, after.corner) == ((), None)
    assert "empty" in after.message


def test_clicks_outside_the_picture_are_clipped_or_told(session):
    (box,) = clicks(session, (100, 50), (900, 900)).boxes
    assert box == pytest.approx((0.5, 0.5, 1, 1))
    assert "outside the image" in clicks(session, (300, 300), (900, 900)).message


@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_the_shown_picture_is_never_huge_and_small_ones_are_enlarged(size):
    session = web.Session(Image.new("1", (1, 1)).resize(size))
    shown = [side * web.scale(session) for side in size]
    assert max(shown) <= web.LONGER + 1e-6
    assert min(shown) >= min(web.SHORTER, web.LONGER * min(size) / max(size)) - 1e-6


def test_the_picture_shows_boxes_where_they_are(session):
    plain = web.picture(session)
    assert plain.size == (960, 480)
    drawn = web.picture(clicks(session, (50, 25), (150, 75)))
    changed = [(x, y) for x in range(0, 960, 4) for y in range(0, 480, 4) if drawn.getpixel((x, y)) != (0, 0, 255)]
    assert min(x for x, _ in changed) in range(236, 245)
    assert max(x for x, _ in changed) in range(712, 724)
    assert min(y for _, y in changed) in range(116, 125)
    assert drawn.getpixel((480, 240)) == (0, 0, 255)
    cross = web.picture(clicks(session, (100, 50)))
    assert cross.getpixel((480, 240)) == (0, 0, 0)
    assert session.image.getpixel((100, 50)) == (0, 0, 255)
    tiny = web.Session(Image.new("RGB", (1, 3)), boxes=((0.0, 0.0, 1.0, 0.001),))
    assert web.picture(tiny).width >= 1


def test_typed_boxes(session):
    assert web.add_box(session, "20,10,300,50").boxes == ((0.1, 0.1, 1.0, 0.5),)
    bad = web.add_box(session, "1,2,3")
    assert bad.boxes == ()
    assert "must be four numbers" in bad.message


def test_turns_carry_their_boxes_and_the_history(session, scene):
    asked = web.ask(web.add_box(session, "20,10,100,50"), " what is <box>? ", 9)
    again = web.ask(asked, "and now?", 9)
    first = "what is <box>?"
    assert scene.asked == [
        (first, [], ((0.1, 0.1, 0.5, 0.5),), 9),
        ("and now?", [(first, scene.raw)], (), 9),
    ]
    assert [turn.question for turn in again.turns] == [first, "and now?"]
    assert (asked.boxes, asked.message) == ((), "")
    anew = web.restart(again)
    assert (anew.image, anew.scene, anew.turns, anew.history) == (again.image, scene, (), ())
    web.ask(anew, "hello", 9)
    assert scene.asked[-1][1] == []


def test_a_copy_shares_the_perceived_picture(session):
    assert copy.deepcopy(session) is session


def test_two_windows_on_one_picture_do_not_mix(session, scene):
    one, other = web.ask(session, "a", 9), web.ask(session, "b", 9)
    web.ask(one, "c", 9)
    assert [question for question, _ in scene.asked[-1][1]] == ["a"]
    web.ask(other, "d", 9)
    assert [question for question, _ in scene.asked[-1][1]] == ["b"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("  ", "Write a question"),
        ("fail", "the dialogue is too long"),
        ("what is <box>?", "draw one on the picture"),
        ("<refer_feat>", "is reserved"),
        ("\udce4", "no text"),
    ],
)
def test_a_question_that_cannot_be_put_leaves_all_as_it_was(session, question, message):
    before = web.ask(session, "hello", 9)
    after = web.ask(before, question, 9)
    assert message in after.message
    assert "\n" not in after.message
    assert replace(after, message="") == before


def test_without_a_picture_one_is_asked_for():
    empty = web.start(None, None)
    for after in (web.ask(empty, "hello", 9), web.click(empty, 1, 1), web.add_box(empty, "0,0,1,1")):
        assert after.message == "Choose a picture first."
    assert web.picture(empty) is None
    assert web.answer_picture(empty) is None
    assert web.message_html(empty) == ""
    assert "No question yet" in web.conversation_html(empty)


def colour(index):
    return "background:#{:02x}{:02x}{:02x}".format(*COLOURS[index])


def test_phrases_stand_on_the_colours_of_their_boxes(session):
    after = web.ask(session, "what?", 9)
    text = web.conversation_html(after)
    assert f'<mark style="{colour(0)};' in text
    assert 'title="20,20,100,60">a dog</mark> on <mark' in text
    assert f"{colour(1)};" in text.split("a dog")[1]
    assert text.endswith("grass</mark>.</p>")
    assert COLOURS[0] in {pixel for _, pixel in web.answer_picture(after).getcolors(1 << 20)}


def marks(grounded):
    return web.answer_html(grounded, SIZE)


def test_boxes_without_a_phrase_are_numbered():
    text = marks(parse("<roi><r0><r1></roi> four", BOXES))
    assert text.count("<mark") == 2
    assert ">1</mark>" in text
    assert text.endswith(">2</mark>four")
    assert marks(GroundedText("yes", (), (BOXES[0],), (0,))).startswith("yes<mark")
    assert marks(GroundedText("")) == "<i>(no answer)</i>"


def test_overlapping_and_disordered_spans_lose_no_text():
    spans = (
        Span(6, 11, "world", (BOXES[0],), (0,)),
        Span(0, 5, "hello", (BOXES[1],), (1,)),
        Span(3, 8, "lo wo", (), ()),
    )
    text = marks(GroundedText("hello world", spans))
    assert plain(text)[1] == "hello world"
    assert text.count("<mark") == 2


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *sorted(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


def plain(text):
    reader = Reader()
    reader.feed(text)
    return reader.tags, reader.text


@pytest.mark.parametrize(
    "nasty",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "<a href='javascript:x'>",
        "&lt;b&gt;",
        "\x1b[31m\u202e",
    ],
)
def test_untrusted_text_stays_text(nasty):
    scene = FakeScene(f"{nasty}<p>{nasty}</p><roi><r0></roi>{nasty}")
    session = web.start(FakeGroma(scene), Image.new("RGB", SIZE))
    after = web.ask(session, f"q {nasty}", 9)
    tags, text = plain(web.conversation_html(after))
    assert {tag for tag, *_ in tags} <= {"p", "b", "mark"}
    assert {name for _, *names in tags for name in names} == {"style", "title"}
    assert printable(nasty) in text
    assert web.answer_picture(after).size[0] >= 480
    message = web.message_html(replace(session, message=nasty))
    assert plain(message) == ([("p", "role")], printable(nasty))


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_gives_no_foreign_tags(text, phrase):
    spans = (Span(0, len(phrase), phrase, (BOXES[0],), (0,)),)
    tags, said = plain(web.answer_html(GroundedText(phrase + text, spans, (BOXES[0],), (0,)), SIZE))
    assert {tag for tag, *_ in tags} <= {"mark", "i"}
    if printable(phrase).strip():
        assert said.strip() == (printable(phrase) + printable(text)).strip()
