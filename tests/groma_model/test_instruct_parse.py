"""Replies read as conversations: what is taken, and what is rejected with which reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_model.grounded_text import parse
from groma_model.instruct.parse import GROUND, REASONS, GroundedTurn, Rejected, parse_conversation
from groma_model.instruct.prompt import EXAMPLES, context_of, text_messages, with_picture
from groma_model.instruct.regions import Region

GOOD = "User: What is there?\nAssistant: [A dog](2) chases [two balls](1, 3)."


def test_a_reply_becomes_turns():
    assert parse_conversation(GOOD, 3) == (
        GroundedTurn(
            "What is there?",
            f"<p>A dog</p><roi>{GROUND}</roi> chases <p>two balls</p><roi>{GROUND}{GROUND}</roi>.",
            (2, 1, 3),
        ),
    )


@pytest.mark.parametrize(
    "reply",
    [
        f"Here is the conversation:\n\n{GOOD}",
        f"```text\n{GOOD}\n```",
        GOOD.replace("User:", "**User:**").replace("Assistant:", "**Assistant**:"),
        GOOD.replace("User", "USER").replace("\n", "\n\n"),
        GOOD.replace("chases ", "\n  chases\n"),
        GOOD.replace("(1, 3)", "( 1,3 )"),
        GOOD.replace("chases [two balls]", "chases[ two balls]"),
        GOOD.replace("\n", "\r\n"),
    ],
)
def test_harmless_differences(reply):
    assert parse_conversation(reply, 3) == parse_conversation(GOOD, 3)


@pytest.mark.parametrize(
    "answer",
    [
        "[The player](1) wears the number 23.",
        "It is the number 9 bus, and [a man](2) waits for it.",
        "[A man](1) reads a box of cereal with two spoons (one is bent).",
        "[The area](1) is marked by cones, 3 in all.",
        'He says "[the cup](2) is full!"',
        "There are 2 dogs (or 3 of them) near [the boxes](1, 2)... They are calm.",
    ],
)
def test_harmless_answers(answer):
    assert parse_conversation(f"User: Well?\nAssistant: {answer}", 3)[0].markers


U = "User: What is there?\n"
BAD = [
    ("no_turns", ""),
    ("no_turns", "I'm sorry, I can't help with that."),
    ("no_turns", '{"conversations": []}'),
    ("no_turns", "Q: What?\nA: [A dog](1)."),
    ("turn_order", "Assistant: [A dog](1)."),
    ("turn_order", U + U + "Assistant: [A dog](1)."),
    ("turn_order", GOOD + "\nAssistant: And more."),
    ("turn_order", GOOD + "\nUser: And what else?"),
    ("empty_turn", "User:\nAssistant: [A dog](1)."),
    ("empty_turn", U + "Assistant:   \nUser: Hm?\nAssistant: [A dog](1)."),
    ("cut_off", U + "Assistant: [A dog](1) is on its way to the"),
    ("cut_off", U + "Assistant: It is [a dog](1). There is also"),
    ("markup", U + "Assistant: <p>A dog</p><roi><r1></roi> and [a cat](1)."),
    ("markup", U + "Assistant: [A dog](1) <image>."),
    ("markup", "User: What is <box>?\nAssistant: [A dog](1)."),
    ("malformed_span", U + "Assistant: [A dog](1 runs."),
    ("malformed_span", U + "Assistant: [A dog] runs after [a cat](1)."),
    ("malformed_span", U + "Assistant: [A dog](one) runs."),
    ("malformed_span", U + "Assistant: [A [big] dog](1) runs."),
    ("malformed_span", U + "Assistant: [A dog](1,) runs."),
    ("malformed_span", U + "Assistant: [A dog](-1) runs."),
    ("malformed_span", U + "Assistant: [A dog](1) runs after a cat (2)."),
    ("malformed_span", U + "Assistant: [A dog](1) runs after cats (2, 3)."),
    ("malformed_span", U + "Assistant: [A dog](1)](2) runs."),
    ("user_span", "User: What does [the dog](1) do?\nAssistant: [It](1) runs."),
    ("user_span", "User: What is at (2)?\nAssistant: [A dog](1)."),
    ("empty_phrase", U + "Assistant: There is [](1)."),
    ("empty_phrase", U + "Assistant: There is [ - ](1)."),
    ("unknown_marker", U + "Assistant: There is [a dog](4)."),
    ("unknown_marker", U + "Assistant: There is [a dog](0)."),
    ("unknown_marker", U + "Assistant: There are [dogs](1, 12)."),
    ("repeated_marker", U + "Assistant: There are [dogs](2, 2)."),
    ("marker_words", U + "Assistant: [The dog](1) is in box 3."),
    ("marker_words", U + "Assistant: [The dog](1) is left of region 2."),
    ("marker_words", U + "Assistant: [The dog](1), labeled as 1, runs."),
    ("marker_words", U + "Assistant: [The dog](1) marked with number 1 runs."),
    ("marker_words", U + "Assistant: [The dog of region #1](1) runs."),
    ("marker_words", U + "Assistant: [The dog](1) is near marker two."),
    ("marker_words", U + "Assistant: [The dog](1) has number 2 on it."),
    ("marker_words", U + "Assistant: [The dog](1) is in the bounding box."),
    ("marker_words", U + "Assistant: The caption says that [the dog](1) runs."),
    ("marker_words", "User: What is in region 1?\nAssistant: [A dog](1)."),
    ("no_span", U + "Assistant: A dog."),
]


@pytest.mark.parametrize(("reason", "reply"), BAD)
def test_rejected_with_a_reason(reason, reply):
    with pytest.raises(Rejected) as caught:
        parse_conversation(reply, 3)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(REASONS[reason])


def test_every_reason_is_tested():
    assert {reason for reason, _ in BAD} == set(REASONS)


WORDS = st.lists(st.sampled_from(["dog", "cat", "red", "near", "the", "runs"]), min_size=1, max_size=4).map(" ".join)
SPANS = st.tuples(WORDS, st.lists(st.integers(1, 10), min_size=1, max_size=3, unique=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(WORDS, SPANS), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_written_is_read(turns):
    """The phrases and boxes that a reply marks are those that the grammar finds in the training text."""
    boxes = [(0.05 * i, 0.1, 0.05 * i + 0.3, 0.6) for i in range(10)]
    reply, expected, spoken = [], [], []
    for pieces in turns:
        text = " ".join(f"{words} [{phrase}]({', '.join(map(str, marks))})" for words, (phrase, marks) in pieces)
        reply.append(f"User: and then?\nAssistant: {text}.")
        expected.append([(phrase, tuple(boxes[m - 1] for m in marks)) for _, (phrase, marks) in pieces])
        spoken.append(" ".join(f"{words} {phrase}" for words, (phrase, _) in pieces) + ".")
    found = parse_conversation("\n".join(reply), 10)
    for turn, spans, text in zip(found, expected, spoken, strict=True):
        regions = iter(turn.markers)
        pieces = turn.answer.split(GROUND)
        raw = "".join(f"{piece}<r{next(regions) - 1}>" for piece in pieces[:-1]) + pieces[-1]
        grounded = parse(raw, boxes)
        assert [(span.phrase, span.boxes) for span in grounded.spans] == spans
        assert grounded.text == text
        assert grounded.dropped == 0


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="UserAsitn: \n[]()12,.<p>", max_size=80))
def test_junk_is_rejected_or_sound(reply):
    try:
        turns = parse_conversation("User: a\nAssistant: [b](1)." + reply, 2)
    except Rejected:
        return
    for turn in turns:
        assert turn.question
        assert turn.answer.count(GROUND) == len(turn.markers)
        assert set(turn.markers) <= {1, 2}
        assert "[" not in turn.question + turn.answer


def test_the_examples_are_what_is_asked_for():
    for context, reply in EXAMPLES:
        regions = sum(line[0].isdigit() for line in context.splitlines())
        turns = parse_conversation(reply, regions)
        assert len(turns) >= 3
        assert {m for turn in turns for m in turn.markers} <= set(range(1, regions + 1))


def test_messages():
    region = Region((0, 0, 1, 1), ("a dog", "brown dog"))
    context = context_of([region], [f"caption {i}" for i in range(9)], [("Where?", "Here.")])
    assert context.splitlines()[:3] == ["Regions:", "1: a dog; brown dog", "Captions:"]
    assert context.count("caption ") == 5
    assert context.endswith("Questions and answers:\n- Where? Here.")
    messages = with_picture(text_messages(context), "data:x")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * len(EXAMPLES), "user"]
    picture, text = messages[-1]["content"]
    assert (picture["image_url"]["url"], text["text"]) == ("data:x", context)
    assert all(isinstance(m["content"], str) for m in messages[:-1])
