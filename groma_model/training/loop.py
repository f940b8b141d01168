"""The training loop: one for all stages, on accelerate (CPU, one GPU, several processes).

Reproducible and resumable: which images a step sees and every random draw in it depend on (seed, step, process) alone,
or (seed, step, image) with ``draws: image``, so a run that is killed and started again continues as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import set_seed
from torch import nn
from tqdm import tqdm

from groma_model.checkpoints import load_checkpoint
from groma_model.data.mixture import Mixture, check_stage
from groma_model.data.order import ImageList, TrainingData, batch_places
from groma_model.data.samples import TrainingImage
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.training.cost import ModelFlops
from groma_model.training.log import RunLog, Speed, write_text
from groma_model.training.lora import merge, prepare
from groma_model.training.recipe import Recipe
from groma_model.training.recompute import recomputed
from groma_model.training.stages import DetectStage, LanguageStage
from groma_model.training.state import gather_state, load_state, replace_folder, save_state, save_weights, shard

#: Called with (model, processor, step); returns held-out metrics.
Evaluate = Callable[[GromaForConditionalGeneration, GromaProcessor, int], dict[str, float]]
#: How long processes wait for the first one, which reads data and evaluates alone.
_PATIENCE = timedelta(hours=6)


def first_process_first() -> AbstractContextManager[None]:
    """What stands under it is done by the first process of each machine, then by the others: they find its files."""
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    return PartialState(cpu=cpu, timeout=_PATIENCE).local_main_process_first()


def build_stage(model: GromaForConditionalGeneration, processor: GromaProcessor, recipe: Recipe,
                data: TrainingData | Sequence[TrainingImage]) -> DetectStage | LanguageStage:  # fmt: skip
    """The stage's module with the recipe's modules trainable."""
    if recipe.stage == "detect":
        data = _training_data(data, recipe)
        stage: DetectStage | LanguageStage = DetectStage(
            model, processor, recipe, data.attribute_values(), data.sources()
        )
    else:
        stage = LanguageStage(model, processor, recipe)
    prepare(model, recipe)
    return stage


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine down to ``min_lr`` of the peak; as a factor of ``lr``."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.min_lr + (1 - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(stage: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups by learning-rate scale (longest matching name in ``lr_scale``); no decay on norms, biases, tables."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in stage.named_parameters():
        if not parameter.requires_grad:
            continue
        matches = [key for key in recipe.lr_scale if key in name]
        scale = recipe.lr_scale[max(matches, key=len)] if matches else 1.0
        decays = parameter.ndim > 1 and "embed" not in name
        groups.setdefault((scale, decays), []).append(parameter)
    return [
        {"params": parameters, "lr": recipe.lr * scale, "peak_lr": recipe.lr * scale,
         "weight_decay": recipe.weight_decay if decays else 0.0}
        for (scale, decays), parameters in groups.items()
    ]  # fmt: skip


class _Batches(torch.utils.data.Dataset):
    """Step number -> its collated micro-batches, so that a DataLoader may prepare steps ahead."""

    def __init__(self, stage: DetectStage | LanguageStage, data: TrainingData | Sequence[TrainingImage],
                 recipe: Recipe, start: int, process: int, processes: int):  # fmt: skip
        self.collate, self.data, self.recipe = stage.collate, _training_data(data, recipe), recipe
        self.start, self.process, self.processes = start, process, processes

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __getitem__(self, index: int) -> list[dict[str, Any]] | ValueError:
        """What is wrong with the data is returned: raised in a worker, it would come as text with its traceback."""
        if index >= len(self):
            raise IndexError
        try:
            return self._parts(self.start + index)
        except ValueError as error:
            return error

    def _parts(self, step: int) -> list[dict[str, Any]]:
        recipe = self.recipe
        chosen = batch_places(step, recipe.batch_size, len(self.data), self.process, self.processes)
        first = self.process * len(chosen)
        size = len(chosen) // recipe.accumulate
        own = random.Random(f"{recipe.seed}/{step}/{self.process}")
        parts = []
        for begin in range(0, len(chosen), size):
            slots = range(begin, begin + size)
            by_image = [random.Random(f"{recipe.seed}/{step}/image {first + slot}") for slot in slots]
            draws = by_image if recipe.draws == "image" else own
            parts.append(self.collate([self.data.sample(*chosen[slot]) for slot in slots], draws))
        return parts


def train(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    data: TrainingData | Sequence[TrainingImage],
    recipe: Recipe,
    out: Path,
    evaluate: Evaluate | None = None,
    workers: int = 0,
    progress: bool = True,
    peak_tflops: float | None = None,
) -> dict[str, float]:
    """Run (or continue) a stage; writes the model, ``log.csv``, ``metrics.jsonl`` and ``recipe.json`` into ``out``.

    ``data``: images, or a mixture, whose record (samples and fingerprint) is kept as ``data.json``.
    With ``sharding: full`` in several processes ``model`` is left divided among them; ``out`` holds it whole. With
    ``lora`` adapters are merged into it, in ``out`` and otherwise in ``model`` at the end. Log and ``finished.json``
    state the model FLOPs a second of a process, and their share of a device's ``peak_tflops`` (10^12 FLOP/s) if given.

    Returns the last held-out metrics.

    Raises:
        ValueError: when ``out`` holds a run of another recipe or on other data, the mixture does not suit the stage,
            a picture is broken, the batch does not divide among processes and micro-batches, or ``keep_best`` names no
            metric of the evaluation.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.keep_best and evaluate is None:
        raise ValueError("keep_best needs held-out evaluation, which is off")
    # Some parameters get no gradient: in detection the other source's objectness head, in DINOv2 the mask token.
    unused = recipe.stage == "detect" or "vision_encoder" in recipe.trainable
    parallel = DistributedDataParallelKwargs(find_unused_parameters=unused)
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    # It keeps the precision of the first stage that a process ran, and would refuse another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[parallel, patience])
    processes, process = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % (processes * recipe.accumulate):
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {processes} processes with {recipe.accumulate} "
            "micro-batches each"
        )
    if isinstance(data, Mixture):
        check_stage(data.path, data.sets, recipe.stage, recipe.tasks)
    data = _training_data(data, recipe)
    out.mkdir(parents=True, exist_ok=True)
    _check_data(out, data)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and isinstance(data, Mixture):
        write_text(out / "data.json", json.dumps(data.record(), indent=1) + "\n")
    _check_recipe(out, recipe, accelerator.is_main_process)
    set_seed(recipe.seed)
    stage = build_stage(model, processor, recipe, data)
    sharded = recipe.sharding == "full" and processes > 1
    with recomputed(model, recipe.gradient_checkpointing):
        if sharded:
            shard(stage, model, accelerator.device, processes)
        optimizer = torch.optim.AdamW(parameter_groups(stage, recipe), betas=recipe.betas, fused=False, foreach=True)
        start, seconds = load_state(out / "state.pt", stage, optimizer, sharded)
        # A sharded stage takes care of its processes itself; of accelerate it needs the precision alone.
        wrapped, optimizer = (stage, optimizer) if sharded else accelerator.prepare(stage, optimizer)
        run = _Run(accelerator, stage, wrapped, optimizer, recipe, sharded)
        batches = torch.utils.data.DataLoader(
            _Batches(stage, data, recipe, start, process, processes), batch_size=None, shuffle=False,
            num_workers=workers, persistent_workers=workers > 0,
        )  # fmt: skip
        log = RunLog(out, start, recipe.logging) if accelerator.is_main_process else None
        bar = tqdm(total=recipe.steps, initial=start, desc=recipe.stage, disable=not (progress and log is not None))
        metrics: dict[str, float] = {}
        began = time.monotonic() - seconds
        for step, parts in enumerate(batches, start=start):
            if isinstance(parts, ValueError):
                raise parts
            with ModelFlops() if step == start else nullcontext() as counter:
                losses = run.step(step, parts)
            if log is not None:
                if counter is not None:
                    # What a step's arithmetic is differs a little from step to step: the first stands for all.
                    log.speed = Speed(counter.total, peak_tflops, step + 1, time.monotonic() - began)
                log.add(step, time.monotonic() - began, learning_rate(step, recipe) * recipe.lr, losses)
                bar.update()
                bar.set_postfix(loss=f"{losses['loss']:.3f}", refresh=False)
            done = step + 1
            last = done == recipe.steps
            evaluates = evaluate is not None and (done % recipe.evaluate_every == 0 or last)
            saves = done % recipe.save_every == 0 or last
            if not (evaluates or saves):
                continue
            accelerator.wait_for_everyone()
            state = gather_state(stage, optimizer, sharded) if saves or sharded or recipe.keep_best else {}
            # Evaluation comes first: a run killed in between does both again.
            if log is not None and evaluates:
                assert evaluate is not None
                metrics = _evaluate(evaluate, run, processor, state, out, done, log, time.monotonic() - began)
            if log is not None and saves:
                save_state(out / "state.pt", state, done, time.monotonic() - began)
                save_weights(model, processor, state, out)
                log.flush()
            accelerator.wait_for_everyone()
        bar.close()
    if log is not None:
        passed = time.monotonic() - began
        finished = {"steps": recipe.steps, "seconds": round(passed, 1), "processes": processes}
        if log.speed is not None:
            finished |= log.speed.overall(recipe.steps, passed)
        log.close()
        write_text(out / "finished.json", json.dumps(finished) + "\n")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if not sharded:
        merge(model)
    return metrics


class _Run:
    """Optimisation steps of one stage in this process."""

    def __init__(self, accelerator: Accelerator, stage: DetectStage | LanguageStage, wrapped: nn.Module,
                 optimizer: Any, recipe: Recipe, sharded: bool):  # fmt: skip
        self.accelerator, self.stage, self.wrapped, self.optimizer = accelerator, stage, wrapped, optimizer
        self.recipe, self.sharded = recipe, sharded
        self.parameters = [p for p in stage.parameters() if p.requires_grad]

    def step(self, step: int, parts: list[dict[str, Any]]) -> dict[str, float]:
        """One optimisation step over this process's micro-batches; the losses are those of all processes."""
        accelerator, recipe = self.accelerator, self.recipe
        processes = accelerator.num_processes
        # Dropout; nothing else draws from this generator.
        torch.manual_seed(random.Random(f"{recipe.seed}/{step}/{accelerator.process_index}").getrandbits(63))
        factor = learning_rate(step, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        divided = len(parts) > 1 or processes > 1
        if divided:
            self.stage.share(parts, self._sum, processes)
        found = []
        for number, part in enumerate(parts, start=1):
            waits = not self.sharded and processes > 1 and number < len(parts)
            with accelerator.no_sync(self.wrapped) if waits else nullcontext():
                with accelerator.autocast() if self.sharded else nullcontext():
                    losses = self.wrapped(part)
                accelerator.backward(losses["loss"])
            found.append({k: v.detach() for k, v in losses.items()})
        values = self._whole(found) if divided else found[0]
        if "normaliser" in values:
            scale = processes / values["normaliser"]
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale.to(parameter.grad.device))
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {k: float(v) for k, v in values.items() if k != "normaliser"} | {"grad_norm": norm}

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        device = self.accelerator.device
        return self.accelerator.reduce(values.to(device, torch.float64), reduction="sum").cpu()

    def _whole(self, found: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The losses of a divided step: sums of processes' shares; what is not additive, this process's mean."""
        names = dict.fromkeys(name for losses in found for name in losses)
        values = {}
        for name in names:
            given = torch.stack([losses[name].double().cpu() for losses in found if name in losses])
            added = name == "normaliser" or name in self.stage.additive
            values[name] = given.sum() if added else given.mean()
        shared = [name for name in values if name == "normaliser" or name in self.stage.additive]
        totals = self._sum(torch.stack([values[name] for name in shared]))
        values |= dict(zip(shared, totals))
        # Known counts were shares of a process's mean; a sum with its count is divided here.
        divisor = values.get("normaliser", self.accelerator.num_processes)
        return values | {name: values[name] / divisor for name in self.stage.additive if name in values}

    def _clip(self) -> float:
        if not self.sharded:
            return float(self.accelerator.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        return float(norm.full_tensor())


def _evaluate(evaluate: Evaluate, run: _Run, processor: GromaProcessor, state: dict[str, Any], out: Path, done: int,
              log: RunLog, seconds: float) -> dict[str, float]:  # fmt: skip
    """Held-out metrics of the model as it is, recorded; the best model is kept in ``best``."""
    model, recipe = run.stage.model, run.recipe
    name, new = recipe.keep_best, out / "best.new"
    if run.sharded:
        save_weights(model, processor, state, new)
        whole, _ = load_checkpoint(new, torch.bfloat16 if recipe.precision == "bf16" else None, run.accelerator.device)
        metrics = evaluate(whole.eval(), processor, done)
    else:
        model.eval()
        metrics = evaluate(model, processor, done)
        prepare(model, recipe)
    if name is not None:
        if name not in metrics:
            raise ValueError(f"keep_best: the evaluation has no metric {name!r}; it has {', '.join(metrics)}")
        if metrics[name] > log.best(name):
            if not run.sharded:
                save_weights(model, processor, state, new)
            replace_folder(new, out / "best")
    shutil.rmtree(new, ignore_errors=True)
    log.metrics(done, seconds, metrics)
    return metrics


def _training_data(data: TrainingData | Sequence[TrainingImage], recipe: Recipe) -> TrainingData:
    return data if hasattr(data, "sample") else ImageList(data, recipe.seed)


def _check_data(out: Path, data: TrainingData) -> None:
    """A run continues on the data that it began with; of a list of images nothing is recorded."""
    if not (out / "recipe.json").is_file():
        return
    path = out / "data.json"
    before = json.loads(path.read_text())["fingerprint"] if path.is_file() else None
    now = data.fingerprint() if isinstance(data, Mixture) else None
    if before != now:
        names = [f"mixture {one}" if one else "a folder of images" for one in (before, now)]
        raise ValueError(f"{out} holds a run on {names[0]}, not on {names[1]}: choose another --out or remove it")


def _check_recipe(out: Path, recipe: Recipe, main: bool) -> None:
    path, wanted = out / "recipe.json", json.loads(json.dumps(recipe.to_dict()))
    if path.is_file():
        # A run from before a setting existed was run with its default.
        found = {f.name: f.default for f in fields(Recipe)} | json.loads(path.read_text())
        different = sorted(k for k in wanted if found[k] != wanted[k])
        if different:
            raise ValueError(
                f"{out} holds a run with another {', '.join(different)}: choose another --out or remove it"
            )
    elif main:
        write_text(path, json.dumps(wanted, indent=1) + "\n")
