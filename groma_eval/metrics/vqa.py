"""Short-answer scoring: strict, documented, no judge model.

An answer is right when, after :func:`normalise_answer`, it equals the expected answer or one of the accepted others, or
gives it in one of two plain sentence forms: first word for yes/no, last words for anything else ("The circle is red.").
Matching a word *anywhere* in the answer is never enough: it would reward naming everything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# fmt: off
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
# fmt: on
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset({"a", "an", "the"})
_MARKUP = re.compile(r"<[^<>]*>")
_NEGATIONS = frozenset({"not", "no", "never", "neither", "nor"})


def normalise_answer(text: str) -> str:
    """Lower-case words of ``text`` without markup (``<...>``), punctuation and articles; number words as digits.

    Apostrophes are dropped ("isn't" -> "isnt"), other punctuation separates words, but a decimal point stays in its
    number.
    """
    text = _MARKUP.sub(" ", text).lower().replace("'", "").replace("’", "")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    words = re.findall(r"\d+\.\d+|[^\W_]+", text)
    words = [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(words)


def match_answer(text: str, answer: str, accept: Iterable[str] = ()) -> bool:
    """Whether ``text`` answers ``answer`` (or one of ``accept``); see the module's docstring for the rule.

    - The normalised texts are equal.
    - Expected "yes" or "no": the first word decides ("Yes, there is one.").
    - Expected a number: the text is equal to it, or names no other number and begins or ends with it
      ("There are 3.", "3 circles").
    - Else: the text ends with the expected words ("It is dark blue.") and does not deny them just before
      ("is not red").
    """
    said = normalise_answer(text).split()
    return any(_matches(said, normalise_answer(candidate).split()) for candidate in (answer, *accept))


def _matches(said: list[str], wanted: list[str]) -> bool:
    if not said or not wanted:
        return False
    if said == wanted:
        return True
    if wanted in (["yes"], ["no"]):
        return said[0] == wanted[0]
    if len(wanted) == 1 and wanted[0].isdigit():
        numbers = {word for word in said if word.isdigit()}
        return numbers == set(wanted) and wanted[0] in (said[0], said[-1])
    ends = said[-len(wanted) :] == wanted
    return ends and not _NEGATIONS.intersection(said[-len(wanted) - 2 : -len(wanted)])


def exact_match(text: str, answer: str, accept: Iterable[str] = ()) -> bool:
    """Whether ``text`` is ``answer`` (or one of ``accept``), both normalised, and nothing more."""
    said = normalise_answer(text)
    return any(said == normalise_answer(candidate) for candidate in (answer, *accept))


def token_f1(text: str, answer: str, accept: Iterable[str] = ()) -> float:
    """Word overlap with ``answer`` or one of ``accept``, the best, in [0, 1]: F1 as in SQuAD (Rajpurkar et al., 2016).

    The harmonic mean of the shares of words that both normalised texts have, repeated words as often as both have
    them. Where one of the texts has no words, 1 if both have none, else 0.
    """
    said = Counter(normalise_answer(text).split())
    return max(_overlap(said, Counter(normalise_answer(candidate).split())) for candidate in (answer, *accept))


def _overlap(said: Counter[str], wanted: Counter[str]) -> float:
    words = said.total() + wanted.total()
    return 2 * (said & wanted).total() / words if words else 1.0


def facts_score(text: str, facts: Sequence[str | Sequence[str]] | Mapping[str, str]) -> float:
    """Share in [0, 1] of ``facts`` named in ``text``; 0 where there are none.

    A fact is a phrase, or a list of alternatives of which one must occur; it is named when its normalised words occur
    in the normalised text in sequence. A mapping's values are taken.
    """
    wanted = list(facts.values()) if isinstance(facts, Mapping) else list(facts)
    if not wanted:
        return 0.0
    said = f" {normalise_answer(text)} "
    named = 0
    for fact in wanted:
        options = [fact] if isinstance(fact, str) else list(fact)
        phrases = [normalise_answer(option) for option in options]
        named += any(phrase and f" {phrase} " in said for phrase in phrases)
    return named / len(wanted)
