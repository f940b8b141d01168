"""The English (Porter 2) stemmer of Snowball as METEOR 1.5 has it: the rules of 2010.

Later releases of Snowball changed some of them ("added" gives "add" now, it gave "ad"), which changes METEOR scores;
so the rules are fixed here. The algorithm: M. F. Porter and R. Boulton, "The English (Porter2) stemming algorithm".
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

_VOWELS = frozenset("aeiouy")
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_LI_ENDINGS = frozenset("cdeghkmnrt")
_WHOLE = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
} | {word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")}
_WHOLE_AFTER_PLURAL = frozenset(("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"))
# Suffixes and what replaces them; the longest that a word has is the one that counts.
_STEP_2 = {
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "abli": "able",
    "entli": "ent",
    "izer": "ize",
    "ization": "ize",
    "ational": "ate",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "aliti": "al",
    "alli": "al",
    "fulness": "ful",
    "ousli": "ous",
    "ousness": "ous",
    "iveness": "ive",
    "iviti": "ive",
    "biliti": "ble",
    "bli": "ble",
    "ogi": "og",
    "fulli": "ful",
    "lessli": "less",
    "li": "",
}
_STEP_3 = {
    "tional": "tion",
    "ational": "ate",
    "alize": "al",
    "icate": "ic",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
    "ative": "",
}
# fmt: off
_STEP_4 = frozenset((
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous", "ive",
    "ize", "ion",
))
# fmt: on


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a lower-case ``word``; words of one or two letters are their own stem."""
    if len(word) <= 2:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    word = _mark_consonant_y(word.removeprefix("'"))
    r1, r2 = _regions(word)
    word = _strip_plural(_strip_apostrophe(word))
    if word not in _WHOLE_AFTER_PLURAL:
        word = _strip_past(word, r1)
        if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
            word = word[:-1] + "i"
        word = _step_2(word, r1)
        word = _step_3(word, r1, r2)
        word = _step_4(word, r2)
        word = _step_5(word, r1, r2)
    return word.replace("Y", "y")


def _mark_consonant_y(word: str) -> str:
    """``Y`` for each y that is a consonant: at the start, or after a vowel."""
    if "y" not in word:
        return word
    letters = list(word)
    for at, letter in enumerate(letters):
        if letter == "y" and (at == 0 or letters[at - 1] in _VOWELS):
            letters[at] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Where R1 and R2 begin: after the first consonant that follows a vowel, and the same again within R1."""
    prefix = next((p for p in ("gener", "commun", "arsen") if word.startswith(p)), "")
    r1 = len(prefix) or _after_vowel_and_consonant(word, 0)
    return r1, _after_vowel_and_consonant(word, r1)


def _after_vowel_and_consonant(word: str, start: int) -> int:
    for at in range(start + 1, len(word)):
        if word[at] not in _VOWELS and word[at - 1] in _VOWELS:
            return at + 1
    return len(word)


def _has_vowel(text: str) -> bool:
    return not _VOWELS.isdisjoint(text)


def _ends_in_short_syllable(word: str) -> bool:
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    if len(word) < 2:
        return False
    return word[-1] not in _VOWELS and word[-1] not in "wxY" and word[-2] in _VOWELS and word[-3] not in _VOWELS


def _strip_apostrophe(word: str) -> str:
    return next((word[: -len(end)] for end in ("'s'", "'s", "'") if word.endswith(end)), word)


def _strip_plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _has_vowel(word[:-2]):
        return word[:-1]
    return word


def _strip_past(word: str, r1: int) -> str:
    for end in ("eedly", "eed"):
        if word.endswith(end):
            return word[: len(word) - len(end) + 2] if len(word) - len(end) >= r1 else word
    end = next((end for end in ("ingly", "edly", "ing", "ed") if word.endswith(end)), "")
    if not end or not _has_vowel(word[: -len(end)]):
        return word
    word = word[: -len(end)]
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if word.endswith(_DOUBLES):
        return word[:-1]
    # A short word, one without R1 that ends in a short syllable, gets its e back.
    return word + "e" if r1 >= len(word) and _ends_in_short_syllable(word) else word


def _longest_suffix(word: str, suffixes: Collection[str], longest: int, shortest: int) -> str:
    for size in range(min(longest, len(word)), shortest - 1, -1):
        if word[-size:] in suffixes:
            return word[-size:]
    return ""


def _step_2(word: str, r1: int) -> str:
    end = _longest_suffix(word, _STEP_2, 7, 2)
    before = len(word) - len(end)
    if not end or before < r1:
        return word
    if end == "ogi" and word[before - 1 : before] != "l":
        return word
    if end == "li" and word[before - 1 : before] not in _LI_ENDINGS:
        return word
    return word[:before] + _STEP_2[end]


def _step_3(word: str, r1: int, r2: int) -> str:
    end = _longest_suffix(word, _STEP_3, 7, 3)
    before = len(word) - len(end)
    if not end or before < (r2 if end == "ative" else r1):
        return word
    return word[:before] + _STEP_3[end]


def _step_4(word: str, r2: int) -> str:
    end = _longest_suffix(word, _STEP_4, 5, 2)
    before = len(word) - len(end)
    if not end or before < r2 or (end == "ion" and word[before - 1 : before] not in ("s", "t")):
        return word
    return word[:before]


def _step_5(word: str, r1: int, r2: int) -> str:
    at = len(word) - 1
    if word.endswith("e") and (at >= r2 or (at >= r1 and not _ends_in_short_syllable(word[:-1]))):
        return word[:-1]
    if word.endswith("ll") and at >= r2:
        return word[:-1]
    return word
