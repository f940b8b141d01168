"""Preset 7b against the released model's list of tensors: one to one, shapes and count."""

from __future__ import annotations

import json

import torch

from groma_model.checkpoints import released_name, stored_name
from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration


def test_every_released_tensor_has_one_of_ours(shared):
    manifest = json.loads((shared / "parity" / "full_7b_manifest.json").read_text())
    with torch.device("meta"):
        model = GromaForConditionalGeneration(preset("7b"))
    ours = {stored_name(name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = manifest["tensors"]
    released = tensors if isinstance(tensors, dict) else {t["name"]: t for t in tensors}
    reached: dict[str, list[str]] = {}
    for name, entry in released.items():
        shape = entry["shape"] if isinstance(entry, dict) else entry
        target = released_name(name)
        assert target in ours, f"{name} -> {target}"
        assert ours[target] == list(shape), name
        reached.setdefault(target, []).append(name)
    assert set(reached) == set(ours)
    shared_names = {t: n for t, n in reached.items() if len(n) > 1}
    assert all(
        len(n) == 2 and {x.replace("decoder.", "") for x in n} == {n[0].replace("decoder.", "")}
        for n in shared_names.values()
    )
    assert len(released) - len(shared_names) == len(ours)
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"] == 7_377_311_657


def test_presets_differ_in_sizes_only():
    def modules(name: str) -> set[str]:
        with torch.device("meta"):
            model = GromaForConditionalGeneration(preset(name, pointer_head=False))
        return {type(m).__name__ for m in model.modules()}

    assert modules("tiny") == modules("7b") == modules("nano")
