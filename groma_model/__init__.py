"""Groma: a multimodal language model that answers by pointing at regions (arXiv 2404.13013)."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Detector", "Groma", "GromaConfig", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import groma_model` (for boxes, say) does not load transformers.
    if name == "Groma":
        from groma_model.generation import Groma

        return Groma
    if name == "Detector":
        from groma_model.detection import Detector

        return Detector
    if name == "GromaConfig":
        from groma_model.configuration import GromaConfig

        return GromaConfig
    raise AttributeError(f"module 'groma_model' has no attribute {name!r}")
