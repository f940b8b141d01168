"""Yes/no sets on object hallucination (POPE: Li et al., EMNLP 2023), read and counted as LLaVA's ``eval_pope.py`` does.

"Yes" is the positive class. All values are shares from 0 to 1; higher is better, but for the yes-ratio, which is best
where it equals the labels' own (0.5 in POPE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groma_eval.core import HarnessError

_NEGATIVE = frozenset({"No", "not", "no"})


def read_yes_no(text: str) -> str:
    """``"no"`` where the first sentence has the word "No", "no" or "not", else ``"yes"``.

    The first sentence is what stands before the first full stop; commas are dropped, words are what single blanks
    separate, and case counts ("NO" and "isn't" are no such words). So an empty answer reads as "yes".
    """
    sentence = text.strip().split(".", 1)[0]
    return "no" if _NEGATIVE.intersection(sentence.replace(",", "").split(" ")) else "yes"


def read_label(label: str) -> str:
    """A label as ``"yes"`` or ``"no"``; HarnessError where it is neither."""
    normal = label.strip().lower()
    if normal not in ("yes", "no"):
        raise HarnessError(f"label '{label}' is neither yes nor no")
    return normal


def score_yesno(
    answers: Mapping[str, str | None], labels: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """``accuracy``, ``precision``, ``recall``, ``f1`` and ``yes_ratio`` over all ``labels``, and each item's outcome.

    Args:
        answers: a model's text by question id. A question without an answer (no entry, or None) is wrong: it counts
            as the other of the two, and as no "yes" in the yes-ratio.
        labels: ``"yes"`` or ``"no"`` by question id.

    Returns:
        The metrics, where nothing of nothing is 0 (no "yes" was answered, say), and by question id ``{"answer": "yes",
        "no" or None, "label", "correct": 0 or 1}``.

    Raises:
        HarnessError: no labels, or one that is neither yes nor no.
    """
    if not labels:
        raise HarnessError("no yes/no questions to score")
    items: dict[str, dict[str, Any]] = {}
    for key, label in labels.items():
        text, wanted = answers.get(key), read_label(label)
        said = None if text is None else read_yes_no(text)
        items[key] = {"answer": said, "label": wanted, "correct": int(said == wanted)}
    right = {kind: sum(i["correct"] for i in items.values() if i["label"] == kind) for kind in ("yes", "no")}
    total = {kind: sum(i["label"] == kind for i in items.values()) for kind in ("yes", "no")}
    precision = _share(right["yes"], right["yes"] + total["no"] - right["no"])
    recall = _share(right["yes"], total["yes"])
    metrics = {
        "accuracy": (right["yes"] + right["no"]) / len(items),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": sum(i["answer"] == "yes" for i in items.values()) / len(items),
    }
    return metrics, items


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
