"""``groma-eval report``: finished runs as a page to browse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from groma_eval.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders written by groma-eval run")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="the report's folder; an earlier report there is replaced (default: %(default)s)",
    )
    parser.add_argument("--title", default="Evaluation report", help="the page's title (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the report. Bad runs and places that cannot be written raise HarnessError."""
    written = write_report(args.runs, args.out, args.title, progress=sys.stderr.isatty())
    print(
        f"wrote {written.index}: {written.questions:,} questions, {written.pictures:,} pictures, "
        f"{written.size / 1e6:.1f} MB; open it in a browser"
    )
    if written.missing:
        print(f"groma-eval: {written.missing} pictures could not be read and are left blank", file=sys.stderr)
    return 0
