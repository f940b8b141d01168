"""Time the bootstrap by stored statistics against the plain one, on a set of the size of all RefCOCO splits.

    python bench/bootstrap_speed.py [--questions 57457] [--images 4000] [--resamples 10000] [--plain 50] [--json OUT]

The plain way draws images, collects the scores of their questions and computes the metric anew, for each resample. The
other multiplies how often each image was drawn with sums an image (groma_eval.statistics). Both get the same draws, and
the exit status is 1 where their values differ; the times decide nothing. Metrics: accuracy of all questions, F1 of
matched, answered and true boxes, and corpus BLEU-4 of n-gram counts and lengths. The plain way is timed on ``--plain``
resamples and its time for all of them is reckoned from that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from groma_eval.statistics import estimate
from groma_eval.statistics.captioning import bleu
from groma_eval.statistics.resample import bootstrap_weights
from groma_eval.statistics.sums import OfSums, f1, per_image, share

DIGITS = 1e-9


def scores(questions: int, images: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each question's image, and columns (questions, k) that add up to what the metric is made from."""
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, images, questions))
    ones = np.ones(questions)
    right = rng.random(questions) < 0.9
    wanted = rng.integers(1, 5, questions)
    found = rng.binomial(wanted, 0.8)
    boxes = np.stack([found, found + rng.poisson(0.4, questions), wanted], axis=1)
    words = rng.integers(4, 15, questions)
    all_grams = np.maximum(0, words[:, None] - np.arange(4))
    grams = np.concatenate([rng.binomial(all_grams, (0.8, 0.6, 0.45, 0.35)), all_grams], axis=1)
    lengths = np.stack([words, words + rng.integers(-2, 3, questions)], axis=1)
    columns = {"accuracy": np.stack([right, ones], axis=1), "f1": boxes, "bleu_4": np.hstack([grams, lengths])}
    return image, {name: column.astype(float) for name, column in columns.items()}


FORMULAS = {"accuracy": share, "f1": f1, "bleu_4": partial(bleu, n=4)}


def plain(image: np.ndarray, column: np.ndarray, name: str, images: int, drawn: np.ndarray) -> np.ndarray:
    """The metric of each draw (rows of ``drawn``: how often each image) from the questions' own rows."""
    places = np.split(np.arange(len(image)), np.searchsorted(image, np.arange(1, images)))
    values = []
    for counts in drawn.astype(int):
        rows = np.concatenate([places[i] for i in np.repeat(np.arange(images), counts)])
        values.append(FORMULAS[name](column[rows].sum(axis=0)))
    return np.array(values)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("questions", 57_457), ("images", 4000), ("resamples", 10_000), ("plain", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(arguments)
    image, columns = scores(args.questions, args.images)
    drawn = np.concatenate(list(bootstrap_weights(args.images, args.plain)))
    result: dict = {name: getattr(args, name) for name in ("questions", "images", "resamples")}
    worst = 0.0
    made = {}
    start = time.perf_counter()
    for name, column in columns.items():
        made[name] = OfSums(per_image(image, args.images, column.T), FORMULAS[name])
    found = estimate(made, args.resamples)
    result["stored statistics, all three, s"] = round(time.perf_counter() - start, 2)
    for name, column in columns.items():
        start = time.perf_counter()
        slow = plain(image, column, name, args.images, drawn)
        taken = time.perf_counter() - start
        worst = max(worst, float(np.abs(slow - made[name].replicates(drawn)).max()))
        result[f"plain, {name}, s"] = round(taken * args.resamples / args.plain, 1)
        e = found[name]
        print(f"{name}: {e.value:.3f}, standard error {e.se:.3f}, 95 % interval {e.low:.3f} to {e.high:.3f}")
    result["largest difference"] = worst
    for name, value in result.items():
        print(f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(worst > DIGITS)


if __name__ == "__main__":
    sys.exit(main())
