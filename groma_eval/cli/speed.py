"""``groma-eval speed``: expressions a second on a RefCOCO-shaped workload, beside the way that shares nothing."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError

ABOUT = "measure how fast a model answers a RefCOCO-shaped workload"
MODEL = "groma-tiny"
#: As :mod:`groma_model.configuration` has them; named here so that --help need not import torch.
PRESETS = ("7b", "tiny", "nano")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", choices=PRESETS, help="a model of these sizes with random weights")
    which.add_argument("--model", metavar="NAME", help=f"bundled name, folder or hub id (default: {MODEL})")
    add("--reference", action="store_true", help="also the reference way: every expression alone, nothing shared")
    add(
        "--reference-expressions",
        type=_count,
        metavar="N",
        help="measure it on N expressions, evenly drawn, and scale (default: all)",
    )
    add("--workload", type=Path, metavar="FILE", help="REC annotations, or word counts (default: those of RefCOCO val)")
    add("--images", type=_count, default=100, metavar="N", help="pictures drawn from it (default: %(default)s)")
    add("--batch-size", type=_count, default=16, metavar="N", help="images a batch (default: %(default)s)")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:NUMBER (default: cuda where there is one)")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on CUDA, float32 elsewhere")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures with hardware, versions and date; in a folder: to MODEL-DEVICE-DTYPE-DATE.json",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns 1 where the two ways' answers differ in float32, else 0."""
    from groma_eval.speed.workload import read_workload

    if args.reference_expressions and not args.reference:
        raise HarnessError("--reference-expressions says how --reference is measured: give both")
    if args.json and not args.json.absolute().parent.is_dir():
        raise HarnessError(f"--json {args.json}: no such folder {args.json.parent}")
    workload = read_workload(args.workload, args.images)

    import torch

    from groma_eval.provenance import hardware, versions
    from groma_eval.speed.bench import measure, rate_of, summary
    from groma_eval.speed.report import table
    from groma_eval.speed.subject import loaded_model, random_model

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = args.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if args.preset:
        groma = random_model(args.preset, device, getattr(torch, dtype), workload)
    else:
        groma = loaded_model(args.model or MODEL, device, getattr(torch, dtype))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rate = rate_of(groma)
    measured = measure(groma, workload, args.batch_size, args.reference, args.reference_expressions)
    result = {
        "date": started,
        "command": args.command_line,
        "hardware": hardware(),
        "versions": versions(),
        "load_average_before": load,
        "model": {
            "name": args.preset or args.model or MODEL,
            "weights": "random" if args.preset else "loaded",
            "parameters": groma.num_parameters,
            "checkpoint_hash": groma.checkpoint_hash,
            "dtype": dtype,
            "device": str(groma.model.device),
        },
        "batch_size": args.batch_size,
        **summary(groma, workload, measured, rate),
    }
    print(table(result))
    if args.json:
        _write(_record_file(args.json, result), result)
    reference = result.get("reference")
    differ = reference is not None and reference["answers_identical"] < reference["expressions_measured"]
    return int(differ and dtype == "float32")


def _record_file(path: Path, result: dict[str, Any]) -> Path:
    """Where the figures go; within a folder, under what was measured."""
    if not path.is_dir():
        return path
    model = result["model"]
    name = Path(model["name"]).name
    return path / f"{name}-{model['device'].partition(':')[0]}-{model['dtype']}-{result['date'][:10]}.json"


def _write(path: Path, result: dict[str, object]) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written ({error.strerror})") from None
