"""Parts of a benchmark in which two runs may differ: by the question's words, the target's size, its kind, and so on.

A breakdown is a name with labelled sets of question ids. Which there are depends on what the samples carry; one that
would have a single part is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groma_eval.metrics.as_many import LARGE, SMALL
from groma_eval.statistics.stored import Item, StoredBenchmark

MOST_CATEGORIES = 10  # the commonest; the rest stand together
_LENGTHS = ((1, 2), (3, 4), (5, 8), (9, None))  # words
_FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
_RELATIONS = re.compile(
    r"\b(next to|beside|near|nearest|closest|close to|behind|in front of|between|above|below|under|underneath|over|"
    r"on top of|inside|outside|around|against|opposite|along|across|(?:left|right) of|touching|facing|holding|wearing|"
    r"riding|with)\b"
)
_PLACES = re.compile(
    r"\b(left|right|top|bottom|middle|center|centre|upper|lower|corner|edge|side|front|back|far|leftmost|rightmost|"
    r"topmost|highest|lowest|first|second|third|fourth|last)\b"
)


@dataclass(frozen=True)
class Part:
    """One part of a breakdown and the ids of its questions."""

    label: str
    ids: frozenset[str]


@dataclass(frozen=True)
class Breakdown:
    """``note`` says how the parts are cut."""

    name: str
    note: str
    parts: tuple[Part, ...]


def breakdowns(stored: StoredBenchmark) -> list[Breakdown]:
    """Every breakdown that the samples of a benchmark allow."""
    made = [
        _of("group", "the benchmark's own groups", _groups(stored.items)),
        _of("expression length", "words of the phrase or question", _lengths(stored.items)),
        _of(
            "relation words",
            "relation: names another object by its relation; place: a place or rank alone; neither",
            _words(stored.items),
        ),
        _areas(stored.items),
        _of(
            "category", f"the target's category; beyond the {MOST_CATEGORIES} commonest together", _kinds(stored.items)
        ),
        _of(
            "same-class distractors", "other objects of the target's category in its image", _distractors(stored.items)
        ),
        _of("frequency", "of the category in training images, as LVIS has it", _frequencies(stored.items)),
    ]
    return [found for found in made if len(found.parts) > 1]


def _of(name: str, note: str, labelled: Sequence[tuple[str, str]]) -> Breakdown:
    """From (label, question id) pairs, in the order in which parts are to be shown."""
    parts: dict[str, set[str]] = {}
    for label, key in labelled:
        parts.setdefault(label, set()).add(key)
    return Breakdown(name, note, tuple(Part(label, frozenset(ids)) for label, ids in parts.items()))


def _groups(items: Sequence[Item]) -> list[tuple[str, str]]:
    if any(_frequency(item) for item in items):  # LVIS-Ground's group is the frequency, which has its own
        return []
    pairs = [(name, i.question.id) for i in items for name in (i.question.group or "").split("/") if name]
    return sorted(pairs)


def _lengths(items: Sequence[Item]) -> list[tuple[str, str]]:
    pairs = []
    for low, high in _LENGTHS:
        label = f"{low} or more" if high is None else f"{low}-{high}"
        for item in items:
            count = len((item.question.text or "").split())
            if count >= low and (high is None or count <= high):
                pairs.append((label, item.question.id))
    return pairs


def _words(items: Sequence[Item]) -> list[tuple[str, str]]:
    pairs: dict[str, list[tuple[str, str]]] = {"relation": [], "place": [], "neither": []}
    for item in items:
        if item.question.kind == "ground_one" and item.question.text:
            text = item.question.text.lower()
            label = "relation" if _RELATIONS.search(text) else "place" if _PLACES.search(text) else "neither"
            pairs[label].append((label, item.question.id))
    return [pair for part in pairs.values() for pair in part]


def _areas(items: Sequence[Item]) -> Breakdown:
    """By the true box where a question has one (the box asked about where it has none), in pixels or in thirds."""
    sized = [(item, share) for item in items if (share := _share(item)) is not None]
    name = "box area"
    if sized and all(item.sample.width > 1 and item.sample.height > 1 for item, _ in sized):
        pixels = [(item, _pixels(item, share)) for item, share in sized]
        bounds = (("small", 0.0, SMALL), ("medium", SMALL, LARGE), ("large", LARGE, np.inf))
        pairs = [(n, i.question.id) for n, low, high in bounds for i, area in pixels if low <= area < high]
        return _of(name, "COCO's sizes: below 32^2 pixels of the original, below 96^2, above", pairs)
    pairs = []
    if sized:
        cuts = np.quantile([share for _, share in sized], [1 / 3, 2 / 3])
        order = np.searchsorted(cuts, [share for _, share in sized])
        labels = ("smallest third", "middle third", "largest third")
        pairs = [(labels[n], i.question.id) for n in range(3) for (i, _), at in zip(sized, order) if at == n]
    return _of(name, "thirds by share of the image, as the images' sizes are not known", pairs)


def _share(item: Item) -> float | None:
    boxes = item.question.target.get("boxes") or ([item.question.box] if item.question.box else [])
    if len(boxes) != 1:
        return None
    x1, y1, x2, y2 = boxes[0]
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def _pixels(item: Item, share: float) -> float:
    areas = item.question.target.get("areas")
    return float(areas[0]) if areas else share * item.sample.width * item.sample.height


def _category(item: Item) -> str | None:
    """The target's category: a name, or the words asked for where there is a number only."""
    category = item.question.target.get("category")
    if category is None or item.question.kind == "converse":  # there it is the kind of question, as the group is
        return None
    return str(item.question.text or category) if item.question.kind == "ground_all" else str(category)


def _kinds(items: Sequence[Item]) -> list[tuple[str, str]]:
    named = [(category, item.question.id) for item in items if (category := _category(item)) is not None]
    counts = Counter(category for category, _ in named)
    common = [category for category, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:MOST_CATEGORIES]]
    pairs = [pair for category in common for pair in named if pair[0] == category]
    return pairs + [("others", key) for category, key in named if category not in common]


def _distractors(items: Sequence[Item]) -> list[tuple[str, str]]:
    boxes: dict[tuple[str, str], set[tuple[float, ...]]] = defaultdict(set)
    for item in items:
        if (category := _category(item)) is not None:
            boxes[item.sample.image_id, category] |= {tuple(box) for box in item.question.target.get("boxes", ())}
    labelled = []
    for item in items:
        stated = item.question.target.get("distractors")
        category = _category(item)
        if isinstance(stated, int):
            count = stated
        elif category is not None and item.question.target.get("boxes"):
            count = len(boxes[item.sample.image_id, category]) - 1
        else:
            continue
        labelled.append((min(count, 3), item.question.id))
    names = {0: "none", 1: "1", 2: "2", 3: "3 or more"}
    return [(names[count], key) for count, key in sorted(labelled, key=lambda pair: pair[0])]


def _frequency(item: Item) -> str | None:
    return _FREQUENCIES.get(str(item.question.target.get("frequency")))


def _frequencies(items: Sequence[Item]) -> list[tuple[str, str]]:
    return [(name, i.question.id) for name in _FREQUENCIES.values() for i in items if _frequency(i) == name]
