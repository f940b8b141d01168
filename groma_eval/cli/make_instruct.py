"""``groma-train make-instruct``: grounded conversations about pictures, written by a vision-language model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.cli.endpoint import add_endpoint_arguments, consents, endpoint_settings
from groma_eval.cli.make_instruct_calls import WHO, Item, ask_all, estimate, pending_of, prepare, used_calls
from groma_eval.core import HarnessError
from groma_eval.judge.settings import JudgeSettings

if TYPE_CHECKING:
    from groma_eval.judge.journal import Calls
    from groma_model.instruct.sources import Selection

ABOUT = "have a vision-language model write grounded conversations (Groma-Instruct); a repeat of the command continues"

CALLS, DATA, REJECTS, REPORT = "calls.jsonl", "groma_instruct.json", "rejects.jsonl", "report.json"
_DEFAULTS = JudgeSettings(model="gpt-4o", temperature=0.7, max_tokens=1500, asks=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--visual-genome",
        type=Path,
        metavar="DIR",
        help="folder with image_data.json, region_descriptions.json and, where wanted, question_answers.json",
    )
    source.add_argument("--coco", type=Path, metavar="FILE", help="COCO instances file")
    add("--captions", type=Path, nargs="+", default=[], metavar="FILE", help="COCO captions files (for either source)")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    add("--out", type=Path, required=True, metavar="DIR", help=f"folder for {DATA}, {REPORT}, {REJECTS} and {CALLS}")
    add("--limit", type=int, metavar="N", help="ask about N pictures (default: all that have enough regions)")
    add("--seed", type=int, default=0, help="which pictures and regions (%(default)s)")
    add("--regions", type=int, nargs=2, default=(3, 10), metavar=("LEAST", "MOST"), help="regions a picture (3 10)")
    add("--max-iou", type=float, default=0.5, metavar="X", help="no two regions overlap by this IoU (%(default)s)")
    add(
        "--max-missing",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="stop where a larger share of the pictures has no file (%(default)s); otherwise they are left out",
    )
    add("--model", default=_DEFAULTS.model, help="model that takes pictures (%(default)s)")
    add_endpoint_arguments(
        parser,
        _DEFAULTS,
        who="vision-language model",
        reply="reply",
        asks="how often a usable reply is asked for",
        yes="ask the model without asking whether the estimated cost is all right",
    )
    add("--no-progress", action="store_true", help="show no progress bar")


def run(args: argparse.Namespace) -> int:
    """Choose pictures, print the estimated cost, ask, validate, write.

    Returns 1 where the cost is declined, requests failed for good (a repeat asks those again) or no reply was usable.
    """
    settings = _settings(args)
    selection = _select(args)
    from groma_eval.judge.client import read_key
    from groma_eval.judge.journal import Journal, read_calls

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"--out {args.out}: no such folder can be made ({error.strerror})") from None
    items = prepare(selection.images, args.images, not args.no_progress)
    pending = pending_of(items, read_calls(args.out, CALLS), settings)
    print(f"{settings.model} at {settings.base_url}: {estimate(pending, len(items), settings)}", flush=True)
    if pending:
        read_key(settings, WHO)
        if not args.yes and not _consents():
            print("not asked; the replies so far are kept")
            return 1
        journal = Journal(args.out, CALLS)
        try:
            ask_all(pending_of(items, journal.calls, settings), args.images, settings, journal, not args.no_progress)
        finally:
            journal.close()
    _write(args.out, items, selection, read_calls(args.out, CALLS), settings)
    return _report(args.out, items)


def _settings(args: argparse.Namespace) -> JudgeSettings:
    if not args.model.strip():
        raise HarnessError("--model: the name of the model is empty")
    if args.limit is not None and args.limit < 1:
        raise HarnessError(f"--limit {args.limit}: must be at least 1")
    if not 0 <= args.max_missing <= 1:
        raise HarnessError(f"--max-missing {args.max_missing}: must be a share from 0 to 1")
    return endpoint_settings(args, args.model)


def _select(args: argparse.Namespace) -> Selection:
    from groma_model.instruct.regions import RegionRules
    from groma_model.instruct.sources import read_coco, read_visual_genome

    read, source = (read_coco, args.coco) if args.coco else (read_visual_genome, args.visual_genome)
    try:
        rules = RegionRules(*args.regions, max_iou=args.max_iou)
        selection = read(source, args.images, args.captions, rules=rules, seed=args.seed, limit=args.limit)
    except ValueError as error:
        raise HarnessError(str(error)) from None
    usable = selection.looked_at - selection.too_few_regions
    if not usable:
        raise HarnessError(f"{source}: none of {selection.looked_at} pictures has {rules.least} regions by the rules")
    if selection.missing > args.max_missing * usable or selection.missing == usable:
        raise HarnessError(
            f"--images {args.images}: {selection.missing} of {usable} pictures have no file there; give the right "
            "folder, or a larger --max-missing"
        )
    if selection.missing:
        print(f"groma-train: {selection.missing} pictures have no file and are left out", file=sys.stderr)
    return selection


def _consents() -> bool:
    if not sys.stdin.isatty():
        raise HarnessError("this may cost money, and there is no terminal to ask at; repeat with --yes to go ahead")
    return consents("ask now?")


def _write(out: Path, items: Sequence[Item], selection: Selection, calls: Calls, settings: JudgeSettings) -> None:
    """The conversations, the rejects and the report; each file whole or as it was."""
    from groma_model.instruct.dataset import instruct_row

    rows = [json.dumps(instruct_row(item.image, item.turns)) for item in items if item.turns]
    _replace(out / DATA, "[\n" + ",\n".join(rows) + "\n]\n")
    rejects = [_reject(item) for item in items if not item.turns]
    _replace(out / REJECTS, "".join(json.dumps(row) + "\n" for row in rejects))
    spent = Counter({"prompt_tokens": 0, "completion_tokens": 0, "replies": 0})
    for call in used_calls(items, calls, settings):
        spent.update({"replies": 1, **{name: call.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}})
    report = {
        "model": {"model": settings.model, **settings.decoding},
        "pictures": {
            "looked_at": selection.looked_at,
            "too_few_regions": selection.too_few_regions,
            "missing": selection.missing,
            "chosen": len(items),
            "accepted": len(rows),
            "rejected": dict(sorted(Counter(row["reason"] for row in rejects).items())),
        },
        "replies_rejected": dict(sorted(Counter(reason for item in items for reason in item.rejected).items())),
        "spent": dict(spent),
    }
    _replace(out / REPORT, json.dumps(report, indent=2) + "\n")


def _reject(item: Item) -> dict[str, Any]:
    reason, detail = item.outcome or ("", "")
    row = {"image_id": item.image.id, "file_name": item.image.file_name, "reason": reason, "detail": detail}
    return row if item.reply is None else {**row, "reply": item.reply}


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written ({error.strerror})") from None


def _report(out: Path, items: Sequence[Item]) -> int:
    accepted = sum(item.turns is not None for item in items)
    reasons = Counter(_reject(item)["reason"] for item in items if item.turns is None)
    rejected = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    print(f"{accepted} conversations of {len(items)} pictures{f'; rejected: {rejected}' if rejected else ''}")
    print(f"stored in {out}")
    if failed := reasons["request_failed"]:
        print(f"groma-train: requests for {failed} pictures failed; a repeat asks them again", file=sys.stderr)
    return int(bool(failed) or not accepted)
