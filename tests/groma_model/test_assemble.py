"""The checkpoint to start from: every tensor from its folder, the rest by seed, and one line for what does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import TEXTS
from tokenizers import Tokenizer
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2ForImageClassification,
    Dinov2Model,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from groma_eval.cli.train import main
from groma_model import assemble as module
from groma_model.assemble import assemble
from groma_model.checkpoints import load_checkpoint
from groma_model.configuration import GromaConfig, preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import train_tokenizer

CLIP = dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=3, patch_size=16, image_size=64,
            intermediate_size=128)  # fmt: skip


def base_tokenizer(config) -> PreTrainedTokenizerFast:
    """A tokenizer of the language model alone: 512 ids, none of the new tokens."""
    state = json.loads(train_tokenizer(TEXTS, config).backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] < config.llm_config.vocab_size]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(5)
    config = preset("nano")
    config.vision_config.layer_norm_eps = 1e-5
    Dinov2Model(config.vision_config).save_pretrained(root / "dinov2")
    config.llm_config.rms_norm_eps = 1e-4
    config.llm_config.max_position_embeddings = 777
    LlamaForCausalLM(config.llm_config).half().save_pretrained(root / "llama", max_shard_size="300KB")
    base_tokenizer(config).save_pretrained(root / "llama")
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(root / "clip")
    return root


@pytest.fixture
def copies(folders, tmp_path):
    """Copies that a test may spoil."""
    for name in ("dinov2", "llama"):
        shutil.copytree(folders / name, tmp_path / name)
    return tmp_path


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_line(action, *parts) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        action()
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_tensor_is_its_folders(folders, tmp_path):
    out = tmp_path / "base"
    assert assemble(folders / "dinov2", folders / "llama", out, "nano") == {}
    assert not list(tmp_path.glob("*.partial"))
    written = tensors_of(out)
    for folder, prefix in (("dinov2", "vision_encoder.model."), ("llama", "llm.")):
        given = tensors_of(folders / folder)
        assert len(given) == sum(name.startswith(prefix) for name in written)
        for name, tensor in given.items():
            own = written[module.stored_name(prefix + name)]
            assert own.dtype == tensor.dtype
            assert torch.equal(own, tensor), name
    model, processor = load_checkpoint(out)  # strict: nothing is missing, nothing is over
    assert model.config.vision_config.layer_norm_eps == 1e-5
    assert (model.config.llm_config.rms_norm_eps, model.config.llm_config.max_position_embeddings) == (1e-4, 777)
    base, new = 512, model.config.new_tokens
    assert processor.tokenizer.convert_tokens_to_ids(new) == list(range(base, base + len(new)))
    before = base_tokenizer(model.config)
    for text in (TEXTS[1], "a  red star,\u00e9", ""):
        assert processor.encode(text) == before(text, add_special_tokens=False)["input_ids"]
    mean = model.llm.model.embed_tokens.weight.mean(0)
    spread = (model.new_token_embeddings.weight - mean).std()
    assert float(spread.detach()) == pytest.approx(0.04, rel=0.05)


def test_the_modules_are_the_libraries_own(folders, tmp_path):
    """Hidden states of the assembled parts, against those of transformers' own classes."""
    assemble(folders / "dinov2", folders / "llama", tmp_path / "base", "nano")
    model, _ = load_checkpoint(tmp_path / "base")
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        wanted = Dinov2Model.from_pretrained(folders / "dinov2")(pixels, output_hidden_states=True).hidden_states
        found = model.vision_encoder(pixels)
        assert all(torch.allclose(a, b[:, 1:], atol=1e-5) for a, b in zip(found, wanted, strict=True))
        ids = torch.arange(20)[None]
        causal = torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()
        logits = model.logits(model.run_llm(model.embed_tokens(ids), causal, ids)[0])[:, :512]
        language = LlamaForCausalLM.from_pretrained(folders / "llama", dtype=torch.float32)
        assert torch.allclose(logits, language(ids).logits[0], atol=1e-5)


def test_new_modules_hang_on_the_seed_alone(folders, tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assemble(folders / "dinov2", folders / "llama", tmp_path / name, "nano", seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = (tensors_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    differ = {name.split(".")[0] for name in a if not torch.equal(a[name], c[name])}
    assert differ == {"proposer", "region_encoder", "projector", "new_token_embeddings", "new_token_head", "pointer"}


def test_large_checkpoints_are_written_in_files(folders, tmp_path, monkeypatch):
    assemble(folders / "dinov2", folders / "llama", tmp_path / "one", "nano")
    monkeypatch.setattr(module, "_SHARD", 1 << 20)
    assemble(folders / "dinov2", folders / "llama", tmp_path / "many", "nano")
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 4
    one, many = (load_checkpoint(tmp_path / name)[0].state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in index.items():
        assert name in load_file(tmp_path / "many" / file)


def test_pickled_shards_and_what_they_hold_besides(copies):
    tensors = tensors_of(copies / "llama")
    for path in [*(copies / "llama").glob("*.safetensors"), copies / "llama" / "model.safetensors.index.json"]:
        path.unlink()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    names = sorted(tensors)
    torch.save({n: tensors[n] for n in names[:9]}, copies / "llama" / "pytorch_model-00001-of-00002.bin")
    torch.save({n: tensors[n] for n in names[9:]}, copies / "llama" / "pytorch_model-00002-of-00002.bin")
    unused = assemble(copies / "dinov2", copies / "llama", copies / "base", "nano")
    assert unused == {"rotary frequencies, which are computed": 1}
    written = tensors_of(copies / "base")
    assert torch.equal(written["llm.lm_head.weight"], tensors["lm_head.weight"])


def test_a_classifier_on_top_is_left_out(copies):
    shutil.rmtree(copies / "dinov2")
    config = preset("nano").vision_config
    config.num_labels = 3
    model = Dinov2ForImageClassification(config)
    model.save_pretrained(copies / "dinov2")
    unused = assemble(copies / "dinov2", copies / "llama", copies / "base", "nano")
    assert unused == {"a classifier on top": 2}
    written = tensors_of(copies / "base")["vision_encoder.model.embeddings.cls_token"]
    assert torch.equal(written, model.dinov2.embeddings.cls_token)


@pytest.mark.parametrize("whole", [False, True])
def test_clip(folders, tmp_path, whole):
    folder = folders / "clip"
    if whole:
        folder = tmp_path / "clip"
        text = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=99, intermediate_size=64,
                    bos_token_id=1, eos_token_id=2)  # fmt: skip
        CLIPModel(CLIPConfig(vision_config=CLIP, text_config=text)).save_pretrained(folder)
    (tmp_path / "copy").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / "copy")
    transform = {"image_mean": [0.48, 0.45, 0.4], "image_std": [1, 1, 1]}
    (tmp_path / "copy" / "preprocessor_config.json").write_text(json.dumps(transform))
    unused = assemble(tmp_path / "copy", folders / "llama", tmp_path / "base", "nano")
    assert list(unused) == (["CLIP's text side"] if whole else [])
    written = tensors_of(tmp_path / "base")
    model = GromaForConditionalGeneration(GromaConfig.from_pretrained(tmp_path / "base"))
    assert model.vision_encoder.is_clip
    model.load_state_dict(written)
    assert model.config.image_mean == (0.48, 0.45, 0.4)
    own = {n.removeprefix("vision_encoder.model."): t for n, t in written.items() if n.startswith("vision_encoder.")}
    given = {n.removeprefix("vision_model."): t for n, t in tensors_of(folder).items()}
    assert len(own) == 71
    assert all(torch.equal(tensor, given[name]) for name, tensor in own.items())


def test_what_does_not_fit_is_one_line(copies):
    vision, llm, out = copies / "dinov2", copies / "llama", copies / "base"

    def attempt(name="nano"):
        assemble(vision, llm, out, name)

    def spoiled(path, *parts, **changes):
        before = path.read_text()
        edit(path, **changes)
        one_line(attempt, *parts)
        path.write_text(before)

    one_line(lambda: attempt("8b"), "unknown preset '8b'")
    one_line(lambda: attempt("tiny"), "dinov2/config.json: hidden_size is 96, preset tiny has 160")
    spoiled(vision / "config.json", "patch_size is 14, preset nano has 16", patch_size=14)
    spoiled(vision / "config.json", "model_type is 'vit'; it must be one of dinov2, clip_vision", model_type="vit")
    spoiled(llm / "config.json", "llama/config.json: hidden_size is 64, preset nano has 128", hidden_size=64)
    spoiled(llm / "config.json", "vocab_size is 513, preset nano has 512", vocab_size=513)
    spoiled(llm / "config.json", "tie_word_embeddings is true", tie_word_embeddings=True)
    spoiled(llm / "tokenizer_config.json", "names no eos_token", eos_token=None)
    tokenizer = json.loads((llm / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 512, "content": "[EXTRA]"})
    spoiled(llm / "tokenizer.json", "has 513 tokens, config.json's language model 512", **tokenizer)

    tensors = load_file(vision / "model.safetensors")
    for change, message in (
        ({"layernorm.weight": None}, "lacks tensors: layernorm.weight (1 in all)"),
        ({"encoder.extra": torch.zeros(1)}, "has a tensor this model does not know: encoder.extra"),
        ({"layernorm.weight": torch.zeros(97)}, "layernorm.weight has shape (97,), not (96,)"),
        ({"dinov2.layernorm.weight": tensors["layernorm.weight"].clone()}, "a second time"),
    ):
        changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
        save_file(changed, vision / "model.safetensors")
        one_line(attempt, message)
        assert not out.exists()
        assert not list(copies.glob("*.partial"))
    save_file(tensors, vision / "model.safetensors")

    next(llm.glob("*-00003-of-*.safetensors")).unlink()
    one_line(attempt, "llama lacks model-00003-of-")
    (llm / "tokenizer.json").unlink()
    one_line(attempt, "has neither tokenizer.model nor tokenizer.json")
    out.mkdir()
    one_line(attempt, "base exists already")


def test_a_sentencepiece_tokenizer_gets_the_released_ids(shared, tmp_path):
    """The parity checkpoint's tokenizer.model, with the ids that its own added_tokens.json states."""
    source = next(p.parent for p in sorted((shared / "parity").rglob("added_tokens.json")))
    added = json.loads((source / "added_tokens.json").read_text())
    values = json.loads((source / "config.json").read_text())
    config = preset("nano", max_regions=len(added) - 14)
    config.llm_config.vocab_size = values["llm_cfg"]["vocab_size"]
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path)
    tokenizer = module._tokenizer(tmp_path, config)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in added} == added
    config.llm_config.vocab_size += 1
    one_line(lambda: module._tokenizer(tmp_path, config), f"{tmp_path}/tokenizer.model has", "take both files")


def test_the_command(folders, tmp_path, capsys):
    words = ["assemble", "--vision", str(folders / "dinov2"), "--llm", str(folders / "llama"), "--preset", "nano"]
    assert main([*words, "--out", str(tmp_path / "base")]) == 0
    assert (tmp_path / "base" / "model.safetensors").is_file()
    assert main([*words, "--out", str(tmp_path / "base")]) == 2
    assert main(["assemble", "--vision", str(tmp_path / "no"), *words[3:], "--out", str(tmp_path / "b")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("groma-train: error: ")] == lines[-2:]
    assert "exists already" in lines[-2]
    assert "is not a folder" in lines[-1]
