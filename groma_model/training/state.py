"""The state of a run on disk, and parameters divided among processes (FSDP).

Every file is written beside its place and moved there, so that a kill leaves the old or the new one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groma_model.checkpoints import save_checkpoint
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.training.lora import adapted_layers, merged_weights
from groma_model.training.recompute import transformer_layers


def shard(stage: nn.Module, model: GromaForConditionalGeneration, device: torch.device, processes: int) -> None:
    """Divide parameters among the processes: each transformer layer by itself, the rest together (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for layer in transformer_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(stage, mesh=mesh)


def load_state(path: Path, stage: nn.Module, optimizer: torch.optim.Optimizer, sharded: bool) -> tuple[int, float]:
    """Continue from ``path`` if it is there. Returns the steps done and the seconds they took."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=sharded)
    if state.get("sharded", False) != sharded:
        raise ValueError(f"{path} is of a run with {'several processes' if state['sharded'] else 'one process'}: "
                         "continue it with as many")  # fmt: skip
    if sharded:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        options = StateDictOptions(full_state_dict=True)
        set_state_dict(stage, optimizer, model_state_dict=state["stage"], optim_state_dict=state["optimizer"],
                       options=options)  # fmt: skip
    else:
        stage.load_state_dict(state["stage"])
        optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def gather_state(stage: nn.Module, optimizer: Any, sharded: bool) -> dict[str, Any]:
    """The whole state of stage and optimiser; when sharded, every process takes part and the first one gets it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not sharded:
        return {"stage": stage.state_dict(), "optimizer": inner.state_dict(), "sharded": False}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = get_state_dict(stage, inner, options=options)
    return {"stage": weights, "optimizer": moments, "sharded": True}


def save_state(path: Path, state: dict[str, Any], step: int, seconds: float) -> None:
    """Write a gathered state."""
    beside = path.with_name(path.name + ".new")
    torch.save({**state, "step": step, "seconds": seconds}, beside)
    os.replace(beside, path)


def save_weights(model: GromaForConditionalGeneration, processor: GromaProcessor, state: dict[str, Any],
                 folder: Path) -> None:  # fmt: skip
    """Write the checkpoint; of a sharded model from its gathered state, of an adapted one with adapters merged."""
    if state["sharded"] or adapted_layers(model):
        weights = {k.removeprefix("model."): v for k, v in state["stage"].items() if k.startswith("model.")}
        with torch.device("meta"):
            whole = GromaForConditionalGeneration(model.config)
        whole.load_state_dict(merged_weights(model, weights), assign=True)
        model = whole
    save_checkpoint(model, processor, folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
