"""Florence-2 (Xiao et al., 2024): tasks by prompt, boxes as tokens of 1000 bins a side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.models.transformers_base import Ask, Generator


class Florence2(Generator):
    """See :class:`~groma_eval.models.transformers_base.Generator`. Its processor spells the task tokens of the prompts
    out as sentences."""

    emits_prompt = False

    def prepare_parts(self) -> None:
        """Compose the processor."""
        from transformers import Florence2Processor

        self.processor = Florence2Processor(image_processor=self.image_processor, tokenizer=self.tokenizer)

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """See the base class."""
        self.tokenizer.padding_side = "right"
        return dict(
            self.processor(
                images=[ask.image for ask in asks],
                text=[ask.prompt for ask in asks],
                padding=True,
                return_tensors="pt",
            )
        )
