"""The shape of a text: what its characters beyond ASCII are to the rules of the tokenizer (``ptb_rules``).

Few kinds matter there (a letter, a digit, an apostrophe, ...). Each has one character that stands for all of its kind,
so that a rule needs no table of Unicode; ASCII stands for itself.
"""

from __future__ import annotations

from functools import lru_cache

_LETTER, _MARK, _DIGIT, _SYMBOL, _NOTHING = "é", "\u0301", "٠", "§", "\x00"
_STAND_INS = {
    character: stand_in
    for stand_in, characters in {
        "\xa0": "\xa0",
        "\u2003": "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u3000",
        "\xad": "\xad",  # the soft hyphen, part of a word
        "’": "’\x92",
        "‘": "‘‛\x91",
        "“": "“”„‟‚‹›«»\x93\x94",
        "–": "–—―\x96\x97",
        "‐": "‐‑֊",
        "…": "…",
        "⁺": "⁺⁻₊₋",
        "²": "⁰¹²³⁴⁵⁶⁷⁸⁹",
        "₂": "₀₁₂₃₄₅₆₇₈₉",
        "⁄": "⁄",
        "٫": "٫٬",  # separators inside numbers
        "、": "、",
        # Tokens by themselves though they are no symbols below: currency and fractions.
        _SYMBOL: "¢£¤₠€\x80¼½¾⅓⅔",
    }.items()
    for character in characters
}
# Symbols: every other character beyond ASCII that is a token by itself. Hexadecimal ranges.
_SYMBOLS = """
    A1 A5-A9 AC AE-B4 B6-B9 BF D7 F7 37E 387 589 5BE 5C0 5C3 5C6 5F3-5F4 600-603 606-60C 614 61B 61E-61F 66A 66D 6D4
    700-70D 7F6-7F8 964-965 E3F E4F 1FBD 2016-2017 201A 201E-2023 2030-2038 203B 203E-2042 2044 2070 2074-207E 2080-208E
    20A4 2100-2101 2103-2106 2108-2109 2114 2116-2118 211E-2123 2125 2127 2129 212E 213A-213B 2140-2144 214A-214D 214F
    2155-215E 2190-2BFF 3001-3002 3012 30FB FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65 FFE0-FFE1 FFE5-FFE6
"""
# Marks: no letters, but inside a word they do not end it (combining accents and vowel signs above all).
_MARKS = """
    2C2-2C5 2D2-2DF 2E5-2EB 2ED 2EF-36F 375 378-379 384-385 3F6 483-487 55A-55F 591-5BD 5BF 5C1-5C2 5C4-5C5 5C7 615-61A
    64B-65E 670 6D6-6E4 6E7-6ED 6FD-6FE 70F 711 730-74C 7A6-7B0 7EB-7F3 900-903 93C 93E-94E 951-955 962-963 981-983 9BC
    9BE-9C4 9C7-9C8 9CB-9CD 9D7 9E2-9E3 A01-A03 A3C A3E-A4F A81-A83 ABC ABE-ACF B82 BBE-BC2 BC6-BC8 BCA-BCD C01-C03
    C3E-C56 D3E-D44 D46-D48 E31 E34-E3A E47-E4E EB1 EB4-EBC EC8-ECD
"""


def shape(text: str) -> str:
    """``text`` with every character beyond ASCII replaced by its stand-in, one for one."""
    return text if text.isascii() else "".join(c if c < "\x80" else _stand_in(c) for c in text)


@lru_cache(maxsize=4096)
def _stand_in(character: str) -> str:
    if character > "\uffff":  # the tokenizer knew only the basic plane: emoji vanish
        return _NOTHING
    if character in _STAND_INS:
        return _STAND_INS[character]
    code = ord(character)
    if _within(code, _MARKS):
        return _MARK
    if character.isdecimal():
        return _DIGIT
    if character.isalpha():
        return _LETTER
    return _SYMBOL if _within(code, _SYMBOLS) else _NOTHING


def _within(code: int, ranges: str) -> bool:
    ends = ([int(end, 16) for end in entry.split("-")] for entry in ranges.split())
    return any(end[0] <= code <= end[-1] for end in ends)
