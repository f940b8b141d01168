"""A vision-language model's reply read as a grounded conversation, or rejected with a reason.

The reply has lines that begin with ``User:`` or ``Assistant:``, and marks phrases as ``[phrase](1, 4)``: the numbers
are those drawn on the picture. What does not keep to that is not repaired: it would teach a model wrong things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GROUND = "<ground_box>"

#: Why a reply is rejected, by the reason's name in the report.
REASONS = {
    "no_turns": "no line begins with User: or Assistant:",
    "turn_order": "the turns do not alternate from User to Assistant",
    "empty_turn": "a turn has no text",
    "cut_off": "the last answer does not end like a sentence",
    "markup": "a tag in angle brackets, which the training text reserves",
    "malformed_span": "a bracket that is no [phrase](numbers)",
    "user_span": "a marked phrase or a number of a marker in a user's turn",
    "empty_phrase": "a marked phrase without words",
    "unknown_marker": "a number that is not on the picture",
    "repeated_marker": "a number twice in one mark",
    "marker_words": "a marker or the given context is spoken of in the text",
    "no_span": "no phrase is marked",
}

_TURN = re.compile(r"^[ \t>]*\**(User|Assistant)\**[ \t]*:\**", re.IGNORECASE | re.MULTILINE)
_SPAN = re.compile(r"\[([^\[\]]*)\]\(\s*(\d{1,6}(?:\s*,\s*\d{1,6})*)\s*\)")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z_]*\d*\s*/?>")
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_BARE_NUMBERS = re.compile(r"\(\s*\d{1,2}(?:\s*,\s*\d{1,2})*\s*\)")
_WORDS = "one|two|three|four|five|six|seven|eight|nine|ten"
_MARKER_WORDS = re.compile(
    r"\b(?:box(?:es)?|regions?|markers?|marks?|labels?|labell?ed|marked|objects?|areas?|numbered)"
    r"\s*(?:as\s+|with\s+|by\s+)?(?:numbers?\s+|no\.\s*|#\s*)?\(?\d"
    rf"|\b(?:box|region|marker|label)\s+(?:number\s+)?(?:{_WORDS})\b"
    r"|\bbounding\s+box(?:es)?\b|\b(?:numbered|numeric|numerical)\s+(?:markers?|marks?|labels?|box(?:es)?|regions?)\b"
    r"|\bregion\s+descriptions?\b|\b(?:the|a|given|provided)\s+captions?\s+(?:says?|states?|mentions?|describes?)\b"
    r"|\b(?:the|given|provided)\s+(?:context|descriptions?)\s+(?:says?|states?|mentions?|indicates?)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:\bnumbers?|\bno\.|#)\s*(\d{1,2})\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")


class Rejected(Exception):
    """A reply that cannot be used; ``reason`` is a key of :data:`REASONS`, ``detail`` where (one line)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(REASONS[reason] + (f": {detail}" if detail else ""))
        self.reason = reason


@dataclass(frozen=True)
class GroundedTurn:
    """A question and its answer.

    ``answer`` has ``<p>phrase</p><roi><ground_box></roi>`` with one ``<ground_box>`` for each number; ``markers`` are
    these numbers, from 1, in order.
    """

    question: str
    answer: str
    markers: tuple[int, ...]


def parse_conversation(reply: str, num_markers: int) -> tuple[GroundedTurn, ...]:
    """Read and validate a reply about a picture with the numbers 1 to ``num_markers``.

    Text before the first turn and code fences are left out; white space is brought to single blanks.

    Raises:
        Rejected: with the first of :data:`REASONS` that holds.
    """
    turns = _split(reply)
    spoken = [_plain(text) for _, text in turns]
    grounded = []
    for number, ((_, question), (_, answer)) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        _check_text(spoken[2 * number], num_markers)
        if "[" in question or "]" in question or _BARE_NUMBERS.search(question):
            raise Rejected("user_span", _short(question))
        grounded.append(GroundedTurn(question, *_answer(answer, spoken[2 * number + 1], num_markers)))
    if not _SENTENCE_END.search(spoken[-1]):
        raise Rejected("cut_off", _short(spoken[-1][-60:]))
    if not any(turn.markers for turn in grounded):
        raise Rejected("no_span")
    return tuple(grounded)


def _split(reply: str) -> list[tuple[str, str]]:
    """Speaker and text of each turn: at least two, alternating from User, none empty."""
    reply = _FENCE.sub("", reply)
    heads = list(_TURN.finditer(reply))
    if not heads:
        raise Rejected("no_turns", _short(reply))
    ends = [head.start() for head in heads[1:]] + [len(reply)]
    turns = [(h[1].lower(), " ".join(reply[h.end() : end].split())) for h, end in zip(heads, ends, strict=True)]
    for number, (speaker, text) in enumerate(turns):
        if speaker != ("user", "assistant")[number % 2]:
            raise Rejected("turn_order", f"turn {number + 1} is the {speaker}'s")
        if not text:
            raise Rejected("empty_turn", f"turn {number + 1}")
    if len(turns) % 2:
        raise Rejected("turn_order", "the last question has no answer")
    return turns


def _plain(text: str) -> str:
    return _SPAN.sub(lambda match: match[1], text)


def _answer(text: str, spoken: str, num_markers: int) -> tuple[str, tuple[int, ...]]:
    markers: list[int] = []

    def tie(match: re.Match[str]) -> str:
        phrase, numbers = match[1], [int(number) for number in match[2].split(",")]
        if not any(character.isalnum() for character in phrase):
            raise Rejected("empty_phrase", _short(match[0]))
        unknown = [number for number in numbers if not 1 <= number <= num_markers]
        if unknown:
            raise Rejected("unknown_marker", f"{unknown[0]} of {num_markers} in {_short(match[0])}")
        if len(set(numbers)) < len(numbers):
            raise Rejected("repeated_marker", _short(match[0]))
        markers.extend(numbers)
        before, after = (" " if phrase[0] == " " else ""), (" " if phrase[-1] == " " else "")
        return f"{before}<p>{phrase.strip()}</p><roi>{GROUND * len(numbers)}</roi>{after}"

    left = _SPAN.sub("", text)
    if "[" in left or "]" in left:
        raise Rejected("malformed_span", _short(text))
    _check_text(spoken, num_markers)
    if _BARE_NUMBERS.search(left):
        raise Rejected("malformed_span", f"numbers without a phrase in {_short(text)}")
    return " ".join(_SPAN.sub(tie, text).split()), tuple(markers)


def _check_text(spoken: str, num_markers: int) -> None:
    """``spoken``: a turn's text as it is heard, without marks."""
    if found := _TAG.search(spoken):
        raise Rejected("markup", found[0])
    if found := _MARKER_WORDS.search(spoken):
        raise Rejected("marker_words", _short(found[0]))
    for found in _NUMBER.finditer(spoken):
        # A player's number 23 is in the picture; one that a marker has may be either, and is not risked.
        if 1 <= int(found[1]) <= num_markers:
            raise Rejected("marker_words", _short(found[0]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
