"""The training loop: one for all stages, on accelerate (CPU, one GPU, several processes).

Reproducible and resumable: which images a step sees and every random draw in it depend on (seed, step, process) alone,
or (seed, step, image) with ``draws: image``, so a run that is killed and started again continues as if it had not been.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from tqdm import tqdm

from groma_model.checkpoints import load_checkpoint
from groma_model.data.samples import TrainingImage
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.training.log import RunLog, write_text
from groma_model.training.recipe import Recipe
from groma_model.training.recompute import recomputed
from groma_model.training.stages import DetectStage, LanguageStage, attribute_values, set_trainable
from groma_model.training.state import gather_state, load_state, replace_folder, save_state, save_weights, shard

#: Called with (model, processor, step); returns held-out metrics.
Evaluate = Callable[[GromaForConditionalGeneration, GromaProcessor, int], dict[str, float]]


def build_stage(model: GromaForConditionalGeneration, processor: GromaProcessor, recipe: Recipe,
                images: Sequence[TrainingImage]) -> DetectStage | LanguageStage:  # fmt: skip
    """The stage's module with the recipe's modules trainable."""
    if recipe.stage == "detect":
        stage: DetectStage | LanguageStage = DetectStage(model, processor, recipe, attribute_values(images))
    else:
        stage = LanguageStage(model, processor, recipe)
    set_trainable(model, recipe.trainable)
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


def batch_indices(step: int, recipe: Recipe, count: int, process: int, processes: int) -> list[int]:
    """Which images a process sees at a step: every epoch a new permutation, split evenly, the same for all resumes."""
    share = recipe.batch_size // processes
    chosen = []
    for slot in range(process * share, (process + 1) * share):
        position = step * recipe.batch_size + slot
        epoch, offset = divmod(position, count)
        chosen.append(_permutation(recipe.seed, epoch, count)[offset])
    return chosen


_permutations: dict[tuple[int, int, int], list[int]] = {}


def _permutation(seed: int, epoch: int, count: int) -> list[int]:
    key = (seed, epoch, count)
    if key not in _permutations:
        if len(_permutations) > 2:
            _permutations.clear()
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        _permutations[key] = order
    return _permutations[key]


class _Batches(torch.utils.data.Dataset):
    """Step number -> its collated micro-batches, so that a DataLoader may prepare steps ahead."""

    def __init__(self, stage: DetectStage | LanguageStage, images: Sequence[TrainingImage], recipe: Recipe,
                 start: int, process: int, processes: int):  # fmt: skip
        self.collate, self.images, self.recipe = stage.collate, images, recipe
        self.start, self.process, self.processes = start, process, processes

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        if index >= len(self):
            raise IndexError
        step, recipe = self.start + index, self.recipe
        chosen = batch_indices(step, recipe, len(self.images), self.process, self.processes)
        first = self.process * len(chosen)
        size = len(chosen) // recipe.accumulate
        own = random.Random(f"{recipe.seed}/{step}/{self.process}")
        parts = []
        for begin in range(0, len(chosen), size):
            slots = range(begin, begin + size)
            by_image = [random.Random(f"{recipe.seed}/{step}/image {first + slot}") for slot in slots]
            draws = by_image if recipe.draws == "image" else own
            parts.append(self.collate([self.images[chosen[slot]] for slot in slots], draws))
        return parts


def train(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    images: Sequence[TrainingImage],
    recipe: Recipe,
    out: Path,
    evaluate: Evaluate | None = None,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Run (or continue) a stage; writes the model, ``log.csv``, ``metrics.jsonl`` and ``recipe.json`` into ``out``.

    With ``sharding: full`` in several processes ``model`` is left divided among them; ``out`` holds it whole.

    Returns the last held-out metrics.

    Raises:
        ValueError: when ``out`` holds a run of another recipe, the batch does not divide among processes and
            micro-batches, or ``keep_best`` names no metric of the evaluation.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.keep_best and evaluate is None:
        raise ValueError("keep_best needs held-out evaluation, which is off")
    # Some parameters get no gradient: in detection the other source's objectness head, in DINOv2 the mask token.
    unused = recipe.stage == "detect" or "vision_encoder" in recipe.trainable
    parallel = DistributedDataParallelKwargs(find_unused_parameters=unused)
    # The other processes wait while the first one evaluates.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    # It keeps the precision of the first stage that a process ran, and would refuse another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[parallel, patience])
    processes, process = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % (processes * recipe.accumulate):
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {processes} processes with {recipe.accumulate} "
            "micro-batches each"
        )
    out.mkdir(parents=True, exist_ok=True)
    _check_recipe(out, recipe, accelerator.is_main_process)
    set_seed(recipe.seed)
    stage = build_stage(model, processor, recipe, images)
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
            _Batches(stage, images, recipe, start, process, processes), batch_size=None, shuffle=False,
            num_workers=workers, persistent_workers=workers > 0,
        )  # fmt: skip
        log = RunLog(out, start) if accelerator.is_main_process else None
        bar = tqdm(total=recipe.steps, initial=start, desc=recipe.stage, disable=not (progress and log is not None))
        metrics: dict[str, float] = {}
        began = time.monotonic() - seconds
        for step, parts in enumerate(batches, start=start):
            losses = run.step(step, parts)
            if log is not None:
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
        finished = {"steps": recipe.steps, "seconds": round(time.monotonic() - began, 1), "processes": processes}
        write_text(out / "finished.json", json.dumps(finished) + "\n")
    accelerator.wait_for_everyone()
    accelerator.end_training()
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
            # Without `draws: image` an undivided step stays as bundled checkpoints were trained.
            if number == 1 and not self.sharded and (divided or recipe.draws == "image"):
                _separate(self.parameters)
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


def _separate(parameters: Sequence[nn.Parameter]) -> None:
    """Give every parameter a gradient of its own.

    Backward through a sum hands one tensor to all summands (the biases of the region encoder's level convolutions);
    adding to it, scaling and clipping in place would then count several times.
    """
    seen = set()
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.data_ptr() in seen:
                parameter.grad = parameter.grad.clone()
            seen.add(parameter.grad.data_ptr())


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
        set_trainable(model, recipe.trainable)
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
