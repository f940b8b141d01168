"""CIDEr as the COCO caption evaluation computes it (the "CIDEr" of papers; CIDEr-D of Vedantam et al., CVPR 2015)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from groma_eval.core import HarnessError
from groma_eval.metrics.ptb import ptb_tokens

_LONGEST, _SIGMA = 4, 6.0
Tokeniser = Callable[[str], Sequence[str]]


def check_captions(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Raise HarnessError unless both sides have the same ids and every id has a reference."""
    differing = candidates.keys() ^ references.keys()
    if differing:
        some = sorted(map(str, differing))[0]
        raise HarnessError(
            f"captions and references differ in {len(differing)} ids, {some!r} among them: "
            "give an empty caption where an answer is missing"
        )
    if not references:
        raise HarnessError("no captions to score: give at least one")
    bare = next((key for key, texts in references.items() if isinstance(texts, str) or not texts), None)
    if bare is not None:
        raise HarnessError(f"caption {bare!r} has no list of references: give at least one reference text")


def cider(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
) -> tuple[float, dict[str, float]]:
    """Corpus and per-item CIDEr, x100 as papers print it (0 to 1000; 107.3 rather than 1.073).

    TF-IDF vectors of 1- to 4-grams, document frequencies from these very references (so that a figure belongs to its
    set of images, and a corpus of one image scores 0), candidate counts clipped to the reference's, a Gaussian penalty
    on the difference in length (sigma 6), the mean over references and n, times 10. The corpus score is the mean.
    ``tokenise`` makes tokens of a text: ``str.split`` for texts that are tokenised already.
    """
    check_captions(candidates, references)
    counts = {key: [_ngrams(tokenise(text)) for text in texts] for key, texts in references.items()}
    document_frequency: Counter[tuple[str, ...]] = Counter()
    for documents in counts.values():
        document_frequency.update({gram for document in documents for gram in document})
    log_images = math.log(len(references))
    idf = {gram: log_images - math.log(df) for gram, df in document_frequency.items()}

    def vector(grams: Mapping[tuple[str, ...], int]) -> tuple[list[dict], list[float], int]:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * idf.get(gram, log_images)
        norms = [math.sqrt(sum(w * w for w in part.values())) for part in weights]
        # The evaluation's "length" of a sentence is its number of bigrams.
        return weights, norms, sum(count for gram, count in grams.items() if len(gram) == 2)

    per_item: dict[str, float] = {}
    for key, text in candidates.items():
        weights, norms, length = vector(_ngrams(tokenise(text)))
        total = 0.0
        for document in counts[key]:
            other_weights, other_norms, other_length = vector(document)
            penalty = math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
            for mine, my_norm, other, other_norm in zip(weights, norms, other_weights, other_norms):
                if my_norm and other_norm:
                    shared = sum(min(w, other[g]) * other[g] for g, w in mine.items() if g in other)
                    total += penalty * shared / (my_norm * other_norm)
        per_item[key] = 1000.0 * total / (_LONGEST * len(counts[key]))
    return math.fsum(per_item.values()) / len(per_item), per_item


def _ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + n]) for n in range(1, _LONGEST + 1) for start in range(len(tokens) - n + 1)
    )
