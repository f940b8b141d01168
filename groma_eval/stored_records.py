"""Reading the results store image by image: memory holds where the lines are, not what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from groma_eval.core import Box, HarnessError

#: What is stored of an answer, in this order.
ANSWER_FIELDS = ("prompt", "raw", "answer", "boxes", "confidences", "phrases", "status", "error")

Record = dict[str, Any]  # one image: image_id, file_hash, answers {question id: fields}, proposals, objectness


def read_lines(path: Path, torn_end: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file, each with the byte that its line begins at.

    With ``torn_end`` an unfinished last line (the process was killed) is left out.
    """
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if torn_end and not line.endswith(b"\n"):
                return
            try:
                yield place, _parsed(line)
            except json.JSONDecodeError as error:
                raise HarnessError(
                    f"{path}: line {number}, column {error.colno}: not JSON ({error.msg}); remove the file's folder "
                    "and run again"
                ) from None
            place += len(line)


def _parsed(line: bytes) -> dict[str, Any]:
    return json.loads(line.decode("utf-8", errors="replace"))


class Place(NamedTuple):
    """Where an image is stored: its file, the byte that its line begins at, whether it has proposals.

    ``rows``: in the merged files, where the lines of its questions begin; a part's line holds them itself.
    """

    file: Path
    start: int
    has_proposals: bool
    rows: list[int] | None


class Records(Mapping[str, Record]):
    """What is stored of a benchmark by image id, each record read from its file when it is asked for.

    ``places``: where an image's lines are; ``samples``: the merged file of questions.
    """

    def __init__(self, places: dict[str, Place], samples: Path) -> None:
        self._places = places
        self._samples = samples
        self._files: dict[Path, BinaryIO] = {}
        self._last: tuple[str, Record] | None = None

    def __getitem__(self, image_id: str) -> Record:
        # Whoever goes through questions asks for one image several times in a row.
        if self._last is None or self._last[0] != image_id:
            self._last = (image_id, self._read(self._places[image_id]))
        return self._last[1]

    def _read(self, place: Place) -> Record:
        row = self._line(place.file, place.start)
        if place.rows is None:
            return row
        answers = {}
        for answer in (self._line(self._samples, start) for start in place.rows):
            answers[answer["id"]] = {key: answer[key] for key in ANSWER_FIELDS}
        return {
            "image_id": row["image_id"],
            "file_hash": row["file_hash"],
            "answers": answers,
            "proposals": row["proposals"],
            "objectness": row["objectness"],
        }

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _line(self, path: Path, place: int) -> dict[str, Any]:
        # A file stays open, so that its lines can still be read when another has taken its place.
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = path.open("rb")
        file.seek(place)
        return _parsed(file.readline())

    def regions(self) -> Mapping[str, StoredRegions]:
        """As :func:`regions_of`, but read when they are asked for: of large runs they are most of what is stored."""
        return {key: StoredRegions(self, key) for key, place in self._places.items() if place.has_proposals}

    def close(self) -> None:
        """Close the files; they are opened again where need be."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __del__(self) -> None:
        self.close()


class StoredRegions:
    """:class:`groma_eval.tasks.common.Regions` of one image that stay in the store."""

    __slots__ = ("_image_id", "_records")

    def __init__(self, records: Records, image_id: str) -> None:
        self._records = records
        self._image_id = image_id

    @property
    def boxes(self) -> Sequence[Box]:
        """Normalised xyxy, best first."""
        return self._records[self._image_id]["proposals"]

    @property
    def objectness(self) -> Sequence[float] | None:
        """One a box, None where the model gave none."""
        return self._records[self._image_id]["objectness"]
