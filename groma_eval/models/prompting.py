"""Prompts of models that write boxes as text: filling templates, and what is said of an answer that was cut off."""

from __future__ import annotations

from groma_eval.box_formats import BoxFormat, Canvas
from groma_eval.core import Question

CUT_OFF = "cut off at max_new_tokens="  # how the error of such an answer begins


def fill(template: str, question: Question, form: BoxFormat | None, canvas: Canvas) -> str:
    """``template`` with the question's ``{text}`` and ``{box}`` in it; the text may name its box ``<box>``.

    Boxes are written in ``form``; a model that has none is not shown any.
    """
    text = (question.text or "").strip()
    box = form.format(question.box, canvas) if form is not None and question.box is not None else ""
    if box:
        text = text.replace("<box>", box)
    # The question's text comes last: what it holds of placeholders is text.
    return template.replace("{box}", box).replace("{text}", text)


def cut_off(limit: int) -> str:
    """What is said of an answer that the token limit ended before it held a box."""
    return f"{CUT_OFF}{limit}; --gen-args max_new_tokens=N gives more"
