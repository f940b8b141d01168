"""METEOR's alignment against a slow plain definition, and on hand-made data whose every match is known."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meteor_files import write_meteor_files

from groma_eval.metrics.meteor_align import EXACT, PARAPHRASE, STEM, SYNONYM, Matcher, choose
from groma_eval.metrics.meteor_data import MeteorData, load_meteor_data
from groma_eval.metrics.meteor_stem import stem


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield load_meteor_data(write_meteor_files(tmp_path_factory.mktemp("meteor")))


def matches(said: str, reference: str, data: MeteorData = MeteorData()) -> list[list[tuple]]:  # noqa: B008
    words, others = tuple(said.split()), tuple(reference.split())
    matcher = Matcher([words, others], data)
    return matcher.matches(matcher.candidate(words), others)


def aligned(said: str, reference: str, data: MeteorData = MeteorData()) -> list[tuple]:  # noqa: B008
    return choose(matches(said, reference, data), len(said.split()))


def slow_choice(rows: list[list[tuple]], said_length: int) -> list[tuple]:
    """The search as METEOR does it, path by path: words as sets, every path on its own."""
    coverage: dict[tuple[str, int], int] = {}
    words = {}
    for match in itertools.chain(*rows):
        at, length, mine, my_length, _ = match
        covered = [("r", w) for w in range(at, at + length)] + [("c", w) for w in range(mine, mine + my_length)]
        words[match] = frozenset(covered)
        for word in covered:
            coverage[word] = coverage.get(word, 0) + 1
    fixed = {row[0][0]: row[0] for row in rows if len(row) == 1 and all(coverage[w] == 1 for w in words[row[0]])}
    taken = frozenset().union(*(words[match] for match in fixed.values()))

    def extended(path, match, distance):
        weight = 1.0 if match[4] == EXACT else 0.5
        matched = path["matched"] + int(weight * match[1]) + int(weight * match[3])
        breaks = path["end"] is not None and path["end"] != match[2]
        return {
            "matched": matched,
            "chunks": path["chunks"] + breaks,
            "distance": distance,
            "end": match[2] + match[3],
            "used": path["used"] | words[match],
            "links": [*path["links"], match],
        }

    def order(path):
        return -path["matched"], path["chunks"], path["distance"]

    paths = [{"matched": 0, "chunks": 0, "distance": 0, "end": None, "used": taken, "links": []}]
    for at, row in enumerate(rows):
        following = []
        for path in sorted(paths, key=order)[:40]:
            if at in fixed:
                following.append(extended(path, fixed[at], path["distance"] + abs(at - fixed[at][2])))
            elif ("r", at) in path["used"]:
                following.append(path)
            else:
                distance = path["distance"]
                for match in row:
                    if not path["used"] & words[match]:
                        following.append(extended(path, match, distance))
                        distance += abs(at - match[2])
                closed = path["chunks"] + (path["end"] is not None)
                following.append({**path, "distance": distance, "chunks": closed, "end": None})
        paths = following
    paths = sorted(paths, key=order)[:40]
    for path in paths:
        path["chunks"] += path["end"] is not None
    return min(paths, key=order)["links"]


@st.composite
def rows_of_matches(draw):
    """Rows as the matchers might make them, phrases among them; the second number is the candidate's length."""
    reference_length, said_length = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rows: list[list[tuple]] = [[] for _ in range(reference_length)]
    for _ in range(draw(st.integers(0, 14))):
        at, mine = draw(st.integers(0, reference_length - 1)), draw(st.integers(0, said_length - 1))
        module = draw(st.sampled_from([EXACT, EXACT, STEM, SYNONYM, PARAPHRASE]))
        longest = 4 if module == PARAPHRASE else 1
        length, my_length = draw(st.integers(1, longest)), draw(st.integers(1, longest))
        match = (at, min(length, reference_length - at), mine, min(my_length, said_length - mine), module)
        if match not in rows[at]:
            rows[at].append(match)
    return rows, said_length


@settings(max_examples=400, deadline=None)
@given(rows_of_matches())
def test_choice_equals_the_slow_definition(drawn):
    rows, said_length = drawn
    assert choose(rows, said_length) == slow_choice(rows, said_length)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=14), st.lists(st.sampled_from("abc"), max_size=14))
def test_the_beam_drops_what_the_slow_definition_drops(said, reference):
    rows = matches(" ".join(said), " ".join(reference))
    assert choose(rows, len(said)) == slow_choice(rows, len(said))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_exact_matches_are_the_most_possible_in_the_fewest_chunks(said, reference):
    links = aligned(" ".join(said), " ".join(reference))
    by_word = {at: mine for at, _, mine, _, _ in links}
    assert len(set(by_word.values())) == len(links)
    assert all(said[mine] == reference[at] for at, mine in by_word.items())
    assert (-len(links), chunks([by_word.get(at) for at in range(len(reference))])) == best_exact(said, reference)


def chunks(links) -> int:
    return sum(
        m is not None and (at == 0 or links[at - 1] is None or links[at - 1] != m - 1) for at, m in enumerate(links)
    )


def best_exact(said, reference):
    """(-matches, chunks) of the best exact alignment, by trying all."""
    found = (0, 0)
    for links in itertools.product(*([None, *(m for m, w in enumerate(said) if w == r)] for r in reference)):
        used = [m for m in links if m is not None]
        if len(used) == len(set(used)):
            found = min(found, (-len(used), chunks(links)))
    return found


def test_every_matcher_proposes_its_matches(tiny):
    # Reference word by word: an irregular form and a synonym, a phrase, and that phrase as a paraphrase's paraphrase.
    rows = matches("the children went in many crates", "the kid walks in a lot of box", tiny)
    assert rows == [
        [(0, 1, 0, 1, EXACT)],
        [(1, 1, 1, 1, SYNONYM)],
        [(2, 1, 2, 1, SYNONYM)],
        [(3, 1, 3, 1, EXACT)],
        [(4, 3, 4, 1, PARAPHRASE), (4, 3, 4, 1, PARAPHRASE)],
        [],
        [],
        [(7, 1, 5, 1, SYNONYM)],
    ]
    assert matches("crates", "crate", tiny) == [[(0, 1, 0, 1, STEM), (0, 1, 0, 1, SYNONYM)]]
    assert matches("bistro simultaneously", "café at the same time", tiny)[:2] == [
        [(0, 1, 0, 1, PARAPHRASE)],
        [(1, 4, 1, 1, PARAPHRASE)],
    ]
    # One way only is enough, whichever side says it; a sentence is not a paraphrase of itself.
    assert matches("lots of", "many", tiny) == [[(0, 1, 0, 2, PARAPHRASE)]]
    assert matches("many", "lots of", tiny) == [[(0, 2, 0, 1, PARAPHRASE)], []]
    # By the order of the table, not of the words or the sentence.
    shades = "cherry ruby crimson scarlet"
    assert [match[2] for match in matches(shades, "red", tiny)[0]] == [3, 2, 1, 0]
    assert [match[2:] for row in matches("red", shades, tiny) for match in row] == [(0, 1, PARAPHRASE)] * 4
    assert matches("a red b red", "ruby", tiny) == [[(0, 1, 1, 1, PARAPHRASE), (0, 1, 3, 1, PARAPHRASE)]]
    assert matches("crates crate", "crates crate", tiny) == [[(0, 1, 0, 1, EXACT)], [(1, 1, 1, 1, EXACT)]]


def test_matches_of_a_pair_do_not_depend_on_the_other_sentences(tiny):
    texts = ["many children went", "a lot of boys walk in", "lots of kids", "at the same time", "crates box", "box"]
    words = [tuple(text.split()) for text in texts]
    together = Matcher(words, tiny)
    for said, reference in itertools.product(range(len(texts)), repeat=2):
        found = together.matches(together.candidate(words[said]), words[reference])
        assert found == matches(texts[said], texts[reference], tiny)


def test_contested_matches():
    # Stems: alone they are settled; contested ones weigh nothing and are taken only where they add no chunk.
    assert aligned("running", "runs") == [(0, 1, 0, 1, STEM)]
    assert aligned("running runs", "run") == []
    assert aligned("a running runs", "a run") == [(0, 1, 0, 1, EXACT), (1, 1, 1, 1, STEM)]
    # Fewer chunks come before less distance.
    assert aligned("the x the cat", "y the cat") == [(1, 1, 2, 1, EXACT), (2, 1, 3, 1, EXACT)]
    assert aligned("", "a") == aligned("a", "") == []


def test_stems_are_those_of_2010():
    expected = {
        "added": "ad",  # "add" in later releases
        "universities": "univers",
        "apologist": "apologist",
        "cats": "cat",
        "ponies": "poni",
        "ties": "tie",
        "gas": "gas",
        "kiwis": "kiwi",
        "hopping": "hop",
        "hoping": "hope",
        "agreed": "agre",
        "luxuriated": "luxuri",
        "cry": "cri",
        "say": "say",
        "youth": "youth",
        "boyish": "boyish",
        "generously": "generous",
        "communication": "communic",
        "relational": "relat",
        "vietnamization": "vietnam",
        "analogically": "analog",
        "adoption": "adopt",
        "controlling": "control",
        "roll": "roll",
        "skies": "sky",
        "news": "news",
        "innings": "inning",
        "man's": "man",
        "'tis": "tis",
        "is": "is",
        "café": "café",
    }
    assert {word: stem(word) for word in expected} == expected
