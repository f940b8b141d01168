"""The run loop: benchmarks in, an answered, scored and stored run out.

Perceive once, ask many: a model is handed batches of images, each with all its questions. Batches are cut from the
benchmark's images in file order, and a batch is the unit of continuing: one that is not wholly stored is answered
again, so that a run that was killed and continued is the same to the byte as one that was not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groma_eval import provenance
from groma_eval.cards import Card, select
from groma_eval.core import HarnessError, ImageAnswer, Model, Prediction, Sample, TaskResult
from groma_eval.jobs import Job, default_data_root, load_model, places, prepare_job
from groma_eval.judge.reviews import judged_fields, stored_scores
from groma_eval.store import (
    BenchmarkStore,
    Record,
    make_record,
    predictions_of,
    read_store_json,
    regions_of,
    rounded,
    write_json,
)
from groma_eval.tasks import TASKS

AUTO_BATCH = 16


@dataclass(frozen=True)
class RunResult:
    """``metrics`` by benchmark (as in metrics.json), the run's folder, and 1 where inputs failed, else 0."""

    metrics: dict[str, dict[str, Any]]
    dir: Path
    exit_code: int


def evaluate(
    model: str | Model,
    benchmarks: str | Path | Iterable[str | Path | Card],
    *,
    out: str | Path,
    protocol: str | None = None,
    limit: int | None = None,
    batch_size: int | str = 8,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    model_args: Mapping[str, str] | None = None,
    gen_args: Mapping[str, Any] | None = None,
    benchmarks_dir: str | Path | None = None,
    progress: bool = True,
    command: Sequence[str] | None = None,
) -> RunResult:
    """Evaluate a model on benchmarks and store the run in ``out``; a repeat continues what was not finished.

    Args:
        model: a name (``groma-eval list models``) or an adapter object.
        benchmarks: names, suites or card files: ``"a,b"``, a path, or a list of these or of cards.
        out: the run's folder. It may hold an earlier run of the same model and settings, finished or not.
        protocol: which of the cards' protocols; None: each card's default.
        limit: only the first so many images of each benchmark.
        batch_size: images a batch, or ``"auto"``: 16, halved whenever memory runs out.
        device, dtype, model_args: passed on when ``model`` is a name.
        seed: of whatever is drawn at random.
        data_root: folder that the cards' paths are relative to; None: ``GROMA_DATA``, else ``./data``.
        annotations: annotation file in place of the card's (or, for several benchmarks, a folder of files of the same
            names); images: likewise for the pictures.
        gen_args: decoding limits in place of the card's.
        benchmarks_dir: a folder of further cards.
        progress: show a progress bar on stderr.
        command: what is recorded as the command; None: the process's.

    Raises:
        HarnessError: bad data, unknown names, a model that cannot answer the benchmark, or another run in ``out``.
    """
    cards = select(benchmarks, benchmarks_dir)
    if limit is not None and limit < 1:
        raise HarnessError(f"--limit {limit}: must be at least 1")
    size = _batch_size(batch_size)
    root = default_data_root(data_root)
    options = {"protocol": protocol, "limit": limit, "seed": seed, "gen_args": dict(gen_args or {})}
    jobs = []
    for card in cards:
        loaded = load_model(model, card, root, device, dtype, model_args)
        where = places(card, root, annotations, images, several=len(cards) > 1)
        jobs.append(prepare_job(card, loaded, root, where, annotations is not None, options))
    folder = Path(out)
    key = {"checkpoint_hash": jobs[0].model.info.checkpoint_hash, "model_args": dict(model_args or {})}
    key = {"model": jobs[0].model.info.name, **key, "dtype": dtype, "seed": seed}
    manifest = _open_run(folder, key, jobs, list(command or sys.argv))
    metrics = read_store_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    for job in jobs:
        started = time.perf_counter()
        store = BenchmarkStore(folder / job.card.name)
        records, asked = _answer(job, store, size, batch_size == "auto", progress)
        answered = time.perf_counter()
        result = _score(job.card.task, job.samples, records, job.protocol.rules, store.folder)
        store.finish(job.samples, records, {score.question_id: score for score in result.scores})
        metrics[job.card.name] = _summary(result)
        write_json(folder / "metrics.json", metrics)
        if asked or job.card.name not in manifest["timings"]:
            manifest["timings"][job.card.name] = {
                "answering_s": round(answered - started, 3),
                "scoring_s": round(time.perf_counter() - answered, 3),
                "images_answered": asked,
            }
        manifest["benchmarks"][job.card.name]["finished"] = True
        write_json(folder / "manifest.json", manifest)
    chosen = {job.card.name: metrics[job.card.name] for job in jobs}
    bad = any(m["counts"]["failed"] or m["counts"]["missing"] for m in chosen.values())
    return RunResult(chosen, folder, int(bad))


def rescore(folder: str | Path, benchmarks: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Recompute scores and metrics.json of a finished run from its store alone; returns the metrics.

    ``benchmarks``: these alone, the others keep what they have; None: all.

    Raises:
        HarnessError: ``folder`` is no run, or one that is not finished.
    """
    folder = Path(folder)
    manifest = read_store_json(folder / "manifest.json")
    names = list(manifest["benchmarks"]) if benchmarks is None else list(benchmarks)
    metrics = {} if benchmarks is None else read_store_json(folder / "metrics.json")
    for name in names:
        entry = manifest["benchmarks"][name]
        store = BenchmarkStore(folder / name)
        if not store.finished():
            raise HarnessError(f"{folder / name}: the run is not finished; repeat its groma-eval run command")
        samples, records = store.samples(), store.load()
        result = _score(entry["task"], samples, records, entry["rules"], store.folder)
        store.finish(samples, records, {score.question_id: score for score in result.scores})
        metrics[name] = _summary(result)
    write_json(folder / "metrics.json", metrics)
    return {name: metrics[name] for name in names}


def _batch_size(given: int | str) -> int:
    if given == "auto":
        return AUTO_BATCH
    if not isinstance(given, int) or given < 1:
        raise HarnessError(f"--batch-size {given}: must be a whole number above 0, or auto")
    return given


def _open_run(folder: Path, key: Mapping[str, Any], jobs: Sequence[Job], command: list[str]) -> dict[str, Any]:
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"--out {folder} is a file; give a folder")
    manifest: dict[str, Any] = {"benchmarks": {}, "timings": {}}
    path = folder / "manifest.json"
    if path.is_file():
        manifest = read_store_json(path)
        provenance.check_same(manifest["key"], key, "model or setting", folder)
        for job in jobs:
            if job.card.name in manifest["benchmarks"]:
                stored = manifest["benchmarks"][job.card.name]["key"]
                provenance.check_same(stored, job.key, f"{job.card.name}", folder)
    model = provenance.describe_model(jobs[0].model.info)
    benchmarks = dict(manifest["benchmarks"])
    for job in jobs:
        benchmarks[job.card.name] = {
            "version": job.card.version,
            "protocol": job.protocol_name,
            "task": job.card.task,
            "title": job.card.title,
            "family": job.card.family,
            "split": job.card.split,
            "headline": job.card.headline,
            **judged_fields(folder / job.card.name, job.deviations, job.protocol.rules),
            "leakage": job.leakage,
            "rules": dict(job.protocol.rules),
            "decoding": asdict(job.decoding),
            "prompts": dict(job.protocol.prompts),
            "finished": False,
            "key": job.key,
        }
    manifest = {
        "run_id": provenance.short_hash(key),
        "model": model,
        "benchmarks": benchmarks,
        "seed": key["seed"],
        "key": dict(key),
        "command": command,
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "timings": manifest["timings"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)
    return manifest


def _answer(job: Job, store: BenchmarkStore, size: int, auto: bool, progress: bool) -> tuple[dict[str, Record], int]:
    """Records by image id, with the number of images answered now."""
    from tqdm import tqdm

    stored = store.load()
    hashes = _hashes(job)
    batches = [job.samples[i : i + size] for i in range(0, len(job.samples), size)]
    todo = [b for b in batches if not all(_is_answered(s, stored.get(s.image_id), hashes) for s in b)]
    asked = sum(map(len, todo))
    if todo and hasattr(job.model, "prepare"):
        job.model.prepare(job.samples)
    limit = size
    with tqdm(
        total=len(job.samples),
        initial=len(job.samples) - asked,
        desc=job.card.name,
        unit="image",
        file=sys.stderr,
        disable=not progress,
    ) as bar:
        try:
            while todo:
                batch = todo.pop(0)
                if len(batch) > limit:
                    todo[:0] = [batch[i : i + limit] for i in range(0, len(batch), limit)]
                    continue
                try:
                    answers = _ask_safely(job, batch)
                except Exception as error:
                    if not _out_of_memory(error):
                        raise
                    if not auto or len(batch) == 1:
                        raise HarnessError(
                            f"out of memory at {len(batch)} image(s) a batch; repeat with a smaller --batch-size "
                            "(or auto): what is answered is kept"
                        ) from None
                    limit = max(1, len(batch) // 2)
                    todo.insert(0, batch)
                    continue
                records = [make_record(answer, hashes.get(answer.image_id)) for answer in answers]
                store.append(records)
                stored.update((record["image_id"], record) for record in records)
                bar.update(len(batch))
        finally:
            store.close()
    return {sample.image_id: stored[sample.image_id] for sample in job.samples}, asked


def _hashes(job: Job) -> dict[str, str | None]:
    if not job.model.info.needs_images:
        return {}
    return {s.image_id: provenance.file_hash(s.image) for s in job.samples if s.image is not None}


def _is_answered(sample: Sample, record: Record | None, hashes: Mapping[str, str | None]) -> bool:
    """Whether a stored record still stands: same picture, every question there, none failed."""
    if record is None or record["file_hash"] != hashes.get(sample.image_id):
        return False
    answers = record["answers"]
    return all(q.id in answers and answers[q.id]["status"] not in ("failed", "missing") for q in sample.questions)


def _ask_safely(job: Job, batch: Sequence[Sample]) -> list[ImageAnswer]:
    """:func:`_ask`; where an adapter raises at an unreadable picture, its image alone fails."""
    try:
        return _ask(job, batch)
    except OSError as error:
        if len(batch) > 1:
            return [answer for sample in batch for answer in _ask_safely(job, [sample])]
        return [_complete(batch[0], ImageAnswer(batch[0].image_id, [], error=str(error)), job.model.info.name)]


def _ask(job: Job, batch: Sequence[Sample]) -> list[ImageAnswer]:
    """One answer an image, in the batch's order, holding exactly the image's questions."""
    wanted = {sample.image_id: sample for sample in batch}
    given: dict[str, ImageAnswer] = {}
    for answer in job.model.answer(batch, job.decoding, job.protocol.prompts, job.protocol_name):
        if answer.image_id not in wanted or answer.image_id in given:
            raise HarnessError(
                f"model {job.model.info.name} answered image '{answer.image_id}' "
                + ("twice" if answer.image_id in given else "that was not in the batch")
            )
        given[answer.image_id] = answer
    return [_complete(sample, given.get(sample.image_id), job.model.info.name) for sample in batch]


def _complete(sample: Sample, answer: ImageAnswer | None, model: str) -> ImageAnswer:
    answer = answer or ImageAnswer(sample.image_id, [])
    by_id = {prediction.question_id: prediction for prediction in answer.predictions}
    unknown = by_id.keys() - {question.id for question in sample.questions}
    if unknown or len(by_id) < len(answer.predictions):
        what = f"unknown question '{min(unknown)}'" if unknown else "a question twice"
        raise HarnessError(f"model {model} answered {what} for image '{sample.image_id}'")
    status = "failed" if answer.error else "missing"
    answer.predictions = [
        _checked(question.kind, by_id.get(question.id) or Prediction(question.id, status=status, error=answer.error))
        for question in sample.questions
    ]
    return answer


def _checked(kind: str, prediction: Prediction) -> Prediction:
    """The prediction, marked unparsed where it has no usable box for a question that asks for one."""
    if prediction.status != "ok":
        return prediction
    confidences = prediction.confidences
    problem = None
    if not all(math.isfinite(value) for box in prediction.boxes for value in box):
        problem = "a box is not finite"
    elif confidences is not None and len(confidences) != len(prediction.boxes):
        problem = f"{len(prediction.boxes)} boxes with {len(confidences)} confidences"
    elif confidences is not None and not all(map(math.isfinite, confidences)):
        problem = "a confidence is not finite"
    elif kind == "ground_one" and not prediction.boxes:
        return replace(prediction, status="unparsed")
    if problem:
        return replace(prediction, status="unparsed", error=problem, boxes=[], confidences=None, phrases=[])
    return prediction


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return isinstance(error, MemoryError)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _score(
    task: str, samples: Sequence[Sample], records: Mapping[str, Record], rules: Mapping[str, Any], folder: Path
) -> TaskResult:
    predictions = predictions_of(records.values())
    # What a judge said of the answers is stored beside them.
    judged = {"reviews": stored_scores(folder, samples, predictions)} if rules.get("match") == "judge" else {}
    return TASKS[task](samples, predictions, regions_of(records.values()), rules, **judged)


def _summary(result: TaskResult) -> dict[str, Any]:
    return {
        "metrics": rounded(result.metrics),
        "counts": result.counts,
        "intervals": rounded(result.intervals),
    }
