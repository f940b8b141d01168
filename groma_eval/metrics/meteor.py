"""METEOR 1.5 (Denkowski and Lavie, WMT 2014) with its exact and stem matchers, in Python.

The English ranking parameters, function-word weighting, normalisation, alignment and aggregation are those of METEOR
1.5. Its synonym matcher (WordNet) and paraphrase matcher (a paraphrase table) need data that is not bundled, so a
figure from here is "METEOR 1.5, exact + stem": **it is lower than, and not comparable with, published METEOR**.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

from groma_eval.metrics.cider import Tokeniser, check_captions
from groma_eval.metrics.ptb import ptb_tokens

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_EXACT_CREDIT, _STEM_CREDIT = 1.0, 0.6  # what a match earns in the score
_BEAM = 40
# Costs of an alignment, far enough apart to be one number that orders by exact matches, chunks, stem matches, distance.
_EXACT, _CHUNK, _STEM = -(1 << 72), 1 << 48, -(1 << 24)

# Words (and marks) commoner than about one in a thousand in running English, weighted 1 - delta. Which borderline words
# METEOR 1.5 counts here was settled by which choice reproduces its scores of real captions ("people", "two", "up" are
# function words to it; "them", "down", "under" are not).
# fmt: off
FUNCTION_WORDS = frozenset({
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can",
    "first", "for", "from", "had", "has", "have", "he", "her", "his", "i", "if", "in", "into", "is", "it",
    "its", "last", "more", "mr", "new", "no", "not", "of", "on", "one", "only", "or", "other", "our", "out",
    "over", "people", "said", "she", "so", "some", "than", "that", "the", "their", "there", "they", "this",
    "time", "to", "two", "up", "was", "we", "were", "what", "when", "which", "who", "will", "with", "would",
    "year", "years", "you", ",", ".", "'", "\"", "(", ")", "-", ":", ";", "$", "%", "'s",
})
# fmt: on


@dataclass(frozen=True)
class MeteorStats:
    """Sufficient statistics of one candidate and one reference; they add up over a corpus."""

    length: int = 0
    reference_length: int = 0
    function_words: int = 0
    reference_function_words: int = 0
    content: float = 0.0  # credited matches, by the candidate's word
    function: float = 0.0
    reference_content: float = 0.0  # the same by the reference's word
    reference_function: float = 0.0
    matches: int = 0
    chunks: int = 0

    def __add__(self, other: MeteorStats) -> MeteorStats:
        return MeteorStats(*(a + b for a, b in zip(astuple(self), astuple(other))))

    def score(self) -> float:
        """METEOR in [0, 1]: the weighted harmonic mean of precision and recall, less the fragmentation penalty."""
        if not self.matches:
            return 0.0
        precision = _weigh(self.content, self.function) / _weigh(self.length - self.function_words, self.function_words)
        recall = _weigh(self.reference_content, self.reference_function) / _weigh(
            self.reference_length - self.reference_function_words, self.reference_function_words
        )
        mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
        whole = self.matches == self.length == self.reference_length and self.chunks == 1
        fragmentation = 0.0 if whole else self.chunks / self.matches
        return max(0.0, mean * (1.0 - _GAMMA * fragmentation**_BETA))


def _weigh(content: float, function: float) -> float:
    return _DELTA * content + (1.0 - _DELTA) * function


def meteor(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenise: Tokeniser = ptb_tokens,
) -> tuple[float, dict[str, float]]:
    """Corpus and per-item METEOR (exact + stem, see the module's docstring), x100 as papers print it.

    An item scores by its best reference, the first of equally good ones. The corpus score is computed from the summed
    statistics of those best pairings, as METEOR does; it is not the mean of the items, and stays below 100 even for
    perfect captions, because the chunks of many sentences never are one chunk.
    """
    check_captions(candidates, references)
    total = MeteorStats()
    per_item: dict[str, float] = {}
    for key, text in candidates.items():
        said = _normalise(tuple(tokenise(text)))
        options = [_pair_stats(said, _normalise(tuple(tokenise(reference)))) for reference in references[key]]
        best = max(options, key=MeteorStats.score)
        total = total + best
        per_item[key] = 100.0 * best.score()
    return 100.0 * total.score(), per_item


@lru_cache(maxsize=65536)
def _normalise(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """METEOR's own normalisation of tokens: symbols apart, hyphens inside words opened, clitics split, stops apart."""
    text = re.sub(r"([^\w\s.'`,\-‘’]|_)", r" \1 ", f" {' '.join(tokens)} ")
    text = re.sub(r"(?<!\d),|,(?!\d)", " , ", text)
    text = re.sub(r"[`‘’]", "'", text).replace("–", "-").replace("--", "-")
    text = re.sub(r"(?<=[\w.])-(?=\w)", " ", text)
    text = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])|(?<=\d)'(?=s)", " '", text)
    text = re.sub(r"(?<![^\W_])'(?=[^\W\d_])(?!\S)|'(?![^\W\d_])", " ' ", text)
    words = text.lower().split()
    out: list[str] = []
    for at, word in enumerate(words):
        if len(word) > 1 and word.endswith(".") and set(word) != {"."}:
            if "." in word[:-1] and re.search(r"[^\W\d_]", word):
                out.append(word.replace(".", ""))
                continue
            following = words[at + 1] if at + 1 < len(words) else ""
            if not re.match(r"[a-z]", following) and word[:-1] not in _TITLES:
                out.extend([word[:-1], "."])
                continue
        out.append(word)
    return tuple(out)


_TITLES = frozenset({"mr", "mrs", "ms", "dr", "st", "vs", "etc", "prof", "rev", "sr", "jr"})


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@lru_cache(maxsize=1)
def _stemmer():
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@lru_cache(maxsize=65536)
def _pair_stats(said: tuple[str, ...], reference: tuple[str, ...]) -> MeteorStats:
    links = align(said, reference)
    content = function = reference_content = reference_function = 0.0
    chunks = 0
    previous: tuple[int, int] | None = None
    for at, link in enumerate(links):
        if link is None:
            previous = None
            continue
        mine, exact = link
        credit = _EXACT_CREDIT if exact else _STEM_CREDIT
        if said[mine] in FUNCTION_WORDS:
            function += credit
        else:
            content += credit
        if reference[at] in FUNCTION_WORDS:
            reference_function += credit
        else:
            reference_content += credit
        chunks += previous != (at - 1, mine - 1)
        previous = (at, mine)
    return MeteorStats(
        len(said),
        len(reference),
        sum(word in FUNCTION_WORDS for word in said),
        sum(word in FUNCTION_WORDS for word in reference),
        content,
        function,
        reference_content,
        reference_function,
        sum(link is not None for link in links),
        chunks,
    )


def align(said: Sequence[str], reference: Sequence[str]) -> list[tuple[int, bool] | None]:
    """Align words one to one: per reference word its (candidate index, exact?) or None.

    As METEOR 1.5 does it: a pair in which neither word has another partner is settled at once. Among the others, the
    most exact matches win, then the fewest chunks (settled pairs counted in), then the most stem matches, then the
    least distance between positions: METEOR keeps its running match weight as an integer, in which the half a stem
    match is worth comes to nothing, so that a contested stem match is taken only where it adds no chunk. States that
    can continue alike are merged, so that the search is exhaustive up to its beam of 40.
    """
    if tuple(said) == tuple(reference):
        return [(at, True) for at in range(len(reference))]
    stems = [_stem(word) for word in said]
    options: list[list[tuple[int, bool]]] = []
    for word in reference:
        stem = _stem(word)
        options.append([(at, w == word) for at, w in enumerate(said) if w == word or stems[at] == stem])
    partners = Counter(mine for row in options for mine, _ in row)
    settled = [len(row) == 1 and partners[row[0][0]] == 1 for row in options]

    # A state: used candidate words (as bits, of those still wanted later) and the candidate index that would continue
    # the open chunk (-1: none is open). Its value: the cost to minimise and the links so far, as (earlier, link) pairs.
    wanted_later = [0] * (len(reference) + 1)
    for at in range(len(reference) - 1, -1, -1):
        wanted_later[at] = wanted_later[at + 1]
        for mine, _ in options[at]:
            wanted_later[at] |= 1 << mine
    states: dict[tuple[int, int], tuple[int, Any]] = {(0, -1): (0, None)}
    for at, row in enumerate(options):
        following: dict[tuple[int, int], tuple[int, Any]] = {}
        keep = wanted_later[at + 1]
        ranked = sorted(states.items(), key=_cost_of)[:_BEAM] if len(states) > _BEAM else states.items()
        for (used, expected), (cost, links) in ranked:
            moves = [] if settled[at] else [((used & keep, -1), cost, None)]
            for link in row:
                mine, exact = link
                if not used >> mine & 1:
                    dearer = (_EXACT if exact else _STEM) + abs(at - mine) + (_CHUNK if mine != expected else 0)
                    moves.append((((used | 1 << mine) & keep, mine + 1), cost + dearer, link))
            for state, new_cost, link in moves:
                if state not in following or new_cost < following[state][0]:
                    following[state] = (new_cost, (links, link))
        states = following
    chosen = min(states.items(), key=_cost_of)[1][1]
    out: list[tuple[int, bool] | None] = []
    while chosen is not None:
        chosen, link = chosen
        out.append(link)
    return out[::-1]


def _cost_of(item: tuple[tuple[int, int], tuple[int, Any]]) -> int:
    return item[1][0]
