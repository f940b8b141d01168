"""What is said about a scene: descriptions, expressions that single one object out, and captions.

Every expression is built from a claim that is evaluated over the scene before it is used, so that it holds for exactly
one object, with a margin: places are clear of the cells' borders, superlatives lead by ``SUPERLATIVE_GAP`` pixels and a
relation holds by ``RELATION_GAP`` for the object meant and fails clearly for every other that is described alike.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

from .world import Rng, Scene, Thing

SUPERLATIVE_GAP = 12  # pixels between the extreme object and the runner-up
RELATION_GAP = 16  # pixels between the centres along the relation's axis
ATTRIBUTES = ("size", "colour", "pattern", "shape")  # in the order they are said
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis, direction
SUPERLATIVES = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}
PREPOSITION = {"center": "in the center", "left": "on the left", "right": "on the right"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

Description = dict[str, str]


def matching(scene: Scene, description: Description) -> list[Thing]:
    """The objects with all these attributes."""
    return [t for t in scene.things if all(getattr(t, name) == value for name, value in description.items())]


def noun_phrase(description: Description, plural: bool = False) -> str:
    """``{"colour": "red", "shape": "star"}`` -> ``red star``; without a shape it is an ``object``."""
    words = [description[name] for name in ATTRIBUTES[:3] if name in description]
    noun = description.get("shape", "object")
    if plural:
        noun += "es" if noun.endswith("ss") else "s"
    return " ".join([*words, noun])


def with_article(phrase: str) -> str:
    """``a`` or ``an``."""
    return f"{'an' if phrase.startswith((*'aeiou', 'hour')) else 'a'} {phrase}"


def at(location: str) -> str:
    """A location as it is said: ``at the top left``, ``on the left``, ``in the center``."""
    return PREPOSITION.get(location, f"at the {location}")


def describe(thing: Thing, names: tuple[str, ...]) -> Description:
    """These attributes of an object."""
    return {name: getattr(thing, name) for name in names}


@lru_cache(maxsize=128)  # asked again for every expression and question of a scene
def unique_descriptions(scene: Scene, thing: Thing, names: tuple[str, ...] = ATTRIBUTES) -> list[Description]:
    """Descriptions that fit this object alone, the shortest first."""
    found = []
    for count in range(1, len(names) + 1):
        for chosen in combinations(names, count):
            description = describe(thing, chosen)
            if len(matching(scene, description)) == 1:
                found.append(description)
    return found


def natural(rng: Rng, descriptions: list[Description]) -> Description | None:
    """One of them, with a liking for those that name the shape and are short."""
    if not descriptions:
        return None
    named = [d for d in descriptions if "shape" in d]
    pool = named if named and not rng.chance(15) else descriptions
    shortest = min(len(d) for d in pool)
    return rng.pick([d for d in pool if len(d) <= shortest + (1 if rng.chance(30) else 0)])


def attribute_expression(scene: Scene, thing: Thing, rng: Rng) -> str | None:
    """``the small red star``."""
    description = natural(rng, unique_descriptions(scene, thing))
    return None if description is None else f"the {noun_phrase(description)}"


def _partial(thing: Thing, rng: Rng) -> Description:
    names = rng.pick((("shape",), ("shape",), ("colour", "shape"), ("colour", "shape"), ("size", "shape"), ("colour",)))
    return describe(thing, names)


def location_expression(scene: Scene, thing: Thing, rng: Rng) -> str | None:
    """``the star at the top left`` or ``the leftmost star``."""
    description = _partial(thing, rng)
    alike = matching(scene, description)
    if rng.chance(30) and len(alike) > 1:
        for word in rng.shuffled(tuple(SUPERLATIVES)):
            axis, direction = SUPERLATIVES[word]
            places = sorted((direction * (t.x, t.y)[axis] for t in alike), reverse=True)
            if places[0] == direction * (thing.x, thing.y)[axis] and places[0] - places[1] >= SUPERLATIVE_GAP:
                return f"the {word} {noun_phrase(description)}"
    if len(alike) > 1 and all(t is thing or _elsewhere(t, thing.location) for t in alike):
        return f"the {noun_phrase(description)} {at(thing.location)}"
    return None


def _elsewhere(thing: Thing, location: str) -> bool:
    """Whether nobody could say that the object is there: "on the left" may also mean the whole left column."""
    return location not in (thing.location, *thing.location.split())


def holds(thing: Thing, anchor: Thing, relation: str) -> float:
    """By how many pixels ``thing`` is left of (...) ``anchor``, centre to centre; negative where it is not."""
    axis, direction = RELATIONS[relation]
    return direction * ((thing.x, thing.y)[axis] - (anchor.x, anchor.y)[axis])


def relation_parts(scene: Scene, thing: Thing, rng: Rng) -> tuple[Description, str, Description, Thing] | None:
    """(description, relation, anchor's description, anchor) that together fit this object alone."""
    for anchor in rng.shuffled(tuple(t for t in scene.things if t is not thing)):
        known = natural(rng, [d for d in unique_descriptions(scene, anchor) if "shape" in d])
        if known is None:
            continue
        description = _partial(thing, rng)
        others = [t for t in matching(scene, description) if t is not thing and t is not anchor]
        if not others:
            continue  # the relation would say nothing that the description does not
        for relation in rng.shuffled(tuple(RELATIONS)):
            clear = all(holds(t, anchor, relation) <= -RELATION_GAP / 2 for t in others)
            if holds(thing, anchor, relation) >= RELATION_GAP and clear:
                return description, relation, known, anchor
    return None


def relation_expression(scene: Scene, thing: Thing, rng: Rng) -> str | None:
    """``the circle left of the blue square``."""
    parts = relation_parts(scene, thing, rng)
    if parts is None:
        return None
    description, relation, known, _ = parts
    return f"the {noun_phrase(description)} {relation} the {noun_phrase(known)}"


EXPRESSIONS = {
    "attribute": attribute_expression,
    "location": location_expression,
    "relation": relation_expression,
}


def region_captions(thing: Thing) -> list[str]:
    """All five facts in three word orders, the canonical one first."""
    full = f"{thing.size} {thing.colour} {thing.pattern} {thing.shape}"
    place = at(thing.location)
    return [
        f"{with_article(full)} {place}",
        f"{place}, {with_article(full)}",
        f"{with_article(f'{thing.size} {thing.colour} {thing.shape}')} that is {thing.pattern}, {place}",
    ]


def scene_caption(scene: Scene, most: int = 6) -> tuple[str, list[tuple[int, int, list[Thing]]]]:
    """A caption and its phrases (start, end, objects), groups of one category from left to right."""
    groups: dict[tuple[str, str], list[Thing]] = {}
    for thing in sorted(scene.things, key=lambda t: t.x):
        groups.setdefault(thing.category, []).append(thing)
    chosen = list(groups.values())[:most]
    text, spans = "there is " if len(chosen[0]) == 1 else "there are ", []
    for i, things in enumerate(chosen):
        if i:
            text += " and " if i == len(chosen) - 1 else ", "
        if len(things) == 1:
            phrase = with_article(noun_phrase(describe(things[0], ("size", "colour", "shape"))))
        else:
            phrase = f"{NUMBERS[len(things)]} {noun_phrase(describe(things[0], ('colour', 'shape')), plural=True)}"
        spans.append((len(text), len(text) + len(phrase), things))
        text += phrase
    return text + ".", spans
