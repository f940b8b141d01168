"""``groma-eval compare``: which of several runs is better, where, and how sure that is."""

from __future__ import annotations

import argparse
from pathlib import Path

from groma_eval.compare import CORRECTIONS, compare, read_systems
from groma_eval.compare_changes import write_changes, write_text
from groma_eval.compare_text import as_json, text_report
from groma_eval.core import HarnessError
from groma_eval.statistics.resample import RESAMPLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders written by groma-eval run, the baseline first; seeds of one system as A1,A2 or NAME=A1,A2",
    )
    parser.add_argument("--benchmarks", metavar="NAMES", help="these alone, separated by commas")
    parser.add_argument(
        "--metrics", metavar="NAMES", help="separated by commas, or all (default: each benchmark's headline metric)"
    )
    parser.add_argument("--correction", choices=tuple(CORRECTIONS), default="holm", help="of p-values (default: holm)")
    parser.add_argument("--intersection", action="store_true", help="compare the questions that all runs have")
    parser.add_argument("--anyway", action="store_true", help="compare runs of different protocols or card versions")
    parser.add_argument("--no-breakdowns", action="store_true", help="leave the breakdowns out")
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help=f"bootstrap draws (default: {RESAMPLES})"
    )
    parser.add_argument(
        "--changed", type=Path, metavar="FILE", help="write the questions that only one has right (.jsonl or .csv)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the comparison. What cannot be compared raises HarnessError."""
    if args.resamples < 100:
        raise HarnessError(f"--resamples {args.resamples}: give 100 at least")
    if args.changed is not None and args.changed.suffix not in (".jsonl", ".csv"):
        raise HarnessError(f"--changed {args.changed}: must end in .jsonl or .csv")
    systems = read_systems(args.runs)
    found = compare(
        systems,
        _names(args.benchmarks, "--benchmarks"),
        _names(args.metrics, "--metrics"),
        correction=args.correction,
        intersection=args.intersection,
        anyway=args.anyway,
        with_breakdowns=not args.no_breakdowns,
        resamples=args.resamples,
    )
    print(text_report(found, systems), end="")
    if args.changed is not None:
        print(f"wrote {write_changes(args.changed, found.changed)} changed questions to {args.changed}")
    if args.json is not None:
        write_text(args.json, as_json(found, systems), "--json")
        print(f"wrote {args.json}")
    return 0


def _names(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise HarnessError(f"{option} '{text}': names nothing")
    return names
