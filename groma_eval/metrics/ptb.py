"""Penn-Treebank-style tokens of a caption, as the COCO caption evaluation feeds them to its metrics.

The published CIDEr and METEOR figures rest on Stanford's PTBTokenizer (lower-casing) with a list of punctuation tokens
removed afterwards. This is a Python definition of what that gives on captions: clitics split off ("man's" -> "man 's",
"don't" -> "do n't"), hyphenated words kept whole, brackets renamed and, as there, *not* removed.
"""

from __future__ import annotations

import re

_REMOVED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_FUSED = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
# Abbreviations that keep their full stop wherever they stand.
# fmt: off
_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs", "etc", "inc", "co", "corp", "ltd", "ave", "blvd", "rd",
    "mt", "ft", "prof", "gen", "sen", "rep", "gov", "capt", "sgt", "lt", "col", "dept", "est", "jan", "feb",
    "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
})
# fmt: on
_CLITIC = re.compile(r"(?<=[^\W_])('s|'m|'d|'re|'ll|'ve)$")

_TOKEN = re.compile(
    r"""
    (?:[a-z]\.){2,}                            # initials: u.s.
  | \d+(?:[.,:/-]\d+)+(?:[^\W\d_]+)?           # decimals, times, fractions, ranges
  | [^\W_]+(?:['&/@_-][^\W_]+|\.[^\W_]+)*      # words: hyphenated, with inner apostrophe, slash or dot
  | '(?:s|m|d|re|ll|ve|tis|twas)(?![^\W_])      # a clitic that stands alone
  | \.\.+ | --+ | `` | ''
  | [^\s]
    """,
    re.VERBOSE,
)


def ptb_tokens(text: str) -> list[str]:
    """Lower-case tokens of ``text`` without punctuation tokens."""
    text = text.lower().replace("’", "'").replace("‘", "`").replace("“", "``").replace("”", "''").replace('"', "''")
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        after = text[match.end() : match.end() + 2]
        # A full stop before a comma cannot end the sentence: it is taken for an abbreviation's.
        keeps_stop = after == ".," if token not in _ABBREVIATIONS else after.startswith(".")
        tokens.extend(_split(token + "." if keeps_stop and token[-1].isalnum() else token))
    return [token for token in tokens if token not in _REMOVED and not set(token) <= {".", "-"}]


def _split(token: str) -> tuple[str, ...]:
    if token in _FUSED:
        return _FUSED[token]
    if token in _BRACKETS:
        return (_BRACKETS[token],)
    if token.endswith("n't") and len(token) > 3:
        return (token[:-3], "n't")
    clitic = _CLITIC.search(token)
    if clitic:
        return (token[: clitic.start()], clitic.group())
    return (token,)
