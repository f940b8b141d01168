"""Finding, reading, writing and converting checkpoints.

Two layouts are read: this project's own (safetensors under our names, config.json, tokenizer.json) and the released
one (see :mod:`groma_model.released`). Reading is strict: every tensor is used, none is missing. Tensors are taken from
their files one by one into a model that holds nothing yet, so that memory stays near the size of the parameters.
Nothing in a checkpoint is executed: ``.bin`` files are read by torch's restricted unpickler.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration, GromaForRegionProposal
from groma_model.placement import existing_device, finish, plan
from groma_model.processing import GromaProcessor
from groma_model.released import (
    detector_config,
    is_released,
    is_released_detector,
    native_config,
    native_names,
    released_config,
    released_names,
)
from groma_model.released_tokenizer import read_json, released_tokenizer

#: What a released detector's tensors are called within a whole model.
_DETECTOR_PREFIX = "perceiver."
#: Checkpoints that ship with the package, by name.
BUNDLED = Path(__file__).parent / "checkpoints_bundled"
#: The files of a released checkpoint beside its tensors; a converted checkpoint keeps them in ``released/``.
_RELEASED_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.model", "added_tokens.json",
    "special_tokens_map.json", "tokenizer_config.json",
)  # fmt: skip

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
            return Path(
                snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"])
            )
        except Exception as error:  # offline, missing, gated: the hub's own classes differ between versions
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name} is no folder here and could not be fetched from the hub: {reason}") from None
    bundled = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))) or "none"
    raise ValueError(f"no checkpoint {str(name)!r}: neither a folder nor bundled (bundled: {bundled})")


def load_checkpoint(
    folder: Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    *,
    device_map: str | Mapping[int, torch.device | str | int] | None = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
) -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    """Read model and processor of either layout, strictly: every tensor used, none missing.

    Args:
        dtype: of the parameters; float32 unless given (``"bfloat16"``, ``torch.float16``, ...). The proposer's are
            never narrower than float32: its boxes would be off by up to 1/512 of the image.
        device: where the parameters go, one by one.
        device_map, quantization, attn_implementation: see :func:`groma_model.placement.plan`.

    Raises:
        ValueError: one line naming the folder and what does not fit, or an option that is not to be had.
    """
    values = read_json(folder / "config.json")
    released = is_released(values)
    if is_released_detector(values):
        raise ValueError(f"{folder} is a detector (image encoder and region proposer), which answers no questions")
    if not released and (values.get("model_type") != GromaConfig.model_type or "vision_config" not in values):
        raise ValueError(
            f"{folder} is a checkpoint of another kind (model_type {values.get('model_type')!r}), not a Groma"
        )
    dtype = _dtype(dtype)
    if released:
        config = _released_config(folder, values)
        processor = GromaProcessor(released_tokenizer(folder, config), config)
    else:
        config = GromaConfig.from_dict(values)
        processor = GromaProcessor.from_pretrained(folder, config)
    with torch.device("meta"):
        model = GromaForConditionalGeneration(config)
    placement = plan(model, dtype, device, device_map, quantization, attn_implementation)
    _fill(model, folder, released, dtype, placement.device_of)
    finish(model, placement)
    return model, processor


def load_detector(
    folder: Path, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> GromaForRegionProposal:
    """Read a released detector (groma-det-pretrain: image encoder and proposer alone), strictly.

    ``dtype`` and ``device`` as for :func:`load_checkpoint`.

    Raises:
        ValueError: one line naming the folder and what does not fit.
    """
    values = read_json(folder / "config.json")
    if not is_released_detector(values):
        raise ValueError(f"{folder} is no detector (model_type {values.get('model_type')!r})")
    config = _released_config(folder, values)
    with torch.device("meta"):
        model = GromaForRegionProposal(config)
    place = existing_device(device)
    _fill(model, folder, True, _dtype(dtype), lambda _: place, _DETECTOR_PREFIX)
    return model


def holds_detector(folder: Path) -> bool:
    """Whether a checkpoint is to be read by :func:`load_detector` rather than :func:`load_checkpoint`."""
    return is_released_detector(read_json(folder / "config.json"))


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over the tensor files and config.json, read in pieces."""
    digest = hashlib.sha256()
    for path in [*_tensor_files(folder), folder / "config.json"]:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def _released_config(folder: Path, values: dict[str, Any]) -> GromaConfig:
    try:
        config = detector_config(values) if is_released_detector(values) else native_config(values)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    if (folder / "preprocessor_config.json").is_file():
        transform = read_json(folder / "preprocessor_config.json")
        _warn_of_resizing(transform, config.image_size)
        config.image_mean = tuple(transform.get("image_mean", config.image_mean))
        config.image_std = tuple(transform.get("image_std", config.image_std))
    return config


def _warn_of_resizing(transform: Mapping[str, Any], side: int) -> None:
    """Warn where the released chat code would see other pixels: it does what preprocessor_config.json says."""
    asked = []
    for switch, field in (("do_resize", "size"), ("do_center_crop", "crop_size")):
        size = transform.get(field)
        if transform.get(switch) and set(size.values() if isinstance(size, Mapping) else [size]) != {side}:
            asked.append(f"{field} {size!r}")
    if asked:
        warnings.warn(
            f"preprocessor_config.json asks for {' and '.join(asked)}, which the released chat code obeys; here every "
            f"picture is resized to {side} x {side}",
            stacklevel=2,
        )


def save_checkpoint(
    model: GromaForConditionalGeneration, processor: GromaProcessor, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write config.json, model.safetensors (renamed into place when complete) and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    save_model(model, folder, dtype)


def save_model(model: GromaForConditionalGeneration, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors.

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
    (folder / "model.safetensors.new").replace(folder / "model.safetensors")


def _fill(
    model: GromaForRegionProposal,
    folder: Path,
    released: bool,
    dtype: torch.dtype,
    place: Callable[[str], torch.device],
    prefix: str = "",
) -> None:
    """Give a model on the meta device its tensors, each on the device that ``place`` gives for its name.

    ``prefix`` is what the checkpoint's names lack of the released ones.
    """
    ours = {stored_name(name): name for name in model.state_dict()}
    places = native_names(ours) if released else {name: name for name in ours}
    places = {name.removeprefix(prefix): place for name, place in places.items()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = set(ours)
    for path, tensors in _shards(folder):
        found = {}
        for stored, tensor in tensors:
            if stored not in places:
                raise ValueError(f"{path} has a tensor this model does not know: {stored}")
            name = ours[places[stored]]
            if tensor.shape != shapes[name]:
                raise ValueError(
                    f"{path} does not fit its config.json: {stored} has shape {tuple(tensor.shape)}, not "
                    f"{tuple(shapes[name])}"
                )
            missing.discard(places[stored])
            kept = torch.promote_types(dtype, torch.float32) if name.startswith("proposer.") else dtype
            found[name] = torch.empty_like(tensor, dtype=kept, device=place(name)).copy_(tensor)
        model.load_state_dict(found, strict=False, assign=True)
    if missing:
        wanted = [released_names(name)[0].removeprefix(prefix) if released else name for name in sorted(missing)]
        raise ValueError(f"{folder} lacks tensors: {', '.join(wanted[:3])} ({len(missing)} in all)")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    # What no file holds: CLIP's positions, a count, and the rotary frequencies, computed when their module is built.
    for prefix, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            buffers = dict(child.named_buffers(recurse=False))
            where = place(f"{prefix}.{name}.")
            if "position_ids" in buffers:
                count = torch.arange(child.position_ids.shape[-1], device=where)
                child.register_buffer("position_ids", count[None], persistent=False)
            elif any(buffer.is_meta for buffer in buffers.values()):
                setattr(parent, name, type(child)(config=model.config.llm_config).to(where))


def _shards(folder: Path) -> Iterator[tuple[Path, Iterator[tuple[str, Tensor]]]]:
    """The tensor files of a checkpoint with their tensors, read one at a time.

    Raises:
        ValueError: there is none, one is broken, or one that its index names is missing.
    """
    files = _tensor_files(folder)
    if not files:
        raise ValueError(f"{folder} has no *.safetensors and no pytorch_model*.bin file")
    for index in folder.glob("*.index.json"):
        named = set(read_json(index).get("weight_map", {}).values())
        lost = sorted(n for n in named if not (folder / n).is_file() and n.endswith(files[0].suffix))
        if lost:
            raise ValueError(f"{folder} lacks {lost[0]}, which {index.name} names: fetch it again")
    for path in files:
        yield path, _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)


def _tensor_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except Exception as error:  # safetensors raises its own class for a truncated file
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    for name in names:
        # Opened anew: the pages that were read of a file count as this process's memory for as long as it is open.
        with safe_open(path, "pt") as file:
            yield name, file.get_tensor(name)


def _pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    from pickle import UnpicklingError

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        raise ValueError(f"{path} holds more than tensors; nothing of it was executed, and it is not read") from None
    except Exception as error:  # a broken zip file makes torch raise several classes
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"{path} is not a state dict: it must map names to tensors")
    yield from tensors.items()


def convert_checkpoint(source: Path, target: Path, layout: str) -> None:
    """Write a checkpoint in the other layout, shard by shard, every tensor bit for bit.

    Args:
        layout: ``"native"`` or ``"released"``. A native checkpoint made from a released one keeps the released files
            in ``released/`` and gives them back.

    Raises:
        ValueError: one line; nothing is left behind in ``target``.
    """
    from safetensors.torch import save_file

    if layout not in ("native", "released"):
        raise ValueError(f"layout {layout!r} is unknown; choose native or released")
    if target.exists():
        raise ValueError(f"{target} exists already: choose another folder or remove it")
    values = read_json(source / "config.json")
    released = is_released(values)
    if released == (layout == "released"):
        raise ValueError(f"{source} has the {layout} layout already")
    config = _released_config(source, values) if released else GromaConfig.from_dict(values)
    with torch.device("meta"):
        ours = {stored_name(name) for name in GromaForConditionalGeneration(config).state_dict()}
    back = native_names(dict.fromkeys(ours)) if released else {}
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if released:
            config.save_pretrained(partial)
            GromaProcessor(released_tokenizer(source, config), config).save_pretrained(partial)
            (partial / "released").mkdir()
            for name in _RELEASED_FILES:
                if (source / name).is_file():
                    shutil.copy(source / name, partial / "released" / name)
        else:
            (partial / "config.json").write_text(json.dumps(released_config(config), indent=1) + "\n")
            for path in (source / "released").glob("*"):
                shutil.copy(path, partial / path.name)
        missing, weight_map = set(ours), {}
        shards = list(_shards(source))
        for number, (path, tensors) in enumerate(shards, start=1):
            renamed: dict[str, Tensor] = {}
            for name, tensor in tensors:
                if name not in (back if released else ours):
                    raise ValueError(f"{path} has a tensor this model does not know: {name}")
                missing.discard(back[name] if released else name)
                for written in (back[name],) if released else released_names(name):
                    if written not in weight_map:
                        # A file must not hold one memory twice, so the heads' second name gets a copy.
                        renamed[written] = tensor.clone() if any(tensor is t for t in renamed.values()) else tensor
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            weight_map |= dict.fromkeys(renamed, file)
            save_file({k: t.contiguous() for k, t in renamed.items()}, partial / file, metadata={"format": "pt"})
        if missing:
            raise ValueError(f"{source} lacks tensors: {', '.join(sorted(missing)[:3])} ({len(missing)} in all)")
        if len(shards) > 1:
            index = {"metadata": {}, "weight_map": weight_map}
            (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
