"""Small finished run folders of every task, made by the tasks' own scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.store import BenchmarkStore, make_record, predictions_of, regions_of, rounded, write_json
from groma_eval.tasks import TASKS

SIZE = (200, 160)
_WORDS = ("a red square", "the small blue circle", "a big green star on the left", "the circle next to the square")


def _box(rng: np.random.Generator) -> tuple[float, ...]:
    x, y = rng.uniform(0, 0.6, 2)
    w, h = rng.uniform(0.05, 0.4, 2)
    return (float(x), float(y), float(x + w), float(y + h))


def _near(rng: np.random.Generator, box: Any, spread: float) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(box) + rng.normal(0, spread, 4))


def samples(task: str, images: int = 12, each: int = 3, seed: int = 0, **target: Any) -> list[Sample]:
    """A benchmark of a task; ``target`` fields are added to every question's target."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(images):
        questions = []
        count = 1 if task == "proposals" else int(rng.integers(1, each + 1))
        for at in range(count):
            key = f"{number}-{at}"
            boxes = [_box(rng) for _ in range(int(rng.integers(1, 4)))]
            match task:
                case "rec":
                    group = ("attribute", "relation")[at % 2]
                    question = Question(
                        key, "ground_one", _WORDS[(number + at) % 4], target={"boxes": boxes[:1], **target}, group=group
                    )
                case "grounding":
                    frequency = "rcf"[at % 3]
                    fields = {"boxes": boxes, "category": at, "frequency": frequency, "exhaustive": number % 4 > 0}
                    question = Question(key, "ground_all", f"kind {at}", target=fields | target, group=frequency)
                case "caption":
                    attributes = {"colour": ("red", "blue")[number % 2]}
                    texts = [_WORDS[(number + at) % 4], _WORDS[(number + at + 1) % 4]]
                    phrases = [{"phrase": "red square", "boxes": boxes[:1]}]
                    fields = {"references": texts, "attributes": attributes, "phrases": phrases}
                    question = Question(key, "describe", box=boxes[0], target=fields | target)
                case "proposals":
                    crowd = [int(n == 2) for n in range(len(boxes))]
                    question = Question(key, "propose", target={"boxes": boxes, "iscrowd": crowd, **target})
                case _:
                    answer = ("yes", "no")[(number + at) % 2]
                    question = Question(
                        key, "converse", "is it red?", target={"answer": answer, **target}, group=f"detail/{answer}"
                    )
            questions.append(question)
        made.append(Sample(f"image-{number:03d}", Path(f"pictures/{number}.png"), *SIZE, tuple(questions)))
    return made


def answers(of: list[Sample], seed: int = 1, skill: float = 0.7) -> list[ImageAnswer]:
    """Answers that are right with the chance ``skill``, near the truth else; a tenth is unparsed or failed."""
    rng = np.random.default_rng(seed)
    made = []
    for sample in of:
        predictions = []
        truth = [box for question in sample.questions for box in question.target.get("boxes", [])]
        for question in sample.questions:
            good = rng.random() < skill
            wanted = question.target.get("boxes", [])
            boxes = [_near(rng, box, 0.01 if good else 0.1) for box in wanted] + [_box(rng)] * (not good)
            said = question.target.get("answer") or (question.target.get("references") or [""])[0]
            text = said if good else " ".join(str(said).split()[:3] or ["?"]) + " red thing"
            phrases = [{"phrase": "a red square", "boxes": [_near(rng, b, 0.01) for b in p["boxes"]]}
                       for p in question.target.get("phrases", [])] if good else []  # fmt: skip
            status = rng.choice(["ok", "unparsed", "failed"], p=[0.9, 0.05, 0.05])
            confidences = [round(float(c), 6) for c in rng.random(len(boxes))]
            predictions.append(
                Prediction(question.id, text, text, boxes, confidences, phrases, "asked", str(status))  # type: ignore
            )
        proposals = [_near(rng, box, 0.02) for box in truth] + [_box(rng) for _ in range(4)]
        objectness = sorted((round(float(s), 6) for s in rng.random(len(proposals))), reverse=True)
        made.append(ImageAnswer(sample.image_id, predictions, proposals, objectness))
    return made


def write_run(
    folder: Path,
    benchmarks: dict[str, tuple[str, list[Sample], list[ImageAnswer]]],
    rules: dict[str, dict[str, Any]] | None = None,
    **entry: Any,
) -> Path:
    """Write a finished run: benchmarks by name as (task, samples, answers); ``entry`` goes into their entries."""
    manifest: dict[str, Any] = {"run_id": folder.name, "model": {"name": folder.name}, "benchmarks": {}}
    metrics = {}
    for name, (task, of, given) in benchmarks.items():
        records = {answer.image_id: make_record(answer, None) for answer in given}
        own = (rules or {}).get(name, {})
        result = TASKS[task](of, predictions_of(records.values()), regions_of(records.values()), own)
        BenchmarkStore(folder / name).finish(of, records, {s.question_id: s for s in result.scores})
        headline = {"rec": "acc@0.5", "grounding": "ar", "caption": "cider", "proposals": "ar50"}.get(task, "accuracy")
        fields = {"task": task, "version": 1, "protocol": "paper", "rules": own, "deviations": [], "decoding": {}}
        manifest["benchmarks"][name] = {**fields, "headline": headline, "finished": True, **entry}
        metrics[name] = {"metrics": rounded(result.metrics), "counts": result.counts, "intervals": {}}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "metrics.json", metrics)
    return folder
