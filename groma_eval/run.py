"""The run loop: benchmarks in, an answered, scored and stored run out.

Perceive once, ask many: a model is handed batches of images, each with all its questions (:mod:`groma_eval.answering`).
Blocks of images are cut in file order (:mod:`groma_eval.batching`), shared among the processes
(:mod:`groma_eval.sharding`), and are the unit of continuing: one that is not wholly stored is answered again, so that a
run that was killed and continued is the same to the byte as one that was not.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groma_eval import provenance
from groma_eval.answering import answer_blocks
from groma_eval.batching import check_batch_size, cost_of, cut
from groma_eval.cards import Card, select
from groma_eval.core import HarnessError, Model, Sample, TaskResult
from groma_eval.doctor import fit_warnings
from groma_eval.jobs import CannotAnswer, Job, default_data_root, load_model, places, prepare_job
from groma_eval.judge.reviews import judged_fields, stored_scores
from groma_eval.prefetch import default_workers
from groma_eval.sharding import World
from groma_eval.statistics import metric_intervals
from groma_eval.store import BenchmarkStore, predictions_of, read_store_json, rounded, write_json
from groma_eval.stored_records import Record, Records
from groma_eval.tasks import TASKS


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
    workers: int | None = 0,
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
    world: World | None = None,
) -> RunResult:
    """Evaluate a model on benchmarks and store the run in ``out``; a repeat continues what was not finished.

    Args:
        model: a name (``groma-eval list models``) or an adapter object.
        benchmarks: names, suites or card files: ``"a,b"``, a path, or a list of these or of cards.
        out: the run's folder. It may hold an earlier run of the same model and settings, finished or not.
        protocol: which of the cards' protocols; None: each card's default.
        limit: only the first so many images of each benchmark.
        batch_size: images a batch, or ``"auto"``: batches filled by tokens, at first as many as 16 average images
            have, doubled while that pays and halved when memory runs out. Which images meet in a batch then depends on
            time, so repeats agree within rounding, but not to the byte.
        workers: processes that read pictures ahead, where the adapter can; None: by the machine. Workers import the
            script that calls this, which must therefore be guarded by ``if __name__ == "__main__"``.
        device, dtype, model_args: passed on when ``model`` is a name.
        seed: of whatever is drawn at random.
        data_root: folder that the cards' paths are relative to; None: ``GROMA_DATA``, else ``./data``.
        annotations: annotation file in place of the card's (or, for several benchmarks, a folder of files of the same
            names); images: likewise for the pictures.
        gen_args: decoding limits in place of the card's.
        benchmarks_dir: a folder of further cards.
        progress: show a progress bar on stderr.
        command: what is recorded as the command; None: the process's.
        world: the processes that share the run (:func:`groma_eval.sharding.join`); None: this one alone. All but rank 0
            return no metrics.

    Raises:
        HarnessError: bad data, unknown names, a model that cannot answer the benchmark, or another run in ``out``.
    """
    world = world or World()
    cards = select(benchmarks, benchmarks_dir)
    if limit is not None and limit < 1:
        raise HarnessError(f"--limit {limit}: must be at least 1")
    if workers is not None and workers < 0:
        raise HarnessError(f"--workers {workers}: must be 0 or more")
    size = check_batch_size(batch_size)
    root = default_data_root(data_root)
    options = {"protocol": protocol, "limit": limit, "seed": seed, "gen_args": dict(gen_args or {})}
    jobs: list[Job] = []
    not_applicable: dict[str, dict[str, Any]] = {}
    for card in cards:
        loaded = load_model(model, card, root, world.device(device, model_args or {}), dtype, model_args)
        where = places(card, root, annotations, images, several=len(cards) > 1)
        try:
            jobs.append(prepare_job(card, loaded, root, where, annotations is not None, options))
        except CannotAnswer as error:
            if len(cards) == 1:
                raise
            not_applicable[card.name] = {"family": card.family, "split": card.split, "reason": str(error)}
    if not jobs:
        reason = next(iter(not_applicable.values()))["reason"]
        raise HarnessError(f"{reason}; nor can it answer any other of the {len(cards)} benchmarks")
    if world.rank == 0:
        for name, entry in not_applicable.items():
            print(f"groma-eval: {name}: n/a: {entry['reason']}", file=sys.stderr)
    folder = Path(out)
    key = {"checkpoint_hash": jobs[0].model.info.checkpoint_hash, "model_args": dict(model_args or {})}
    key = {"model": jobs[0].model.info.name, **key, "dtype": dtype, "seed": seed}
    stores = {job.card.name: BenchmarkStore(folder / job.card.name) for job in jobs}
    blocks = {job.card.name: cut(job.samples, size, cost_of(job.model)) for job in jobs}
    if world.rank == 0:
        manifest = _open_run(folder, key, jobs, list(command or sys.argv), world.size, not_applicable)
        plans = {job.card.name: _plan(job, stores[job.card.name].load(), blocks[job.card.name]) for job in jobs}
        world.publish("run", {"same": _same(key, jobs, batch_size), "plans": plans})
    else:
        run = world.fetch("run")
        if run["same"] != _same(key, jobs, batch_size):
            raise HarnessError("this process has another model, other data or other settings than process 0")
        plans = run["plans"]
    metrics = read_store_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    for job in jobs:
        started = time.perf_counter()
        store = stores[job.card.name]
        todo = [blocks[job.card.name][number] for number in plans[job.card.name]]
        ahead = default_workers(job.model, world.local_size) if workers is None else workers
        _answer(job, store, todo, size is None, world, ahead, progress)
        if world.rank:
            continue
        answered = time.perf_counter()
        records = _stored(job, store)
        result = _score(job.card.task, job.samples, records, job.protocol.rules, store.folder)
        store.finish(job.samples, records, {score.question_id: score for score in result.scores})
        entry = manifest["benchmarks"][job.card.name]
        metrics[job.card.name] = _summary(result, folder, job.card.name, entry)
        write_json(folder / "metrics.json", metrics)
        for note in fit_warnings(job.card.name, job.samples, predictions_of(records.values()), job.model.info):
            print(f"groma-eval: warning: {note}; see: groma-eval doctor {folder}", file=sys.stderr)
        records.close()
        if todo or job.card.name not in manifest["timings"]:
            manifest["timings"][job.card.name] = {
                "answering_s": round(answered - started, 3),
                "scoring_s": round(time.perf_counter() - answered, 3),
                "images_answered": sum(map(len, todo)),
            }
        manifest["benchmarks"][job.card.name]["finished"] = True
        write_json(folder / "manifest.json", manifest)
    if world.rank:
        return RunResult({}, folder, 0)
    chosen = {job.card.name: metrics[job.card.name] for job in jobs}
    bad = any(m["counts"]["failed"] or m["counts"]["missing"] for m in chosen.values())
    return RunResult(chosen, folder, int(bad))


def _same(key: Mapping[str, Any], jobs: Sequence[Job], batch_size: int | str) -> str:
    """What all processes of a run must have in common."""
    images = {job.card.name: [sample.image_id for sample in job.samples] for job in jobs}
    return provenance.short_hash([key, [job.key for job in jobs], images, batch_size])


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
        metrics[name] = _summary(result, folder, name, entry)
    write_json(folder / "metrics.json", metrics)
    return {name: metrics[name] for name in names}


def _open_run(
    folder: Path,
    key: Mapping[str, Any],
    jobs: Sequence[Job],
    command: list[str],
    processes: int,
    not_applicable: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
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
        "processes": processes,
        "not_applicable": {**manifest.get("not_applicable", {}), **not_applicable},
        "timings": manifest["timings"],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"--out {folder}: cannot be made ({error.strerror})") from None
    write_json(path, manifest)
    return manifest


def _plan(job: Job, stored: Mapping[str, Record], blocks: Sequence[Sequence[Sample]]) -> list[int]:
    """Which blocks are to be answered: those that are not wholly stored."""
    return [
        number
        for number, block in enumerate(blocks)
        if not all(_is_answered(sample, stored.get(sample.image_id), job.model.info.needs_images) for sample in block)
    ]


def _is_answered(sample: Sample, record: Record | None, needs_images: bool) -> bool:
    """Whether a stored record still stands: same picture, every question there, none failed."""
    if record is None:
        return False
    known = sample.image is not None and needs_images
    if record["file_hash"] != (provenance.file_hash(sample.image) if known else None):
        return False
    answers = record["answers"]
    return all(q.id in answers and answers[q.id]["status"] not in ("failed", "missing") for q in sample.questions)


def _answer(
    job: Job,
    store: BenchmarkStore,
    todo: Sequence[Sequence[Sample]],
    auto: bool,
    world: World,
    workers: int,
    progress: bool,
) -> None:
    """This process's share of the blocks ``todo``; rank 0 waits until all are stored."""
    from tqdm import tqdm

    name = job.card.name
    before = len(job.samples) - sum(map(len, todo))
    if todo and hasattr(job.model, "prepare"):
        # What an adapter has to say of the benchmark is said by one process.
        with contextlib.nullcontext() if world.rank == 0 else contextlib.redirect_stderr(io.StringIO()):
            job.model.prepare(job.samples)
    with tqdm(
        total=len(job.samples),
        initial=before,
        desc=name,
        unit="image",
        file=sys.stderr,
        disable=not progress or world.rank > 0,
    ) as bar:

        def show(images: int = 0) -> int:
            count = world.count(f"{name}/images", images)
            bar.update(before + count - bar.n)
            return count

        def warn(kind: str, text: str) -> None:
            if world.first(f"warned/{kind}"):
                tqdm.write(f"groma-eval: warning: {text}", file=sys.stderr)

        mine = (todo[number] for number in world.claims(name, len(todo)))
        answer_blocks(job, store, mine, auto=auto, workers=workers, stored=show, warn=warn)
        world.finish(name)
        if world.rank == 0:
            world.wait_for_all(name, show)


def _stored(job: Job, store: BenchmarkStore) -> Records:
    """What is on the disk of a benchmark that should be complete; HarnessError where it is not."""
    records = store.load()
    lacking = sum(sample.image_id not in records for sample in job.samples)
    if lacking:
        raise HarnessError(
            f"{store.folder}: {lacking} of {len(job.samples)} images were not stored, a process must have ended early: "
            "the run is not complete; repeat the command to continue"
        )
    return records


def _score(
    task: str, samples: Sequence[Sample], records: Records, rules: Mapping[str, Any], folder: Path
) -> TaskResult:
    predictions = predictions_of(records.values())
    # What a judge said of the answers is stored beside them.
    judged = {"reviews": stored_scores(folder, samples, predictions)} if rules.get("match") == "judge" else {}
    return TASKS[task](samples, predictions, records.regions(), rules, **judged)


def _summary(result: TaskResult, folder: Path, benchmark: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics.json holds of a benchmark whose scores are stored."""
    return {
        "metrics": rounded(result.metrics),
        "counts": result.counts,
        "intervals": rounded(metric_intervals(folder, benchmark, entry)),
    }
