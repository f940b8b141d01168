"""``groma-eval score detection``: COCO, LVIS or as-many figures of anybody's detections, without a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from groma_eval.cli.score_report import add_json_argument, report
from groma_eval.metrics.detection import PROTOCOLS, score_detection

ABOUT = "score detections (COCO results) against a COCO or LVIS annotation file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("--references", required=True, type=Path, metavar="COCO_OR_LVIS.json", help="annotations in COCO or LVIS form")
    add(
        "--predictions",
        required=True,
        type=Path,
        metavar="RESULTS.json",
        help='COCO results: [{"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}]',
    )
    add(
        "--protocol",
        required=True,
        choices=PROTOCOLS,
        help="coco and lvis: AP and AR of these tools; as-many: recall of the k best-scored boxes of an image and "
        "category that has k (Groma)",
    )
    add(
        "--reference-metrics",
        action="store_true",
        help="compute through pycocotools or lvis-api (slow) instead of faster-coco-eval; the figures are the same",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the figures (in [0, 1], a dash where nothing is to be measured) and write ``--json``."""
    metrics, per_item = score_detection(args.references, args.predictions, args.protocol, args.reference_metrics)
    report(metrics, per_item, args.json)
    return 0
