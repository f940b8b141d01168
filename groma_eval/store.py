"""The results store: crash-safe while a run is on, sufficient afterwards for every report and new metric.

While a benchmark runs, each finished batch is appended to ``BENCHMARK/parts/NNN.jsonl`` (one line an image), flushed to
disk; every process of a run has a part of its own. At the end the parts become ``samples.jsonl`` (one line a question)
and ``images.jsonl`` (one line an image), both in file order, each written beside and renamed. A later run reads
whatever of the two it finds and continues.

What is stored is read image by image when it is asked for (:mod:`groma_eval.stored_records`).

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
from typing import Any

from groma_eval.core import HarnessError, ImageAnswer, Prediction, Question, Sample, SampleScore
from groma_eval.stored_records import ANSWER_FIELDS, Place, Record, Records, read_lines
from groma_eval.tasks.common import Regions

_BOX_DIGITS, _DIGITS = 12, 6


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
    _replace([path], [(0, json.dumps(content, indent=1) + "\n")])


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


def _replace(paths: Sequence[Path], lines: Iterable[tuple[int, str]]) -> None:
    """Write lines, each with the number of its file, beside the files and rename.

    Where that fails the files stay as they were and nothing is left beside them.
    """
    besides = [path.with_name(path.name + ".tmp") for path in paths]
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(beside.open("w", encoding="utf-8")) for beside in besides]
            for number, line in lines:
                files[number].write(line)
            for number, file in enumerate(files):  # noqa: B007
                file.flush()
                os.fsync(file.fileno())
        for beside, path in zip(besides, paths, strict=True):
            os.replace(beside, path)
    except OSError as error:
        for beside in besides:
            with contextlib.suppress(OSError):
                beside.unlink()
        raise _unwritable(paths[number], error) from None


class BenchmarkStore:
    """The folder of one benchmark in a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._part: FileIO | None = None
        self._own: dict[Path, list[tuple[str, Place]]] = {}  # what this process wrote, by part

    def load(self) -> Records:
        """Everything stored so far, by image id: the merged files, then the parts in order (later lines count)."""
        images, samples = self.folder / "images.jsonl", self.folder / "samples.jsonl"
        places: dict[str, Place] = {}
        rows: dict[str, list[int]] = {}
        for start, row in read_lines(images):
            questions = rows.setdefault(row["image_id"], [])
            places[row["image_id"]] = Place(images, start, row["proposals"] is not None, questions)
        for start, row in read_lines(samples):
            if row["image_id"] in rows:
                rows[row["image_id"]].append(start)
        for part in sorted(self.parts.glob("*.jsonl")):
            if part in self._own:
                places.update(self._own[part])
                continue
            for start, row in read_lines(part, torn_end=True):
                places[row["image_id"]] = Place(part, start, row["proposals"] is not None, None)
        return Records(places, samples)

    def append(self, records: Iterable[Record]) -> None:
        """Add a batch to this process's part file and make sure it is on disk; a batch is stored whole or not at all.

        Raises:
            HarnessError: the disk is full or refuses; the part holds what it held before.
        """
        records = list(records)
        lines = [_line(record).encode() for record in records]
        content = b"".join(lines)
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
        part = Path(self._part.name)
        for record, line in zip(records, lines):
            place = Place(part, end, record["proposals"] is not None, None)
            self._own.setdefault(part, []).append((record["image_id"], place))
            end += len(line)

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
        files = [self.folder / "samples.jsonl", self.folder / "images.jsonl"]
        _replace(files, _merged(samples, records, scores))
        shutil.rmtree(self.parts, ignore_errors=True)
        self._own.clear()

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
        for _, row in read_lines(self.folder / "samples.jsonl"):
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
            for _, row in read_lines(self.folder / "images.jsonl")
        ]


def _merged(
    samples: Sequence[Sample], records: Mapping[str, Record], scores: Mapping[str, SampleScore]
) -> Iterator[tuple[int, str]]:
    """Lines of the questions' file (0) and the images' (1), both in the samples' order."""
    missing = Prediction("", status="missing")
    empty = make_record(ImageAnswer("", [missing]), None)["answers"][""]
    for sample in samples:
        record = records.get(sample.image_id) or {}
        answers = record.get("answers", {})
        for question in sample.questions:
            given = answers.get(question.id, empty)
            score = scores.get(question.id)
            yield (
                0,
                _line(
                    {
                        "id": question.id,
                        "image_id": sample.image_id,
                        "kind": question.kind,
                        "text": question.text,
                        "box": question.box,
                        "group": question.group,
                        **{key: given[key] for key in ANSWER_FIELDS[:6]},
                        "target": question.target,
                        "scores": rounded(score.values) if score else {},
                        "status": given["status"],
                        "error": given["error"],
                    }
                ),
            )
        yield (
            1,
            _line(
                {
                    "image_id": sample.image_id,
                    "path": str(sample.image) if sample.image else None,
                    "width": sample.width,
                    "height": sample.height,
                    "proposals": record.get("proposals"),
                    "objectness": record.get("objectness"),
                    "file_hash": record.get("file_hash"),
                }
            ),
        )
