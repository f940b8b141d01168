"""Penn Treebank tokens of captions, number for number those that the COCO caption evaluation feeds to its metrics.

Published BLEU, METEOR, ROUGE-L and CIDEr figures rest on Stanford's PTBTokenizer 3.4.1 (``-preserveLines -lowerCase``)
with a list of punctuation tokens removed afterwards, as pycocoevalcap 1.2 calls it. This is that tokenizer for English
text without Java. What it does, by example: "man's" -> "man 's", "don't" -> "do n't", "cannot" -> "can not", "(two)" ->
"-lrb- two -rrb-" (renamed brackets are *not* removed), "£5" -> "# 5", "etc." keeps its stop; spelling is left alone.

Known to differ: letters and digits added to Unicode after 6.0 are letters here and vanish there; line breaks other than
"\\n" are spaces here, and there shift all captions behind them by a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from groma_eval.metrics.ptb_rules import (
    ABBREVIATIONS,
    CAPITAL_ABBREVIATIONS,
    COUNTING,
    FUSED,
    TITLES,
    rules_for,
)
from groma_eval.metrics.ptb_shape import shape

# Tokens that are dropped. The brackets' names are not among them: the evaluation lists them in capitals, in vain.
_REMOVED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
# Words that may keep a full stop.
_DOTTED = (ABBREVIATIONS | TITLES | CAPITAL_ABBREVIATIONS | COUNTING | {"mfg", "mtg"}) | {
    f"{p}{end}{s}" for p in ("pt", "ppt") for end in "ye" for s in ("", "s")
}
# A word that no rule would read otherwise, with the mark and the spaces behind it: most words, and faster than rules.
_PLAIN = re.compile(r"([A-Za-z]{2,}(?:-[A-Za-z]{2,})*|[AaIi](?= ))([.,;:!?]?)(?: [ \t\xa0\u2003]*|(?=\n)|\Z)")
_BLANK = re.compile(r"[ \t][ \t\xa0\u2003]*")
_LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\x0b\x0c\x85\u2028\u2029", " "))


def ptb_tokens(text: str) -> list[str]:
    """Lower-case tokens of one text without punctuation tokens; line breaks count as spaces."""
    return tokenise_captions([text])[0]


def tokenise_captions(texts: Sequence[str]) -> list[list[str]]:
    """Tokens of each text as the evaluation makes them of a whole file of captions, one a line.

    There the tokenizer sees a line's end and the line after it: "plan B." is "plan b" before a line that starts with
    "The" and "plan b." elsewhere. The order of ``texts`` is therefore part of the input, as it is there. Fractions and
    telephone numbers hold no-break spaces ("1 1/2" is one token).
    """
    if not texts:
        return []
    text = "\n".join(text.translate(_LINE_ENDS) for text in texts)
    seen = shape(text)
    lines: list[list[str]] = [[]]
    at, end = 0, len(seen)
    while at < end:
        plain = _PLAIN.match(seen, at)
        if plain is not None:
            word = plain[1].lower()
            if word not in FUSED and not (plain[2] == "." and word in _DOTTED):
                lines[-1].append(word)
                at = plain.end()
                continue
        if seen[at] == "\n":
            lines.append([])
            at += 1
            continue
        blank = _BLANK.match(seen, at)
        if blank is not None:
            at = blank.end()
            continue
        at, token = _next_token(text, seen, at)
        if token and token not in _REMOVED:
            lines[-1].append(token)
    return lines


def _next_token(text: str, seen: str, at: int) -> tuple[int, str]:
    """Where the next token starts after the one at ``at``, and that one ("" where a character is dropped)."""
    farthest, stop, becomes = at, at + 1, None
    for pattern, makes in rules_for(seen[at]):
        found = pattern.match(seen, at)
        if found is not None and found.end() > farthest:
            farthest, stop, becomes = found.end(), found.end(pattern.groups), makes
    if becomes is None:
        return at + 1, ""
    return stop, becomes(text[at:stop]).lower()
