"""METEOR 1.5 (Denkowski and Lavie, "Meteor Universal", WMT 2014) for English, number for number, without Java.

English ranking parameters, ``-norm`` normalisation, and the four matchers exact, stem, synonym (WordNet) and
paraphrase, as ``pycocoevalcap`` 1.2 runs ``meteor-1.5.jar``. The synonyms and paraphrases are read from METEOR's own
data files (see ``meteor_data``). Where these are absent only the exact and stem matchers are left, and an approximate
list of function words: **such a figure is lower than, and not comparable with, published METEOR**;
:func:`meteor_matchers` says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

from groma_eval.metrics.cider import Tokeniser, check_captions
from groma_eval.metrics.meteor_align import Match, Matcher, Words
from groma_eval.metrics.meteor_data import find_meteor_data, load_meteor_data
from groma_eval.metrics.meteor_words import meteor_words
from groma_eval.metrics.ptb import ptb_tokens

ALL_MATCHERS, FEW_MATCHERS = "exact, stem, synonym, paraphrase", "exact, stem"
METEOR_NOTE = "METEOR (exact + stem; lower than published)"
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_CREDITS = (1.0, 0.6, 0.8, 0.6)  # what a match earns: exact, stem, synonym, paraphrase
Counts = tuple[int, int, int, int]  # by matcher


@dataclass(frozen=True)
class MeteorStats:
    """Sufficient statistics of a candidate and a reference; they add up over a corpus. All counts are of words."""

    length: int = 0
    reference_length: int = 0
    function_words: int = 0
    reference_function_words: int = 0
    content: Counts = (0, 0, 0, 0)  # matched words of the candidate
    function: Counts = (0, 0, 0, 0)
    reference_content: Counts = (0, 0, 0, 0)  # matched words of the reference
    reference_function: Counts = (0, 0, 0, 0)
    chunks: int = 0

    @property
    def matches(self) -> int:
        return sum(self.content) + sum(self.function)

    @property
    def reference_matches(self) -> int:
        return sum(self.reference_content) + sum(self.reference_function)

    @property
    def whole(self) -> bool:
        """Whether all words of both sides are matched in one chunk."""
        return (self.matches, self.reference_matches, self.chunks) == (self.length, self.reference_length, 1)

    def score(self) -> float:
        """METEOR in [0, 1]: the weighted harmonic mean of precision and recall, less the fragmentation penalty."""
        if not self.matches:
            return 0.0
        precision = _credited(self.content, self.function) / _weighed(self.length, self.function_words)
        recall = _credited(self.reference_content, self.reference_function) / _weighed(
            self.reference_length, self.reference_function_words
        )
        mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
        fragmentation = 0.0 if self.whole else self.chunks / ((self.matches + self.reference_matches) / 2)
        return max(0.0, mean * (1.0 - _GAMMA * fragmentation**_BETA))


_FIELDS = attrgetter(*(field.name for field in fields(MeteorStats)))


def _weighed(length: int, function_words: int) -> float:
    return _DELTA * (length - function_words) + (1.0 - _DELTA) * function_words


def _credited(content: Counts, function: Counts) -> float:
    total = 0.0
    for counts, weight in ((content, _DELTA), (function, 1.0 - _DELTA)):
        for count, credit in zip(counts, _CREDITS):
            total += count * credit * weight
    return total


def total_stats(items: Sequence[MeteorStats]) -> MeteorStats:
    """The sum of the statistics. The chunk of an item matched whole is not counted, so that it fragments nothing."""
    sums = [
        tuple(map(sum, zip(*column))) if isinstance(column[0], tuple) else sum(column)
        for column in zip(*map(_FIELDS, items))
    ]
    return MeteorStats(*sums[:-1], sum(0 if item.whole else item.chunks for item in items))


def meteor_matchers(data: str | Path | None = None) -> str:
    """The matchers :func:`meteor` has with this ``data``: :data:`ALL_MATCHERS`, or without data :data:`FEW_MATCHERS`.

    A table that shows a figure of the few matchers must say so with :data:`METEOR_NOTE`.
    """
    return FEW_MATCHERS if find_meteor_data(data) is None else ALL_MATCHERS


def meteor(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
    data: str | Path | None = None,
) -> tuple[float, dict[str, float]]:
    """Corpus and per-item METEOR, x100 as papers print it (0 to 100, more is better).

    An item scores by its best reference, the first of equally good ones. The corpus score is computed from the summed
    statistics of those best pairings, as METEOR does; it is not the mean of the items. ``data``: the folder of
    METEOR's files; None: from the environment variable GROMA_METEOR_DATA or an installed ``pycocoevalcap``.
    """
    check_captions(candidates, references)
    resources = load_meteor_data(data)
    seen: dict[str, Words] = {}

    def words_of(text: str) -> Words:
        if text not in seen:
            seen[text] = meteor_words(" ".join(tokenise(text)), resources.prefixes)
        return seen[text]

    items = {key: (words_of(text), [words_of(other) for other in references[key]]) for key, text in candidates.items()}
    matcher = Matcher(seen.values(), resources)
    known: dict[tuple[Words, Words], tuple[float, MeteorStats]] = {}
    chosen: list[MeteorStats] = []
    per_item: dict[str, float] = {}
    for key, (said, options) in items.items():
        scored, prepared = [], None
        for reference in options:
            pair = said, reference
            if pair not in known:
                prepared = prepared or matcher.candidate(said)
                stats = pair_stats(said, reference, matcher.align(prepared, reference), resources.function_words)
                known[pair] = stats.score(), stats
            scored.append(known[pair])
        score, best = max(scored, key=lambda item: item[0])
        chosen.append(best)
        per_item[key] = 100.0 * score
    return 100.0 * total_stats(chosen).score(), per_item


def pair_stats(said: Words, reference: Words, links: Sequence[Match], function_words: frozenset[str]) -> MeteorStats:
    """The statistics of an alignment, whose ``links`` are in the reference's order."""
    mine = [word in function_words for word in said]
    theirs = [word in function_words for word in reference]
    counts = [[0] * 4 for _ in range(4)]
    content, function, reference_content, reference_function = counts
    chunks, goes_on = 0, (-1, -1)
    for at, length, my_at, my_length, module in links:
        if length == my_length == 1:
            (function if mine[my_at] else content)[module] += 1
            (reference_function if theirs[at] else reference_content)[module] += 1
        else:
            common, reference_common = sum(mine[my_at : my_at + my_length]), sum(theirs[at : at + length])
            function[module] += common
            content[module] += my_length - common
            reference_function[module] += reference_common
            reference_content[module] += length - reference_common
        chunks += goes_on != (at, my_at)
        goes_on = at + length, my_at + my_length
    return MeteorStats(len(said), len(reference), sum(mine), sum(theirs), *map(tuple, counts), chunks)
