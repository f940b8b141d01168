"""``groma-eval judge``: score a run's answers with a language model, or take reviews that were made elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from groma_eval.cli import endpoint
from groma_eval.core import HarnessError
from groma_eval.judge.settings import JudgeSettings

ABOUT = "score a run's open answers (LLaVA-Bench) with a language model as judge; a repeat of the command continues"
_DEFAULTS = JudgeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("run", metavar="RUN", help="folder written by groma-eval run")
    add("--benchmarks", metavar="A,B", help="these alone (default: all of the run's that a judge scores)")
    add("--judge", metavar="MODEL", help=f"the judge's model (default: {_DEFAULTS.model}, the protocol's)")
    add(
        "--import-reviews",
        type=Path,
        metavar="FILE",
        help="take these reviews (JSONL as LLaVA's scripts write it) in place of asking; --judge says who wrote them",
    )
    add_endpoint_arguments(parser)
    add("--no-progress", action="store_true", help="show no progress bar")


def add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a judge is reached and asked: what :func:`settings_of` reads beside ``--judge``, and ``--yes``."""
    endpoint.add_endpoint_arguments(
        parser,
        _DEFAULTS,
        who="judge",
        reply="review",
        asks="how often a review that can be read is asked for, before its question is left out",
        yes="judge without asking whether the estimated cost is all right",
    )


def settings_of(args: argparse.Namespace) -> JudgeSettings:
    """The settings that the arguments give; HarnessError names a bad one."""
    return endpoint.endpoint_settings(args, args.judge or _DEFAULTS.model)


def run(args: argparse.Namespace) -> int:
    """Judge or import, print the metrics; 1 where questions stay without a usable review or the cost is declined."""
    names = [name for name in (args.benchmarks or "").split(",") if name] or None
    if args.import_reviews is None:
        return judge(args.run, settings_of(args), names, args.yes, not args.no_progress)
    from groma_eval.judge.judging import import_reviews

    if args.judge is None:
        raise HarnessError("--import-reviews needs --judge MODEL: which judge wrote the reviews")
    metrics = import_reviews(args.run, args.import_reviews, args.judge, names)
    return _report(args.run, metrics, f"reviews of {args.judge}, from {args.import_reviews}")


def judge(
    run_dir: str | Path, settings: JudgeSettings, benchmarks: Sequence[str] | None, yes: bool, progress: bool
) -> int:
    """Print the estimated cost, ask for consent where there is something to ask, judge, and print the metrics.

    Returns 1 where questions stay without a usable review, or consent is not given (nothing is sent then).
    """
    from groma_eval.judge.judging import cost_of, judge_run

    cost = cost_of(run_dir, settings, benchmarks)
    print(f"judge {settings.model} at {settings.base_url}: {cost}", flush=True)
    if cost.questions:
        check_ready(settings, yes)
        if not yes and not endpoint.consents("judge now?"):
            print("not judged; the answers are kept")
            return 1
    summary = judge_run(run_dir, settings, progress, benchmarks)
    for failure in summary.failures:
        print(f"groma-eval: {failure}", file=sys.stderr)
    used = f", {summary.prompt_tokens} + {summary.completion_tokens} tokens" if summary.prompt_tokens else ""
    return _report(run_dir, summary.metrics, f"{summary.asked} answers of {settings.model}{used}")


def check_ready(settings: JudgeSettings, yes: bool) -> None:
    """Raise HarnessError where judging could not start: no key, or nobody to consent to its cost.

    For a command that judges at its end: better told before it begins.
    """
    from groma_eval.judge.client import read_key

    read_key(settings)
    if not yes and not sys.stdin.isatty():
        raise HarnessError("judging may cost money, and there is no terminal to ask at; repeat with --yes to go ahead")


def _report(run_dir: str | Path, metrics: dict, about: str) -> int:
    from groma_eval.cli.score_report import print_metrics

    print_metrics(metrics)
    print(f"{about}; stored in {run_dir}")
    excluded = sum(entry["counts"]["excluded"] for entry in metrics.values())
    if excluded:
        print(
            f"groma-eval: {excluded} questions have no usable review and are left out: the run is marked incomplete",
            file=sys.stderr,
        )
    return int(bool(excluded))
