"""METEOR's alignment of a candidate with a reference: all matches of words and phrases, and the best choice of them.

Denkowski and Lavie, "Meteor 1.3" (WMT 2011), section 2.1, and "Meteor Universal" (WMT 2014). Every matcher proposes all
of its matches; none holds back those of another. A match that shares no word with any other is settled. Among the
rest a beam search, from the reference's first word to its last, prefers in this order: more matched words, fewer
chunks, less distance. As in METEOR 1.5, and scores depend on each of these:

- An exact match counts its words; any other counts half of them on each side, rounded down. So a single stem, synonym
  or paraphrase weighs nothing and is taken, of contested ones, only where it adds no chunk.
- A contested match adds its distance not to the choice that takes it, but to the choices tried after it.
- 40 choices are carried from word to word. Equal ones keep the order in which they arose; matches are tried in the
  order exact, stem, synonym, paraphrase of the reference's words, paraphrase of the candidate's words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from groma_eval.metrics.meteor_data import MeteorData
from groma_eval.metrics.meteor_paraphrase import LONGEST_PHRASE
from groma_eval.metrics.meteor_stem import stem
from groma_eval.metrics.meteor_tables import HashTable, hash_parts, positions_in

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
Words = tuple[str, ...]
# (start and length in the reference, start and length in the candidate, matcher)
Match = tuple[int, int, int, int, int]
# The phrases of a sentence that may take part in a paraphrase, (start, length, phrase), ascending.
Phrases = list[tuple[int, int, int]]

_BEAM = 40
_NONE: frozenset[str] = frozenset()
_key = itemgetter(0)
# One number orders the choices: matched words (more first), then chunks, then distance (fewer and less first).
_WORD, _CHUNK = -(1 << 48), 1 << 32


@dataclass(frozen=True)
class Candidate:
    """A candidate, prepared for being compared with its references."""

    words: Words
    places: dict[str, list[int]]  # where each word stands
    phrase_places: dict[int, list[tuple[int, int]]]  # (start, length) of each phrase
    # The keys of both once more: two sets are compared by the smaller one's members.
    vocabulary: frozenset[str]
    phrases: frozenset[int]


class Matcher:
    """Finds the matches between any two of the ``sentences`` it was made for.

    What the vocabulary has in common (stems, synonym sets, paraphrases) is worked out once for all of them.
    """

    def __init__(self, sentences: Iterable[Words], data: MeteorData):
        texts = list(dict.fromkeys(sentences))
        vocabulary = list(dict.fromkeys(word for words in texts for word in words))
        stems = _others_by_group((word, [stem(word)]) for word in vocabulary)
        synonyms = _others_by_group(data.synonym_sets(vocabulary).items())
        self._related = {word: stems.get(word, _NONE) | synonyms.get(word, _NONE) for word in {*stems, *synonyms}}
        self._relations = (STEM, stems), (SYNONYM, synonyms)
        self._phrases: dict[Words, Phrases] = {}
        # The paraphrases of each phrase with their rank in the table, and these with the phrases it is one of.
        self._ranks: dict[int, dict[int, int]] = {}
        if data.paraphrases is not None:
            self._phrases, self._ranks = _phrases(texts, data.paraphrases)
        partners: defaultdict[int, set[int]] = defaultdict(set)
        for phrase, others in self._ranks.items():
            partners[phrase].update(others)
            for other in others:
                partners[other].add(phrase)
        self._partners = {phrase: frozenset(others) for phrase, others in partners.items()}

    def candidate(self, words: Words) -> Candidate:
        places: dict[str, list[int]] = {}
        for at, word in enumerate(words):
            places.setdefault(word, []).append(at)
        phrase_places: dict[int, list[tuple[int, int]]] = {}
        for start, length, phrase in self._phrases.get(words, ()):
            phrase_places.setdefault(phrase, []).append((start, length))
        return Candidate(words, places, phrase_places, frozenset(places), frozenset(phrase_places))

    def matches(self, said: Candidate, reference: Words) -> list[list[Match]]:
        """For each word of the reference the matches that start there, in the order in which METEOR tries them."""
        places, related = said.places, self._related
        identical = said.words == reference  # METEOR looks for nothing else then
        rows: list[list[Match]] = []
        for at, word in enumerate(reference):
            row = [(at, 1, mine, 1, EXACT) for mine in places[word]] if word in places else []
            rows.append(row)
            if not identical and word in related and not related[word].isdisjoint(said.vocabulary):
                for module, relation in self._relations:
                    others = said.vocabulary.intersection(relation.get(word, ()))
                    row += [(at, 1, mine, 1, module) for mine in sorted(m for other in others for m in places[other])]
        if not identical:
            self._add_paraphrases(rows, said, reference)
        return rows

    def _add_paraphrases(self, rows: list[list[Match]], said: Candidate, reference: Words) -> None:
        places = said.phrase_places
        backwards = []
        for at, length, phrase in self._phrases.get(reference, ()):
            partners = self._partners[phrase] & said.phrases
            if not partners:
                continue
            ranks = self._ranks.get(phrase, {})
            # By the table's order the paraphrases of the reference's phrase ...
            for other in sorted(partners.intersection(ranks), key=ranks.__getitem__):
                for mine, my_length in places[other]:
                    rows[at].append((at, length, mine, my_length, PARAPHRASE))
            for other in partners:
                if phrase in self._ranks.get(other, ()):
                    rank = self._ranks[other][phrase]
                    backwards += [(*place, rank, at, length) for place in places[other]]
        # ... and after all of them, by the candidate's order, the phrases that it is a paraphrase of.
        for mine, my_length, _, at, length in sorted(backwards):
            rows[at].append((at, length, mine, my_length, PARAPHRASE))

    def align(self, said: Candidate, reference: Words) -> list[Match]:
        """METEOR's alignment, by the reference's order."""
        return choose(self.matches(said, reference), len(said.words))


def _others_by_group(members: Iterable[tuple[str, Iterable[str]]]) -> dict[str, frozenset[str]]:
    """For each word the other words with which it shares a group; words without any are left out."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for word, names in members:
        for name in names:
            groups[name].append(word)
    others: defaultdict[str, set[str]] = defaultdict(set)
    for words in groups.values():
        if len(words) > 1:
            for word in words:
                others[word].update(words)
    return {word: frozenset(found - {word}) for word, found in others.items()}


def _phrases(texts: Sequence[Words], table: HashTable) -> tuple[dict[Words, Phrases], dict[int, dict[int, int]]]:
    """The phrases of each text that have a paraphrase in some text, or are one; the paraphrases of each, with ranks."""
    texts = [words for words in texts if words]
    if not texts:
        return {}, {}
    lines = "\n".join(map(" ".join, texts)).encode("utf-8", "surrogatepass")
    text = np.frombuffer(lines + b"\n" + bytes(8), np.uint8)
    ends = np.flatnonzero((text == ord(" ")) | (text == ord("\n")))
    begins = np.append(0, ends[:-1] + 1)
    line = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    first = np.cumsum([0, *map(len, texts)])[:-1]
    hashes, starts, lengths = [], [], []
    for length in range(1, min(LONGEST_PHRASE, max(map(len, texts))) + 1):
        start = np.flatnonzero(line[: len(line) - length + 1] == line[length - 1 :])
        hashes.append(hash_parts(text, begins[start], ends[start + length - 1] - begins[start]))
        starts.append(start)
        lengths.append(np.full(len(start), length))
    every = np.concatenate(hashes)
    known = np.sort(every)
    known = known[np.append(True, known[1:] != known[:-1])]
    left, found = table.find(known)
    occurring, right = positions_in(known, found)
    left = left[occurring]
    active = np.zeros(len(known), bool)
    active[left] = active[right] = True
    if not active.any():
        return {}, {}
    known = known[active]
    number = np.cumsum(active) - 1
    ranks: dict[int, dict[int, int]] = {}
    for rank, (one, other) in enumerate(zip(number[left].tolist(), number[right].tolist())):
        ranks.setdefault(one, {}).setdefault(other, rank)

    here, phrase = positions_in(known, every)
    start, length = np.concatenate(starts)[here], np.concatenate(lengths)[here]
    order = np.lexsort((length, start))
    start, length, phrase = start[order], length[order], phrase[order]
    items = list(zip((start - first[line[start]]).tolist(), length.tolist(), phrase.tolist()))
    bounds = np.searchsorted(start, np.append(first, len(line))).tolist()
    return {words: items[a:b] for words, a, b in zip(texts, bounds, bounds[1:])}, ranks


def choose(rows: Sequence[Sequence[Match]], said_length: int) -> list[Match]:
    """The best of the ``rows`` of matches (those that start at each reference word), as the module's text says."""
    # The words of both sides are the bits of one number, the candidate's first.
    columns: list[list[tuple[int, int, int, int, Match]]] = []
    covered = covered_twice = 0
    for at, row in enumerate(rows):
        column = []
        for match in row:
            _, length, mine, my_length, module = match
            bits = ((1 << my_length) - 1) << mine | ((1 << length) - 1) << (said_length + at)
            covered_twice |= covered & bits
            covered |= bits
            words = length + my_length if module == EXACT else length // 2 + my_length // 2
            column.append((bits, words * _WORD, mine, mine + my_length, match))
        columns.append(column)
    settled = [column[0] if column and not column[0][0] & covered_twice else None for column in columns]
    if covered_twice == 0:
        return [option[-1] for option in settled if option]

    # A choice: its number to order it by, where the open chunk would go on (-1: none is open), the used words, and its
    # matches as (earlier ones, match).
    used = sum(option[0] for option in settled if option)
    choices: list[tuple] = [(0, -1, used, None)]
    for at, column in enumerate(columns):
        if len(choices) > 1:
            choices.sort(key=_key)
            del choices[_BEAM:]
        option = settled[at]
        if option:
            # Its distance is the same for all choices.
            _, gain, mine, end, match = option
            choices = [
                (key + gain if goes_on in (mine, -1) else key + gain + _CHUNK, end, used, (matches, match))
                for key, goes_on, used, matches in choices
            ]
            continue
        here = 1 << (said_length + at)
        following = []
        for choice in choices:
            key, goes_on, used, matches = choice
            if used & here:  # inside a phrase
                following.append(choice)
                continue
            for bits, gain, mine, end, match in column:
                if not used & bits:
                    taken = key + gain if goes_on in (mine, -1) else key + gain + _CHUNK
                    following.append((taken, end, used | bits, (matches, match)))
                    key += abs(at - mine)
            following.append((key if goes_on == -1 else key + _CHUNK, -1, used, matches))
        choices = following
    choices.sort(key=_key)
    best = min(choices[:_BEAM], key=lambda choice: choice[0] if choice[1] == -1 else choice[0] + _CHUNK)
    links, chosen = best[3], []
    while links is not None:
        links, match = links
        chosen.append(match)
    return chosen[::-1]
