"""Where a run's numbers come from: versions, hardware, and the keys that decide whether a run may be continued."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from groma_eval import leakage
from groma_eval.core import HarnessError, ModelInfo

_PACKAGES = (
    "groma-eval", "torch", "transformers", "numpy", "pillow", "pycocotools", "faster-coco-eval", "pycocoevalcap",
)  # fmt: skip


def short_hash(content: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of ``content`` as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str | None:
    """16 hexadecimal digits of the file's content, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that bear on results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Machine, core count and GPU, as far as they can be told without starting anything."""
    found: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name(0)
    return found


def describe_model(info: ModelInfo) -> dict[str, Any]:
    """A model's declaration as stored in the manifest; templates with their hashes."""
    return {
        "name": info.name,
        "size": info.size,
        "parameters": info.parameters,
        "notes": list(info.notes),
        "oracle": info.oracle,
        "checkpoint": info.checkpoint,
        "checkpoint_hash": info.checkpoint_hash,
        "capabilities": sorted(info.capabilities),
        "exposes_regions": info.exposes_regions,
        "exposes_confidences": info.exposes_confidences,
        "box_format": info.box_format,
        "frame": info.frame,
        "needs_images": info.needs_images,
        "training_data": leakage.describe(info.training_data),
        "templates": {k: {"text": t, "hash": short_hash(t)} for k, t in sorted(info.templates.items())},
    }


def check_same(stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str, folder: Path) -> None:
    """HarnessError naming every entry in which a stored key and the wanted one differ."""
    wanted = json.loads(json.dumps(wanted, default=str))
    differing = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
    if differing:
        named = "; ".join(f"{key}: {_short(stored.get(key))} there, {_short(wanted.get(key))} now" for key in differing)
        raise HarnessError(f"{folder} holds a run with another {what} ({named}); give another --out")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
