"""Anybody's answers as a model: a file (or a folder of files) of predictions made elsewhere.

The records are those of :mod:`groma_eval.prediction_records`. One file may hold several benchmarks. In a folder each
benchmark has a file of its name (``refcoco_val.jsonl``), whose records need not repeat it. What the model can answer is
what the file holds: boxes, text, or phrases with boxes; boxes for a question about region proposals are the proposals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from groma_eval.core import Box, Decoding, HarnessError, ImageAnswer, ModelInfo, Prediction, Sample
from groma_eval.frames import Frame
from groma_eval.prediction_records import (
    ANSWER_FIELDS,
    BOX_KINDS,
    TEXT_KINDS,
    Record,
    Records,
    check_records,
    read_records,
    to_prediction,
)
from groma_eval.provenance import file_hash, short_hash

_ENDINGS = (".jsonl", ".json")
_OPTIONS = ("frame", "format", "name", "benchmark")


class Predictions:
    """The adapter of one benchmark's records; opens no picture."""

    def __init__(self, records: Mapping[str, Record], where: str, frame: Frame, name: str, content_hash: str | None):
        self.records = records
        self.where = where
        self.frame = frame
        self.info = ModelInfo(
            name,
            _capabilities(records.values()),
            checkpoint=where,
            checkpoint_hash=content_hash,
            exposes_confidences=any("confidences" in record.fields for record in records.values()),
            box_format=frame.form,
            frame=frame.name,
            needs_images=False,
            notes=("answers read from a file",),
        )

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Hold the records against all the benchmark's questions before any is scored.

        What does not fit is told on stderr, or raises: see :func:`groma_eval.prediction_records.check_records`.
        """
        for note in check_records(self.records, samples, self.frame, self.where):
            print(f"groma-eval: warning: {note}", file=sys.stderr)

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`; a question without a record is left out."""
        for sample in samples:
            answer = ImageAnswer(sample.image_id, [])
            for question in sample.questions:
                if question.id not in self.records:
                    continue
                prediction = to_prediction(self.records[question.id], question, sample, self.frame)
                if question.kind == "propose" and prediction.status == "ok":
                    answer.proposals, answer.objectness = _ranked(prediction)
                    prediction = Prediction(question.id)
                answer.predictions.append(prediction)
            yield answer


def load(spelled: str, benchmark: str | None = None) -> Predictions:
    """The adapter for ``FILE_OR_FOLDER[,frame=pixels,format=xyxy,name=NAME,benchmark=NAME]``.

    ``benchmark`` is the one that is asked. The records must say that they are its, or the file's name must, or the
    option; None (from Python) leaves that to the caller where only one benchmark is there.

    Raises:
        HarnessError: no such file, bad records, unknown options, or nothing for the benchmark.
    """
    path, options = _options(spelled)
    frame = Frame(options.get("frame", "pixels"), options.get("format", "xyxy"))
    stem = path.absolute().name.removesuffix(".jsonl").removesuffix(".json")
    asked = benchmark or options.get("benchmark")
    if options.get("benchmark", asked) != asked:
        raise HarnessError(f"model 'predictions:{spelled}': its answers are to {options['benchmark']}, not to {asked}")
    if path.is_dir():
        file, content_hash = _file_in(path, asked), short_hash([(f.name, file_hash(f)) for f in _files(path)])
    else:
        file, content_hash = path, file_hash(path)
    named = asked in (file.stem, options.get("benchmark"))
    found = _select(file, read_records(file), asked, named)
    return Predictions(found, str(path), frame, options.get("name", f"predictions:{stem}"), content_hash)


def _options(spelled: str) -> tuple[Path, dict[str, str]]:
    path, *parts = spelled.split(",")
    options: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if not value or key not in _OPTIONS or key in options:
            raise HarnessError(
                f"model 'predictions:{spelled}': cannot read '{part}'; write predictions:FILE, then what is needed of "
                + ",".join(f"{option}=..." for option in _OPTIONS)
            )
        options[key] = value
    if not path:
        raise HarnessError("model 'predictions:' names no file; write predictions:FILE or predictions:FOLDER")
    return Path(path), options


def _ranked(prediction: Prediction) -> tuple[list[Box], list[float] | None]:
    """Boxes best first, with their confidences."""
    if prediction.confidences is None:
        return prediction.boxes, None
    order = sorted(range(len(prediction.boxes)), key=lambda i: -prediction.confidences[i])
    return [prediction.boxes[i] for i in order], [prediction.confidences[i] for i in order]


def _capabilities(records: Iterable[Record]) -> frozenset[str]:
    held = {key for record in records for key in ANSWER_FIELDS if key in record.fields}
    if held == {"error"}:
        return BOX_KINDS | TEXT_KINDS  # nothing but failures answers anything equally
    kinds = BOX_KINDS if held & {"box", "boxes"} else frozenset()
    if "text" in held:
        return kinds | TEXT_KINDS
    return kinds | {"describe_scene"} if "phrases" in held else kinds


def _select(path: Path, records: Records, benchmark: str | None, named: bool) -> dict[str, Record]:
    held = sorted(name for name in records if name is not None)
    if None in records and held:
        first = next(iter(records[None].values()))
        raise HarnessError(f"{first.where}: field 'benchmark' is missing, which other records of the file have")
    if not held:
        if benchmark is not None and not named:
            raise HarnessError(
                f"{path}: its records name no benchmark; add the field 'benchmark', call the file {benchmark}.jsonl, "
                f"or write predictions:{path},benchmark={benchmark}"
            )
        return records[None]
    if benchmark in records:
        return records[benchmark]
    if benchmark is None and len(held) == 1:
        return records[held[0]]
    problem = f"there are no predictions for {benchmark}" if benchmark else "name one of its benchmarks"
    raise HarnessError(f"{path}: {problem}; it holds: {', '.join(held)}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)


def _file_in(folder: Path, benchmark: str | None) -> Path:
    files = _files(folder)
    found = [path for path in files if benchmark is None or path.stem == benchmark]
    if len(found) == 1:
        return found[0]
    held = f"it holds: {', '.join(path.name for path in files) or 'no .jsonl or .json files'}"
    if not found:
        raise HarnessError(f"{folder}: there is no {benchmark or 'BENCHMARK'}.jsonl; {held}")
    raise HarnessError(f"{folder}: {found[0].name} or {found[1].name}? name the benchmark; {held}")
