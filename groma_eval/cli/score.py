"""``groma-eval score``: metrics of finished runs anew, or of predictions that somebody made elsewhere.

The first word decides: one of :data:`KINDS` has arguments of its own (module ``score_KIND``), anything else is the
folder of a run. Only the module of the kind that is asked for is imported, so that each starts fast.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

KINDS = ("caption", "detection", "rec", "reviews", "yesno")


def parse(words: Sequence[str], parser_class: type[argparse.ArgumentParser]) -> argparse.Namespace:
    """The arguments after ``groma-eval score``, with ``handler`` set."""
    if words and words[0] in KINDS:
        kind = _module(words[0])
        parser = parser_class(prog=f"groma-eval score {words[0]}", description=kind.ABOUT[0].upper() + kind.ABOUT[1:])
        kind.add_arguments(parser)
        parser.set_defaults(handler=kind.run)
        return parser.parse_args(words[1:])
    parser = parser_class(
        prog="groma-eval score",
        usage="%(prog)s RUN...\n       %(prog)s KIND [--help] ...",
        description="Recompute the metrics of finished runs, or score predictions made elsewhere. No model is needed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders written by groma-eval run")
    parser.set_defaults(handler=run)
    if {"-h", "--help"} & {*words}:
        width = max(map(len, KINDS)) + 2
        kinds = "\n".join(f"  {kind:<{width}}{_module(kind).ABOUT}" for kind in KINDS)
        parser.epilog = (
            f"KIND is what was predicted, as the first word:\n{kinds}\n\n"
            f"The folder of a run that is called like a kind is given as ./{KINDS[0]}."
        )
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    """Recompute the metrics of finished runs and print them."""
    from groma_eval.cli.score_report import print_metrics
    from groma_eval.run import rescore

    for folder in args.runs:
        print_metrics(rescore(folder))
        print(f"rescored {folder}")
    return 0


def _module(kind: str) -> Any:
    """``ABOUT``, ``add_arguments(parser)`` and ``run(args) -> int`` of a kind."""
    return importlib.import_module(f"groma_eval.cli.score_{kind}")
