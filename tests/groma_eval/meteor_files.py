"""METEOR's data for tests: the real files where there are any, and a hand-made folder of the same form."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from groma_eval.metrics.meteor_data import find_meteor_data

FUNCTION_WORDS = ["the", "a", "of", "in", "is", "."]
PREFIXES = ["# a comment", "", "Mr", "No #NUMERIC_ONLY#"]
SYNSETS = [("child", "1 2"), ("kid", "2"), ("boy", "1"), ("box", "3"), ("crate", "3"), ("go", "4"), ("walk", "4 5")]
EXCEPTIONS = [("child", "children"), ("go", "went gone")]
PARAPHRASES = [
    ("a lot of", "many"),
    ("at the same time", "simultaneously"),
    ("café", "bistro"),
    ("many", "a lot of"),
    ("many", "lots of"),
    ("red", "scarlet"),
    ("red", "crimson"),
    ("red", "ruby"),
    ("red", "cherry"),
    ("simultaneously and without any further delay", "at once"),
]


def write_meteor_files(folder: Path, paraphrases=PARAPHRASES, without: str = "") -> Path:
    """A folder with a tiny ``meteor-1.5.jar`` and ``data/paraphrase-en.gz``; ``without``: a member left out."""
    members = {
        "function/english.words": FUNCTION_WORDS,
        "nonbreaking/english.prefixes": PREFIXES,
        "synonym/english.synsets": [line for entry in SYNSETS for line in entry],
        "synonym/english.exceptions": [line for entry in EXCEPTIONS for line in entry],
    }
    (folder / "data").mkdir(parents=True)
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w", zipfile.ZIP_DEFLATED) as jar:
        for name, lines in members.items():
            if name != without:
                jar.writestr(name, "".join(line + "\n" for line in lines))
    text = "".join(f"0.5\n{phrase}\n{other}\n" for phrase, other in paraphrases)
    (folder / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def real_meteor_data() -> Path:
    """METEOR's own files; the test is skipped where they are not installed."""
    folder = find_meteor_data()
    if folder is None:
        pytest.skip("METEOR's data files are not here: install pycocoevalcap or set GROMA_METEOR_DATA")
    return folder
