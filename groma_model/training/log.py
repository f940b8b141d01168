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
    ``logging``: ``"tensorboard"`` writes both to the folder ``tensorboard`` as well.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    every = 20

    def __init__(self, out: Path, start: int, logging: str = "csv"):
        self.path, self.metrics_path = out / "log.csv", out / "metrics.jsonl"
        self.board = _board(out / "tensorboard", start) if logging == "tensorboard" else None
        self.sums: dict[str, float] = {}
        self.count = 0
        self.speed: Speed | None = None
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
            if self.speed is not None:
                means |= self.speed.since_last(step + 1, seconds)
            self.rows.append({"step": step + 1, "seconds": round(seconds, 1), "lr": f"{rate:.3e}", **means})
            self.sums, self.count = {}, 0
            self._draw("train", step + 1, {"lr": rate, **means})
            self.flush()

    def flush(self) -> None:
        """Write the curves."""
        if self.board is not None:
            self.board.flush()
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
        self._draw("held-out", step, values)

    def best(self, name: str) -> float:
        """The highest value of a metric so far; minus infinity before the first."""
        return max((row[name] for row in self.evaluations if name in row), default=float("-inf"))

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def _draw(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, step)

    def _write_metrics(self) -> None:
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in self.evaluations))


class Speed:
    """Model FLOPs a second (10^12, ``tflops``) in one process, and their share of the device's peak (``mfu``).

    ``flops``: of a step in one process. Times are the clock's, evaluation and saving included.
    ``peak``: of the device, in TFLOP/s; without it there is no ``mfu``. ``step`` steps were done at ``seconds``.
    """

    def __init__(self, flops: int, peak: float | None, step: int, seconds: float):
        self.flops, self.peak = flops, peak
        self.first = self.last = (step, seconds)

    def since_last(self, step: int, seconds: float) -> dict[str, float]:
        """The speed since the last call; nothing where no step was done since."""
        found = self._between(self.last, (step, seconds))
        self.last = (step, seconds)
        return found

    def overall(self, step: int, seconds: float) -> dict[str, float]:
        """The speed since the beginning, with the FLOPs of a step (10^12, ``step_tflop``)."""
        return {"step_tflop": round(self.flops / 1e12, 6), **self._between(self.first, (step, seconds))}

    def _between(self, before: tuple[int, float], now: tuple[int, float]) -> dict[str, float]:
        steps, seconds = now[0] - before[0], now[1] - before[1]
        if steps <= 0 or seconds <= 0:
            return {}
        speed = steps * self.flops / seconds / 1e12
        return {"tflops": round(speed, 5)} | ({} if self.peak is None else {"mfu": round(speed / self.peak, 5)})


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "logging: tensorboard needs the package tensorboard: pip install 'groma-eval[tensorboard]'"
        ) from None
    # Points of later steps, of a run that was killed, are hidden.
    return SummaryWriter(str(folder), purge_step=start + 1)


def _before(path: Path, start: int) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if int(row["step"]) <= start]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
