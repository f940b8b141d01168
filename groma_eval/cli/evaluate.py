"""``groma-eval``: run benchmarks, score and print runs, prepare data, and the demo."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from groma_eval import __version__
from groma_eval.cli import demo, table
from groma_eval.core import HarnessError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 1 where a run had inputs that failed; 2 for a bad call (one line on stderr)."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    args.command_line = ["groma-eval", *(sys.argv[1:] if arguments is None else arguments)]
    try:
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


def build_parser() -> argparse.ArgumentParser:
    """The command's parser; every sub-command sets ``handler``."""
    parser = argparse.ArgumentParser(
        prog="groma-eval",
        description="Evaluate grounded multimodal language models and print tables beside published results.",
        epilog="A run with unreadable inputs finishes, counts them and exits 1; a bad call exits 2.",
    )
    parser.add_argument("--version", action="version", version=f"groma-eval {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        sub.set_defaults(handler=handler)
        return sub

    _add_run(command("run", _run, "evaluate a model on benchmarks; a repeat of the command continues"))
    score = command("score", _score, "recompute the metrics of finished runs, without the model")
    score.add_argument("runs", nargs="+", metavar="RUN", help="folders written by groma-eval run")
    table.add_arguments(command("table", table.run, "print tables of runs beside published results"))
    listing = command("list", _list, "list benchmarks, models or tasks")
    listing.add_argument("what", choices=("benchmarks", "models", "tasks"))
    _add_benchmarks_dir(listing)
    data = command("data", _data, "prepare the data of a benchmark")
    _add_data(data)
    demo.add_arguments(command("demo", demo.run, "evaluate the bundled model and its bounds on four tasks"))
    return parser


def _add_benchmarks_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmarks-dir", metavar="DIR", help="folder of your own benchmark cards (default: $GROMA_BENCHMARKS)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a name, folder or bound; see: groma-eval list models")
    add(
        "--benchmarks",
        required=True,
        metavar="A,B|SUITE",
        help="benchmark names, suites or card files, separated by commas; see: groma-eval list benchmarks",
    )
    add("--out", required=True, metavar="DIR", help="folder of the run; an unfinished run in it is continued")
    add("--protocol", metavar="P", help="which protocol of the cards (default: each card's own)")
    add("--limit", type=int, metavar="N", help="only the first N images of each benchmark (marks the row)")
    add(
        "--batch-size", default="8", metavar="N|auto", help="images a batch (default: 8); auto halves it if memory ends"
    )
    add("--device", help="cpu, cuda or cuda:N (default: the model's choice)")
    add("--dtype", help="float32 or bfloat16 (default: the model's choice)")
    add("--seed", type=int, default=0, help="of whatever is drawn at random (default: 0)")
    add("--data-root", metavar="DIR", help="folder that cards' paths start from (default: $GROMA_DATA, else ./data)")
    add(
        "--annotations",
        metavar="FILE",
        help="annotations in place of the card's (marks the row); for several benchmarks a folder of such files",
    )
    add("--images", metavar="DIR", help="pictures in place of the card's folder")
    add("--model-args", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the model adapter")
    add(
        "--gen-args",
        nargs="+",
        action="extend",
        default=[],
        metavar="K=V",
        help="decoding limits in place of the card's, such as max_new_tokens=64 (marks the row)",
    )
    _add_benchmarks_dir(parser)
    add("--no-progress", action="store_true", help="show no progress bar")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("prepare",))
    add("name", help="whose data: shapes, or another name printed by: groma-eval list benchmarks")
    add("--data-root", metavar="DIR", help="where to put it (default: $GROMA_DATA, else ./data)")
    add("--splits", metavar="NAME=N,...", help="images a split, such as train=1000,val=100,test=320")
    add("--seed", type=int, help="of the generator (default: the released world's)")
    add("--workers", type=int, help="processes (default: one a core)")


def pairs(entries: Sequence[str], option: str) -> dict[str, str]:
    """``["a=1,b=2", "c=3"]`` to a mapping; HarnessError names an entry that is no ``key=value``."""
    found = {}
    for entry in (part for text in entries for part in text.split(",") if part):
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise HarnessError(f"{option} {entry}: must be KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def _run(args: argparse.Namespace) -> int:
    from groma_eval.run import evaluate

    size = args.batch_size
    if size != "auto":
        try:
            size = int(size)
        except ValueError:
            raise HarnessError(f"--batch-size {size}: must be a whole number above 0, or auto") from None
    result = evaluate(
        args.model,
        args.benchmarks,
        out=args.out,
        protocol=args.protocol,
        limit=args.limit,
        batch_size=size,
        device=args.device,
        dtype=args.dtype,
        seed=args.seed,
        data_root=args.data_root,
        annotations=args.annotations,
        images=args.images,
        model_args=pairs(args.model_args, "--model-args"),
        gen_args=pairs(args.gen_args, "--gen-args"),
        benchmarks_dir=args.benchmarks_dir,
        progress=not args.no_progress,
        command=args.command_line,
    )
    _print_metrics(result.metrics)
    print(f"stored in {result.dir}")
    if result.exit_code:
        failed = sum(m["counts"]["failed"] + m["counts"]["missing"] for m in result.metrics.values())
        print(f"groma-eval: {failed} questions failed and count as wrong; see samples.jsonl", file=sys.stderr)
    return result.exit_code


def _print_metrics(metrics: dict[str, dict]) -> None:
    for name, entry in metrics.items():
        print(name + ": " + ", ".join(f"{count} {value}" for count, value in entry["counts"].items()))
        for metric, value in entry["metrics"].items():
            low_high = entry["intervals"].get(metric)
            print(f"  {metric:<24}{value:8.2f}" + (f"  [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""))


def _score(args: argparse.Namespace) -> int:
    from groma_eval.run import rescore

    for folder in args.runs:
        _print_metrics(rescore(folder))
        print(f"rescored {folder}")
    return 0


def _list(args: argparse.Namespace) -> int:
    if args.what == "models":
        from groma_eval.models import available

        names = available()
        rows = list(names.items()) if isinstance(names, dict) else [(name, "") for name in names]
    elif args.what == "tasks":
        from groma_eval.tasks import ABOUT

        rows = list(ABOUT.items())
    else:
        from groma_eval.cards import registry, suites

        cards = registry(args.benchmarks_dir)
        rows = [
            (c.name, f"{c.task}; {c.title}, {c.split}; protocols: {', '.join(c.protocols)}") for c in cards.values()
        ]
        rows += [(suite, f"suite: {', '.join(names)}") for suite, names in suites(cards).items()]
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, about in rows:
        print(f"{name:<{width}}{about}".rstrip())
    return 0


def _data(args: argparse.Namespace) -> int:
    splits = None
    if args.splits:
        splits = {}
        for key, value in pairs([args.splits], "--splits").items():
            if not value.isdigit() or not int(value):
                raise HarnessError(f"--splits {key}={value}: must be a number of images above 0")
            splits[key] = int(value)
    prepare_data(args.name, args.data_root, splits=splits, seed=args.seed, workers=args.workers)
    return 0


def prepare_data(name: str, root: str | Path | None = None, **options) -> Path:
    """Call the data preparation of benchmark (or folder of benchmarks) ``name``; options that are None are left out.

    Returns the data root. Unknown names, and benchmarks whose data must be fetched by hand, raise HarnessError.
    """
    from groma_eval.cards import registry
    from groma_eval.jobs import default_data_root

    cards = registry()
    makers = sorted({card.prepare for card in cards.values() if card.prepare})
    maker = cards[name].prepare if name in cards else name
    if maker not in makers:
        reason = "has no data preparation" if name in cards else "is no benchmark"
        raise HarnessError(f"data prepare {name}: {name} {reason}; there is one for: {', '.join(makers) or 'none'}")
    place = default_data_root(root)
    module = importlib.import_module(f"groma_eval.benchmarks.{maker}.prepare")
    module.prepare(place, **{key: value for key, value in options.items() if value is not None})
    print(f"the data of {maker} is in {place}")
    return place


if __name__ == "__main__":
    sys.exit(main())
