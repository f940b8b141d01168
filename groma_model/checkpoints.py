"""Finding, reading and checking checkpoints in this project's own layout (safetensors, config.json, tokenizer)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor
from groma_model.proposer import RELEASED_NAMES as PROPOSER_NAMES
from groma_model.regions import RELEASED_NAMES as REGION_NAMES
from groma_model.vision import RELEASED_NAMES as VISION_NAMES

#: Checkpoints that ship with the package, by name.
BUNDLED = Path(__file__).parent / "checkpoints_bundled"

#: Our module -> the renaming table from released parameter names to its own.
_RELEASED_MODULES: list[tuple[str, list[tuple[str, str]]]] = [
    ("vision_encoder.", VISION_NAMES),
    ("proposer.", PROPOSER_NAMES),
    ("region_encoder.", REGION_NAMES),
    ("", [(r"img_txt_bridge\.(.+)", r"projector.\1"), (r"extra_lm_head\.(.+)", r"new_token_head.\1")]),
    ("", [(r"new_input_embs\.(.+)", r"new_token_embeddings.\1"), (r"(llm\..+)", r"\1")]),
]


def released_name(name: str) -> str | None:
    """Our name of a parameter of the released layout, None for one it does not have.

    The released files may hold the proposer's heads twice, under two names; both map to the one copy here.
    """
    for prefix, table in _RELEASED_MODULES:
        for pattern, replacement in table:
            if match := re.fullmatch(pattern, name):
                return prefix + match.expand(replacement)
    return None


#: transformers names DINOv2's attention in two ways, depending on its version; files hold the newer names.
_RENAMED = [
    (re.compile(r"\.attention\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
]


def stored_name(name: str) -> str:
    """The name under which a parameter is stored, whatever the installed transformers calls it."""
    if name.startswith("vision_encoder."):
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
    return name


def resolve_checkpoint(name: str | Path) -> Path:
    """The folder of a bundled name, a local folder, or (if it looks like one) a hub id, fetched on first use.

    Raises:
        ValueError: one line naming what was looked for.
    """
    if (BUNDLED / str(name) / "config.json").is_file():
        return BUNDLED / str(name)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is not a checkpoint: it has no config.json")
        return folder
    if str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
        except Exception as error:  # offline, missing, gated: the hub's own classes differ between versions
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name} is no folder here and could not be fetched from the hub: {reason}") from None
    bundled = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))) or "none"
    raise ValueError(f"no checkpoint {str(name)!r}: neither a folder nor bundled (bundled: {bundled})")


def load_checkpoint(
    folder: Path, dtype: torch.dtype | str | None = None
) -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    """Read model and processor, strictly: every tensor used, none missing.

    Args:
        dtype: of the parameters; float32 unless given (``"bfloat16"``, ``torch.float16``, ...).

    Raises:
        ValueError: one line naming the folder and what does not fit.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}/config.json, line {error.lineno}: not JSON ({error.msg})") from None
    if values.get("model_type") != GromaConfig.model_type or "vision_config" not in values:
        raise ValueError(
            f"{folder} is a checkpoint of another kind (model_type {values.get('model_type')!r}), "
            "not a Groma of this project"
        )
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    config = GromaConfig.from_dict(values)
    processor = GromaProcessor.from_pretrained(folder, config)
    model = GromaForConditionalGeneration(config)
    _load_tensors(model, folder)
    return model.to(dtype or torch.float32), processor


def save_checkpoint(
    model: GromaForConditionalGeneration, processor: GromaProcessor, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write config.json, model.safetensors (renamed into place when complete) and the tokenizer's files.

    The tensors keep our parameter names: transformers' own ``save_pretrained`` renames those of its sub-models
    differently from version to version.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        stored_name(name): tensor.detach()
        .to("cpu", dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors.new", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors.new").replace(folder / "model.safetensors")


def _load_tensors(model: GromaForConditionalGeneration, folder: Path) -> None:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no *.safetensors file")
    names = {stored_name(name): name for name in model.state_dict()}
    missing = set(names)
    for path in files:
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own class for a truncated file
            raise ValueError(f"{path} cannot be read: {error}") from None
        try:
            renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
            unexpected = model.load_state_dict(renamed, strict=False).unexpected_keys
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit its config.json: {str(error).splitlines()[-1].strip()}") from None
        if unexpected:
            raise ValueError(f"{path} has tensors this model does not know: {', '.join(sorted(unexpected)[:3])}, ...")
        missing -= set(tensors)
    if missing:
        raise ValueError(f"{folder} lacks tensors: {', '.join(sorted(missing)[:3])} ({len(missing)} in all)")
