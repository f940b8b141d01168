"""Large tables of METEOR's data by hash, kept in the user's cache folder and mapped into memory.

Of a word or phrase only its identity is ever needed, so it is kept as a 64-bit hash of its UTF-8 bytes. Among millions
of phrases a false match has a chance of about one in a hundred million a corpus.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MAGIC = int.from_bytes(b"groma-m1", "little")
_HEADER = 3  # numbers: magic, keys, values
# The low 0 to 8 bytes of a 64-bit number, and the odd multipliers of the hash.
_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_MIX, _MIX_LENGTH, _MIX_LAST = (np.uint64(n) for n in (0x9FB21C651E98DF25, 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93))
_BITS = 22


@dataclass(frozen=True)
class HashTable:
    """The values of ``keys[i]`` are ``values[starts[i]:stops[i]]``; all are uint64, the keys ascend.

    A key may stand there more than once; its values are then those of all places, in their order.
    """

    keys: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    values: np.ndarray

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values of all ``hashes``, one after the other, each with the index of its hash: (index, value)."""
        known, at = positions_in(self.keys, hashes)
        owner, key = _expand(at, np.searchsorted(self.keys, hashes[known], side="right"))
        key_owner, place = _expand(self.starts[key].astype(np.int64), self.stops[key].astype(np.int64))
        return known[owner[key_owner]], self.values[place]


def _expand(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions of the ranges ``starts[i]:stops[i]`` one after the other, each with its i: (i, position)."""
    counts = stops - starts
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) + (starts - first)[owner]


def table_of(keys: np.ndarray, starts: np.ndarray, values: np.ndarray) -> HashTable:
    """A table of ``keys`` in any order whose values begin at ``starts``, each up to where the next one's begin."""
    starts = starts.astype(np.uint64)
    stops = np.append(starts[1:], np.uint64(len(values)))
    order = np.argsort(keys, kind="stable")
    return HashTable(keys[order], starts[order], stops[order], values)


def positions_in(known: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which ``hashes`` are among ``known`` (ascending), and where there: (index, position)."""
    if not len(known):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # A table of bits drops nearly all that are not there before they are searched for.
    low = np.uint64((1 << _BITS) - 1)
    bits = np.zeros(1 << _BITS, bool)
    bits[known & low] = True
    maybe = np.flatnonzero(bits[hashes & low])
    at = np.minimum(np.searchsorted(known, hashes[maybe]), len(known) - 1)
    there = known[at] == hashes[maybe]
    return maybe[there], at[there]


def hashes_of(words: Sequence[str]) -> np.ndarray:
    """Hashes of words without line breaks."""
    text = "\n".join(["", *words, ""]).encode("utf-8", "surrogatepass")
    letters = np.frombuffer(text + bytes(8), np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    return hash_parts(letters, ends[:-1] + 1, np.diff(ends) - 1)


def hash_parts(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """64-bit hashes of ``text[starts[i]:starts[i] + lengths[i]]``.

    ``text`` is uint8 with at least eight bytes after the last of these parts, which are read eight bytes at a time.
    """
    eights = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    hashes = lengths.astype(np.uint64) * _MIX_LENGTH
    rows: np.ndarray | slice = slice(None)
    left = lengths
    done = 0
    while len(left):
        part = eights[starts[rows] + done] & _LOW_BYTES[np.minimum(left, 8)]
        mixed = (hashes[rows] ^ part) * _MIX
        hashes[rows] = mixed ^ (mixed >> np.uint64(29))
        done += 8
        longer = np.flatnonzero(left > 8)
        rows = longer if isinstance(rows, slice) else rows[longer]
        left = left[longer] - 8
    hashes *= _MIX_LAST
    return hashes ^ (hashes >> np.uint64(32))


def cache_folder() -> Path:
    """``groma-eval`` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groma-eval"


def cached_table(name: str, build: Callable[[], HashTable]) -> HashTable:
    """The table kept under ``name`` in the cache folder; built, and kept for the next time, where it is not there.

    ``name`` must tell the content. A folder that cannot be written costs time only.
    """
    file = cache_folder() / f"{name}.bin"
    table = _mapped(file)
    if table is None:
        table = build()
        _store(table, file)
    return table


def _mapped(file: Path) -> HashTable | None:
    try:
        numbers = np.memmap(file, "<u8", "r")
    except (OSError, ValueError):
        return None
    if len(numbers) < _HEADER or int(numbers[0]) != _MAGIC:
        return None
    keys, values = int(numbers[1]), int(numbers[2])
    if len(numbers) != _HEADER + 3 * keys + values:
        return None
    return HashTable(*np.split(np.asarray(numbers[_HEADER:]), [keys, 2 * keys, 3 * keys]))


def _store(table: HashTable, file: Path) -> None:
    header = np.array([_MAGIC, len(table.keys), len(table.values)], np.uint64)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.stem)
        with open(handle, "wb") as out:
            for numbers in (header, table.keys, table.starts, table.stops, table.values):
                out.write(numbers.astype("<u8", copy=False).data)
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
