"""The small reference model of the parity fixture: its configuration and its recorded tensors.

Test modules of this folder import it as ``from fixture import small_config`` (pytest puts their folder on the path).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from groma_model.checkpoints import stored_name
from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.released import native_names

#: Stage -> (largest deviation seen, tolerance), in the order of the tests; ``pytest -v tests/parity`` prints it.
DEVIATIONS: dict[str, tuple[float, float]] = {}


def close(ours: Tensor, theirs: Tensor, tolerance: float, stage: str) -> None:
    """Assert that no element differs by more than ``tolerance``, and note the largest difference of the stage."""
    assert ours.shape == theirs.shape, stage
    note(stage, (ours - theirs).abs().max().item(), tolerance)


def note(stage: str, deviation: float, tolerance: float) -> None:
    """Assert that ``deviation`` is within ``tolerance`` and keep the largest of the stage."""
    assert deviation <= tolerance, f"{stage} differs by {deviation}"
    seen, widest = DEVIATIONS.get(stage, (0.0, tolerance))
    DEVIATIONS[stage] = max(seen, deviation), max(widest, tolerance)


def small_config(**overrides: Any) -> GromaConfig:
    """The fixture's sizes with the released code's quirks but for its shuffle; ``overrides`` replace single fields."""
    fields: dict[str, Any] = dict(
        vision_config=dict(
            model_type="dinov2",
            hidden_size=64,
            num_hidden_layers=6,
            num_attention_heads=2,
            image_size=518,
            patch_size=14,
        ),
        llm_config=dict(
            model_type="llama",
            vocab_size=1000,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_size=448,
        compatibility="released",
        region_order="score",
        proposer_dim=64,
        proposer_heads=8,
        proposer_points=4,
        proposer_ffn_dim=128,
        proposer_encoder_layers=2,
        proposer_decoder_layers=3,
        num_queries=30,
        proposer_box_head_dim=256,
        anchor_size=0.05,
        score_threshold=0.15,
        region_dim=1024,
    )
    return GromaConfig(**(fields | overrides))


def tensors(shared: Path, name: str) -> dict[str, Tensor]:
    """All tensors of ``parity/small/NAME.safetensors``, for example ``tensors(shared, "02_perceiver")``."""
    with safe_open(shared / "parity" / "small" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def results(shared: Path) -> dict[str, Any]:
    """The recorded numbers, prompts and token ids of ``parity/small/results.json``."""
    return json.loads((shared / "parity" / "small" / "results.json").read_text())


def claims(shared: Path) -> Any:
    """The numeric evidence of ``parity/claims.json``."""
    return json.loads((shared / "parity" / "claims.json").read_text())


def released_weights(shared: Path, module: str) -> dict[str, Tensor]:
    """One module's tensors of the fixture checkpoint, in float32, under the names of its state dict.

    ``module``: ``"vision_encoder"``, ``"proposer"``, ... The checkpoint stores shared heads twice.
    """
    with torch.device("meta"):
        names = GromaForConditionalGeneration(small_config()).state_dict()
    ours = {stored_name(name): name for name in names}
    table = native_names(ours)
    with safe_open(shared / "parity" / "small" / "checkpoint" / "model.safetensors", "pt") as file:
        found = {ours[table[key]]: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
    return {name.removeprefix(f"{module}."): t for name, t in found.items() if name.startswith(f"{module}.")}
