"""Tasks: what turns a benchmark's questions and a model's predictions into scores.

A task is ``score(samples, predictions, regions, rules) -> TaskResult``: ``predictions`` by question id, ``regions``
(:class:`groma_eval.tasks.common.Regions`) by image id where the model exposes proposals, ``rules`` from the card's
protocol. Every question is scored exactly once; what is missing, failed or unparsed counts as an empty answer.
"""

from __future__ import annotations

from collections.abc import Callable

from groma_eval.core import TaskResult
from groma_eval.tasks import caption, grounding, proposals, rec, vqa
from groma_eval.tasks.common import Regions

__all__ = ["ABOUT", "TASKS", "Regions"]

TASKS: dict[str, Callable[..., TaskResult]] = {
    "rec": rec.score,
    "grounding": grounding.score,
    "caption": caption.score,
    "vqa": vqa.score,
    "proposals": proposals.score,
}
ABOUT = {
    "rec": "referring expression comprehension: a phrase, one box",
    "grounding": "every instance of a category (LVIS-Ground)",
    "caption": "text for a region, or a scene caption whose phrases are tied to boxes",
    "vqa": "questions and dialogues with known answers",
    "proposals": "class-agnostic AP and AR of the region proposals alone",
}
