"""METEOR's own data files: where they are found, and what is read from them.

Nothing of them is part of this package. They come with the Python package ``pycocoevalcap`` (its ``meteor`` folder),
or with METEOR 1.5: ``meteor-1.5.jar`` (function words, abbreviations, WordNet synonyms; read as the zip file it is,
Java is not needed) and beside it ``data/paraphrase-en.gz``.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.meteor_paraphrase import paraphrase_table
from groma_eval.metrics.meteor_tables import HashTable, cached_table, hashes_of, table_of

ENVIRONMENT = "GROMA_METEOR_DATA"
_JAR, _PARAPHRASES = "meteor-1.5.jar", Path("data") / "paraphrase-en.gz"
_FUNCTION_WORDS = "function/english.words"
_PREFIXES = "nonbreaking/english.prefixes"
_SYNSETS, _EXCEPTIONS = "synonym/english.synsets", "synonym/english.exceptions"
# WordNet's rules of detachment (morphy): the first that leads to a word WordNet has is taken, those of nouns first.
# fmt: off
_DETACHMENTS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)
# Words and marks commoner than about one in a thousand in running English; stands in for METEOR's own list.
_COMMON_WORDS = frozenset({
    "a", "about", "after", "all", "also", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can",
    "first", "for", "from", "had", "has", "have", "he", "her", "his", "i", "if", "in", "into", "is", "it",
    "its", "last", "more", "mr", "new", "no", "not", "of", "on", "one", "only", "or", "other", "our", "out",
    "over", "people", "said", "she", "so", "some", "than", "that", "the", "their", "there", "they", "this",
    "time", "to", "two", "up", "was", "we", "were", "what", "when", "which", "who", "will", "with", "would",
    "year", "years", "you", ",", ".", "'", "\"", "(", ")", "-", ":", ";", "$", "%", "'s",
})
# fmt: on


@dataclass(frozen=True)
class MeteorData:
    """What METEOR knows of English. The defaults are what it works with where its files are absent.

    ``prefixes``: abbreviations that keep their full stop; True: before a number only. ``bases``: base forms of
    irregular forms. ``synsets``: word -> its WordNet synonym sets, ``paraphrases``: phrase -> its paraphrases, both by
    hash.
    """

    function_words: frozenset[str] = _COMMON_WORDS
    prefixes: Mapping[str, bool] = field(default_factory=dict)
    bases: Mapping[str, list[str]] = field(default_factory=dict)
    synsets: HashTable | None = None
    paraphrases: HashTable | None = None

    def synonym_sets(self, words: Sequence[str]) -> dict[str, set[int]]:
        """Of each word the synonym sets, with those of its base forms (listed, or the first that a rule leads to)."""
        if self.synsets is None:
            return {}
        forms = {word: self.bases.get(word) or _base_forms(word) for word in words}
        names = list(dict.fromkeys([*words, *(form for group in forms.values() for form in group)]))
        sets: dict[str, set[int]] = {}
        index, value = self.synsets.find(hashes_of(names))
        for name, number in zip(index.tolist(), value.tolist()):
            sets.setdefault(names[name], set()).add(number)
        found = {}
        for word, group in forms.items():
            known = [form for form in group if form in sets]
            chosen = known if word in self.bases else known[:1]
            found[word] = set().union(*(sets[form] for form in [word, *chosen] if form in sets))
        return found


def _base_forms(word: str) -> list[str]:
    """What the rules of detachment make of ``word``, in their order."""
    if len(word) <= 2 or word.endswith("ss"):
        return []
    return [word[: -len(ending)] + instead for ending, instead in _DETACHMENTS if word.endswith(ending)]


def find_meteor_data(data: str | Path | None = None) -> Path | None:
    """The folder of METEOR's data files; None where there is none.

    ``data`` itself, else the folder named by the environment variable GROMA_METEOR_DATA, else that of an installed
    ``pycocoevalcap``. Raises HarnessError where a folder was named and a file is missing in it.
    """
    named = data or os.environ.get(ENVIRONMENT)
    if named:
        folder = Path(named).expanduser()
        missing = [str(name) for name in (_JAR, _PARAPHRASES) if not (folder / name).is_file()]
        if missing:
            raise HarnessError(
                f"METEOR data folder {folder} has no {' and no '.join(missing)}: name the folder 'meteor' of the "
                "package pycocoevalcap, or one with the same files"
            )
        return folder
    try:
        package = importlib.util.find_spec("pycocoevalcap")
    except (ImportError, ValueError):
        return None
    for place in (package.submodule_search_locations or ()) if package else ():
        folder = Path(place) / "meteor"
        if (folder / _JAR).is_file() and (folder / _PARAPHRASES).is_file():
            return folder
    return None


def load_meteor_data(data: str | Path | None = None) -> MeteorData:
    """METEOR's data from the folder :func:`find_meteor_data` finds; without one, the defaults of MeteorData.

    The paraphrase table is compiled once into the user's cache folder. Raises HarnessError for damaged files.
    """
    folder = find_meteor_data(data)
    return MeteorData() if folder is None else _load(folder.resolve())


@lru_cache(maxsize=2)
def _load(folder: Path) -> MeteorData:
    jar = folder / _JAR
    try:
        with zipfile.ZipFile(jar) as archive:

            def lines(name: str) -> list[str]:
                return archive.read(name).decode().split("\n")

            function_words = frozenset(lines(_FUNCTION_WORDS))
            prefixes = _prefixes(lines(_PREFIXES))
            bases = _bases(lines(_EXCEPTIONS))
            listed = archive.getinfo(_SYNSETS)
            name = f"meteor-synsets-{listed.file_size}-{listed.CRC:08x}"
            synsets = cached_table(name, lambda: _synsets(lines(_SYNSETS)))
    except KeyError as error:
        raise HarnessError(f"{jar}: {error.args[0]}; get METEOR 1.5 again") from None
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise HarnessError(f"{jar} cannot be read: {error}; get METEOR 1.5 again") from None
    return MeteorData(function_words, prefixes, bases, synsets, paraphrase_table(folder / _PARAPHRASES))


def _prefixes(lines: Sequence[str]) -> dict[str, bool]:
    entries = [words for words in map(str.split, lines) if words and not words[0].startswith("#")]
    return {words[0]: words[1:2] == ["#NUMERIC_ONLY#"] for words in entries}


def _bases(lines: Sequence[str]) -> dict[str, list[str]]:
    """Lines in pairs: a base form, and its irregular forms."""
    bases: dict[str, list[str]] = {}
    for base, forms in zip(lines[0::2], lines[1::2]):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    return bases


def _synsets(lines: Sequence[str]) -> HashTable:
    """Lines in pairs: a word, and the numbers of its synonym sets."""
    words, sets = lines[0 : len(lines) // 2 * 2 : 2], [numbers.split() for numbers in lines[1::2]]
    starts = np.cumsum([0, *map(len, sets)])[:-1]
    return table_of(hashes_of(words), starts, np.array([int(n) for numbers in sets for n in numbers], np.uint64))
