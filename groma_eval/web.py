"""What the browser's chat does, without the browser: a session and the functions that turn one into the next.

A session is never changed; each function gives a new one, with a message where something cannot be done. Model output
and questions are untrusted text: :func:`conversation_html` escapes them.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from groma_eval.cli.chat import check_question, parse_box
from groma_eval.core import Box, HarnessError
from groma_eval.drawing import COLOURS, draw_grounded, printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from groma_model.generation import Exchange
    from groma_model.grounded_text import GroundedText

#: The least side of a box drawn by two clicks, in pixels of the picture.
LEAST_SIDE = 2
#: The picture is shown with a shorter side of so many pixels at least, and a longer one of so many at most.
SHORTER, LONGER = 480, 1600


@dataclass(frozen=True)
class Turn:
    """A question with its boxes (xyxy, normalised), and the answer."""

    question: str
    boxes: tuple[Box, ...]
    answer: GroundedText


@dataclass(frozen=True)
class Session:
    """A picture with what was said about it. ``boxes`` are for the next question, ``corner`` is a box's first click
    (x, y in pixels), ``message`` what to tell the user."""

    image: Image | None = None
    scene: Any = None
    turns: tuple[Turn, ...] = ()
    history: tuple[Exchange | tuple[str, str], ...] = ()
    boxes: tuple[Box, ...] = ()
    corner: tuple[float, float] | None = None
    message: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        # Gradio copies a state's first value for each visitor; the scene's copy would copy the model too.
        return self


def start(groma: Any, image: Image | None) -> Session:
    """A new session about ``image`` (any mode and size); without one an empty session."""
    if image is None:
        return Session()
    image = image.convert("RGB")
    return Session(image, groma.perceive(image))


def scale(session: Session) -> float:
    """Pixels of the shown picture for each of its own."""
    sides = session.image.size
    return min(max(1.0, SHORTER / min(sides)), LONGER / max(sides))


def click(session: Session, x: float, y: float) -> Session:
    """A click at (x, y) in pixels of the shown picture: the first is a box's corner, the second the opposite one."""
    if session.image is None:
        return replace(session, message="Choose a picture first.")
    x, y = x / scale(session), y / scale(session)
    if session.corner is None:
        return replace(session, corner=(x, y), message="Click the opposite corner of the box.")
    (x1, x2), (y1, y2) = sorted((session.corner[0], x)), sorted((session.corner[1], y))
    if x2 - x1 < LEAST_SIDE or y2 - y1 < LEAST_SIDE:
        return replace(session, corner=None, message="That box is empty; click two opposite corners.")
    return add_box(session, f"{x1},{y1},{x2},{y2}")


def add_box(session: Session, text: str) -> Session:
    """A box given as ``x1,y1,x2,y2`` in pixels of the picture joins those for the next question."""
    if session.image is None:
        return replace(session, message="Choose a picture first.")
    try:
        box = parse_box(text, session.image.size)
    except HarnessError as error:
        return replace(session, corner=None, message=str(error))
    count = len(session.boxes) + 1
    said = "a box" if count == 1 else f"{count} boxes"
    return replace(session, boxes=(*session.boxes, box), corner=None, message=f"The next question has {said}.")


def clear_boxes(session: Session) -> Session:
    """Without the boxes for the next question."""
    return replace(session, boxes=(), corner=None, message="")


def restart(session: Session) -> Session:
    """A new conversation about the same picture."""
    return Session(session.image, session.scene)


def ask(session: Session, question: str, max_new_tokens: int) -> Session:
    """Put a question with the session's boxes. A question that cannot be put leaves all as it was, with a message."""
    question = question.strip()
    if session.scene is None:
        return replace(session, message="Choose a picture first.")
    if not question:
        return replace(session, message="Write a question first.")
    try:
        check_question(question, session.boxes, "draw one on the picture")
        answer = session.scene.chat(
            question, history=list(session.history), boxes=session.boxes, max_new_tokens=max_new_tokens
        )
    except (HarnessError, ValueError) as error:
        return replace(session, message=" ".join(str(error).split()))
    turn = Turn(question, session.boxes, answer)
    return Session(session.image, session.scene, (*session.turns, turn), tuple(session.scene.history))


def picture(session: Session) -> Image | None:
    """The picture as shown, with the boxes for the next question and the first corner of one begun."""
    from PIL import Image, ImageDraw

    if session.image is None:
        return None
    factor = scale(session)
    width, height = (max(1, round(side * factor)) for side in session.image.size)
    image = session.image.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(width, height) / 240))
    # White around black, to be seen on any background.
    for x1, y1, x2, y2 in session.boxes:
        corners = (x1 * width, y1 * height, max(x2 * width - 1, x1 * width), max(y2 * height - 1, y1 * height))
        draw.rectangle(corners, outline=(255, 255, 255), width=3 * line)
        inner = [c + line * sign for c, sign in zip(corners, (1, 1, -1, -1))]
        if inner[0] < inner[2] and inner[1] < inner[3]:
            draw.rectangle(inner, outline=(0, 0, 0), width=line)
    if session.corner is not None:
        x, y = (value * factor for value in session.corner)
        reach = 8 * line
        for colour, thick in (((255, 255, 255), 3 * line), ((0, 0, 0), line)):
            draw.line((x - reach, y, x + reach, y), fill=colour, width=thick)
            draw.line((x, y - reach, x, y + reach), fill=colour, width=thick)
    return image


def answer_picture(session: Session) -> Image | None:
    """The last answer drawn on the picture: phrases, boxes and labels in matching colours."""
    if session.image is None or not session.turns:
        return None
    return draw_grounded(session.image, session.turns[-1].answer, session.turns[-1].boxes)


def message_html(session: Session) -> str:
    """The session's message, escaped."""
    return f'<p role="status">{html.escape(printable(session.message))}</p>' if session.message else ""


def conversation_html(session: Session) -> str:
    """The conversation as HTML: phrases on the colours of their boxes; everything else is escaped text."""
    if not session.turns:
        return "<p>No question yet.</p>"
    return "\n".join(_turn_html(turn, session.image.size) for turn in session.turns)


def _turn_html(turn: Turn, size: tuple[int, int]) -> str:
    boxes = "".join(f" <small>[{_corners(box, size)}]</small>" for box in turn.boxes)
    question = f"<p><b>You:</b> {html.escape(printable(turn.question))}{boxes}</p>"
    return f"{question}\n<p><b>Groma:</b> {answer_html(turn.answer, size)}</p>"


def answer_html(grounded: GroundedText, size: tuple[int, int]) -> str:
    """An answer with each phrase on its colour; boxes of no phrase are numbered as they are in the drawing."""
    pieces: list[tuple[int, int, str]] = []  # start, end, mark
    number = 0
    for index, span in enumerate(grounded.spans):
        if printable(span.phrase).strip():
            pieces.append((span.start, span.end, _mark(grounded.text[span.start : span.end], index, span.boxes, size)))
        else:
            marks = []
            for box in span.boxes:
                number += 1
                marks.append(_mark(str(number), index, [box], size))
            pieces.append((span.end, span.end, "".join(marks)))
    found, position = [], 0
    for begin, end, mark in sorted(pieces, key=lambda piece: piece[:2]):
        if begin >= position:  # of overlapping spans the first one counts, as in the drawing
            found += [_escaped(grounded.text[position:begin]), mark]
            position = end
    found.append(_escaped(grounded.text[position:]))
    in_spans = {tuple(box) for span in grounded.spans for box in span.boxes}
    for box in dict.fromkeys(tuple(box) for box in grounded.boxes):
        if box not in in_spans:
            number += 1
            found.append(_mark(str(number), len(grounded.spans) + number - 1, [box], size))
    return "".join(found).strip() or "<i>(no answer)</i>"


def _mark(text: str, index: int, boxes: Any, size: tuple[int, int]) -> str:
    colour = "#{:02x}{:02x}{:02x}".format(*COLOURS[index % len(COLOURS)])
    style = f"background:{colour};color:#fff;border-radius:4px;padding:0 4px;margin-right:2px"
    title = "; ".join(_corners(box, size) for box in boxes)
    return f'<mark style="{style}" title="{title}">{_escaped(text)}</mark>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _corners(box: Box, size: tuple[int, int]) -> str:
    """A box in whole pixels of the picture."""
    return ",".join(str(round(value * side)) for value, side in zip(box, (*size, *size)))
