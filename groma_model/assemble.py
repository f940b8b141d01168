"""The checkpoint that training starts from: a pretrained image encoder and language model, everything else new.

Both are read in transformers' format (``save_pretrained`` or the hub): DINOv2 or CLIP, and LLaMA or Vicuna. Their
tensors keep their bits and their type; they go from file to file, so that memory holds one file's share at a time.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AddedToken, PretrainedConfig, PreTrainedTokenizerBase

from groma_model.checkpoints import _shards, stored_name
from groma_model.configuration import GromaConfig, preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.released_tokenizer import load_tokenizer, read_json, released_tokenizer

_VISION, _LLM = "vision_encoder.model.", "llm."
#: Kinds of folders that are read, with the part of ``config.json`` that is their own (None: the whole).
_VISION_TYPES = {"dinov2": ("dinov2", None), "clip_vision_model": ("clip_vision_model", None),
                 "clip": ("clip_vision_model", "vision_config")}  # fmt: skip
_LLM_TYPES = {"llama": ("llama", None)}
#: Sizes in which a folder must agree with the preset. Others, and the arithmetic (epsilons, rotary base, length),
#: are taken from it.
_VISION_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
_LLM_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads")  # fmt: skip
#: Tensors of the folders that this model has no use for, and why.
_UNUSED = (
    (re.compile(r"(dinov2\.)?classifier\."), "a classifier on top"),
    (re.compile(r"(text_model|text_projection|visual_projection|logit_scale)\b"), "CLIP's text side"),
    (re.compile(r"(vision_model\.)?embeddings\.position_ids"), "a table of places, which is counted out"),
    (re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"), "rotary frequencies, which are computed"),
)
#: Bytes of a written file.
_SHARD = 4 << 30


def assemble(vision: Path, llm: Path, out: Path, preset_name: str = "7b", seed: int = 0) -> dict[str, int]:
    """Write a checkpoint into ``out``, a new folder.

    Args:
        vision: folder of DINOv2 or CLIP (whole, or its vision tower). llm: folder of a LLaMA, with its tokenizer
            (tokenizer.model, else tokenizer.json), to which the new tokens are added in the released order.
        seed: of the new modules, and of the new tokens' embeddings around the mean of the known ones.

    Returns:
        How many tensors of the folders were left out, by reason.

    Raises:
        ValueError: one line: what does not fit, and where; nothing is left behind in ``out``.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: choose another folder or remove it")
    config = _configuration(vision, llm, preset_name)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        GromaProcessor(_tokenizer(llm, config), config).save_pretrained(partial)
        config.save_pretrained(partial)
        unused = _write(vision, llm, config, seed, partial)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return unused


# ---------------------------------------------------------------------------------------------------- configuration
def _configuration(vision: Path, llm: Path, name: str) -> GromaConfig:
    """The preset with the folders' own settings where sizes agree."""
    wanted = preset(name)
    encoder = _part(vision, _VISION_TYPES, wanted.vision_config, _VISION_SIZES, name)
    language = _part(llm, _LLM_TYPES, wanted.llm_config, _LLM_SIZES, name)
    if language.tie_word_embeddings:
        raise ValueError(f"{llm}/config.json: tie_word_embeddings is true, only false is implemented")
    config = GromaConfig.from_dict(
        wanted.to_dict() | {"vision_config": encoder.to_dict(), "llm_config": language.to_dict()}
    )
    if (vision / "preprocessor_config.json").is_file():
        transform = read_json(vision / "preprocessor_config.json")
        config.image_mean = tuple(transform.get("image_mean", config.image_mean))
        config.image_std = tuple(transform.get("image_std", config.image_std))
    return config


def _part(folder: Path, types: dict[str, tuple[str, str | None]], wanted: PretrainedConfig, sizes: tuple[str, ...],
          name: str) -> PretrainedConfig:  # fmt: skip
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: give a folder in transformers' format")
    values = read_json(folder / "config.json")
    if values.get("model_type") not in types:
        raise ValueError(
            f"{folder}/config.json: model_type is {values.get('model_type')!r}; it must be one of {', '.join(types)}"
        )
    kind, inner = types[values["model_type"]]
    own = dict(values if inner is None else values.get(inner, {}))
    config = CONFIG_MAPPING[kind](**{k: v for k, v in own.items() if k not in _NOT_THE_MODEL})
    for size in sizes:
        if getattr(config, size) != getattr(wanted, size):
            raise ValueError(
                f"{folder}/config.json: {size} is {getattr(config, size)}, preset {name} has {getattr(wanted, size)}"
            )
    return config


#: Fields that tell of the folder and not of the model.
_NOT_THE_MODEL = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path")


# ---------------------------------------------------------------------------------------------------- tokenizer
def _tokenizer(llm: Path, config: GromaConfig) -> PreTrainedTokenizerBase:
    base = config.llm_config.vocab_size
    if (llm / "tokenizer.model").is_file():
        added = {token: base + i for i, token in enumerate(config.new_tokens)}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(llm / "tokenizer.model", folder)
            (folder / "added_tokens.json").write_text(json.dumps(added))
            settings = read_json(llm / "tokenizer_config.json")
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            try:
                return released_tokenizer(folder, config)
            except ValueError as error:
                raise ValueError(str(error).replace(name, str(llm))) from None
    if not (llm / "tokenizer.json").is_file():
        raise ValueError(f"{llm} has neither tokenizer.model nor tokenizer.json: copy the language model's")
    tokenizer = load_tokenizer(llm)
    if len(tokenizer) != base:
        raise ValueError(
            f"{llm}/tokenizer.json has {len(tokenizer)} tokens, config.json's language model {base}: take both files "
            "from one checkpoint"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{llm}/tokenizer_config.json names no eos_token: the model could not learn to end an answer")
    # As in the released tokenizer, white space beside an added token carries no meaning.
    tokenizer.add_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in config.new_tokens])
    tokenizer.pad_token = "[PAD]"
    return tokenizer


# ---------------------------------------------------------------------------------------------------- tensors
def _write(vision: Path, llm: Path, config: GromaConfig, seed: int, target: Path) -> dict[str, int]:
    with torch.device("meta"):
        model = GromaForConditionalGeneration(config)
    shapes = {stored_name(name): tensor.shape for name, tensor in model.state_dict().items()}
    writer, unused, mean = _Writer(target), {}, torch.empty(0)
    for folder, prefix in ((vision, _VISION), (llm, _LLM)):
        missing = {name for name in shapes if name.startswith(prefix)}
        for path, stored, tensor in _tensors(folder):
            name = _place(stored, prefix, shapes)
            if name is None:
                reason = next((why for pattern, why in _UNUSED if pattern.match(stored)), None)
                if reason is None:
                    raise ValueError(f"{path} has a tensor this model does not know: {stored}")
                unused[reason] = unused.get(reason, 0) + 1
                continue
            if tensor.shape != shapes[name]:
                raise ValueError(
                    f"{path} does not fit its config.json: {stored} has shape {tuple(tensor.shape)}, not "
                    f"{tuple(shapes[name])}"
                )
            if name not in missing:
                raise ValueError(f"{path} has {stored} a second time: {name} was read before")
            missing.discard(name)
            if name == "llm.model.embed_tokens.weight":
                mean = tensor.float().mean(0, keepdim=True)
            writer.add(name, tensor)
        if missing:
            wanted = ", ".join(name.removeprefix(prefix) for name in sorted(missing)[:3])
            raise ValueError(f"{folder} lacks tensors: {wanted} ({len(missing)} in all)")
    for name, tensor in new_modules(config, mean, seed).items():
        writer.add(name, tensor)
    writer.close()
    return unused


def _tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    for path, tensors in _shards(folder):
        for name, tensor in tensors:
            yield path, name, tensor


def _place(stored: str, prefix: str, shapes: dict[str, Any]) -> str | None:
    """The name in our checkpoint of a folder's tensor: heads on top and versions of transformers add prefixes."""
    plain = re.sub(r"^(dinov2|vision_model)\.", "", stored) if prefix == _VISION else stored
    for name in (plain, f"vision_model.{plain}"):
        if (found := stored_name(prefix + name)) in shapes:
            return found
    return None


def new_modules(config: GromaConfig, mean: Tensor, seed: int) -> dict[str, Tensor]:
    """The tensors that no folder has, drawn by ``seed``: proposer, region encoder, projector, new tokens, pointer.

    ``mean``: (1, H) of the known tokens' embeddings, around which the new ones' are drawn.
    """
    values = config.to_dict()
    # The same modules around an image encoder and a language model of nothing.
    small = {"num_hidden_layers": 0, "layer_types": None, "vocab_size": 1, "intermediate_size": 1,
             "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # fmt: skip
    for part in ("vision_config", "llm_config"):
        kept = {k: v for k, v in values[part].items() if k not in ("out_features", "out_indices", "stage_names")}
        values[part] = kept | {k: v for k, v in small.items() if k in kept}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GromaForConditionalGeneration(GromaConfig.from_dict(values))
        nn.init.normal_(model.new_token_embeddings.weight, std=config.llm_config.initializer_range)
    found = {n: t for n, t in model.state_dict().items() if not n.startswith((_VISION, _LLM))}
    found["new_token_embeddings.weight"] = found["new_token_embeddings.weight"] + mean
    return {stored_name(name): tensor for name, tensor in found.items()}


class _Writer:
    """Tensors into files of at most ``_SHARD`` bytes, with transformers' index; each file is complete or absent."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.held: dict[str, Tensor] = {}
        self.files: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        if self.held and sum(t.nbytes for t in self.held.values()) + tensor.nbytes > _SHARD:
            self._flush()
        self.held[name] = tensor.detach().clone().contiguous()

    def _flush(self) -> None:
        from safetensors.torch import save_file

        save_file(self.held, self.folder / f"part-{len(self.files)}", metadata={"format": "pt"})
        self.files.append(list(self.held))
        self.held = {}

    def close(self) -> None:
        """Give the files their names: only now their number is known."""
        self._flush()
        count = len(self.files)
        names = [f"model-{i:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
                 for i in range(1, count + 1)]  # fmt: skip
        for number, name in enumerate(names):
            (self.folder / f"part-{number}").replace(self.folder / name)
        if count > 1:
            places = {tensor: name for name, held in zip(names, self.files, strict=True) for tensor in held}
            index = {"metadata": {}, "weight_map": places}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
