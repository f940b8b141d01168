"""What a run writes about itself: loss curves and held-out metrics. Written so that a kill leaves whole files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


class RunLog:
    """Loss curves in ``log.csv`` (means over 20 steps), held-out metrics in ``metrics.jsonl``.

    ``start``: the step that a run is continued from; rows of later steps are dropped, as they are computed again.
    """

    every = 20

    def __init__(self, out: Path, start: int):
        self.path, self.metrics_path = out / "log.csv", out / "metrics.jsonl"
        self.sums: dict[str, float] = {}
        self.count = 0
        self.rows = _before(self.path, start)
        self.evaluations = [row for row in _json_lines(self.metrics_path) if row["step"] <= start]
        self._write_metrics()

    def add(self, step: int, seconds: float, rate: float, values: Mapping[str, float]) -> None:
        """Count one step's losses in."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if (step + 1) % self.every == 0:
            means = {k: round(v / self.count, 5) for k, v in self.sums.items()}
            self.rows.append({"step": step + 1, "seconds": round(seconds, 1), "lr": f"{rate:.3e}", **means})
            self.sums, self.count = {}, 0
            self.flush()

    def flush(self) -> None:
        """Write the curves."""
        if not self.rows:
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        beside = self.path.with_name("log.csv.new")
        with beside.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(beside, self.path)

    def metrics(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Record an evaluation."""
        self.evaluations.append({"step": step, "seconds": round(seconds, 1), **values})
        self._write_metrics()

    def best(self, name: str) -> float:
        """The highest value of a metric so far; minus infinity before the first."""
        return max((row[name] for row in self.evaluations if name in row), default=float("-inf"))

    def _write_metrics(self) -> None:
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in self.evaluations))


def _before(path: Path, start: int) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if int(row["step"]) <= start]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
