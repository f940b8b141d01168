"""The results store: crash-safe while a run is on, sufficient afterwards for every report and new metric.

While a benchmark runs, each finished batch is appended to ``BENCHMARK/parts/NNN.jsonl`` (one line an image), flushed to
disk. At the end the parts become ``samples.jsonl`` (one line a question) and ``images.jsonl`` (one line an image), both
in file order, each written beside and renamed. A later run reads whatever of the two it finds and continues.

Boxes are stored to 12 digits, so that an IoU that ties with a threshold still does, other floats to 6.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, ImageAnswer, Prediction, Question, Sample, SampleScore
from groma_eval.tasks.common import Regions

_BOX_DIGITS, _DIGITS = 12, 6
_ANSWER_FIELDS = ("prompt", "raw", "answer", "boxes", "confidences", "phrases", "status", "error")

Record = dict[str, Any]  # one image: image_id, file_hash, answers {question id: fields}, proposals, objectness


def rounded(value: Any, digits: int = _DIGITS) -> Any:
    """``value`` with every float in it rounded; tuples become lists, -0.0 becomes 0.0."""
    if isinstance(value, float):
        return round(value, digits) + 0.0
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
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


def _replace(path: Path, lines: Iterable[str]) -> None:
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _lines(path: Path, torn_end: bool = False) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file; with ``torn_end`` an unfinished last line (the process was killed) is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if torn_end and not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise HarnessError(
                    f"{path}: line {number}, column {error.colno}: not JSON ({error.msg}); remove the file's folder "
                    "and run again"
                ) from None


class BenchmarkStore:
    """The folder of one benchmark in a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._part: Any = None

    def load(self) -> dict[str, Record]:
        """Everything stored so far, by image id: the merged files, then the parts in order (later lines count)."""
        records: dict[str, Record] = {}
        for row in _lines(self.folder / "images.jsonl"):
            records[row["image_id"]] = {
                "image_id": row["image_id"],
                "file_hash": row["file_hash"],
                "answers": {},
                "proposals": row["proposals"],
                "objectness": row["objectness"],
            }
        for row in _lines(self.folder / "samples.jsonl"):
            if row["image_id"] in records:
                records[row["image_id"]]["answers"][row["id"]] = {key: row[key] for key in _ANSWER_FIELDS}
        for part in sorted(self.parts.glob("*.jsonl")):
            records.update((record["image_id"], record) for record in _lines(part, torn_end=True))
        return records

    def append(self, records: Iterable[Record]) -> None:
        """Add a batch to this process's part file and make sure it is on disk."""
        if self._part is None:
            self.parts.mkdir(parents=True, exist_ok=True)
            # A new file each time: a killed process may have left the last line of its own unfinished.
            path = self.parts / f"{len(list(self.parts.glob('*.jsonl'))):05d}.jsonl"
            self._part = path.open("x", encoding="utf-8")
        self._part.writelines(map(_line, records))
        self._part.flush()
        os.fsync(self._part.fileno())

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
        self.folder.mkdir(parents=True, exist_ok=True)
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
        for row in _lines(self.folder / "samples.jsonl"):
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
            for row in _lines(self.folder / "images.jsonl")
        ]


def _sample_lines(
    samples: Sequence[Sample], records: Mapping[str, Record], scores: Mapping[str, SampleScore]
) -> Iterator[str]:
    missing = Prediction("", status="missing")
    empty = make_record(ImageAnswer("", [missing]), None)["answers"][""]
    for sample in samples:
        answers = records[sample.image_id]["answers"] if sample.image_id in records else {}
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
