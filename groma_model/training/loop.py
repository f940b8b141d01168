"""The training loop: one for all stages, on accelerate (CPU, one GPU, several processes).

Reproducible and resumable: which images a step sees and every random draw in it depend on (seed, step, process) alone,
so a run that is killed and started again continues as if it had not been.
"""

from __future__ import annotations

import csv
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from tqdm import tqdm

from groma_model.checkpoints import save_checkpoint
from groma_model.data.samples import TrainingImage
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.training.recipe import Recipe
from groma_model.training.stages import DetectStage, LanguageStage, attribute_values, set_trainable

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
    """Step number -> collated batch, so that a DataLoader may prepare steps ahead."""

    def __init__(self, stage: DetectStage | LanguageStage, images: Sequence[TrainingImage], recipe: Recipe,
                 start: int, process: int, processes: int):  # fmt: skip
        self.collate, self.images, self.recipe = stage.collate, images, recipe
        self.start, self.process, self.processes = start, process, processes

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):
            raise IndexError
        step = self.start + index
        rng = random.Random(f"{self.recipe.seed}/{step}/{self.process}")
        chosen = batch_indices(step, self.recipe, len(self.images), self.process, self.processes)
        return self.collate([self.images[i] for i in chosen], rng)


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

    Returns the last held-out metrics.

    Raises:
        ValueError: when ``out`` holds a run of another recipe, or the batch does not divide among the processes.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # Only detection leaves parameters without gradient (the objectness head of the other source, say).
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=recipe.stage == "detect")
    # It keeps the precision of the first stage that a process ran, and would refuse another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[kwargs])
    processes, process = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % processes:
        raise ValueError(f"batch_size {recipe.batch_size} does not divide among {processes} processes")
    out.mkdir(parents=True, exist_ok=True)
    _check_recipe(out, recipe, accelerator.is_main_process)
    set_seed(recipe.seed)
    stage = build_stage(model, processor, recipe, images)
    optimizer = torch.optim.AdamW(parameter_groups(stage, recipe), betas=recipe.betas, fused=False, foreach=True)
    start, seconds = _resume(out, stage, optimizer)
    wrapped, optimizer = accelerator.prepare(stage, optimizer)
    batches = torch.utils.data.DataLoader(
        _Batches(stage, images, recipe, start, process, processes), batch_size=None, shuffle=False, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    log = _Log(out, start) if accelerator.is_main_process else None
    bar = tqdm(total=recipe.steps, initial=start, desc=recipe.stage, disable=not (progress and log is not None))
    metrics: dict[str, float] = {}
    began = time.monotonic() - seconds
    parameters = [p for p in stage.parameters() if p.requires_grad]
    for step, batch in enumerate(batches, start=start):
        factor = learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        losses = wrapped(batch)
        accelerator.backward(losses["loss"])
        norm = accelerator.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if log is not None:
            log.add(step, time.monotonic() - began, factor * recipe.lr, float(norm), losses)
            bar.update()
            bar.set_postfix(loss=f"{losses['loss'].item():.3f}", refresh=False)
        done = step + 1
        if done % recipe.save_every == 0 or done == recipe.steps:
            accelerator.wait_for_everyone()
            if log is not None:
                _save(out, stage, optimizer, processor, done, time.monotonic() - began)
                log.flush()
        if evaluate is not None and (done % recipe.evaluate_every == 0 or done == recipe.steps):
            if log is not None:
                model.eval()
                metrics = evaluate(model, processor, done)
                set_trainable(model, recipe.trainable)
                log.metrics(done, time.monotonic() - began, metrics)
            accelerator.wait_for_everyone()
    bar.close()
    if log is not None:
        finished = {"steps": recipe.steps, "seconds": round(time.monotonic() - began, 1), "processes": processes}
        (out / "finished.json").write_text(json.dumps(finished) + "\n")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def _check_recipe(out: Path, recipe: Recipe, main: bool) -> None:
    path, wanted = out / "recipe.json", json.loads(json.dumps(recipe.to_dict()))
    if path.is_file():
        found = json.loads(path.read_text())
        different = sorted(k for k in wanted if found.get(k) != wanted[k])
        if different:
            raise ValueError(
                f"{out} holds a run with another {', '.join(different)}: choose another --out or remove it"
            )
    elif main:
        path.write_text(json.dumps(wanted, indent=1) + "\n")


def _resume(out: Path, stage: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    path = out / "state.pt"
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location="cpu")
    stage.load_state_dict(state["stage"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _save(out: Path, stage: DetectStage | LanguageStage, optimizer: Any, processor: GromaProcessor, step: int,
          seconds: float) -> None:  # fmt: skip
    inner = getattr(optimizer, "optimizer", optimizer)
    state = {"stage": stage.state_dict(), "optimizer": inner.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, out / "state.pt.new")
    (out / "state.pt.new").replace(out / "state.pt")
    save_checkpoint(stage.model, processor, out)


class _Log:
    """Loss curves in ``log.csv`` (means over 20 steps), held-out metrics in ``metrics.jsonl``."""

    every = 20

    def __init__(self, out: Path, start: int):
        self.path, self.metrics_path, self.sums, self.count = out / "log.csv", out / "metrics.jsonl", {}, 0
        self.rows = _before(self.path, start)
        kept = [r for r in _json_lines(self.metrics_path) if r["step"] <= start]
        self.metrics_path.write_text("".join(json.dumps(r) + "\n" for r in kept))

    def add(self, step: int, seconds: float, rate: float, norm: float, losses: dict[str, torch.Tensor]) -> None:
        for name, value in {**losses, "grad_norm": norm}.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if (step + 1) % self.every == 0:
            means = {k: round(v / self.count, 5) for k, v in self.sums.items()}
            self.rows.append({"step": step + 1, "seconds": round(seconds, 1), "lr": f"{rate:.3e}", **means})
            self.sums, self.count = {}, 0
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with self.path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def metrics(self, step: int, seconds: float, values: dict[str, float]) -> None:
        with self.metrics_path.open("a") as handle:
            handle.write(json.dumps({"step": step, "seconds": round(seconds, 1), **values}) + "\n")


def _before(path: Path, start: int) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if int(row["step"]) <= start]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
