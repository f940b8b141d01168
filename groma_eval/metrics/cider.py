"""CIDEr as the COCO caption evaluation computes it (the "CIDEr" of papers; CIDEr-D of Vedantam et al., CVPR 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from groma_eval.metrics.ngrams import LONGEST, CaptionGrams, Tokeniser, check_captions, count_ngrams
from groma_eval.metrics.ptb import ptb_tokens

__all__ = ["Tokeniser", "check_captions", "cider", "cider_of"]
_SIGMA = 6.0


def cider(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
    original: bool = False,
) -> tuple[float, dict[str, float]]:
    """Corpus and per-item CIDEr, x100 as papers print it (0 to 1000, more is better; 107.3 rather than 1.073).

    TF-IDF vectors of 1- to 4-grams, document frequencies from these very references (so that a figure belongs to its
    set of images, and a corpus of one image scores 0), candidate counts clipped to the reference's, a Gaussian penalty
    on the difference in length (sigma 6), the mean over references and n, times 10. The corpus score is the mean.
    ``tokenise`` makes tokens of a text: ``str.split`` for texts that are tokenised already.

    ``original``: without clipping and penalty, the paper's first measure (to be printed as "CIDEr-original"); the
    stemming of words that belonged to it is left out.
    """
    return cider_of(count_ngrams(candidates, references, tokenise), original)


def cider_of(texts: CaptionGrams, original: bool = False) -> tuple[float, dict[str, float]]:
    """:func:`cider` of counted n-grams."""
    items, others = len(texts.keys), len(texts.item_of)
    similarity = np.zeros(others)
    for grams in texts.grams:
        kinds = 1 + max(grams.gram.max(initial=0), grams.other_gram.max(initial=0))
        of_item = np.sort(texts.item_of[grams.other_text] * kinds + grams.other_gram)
        documents = of_item[np.diff(of_item, prepend=-1) > 0] % kinds  # an n-gram counts once an item
        idf = np.log(items) - np.log(np.maximum(1, np.bincount(documents, minlength=kinds)))
        weight, other_weight = grams.count * idf[grams.gram], grams.other_count * idf[grams.other_gram]
        norm = np.sqrt(np.bincount(grams.item, weight**2, items))
        other_norm = np.sqrt(np.bincount(grams.other_text, other_weight**2, others))
        shared = grams.same >= 0
        mine, theirs = weight[grams.same[shared]], other_weight[shared]
        products = (mine if original else np.minimum(mine, theirs)) * theirs
        norms = norm[texts.item_of] * other_norm
        similarity += np.bincount(grams.other_text[shared], products, others) / np.where(norms > 0, norms, np.inf)
    if not original:
        # The evaluation's "length" of a sentence is its number of pairs of words.
        excess = np.maximum(texts.length - 1, 0)[texts.item_of] - np.maximum(texts.other_length - 1, 0)
        similarity *= np.exp(-(excess**2) / (2 * _SIGMA**2))
    mean = np.bincount(texts.item_of, similarity, items) / np.bincount(texts.item_of, minlength=items)
    scores = 1000.0 / LONGEST * mean
    return float(scores.mean()), dict(zip(texts.keys, scores.tolist()))
