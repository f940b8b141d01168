"""``groma-eval doctor``: whether the boxes of runs fit the frame that their models declare."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, as given to run --out")
    parser.add_argument("--benchmarks", metavar="A,B", help="only these of the run's benchmarks")


def run(args: argparse.Namespace) -> int:
    """Print a line a benchmark, and what speaks against the declared frame; 1 where anything does."""
    from groma_eval.doctor import diagnose_run

    names = [name for name in args.benchmarks.split(",") if name] if args.benchmarks else None
    wrong = 0
    for folder in args.runs:
        found = diagnose_run(folder, names)
        if not found:
            print(f"{folder}: no finished benchmark has answers with boxes")
        for name, diagnosis in found.items():
            verdict = "fit" if diagnosis.fits else "do not fit"
            print(f"{folder}: {name}: {diagnosis.boxes} boxes {verdict} the declared {diagnosis.declared}")
            for note in diagnosis.notes:
                print(f"    {note}")
            wrong += not diagnosis.fits
    if wrong:
        print(
            "Declare the format and frame that the model writes (docs/models.md) and run again: scores are not mended."
        )
    return int(wrong > 0)
