"""METEOR against meteor-1.5.jar: the stored values of whole caption files, and pairs of every difficulty."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest
from meteor_files import real_meteor_data

from groma_eval.core import HarnessError
from groma_eval.metrics.meteor import (
    ALL_MATCHERS,
    FEW_MATCHERS,
    MeteorStats,
    meteor,
    meteor_matchers,
    pair_stats,
    total_stats,
)
from groma_eval.metrics.meteor_align import Matcher
from groma_eval.metrics.meteor_data import load_meteor_data
from groma_eval.metrics.meteor_paraphrase import paraphrase_table
from groma_eval.metrics.meteor_tables import hashes_of
from groma_eval.metrics.meteor_words import meteor_words

# Candidate, reference, the jar's line of statistics (lengths, function words, then of each matcher the content words
# and function words matched on both sides, chunks, matched words) and its score.
# fmt: off
PAIRS = [
    ("a man riding a horse on the beach", "a man is riding a horse along the shore",
     "8 9 4 4 3 3 3 3 0 0 0 0 0 1 1 0 0 0 0 0 2 7 7", 0.4071553592041319),
    ("the man looked at the cars", "a man looks at a car",
     "6 6 3 3 0 0 1 1 1 1 0 0 0 0 0 0 2 2 1 2 2 5 6", 0.3188373231473224),
    ("two kids are playing football", "a couple of children play soccer",
     "5 6 2 2 0 0 0 0 0 0 0 0 0 0 0 0 3 4 2 2 1 5 6", 0.5999999999999999),
    ("a large number of people in the street", "many people are standing in the road",
     "8 7 5 4 0 0 2 2 0 0 0 0 0 0 0 0 3 2 2 1 2 7 5", 0.25579539061699863),
    ("the the the cat cat sat", "the cat sat on the mat near the cat",
     "6 9 3 4 3 3 3 3 0 0 0 0 0 0 0 0 0 0 0 0 4 6 6", 0.2986530940017582),
    ("a dog and a cat and a bird and a fish in a box", "a fish and a bird in a box and a cat and a dog",
     "14 14 9 9 5 5 9 9 0 0 0 0 0 0 0 0 0 0 0 0 6 14 14", 0.493527472093534),
    ("on the table there is a cup on the left of a plate on the table",
     "there is a plate on the right of the cup on the table",
     "16 13 11 9 3 3 9 9 0 0 0 0 0 0 0 0 0 0 0 0 6 12 12", 0.39531282374261417),
    ("he doesn't like Mr. Smith's dog.", "He does not like Mr Smith 's dogs .",
     "9 10 4 5 2 2 2 2 1 1 0 0 1 1 0 0 1 1 0 0 3 7 7", 0.3480798291843564),
    ("a well-known U.S. car, red...", "a well known US car ; red",
     "8 7 2 1 5 5 1 1 0 0 0 0 0 0 0 0 0 0 0 0 2 6 6", 0.433090392015759),
    ("in front of the building", "before the house",
     "5 3 3 1 0 0 0 0 0 0 0 0 0 0 0 0 1 1 3 1 1 4 2", 0.18161345271025808),
    ("the woman is holding an umbrella", "a lady holds umbrellas",
     "6 4 3 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 1 0 1 2 2", 0.1535366770786046),
    ("a photograph of a bicycle leaning against a wall", "a picture of a bike that leans on the wall",
     "9 10 4 6 0 0 2 2 0 0 0 0 1 1 0 0 2 2 2 2 2 7 7", 0.2701594826797541),
    ("a plane is landing at the airport", "an airplane lands on a runway",
     "7 6 4 3 0 0 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1", 0.03292181069958847),
    ("added sugar", "adding sugars",
     "2 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
    ("left", "left hand side",
     "1 3 0 0 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1", 0.14814814814814814),
    ("people standing in the rain with umbrellas in the rain", "in the rain people are standing with umbrellas",
     "10 8 6 5 3 3 4 4 0 0 0 0 0 0 0 0 0 0 0 0 4 7 7", 0.4127341717032703),
    ("he went went geese feet", "he goes goose foot",
     "5 4 1 1 0 0 1 1 0 0 0 0 1 1 0 0 0 0 0 0 1 2 2", 0.1554140527153978),
    ("there are a lot of boats", "there are many ships",
     "6 4 4 2 0 0 2 2 0 0 0 0 0 0 0 0 1 1 1 0 2 4 3", 0.2175816613890829),
    ("a b a b a b a b a b", "b a b a b a b a b a",
     "10 10 5 5 5 5 5 5 0 0 0 0 0 0 0 0 0 0 0 0 2 10 10", 0.5651322017933826),
    ("a a a a a a of of of of the the the", "the of a the of a the of a the of a a a",
     "13 14 13 14 0 0 13 13 0 0 0 0 0 0 0 0 0 0 0 0 11 13 13", 0.3939566030321495),
    ("big big large large great", "large big great big huge",
     "5 5 0 0 4 4 0 0 0 0 0 0 0 0 0 0 0 0 0 0 4 4 4", 0.32000000000000006),
    ("at the same time a man walks away", "simultaneously a guy is walking away",
     "8 6 4 2 1 1 1 1 1 1 0 0 0 0 0 0 1 1 3 0 2 7 4", 0.27999427567993557),
    ("a close up of a sandwich with lots of vegetables", "close-up of sandwich containing a lot of vegetables",
     "10 9 6 4 3 3 4 4 1 1 0 0 0 0 0 0 0 0 0 0 4 8 8", 0.37504037124299305),
    ("people sitting on benches in a park in the evening", "persons seated at bench of park in evening sun",
     "10 9 6 3 2 2 1 1 0 0 0 0 1 1 0 0 0 1 1 0 3 5 5", 0.24588691033214727),
    ("a red bus drives down the street next to a parked car",
     "a bus that is red is driving past the parked vehicle in the street",
     "12 14 4 7 4 4 2 2 0 0 0 0 0 0 0 0 1 1 0 0 5 7 7", 0.24774855621830372),
    ("xyzzy", "plugh",
     "1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
    ("", "a man",
     "0 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
    # With a beam of 39 or 41 these two have one chunk more.
    ("dax wug wug dax wug wug wug wug", "dax wug dax dax dax dax wug wug",
     "8 8 0 0 5 5 0 0 0 0 0 0 0 0 0 0 0 0 0 0 2 5 5", 0.3127925472242976),
    ("dax dax blicket blicket blicket toma dax toma", "dax blicket toma blicket toma blicket toma dax toma",
     "8 9 0 0 7 7 0 0 0 0 0 0 0 0 0 0 0 0 0 0 4 7 7", 0.3666356570888677),
    ("a man on a man on a man on a horse a man", "man a horse on a man on the horse on a man a",
     "13 13 8 8 4 4 7 7 0 0 0 0 0 0 0 0 0 0 0 0 5 11 11", 0.40274386287356106),
]
# fmt: on
PAIRS_CORPUS = 0.32011118656745463


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The real data files, compiled into a cache folder of this module's own."""
    folder = real_meteor_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        load_meteor_data(folder)
        yield folder


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("GROMA_METEOR_DATA", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def line(stats: MeteorStats) -> str:
    """The statistics as the jar writes them."""
    numbers = [stats.length, stats.reference_length, stats.function_words, stats.reference_function_words]
    for matched in zip(stats.content, stats.reference_content, stats.function, stats.reference_function):
        numbers += matched
    return " ".join(map(str, [*numbers, stats.chunks, stats.matches, stats.reference_matches]))


@pytest.mark.parametrize("name", ["expected_fakecap.json", "expected_refcoco_testA.json"])
def test_caption_files_score_as_the_jar_scores_them(shared, data, name):
    expected = json.loads((shared / "data" / "captions" / name).read_text())
    items = expected["per_item"]
    said = {key: item["hyp_tok"] for key, item in items.items()}
    references = {key: item["refs_tok"] for key, item in items.items()}
    score, per_item = meteor(said, references, tokenise=str.split, data=data)
    assert score / 100 == pytest.approx(expected["corpus"]["METEOR"], abs=1e-12)
    assert max(abs(per_item[key] / 100 - item["METEOR"]) for key, item in items.items()) < 1e-12


def test_the_smallest_case(shared, data):
    folder = shared / "data" / "captions" / "two_sentences"
    said, one, other = ((folder / f"{n}.txt").read_text().splitlines() for n in ("hyp", "ref1", "ref2"))
    score, _ = meteor(dict(enumerate(said)), dict(enumerate(zip(one, other))), data=data)
    assert score / 100 == pytest.approx(0.295797, abs=1e-6)


def test_all_statistics_are_the_jars(data):
    resources = load_meteor_data(data)
    words = {text: meteor_words(text, resources.prefixes) for pair in PAIRS for text in pair[:2]}
    matcher = Matcher(words.values(), resources)
    found = []
    for text, reference, expected, score in PAIRS:
        said, other = words[text], words[reference]
        links = matcher.align(matcher.candidate(said), other)
        found.append(pair_stats(said, other, links, resources.function_words))
        assert line(found[-1]) == expected, (text, reference)
        assert found[-1].score() == pytest.approx(score, abs=1e-15)
    assert total_stats(found).score() == pytest.approx(PAIRS_CORPUS, abs=1e-15)


def test_pairs_score_alike_alone_and_together(data):
    said = {str(n): pair[0] for n, pair in enumerate(PAIRS)}
    references = {str(n): [pair[1]] for n, pair in enumerate(PAIRS)}
    _, together = meteor(said, references, tokenise=str.split, data=data)
    for key in list(said)[:6]:
        alone = meteor({key: said[key]}, {key: references[key]}, tokenise=str.split, data=data)[1]
        assert alone == {key: together[key]}
    assert [together[str(n)] / 100 for n in range(len(PAIRS))] == pytest.approx([pair[3] for pair in PAIRS], abs=1e-12)


def test_the_compiled_table_holds_what_the_table_says(data):
    path = data / "data" / "paraphrase-en.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in itertools.islice(file, 60_000)]
    entries: dict[str, list[str]] = {}
    for phrase, other in zip(lines[1::3], lines[2::3]):
        entries.setdefault(phrase, []).append(other)
    entries.popitem()  # the last phrase may go on
    index, value = paraphrase_table(path).find(hashes_of(list(entries)))
    assert np.array_equal(index, np.repeat(np.arange(len(entries)), [len(others) for others in entries.values()]))
    assert np.array_equal(value, hashes_of([other for others in entries.values() for other in others]))


def test_the_environment_names_the_data(data, monkeypatch):
    monkeypatch.setenv("GROMA_METEOR_DATA", str(data))
    assert meteor_matchers() == ALL_MATCHERS
    assert meteor({"a": "two kids"}, {"a": ["two children"]})[0] == pytest.approx(
        meteor({"a": "two kids"}, {"a": ["two children"]}, data=data)[0]
    )


def test_without_data_only_words_and_stems_match(no_data):
    assert meteor_matchers() == FEW_MATCHERS
    assert meteor({"a": "kids"}, {"a": ["children"]})[0] == 0.0
    # "hand" against "left hand": P = 1, R = 1/2, one chunk for one match.
    expected = 100 * (1 / (0.15 + 0.85 / 0.5)) * (1 - 0.6)
    assert meteor({"a": "hand"}, {"a": ["left hand"]})[1]["a"] == pytest.approx(expected)
    # Function words weigh a third of content words: "the hand" against "hand": P = .75 / (.75 + .25).
    expected = 100 * (1 / (0.15 / 0.75 + 0.85)) * (1 - 0.6)
    assert meteor({"a": "the hand"}, {"a": ["hand"]})[1]["a"] == pytest.approx(expected)
    # A stem match earns 0.6; two words in one chunk of a sentence matched whole.
    assert meteor({"a": "running fast"}, {"a": ["runs fast"]})[1]["a"] == pytest.approx(80.0)


def test_statistics_by_hand():
    # Two exact content words and a synonym function word of three, against two exact and one of four; two chunks.
    stats = MeteorStats(3, 4, 1, 1, (2, 0, 0, 0), (0, 0, 1, 0), (2, 0, 0, 0), (0, 0, 1, 0), 2)
    precision = (2 * 0.75 + 0.8 * 0.25) / (2 * 0.75 + 0.25)
    recall = (2 * 0.75 + 0.8 * 0.25) / (3 * 0.75 + 0.25)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert stats.score() == pytest.approx(mean * (1 - 0.6 * (2 / 3) ** 0.2))


def test_the_best_reference_counts_and_whole_items_add_no_chunk(no_data):
    score, items = meteor({"a": "red ball", "b": "dog"}, {"a": ["blue cube", "red ball"], "b": ["cat"]})
    assert items == {"a": 100.0, "b": 0.0}
    # Corpus: 2 of 3 words match in P and R; the chunk of the item matched whole is not counted.
    assert score == pytest.approx(100 * 2 / 3)
    score, _ = meteor({"a": "red ball", "b": "a dog"}, {"a": ["red ball"], "b": ["dog"]})
    precision, recall = 2.25 / 2.5, 2.25 / 2.25
    assert score == pytest.approx(100 / (0.15 / precision + 0.85 / recall) * (1 - 0.6 * (1 / 3) ** 0.2))


def test_empty_answers_score_zero_and_missing_ones_are_refused(no_data):
    assert meteor({"a": "", "b": "a dog"}, {"a": ["a cat"], "b": ["a dog"]})[1] == {"a": 0.0, "b": 100.0}
    assert meteor({"a": "a cat"}, {"a": ["", "a cat"]})[1] == {"a": 100.0}
    assert meteor({"a": ""}, {"a": [""]}) == (0.0, {"a": 0.0})
    with pytest.raises(HarnessError, match="'b'"):
        meteor({"a": "a cat"}, {"a": ["a cat"], "b": ["a dog"]})
