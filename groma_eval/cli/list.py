"""``groma-eval list``: the names that the other commands take, and what the metrics mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Rows = list[tuple[str, str]]  # name and what it is, or a further line about it


def _benchmarks(args: argparse.Namespace) -> Rows:
    from groma_eval.cards import registry, suites

    cards = registry(args.benchmarks_dir)
    rows = [(c.name, f"{c.task}; {c.title}, {c.split}; protocols: {', '.join(c.protocols)}") for c in cards.values()]
    return rows + [(suite, f"suite: {', '.join(names)}") for suite, names in suites(cards).items()]


def _models(args: argparse.Namespace) -> Rows:
    from groma_eval.models import available
    from groma_eval.models.registry import declarations

    declared = declarations()
    rows: Rows = []
    for name, about in available().items():
        rows.append((name, about))
        if name in declared:
            kinds, boxes = declared[name]
            rows.append(("", f"  answers {kinds}; boxes: {boxes}"))
    return rows


def _tasks(args: argparse.Namespace) -> Rows:
    from groma_eval.tasks import ABOUT

    return list(ABOUT.items())


def _metrics(args: argparse.Namespace) -> Rows:
    from groma_eval.metrics.about import METRICS

    rows: Rows = []
    for task, metrics in METRICS.items():
        rows.append((task, ""))
        for name, info in metrics.items():
            rows += [(f"  {name}", info.definition), ("", f"  {info.scale}; {info.citation}")]
    return rows


LISTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "benchmarks": _benchmarks,
    "models": _models,
    "tasks": _tasks,
    "metrics": _metrics,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", choices=tuple(LISTS))
    parser.add_argument(
        "--benchmarks-dir", metavar="DIR", help="folder of your own benchmark cards (default: $GROMA_BENCHMARKS)"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line an entry."""
    rows = LISTS[args.what](args)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, about in rows:
        print(f"{name:<{width}}{about}".rstrip())
    return 0
