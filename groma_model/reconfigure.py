"""The same model under other settings: what still fits is kept, what the settings change begins anew."""

from __future__ import annotations

import copy
from typing import Any

from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration


def reconfigured(
    model: GromaForConditionalGeneration, **settings: Any
) -> tuple[GromaForConditionalGeneration, list[str]]:
    """A model with ``settings`` in place of its configuration's, and the names of its tensors that are new.

    A tensor is kept where name and shape are the same in both, so that an ablation of the language side (token merge,
    pointer head) shares the stage before it. New tensors are initialised from torch's generator; tensors of the old
    model that have no place are dropped.

    Raises:
        ValueError: a setting that a configuration does not have.
    """
    values = model.config.to_dict()
    unknown = sorted(set(settings) - set(values))
    if unknown:
        raise ValueError(f"overrides: the configuration has no setting {unknown[0]!r}")
    config = GromaConfig(**copy.deepcopy(values | settings))
    fresh = GromaForConditionalGeneration(config).to(model.dtype)
    wanted, old = fresh.state_dict(), model.state_dict()
    kept = {name: tensor for name, tensor in old.items() if name in wanted and wanted[name].shape == tensor.shape}
    fresh.load_state_dict(kept, strict=False)
    return fresh, [name for name in wanted if name not in kept]
