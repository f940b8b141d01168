"""The eight-split REC table from a file of predictions: how long it takes, and whether it is right.

    python bench/rec_speed.py --annotations FOLDER     # with refcoco_val.json, ..., refcocog_test.json

Predictions are the true boxes, perturbed by a seed. In one run: the whole commands (``groma-eval run`` and ``groma-eval
table``, each a process of its own), and the scoring alone, all questions at once against one question after another.
Every accuracy of the run is compared with a count by the plain definition of IoU.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from groma_eval.cards import select
from groma_eval.metrics.boxes import REC_THRESHOLDS, rec_scores, rec_table

Pixels = tuple[float, float, float, float]


def main() -> None:
    """Print a line a measurement; exits 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    splits = {card.name: args.annotations / Path(card.data["annotations"]).name for card in select("refcoco")}
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "predictions.jsonl", Path(folder) / "run"
        pairs = write_predictions(splits, file, args.seed)
        print(f"{sum(map(len, pairs.values()))} expressions in {len(pairs)} splits, {file.stat().st_size / 1e6:.1f} MB")
        evaluate = command(
            "run", "--model", f"predictions:{file}", "--benchmarks", "refcoco", "--annotations", args.annotations,
            "--out", run, "--no-progress",
        )  # fmt: skip
        table = command("table", "rec", run)
        print(f"groma-eval run {evaluate:.1f} s, groma-eval table {table:.1f} s: {evaluate + table:.1f} s in all")
        found = json.loads((run / "metrics.json").read_text())
    wrong = [text for name in pairs for text in differences(name, found[name]["metrics"], pairs[name])]
    compare_scoring([pair for split in pairs.values() for pair in split])
    print("\n".join(wrong) or f"accuracies at {REC_THRESHOLDS} equal those by the plain definition")
    sys.exit(bool(wrong))


def write_predictions(splits: dict[str, Path], file: Path, seed: int) -> dict[str, list[tuple[Pixels, Pixels]]]:
    """Write one record an expression; returns (predicted, true) pixel boxes by split."""
    rng = random.Random(seed)
    pairs: dict[str, list[tuple[Pixels, Pixels]]] = {}
    with file.open("w") as out:
        for name, path in splits.items():
            pairs[name] = [(perturbed(box, rng), box) for box in true_boxes(path)]
            for index, (box, _) in enumerate(pairs[name]):
                print(json.dumps({"benchmark": name, "id": index, "box": box}), file=out)
    return pairs


def true_boxes(path: Path) -> Iterator[Pixels]:
    """The pixel xyxy boxes of a flat annotation file."""
    for row in json.loads(path.read_text()):
        x, y, width, height = row["bbox"]
        yield (x, y, x + width, y + height)


def perturbed(box: Pixels, rng: random.Random) -> Pixels:
    """``box`` with each side moved by a normal share of the box's size, of a spread drawn for the box."""
    spread = rng.choice((0.0, 0.05, 0.1, 0.3))
    sides = (box[2] - box[0], box[3] - box[1]) * 2
    x1, y1, x2, y2 = (round(v + spread * side * rng.gauss(0, 1), 2) for v, side in zip(box, sides))
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def command(*arguments: object) -> float:
    """Seconds of one ``groma-eval`` process; its output is dropped unless it fails."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "groma_eval.cli.evaluate", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


def differences(name: str, metrics: dict[str, float], pairs: list[tuple[Pixels, Pixels]]) -> Iterator[str]:
    """Accuracies that are not those of the plain definition (metrics.json holds six digits)."""
    ious = [plain_iou(*pair) for pair in pairs]
    for threshold in REC_THRESHOLDS:
        for key, hits in (
            (f"acc@{threshold:g}", sum(iou >= threshold for iou in ious)),
            (f"acc@{threshold:g}_strict", sum(iou > threshold for iou in ious)),
        ):
            plain = 100 * hits / len(ious)
            if abs(metrics[key] - plain) > 1e-6:
                yield f"{name}: {key} is {metrics[key]}, by the plain definition {plain}"


def plain_iou(a: Pixels, b: Pixels) -> float:
    """Intersection over union of two xyxy boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def compare_scoring(pairs: list[tuple[Pixels, Pixels]]) -> None:
    """Time the scores of all questions at once and one by one; the columns must be the same."""
    started = time.perf_counter()
    table = rec_table([box for box, _ in pairs], [truth for _, truth in pairs])
    at_once = time.perf_counter() - started
    started = time.perf_counter()
    single = [rec_scores([box], None, truth) for box, truth in pairs]
    one_by_one = time.perf_counter() - started
    same = all(column.tolist() == [row[name] for row in single] for name, column in table.items())
    print(
        f"scoring alone: {at_once:.3f} s at once, {one_by_one:.3f} s one by one, {one_by_one / at_once:.0f} times as "
        f"long; the scores are {'the same' if same else 'NOT the same'}"
    )


if __name__ == "__main__":
    main()
