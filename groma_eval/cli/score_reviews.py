"""``groma-eval score reviews``: LLaVA's review files summarised, as its ``summarize_gpt_review.py`` does."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from groma_eval.cli.score_report import add_json_argument
from groma_eval.core import HarnessError
from groma_eval.judge.reviews import Review, Summary, read_reviews, summarise
from groma_eval.store import write_json

ABOUT = "a judge's reviews in LLaVA's form: score relative to the reference, over all and by category"
_HEADS = ("score", "reference", "model", "reviews", "unread")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help='JSONL with "question_id", "category" and "tuple": [reference, model], as LLaVA writes it',
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line a file and category, and write JSON; bad files raise HarnessError.

    The JSON's names are the categories (``all``, ...), with the file before them (``FILE:all``) where there are
    several; the score is theirs, ``CATEGORY/reference`` and ``CATEGORY/model`` the means x 10.
    """
    files = {str(path): read_reviews(path) for path in args.files}
    summaries = {name: summarise(reviews) for name, reviews in files.items()}
    notes = [note for name, reviews in files.items() for note in _notes(name, reviews)]
    width = max(len(line.category) for lines in summaries.values() for line in lines) + 2
    for name, lines in summaries.items():
        print(name)
        print(f"  {'':<{width}}" + "".join(f"{head:>10}" for head in _HEADS))
        for line in lines:
            cells = [*map(_number, (line.score, line.reference, line.model)), str(line.used), str(line.excluded)]
            print(f"  {line.category:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    for note in notes:
        print(f"note: {note}")
    if args.json is not None:
        _write(args.json, files, summaries, notes)
    return 0


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _notes(name: str, reviews: list[Review]) -> list[str]:
    unread = sum(review.scores is None for review in reviews)
    notes = [f"{name}: {unread} of {len(reviews)} reviews could not be read and are left out"] if unread else []
    repeated = [key for key, count in Counter(review.question_id for review in reviews).items() if count > 1]
    if repeated:
        notes.append(f"{name}: {len(repeated)} questions are reviewed more than once ('{repeated[0]}'); each counts")
    return notes


def _write(out: Path, files: dict[str, list[Review]], summaries: dict[str, list[Summary]], notes: list[str]) -> None:
    metrics: dict[str, Any] = {}
    for name, lines in summaries.items():
        prefix = f"{name}:" if len(files) > 1 else ""
        for line in lines:
            key = prefix + line.category
            metrics |= {key: line.score, f"{key}/reference": line.reference, f"{key}/model": line.model}
            metrics |= {f"{key}/reviews": line.used, f"{key}/unread": line.excluded}
    items = {name: [{"question_id": r.question_id, "scores": r.scores} for r in found] for name, found in files.items()}
    per_item = items if len(files) > 1 else next(iter(items.values()))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {"metrics": metrics, "per_item": per_item, "notes": notes})
    except OSError as error:
        raise HarnessError(f"--json {out}: cannot be written ({error.strerror})") from None
