"""PaliGemma and PaliGemma 2 (Beyer et al., 2024; Steiner et al., 2024): tasks by prefix, boxes as location tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.models.transformers_base import Ask, Generator


class PaliGemma(Generator):
    """See :class:`~groma_eval.models.transformers_base.Generator`. The prompts are those of the mix checkpoints."""

    def prepare_parts(self) -> None:
        """Compose the processor; it adds the location tokens where the tokenizer lacks them."""
        from transformers import PaliGemmaProcessor

        if not hasattr(self.image_processor, "image_seq_length"):
            self.image_processor.image_seq_length = self.model.config.text_config.num_image_tokens
        self.processor = PaliGemmaProcessor(image_processor=self.image_processor, tokenizer=self.tokenizer)

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """See the base class."""
        self.tokenizer.padding_side = "left"
        encoded = self.processor(
            images=[[ask.image] for ask in asks],
            text=[f"{self.processor.image_token}{ask.prompt}" for ask in asks],
            padding=True,
            return_tensors="pt",
        )
        return {key: value for key, value in encoded.items() if key != "labels"}
