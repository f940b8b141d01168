"""Phrases tied to boxes in grounded captions, and attributes named in region captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groma_eval.metrics.boxes import TIE, as_boxes, iou_matrix

# Words that carry no content of their own in a noun phrase: articles, quantities, connectives.
# fmt: off
_EMPTY_WORDS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "some", "several", "many", "few", "both", "all",
    "each", "every", "another", "other", "one", "two", "three", "four", "five", "six", "seven", "eight",
    "nine", "ten", "eleven", "twelve", "and", "of", "with", "in", "on", "at",
})
# fmt: on
_KEEP_S = ("ss", "us", "is")


def content_words(phrase: str) -> frozenset[str]:
    """Lower-case content words of a phrase: without articles, numbers and connectives, plurals made singular.

    The singular is made by rule, the same on both sides: "-ies" -> "-y", "-shes/-ches/-xes/-sses/-zes" lose "es", else
    a final "s" goes, but for "-ss", "-us", "-is".
    """
    words = re.findall(r"[^\W\d_]+", phrase.lower())
    return frozenset(_singular(word) for word in words if word not in _EMPTY_WORDS)


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(_KEEP_S):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses", "zes")):
        return word[:-2]
    return word[:-1]


def phrase_scores(
    pred_phrases: Sequence[Mapping[str, Any]], gt_phrases: Sequence[Mapping[str, Any]], iou: float = 0.5
) -> dict[str, int]:
    """Right phrase-box pairs of a grounded caption: ``tp``, ``n_pred``, ``n_gt`` (pool over captions for P, R, F1).

    Both sides are ``{"phrase": str, "boxes": [xyxy, ...]}`` in one frame; a phrase with several boxes makes as many
    pairs. A predicted pair is right when a true pair, not matched yet, has the same set of content words
    (:func:`content_words`) and IoU >= ``iou``; in order of emission, each takes the best such pair.
    """
    predicted = _pairs(pred_phrases)
    wanted = _pairs(gt_phrases)
    ious = iou_matrix(as_boxes([box for _, box in predicted]), as_boxes([box for _, box in wanted]))
    free = np.ones(len(wanted), dtype=bool)
    right = 0
    for row, (words, _) in enumerate(predicted):
        fits = free & np.array([words == other for other, _ in wanted], dtype=bool)
        overlaps = np.where(fits, ious[row], -1.0)
        if len(wanted) and overlaps.max() >= iou - TIE:
            free[int(overlaps.argmax())] = False
            right += 1
    return {"tp": right, "n_pred": len(predicted), "n_gt": len(wanted)}


def _pairs(phrases: Sequence[Mapping[str, Any]]) -> list[tuple[frozenset[str], Sequence[float]]]:
    return [(content_words(item["phrase"]), box) for item in phrases for box in item["boxes"]]


def attribute_scores(
    text: str, attributes: Mapping[str, str], vocabulary: Mapping[str, Sequence[str]]
) -> dict[str, bool]:
    """Whether a caption names each attribute right: ``{name: bool}`` for every key of ``attributes``.

    ``vocabulary`` lists the values an attribute may take. Values are found as whole words, case and hyphens aside, a
    plural "s" allowed; longer values win over shorter ones inside them, so "top" is not named by "top left". An
    attribute is right when its value is the only value of it that is named: naming two names neither.
    """
    words = re.findall(r"[^\W_]+", text.lower())
    return {
        name: _named(words, [*vocabulary.get(name, ()), value]) == {_norm(value)} for name, value in attributes.items()
    }


def _norm(value: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", value.lower()))


def _named(words: Sequence[str], values: Sequence[str]) -> set[tuple[str, ...]]:
    """The values that occur in ``words``, scanning left to right and taking the longest value at each place."""
    options = sorted({_norm(value) for value in values}, key=len, reverse=True)
    found: set[tuple[str, ...]] = set()
    at = 0
    while at < len(words):
        hit = next((o for o in options if o and _same(words[at : at + len(o)], o)), None)
        if hit:
            found.add(hit)
        at += len(hit) if hit else 1
    return found


def _same(words: Sequence[str], option: tuple[str, ...]) -> bool:
    return len(words) == len(option) and all(w in (o, o + "s") for w, o in zip(words, option))
