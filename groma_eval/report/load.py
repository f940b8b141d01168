"""Runs as the report reads them: the store's manifest, metrics, answers and images, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.store import read_store_json

Row = dict[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """A run's folder, the name it goes by in the report, and what its two files say."""

    path: Path
    label: str
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def model(self) -> Mapping[str, Any]:
        return self.manifest["model"]

    def entry(self, benchmark: str) -> Mapping[str, Any] | None:
        """The manifest's entry of a benchmark, None where the run has not begun it."""
        return self.manifest["benchmarks"].get(benchmark)

    def finished(self, benchmark: str) -> bool:
        """Whether its answers are all stored and scored."""
        entry, folder = self.entry(benchmark), self.path / benchmark
        files = all((folder / name).is_file() for name in ("samples.jsonl", "images.jsonl"))
        return bool(entry and entry.get("finished") and benchmark in self.metrics and files)


@dataclass(frozen=True)
class Answers:
    """A finished benchmark of one run: rows of samples.jsonl by id and of images.jsonl by image id, in file order."""

    rows: dict[str, Row]
    images: dict[str, Row]


def read_runs(paths: Sequence[Path]) -> list[StoredRun]:
    """The runs at ``paths``, each once, named by their folders.

    Raises:
        HarnessError: a folder is no run, or a file of it does not read; the line names file and field.
    """
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    return [_read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)]


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(labels)) == len(labels):
            break
    return labels


def _read_run(path: Path, label: str) -> StoredRun:
    if not path.is_dir():
        raise HarnessError(f"{path}: not a run folder; give the --out folder of `groma-eval run`")
    file = path / "manifest.json"
    manifest = _object(read_store_json(file), f"{file}: the top level")
    _object(manifest.get("model"), f"{file}: model")
    for name, entry in _object(manifest.get("benchmarks"), f"{file}: benchmarks").items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise HarnessError(f"{file}: benchmarks: '{name}' is no benchmark's name")
        _object(entry, f"{file}: benchmarks.{name}")
    # Not there before the first benchmark of a run is finished.
    scored = path / "metrics.json"
    metrics = _object(read_store_json(scored), f"{scored}: the top level") if scored.is_file() else {}
    for name, result in metrics.items():
        for field in ("metrics", "counts", "intervals"):
            _object(_object(result, f"{scored}: {name}").get(field, {}), f"{scored}: {name}.{field}")
    return StoredRun(path, label, manifest, metrics)


def read_answers(run: StoredRun, benchmark: str) -> Answers:
    """The answers of a finished benchmark.

    Raises:
        HarnessError: a line does not read or lacks a field; the message names file, line and field.
    """
    folder = run.path / benchmark
    images = read_images(run, benchmark)
    rows = {}
    for row in _rows(folder / "samples.jsonl", _SAMPLE):
        if row["image_id"] not in images:
            raise HarnessError(f"{folder}/samples.jsonl: '{row['id']}' is of image '{row['image_id']}', not in images")
        rows[row["id"]] = row
    return Answers(rows, images)


def read_images(run: StoredRun, benchmark: str) -> dict[str, Row]:
    """The images of a finished benchmark by image id; HarnessError as :func:`read_answers`."""
    return {row["image_id"]: row for row in _rows(run.path / benchmark / "images.jsonl", _IMAGE)}


def _rows(path: Path, fields: Mapping[str, tuple[Callable[[Any], bool], str]]) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}: line {number}"
            try:
                row = _object(json.loads(line), where)
            except (ValueError, RecursionError) as error:
                raise HarnessError(f"{where}: not JSON ({error}); run the benchmark again") from None
            for field, (fits, wanted) in fields.items():
                if field not in row or not fits(row[field]):
                    raise HarnessError(f"{where}: field '{field}' must be {wanted}; run the benchmark again")
            yield row


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise HarnessError(f"{where} must be an object")
    return value


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_boxes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_box, value))


def _are_phrases(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("phrase"), str) and _are_boxes(item.get("boxes"))
        for item in value
    )


def _is_target(value: Any) -> bool:
    return isinstance(value, dict) and _are_boxes(value.get("boxes") or []) and _are_phrases(value.get("phrases") or [])


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_side(value: Any) -> bool:
    return _is_number(value) and value > 0


_SAMPLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_text, "text"),
    "image_id": (_is_text, "text"),
    "kind": (_is_text, "text"),
    "text": (_or_none(_is_text), "text or null"),
    "box": (_or_none(_is_box), "four numbers or null"),
    "group": (_or_none(_is_text), "text or null"),
    "prompt": (_is_text, "text"),
    "raw": (_is_text, "text"),
    "answer": (_is_text, "text"),
    "boxes": (_are_boxes, "a list of boxes of four numbers"),
    "confidences": (_or_none(_are_numbers), "a list of numbers or null"),
    "phrases": (_are_phrases, "a list of phrases with boxes"),
    "target": (_is_target, "an object; its boxes have four numbers"),
    "scores": (lambda value: isinstance(value, dict), "an object"),
    "status": (lambda value: value in ("ok", "unparsed", "missing", "failed"), "ok, unparsed, missing or failed"),
    "error": (_or_none(_is_text), "text or null"),
}
_IMAGE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_id": (_is_text, "text"),
    "path": (_or_none(_is_text), "text or null"),
    "width": (_is_side, "a number of pixels"),
    "height": (_is_side, "a number of pixels"),
    "proposals": (_or_none(_are_boxes), "a list of boxes of four numbers or null"),
    "objectness": (_or_none(_are_numbers), "a list of numbers or null"),
}
