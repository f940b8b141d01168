"""What a run takes before it starts: memory of a process, arithmetic of a step, and the time both lead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groma_model.configuration import GromaConfig, preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.training.cost import Load, StepCost, expected_load, step_cost
from groma_model.training.lora import adapter_size
from groma_model.training.recipe import Recipe

#: Everything is kept in float32: `precision` narrows the arithmetic alone.
BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes in one process. Activations, buffers of communication and the readout of attributes come on top."""

    parameters: int
    gradients: int
    optimiser: int

    @property
    def total(self) -> int:
        """The three together."""
        return self.parameters + self.gradients + self.optimiser

    def __str__(self) -> str:
        sizes = (self.parameters, self.gradients, self.optimiser, self.total)
        one, two, three, total = map(_gib, sizes)
        return (
            f"memory a process: parameters {one}, gradients {two}, optimiser states {three}; together {total} "
            "(without activations)"
        )


@dataclass(frozen=True)
class StepEstimate:
    """A step of one process: ``accumulate`` micro-batches of the assumed ``load``, and memory with activations.

    Where parameters are divided among processes, the layer that is gathered for use comes on top.
    """

    recipe: Recipe
    processes: int
    memory: Memory
    load: Load
    cost: StepCost

    @property
    def peak(self) -> int:
        """Bytes at the worst moment, at most: with a micro-batch's activations, or AdamW's temporaries in their place.

        AdamW takes the roots of all second moments at once: as much as the gradients.
        """
        return self.memory.total + max(self.cost.peak[self.recipe.gradient_checkpointing], self.memory.gradients)

    @property
    def flops(self) -> int:
        """Model FLOPs of a step in one process, without what gradient checkpointing computes again."""
        return self.recipe.accumulate * self.cost.flops

    def seconds(self, tflops: float, mfu: float) -> float:
        """Seconds a step where a device of peak ``tflops`` (10^12 FLOP/s) reaches the utilisation ``mfu``."""
        return self.flops / (tflops * 1e12 * mfu)

    def __str__(self) -> str:
        load, cost, on = self.load, self.cost, self.recipe.gradient_checkpointing
        tokens = f", {load.prefix + load.rows * load.row_length} tokens" if load.rows else ""
        again = f", and {_tera(self.recipe.accumulate * cost.recomputed)} computed again" if on else ""
        plain, less = map(_gib, cost.peak)
        return "\n".join([
            f"{self.memory}",
            f"activations of a micro-batch of {load.images} images ({load.regions} regions{tokens} an image): {plain}; "
            f"with gradient checkpointing {less}; the recipe has it {'on' if on else 'off'}: {_gib(self.peak)} at most",
            f"a step: {_tera(self.flops)} a process{again}",
        ])  # fmt: skip


def estimate(recipe: Recipe, processes: int = 1, model: GromaForConditionalGeneration | None = None) -> Memory:
    """What a recipe takes in each of so many processes; without a model, that of the recipe's preset.

    Raises:
        ValueError: neither the recipe's preset nor a model is given.
    """
    if model is None:
        with torch.device("meta"):
            model = GromaForConditionalGeneration(_configuration(recipe))
    held = sum(p.numel() for p in model.parameters())
    trained = sum(
        p.numel() for name, module in model.named_children() if name in recipe.trainable for p in module.parameters()
    )
    if recipe.lora is not None:
        adapters = adapter_size(model, recipe.lora)
        held, trained = held + adapters, trained + adapters
    share = processes if recipe.sharding == "full" else 1
    whole, part = BYTES * held // share, BYTES * trained // share
    return Memory(whole, part, 2 * part)


def estimate_step(recipe: Recipe, processes: int = 1, tokens: int = 128,
                  model: GromaForConditionalGeneration | None = None) -> StepEstimate:  # fmt: skip
    """Memory with activations, and FLOPs; dialogues have ``tokens`` tokens, images as many regions as there may be.

    Raises:
        ValueError: neither the recipe's preset nor a model is given; the batch does not divide; ``lora`` without peft.
    """
    config = _configuration(recipe) if model is None else model.config
    load = expected_load(recipe, config, processes, tokens)
    return StepEstimate(recipe, processes, estimate(recipe, processes, model), load, step_cost(recipe, config, load))


def time_line(step: StepEstimate, tflops: float, mfu: float) -> str:
    """Step time and days, as a sentence that says what they rest on."""
    seconds = step.seconds(tflops, mfu)
    days = seconds * step.recipe.steps / 86400
    return (
        f"at {tflops:g} TFLOP/s and {100 * mfu:g} % utilisation (assumed): {seconds:.2f} s a step, {days:.2f} days for "
        f"{step.recipe.steps} steps"
    )


def _configuration(recipe: Recipe) -> GromaConfig:
    if recipe.preset is None:
        raise ValueError("an estimate needs a recipe with a preset")
    return preset(recipe.preset, **recipe.overrides)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _tera(count: int) -> str:
    return f"{count / 1e12:.2f} TFLOP"
