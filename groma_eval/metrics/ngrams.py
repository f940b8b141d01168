"""What the caption metrics share: the check of their input, and n-grams of all texts counted at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from groma_eval.core import HarnessError

LONGEST = 4  # n of the longest n-grams
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


@dataclass(frozen=True)
class Grams:
    """Counts of the n-grams of one n. ``item``, ``gram``, ``count``: arrays [M], one entry an n-gram of a candidate.

    ``other_text``, ``other_gram``, ``other_count``: arrays [N], one entry an n-gram of a reference text. ``same``
    [N]: which entry of its item's candidate is the same n-gram, -1 for none.
    """

    item: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    other_text: np.ndarray
    other_gram: np.ndarray
    other_count: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class CaptionGrams:
    """The n-grams of I items with R reference texts in all, for n = 1 to :data:`LONGEST`.

    ``keys``: the items' ids. ``item_of`` [R]: each reference text's item. ``length`` [I] and ``other_length`` [R]: the
    texts' lengths in words.
    """

    keys: list[str]
    item_of: np.ndarray
    length: np.ndarray
    other_length: np.ndarray
    grams: list[Grams]


def count_ngrams(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenise: Tokeniser
) -> CaptionGrams:
    """Count all n-grams. Words are tokens, those with a no-break space inside ("1 1/2") taken apart.

    Raises:
        HarnessError: see :func:`check_captions`.
    """
    check_captions(candidates, references)
    keys = list(candidates)
    item_of = np.repeat(np.arange(len(keys)), [len(references[key]) for key in keys])
    texts = chain(candidates.values(), *(references[key] for key in keys))
    words = [" ".join(tokenise(text)).split() for text in texts]
    length = np.array([len(line) for line in words])
    vocabulary: dict[str, int] = {}
    word = np.array([vocabulary.setdefault(w, len(vocabulary)) for line in words for w in line], dtype=np.int64)
    # Where in ``word`` an n-gram may start, its text, and its number; of an (n + 1)-gram that of the n-gram and a word.
    ends = np.cumsum(length)
    start, text, gram = np.arange(len(word)), np.repeat(np.arange(len(words)), length), word
    of_items = np.concatenate([np.arange(len(keys)), item_of])
    grams = []
    for n in range(1, LONGEST + 1):
        if n > 1:
            fits = start + n <= ends[text]
            start, text = start[fits], text[fits]
            gram = np.unique(gram[fits] * len(vocabulary) + word[start + n - 1], return_inverse=True)[1]
        grams.append(_count(text, gram, of_items, len(keys)))
    return CaptionGrams(keys, item_of, length[: len(keys)], length[len(keys) :], grams)


def _count(text: np.ndarray, gram: np.ndarray, of_items: np.ndarray, items: int) -> Grams:
    """Grams from each occurrence's ``text`` (the candidates' come first) and ``gram``."""
    kinds = int(gram.max(initial=0)) + 1
    pairs, count = np.unique(text * kinds + gram, return_counts=True)
    text, gram = np.divmod(pairs, kinds)
    first = int(np.searchsorted(text, items))  # the first entry of a reference
    wanted = of_items[text[first:]] * kinds + gram[first:]
    place = np.searchsorted(pairs[:first], wanted)
    found = np.append(pairs[:first], -1)[place] == wanted
    return Grams(
        text[:first],
        gram[:first],
        count[:first],
        text[first:] - items,
        gram[first:],
        count[first:],
        np.where(found, place, -1),
    )
