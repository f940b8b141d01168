"""``groma-eval score yesno``: yes/no answers against labels, as LLaVA's ``eval_pope.py`` does."""

from __future__ import annotations

import argparse
from pathlib import Path

from groma_eval.cli.score_report import add_json_argument, report
from groma_eval.core import HarnessError
from groma_eval.metrics.yesno import read_label, score_yesno
from groma_eval.readers.common import need, read_jsonl

ABOUT = "yes/no answers on object hallucination (POPE): accuracy, precision, recall, F1, yes-ratio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add(
        "--references",
        required=True,
        type=Path,
        metavar="Q.jsonl",
        help='JSONL with "question_id" and "label": yes or no (or "answer"), as POPE distributes it',
    )
    add(
        "--predictions",
        required=True,
        type=Path,
        metavar="A.jsonl",
        help='JSONL with "question_id" and "text" (or "answer"), as LLaVA writes it',
    )
    add(
        "--only-predicted",
        action="store_true",
        help="leave questions without a prediction out, as the reference script does (default: they are wrong)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Score, print and write. Bad files, and predictions of other questions, raise HarnessError."""
    labels = _texts(args.references, ("label", "answer"), label=True)
    answers = _texts(args.predictions, ("text", "answer"))
    unknown = [key for key in answers if key not in labels]
    if unknown:
        raise HarnessError(
            f"{args.predictions}: question '{unknown[0]}' is none of the {len(labels)} in {args.references} "
            f"({len(unknown)} of {len(answers)} predictions): another split?"
        )
    missing = len(labels) - len(answers)
    notes = []
    if missing and args.only_predicted:
        notes.append(f"only predicted questions are scored: {missing} of {len(labels)} are left out")
        labels = {key: label for key, label in labels.items() if key in answers}
    elif missing:
        notes.append(f"{missing} of {len(labels)} questions have no prediction and count as wrong")
    metrics, per_item = score_yesno(answers, labels)
    counts = {"questions": len(labels), "missing": len(labels) - len(answers)}
    report({**metrics, **counts}, per_item, args.json, notes)
    return 0


def _texts(path: Path, fields: tuple[str, str], label: bool = False) -> dict[str, str]:
    """The first of ``fields`` that a row has, by question id; checked to be yes or no where it is a ``label``."""
    texts: dict[str, str] = {}
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        identity = str(need(row, "question_id", (int, str), where))
        if identity in texts:
            raise HarnessError(f"{where}: field 'question_id': '{identity}' occurs twice")
        field = fields[1] if fields[0] not in row and fields[1] in row else fields[0]
        texts[identity] = need(row, field, str, where)
        if label:
            try:
                read_label(texts[identity])
            except HarnessError as error:
                raise HarnessError(f"{where}: field '{field}': {error}") from None
    return texts
