"""Importing this module teaches transformers' AutoConfig, AutoModel and AutoProcessor to load Groma checkpoints."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor

AutoConfig.register(GromaConfig.model_type, GromaConfig, exist_ok=True)
AutoModel.register(GromaConfig, GromaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(GromaConfig, GromaProcessor, exist_ok=True)
