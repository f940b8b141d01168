"""``groma-eval table``: tables from finished runs, beside published rows; one, or a paper's whole set."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.table_choice import Choice
from groma_eval.table_columns import KINDS
from groma_eval.table_formats import FORMATS, render
from groma_eval.table_grid import Table
from groma_eval.tables import BASELINES, build_table, captioned


class _From(argparse.Action):
    """``--from`` stands in place of the argument ``kind``. (Were that optional, argparse would take it for left out
    wherever an option comes before it.)"""

    kind: argparse.Action

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None):
        setattr(namespace, self.dest, values)
        self.kind.required = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    kind = add(
        "kind", choices=(*KINDS, "all"), help="which table; all prints every one the runs have; none with --from"
    )
    add("runs", nargs="*", type=Path, default=(), metavar="RUN", help="folders written by groma-eval run")
    add(
        "--baselines",
        choices=BASELINES,
        help="published rows: those of the paper's table, all, or none (default: paper, beside results they fit)",
    )
    add("--benchmarks", type=_names, metavar="A,B", help="only benchmarks of these families, such as RefCOCO,RefCOCO+")
    add("--rows", type=_names, metavar="A,B", help="only methods or runs that fit these patterns (*, ?), in this order")
    add(
        "--columns",
        type=_names,
        metavar="A,B",
        help="only columns whose heads fit, in this order: 'RefCOCO+ *',Average",
    )
    add("--against", type=Path, metavar="RUN", help="mark cells that differ from RUN's beyond chance (paired test)")
    add("--format", choices=tuple(FORMATS), help="default: text")
    add("--caption", metavar="TEXT", help="in place of the table's title")
    add("--label", metavar="NAME", help="what LaTeX refers to it by")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--intervals", action="store_true", help="add the half width of each 95 %% interval")
    style.add_argument("--bounds", action="store_true", help="add each 95 %% interval as [low, high]")
    add("--out", type=Path, metavar="FILE", help="write there instead of printing; a folder with --from")
    whole = "write every table of this file to the folder --out"
    add("--from", dest="file", type=Path, metavar="TABLES.yaml", action=_From, help=whole).kind = kind
    add("--runs-root", type=Path, metavar="DIR", help="with --from: where its paths of runs start (default: here)")


def run(args: argparse.Namespace) -> int:
    """Print or write the table, or a set of them. Bad calls, bad runs and nothing to print raise HarnessError."""
    if args.file is not None:
        return _run_set(args)
    if args.runs_root is not None:
        raise HarnessError("--runs-root goes with --from; name the runs themselves")
    text = render(_table(args), args.format or "text", "bounds" if args.bounds else args.intervals)
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        beside = args.out.with_name(f".{args.out.name}.tmp")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, args.out)
    except OSError as error:
        raise HarnessError(f"--out {args.out}: cannot be written ({error.strerror})") from None
    print(f"wrote {args.out}")
    return 0


def _table(args: argparse.Namespace) -> Table:
    choice = Choice(args.benchmarks or (), args.rows or (), columns=args.columns or ())
    if args.against is not None:
        from groma_eval.table_significance import compared_table

        table = compared_table(args.kind, args.runs, args.baselines, choice, args.against)
    else:
        table = build_table(args.kind, args.runs, args.baselines, choice)
    return captioned(table, args.caption, args.label)


def _run_set(args: argparse.Namespace) -> int:
    from groma_eval.table_set import build_set, write_set

    given = "kind runs baselines benchmarks rows columns against format caption label intervals bounds"
    for name in given.split():
        if getattr(args, name):
            option = "a table" if name == "kind" else "RUN" if name == "runs" else f"--{name}"
            raise HarnessError(f"{option} beside --from: say it in {args.file}")
    if args.out is None:
        raise HarnessError("--from needs a folder to write to; give it with --out")
    files = build_set(args.file, args.runs_root or Path())
    write_set(files, args.out)
    for name in files:
        print(f"wrote {args.out / name}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("names nothing")
    return names
