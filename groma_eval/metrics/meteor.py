"""METEOR 1.5 (Denkowski and Lavie, WMT 2014) with its exact and stem matchers, in Python.

The English ranking parameters, function-word weighting, normalisation, alignment and aggregation are those of METEOR
1.5. Its synonym matcher (WordNet) and paraphrase matcher (a paraphrase table) need data that is not bundled, so a
figure from here is "METEOR 1.5, exact + stem": **it is lower than, and not comparable with, published METEOR**.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

from groma_eval.metrics.cider import Tokeniser, check_captions
from groma_eval.metrics.ptb import ptb_tokens

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_EXACT_CREDIT, _STEM_CREDIT = 1.0, 0.6  # what a match earns in the score
_EXACT_PULL, _STEM_PULL = 1.0, 0.5  # what it is worth when choosing an alignment
_BEAM = 40

# Words commoner than one in a thousand in running English, weighted 1 - delta.
# fmt: off
FUNCTION_WORDS = frozenset({
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "for",
    "from", "had", "has", "have", "he", "her", "his", "i", "if", "in", "into", "is", "it", "its", "more", "not", "of",
    "on", "one", "or", "out", "over", "she", "so", "than", "that", "the", "their", "there", "they", "this", "to", "up",
    "was", "we", "were", "when", "which", "who", "will", "with", "would", "you", ",", ".", "'", "\"", "(", ")", "-",
    ":", ";", "$", "%", "'s", "'t",
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

    An item scores by its best reference. The corpus score is computed from the summed statistics of those best
    pairings, as METEOR does; it is not the mean of the items, and stays below 100 even for perfect captions, because
    the chunks of many sentences never are one chunk.
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

    Of all alignments by equal words or equal stems the one with the greatest weight (an exact match weighs double),
    then the fewest chunks, then the least distance between positions. The search merges states that can continue
    alike, so that it is exhaustive up to the beam of 40 states.
    """
    if tuple(said) == tuple(reference):
        return [(at, True) for at in range(len(reference))]
    options: list[list[tuple[int, bool]]] = []
    stems = [_stem(word) for word in said]
    for word in reference:
        stem = _stem(word)
        options.append([(at, w == word) for at, w in enumerate(said) if w == word or stems[at] == stem])
    # A state: used candidate words (bits) and the candidate index that would continue the open chunk (-1: none open).
    # Its value: (-weight, chunks, distance), smaller is better, and the links chosen so far.
    states: dict[tuple[int, int], tuple[float, int, int, tuple]] = {(0, -1): (0.0, 0, 0, ())}
    # Which candidate words can still be contested later: others need not be told apart in the state.
    contested = [0] * (len(reference) + 1)
    for at in range(len(reference) - 1, -1, -1):
        contested[at] = contested[at + 1]
        for mine, _ in options[at]:
            contested[at] |= 1 << mine
    for at in range(len(reference)):
        following: dict[tuple[int, int], tuple[float, int, int, tuple]] = {}
        keep = contested[at + 1]
        kept = states.items()
        if len(states) > _BEAM:
            kept = sorted(kept, key=lambda item: item[1][:3])[:_BEAM]
        for (used, expected), (weight, chunks, distance, links) in kept:
            moves = [((used & keep, -1), (weight, chunks, distance, (*links, None)))]
            for mine, exact in options[at]:
                if used >> mine & 1:
                    continue
                value = (
                    weight - (_EXACT_PULL if exact else _STEM_PULL),
                    chunks + (mine != expected),
                    distance + abs(at - mine),
                    (*links, (mine, exact)),
                )
                moves.append((((used | 1 << mine) & keep, mine + 1), value))
            for state, value in moves:
                if state not in following or value[:3] < following[state][:3]:
                    following[state] = value
        states = following
    return list(min(states.values(), key=lambda value: value[:3])[3])
