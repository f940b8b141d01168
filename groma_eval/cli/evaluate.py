"""``groma-eval``: run benchmarks, score, print and browse runs and predictions, prepare data, and the demo."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from groma_eval import __version__
from groma_eval.cli import score
from groma_eval.core import HarnessError

COMMANDS = {
    "run": "evaluate a model on benchmarks; a repeat of the command continues",
    "score": "recompute the metrics of finished runs, or score predictions made elsewhere; no model is needed",
    "judge": "score a run's open answers with a language model as judge; a repeat of the command continues",
    "compare": "which of several runs is better, where, and how sure that is: intervals, p-values, changed questions",
    "table": "print tables of runs beside published results",
    "report": "write a page to browse: tables, plots and every answer of runs; no model, server or network is needed",
    "doctor": "tell whether the boxes of runs fit the frame that their models declare",
    "list": "list benchmarks, models, tasks or metrics",
    "data": "list, check or prepare the data of benchmarks",
    "demo": "evaluate the bundled model and its bounds on four tasks",
    "speed": "measure how fast a model answers a RefCOCO-shaped workload",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see: {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 1 where a run had inputs that failed; 2 for a bad call (one line on stderr)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["score"]:
            args = score.parse(given[1:], Parser)
        else:
            args = build_parser(*given[:1]).parse_args(given)
        args.command_line = ["groma-eval", *given]
        return args.handler(args)
    except HarnessError as error:
        print(f"groma-eval: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("groma-eval: interrupted; repeat the same command to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a table (head, less) has gone
        sys.stdout = None
        return 0


def build_parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The command's parser; the sub-command that is ``asked`` sets ``handler``.

    The others are named only: their arguments would be declared, and their modules imported, in vain.
    """
    parser = Parser(
        prog="groma-eval",
        description="Evaluate grounded multimodal language models and print tables beside published results.",
        epilog="A run with unreadable inputs finishes, counts them and exits 1; a bad call exits 2.",
    )
    parser.add_argument("--version", action="version", version=f"groma-eval {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, about in COMMANDS.items():
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name == asked != "score":
            module = importlib.import_module(f"groma_eval.cli.{name}")
            module.add_arguments(sub)
            sub.set_defaults(handler=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
