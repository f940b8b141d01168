"""The words METEOR 1.5 compares: its ``-norm`` normalisation of English, then lower case.

The steps are those of the Moses tokeniser with METEOR's additions (quotes and dashes made uniform, hyphens inside words
opened, the dots of "U.S." dropped). Where two marks follow each other a substitution uses up the neighbour it looked
at, so that the second mark may stay attached ("a,,b" gives "a", ",", ",b"): that is the tool's behaviour and is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_ALNUM = "0-9" + _ALPHA
_BLANK = " \t\n\r\f"  # what separates words
_SPACES = " \u2000-\u200a\u202f\u205f\u3000\xa0"  # wider spaces, dropped at the end

# Pattern and replacement, in order. The comma and apostrophe rules come in pairs and threes because each takes a
# different pair of neighbours (digit or not, letter or not) and the pairs are tried one after the other.
_STEPS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"([^{_ALNUM}\s.'`,\-‘’])".replace(r"\s", r" \t\n\x0b\f\r"), r" \1 "),
        (r"(\.{2,})", r" \1 "),
        (r"([^0-9]),([^0-9])", r"\1 , \2"),
        (r"([0-9]),([^0-9])", r"\1 , \2"),
        (r"([^0-9]),([0-9])", r"\1 , \2"),
        (r"[`‘’]", "'"),
        (r"[“”]|''", ' " '),
        (r"–", "-"),
        (r"--", "-"),
        (rf"([{_ALNUM}.])-([{_ALNUM}])", r"\1 \2"),
        (rf"([^{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([^{_ALNUM}])'([{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([{_ALPHA}])", r"\1 '\2"),
        (r"([0-9])'(s)", r"\1 '\2"),
    )
]
_LETTER = re.compile(f"[{_ALPHA}]")
_WORD = re.compile(f"[^{_BLANK}]+")
_SPACE = re.compile(f"[{_SPACES}]+")


def meteor_words(text: str, prefixes: Mapping[str, bool]) -> tuple[str, ...]:
    """The normalised lower-case words of ``text``.

    ``prefixes``: abbreviations that keep their full stop ("Mr"); True for those that keep it before a number only.
    """
    if text.isascii() and text.replace(" ", "").isalnum():
        return tuple(text.lower().split())
    text = f" {text} "
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    words = _WORD.findall(text)
    text = " ".join(
        _final_stop(word, words[at + 1] if at + 1 < len(words) else "", prefixes) for at, word in enumerate(words)
    )
    return tuple(_WORD.findall(_SPACE.sub(" ", text).lower()))


def _final_stop(word: str, following: str, prefixes: Mapping[str, bool]) -> str:
    """``word`` with its full stop set apart, kept (an abbreviation) or dropped ("U.S.")."""
    before = word[:-1]
    if not before or word[-1] != "." or before[-1] == ".":  # "..." stays as it is
        return word
    if "." in before and _LETTER.search(before):
        return word.replace(".", "")
    numeric_only = prefixes.get(before)
    if numeric_only is False or "a" <= following[:1] <= "z" or (numeric_only and "0" <= following[:1] <= "9"):
        return word
    return f"{before} ."
