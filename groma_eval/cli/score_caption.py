"""``groma-eval score caption``: captions against references, in COCO's formats, as pycocoevalcap scores them."""

from __future__ import annotations

import argparse
from pathlib import Path

from groma_eval.cli.score_report import add_json_argument, report
from groma_eval.core import HarnessError
from groma_eval.metrics.captions import ORIGINAL, score_captions
from groma_eval.readers.common import need, read_json, rows_of

ABOUT = "captions: BLEU-1 to -4, METEOR 1.5, ROUGE-L and CIDEr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add(
        "--references",
        required=True,
        type=Path,
        metavar="CAPTIONS.json",
        help='COCO captions: {"images": [{"id"}], "annotations": [{"image_id", "caption"}]}',
    )
    add(
        "--predictions",
        required=True,
        type=Path,
        metavar="RESULTS.json",
        help='COCO results: [{"image_id", "caption"}]',
    )
    add(
        "--only-predicted",
        action="store_true",
        help="leave out images without a prediction, as the reference tool does (default: they count as empty)",
    )
    add("--cider-original", action="store_true", help=f"{ORIGINAL} too: without clipping and length penalty")
    add(
        "--meteor-data",
        type=Path,
        metavar="PATH",
        help="folder of METEOR's data files (default: $GROMA_METEOR_DATA, else an installed pycocoevalcap)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Score, print and write. Bad files, and predictions of other images, raise HarnessError."""
    references, unnamed = read_references(args.references)
    candidates = read_predictions(args.predictions)
    unknown = [key for key in candidates if key not in references]
    if unknown:
        raise HarnessError(
            f"{args.predictions}: image '{unknown[0]}' has no reference caption in {args.references} "
            f"({len(unknown)} of {len(candidates)} predictions): another split?"
        )
    scores = score_captions(
        candidates, references, args.meteor_data, only_predicted=args.only_predicted, original=args.cider_original
    )
    notes = list(scores.notes)
    if unnamed:
        notes.insert(0, f"{unnamed} images have no reference caption and are left out")
    report(scores.metrics, scores.per_item, args.json, notes)
    return 0


def read_references(path: Path) -> tuple[dict[str, list[str]], int]:
    """Captions by image id (as text), images in the file's order; and how many images have none."""
    content = read_json(path)
    captions: dict[str, list[str]] = {}
    for index, image in enumerate(rows_of(path, content, "images")):
        key = _id(image, "id", where := f"{path}: images {index}")
        if key in captions:
            raise HarnessError(f"{where}: field 'id': image '{key}' occurs twice")
        captions[key] = []
    for index, row in enumerate(rows_of(path, content, "annotations")):
        key = _id(row, "image_id", where := f"{path}: annotations {index}")
        if key not in captions:
            raise HarnessError(f"{where}: field 'image_id': '{key}' is none of the file's images")
        captions[key].append(need(row, "caption", str, where))
    named = {key: texts for key, texts in captions.items() if texts}
    return named, len(captions) - len(named)


def read_predictions(path: Path) -> dict[str, str]:
    """The caption of each image id (as text)."""
    captions: dict[str, str] = {}
    for index, row in enumerate(rows_of(path, read_json(path))):
        key = _id(row, "image_id", where := f"{path}: row {index}")
        if key in captions:
            raise HarnessError(f"{where}: field 'image_id': image '{key}' has a prediction already; keep one")
        captions[key] = need(row, "caption", str, where)
    return captions


def _id(row: dict, field: str, where: str) -> str:
    return str(need(row, field, (int, str), where))
