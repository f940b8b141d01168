"""How scores are printed: those of runs, and those that every ``groma-eval score KIND`` ends with (``--json``)."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json OUT``."""
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write metrics and per-item values to this file")


def report(
    metrics: Mapping[str, float | None],
    per_item: Mapping[str, Any],
    out: Path | None,
    notes: Sequence[str] = (),
) -> None:
    """Print one metric a line (values as the reference tool gives them), then the notes; write JSON to ``out``.

    The file holds ``{"metrics": {name: number}, "per_item": {id: values}, "notes": [text]}``; a metric without a value
    (nothing to measure) is null there and a dash here. It is written in one step.

    Raises:
        HarnessError: ``out`` cannot be written.
    """
    width = max(map(len, metrics), default=0) + 2
    for name, value in metrics.items():
        digits = "–" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}{digits}")
    for note in notes:
        print(f"note: {note}")
    if out is None:
        return
    beside = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"metrics": metrics, "per_item": per_item, "notes": list(notes)}, indent=1) + "\n")
        os.replace(beside, out)
    except OSError as error:
        raise HarnessError(f"--json {out}: cannot be written ({error.strerror})") from None


def print_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print metrics.json's content: a benchmark's counts in a line, then a line a metric with its 95 % interval.

    A metric that has no value yet (a score that waits for its judge) is a dash.
    """
    for name, entry in metrics.items():
        print(name + ": " + ", ".join(f"{count} {value}" for count, value in entry["counts"].items()))
        for metric, value in entry["metrics"].items():
            low_high = entry["intervals"].get(metric)
            number = f"{'–':>8}" if value is None else f"{value:8.2f}"
            print(f"  {metric:<24}{number}" + (f"  [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""))
