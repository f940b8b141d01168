"""Stored statistics of the caption task: what BLEU, METEOR and the others of any draw of images are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from groma_eval.metrics.meteor import MeteorStats, pair_stats
from groma_eval.metrics.meteor_align import Matcher
from groma_eval.metrics.meteor_data import load_meteor_data
from groma_eval.metrics.meteor_words import meteor_words
from groma_eval.metrics.ngrams import LONGEST, CaptionGrams, count_ngrams
from groma_eval.metrics.ptb import tokenise_captions
from groma_eval.statistics.resample import Statistic
from groma_eval.statistics.sums import OfSums, per_image

# METEOR 1.5's parameters for English, and what a match earns: exact, stem, synonym, paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_CREDITS = (1.0, 0.6, 0.8, 0.6)
_TINY = 1e-9  # as in the corpus BLEU of the COCO caption evaluation: nothing found stays next to nothing


def caption_statistics(
    said: Mapping[str, str], references: Mapping[str, Sequence[str]], numbers: np.ndarray, images: int
) -> dict[str, Statistic]:
    """``bleu_1`` to ``bleu_4`` and ``meteor`` of captions by question id; ``numbers``: each question's image.

    Texts are tokenised together, in the order given, as :func:`groma_eval.metrics.captions.score_captions` does.
    """
    texts = dict(zip(said, _tokenised(list(said.values()))))
    flat = iter(_tokenised([text for others in references.values() for text in others]))
    known = {key: [next(flat) for _ in others] for key, others in references.items()}
    counts = per_image(numbers, images, bleu_counts(count_ngrams(texts, known, str.split)).T)
    found: dict[str, Statistic] = {f"bleu_{n}": OfSums(counts, partial(bleu, n=n)) for n in range(1, LONGEST + 1)}
    found["meteor"] = OfSums(per_image(numbers, images, meteor_counts(texts, known).T), meteor_score)
    return found


def _tokenised(texts: list[str]) -> list[str]:
    return [" ".join(tokens) for tokens in tokenise_captions(texts)]


def bleu_counts(texts: CaptionGrams) -> np.ndarray:
    """By item (I, 10): right n-grams for n = 1 to 4, all n-grams, words, words of the reference nearest in length."""
    items = len(texts.keys)
    right = []
    for grams in texts.grams:
        most = np.zeros(len(grams.count), dtype=np.int64)
        shared = grams.same >= 0
        np.maximum.at(most, grams.same[shared], grams.other_count[shared])
        right.append(np.bincount(grams.item, np.minimum(grams.count, most), items))
    given = [np.maximum(0, texts.length - n) for n in range(LONGEST)]
    away = np.abs(texts.other_length - texts.length[texts.item_of])
    order = np.lexsort((texts.other_length, away, texts.item_of))
    nearest = texts.other_length[order][np.searchsorted(texts.item_of, np.arange(items))]
    return np.stack([*right, *given, texts.length, nearest], axis=1).astype(np.float64)


def bleu(totals: np.ndarray, n: int) -> np.ndarray:
    """Corpus BLEU-n x100 of totals (..., 10) of :func:`bleu_counts`."""
    precisions = (totals[..., :n] + 1e-15) / (totals[..., LONGEST : LONGEST + n] + _TINY)
    length, reference = totals[..., 2 * LONGEST], totals[..., 2 * LONGEST + 1]
    brevity = np.exp(np.minimum(0.0, 1.0 - (reference + _TINY) / (length + 1e-15)))
    return 100.0 * precisions.prod(axis=-1) ** (1.0 / n) * brevity


def meteor_counts(said: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """By item (I, 6), of each tokenised caption with its best reference, the sums that METEOR's formula takes.

    Columns: the credit of the caption's matched words and the weight of all its words, both again of the reference,
    chunks (none for an item matched whole, as a corpus counts them), matched words of both sides together.
    """
    resources = load_meteor_data(None)
    words: dict[str, tuple[str, ...]] = {}
    for key, text in said.items():
        for line in (text, *references[key]):
            if line not in words:
                words[line] = meteor_words(line, resources.prefixes)
    matcher = Matcher(words.values(), resources)
    known: dict[tuple[str, str], MeteorStats] = {}
    rows = []
    for key, text in said.items():
        prepared = None
        for other in references[key]:
            if (text, other) not in known:
                prepared = prepared or matcher.candidate(words[text])
                links = matcher.align(prepared, words[other])
                known[text, other] = pair_stats(words[text], words[other], links, resources.function_words)
        rows.append(_sums(max((known[text, other] for other in references[key]), key=MeteorStats.score)))
    return np.array(rows, dtype=np.float64)


def _sums(stats: MeteorStats) -> tuple[float, ...]:
    return (
        _credit(stats.content, stats.function),
        _weight(stats.length, stats.function_words),
        _credit(stats.reference_content, stats.reference_function),
        _weight(stats.reference_length, stats.reference_function_words),
        0 if stats.whole else stats.chunks,
        stats.matches + stats.reference_matches,
    )


def _credit(content: Sequence[int], function: Sequence[int]) -> float:
    return sum(credit * _weight(c + f, f) for c, f, credit in zip(content, function, _CREDITS))


def _weight(words: int, function_words: int) -> float:
    return _DELTA * (words - function_words) + (1.0 - _DELTA) * function_words


def meteor_score(totals: np.ndarray) -> np.ndarray:
    """Corpus METEOR x100 of totals (..., 6) of :func:`meteor_counts`; 0 where no word is matched."""
    credit, weight, other_credit, other_weight, chunks, matched = np.moveaxis(totals, -1, 0)
    mean = 1.0 / ((1.0 - _ALPHA) * weight / credit + _ALPHA * other_weight / other_credit)
    score = mean * (1.0 - _GAMMA * (2.0 * chunks / matched) ** _BETA)
    return np.where(matched > 0, 100.0 * np.maximum(0.0, score), 0.0)
