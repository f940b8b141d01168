"""METEOR's paraphrase table, from which a compiled form is made once.

The table (``paraphrase-en.gz``) has three lines an entry, a probability that METEOR does not use, a phrase and one of
its paraphrases: 5.3 million entries for English. The compiled form is a file of 50 MB, made in a few seconds.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from groma_eval.core import HarnessError
from groma_eval.metrics.meteor_tables import HashTable, cached_table, hash_parts, table_of

LONGEST_PHRASE = 7  # words; METEOR's table holds no longer phrase
_READ = 1 << 18  # compressed bytes read at a time


def paraphrase_table(path: Path) -> HashTable:
    """Hash of a phrase -> hashes of its paraphrases, in the order of the table at ``path`` (gzip).

    Raises HarnessError where the table cannot be read.
    """
    # Its size and the checksum and length that gzip ends with tell the content without reading it all.
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - 8))
            checksum = file.read(8).hex()
    except OSError as error:
        raise HarnessError(f"METEOR's paraphrase table {path} cannot be read: {error.strerror}") from None
    return cached_table(f"meteor-paraphrases-{size}-{checksum}", lambda: _compile(path))


def _compile(path: Path) -> HashTable:
    keys, starts, paraphrases = [], [], []
    entries = 0
    for text, ends in _whole_entries(path):
        phrase = hash_parts(text, ends[0::3] + 1, ends[1::3] - ends[0::3] - 1)
        paraphrases.append(hash_parts(text, ends[1::3] + 1, ends[2::3] - ends[1::3] - 1))
        first = np.flatnonzero(np.append(True, phrase[1:] != phrase[:-1]))
        keys.append(phrase[first])
        starts.append(first + entries)
        entries += len(phrase)
    if not entries:
        raise HarnessError(f"METEOR's paraphrase table {path} is empty: get the data files again")
    return table_of(np.concatenate(keys), np.concatenate(starts), np.concatenate(paraphrases))


def _whole_entries(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The table's text (uint8) in parts of whole entries, each with where its lines end, three an entry."""
    rest = b""
    for part in _unpacked(path):
        text = np.frombuffer(rest + part + bytes(8), np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        ends = ends[: len(ends) // 3 * 3]
        rest = text[ends[-1] + 1 : -8].tobytes() if len(ends) else rest + part
        if len(ends):
            yield text, ends
    if rest:
        raise HarnessError(f"METEOR's paraphrase table {path} ends within an entry: get the data files again")


def _unpacked(path: Path) -> Iterator[bytes]:
    """The parts of a gzip file; the next is unpacked in a thread of its own while one is worked on."""
    unpacker = zlib.decompressobj(31)

    def following() -> bytes:
        nonlocal unpacker
        packed = file.read(_READ)
        parts = []
        while packed:
            if unpacker.eof:
                unpacker = zlib.decompressobj(31)
            parts.append(unpacker.decompress(packed))
            packed = unpacker.unused_data
        return b"".join(parts)

    try:
        with open(path, "rb") as file, ThreadPoolExecutor(1) as pool:
            size, unread = os.fstat(file.fileno()).st_size, pool.submit(following)
            while True:
                part, at_end = unread.result(), file.tell() >= size
                if not at_end:
                    unread = pool.submit(following)
                yield part
                if at_end:
                    break
    except OSError as error:
        raise HarnessError(f"METEOR's paraphrase table {path} cannot be read: {error.strerror}") from None
    except zlib.error as error:
        raise HarnessError(f"METEOR's paraphrase table {path} is damaged: {error}; get the data files again") from None
    if not unpacker.eof:
        raise HarnessError(f"METEOR's paraphrase table {path} is cut short: get the data files again")
