"""Run folders for the report's tests, written and scored as a run writes and scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.report.load import Answers, read_answers, read_runs
from groma_eval.statistics import metric_intervals
from groma_eval.store import BenchmarkStore, make_record, predictions_of, regions_of, rounded, write_json
from groma_eval.tasks import TASKS

WIDTH, HEIGHT = 160, 120


def write_run(
    folder: Path,
    benchmarks: Mapping[str, tuple[str, Sequence[Sample], Sequence[ImageAnswer]]],
    name: str = "toy",
    **entry: Any,
) -> Path:
    """A finished run in ``folder``: by benchmark its task, samples and answers; ``entry`` goes into the manifest."""
    metrics, entries = {}, {}
    for benchmark, (task, samples, answers) in benchmarks.items():
        records = {a.image_id: make_record(a, None) for a in answers}
        rules = entry.get("rules", {})
        result = TASKS[task](samples, predictions_of(records.values()), regions_of(records.values()), rules)
        BenchmarkStore(folder / benchmark).finish(samples, records, {s.question_id: s for s in result.scores})
        entries[benchmark] = {
            "version": 1, "protocol": "paper", "task": task, "title": f"Toy {task}",
            "headline": next(iter(result.metrics)), "deviations": [], "rules": rules,
            "decoding": {"max_new_tokens": 8, "do_sample": False}, "finished": True,
            "leakage": {"status": "clean", "images": 0, "of": len(samples)}, **entry,
        }  # fmt: skip
        intervals = metric_intervals(folder, benchmark, entries[benchmark])
        metrics[benchmark] = rounded({"metrics": result.metrics, "counts": result.counts, "intervals": intervals})
    manifest = {
        "run_id": "0123456789ab",
        "model": {"name": name, "size": "1M", "parameters": 1_000_000, "checkpoint_hash": "c0ffee" * 8, "notes": []},
        "benchmarks": entries,
        "seed": 0,
        "command": ["groma-eval", "run", "--model", name],
        "versions": {"python": "3.11"},
        "hardware": {"machine": "abacus"},
        "timings": {},
    }
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "manifest.json", manifest)
    return folder


def rec_run(
    folder: Path, pictures: Path, images: int = 4, each: int = 3, seed: int = 0, shift: float = 0.06, **more: Any
) -> Path:
    """A REC run over ``images`` small pictures; answers are the true boxes moved by about ``shift`` (by ``seed``)."""
    truth, noise = np.random.default_rng(7), np.random.default_rng(seed)
    samples, answers = [], []
    for number in range(images):
        path = picture(pictures / f"pic_{number:04d}.png", number)
        boxes = [_box(truth) for _ in range(each)]
        questions = [
            Question(
                f"{number}-{k}",
                "ground_one",
                text=f"the {('red', 'blue')[k % 2]} thing {number}",
                target={"boxes": [b]},
                group=("attribute", "location")[k % 2],
            )
            for k, b in enumerate(boxes)
        ]
        samples.append(Sample(f"pic_{number:04d}", path, WIDTH, HEIGHT, tuple(questions)))
        moved = [_moved(b, noise, shift) for b in boxes]
        predictions = [
            Prediction(
                q.id, raw=f"<roi><r{k}></roi>", boxes=[m], confidences=[float(noise.uniform(0.3, 1))], prompt="find it"
            )
            for k, (q, m) in enumerate(zip(questions, moved))
        ]
        if number == 1:
            predictions[0] = Prediction(questions[0].id, raw="no idea", status="unparsed")
        proposals = [*moved[1:], *(_box(noise) for _ in range(5))]
        objectness = np.sort(noise.uniform(0, 1, len(proposals)))[::-1].tolist()
        answers.append(ImageAnswer(f"pic_{number:04d}", predictions, proposals, objectness))
    return write_run(folder, {"toy-rec": ("rec", samples, answers)}, **more)


def picture(path: Path, number: int) -> Path:
    """A small picture of its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.new("RGB", (WIDTH, HEIGHT), (number * 37 % 256, number // 7 % 256, 120)).save(path)
    return path


def answers_of(folder: Path, benchmark: str) -> Answers:
    """A benchmark's stored answers."""
    return read_answers(read_runs([folder])[0], benchmark)


def _box(rng: np.random.Generator) -> tuple[float, ...]:
    x, y, w, h = rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5)
    return (float(x), float(y), float(x + w), float(y + h))


def _moved(box: Sequence[float], rng: np.random.Generator, by: float) -> tuple[float, ...]:
    dx, dy = rng.normal(0, by, 2)
    return tuple(float(v) for v in (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy))
