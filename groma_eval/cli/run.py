"""``groma-eval run``: a model on benchmarks, stored, scored and, where a judge is named, judged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from groma_eval.cli import judge
from groma_eval.core import HarnessError

if TYPE_CHECKING:
    from groma_eval.sharding import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("--model", required=True, help="a name, folder, bound or predictions:FILE; see: groma-eval list models")
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
        "--batch-size",
        default="8",
        metavar="N|auto",
        help="images a batch (default: 8); auto fills them by tokens, as large as pays, halved if memory ends",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read pictures ahead of the model (default: by the machine on a GPU, none on a CPU)",
    )
    add(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="share the images among N processes on this machine, a GPU each; torchrun and accelerate launch do the "
        "same, over machines with a common file system",
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
    add("--benchmarks-dir", metavar="DIR", help="folder of your own benchmark cards (default: $GROMA_BENCHMARKS)")
    add("--no-progress", action="store_true", help="show no progress bar")
    add(
        "--judge",
        default="none",
        metavar="none|MODEL",
        help="score open answers (LLaVA-Bench) by this judge when the run is done (default: none; groma-eval judge RUN "
        "does it later)",
    )
    judge.add_endpoint_arguments(_JudgeArguments(parser))


class _JudgeArguments:
    """A parser that gives the judge's options names of their own: ``--judge-temperature`` is not the model's."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser

    def add_argument_group(self, title: str) -> _JudgeArguments:
        return _JudgeArguments(self.parser.add_argument_group(title))

    def add_argument(self, option: str, **settings: Any) -> None:
        dest = option.removeprefix("--").replace("-", "_")
        name = option if option == "--yes" else "--judge-" + option.removeprefix("--")
        self.parser.add_argument(name, dest=dest, **settings)


def pairs(entries: Sequence[str], option: str) -> dict[str, str]:
    """``["a=1,b=2", "c=3"]`` to a mapping; HarnessError names an entry that is no ``key=value``."""
    found = {}
    for entry in (part for text in entries for part in text.split(",") if part):
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise HarnessError(f"{option} {entry}: must be KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the metrics and judge; 1 where questions failed or stay without a review.

    Of several processes the first alone prints and judges; the others tell it what went wrong with them.
    """
    from groma_eval.launching import launch
    from groma_eval.sharding import join

    if args.processes < 1:
        raise HarnessError(f"--processes {args.processes}: must be at least 1")
    world = join()
    if args.processes > 1 and world.size == 1:
        return launch(args.command_line[1:], args.processes)
    if world.size != args.processes > 1:
        raise HarnessError(f"--processes {args.processes}, but {world.size} were started otherwise; leave it out")
    try:
        return _run(args, world)
    except HarnessError as error:
        if world.fail(str(error)) and world.rank:
            return 2
        raise
    except KeyboardInterrupt:
        if world.rank:
            return 130
        raise


def _run(args: argparse.Namespace, world: World) -> int:
    from groma_eval.cli.score_report import print_metrics
    from groma_eval.run import evaluate

    judged, settings = _to_judge(args) if world.rank == 0 else [], None
    if judged:
        settings = judge.settings_of(args)
        judge.check_ready(settings, args.yes)
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
        workers=args.workers,
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
        world=world,
    )
    if world.rank:
        return 0
    print_metrics(result.metrics)
    print(f"stored in {result.dir}")
    if result.exit_code:
        failed = sum(m["counts"]["failed"] + m["counts"]["missing"] for m in result.metrics.values())
        print(f"groma-eval: {failed} questions failed and count as wrong; see samples.jsonl", file=sys.stderr)
    if settings is None:
        return result.exit_code
    return max(result.exit_code, judge.judge(result.dir, settings, judged, args.yes, not args.no_progress))


def _to_judge(args: argparse.Namespace) -> list[str]:
    """Names of the benchmarks that the judge is to score; none without ``--judge``."""
    if args.judge == "none":
        return []
    from groma_eval.cards import select

    cards = select(args.benchmarks, args.benchmarks_dir)
    names = [card.name for card in cards if card.protocol(args.protocol)[1].rules.get("match") == "judge"]
    if not names:
        raise HarnessError(f"--judge {args.judge}: no judge scores any of {', '.join(card.name for card in cards)}")
    return names
