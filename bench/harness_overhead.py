"""What the harness costs beside the model: a null model over REC-shaped benchmarks of growing size.

    python bench/harness_overhead.py                            # synthetic, shaped like RefCOCO val
    python bench/harness_overhead.py --annotations FOLDER       # the eight REC splits in one file

The model answers at once: one box an expression, a hundred regions an image. Each size is run in a process of its own
(so that its peak of memory is its own), from the annotations to the stored and scored run, at eight images a batch.
The time in which the model makes up its answers is taken off. What is left, of the processor's time in all threads, is
held against a model that answers 100 expressions a second, which has 10 ms for each; time by the clock depends on what
else the machine does.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from groma_eval.core import Decoding, ImageAnswer, ModelInfo, Prediction, Sample

SIZES = (1_000, 4_000, 16_000, 57_457)
SPLITS = (
    "refcoco_val", "refcoco_testA", "refcoco_testB", "refcoco+_val", "refcoco+_testA", "refcoco+_testB",
    "refcocog_val", "refcocog_test",
)  # fmt: skip
MODEL_S = 0.01  # of a model that answers 100 expressions a second
LIMIT_MS = 0.5
REGIONS = 100


class Null:
    """Answers at once; ``seconds`` (of ``processor``: of the processor) is what even that took."""

    def __init__(self) -> None:
        self.info = ModelInfo("null", frozenset({"ground_one"}), exposes_regions=True, needs_images=False)
        self.seconds = self.processor = 0.0
        rng = random.Random(0)
        self._regions = [[self._box(rng) for _ in range(REGIONS)] for _ in range(50)]
        self._objectness = [1 / 3 + i / 7 for i in range(REGIONS)]

    @staticmethod
    def _box(rng: random.Random) -> tuple[float, float, float, float]:
        x, y = rng.random() / 2, rng.random() / 2
        return (x, y, x + rng.random() / 2, y + rng.random() / 2)

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`."""
        began, busy = time.perf_counter(), time.thread_time()
        answers = [self._image(sample) for sample in samples]
        self.seconds += time.perf_counter() - began
        self.processor += time.thread_time() - busy
        yield from answers

    def _image(self, sample: Sample) -> ImageAnswer:
        regions = [tuple(v + 0.0 for v in box) for box in self._regions[len(sample.questions) % 50]]
        predictions = [
            Prediction(
                question.id, raw=f"<roi><r{number}></roi>", text="", boxes=[regions[number % REGIONS]],
                confidences=[0.123456789], prompt=f"[grounding] Locate <p>{question.text}</p> in this image.",
            )
            for number, question in enumerate(sample.questions)
        ]  # fmt: skip
        return ImageAnswer(sample.image_id, predictions, regions, list(self._objectness))


def main() -> None:
    """Print a row a size; exits 1 where the last is above the limit of 5 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, metavar="FOLDER", help="with refcoco_val.json, ...")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--profile", action="store_true", help="profile the largest size and print where time goes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.folder, args.profile)))
        return
    rows = list(real_rows(args.annotations)) if args.annotations else list(synthetic_rows(max(args.sizes)))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; load average "
          f"{os.getloadavg()[0]:.2f}; {'the eight REC splits' if args.annotations else 'synthetic'}")  # fmt: skip
    print("| expressions | images | seconds | of processor | ms of processor an expression | of those added "
          "| share at 100/s | peak memory, MB |\n|" + "---|" * 8)  # fmt: skip
    each, before = 0.0, (0, 0.0)
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            write_benchmark(Path(name), rows[:size])
            found = child(Path(name), size, args.profile and size == max(args.sizes))
        each = 1000 * found["processor"] / found["expressions"]
        share = each / (each + 1000 * MODEL_S)
        more = found["expressions"] - before[0], found["processor"] - before[1]
        before = found["expressions"], found["processor"]
        print(f"| {found['expressions']} | {found['images']} | {found['seconds']:.1f} | {found['processor']:.1f} | "
              f"{each:.3f} | {1000 * more[1] / max(1, more[0]):.3f} | {100 * share:.1f} % | {found['peak']:.0f} |",
              flush=True)  # fmt: skip
    sys.exit(int(each > LIMIT_MS))


def child(folder: Path, size: int, profile: bool) -> dict[str, Any]:
    """Run one size in a process of its own; what it measured."""
    command = [sys.executable, __file__, "--one", str(size), "--folder", str(folder), *["--profile"] * profile]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, profile: bool) -> dict[str, Any]:
    """Seconds of an evaluation less the model's, by the clock and of the processor (all threads), and peak memory."""
    from groma_eval.run import evaluate

    model = Null()
    profiler = cProfile.Profile()
    began, busy = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    result = evaluate(model, folder / "card.yaml", out=folder / "run", data_root=folder, progress=False)
    profiler.disable()
    seconds, processor = time.perf_counter() - began, time.process_time() - busy
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    counts = result.metrics["synthetic"]["counts"]
    return {
        "expressions": counts["questions"],
        "images": counts["images"],
        "seconds": seconds - model.seconds,
        "processor": processor - model.processor,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def write_benchmark(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A card and its annotations."""
    (folder / "synthetic.json").write_text(json.dumps(rows))
    card = {
        "name": "synthetic", "version": 1, "task": "rec", "reader": "refcoco_flat", "headline": "acc@0.5",
        "data": {"annotations": "synthetic.json"}, "protocols": {"paper": {"decoding": {"max_new_tokens": 8}}},
    }  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


def real_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all splits; a picture of two splits counts as two, as it is asked twice."""
    for split in SPLITS:
        for row in json.loads((folder / f"{split}.json").read_text()):
            yield {**row, "img_id": f"{split}-{row['img_id']}"}


def synthetic_rows(count: int) -> Iterator[dict[str, Any]]:
    """As many rows, with RefCOCO val's number of expressions an image and of words an expression."""
    from groma_eval.speed.workload import BUNDLED, WORDS

    rng = random.Random(0)
    shape = json.loads(BUNDLED.read_text())["images"]
    made = 0
    for image in range(count):
        for number, words in enumerate(shape[image % len(shape)]):
            if made == count:
                return
            x, y = rng.uniform(0, 500), rng.uniform(0, 300)
            box = [round(v, 2) for v in (x, y, rng.uniform(20, 140), rng.uniform(20, 180))]
            text = " ".join(rng.choices(WORDS, k=words))
            yield {"img_id": f"{image:08d}_{number}", "sents": text, "bbox": box, "width": 640, "height": 480}
            made += 1


if __name__ == "__main__":
    main()
