"""ROUGE-L (Lin, ACL workshop 2004) as the COCO caption evaluation computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from groma_eval.metrics.ngrams import Tokeniser, check_captions
from groma_eval.metrics.ptb import ptb_tokens

_BETA_SQUARED = 1.2**2


def rouge_l(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
) -> tuple[float, dict[str, float]]:
    """Corpus (mean) and per-item ROUGE-L, x100 (0 to 100, more is better).

    The F-measure with beta 1.2 of the best precision and the best recall that the longest common subsequence has with
    any reference; the two may come from different references. Two empty texts are alike (100), as they are there.
    """
    check_captions(candidates, references)
    per_item: dict[str, float] = {}
    for key, text in candidates.items():
        said = tuple(tokenise(text)) or ("",)
        options = [tuple(tokenise(other)) or ("",) for other in references[key]]
        common = [longest_common_subsequence(said, option) for option in options]
        precision = max(common) / len(said)
        recall = max(length / len(option) for length, option in zip(common, options))
        score = 0.0
        if precision and recall:
            score = (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)
        per_item[key] = 100.0 * score
    return math.fsum(per_item.values()) / len(per_item), per_item


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by Hyyrö's bit-vector recurrence: bit i of ``row`` is 0 where a common subsequence grows at i."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    row = whole = (1 << len(first)) - 1
    for word in second:
        taken = row & places.get(word, 0)
        row = (row + taken | row - taken) & whole
    return len(first) - row.bit_count()
