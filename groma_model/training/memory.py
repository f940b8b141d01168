"""What a run's parameters, gradients and optimiser states take, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
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
        one, two, three, total = (f"{size / 2**30:.2f} GiB" for size in sizes)
        return (
            f"memory a process: parameters {one}, gradients {two}, optimiser states {three}; together {total} "
            "(without activations)"
        )


def estimate(recipe: Recipe, processes: int = 1, model: GromaForConditionalGeneration | None = None) -> Memory:
    """What a recipe takes in each of so many processes; without a model, that of the recipe's preset.

    Raises:
        ValueError: neither the recipe's preset nor a model is given.
    """
    if model is None:
        if recipe.preset is None:
            raise ValueError("an estimate needs a recipe with a preset")
        with torch.device("meta"):
            model = GromaForConditionalGeneration(preset(recipe.preset, **recipe.overrides))
    held = sum(p.numel() for p in model.parameters())
    trained = sum(
        p.numel() for name, module in model.named_children() if name in recipe.trainable for p in module.parameters()
    )
    share = processes if recipe.sharding == "full" else 1
    whole, part = BYTES * held // share, BYTES * trained // share
    return Memory(whole, part, 2 * part)
