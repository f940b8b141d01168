from __future__ import annotations

import json

import pytest
import torch
from small import picture, small_groma

from groma_model.checkpoints import save_checkpoint
from groma_model.generation import Groma, Query


@pytest.fixture
def folder(tmp_path):
    groma = small_groma()
    save_checkpoint(groma.model, groma.processor, tmp_path / "nano")
    return tmp_path / "nano"


def test_what_is_saved_answers_the_same(folder):
    before, after = small_groma(), Groma.from_pretrained(folder, device="cpu")
    assert all(torch.equal(a, after.model.state_dict()[n]) for n, a in before.model.state_dict().items())
    query = [[Query("ground_all", "the red circle")]]
    first = before.answer([before.perceive(picture())], query, 6)[0][0]
    second = after.answer([after.perceive(picture())], query, 6)[0][0]
    assert first == second
    assert len(after.checkpoint_hash) == 64


def test_half_precision_runs(folder):
    groma = Groma.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert groma.model.dtype == torch.bfloat16
    assert groma.perceive(picture()).chat("what?", max_new_tokens=2) is not None


def _edit(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_a_checkpoint_of_another_kind_is_named(folder):
    _edit(folder, model_type="llama")
    with pytest.raises(ValueError, match=r"another kind \(model_type 'llama'\)"):
        Groma.from_pretrained(folder)


def test_sizes_that_do_not_fit(folder):
    _edit(folder, region_dim=48)
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        Groma.from_pretrained(folder)


def test_a_missing_tensor_is_named(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("projector.0.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks tensors: projector\.0\.bias"):
        Groma.from_pretrained(folder)


def test_a_truncated_file(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        Groma.from_pretrained(folder)


def test_a_tokenizer_of_another_model(folder):
    _edit(folder, max_regions=20)
    with pytest.raises(ValueError, match=r"do not belong together|does not fit"):
        Groma.from_pretrained(folder)
    _edit(folder, llm_config={**json.loads((folder / "config.json").read_text())["llm_config"], "vocab_size": 500})
    with pytest.raises(ValueError, match="do not belong together"):
        Groma.from_pretrained(folder)


def test_unknown_name():
    with pytest.raises(ValueError, match="neither a folder nor bundled"):
        Groma.from_pretrained("groma-huge")
