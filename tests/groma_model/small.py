"""A random-weight Groma small enough to build in a test. Imported by test modules as ``from small import ...``."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from groma_model.configuration import preset
from groma_model.generation import Groma
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor, train_tokenizer

TEXTS = [
    "user: assistant: ok locate all the red circle at the top left describe [grounding] the image.",
    "a small red striped circle is left of two blue stars. what color is it? how many? yes no",
]


def small_groma(seed: int = 0, **overrides) -> Groma:
    """Preset ``nano`` with random weights; every proposal is kept unless ``score_threshold`` is given."""
    torch.manual_seed(seed)
    config = preset("nano", **({"score_threshold": 0.0} | overrides))
    processor = GromaProcessor(train_tokenizer(TEXTS, config), config)
    return Groma(GromaForConditionalGeneration(config), processor)


def picture(seed: int = 0, width: int = 150, height: int = 100) -> Image.Image:
    """Noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)
