"""Preset 7b against the released model's list of tensors: one to one, shapes and count."""

from __future__ import annotations

import json
import math

import torch

from groma_model.checkpoints import stored_name
from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.released import native_config, native_names, released_config, released_names


def test_every_released_tensor_has_one_of_ours(shared):
    manifest = json.loads((shared / "parity" / "full_7b_manifest.json").read_text())
    with torch.device("meta"):
        model = GromaForConditionalGeneration(preset("7b"))
    ours = {stored_name(name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    released = {name: list(entry["shape"]) for name, entry in manifest["tensors"].items()}
    names = native_names(ours)
    assert names.keys() == released.keys()
    assert len(names) == 1177
    assert all(ours[name] == released[theirs] for theirs, name in names.items())
    assert {len(released_names(name)) for name in ours} == {1, 2}
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"] == 7_377_311_657
    for group, count in manifest["groups"].items():
        ours_of = {names[theirs] for theirs in released if theirs.startswith(f"{group}.")}
        assert sum(math.prod(ours[name]) for name in ours_of) == count, group


def test_the_full_size_configuration_is_the_preset(shared):
    manifest = json.loads((shared / "parity" / "full_7b_manifest.json").read_text())
    config = native_config(manifest["config_json"])
    assert config.to_dict() == preset("7b", compatibility="released").to_dict()
    assert native_config(released_config(config)).to_dict() == config.to_dict()


def test_presets_differ_in_sizes_only():
    def modules(name: str) -> set[str]:
        with torch.device("meta"):
            model = GromaForConditionalGeneration(preset(name, pointer_head=False))
        return {type(m).__name__ for m in model.modules()}

    assert modules("tiny") == modules("7b") == modules("nano")
