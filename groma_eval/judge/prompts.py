"""What a judge is sent: the messages of LLaVA's review scripts, to the letter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.core import HarnessError, Question

Messages = list[dict[str, Any]]  # the content is text, or a list of parts where a picture belongs to it

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


def review_messages(question: Question, answer: str) -> Messages:
    """System and user message that ask for a review of ``answer``: the reference stands first, ``answer`` second.

    The question's target holds ``context``, ``answer`` (the reference) and ``judge`` (``role`` and ``prompt``), as the
    reader ``llava_jsonl`` puts them there. The form is that of LLaVA's ``eval_gpt_review_visual.py`` and
    ``eval_gpt_review_bench.py``, which differ in the context alone.

    Raises:
        HarnessError: the target lacks one of the three.
    """
    target = question.target
    for field in ("context", "answer", "judge"):
        if field not in target:
            raise HarnessError(
                f"question '{question.id}' has no '{field}' to be judged by; the card's data must name 'context', "
                "'answers' and 'judge_rules'"
            )
    role = target["judge"]["role"]
    parts = [f"[Context]\n{target['context']}", f"[Question]\n{question.text}"]
    parts += [
        f"[{role} {number}]\n{text}\n\n[End of {role} {number}]"
        for number, text in ((1, target["answer"]), (2, answer))
    ]
    parts.append(f"[System]\n{target['judge']['prompt']}")
    content = "".join(part + "\n\n" for part in parts)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def content_hash(messages: Sequence[Mapping[str, str]]) -> str:
    """Which question, answer, reference, context and rule a review is of: 32 hexadecimal digits."""
    return _hash(list(messages))


def call_key(messages: Sequence[Mapping[str, str]], model: str, decoding: Mapping[str, Any], attempt: int) -> str:
    """The key under which a judge's answer is kept: judge model, messages, decoding settings and attempt (from 1)."""
    return _hash([model, list(messages), dict(decoding), attempt])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
