from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from small import picture, small_groma
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groma_model import placement
from groma_model.checkpoints import load_checkpoint, save_checkpoint
from groma_model.configuration import preset
from groma_model.generation import Groma, Query
from groma_model.ops.attention import PackedMask, attention
from groma_model.packing import feature_indices
from groma_model.placement import Placement, automatic_layers, count_parameters, hook_layers, quantize_layers


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


def test_a_model_with_clips_encoder_answers_the_same(tmp_path):
    vision = dict(model_type="clip_vision_model", hidden_size=96, num_hidden_layers=4, num_attention_heads=3,
                  intermediate_size=384, image_size=128, patch_size=16)  # fmt: skip
    before = small_groma(vision_config=vision)
    save_checkpoint(before.model, before.processor, tmp_path / "clip")
    after = Groma.from_pretrained(tmp_path / "clip", device="cpu")
    query = [[Query("ground_all", "the red circle")]]
    first, second = (groma.answer([groma.perceive(picture())], query, 4)[0][0] for groma in (before, after))
    assert first == second


def test_half_precision_runs(folder):
    groma = Groma.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert groma.model.dtype == torch.bfloat16
    wide = {n.split(".")[0] for n, p in groma.model.named_parameters() if p.dtype != torch.bfloat16}
    assert wide == {"proposer"}
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


# ------------------------------------------------------------------ where the weights stand and in what form
CPU = torch.device("cpu")
#: Questions of different lengths, one with a list of regions of its own: together they need every kind of padding.
QUERIES = [
    Query("ground_all", "the red circle"),
    Query("describe", boxes=((0.1, 0.2, 0.6, 0.7),)),
    Query("converse", "what color is it? how many?", history=(("describe the image.", "two blue stars"),)),
]


def replies(groma):
    """Raw text, boxes and confidences of every query about one picture."""
    found = groma.answer([groma.perceive(picture())], [QUERIES], 6)[0]
    return [(a.raw, a.grounded.boxes, a.regions) for a in found], [c for a in found for c in a.grounded.confidences]


@torch.inference_mode()
def prefix_logits(groma):
    """Scores at every position of the prefix, without those of the pointer head."""
    model, processor = groma.model, groma.processor
    scene = groma.perceive(picture())
    count = len(scene.image_tokens)
    ids = processor.prefix_ids(count, len(scene.boxes))
    index = feature_indices(ids, processor.ids["<image>"], processor.ids["<region>"], -1, count)
    features = torch.cat([scene.image_tokens, scene.region_tokens])[None]
    embeddings = model.embed(torch.tensor([ids]), torch.tensor([index]), features, count)
    causal = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).tril()
    return model.logits(model.run_llm(embeddings, causal, torch.arange(len(ids))[None])[0])


def same_answers(groma, reference):
    """Same greedy answers, and scores that differ by rounding alone."""
    (ours, chances), (theirs, expected) = replies(groma), replies(reference)
    assert [raw for raw, *_ in ours] == [raw for raw, *_ in theirs]
    for (_, boxes, regions), (_, other_boxes, other_regions) in zip(ours, theirs, strict=True):
        assert torch.allclose(torch.tensor(boxes), torch.tensor(other_boxes), atol=1e-5)
        assert torch.allclose(torch.tensor(regions), torch.tensor(other_regions), atol=1e-5)
    assert chances == pytest.approx(expected, abs=1e-4)
    assert (prefix_logits(groma) - prefix_logits(reference)).abs().max() <= 1e-4


@pytest.mark.parametrize("device_map", [{0: "cpu"}, {2: "cpu:0", 1: CPU}, {}, "auto"])
def test_layers_that_are_placed_answer_identically(folder, monkeypatch, device_map):
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {"cpu": 1 << 40})
    groma = Groma.from_pretrained(folder, device="cpu", device_map=device_map)
    assert replies(groma) == replies(Groma.from_pretrained(folder, device="cpu"))


def test_hooked_layers_answer_identically(folder):
    """The hooks as for a main device that is not the layers'; here all of them are the CPU."""
    groma = Groma.from_pretrained(folder, device="cpu")
    expected = replies(groma)
    hook_layers(groma.model, Placement(torch.device("cuda", 0), (CPU, torch.device("cuda", 0), CPU)))
    layers = groma.model.llm.model.layers
    assert [hasattr(layer, "_hf_hook") for layer in layers] == [True, False, True]
    assert layers[0]._hf_hook.io_same_device
    assert layers[0]._hf_hook.skip_keys == "past_key_values"
    assert replies(groma) == expected


def test_parameters_are_loaded_straight_to_their_layers_device(folder, monkeypatch):
    monkeypatch.setattr(placement, "existing_device", torch.device)
    model, _ = load_checkpoint(folder, device_map={1: "meta"})
    assert {name for name, p in model.named_parameters() if p.is_meta} == {
        name for name, _ in model.named_parameters() if name.startswith("llm.model.layers.1.")
    }
    assert model.device == CPU
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_matrices_are_quantised_on_their_way_from_the_cpu():
    cuda = torch.device("cuda", 1)
    placed = Placement(torch.device("cuda", 0), (cuda, cuda), "4bit")
    assert placed.device_of("llm.model.layers.1.mlp.up_proj.weight") == CPU
    assert placed.device_of("llm.model.layers.1.self_attn.q_proj.weight") == CPU
    assert placed.device_of("llm.model.layers.1.input_layernorm.weight") == cuda
    assert placed.device_of("llm.lm_head.weight") == placed.device_of("projector.0.weight") == torch.device("cuda", 0)
    plain = Placement(CPU, (cuda, CPU))
    assert plain.device_of("llm.model.layers.0.mlp.up_proj.weight") == cuda
    assert plain.device_of("llm.model.layers.1.mlp.up_proj.weight") == CPU


def test_an_automatic_plan_fills_one_device_after_the_other(monkeypatch):
    """Two CUDA devices and a CPU that this machine need not have: room for one layer each, the rest on the CPU."""
    model = small_groma().model
    layer, everything = (4 * sum(p.numel() for p in m.parameters()) for m in (model.llm.model.layers[0], model))
    buffers = 4 * sum(b.numel() for b in model.buffers())
    language = 4 * sum(p.numel() for p in model.llm.model.parameters())
    table = 4 * model.llm.model.embed_tokens.weight.numel()
    # accelerate keeps room for one more layer on the first device, to run those of the CPU there if it were asked to.
    first = everything + buffers - language + table + 2 * layer + 1000
    room = {0: int(first / 0.9), 1: int((layer + 1000) / 0.9), "cpu": 100 * layer}
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: dict(room))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = [torch.device("cuda", i) for i in range(2)]
    assert automatic_layers(model, cuda[0], torch.float32) == (*cuda, CPU)
    assert automatic_layers(model, cuda[0], torch.float32, "4bit") == (cuda[0],) * 3
    room["cpu"] = 1
    with pytest.raises(ValueError, match="larger than the memory here"):
        automatic_layers(model, cuda[0], torch.float32)


@pytest.mark.parametrize("name", ["groma", "sdpa", "eager"])
def test_every_implementation_of_attention_answers_the_same(folder, monkeypatch, name):
    reference = Groma.from_pretrained(folder, device="cpu")
    groma = Groma.from_pretrained(folder, device="cpu", attn_implementation=name)
    same_answers(groma, reference)
    used = []

    def spy(*args, **options):
        used.append(args)
        return attention(*args, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "groma", spy)
    groma.perceive(picture()).ground(["circle"], max_new_tokens=1)
    assert bool(used) == (name == "groma")


def test_flash_attention_is_told_which_positions_exist(folder, monkeypatch):
    """A stand-in with flash attention's contract: (B, keys) of what exists, causal from the last position back."""

    def flash(module, query, key, value, attention_mask, scaling, **_):
        batch, _, length, _ = query.shape
        known = torch.ones(batch, key.shape[2], dtype=torch.bool) if attention_mask is None else attention_mask
        assert known.shape == (batch, key.shape[2])
        out = torch.zeros_like(query)
        for b, exists in enumerate(known):
            asked = exists[-length:]
            q, k, v = query[b][:, asked], key[b][:, exists], value[b][:, exists]
            scores = q @ k.transpose(-1, -2) * scaling
            if module.is_causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
                scores = scores.masked_fill(hidden, float("-inf"))
            out[b][:, asked] = scores.softmax(-1) @ v
        return out.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", flash)
    groma = Groma.from_pretrained(folder, device="cpu")
    for part in (groma.config.llm_config, groma.config.vision_config):
        part._attn_implementation = "flash_attention_2"
    same_answers(groma, Groma.from_pretrained(folder, device="cpu"))


def test_packed_rows_need_this_packages_attention(folder):
    model = Groma.from_pretrained(folder, device="cpu", attn_implementation="sdpa").model
    packed = PackedMask(torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"packed sequences need attn_implementation 'groma', not 'sdpa'"):
        model.run_llm(torch.zeros(1, 3, 128), packed, torch.arange(3)[None])


class FakeWeight(nn.Parameter):
    """A weight that notes how it was made and where it went."""

    def __new__(cls, data, requires_grad, **options):
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.options = options
        return made

    def to(self, device):
        self.went = device
        return self


class FakeLinear(nn.Linear):
    """A Linear that notes its options."""

    def __init__(self, inputs, outputs, bias, **options):
        super().__init__(inputs, outputs, bias)
        self.options = options


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_the_decoder_layers_matrices_become_bitsandbytes(folder, monkeypatch, kind):
    """With stand-ins that keep the weights as they are, so that answers must not change."""
    names = {"8bit": ("Linear8bitLt", "Int8Params"), "4bit": ("Linear4bit", "Params4bit")}[kind]
    stand_ins = SimpleNamespace(**dict(zip(names, (FakeLinear, FakeWeight), strict=True)))
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=stand_ins))
    groma = Groma.from_pretrained(folder, device="cpu")
    expected, size = replies(groma), groma.num_parameters
    quantize_layers(groma.model, Placement(CPU, (CPU,) * 3, kind))
    changed = {name: m for name, m in groma.model.named_modules() if isinstance(m, FakeLinear)}
    assert len(changed) == 3 * 7
    assert all(name.startswith("llm.model.layers.") for name in changed)
    assert not any(type(m) is nn.Linear for m in groma.model.llm.model.layers.modules())
    for module in changed.values():
        assert module.weight.went == CPU
        assert not module.weight.requires_grad
        if kind == "4bit":
            assert module.options == {
                "compute_dtype": torch.float32, "quant_type": "nf4", "compress_statistics": False,
            }  # fmt: skip
            assert module.weight.options == {"quant_type": "nf4", "compress_statistics": False}
        else:
            assert module.options == {"has_fp16_weights": False, "threshold": 6.0}
            assert module.weight.options == {"has_fp16_weights": False}
    assert replies(groma) == expected
    module.weight = nn.Parameter(torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    assert count_parameters(groma.model) == size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_implementation": "fast"}, "is 'fast'; choose groma, sdpa, eager or flash_attention_2"),
        ({"attn_implementation": "flash_attention_2"}, r"float16 or bfloat16 and the package flash-attn"),
        ({"attn_implementation": "flash_attention_2", "dtype": "bfloat16"}, r"needs CUDA devices"),
        ({"quantization": "2bit"}, "quantization is '2bit'; choose 8bit or 4bit"),
        ({"quantization": "4bit"}, r"pip install bitsandbytes"),
        ({"device_map": "balanced"}, "device_map is 'balanced'; it must be 'auto' or a mapping"),
        ({"device_map": {3: "cpu"}}, "the decoder layer 3; there are 0 to 2"),
        ({"device_map": {"model.layers.0": "cpu"}}, "the decoder layer 'model.layers.0'; there are 0 to 2"),
        ({"device_map": {0: "gpu9"}}, "device 'gpu9' is none"),
        ({"device_map": {0: "meta"}}, "device 'meta' is none"),
        ({"device_map": {0: 99}}, r"device '99' is not here; CUDA devices here: \d+"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not here; CUDA devices here: \d+"),
    ],
)
def test_options_that_are_not_to_be_had(folder, monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(ValueError, match=message) as caught:
        Groma.from_pretrained(folder, **({"device": "cpu"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "largest"), [("8bit", 0.03), ("4bit", 0.4)])
def test_quantised_layers_compute_nearly_the_same(tmp_path, kind, largest):
    """By bitsandbytes itself, on the CPU. The language model is random, so that nf4's errors of a tenth add up."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    # Its nf4 kernel for CPUs wants columns in whole blocks of 64, as the 7B model's are.
    made = small_groma(llm_config=preset("nano").llm_config.to_dict() | {"intermediate_size": 384})
    save_checkpoint(made.model, made.processor, tmp_path)
    reference = Groma.from_pretrained(tmp_path, device="cpu")
    groma = Groma.from_pretrained(tmp_path, device="cpu", quantization=kind)
    assert groma.num_parameters == reference.num_parameters
    weight = groma.model.llm.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == {"8bit": torch.int8, "4bit": torch.uint8}[kind]
    hidden = [last_hidden(g) for g in (groma, reference)]
    change = (hidden[0] - hidden[1]).norm() / hidden[1].norm()
    assert 0 < change < largest
    assert all(len(answers) for answers in groma.answer([groma.perceive(picture())], [QUERIES], 3))


@torch.inference_mode()
def last_hidden(groma):
    """Of a fixed prefix without features."""
    ids = torch.tensor([groma.processor.prefix_ids(4, 3)])
    causal = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    return groma.model.run_llm(groma.model.embed_tokens(ids), causal, torch.arange(ids.shape[1])[None])
