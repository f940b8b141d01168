"""The results store: crash-safe while a run is on, sufficient afterwards for every report and new metric.

While a benchmark runs, each finished batch is appended to ``BENCHMARK/parts/NNN.jsonl`` (one line an image), flushed to
disk; every process of a run has a part of its own. At the end the parts become ``samples.jsonl`` (one line a question)
and ``images.jsonl`` (one line an image), both in file order, each written beside and renamed. A later run reads
whatever of the two it finds and continues.

What is stored is read image by image when it is asked for: memory holds where the lines are, not what they say.

Boxes are stored to 12 digits, so that an IoU that ties with a threshold still does, other floats to 6.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from groma_eval.core import Box, HarnessError, ImageAnswer, Prediction, Question, Sample, SampleScore
from groma_eval.tasks.common import Regions

_BOX_DIGITS, _DIGITS = 12, 6
_ANSWER_FIELDS = ("prompt", "raw", "answer", "boxes", "confidences", "phrases", "status", "error")

Record = dict[str, Any]  # one image: image_id, file_hash, answers {question id: fields}, proposals, objectness


def rounded(value: Any, digits: int = _DIGITS) -> Any:
    """``value`` with every float in it rounded; tuples become lists, -0.0 becomes 0.0."""
    if isinstance(value, float):
        return round(value, digits) + 0.0
    if isinstance(value, (list, tuple)):
        return [round(item, digits) + 0.0 if type(item) is float else rounded(item, digits) for item in value]
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    return value


def make_record(answer: ImageAnswer, file_hash: str | None) -> Record:
    """What is stored of one image's answer, rounded as stored."""
    answers = {}
    for p in answer.predictions:
        answers[p.question_id] = {
            "prompt": p.prompt,
            "raw": p.raw,
            "answer": p.text,
            "boxes": rounded(p.boxes, _BOX_DIGITS),
            "confidences": rounded(p.confidences),
            "phrases": rounded(p.phrases, _BOX_DIGITS),
            "status": p.status,
            "error": p.error,
        }
    return {
        "image_id": answer.image_id,
        "file_hash": file_hash,
        "answers": answers,
        "proposals": rounded(answer.proposals, _BOX_DIGITS),
        "objectness": rounded(answer.objectness),
    }


def predictions_of(records: Iterable[Record]) -> dict[str, Prediction]:
    """Predictions by question id, as stored."""
    return {
        key: Prediction(
            key,
            raw=fields["raw"],
            text=fields["answer"],
            boxes=fields["boxes"],
            confidences=fields["confidences"],
            phrases=fields["phrases"],
            prompt=fields["prompt"],
            status=fields["status"],
            error=fields["error"],
        )
        for record in records
        for key, fields in record["answers"].items()
    }


def regions_of(records: Iterable[Record]) -> dict[str, Regions]:
    """Regions by image id, where proposals are stored."""
    return {r["image_id"]: Regions(r["proposals"], r["objectness"]) for r in records if r["proposals"] is not None}


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, replacing ``path`` in one step."""
    _replace(path, [json.dumps(content, indent=1) + "\n"])


def read_store_json(path: Path) -> Any:
    """The JSON file at ``path`` of a run folder; HarnessError where it is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"{path}: not there, so {path.parent} is no finished run") from None
    except json.JSONDecodeError as error:
        raise HarnessError(f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"  # ASCII: a model may emit text that is no valid Unicode


def _unwritable(path: Path, error: OSError) -> HarnessError:
    return HarnessError(
        f"{path}: cannot be written ({error.strerror or error}); mend that and repeat the command: what is stored is "
        "kept"
    )


def _replace(path: Path, lines: Iterable[str]) -> None:
    """Write beside and rename; where that fails ``path`` stays as it was and nothing is left beside it."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise _unwritable(path, error) from None


def _lines(path: Path, torn_end: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
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


class _Place(NamedTuple):
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

    def __init__(self, places: dict[str, _Place], samples: Path) -> None:
        self._places = places
        self._samples = samples
        self._files: dict[Path, BinaryIO] = {}
        self._last: tuple[str, Record] | None = None

    def __getitem__(self, image_id: str) -> Record:
        # Whoever goes through questions asks for one image several times in a row.
        if self._last is None or self._last[0] != image_id:
            self._last = (image_id, self._read(self._places[image_id]))
        return self._last[1]

    def _read(self, place: _Place) -> Record:
        row = self._line(place.file, place.start)
        if place.rows is None:
            return row
        answers = {}
        for answer in (self._line(self._samples, start) for start in place.rows):
            answers[answer["id"]] = {key: answer[key] for key in _ANSWER_FIELDS}
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


class BenchmarkStore:
    """The folder of one benchmark in a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._part: FileIO | None = None

    def load(self) -> Records:
        """Everything stored so far, by image id: the merged files, then the parts in order (later lines count)."""
        images, samples = self.folder / "images.jsonl", self.folder / "samples.jsonl"
        places: dict[str, _Place] = {}
        rows: dict[str, list[int]] = {}
        for start, row in _lines(images):
            questions = rows.setdefault(row["image_id"], [])
            places[row["image_id"]] = _Place(images, start, row["proposals"] is not None, questions)
        for start, row in _lines(samples):
            if row["image_id"] in rows:
                rows[row["image_id"]].append(start)
        for part in sorted(self.parts.glob("*.jsonl")):
            for start, row in _lines(part, torn_end=True):
                places[row["image_id"]] = _Place(part, start, row["proposals"] is not None, None)
        return Records(places, samples)

    def append(self, records: Iterable[Record]) -> None:
        """Add a batch to this process's part file and make sure it is on disk; a batch is stored whole or not at all.

        Raises:
            HarnessError: the disk is full or refuses; the part holds what it held before.
        """
        content = "".join(map(_line, records)).encode()
        try:
            if self._part is None:
                self._part = self._new_part()
            end = self._part.tell()
            try:
                while content:  # a full disk may take a piece of it before it refuses
                    content = content[self._part.write(content) :]
                os.fsync(self._part.fileno())
            except OSError:
                self._forget(end)
                raise
        except OSError as error:
            raise _unwritable(self.parts, error) from None

    def _new_part(self) -> FileIO:
        # A new file each time: a killed process may have left the last line of its own unfinished.
        self.parts.mkdir(parents=True, exist_ok=True)
        number = len(list(self.parts.glob("*.jsonl")))
        while True:
            try:
                return (self.parts / f"{number:05d}.jsonl").open("xb", buffering=0)
            except FileExistsError:  # another process of the run was first
                number += 1

    def _forget(self, end: int) -> None:
        """Cut the part back to what it held, as far as the disk lets us; a torn last line is left out when read."""
        part, self._part = self._part, None
        with contextlib.suppress(OSError):
            part.truncate(end)
        with contextlib.suppress(OSError):
            part.close()

    def close(self) -> None:
        """Close the part file, if one is open."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def finish(
        self, samples: Sequence[Sample], records: Mapping[str, Record], scores: Mapping[str, SampleScore]
    ) -> None:
        """Write the merged files in the samples' order and drop the parts."""
        self.close()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        _replace(self.folder / "samples.jsonl", _sample_lines(samples, records, scores))
        _replace(self.folder / "images.jsonl", _image_lines(samples, records))
        shutil.rmtree(self.parts, ignore_errors=True)

    def finished(self) -> bool:
        """Whether the merged files are there and no part waits to be merged."""
        return (
            (self.folder / "samples.jsonl").is_file()
            and (self.folder / "images.jsonl").is_file()
            and not self.parts.exists()
        )

    def samples(self) -> list[Sample]:
        """The samples of a finished benchmark with their targets, without the data it was made from."""
        questions: dict[str, list[Question]] = {}
        for _, row in _lines(self.folder / "samples.jsonl"):
            questions.setdefault(row["image_id"], []).append(
                Question(
                    row["id"], row["kind"], text=row["text"], box=row["box"], target=row["target"], group=row["group"]
                )
            )
        return [
            Sample(
                row["image_id"],
                Path(row["path"]) if row["path"] else None,
                row["width"],
                row["height"],
                tuple(questions.get(row["image_id"], ())),
            )
            for _, row in _lines(self.folder / "images.jsonl")
        ]


def _sample_lines(
    samples: Sequence[Sample], records: Mapping[str, Record], scores: Mapping[str, SampleScore]
) -> Iterator[str]:
    missing = Prediction("", status="missing")
    empty = make_record(ImageAnswer("", [missing]), None)["answers"][""]
    for sample in samples:
        record = records.get(sample.image_id)
        answers = {} if record is None else record["answers"]
        for question in sample.questions:
            given = answers.get(question.id, empty)
            score = scores.get(question.id)
            yield _line(
                {
                    "id": question.id,
                    "image_id": sample.image_id,
                    "kind": question.kind,
                    "text": question.text,
                    "box": question.box,
                    "group": question.group,
                    **{key: given[key] for key in _ANSWER_FIELDS[:6]},
                    "target": question.target,
                    "scores": rounded(score.values) if score else {},
                    "status": given["status"],
                    "error": given["error"],
                }
            )


def _image_lines(samples: Sequence[Sample], records: Mapping[str, Record]) -> Iterator[str]:
    for sample in samples:
        record = records.get(sample.image_id, {})
        yield _line(
            {
                "image_id": sample.image_id,
                "path": str(sample.image) if sample.image else None,
                "width": sample.width,
                "height": sample.height,
                "proposals": record.get("proposals"),
                "objectness": record.get("objectness"),
                "file_hash": record.get("file_hash"),
            }
        )
