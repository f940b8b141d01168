"""LoRA of the language model (Hu et al. 2022, eq. 3): W stays as it is, (alpha / rank) B A beside it is trained.

peft puts the adapters into the model; while they are there, its parameters have other names
(``q_proj.base_layer.weight`` beside ``q_proj.lora_A.default.weight``). Checkpoints hold sums under ordinary names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from groma_model.modeling import GromaForConditionalGeneration
from groma_model.training.recipe import Lora, Recipe
from groma_model.training.stages import set_trainable

#: peft's name for the only adapter of a layer.
_ADAPTER = "default"
_BASE = ".base_layer."


def prepare(model: GromaForConditionalGeneration, recipe: Recipe) -> None:
    """Freeze everything but the recipe's modules and, with ``lora``, the adapters, which are put in where they lack.

    New adapters change no output: B is zero. A is drawn from torch's generator.

    Raises:
        ValueError: a module that the model does not have; ``lora`` without the package peft.
    """
    if recipe.lora is not None and not adapted_layers(model):
        _attach(model, recipe.lora)
    set_trainable(model, recipe.trainable)
    for layer in adapted_layers(model).values():
        for part in (layer.lora_A, layer.lora_B, layer.lora_dropout):
            part.requires_grad_(True).train()


def _attach(model: GromaForConditionalGeneration, lora: Lora) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("lora needs the package peft: pip install 'groma-eval[lora]'") from None
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=[*lora.targets])
    inject_adapter_in_model(config, model.llm, _ADAPTER)


def adapted_layers(model: GromaForConditionalGeneration) -> dict[str, nn.Module]:
    """The language model's layers with an adapter, by their names in the model."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def adapter_size(model: GromaForConditionalGeneration, lora: Lora) -> int:
    """How many numbers the adapters hold: rank x (inputs + outputs) of each layer."""
    layers = (m for name, m in model.llm.model.layers.named_modules() if name.rpartition(".")[2] in lora.targets)
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def merged_weights(model: GromaForConditionalGeneration, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an adapted model under their ordinary names, adapters added: W + scale B A.

    Each sum is computed in float64, rounded once to the type of W and held on the CPU.

    Args:
        weights: the model's state dict, whole.
    """
    layers = adapted_layers(model)
    plain = {}
    for name, tensor in weights.items():
        layer, _, rest = name.partition(_BASE)
        if rest == "weight" and layer in layers:
            a, b = (weights[f"{layer}.lora_{part}.{_ADAPTER}.weight"].detach() for part in "AB")
            plain[f"{layer}.weight"] = _sum(tensor.detach(), a, b, layers[layer].scaling[_ADAPTER])
        elif name.split(".lora_")[0] not in layers:
            plain[name] = tensor
    return plain


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    whole = weight.cpu().double().addmm_(b.cpu().double(), a.cpu().double(), alpha=scale)
    return whole.to(weight.dtype)


@torch.no_grad()
def merge(model: GromaForConditionalGeneration) -> None:
    """Add the adapters to their weights in place and take them out: an ordinary model is left."""
    for name, layer in adapted_layers(model).items():
        parent, _, own = name.rpartition(".")
        base = layer.base_layer
        a, b = (adapters[_ADAPTER].weight for adapters in (layer.lora_A, layer.lora_B))
        base.weight.copy_(_sum(base.weight, a, b, layer.scaling[_ADAPTER]))
        setattr(model.get_submodule(parent), own, base)
