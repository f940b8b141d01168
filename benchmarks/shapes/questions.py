"""Questions with known answers: attributes, existence, counting, relations, descriptions; some as dialogues.

``evidence`` holds groups of objects that an answer rests on, to be pointed at before it is given. A group may be empty:
"there is none" is found by looking for it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .language import (
    NUMBERS,
    RELATION_GAP,
    RELATIONS,
    at,
    describe,
    holds,
    matching,
    natural,
    noun_phrase,
    relation_parts,
    unique_descriptions,
    with_article,
)
from .world import COLOURS, PATTERNS, SHAPES, SIZES, Rng, Scene, Thing

WORD = {"colour": "color", "shape": "shape", "size": "size", "pattern": "pattern"}
VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "pattern": PATTERNS}
Row = dict[str, Any]


def _ask(attribute: str, subject: str) -> str:
    if attribute == "pattern":
        return f"what pattern does {subject} have?"
    return f"what {WORD[attribute]} is {subject}?"


def _row(kind: str, category: str, text: str, answer: str, evidence: list[list[Thing]], **more: Any) -> Row:
    return {"type": kind, "category": category, "text": text, "answer": answer, "accept": [], "history": [],
            "box": None, "evidence": [[list(t.box) for t in group] for group in evidence]} | more  # fmt: skip


def attribute(scene: Scene, rng: Rng) -> Row | None:
    """``what color is the star?``; a third as dialogues, some about the user's box."""
    thing, asked = rng.pick(scene.things), rng.pick(tuple(WORD))
    answer = getattr(thing, asked)
    way = rng.below(6)
    if way == 0:
        return _row(
            "attribute", "conversation", _ask(asked, "this object <box>"), answer, [[thing]], box=list(thing.box)
        )
    if way == 1:
        history = [["what is this <box>?", with_article(thing.shape)]]
        if asked == "shape":
            return None
        return _row(
            "attribute", "conversation", _ask(asked, "it"), answer, [[thing]], history=history, box=list(thing.box)
        )
    names = tuple(n for n in ("size", "colour", "pattern", "shape") if n != asked)
    known = natural(rng, unique_descriptions(scene, thing, names))
    if known is None:
        return None
    subject = f"the {noun_phrase(known)}"
    if way == 2:
        first = rng.pick([n for n in names if n not in known] or [None])
        if first is not None:
            history = [[_ask(first, subject), getattr(thing, first)]]
            return _row("attribute", "conversation", _ask(asked, "it"), answer, [[thing]], history=history)
    return _row("attribute", "conversation", _ask(asked, subject), answer, [[thing]])


def existence(scene: Scene, rng: Rng) -> Row | None:
    """``is there a red star?``: as often no as yes, and a no shares attributes with what is there."""
    thing = rng.pick(scene.things)
    names = rng.pick((("colour", "shape"), ("colour", "shape"), ("size", "shape"), ("pattern", "shape")))
    wanted = describe(thing, names)
    if rng.chance(50):
        changed = rng.pick(names)
        wanted[changed] = rng.pick([v for v in VALUES[changed] if v != wanted[changed]])
        if matching(scene, wanted):
            return None
        return _row("existence", "conversation", f"is there {with_article(noun_phrase(wanted))}?", "no", [[]])
    return _row("existence", "conversation", f"is there {with_article(noun_phrase(wanted))}?", "yes",
                [_ordered(matching(scene, wanted))])  # fmt: skip


def counting(scene: Scene, rng: Rng) -> Row | None:
    """``how many stars are there?``, with common counts thinned out."""
    thing = rng.pick(scene.things)
    wanted = describe(thing, rng.pick((("shape",), ("colour",), ("colour", "shape"), ("size",), ("pattern",))))
    if rng.chance(14):
        name = rng.pick(tuple(wanted))
        wanted[name] = rng.pick(VALUES[name])
    found = _ordered(matching(scene, wanted))
    if len(found) == 1 and not rng.chance(40):
        return None
    number = len(found)
    return _row("counting", "reasoning", f"how many {noun_phrase(wanted, plural=True)} are there?", NUMBERS[number],
                [found], accept=[str(number)])  # fmt: skip


def relation(scene: Scene, rng: Rng) -> Row | None:
    """``is the red circle left of the blue star?`` or ``what color is the object left of the star?``."""
    thing = rng.pick(scene.things)
    if rng.chance(40):
        parts = relation_parts(scene, thing, rng)
        if parts is None:
            return None
        known, word, anchor, other = parts
        asked = rng.pick([n for n in WORD if n not in known])
        text = _ask(asked, f"the {noun_phrase(known)} {word} the {noun_phrase(anchor)}")
        return _row("relation", "reasoning", text, getattr(thing, asked), [[other], [thing]])
    other = rng.pick(scene.things)
    if other is thing:
        return None
    known = natural(rng, [d for d in unique_descriptions(scene, thing) if "shape" in d])
    anchor = natural(rng, [d for d in unique_descriptions(scene, other) if "shape" in d])
    word = rng.pick(tuple(RELATIONS))
    distance = holds(thing, other, word)
    if known is None or anchor is None or abs(distance) < RELATION_GAP:
        return None
    text = f"is the {noun_phrase(known)} {word} the {noun_phrase(anchor)}?"
    return _row("relation", "reasoning", text, "yes" if distance > 0 else "no",
                [[other], [thing] if distance > 0 else []])  # fmt: skip


def description(scene: Scene, rng: Rng) -> Row | None:
    """``describe the star in detail.``: scored by the five facts."""
    thing = rng.pick(scene.things)
    known = natural(rng, unique_descriptions(scene, thing))
    if known is None:
        return None
    answer = f"{with_article(f'{thing.size} {thing.colour} {thing.pattern} {thing.shape}')} {at(thing.location)}"
    facts = [thing.size, thing.colour, thing.pattern, thing.shape, thing.location]
    return _row(
        "description", "detail", f"describe the {noun_phrase(known)} in detail.", answer, [[thing]], facts=facts
    )


KINDS: dict[str, Callable[[Scene, Rng], Row | None]] = {
    "attribute": attribute,
    "existence": existence,
    "counting": counting,
    "relation": relation,
    "description": description,
}


def _ordered(things: list[Thing]) -> list[Thing]:
    return sorted(things, key=lambda t: (t.box[0], t.box[1]))
