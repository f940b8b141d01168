"""A report of ten thousand questions: how large it is, and how soon it shows something.

    python bench/report_size.py                      # 10,000 pictures, one question each: the worst case
    python bench/report_size.py --images 1500        # about seven questions a picture, as RefCOCO has them

Two REC runs over pictures of 640 x 480 made from noise of several scales, which compress like photographs, are written
as a run writes them, and reported. Times are taken in headless Chromium from the file system, with a new profile each,
and are the median of ``--repeats``: the first paint and the first row with its picture of the gallery. In the same page
the list as it is, which keeps the rows in sight, is held against one with nodes for a thousand rows.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.report import write_report
from groma_eval.store import BenchmarkStore, make_record, predictions_of, regions_of, rounded, write_json
from groma_eval.tasks import TASKS

WIDTH, HEIGHT, PROPOSALS = 640, 480, 100
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1280,900",
)  # fmt: skip

#: Milliseconds from the start of the navigation, once the picture of the first row is there.
FIRST_ROW = """
  const image = document.querySelector('.list .row img');
  if (!image || !image.complete || !image.naturalWidth || !document.querySelector('#question .panel')) return null;
  return performance.now();
"""
PAINT = "const p = performance.getEntriesByName('first-contentful-paint')[0]; return p ? p.startTime : null"
#: Milliseconds until the layout stands: of showing the whole list anew, and of nodes for 1,000 rows at once.
BOTH_LISTS = """
  const list = document.querySelector('.list');
  const row = list.querySelector('.row');
  const total = Math.min(1000, Groma.index().benchmarks[0].questions);
  const timed = (work) => { const start = performance.now(); work(); list.getBoundingClientRect(); return performance.now() - start; };
  const ours = timed(() => { Groma.set({q: 'thing', id: ''}); list.querySelector('.row').getBoundingClientRect(); });
  const whole = document.createElement('div');
  const all = timed(() => {
    for (let i = 0; i < total; i += 1) whole.append(row.cloneNode(true));
    document.body.append(whole);
    whole.getBoundingClientRect();
  });
  return [ours, all];
"""  # noqa: E501


def main() -> None:
    """Write runs and report, open it, print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), args.questions, args.images)
        started = time.perf_counter()
        written = write_report(runs, Path(folder) / "report", progress=sys.stderr.isatty())
        print(f"{written.questions:,} questions on {written.pictures:,} pictures, 2 runs")
        print(f"written in {time.perf_counter() - started:.0f} s, {written.size / 1e6:.1f} MB in all")
        for part in ("pictures", "data", "assets"):
            size = sum(p.stat().st_size for p in (written.index.parent / part).iterdir())
            print(f"  {part}: {size / 1e6:.2f} MB")
        measure(written.index, args.repeats)


def measure(index: Path, repeats: int) -> None:
    """Print the times of the page at ``index``."""
    views: dict[str, list[float]] = {"summary, first paint": [], "gallery, first paint": [], "gallery, first row": []}
    lists = []
    for _ in range(repeats):
        with Browser() as driver:
            driver.get(f"{index.as_uri()}#view=summary")
            views["summary, first paint"].append(wait(driver, PAINT))
        with Browser() as driver:
            driver.get(f"{index.as_uri()}#view=gallery")
            views["gallery, first row"].append(wait(driver, FIRST_ROW))
            views["gallery, first paint"].append(wait(driver, PAINT))
            lists.append(driver.execute_script(BOTH_LISTS))
    for name, times in views.items():
        print(f"{name}: {statistics.median(times):.0f} ms (to {max(times):.0f})")
    ours, whole = (statistics.median(column) for column in zip(*lists))
    print(f"list of all questions, rows in sight: {ours:.0f} ms; 1,000 rows at once: {whole:.0f} ms")


class Browser:
    """Headless Chromium with a profile of its own."""

    def __enter__(self) -> Any:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        for flag in (*FLAGS, f"--user-data-dir={self.profile.name}"):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        return self.driver

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
        self.profile.cleanup()


def wait(driver: Any, script: str) -> float:
    """The script's number, once it gives one."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, 60, poll_frequency=0.01).until(lambda d: d.execute_script(script))


def write_runs(folder: Path, questions: int, images: int) -> list[Path]:
    """Two finished REC runs of made-up answers over made-up pictures."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    bases = [make_noise(rng) for _ in range(32)]
    samples = []
    for number in tqdm(range(images), desc="making pictures", unit="image", disable=None):
        path = folder / "pictures" / f"{number:06d}.jpg"
        moved = np.roll(bases[number % len(bases)], rng.integers(0, HEIGHT, 2), axis=(0, 1))
        Image.fromarray(moved).save(path, quality=85)
        mine = range(number * questions // images, (number + 1) * questions // images)
        asked = tuple(
            Question(
                str(key),
                "ground_one",
                text=f"the thing number {key} on the left of the other thing",
                target={"boxes": [box(rng)]},
                group=("attribute", "location", "relation")[key % 3],
            )
            for key in mine
        )
        samples.append(Sample(path.stem, path, WIDTH, HEIGHT, asked))
    return [write_run(folder / name, samples, np.random.default_rng(seed)) for seed, name in enumerate("ab")]


def write_run(folder: Path, samples: list[Sample], rng: np.random.Generator) -> Path:
    """A finished run: answers are the true boxes, moved."""
    records = {}
    for sample in tqdm(samples, desc="making answers", unit="image", disable=None):
        moved = [[v + float(rng.normal(0, 0.05)) for v in q.target["boxes"][0]] for q in sample.questions]
        predictions = [
            Prediction(q.id, raw="<roi><r7></roi>", boxes=[b], confidences=[float(rng.uniform())], prompt="locate it")
            for q, b in zip(sample.questions, moved)
        ]
        proposals = [*moved, *(box(rng) for _ in range(PROPOSALS - len(moved)))]
        objectness = np.sort(rng.uniform(size=len(proposals)))[::-1].tolist()
        records[sample.image_id] = make_record(ImageAnswer(sample.image_id, predictions, proposals, objectness), None)
    result = TASKS["rec"](samples, predictions_of(records.values()), regions_of(records.values()), {})
    BenchmarkStore(folder / "rec").finish(samples, records, {s.question_id: s for s in result.scores})
    metrics = {"metrics": result.metrics, "counts": result.counts, "intervals": result.intervals}
    write_json(folder / "metrics.json", {"rec": rounded(metrics)})
    entry = {"version": 1, "protocol": "paper", "task": "rec", "title": "REC", "headline": "acc@0.5", "finished": True}
    manifest = {"model": {"name": folder.name}, "benchmarks": {"rec": {**entry, "rules": {}, "decoding": {}}}}
    write_json(folder / "manifest.json", manifest)
    return folder


def make_noise(rng: np.random.Generator) -> np.ndarray:
    """A picture of noise of several scales, the finer the weaker: (height, width, 3)."""
    total = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)
    for cell, weight in ((160, 60), (40, 35), (10, 18), (4, 10)):
        coarse = rng.uniform(0, 255, (HEIGHT // cell + 1, WIDTH // cell + 1, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, dtype=np.float32) - 127) * (weight / 60)
    return np.clip(total + 127, 0, 255).astype(np.uint8)


def box(rng: np.random.Generator) -> tuple[float, ...]:
    """A box of a tenth to half of the picture's sides."""
    x, y, w, h = rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5)
    return tuple(float(v) for v in (x, y, x + w, y + h))


if __name__ == "__main__":
    main()
