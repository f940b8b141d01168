"""Loading checkpoints of transformers models, with the PIL image processors: nothing needs torchvision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.models.adapters import Declared
from groma_eval.models.transformers_base import ChatGenerator, Parts, TransformersAdapter
from groma_eval.provenance import file_hash, short_hash

_DTYPES = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16",
}  # fmt: skip


def load_adapter(
    adapter: type[TransformersAdapter],
    declared: Declared,
    checkpoint: str | None,
    *,
    name: str,
    device: str | None,
    dtype: str | None,
    model_args: Mapping[str, str] | None,
) -> TransformersAdapter:
    """The adapter of a folder or hub id (None: the declared one).

    Raises:
        HarnessError: no such checkpoint, one of another kind, or a device, dtype or setting that is not to be had.
    """
    settings = read_settings(name, model_args or {}, adapter.settings)
    source = checkpoint or declared.checkpoint
    place = chosen_device(device)
    try:
        parts, content = _load_parts(source, declared, place, chosen_dtype(dtype, place))
    except HarnessError:
        raise
    except Exception as error:  # each of the libraries has errors of its own for a broken file
        raise HarnessError(f"model {name!r}: {_first_line(error)}") from error
    if issubclass(adapter, ChatGenerator) and parts.chat_template is None:
        raise HarnessError(f"model {name!r}: the checkpoint has no chat template (chat_template.jinja)")
    return adapter(declared, parts, name=name, checkpoint=source, content=content, settings=settings)


def _load_parts(source: str, declared: Declared, device: str, dtype: Any) -> tuple[Parts, str]:
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    config = AutoConfig.from_pretrained(source)
    if config.model_type not in declared.model_types:
        raise HarnessError(
            f"model '{declared.name}:{source}': its config.json says {config.model_type!r}, "
            f"not {' or '.join(declared.model_types)}"
        )
    detector = declared.box_format == "cxcywh"
    auto = transformers.AutoModelForZeroShotObjectDetection if detector else transformers.AutoModelForImageTextToText
    model, report = auto.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    template = getattr(tokenizer, "chat_template", None) or _chat_template(source)
    missing = len(report["missing_keys"]) + len(report["mismatched_keys"])
    parts = Parts(model.to(device), tokenizer, image_processor, template, missing)
    return parts, _content(source, config)


def _chat_template(source: str) -> str | None:
    """The template that some checkpoints keep beside the tokenizer's files."""
    from transformers.utils import cached_file

    for file in ("chat_template.jinja", "chat_template.json"):
        path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            text = Path(path).read_text(encoding="utf-8")
            return text if file.endswith(".jinja") else json.loads(text)["chat_template"]
    return None


def _content(source: str, config: Any) -> str:
    """A hash of the checkpoint: of its files in a folder, of the hub's commit otherwise."""
    folder = Path(source)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja"))
        return short_hash([(path.name, file_hash(path)) for path in files])
    return short_hash([source, getattr(config, "_commit_hash", None)])


def read_settings(
    name: str, model_args: Mapping[str, str], known: Mapping[str, float | None]
) -> dict[str, float | None]:
    """``--model-args`` as numbers: ``threshold`` from 0 to 1, all others whole and above 0."""
    settings: dict[str, float | None] = {}
    for key, text in model_args.items():
        if key not in known:
            raise HarnessError(f"model {name!r} has no --model-args {key!r}; it has {', '.join(known)}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if key == "threshold":
            fits, wanted = 0 <= value <= 1, "a number from 0 to 1"
        else:
            fits, wanted = value >= 1 and value == round(value) if math.isfinite(value) else False, "a whole number > 0"
        if not fits:
            raise HarnessError(f"--model-args {key}={text}: must be {wanted}")
        settings[key] = value
    return settings


def chosen_device(device: str | None) -> str:
    """The device as given, else a GPU where there is one; HarnessError where it is not to be had."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise HarnessError(f"--device {device!r} is none; use cpu, cuda or cuda:NUMBER") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise HarnessError(f"--device {device}: no CUDA device here; use cpu")
    return device


def chosen_dtype(dtype: str | None, device: str) -> Any:
    """The dtype as given, else the checkpoint's own on a GPU and float32 on a CPU."""
    import torch

    if dtype is None:
        return torch.float32 if device == "cpu" else "auto"
    if dtype not in _DTYPES:
        raise HarnessError(f"--dtype {dtype!r} is none; use one of {', '.join(_DTYPES)}")
    return getattr(torch, _DTYPES[dtype])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
