"""BLEU-1 to BLEU-4 (Papineni et al., ACL 2002) as the COCO caption evaluation computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from groma_eval.metrics.ngrams import CaptionGrams, Tokeniser, count_ngrams
from groma_eval.metrics.ptb import ptb_tokens

# Added to counts so that nothing divides by zero, and nothing found stays next to nothing.
_ABOVE, _BELOW = 1e-15, 1e-9


def bleu(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
) -> tuple[list[float], dict[str, list[float]]]:
    """Corpus and per-item BLEU-1, -2, -3 and -4, x100 (0 to 100, more is better).

    BLEU-n is the geometric mean of the precisions of 1- to n-grams, counts clipped to the most that one reference has,
    times ``exp(1 - r/c)`` where the candidate's length c falls short of r, the length of the reference closest in
    length (the shorter of two). The corpus score is that of the summed counts and lengths, not the mean of the items.
    """
    return bleu_of(count_ngrams(candidates, references, tokenise))


def bleu_of(texts: CaptionGrams) -> tuple[list[float], dict[str, list[float]]]:
    """:func:`bleu` of counted n-grams."""
    items = len(texts.keys)
    counts = np.zeros((items, len(texts.grams), 2))  # by item and n: n-grams that are right, and all of them
    for n, grams in enumerate(texts.grams):
        most = np.zeros(len(grams.count), dtype=np.int64)  # that any one reference has of a candidate's n-gram
        shared = grams.same >= 0
        np.maximum.at(most, grams.same[shared], grams.other_count[shared])
        counts[:, n, 0] = np.bincount(grams.item, np.minimum(grams.count, most), items)
        counts[:, n, 1] = np.maximum(0, texts.length - n)
    # Sorted by item, then nearness in length, then length, the first reference of an item is the one that counts.
    away = np.abs(texts.other_length - texts.length[texts.item_of])
    order = np.lexsort((texts.other_length, away, texts.item_of))
    closest = texts.other_length[order][np.searchsorted(texts.item_of, np.arange(items))]
    scores = _scores(counts, texts.length, closest)
    corpus = _scores(counts.sum(axis=0), texts.length.sum(), closest.sum())
    return corpus.tolist(), dict(zip(texts.keys, scores.tolist()))


def _scores(counts: np.ndarray, length: np.ndarray, closest: np.ndarray) -> np.ndarray:
    """BLEU-n x100 [..., n] of counts [..., n, 2] (right, all) and lengths [...] of candidate and reference."""
    precisions = (counts[..., 0] + _ABOVE) / (counts[..., 1] + _BELOW)
    means = np.cumprod(precisions, axis=-1) ** (1.0 / np.arange(1, precisions.shape[-1] + 1))
    brevity = np.exp(np.minimum(0.0, 1.0 - (closest + _BELOW) / (length + _ABOVE)))
    return 100.0 * means * brevity[..., None]
