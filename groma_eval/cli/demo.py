"""``groma-eval demo``: the bundled model and its bounds on every shapes benchmark, as tables."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from groma_eval.core import HarnessError

MODEL = "groma-tiny"
BOUNDS = (
    "bound:center",
    "bound:whole-image",
    "bound:majority",
    f"bound:random-proposal@{MODEL}",
    f"bound:blind@{MODEL}",
    f"bound:oracle-proposal@{MODEL}",
)
SUITE = "shapes"
TABLES = ("proposals", "rec", "grounding", "caption", "vqa")
TEST_IMAGES = 320


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="runs and tables.md go here (default: %(default)s)"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="where the test scenes are or will be made (default: OUT/data)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=60,
        metavar="N",
        help="only the first N images of each benchmark, which marks the rows (default: %(default)s; all: 320)",
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images a batch (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Make the test scenes where absent, evaluate, print a table a task and write ``tables.md``."""
    out = Path(args.out)
    root = Path(args.data_root) if args.data_root else out / "data"
    _make_data(root)
    started = time.perf_counter()
    runs, exit_code = [], 0
    for name in (MODEL, *BOUNDS):
        names = _answerable(name)
        if not names:
            continue
        folder = out / name.replace(":", "-").replace("@", "-at-")
        print(f"{name}: {', '.join(names)}", file=sys.stderr)
        exit_code |= _evaluate(name, names, folder, root, args)
        runs.append(folder)
    seconds = time.perf_counter() - started
    _print_tables(runs, out / "tables.md")
    print(f"evaluated in {seconds:.0f} s; tables are also in {out / 'tables.md'}")
    return exit_code


def _make_data(root: Path) -> None:
    from groma_eval.cards import select
    from groma_eval.cli.data import prepare_data

    if all((root / card.data["annotations"]).is_file() for card in select(SUITE)):
        return
    print(f"making {TEST_IMAGES} test scenes in {root}", file=sys.stderr)
    prepare_data("shapes", root, splits={"test": TEST_IMAGES})


def _answerable(name: str) -> list[str]:
    """The suite's benchmarks that the model can answer."""
    from groma_eval.cards import QUESTION_KINDS, select
    from groma_eval.models import load

    can = load(name).info.capabilities
    return [card.name for card in select(SUITE) if QUESTION_KINDS[card.reader] in can]


def _evaluate(name: str, names: list[str], folder: Path, root: Path, args: argparse.Namespace) -> int:
    from groma_eval.run import evaluate

    result = evaluate(name, names, out=folder, data_root=root, limit=args.limit, batch_size=args.batch_size)
    return result.exit_code


def _print_tables(runs: list[Path], path: Path) -> None:
    from groma_eval.table_formats import render
    from groma_eval.tables import build_table

    written = []
    for kind in TABLES:
        grids = build_table(kind, runs, "none")
        print(render(grids, "text", False))
        written.append(render(grids, "md", False))
    try:
        path.write_text("\n".join(written), encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written ({error.strerror})") from None
