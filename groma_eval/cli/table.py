"""``groma-eval table``: tables from finished runs, beside published rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from groma_eval.core import HarnessError
from groma_eval.table_columns import KINDS
from groma_eval.table_formats import FORMATS, render
from groma_eval.tables import BASELINES, build_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("kind", choices=(*KINDS, "all"), help="which table; all prints every one the runs have")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders written by groma-eval run")
    parser.add_argument(
        "--baselines",
        choices=BASELINES,
        help="published rows: those of the paper's table, all, or none (default: paper, beside results they fit)",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="text")
    parser.add_argument("--intervals", action="store_true", help="add the half width of each 95 %% interval")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> int:
    """Print or write the table. Bad runs and nothing to print raise HarnessError."""
    text = render(build_table(args.kind, args.runs, args.baselines), args.format, args.intervals)
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"--out {args.out}: cannot be written ({error.strerror})") from None
    print(f"wrote {args.out}")
    return 0
