"""Records on disk: one JSON line each, found by a table of byte offsets, so that millions of them need little memory.

A store is made once from an annotation file and kept in a cache, named after everything that it depends on. Its table
is mapped, not loaded, and a record is read where it lies by the process that wants it: eight bytes of address space a
record, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from groma_model.data.pictures import find_picture, picture_id
from groma_model.data.readers import READERS, Record

#: To be raised whenever records change their form or content.
_FORMAT = 2


class Store:
    """The records of a finished store; ``counts`` says what was left out and why, ``digest`` is of the records."""

    def __init__(self, folder: Path):
        meta = json.loads((folder / "meta.json").read_text())
        self.counts: dict[str, int] = meta["counts"]
        self.digest: str = meta["digest"]
        self.example: str | None = meta["example"]
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self.path = folder / "records.jsonl"
        self._handle: tuple[int, BinaryIO] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Record:
        """Record ``index``; any process may ask, workers forked from this one too."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not among {len(self)} records")
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), self.path.open("rb"))
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return json.loads(os.pread(self._handle[1].fileno(), end - start, start))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "offsets": None, "_folder": self.path.parent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state.pop("_folder")
        self.__dict__ |= state
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")

    def __iter__(self) -> Iterator[Record]:
        with self.path.open() as lines:
            yield from map(json.loads, lines)

    @property
    def missing(self) -> float:
        """The share of the samples whose picture is missing, of those that are not excluded."""
        absent = self.counts.get("missing_picture", 0)
        return absent / max(1, absent + len(self))


def default_cache() -> Path:
    """``groma/training_data`` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groma" / "training_data"


def open_store(
    reader: str,
    annotations: Path,
    images: Path,
    options: Mapping[str, Any],
    collection: str | None = None,
    exclude: frozenset[tuple[str, str]] = frozenset(),
    cache: Path | None = None,
    rebuild: bool = False,
) -> Store:
    """The store of a set, made first where it is not there yet (or ``rebuild``).

    Records whose picture is in ``exclude`` (pairs of collection and id) or is no file below ``images`` are left out and
    counted. Pictures are looked for when the store is made and not again.

    Raises:
        ValueError: the annotations do not read, or the images folder is missing.
    """
    try:
        state = annotations.stat()
    except OSError:
        raise ValueError(f"{annotations}: no such annotation file") from None
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder of images (of {annotations.name})")
    key = [_FORMAT, reader, str(annotations.resolve()), state.st_size, state.st_mtime_ns, str(images.resolve()),
           {k: str(v) for k, v in sorted(options.items())}, collection, sorted(exclude)]  # fmt: skip
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    folder = (cache or default_cache()) / f"{annotations.stem}-{name}"
    if rebuild or not (folder / "meta.json").is_file():
        _build(folder, reader, annotations, images, options, collection, exclude)
    return Store(folder)


def _build(folder: Path, reader: str, annotations: Path, images: Path, options: Mapping[str, Any],
           collection: str | None, exclude: frozenset[tuple[str, str]]) -> None:  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    tally: Counter[str] = Counter()
    offsets, example = array("Q", [0]), None
    digest = hashlib.sha256()
    try:
        with (made / "records.jsonl").open("wb") as out:
            bar = tqdm(desc=f"reading {annotations.name}", unit=" samples", disable=not sys.stderr.isatty())
            for record in READERS[reader].read(annotations, options, tally):
                bar.update()
                found = find_picture(images, record["image"])
                if exclude and picture_id(images / (found or record["image"]), collection) in exclude:
                    tally["excluded"] += 1
                elif found is None:
                    tally["missing_picture"] += 1
                    example = example or record["image"]
                else:
                    line = json.dumps({**record, "image": found}, separators=(",", ":")).encode() + b"\n"
                    out.write(line)
                    digest.update(line)
                    offsets.append(offsets[-1] + len(line))
            bar.close()
        np.save(made / "offsets.npy", np.frombuffer(offsets, np.uint64))
        (made / "meta.json").write_text(
            json.dumps({"counts": dict(tally), "example": example, "digest": digest.hexdigest()})
        )
        _put(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _put(made: Path, folder: Path) -> None:
    """Move a finished store to its place. Several processes may make the same one at once: any of them will do."""
    old = made.with_name(made.name + ".old")
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(made, folder)
    except OSError:
        if not (folder / "meta.json").is_file():
            raise
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
