"""Finished runs as far as tables need them: RUN/manifest.json and RUN/metrics.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError


@dataclass(frozen=True)
class Run:
    """A finished run as far as tables need it."""

    id: str
    model: dict[str, Any]
    benchmarks: dict[str, dict[str, Any]]  # manifest entries
    results: dict[str, dict[str, Any]]  # metrics.json entries
    path: Path = Path()
    not_applicable: frozenset[tuple[str, str]] = frozenset()  # family and split of what the model cannot answer

    @property
    def oracle(self) -> bool:
        return bool(self.model.get("oracle"))

    @property
    def section(self) -> str:
        return "Bounds" if self.oracle or str(self.model.get("name", "")).startswith("bound:") else "Measured"

    def places(self, kind: str) -> dict[tuple[str, str], str]:
        """Family and split of each of the run's benchmarks of a task. A benchmark without a family is its own, and so
        is a second one of the same family and split: no result is dropped."""
        places: dict[tuple[str, str], str] = {}
        for name in self.of(kind):
            entry = self.benchmarks[name]
            place = (str(entry.get("family") or name), str(entry.get("split") or ""))
            places[(name, "") if place in places else place] = name
        return places

    def find(self, kind: str, family: str, split: str) -> str | None:
        """The run's benchmark of this task, family and split, if any."""
        return self.places(kind).get((family, split))

    def unjudged(self, name: str) -> int:
        """How many answers of a benchmark still wait for their judge."""
        return int((self.results[name].get("counts") or {}).get("unjudged") or 0)

    def of(self, kind: str) -> list[str]:
        """The run's finished benchmarks of a task."""
        return [b for b in self.results if self.benchmarks[b].get("task") == kind]


def read_run(path: Path) -> Run:
    """Read RUN/manifest.json and RUN/metrics.json.

    Raises HarnessError, naming the file (and line or field), where the folder is not a finished run.
    """
    if not path.is_dir():
        raise HarnessError(f"{path}: not a run folder; give the --out folder of `groma-eval run`")
    manifest, metrics = (_read_object(path / name) for name in ("manifest.json", "metrics.json"))
    model, benchmarks = (_object(manifest.get(key), path / "manifest.json", key) for key in ("model", "benchmarks"))
    for name, entry in benchmarks.items():
        _object(entry, path / "manifest.json", f"benchmarks.{name}")
    for name, result in metrics.items():
        if name not in benchmarks:
            raise HarnessError(f"{path}/metrics.json: '{name}' does not stand in manifest.json; score the run again")
        numbers = _object(_object(result, path / "metrics.json", name).get("metrics"), path / "metrics.json", name)
        for key, value in numbers.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise HarnessError(f"{path}/metrics.json: {name}.metrics.{key} is not a number")
    refused = _object(manifest.get("not_applicable", {}), path / "manifest.json", "not_applicable")
    places = frozenset((str(entry.get("family")), str(entry.get("split") or "")) for entry in refused.values())
    return Run(str(manifest.get("run_id") or path.name), model, benchmarks, metrics, path, places)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"{path}: missing; the run did not finish, repeat it with the same arguments") from None
    except json.JSONDecodeError as error:
        raise HarnessError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error})") from None
    return _object(data, path, "the top level")


def _object(value: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HarnessError(f"{path}: {what} must be an object")
    return value
