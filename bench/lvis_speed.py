"""Time LVIS evaluation by faster-coco-eval against lvis-api in one run, on a set many times the size of a sample.

    python bench/lvis_speed.py FOLDER [--times 10] [--repeats 3] [--json OUT]

FOLDER holds ``lvis_val_100.json`` (LVIS annotations) and ``detections_perturbed.json`` (COCO results). Their images are
repeated under new ids, and the detections moved a little, always in the same way, so that no copy scores as another.
Each way is timed on the files, as ``groma-eval score detection --protocol lvis`` reads and scores them, and on the
evaluation alone. Exit status 1 where the figures differ in the sixth digit; the times decide nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from groma_eval.metrics.detection import score_detection
from groma_eval.metrics.detection_files import read_detections, read_ground_truth
from groma_eval.metrics.lvis_eval import lvis_tables

DIGITS = 1e-6


def enlarge(truth: dict, detections: list, times: int) -> tuple[dict, list]:
    """``times`` copies of the images with their boxes; detections move by about a pixel, scores by about 0.01."""
    rng = np.random.default_rng(0)
    images, annotations, found = [], [], []
    step = 1 + max(image["id"] for image in truth["images"])
    for copy in range(times):
        images += [{**row, "id": row["id"] + copy * step} for row in truth["images"]]
        annotations += [
            {**row, "id": len(annotations) + n, "image_id": row["image_id"] + copy * step}
            for n, row in enumerate(truth["annotations"], start=1)
        ]
        for row in detections:
            box = np.array(row["bbox"]) + rng.normal(0, 1, 4)
            box[2:] = box[2:].clip(1)
            score = float(np.clip(row["score"] + rng.normal(0, 0.01), 0, 1))
            found.append({**row, "image_id": row["image_id"] + copy * step, "bbox": box.tolist(), "score": score})
    return {**truth, "images": images, "annotations": annotations}, found


def seconds(work, repeats: int) -> float:
    """The fastest of ``repeats`` calls."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=10, help="copies of the sample (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts (default: 3)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    args = parser.parse_args(arguments)
    sample = [
        json.loads((args.folder / name).read_text()) for name in ("lvis_val_100.json", "detections_perturbed.json")
    ]
    content, rows = enlarge(*sample, args.times)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "truth.json", Path(folder) / "results.json"]
        for path, what in zip(files, (content, rows)):
            path.write_text(json.dumps(what))
        truth = read_ground_truth(files[0], federated=True)
        found = read_detections(files[1], truth)
        figures, times = {}, {}
        for name, reference in (("faster-coco-eval", False), ("lvis-api", True)):
            figures[name] = score_detection(*files, "lvis", reference)[0]
            times[name] = {
                "whole": seconds(lambda r=reference: score_detection(*files, "lvis", r), args.repeats),
                "evaluation": seconds(lambda r=reference: lvis_tables(truth.dataset, found, r), args.repeats),
            }
    fast, slow = figures["faster-coco-eval"], figures["lvis-api"]
    worst = max(abs(fast[key] - slow[key]) for key in slow if None not in (fast[key], slow[key]))
    agree = worst < DIGITS and all((fast[key] is None) == (slow[key] is None) for key in slow)
    ratios = {part: times["lvis-api"][part] / times["faster-coco-eval"][part] for part in ("whole", "evaluation")}
    print(f"{len(content['images'])} images, {len(content['annotations'])} true boxes, {len(rows)} detections")
    for part, ratio in ratios.items():
        fast_s, slow_s = (times[name][part] for name in ("faster-coco-eval", "lvis-api"))
        print(f"{part:<12}faster-coco-eval {fast_s:8.3f} s   lvis-api {slow_s:8.3f} s   {ratio:6.1f} times")
    print(f"largest difference of {len(slow)} figures: {worst:.1e}" + ("" if agree else "  NOT EQUAL"))
    if args.json:
        args.json.write_text(json.dumps({"seconds": times, "ratios": ratios, "difference": worst}, indent=1) + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
