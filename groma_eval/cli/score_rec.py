"""``groma-eval score rec``: anybody's boxes for referring expressions, held against the annotations."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.cli.score_report import add_json_argument, report
from groma_eval.core import HarnessError, Prediction, Sample
from groma_eval.frames import FORMS, FRAMES, Frame
from groma_eval.prediction_records import Record, check_records, read_records, to_prediction
from groma_eval.stats import clustered_interval

ABOUT = "boxes for referring expressions (REC): accuracy by IoU, mean IoU, centre accuracy"
_COUNTS = ("questions", "images", "ok", "unparsed", "missing", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add(
        "--references",
        required=True,
        type=Path,
        metavar="REC",
        help="the annotations, in any form of RefCOCO: flat or COCO-style JSON, the REFER folder, parquet",
    )
    add(
        "--split",
        metavar="NAME",
        help="refcoco_val, refcoco+_testA, ...: asserts that the references are that split; needed where a folder or "
        "file holds several",
    )
    add(
        "--predictions",
        required=True,
        type=Path,
        metavar="FILE",
        help='JSONL or a JSON list of {"id": row of the annotations, "box": [x1, y1, x2, y2]}; '
        "null or a box that is not four finite numbers is unparsed, an 'error' failed: both count as wrong",
    )
    add(
        "--frame",
        choices=FRAMES,
        default="pixels",
        help="what the numbers mean (default: %(default)s, of the original image); never guessed",
    )
    add("--format", choices=FORMS, default="xyxy", help="two corners, or corner and size (default: %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Score, print and write. Bad files, ids of no expression and boxes of another frame raise HarnessError."""
    from groma_eval.readers import refcoco
    from groma_eval.tasks import rec

    samples = refcoco.read(args.references, None, False, *_split(args.split))
    records = _of_one_benchmark(args.predictions)
    notes = check(records, samples, Frame(args.frame, args.format), args.predictions)
    predictions = to_predictions(records, samples, Frame(args.frame, args.format))
    result = rec.score(samples, predictions, {}, {"iou": ">="})
    images = [sample.image_id for sample in samples for _ in sample.questions]
    low, high = clustered_interval([100 * score.values["acc@0.5"] for score in result.scores], images)
    notes = [
        f"boxes read as {args.frame}, {args.format}; acc@T: IoU >= T, acc@T_strict: IoU > T",
        f"acc@0.5: 95 % interval {low:.2f} to {high:.2f}, clustered by image",
        *notes,
    ]
    metrics: dict[str, Any] = {**result.metrics, **{name: result.counts[name] for name in _COUNTS}}
    report(metrics, _per_item(result.scores, predictions), args.json, notes)
    return 0


def _split(name: str | None) -> tuple[str | None, str | None]:
    """``refcoco+_testA`` to its data set and part."""
    from groma_eval.readers.refcoco import SPLITS

    if name is None:
        return None, None
    names = {"_".join(key): key for key in SPLITS}
    if name not in names:
        raise HarnessError(f"--split {name}: there is no such split; there are: {', '.join(names)}")
    return names[name]


def check(records: Mapping[str, Record], samples: Sequence[Sample], frame: Frame, path: Path) -> list[str]:
    """Notes on boxes outside the frame; a record of no expression raises: all of them belong to the references."""
    known = {question.id for sample in samples for question in sample.questions}
    unknown = [record for key, record in records.items() if key not in known]
    if unknown:
        raise HarnessError(
            f"{unknown[0].where}: id '{unknown[0].id}' is none of the {len(known)} rows of the references "
            f"({len(unknown)} of {len(records)} records): another split?"
        )
    return check_records(records, samples, frame, str(path))


def to_predictions(records: Mapping[str, Record], samples: Sequence[Sample], frame: Frame) -> dict[str, Prediction]:
    """Predictions by question id; a question without a record has none."""
    return {
        question.id: to_prediction(records[question.id], question, sample, frame)
        for sample in samples
        for question in sample.questions
        if question.id in records
    }


def _of_one_benchmark(path: Path) -> dict[str, Record]:
    records = read_records(path)
    if len(records) > 1:
        names = ", ".join(sorted(str(name) for name in records if name is not None))
        raise HarnessError(
            f"{path}: the predictions are of several benchmarks ({names}); give one benchmark's, or score them all "
            f"with: groma-eval run --model predictions:{path}"
        )
    return next(iter(records.values()))


def _per_item(scores: Sequence[Any], predictions: Mapping[str, Prediction]) -> dict[str, dict[str, Any]]:
    return {
        score.question_id: {
            **score.values,
            "status": predictions[score.question_id].status if score.question_id in predictions else "missing",
        }
        for score in scores
    }
