"""METEOR's words, data files and compiled tables, on hand-made files."""

from __future__ import annotations

import gzip
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meteor_files import PARAPHRASES, write_meteor_files

from groma_eval.core import HarnessError
from groma_eval.metrics import meteor_data, meteor_paraphrase
from groma_eval.metrics.meteor import ALL_MATCHERS, FEW_MATCHERS, meteor, meteor_matchers
from groma_eval.metrics.meteor_data import MeteorData, find_meteor_data, load_meteor_data
from groma_eval.metrics.meteor_paraphrase import paraphrase_table
from groma_eval.metrics.meteor_tables import HashTable, hashes_of, positions_in
from groma_eval.metrics.meteor_words import meteor_words


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of its own for each test, and nothing installed or named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GROMA_METEOR_DATA", raising=False)
    meteor_data._load.cache_clear()
    yield tmp_path / "cache" / "groma-eval"
    meteor_data._load.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return write_meteor_files(tmp_path / "meteor")


def paraphrases_of(table: HashTable, phrase: str, among: list[str]) -> list[str]:
    names = {int(number): name for name, number in zip(among, hashes_of(among))}
    return [names[int(number)] for number in table.find(hashes_of([phrase]))[1]]


# What the tool's own normaliser makes of these lines (with its list of abbreviations, of which these three matter).
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a man riding a wave", "a man riding a wave"),
        ("Red, white and blue; well-lit!", "red , white and blue ; well lit !"),
        ("the man 's dog is n't here", "the man ' s dog is n 't here"),
        ("It's 5,000 U.S. dollars --- isn't it?", "it 's 5,000 us dollars -- isn 't it ?"),
        ("a,,b and a , b", "a , ,b and a , b"),
        ("x'y'z", "x 'y'z"),
        ("rock-n-roll -- or not", "rock n-roll - or not"),
        ("the 1990's and the 5' fence", "the 1990 's and the 5 ' fence"),
        ("\"quoted\" ‘single’ “double” ''both``", '" quoted " \' single \' " double " " both "'),
        ("Mr. Smith met mr. Brown.", "mr. smith met mr . brown ."),
        ("No. 5 of no. 6, No. one", "no. 5 of no . 6 , no. one"),
        ("wait... what.. now.", "wait ... what .. now ."),
        ("e.g. this i.e. that p.m. Inc. Nos.", "eg this ie that pm inc . nos."),
        ("-lrb- small -rrb- 50% #1 $2.50 a/b a_b", "-lrb- small -rrb- 50 % # 1 $ 2.50 a / b a _ b"),
        ("naïve café ĄĘ Жук Ωmega ½ 😀", "naïve café ąę жук ω mega ½ 😀"),
        ("1,2 a,1 1,a", "1,2 a , 1 1 , a"),
        ("'tis the dogs' day '", "' tis the dogs ' day '"),
        ("U.S.-based end.", "us based end ."),
        ("wide space and　ideographic", "wide space and ideographic"),
        (".", "."),
        ("  ", ""),
        ("", ""),
    ],
)
def test_words_are_the_tools(text, words):
    assert " ".join(meteor_words(text, {"Mr": False, "Nos": False, "No": True})) == words


def test_words_of_real_captions_are_the_tools(shared):
    """Plain words take a short way: it must give what the whole way gives."""
    captions = (shared / "data" / "captions" / "en_captions_val2014_results_after_tokenization.json").read_text()
    for text in captions.replace('"', "\n").split("\n")[:4000]:
        # A zero-width mark at the end makes the text not plain; it becomes a word of its own.
        assert meteor_words(text, {}) == meteor_words(f"{text} \u200b", {})[:-1]


def test_synonym_sets_follow_wordnets_rules(folder):
    data = load_meteor_data(folder)
    sets = data.synonym_sets(["children", "kids", "went", "walking", "walked", "boxes", "boss", "as", "unknown"])
    assert sets == {
        "children": {1, 2},
        "kids": {2},
        "went": {4},
        "walking": {4, 5},
        "walked": {4, 5},
        "boxes": {3},
        "boss": set(),
        "as": set(),
        "unknown": set(),
    }
    # "boys" is looked up as it stands and as "boy", a listed form never by rule.
    assert data.synonym_sets(["boy", "boys", "gone"]) == {"boy": {1}, "boys": {1}, "gone": {4}}
    assert MeteorData().synonym_sets(["boys"]) == {}


def test_meteor_with_the_hand_made_data(folder):
    def score(said: str, reference: str) -> float:
        return meteor({"a": said}, {"a": [reference]}, tokenise=str.split, data=folder)[1]["a"]

    # Synonyms earn 0.8, paraphrases 0.6 for each of their words; one match of all words is one chunk.
    assert score("kid", "child") == pytest.approx(80.0)
    assert score("simultaneously", "at the same time") == pytest.approx(60.0)
    # "the" is a function word of these files, "at" is none: 0.6 of all words on both sides in the weighted means.
    assert score("the simultaneously", "the at the same time") == pytest.approx(
        100 / (0.15 / ((0.25 + 0.6 * 0.75) / 1.0) + 0.85 / ((0.25 + 0.6 * (3 * 0.75 + 0.25)) / (0.5 + 3 * 0.75)))
    )
    assert score("apple", "pear") == 0.0


def test_data_is_found_by_argument_environment_and_package(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert find_meteor_data() is None
        assert meteor_matchers() == FEW_MATCHERS
        assert meteor_matchers(folder) == ALL_MATCHERS

    package = tmp_path / "site" / "pycocoevalcap"
    write_meteor_files(package / "meteor")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    assert find_meteor_data() == package / "meteor"
    monkeypatch.setenv("GROMA_METEOR_DATA", str(folder))
    assert find_meteor_data() == folder
    assert find_meteor_data(package / "meteor") == package / "meteor"


def test_a_package_without_the_files_counts_as_absent(tmp_path, monkeypatch):
    (tmp_path / "site" / "pycocoevalcap").mkdir(parents=True)
    (tmp_path / "site" / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_meteor_data() is None


def test_the_compiled_tables_are_written_once_and_used_again(folder, cache, monkeypatch):
    first = meteor({"a": "a lot of kids"}, {"a": ["many children"]}, data=folder)
    written = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert sorted(name.split("-")[1] for name in written) == ["paraphrases", "synsets"]
    meteor_data._load.cache_clear()
    monkeypatch.setattr(meteor_paraphrase, "_compile", None)
    monkeypatch.setattr(meteor_data, "_synsets", None)
    assert meteor({"a": "a lot of kids"}, {"a": ["many children"]}, data=folder) == first
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == written


def test_another_tables_content_is_compiled_anew(tmp_path, cache):
    other = [("a lot of", "a bunch"), *PARAPHRASES[1:]]
    for name, entries, paraphrase in (("one", PARAPHRASES, "many"), ("two", other, "a bunch")):
        path = write_meteor_files(tmp_path / name, entries) / "data" / "paraphrase-en.gz"
        assert paraphrases_of(paraphrase_table(path), "a lot of", ["many", "a bunch"]) == [paraphrase]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-8], lambda b: b"junkjunk" + b[8:], lambda b: b[:5], lambda b: b""])
def test_a_damaged_compiled_table_is_made_again(folder, cache, damage):
    path = folder / "data" / "paraphrase-en.gz"
    paraphrase_table(path)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert paraphrases_of(paraphrase_table(path), "many", ["a lot of", "lots of"]) == ["a lot of", "lots of"]
    assert file.read_bytes() == sound
    assert list(cache.iterdir()) == [file]


def test_a_cache_that_cannot_be_written_costs_time_only(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert meteor({"a": "kid"}, {"a": ["child"]}, data=folder)[0] == pytest.approx(80.0)


def test_the_table_in_small_parts_unsorted_and_repeated(tmp_path, cache, monkeypatch):
    entries = [*PARAPHRASES, ("a lot of", "numerous"), ("b", "x"), ("a lot of", "plenty"), ("a lot of", "any")]
    path = write_meteor_files(tmp_path / "meteor", entries) / "data" / "paraphrase-en.gz"
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))  # two members make one file
    whole = paraphrase_table(path)
    (file,) = cache.iterdir()
    file.unlink()
    monkeypatch.setattr(meteor_paraphrase, "_READ", 16)
    parts = paraphrase_table(path)
    everything = sorted({name for entry in entries for name in entry})
    for table in (whole, parts):
        for phrase in everything:
            expected = [other for one, other in entries if one == phrase]
            assert paraphrases_of(table, phrase, everything) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"0.5\na\nb\n0.5\nc\n"), "ends within an entry"),
        (gzip.compress(b"0.5\na\nb\n" * 900)[:-20], "is cut short"),
        (b"0.5\na\nb\n", "is damaged"),
        (b"", "is cut short"),
    ],
)
def test_an_unusable_paraphrase_table_is_refused(folder, cache, content, message):
    (folder / "data" / "paraphrase-en.gz").write_bytes(content)
    with pytest.raises(HarnessError, match=message) as error:
        load_meteor_data(folder)
    assert "\n" not in str(error.value)
    assert "paraphrase-en.gz" in str(error.value)
    assert not list(cache.glob("*paraphrases*"))


def no_jar(folder):
    (folder / "meteor-1.5.jar").unlink()


def no_table(folder):
    (folder / "data" / "paraphrase-en.gz").unlink()


def no_zip(folder):
    (folder / "meteor-1.5.jar").write_bytes(b"PK but no zip file")


def no_member(folder):
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w") as jar:
        jar.writestr("function/english.words", "the\n")


def no_text(folder):
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w") as jar:
        jar.writestr("function/english.words", b"\xff\xfe\xff")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_jar, "has no meteor-1.5.jar"),
        (no_table, "has no data.paraphrase-en.gz"),
        (no_zip, "cannot be read"),
        (no_member, "english.prefixes"),
        (no_text, "cannot be read"),
    ],
)
def test_a_named_folder_that_is_not_sound_is_refused(folder, damage, message, monkeypatch):
    damage(folder)
    for named in (folder, None):
        if named is None:
            monkeypatch.setenv("GROMA_METEOR_DATA", str(folder))
        with pytest.raises(HarnessError, match=message) as error:
            meteor({"a": "x"}, {"a": ["x"]}, data=named)
        assert "\n" not in str(error.value)


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=40), unique=True, max_size=40))
def test_hashes_tell_words_apart_and_do_not_depend_on_their_neighbours(words):
    hashes = hashes_of(words)
    assert len(set(hashes.tolist())) == len(words)
    assert [int(hashes_of([word])[0]) for word in words] == hashes.tolist()


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_positions_in(known, others):
    known, asked = sorted(set(known)), [*others, *known[::2]]
    index, position = positions_in(np.array(known, np.uint64), np.array(asked, np.uint64))
    assert dict(zip(index.tolist(), position.tolist())) == {
        i: known.index(number) for i, number in enumerate(asked) if number in known
    }
