"""Kosmos-2 (Peng et al., 2023): phrases and boxes as tokens of a 32 x 32 grid of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from groma_eval.models.transformers_base import Ask, Generator


class Kosmos2(Generator):
    """See :class:`~groma_eval.models.transformers_base.Generator`. The picture is squeezed to a square, so that the
    grid covers all of it.

    Prompts of different lengths never share a batch: transformers counts the padding among a later token's positions.
    """

    pads: ClassVar[bool] = False

    def prepare_parts(self) -> None:
        """Compose the processor; it adds the tokens of the grid to the tokenizer."""
        from transformers import Kosmos2Processor

        self.tokenizer.padding_side = "left"
        self.processor = Kosmos2Processor(self.image_processor, self.tokenizer)

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """See the base class."""
        return dict(
            self.processor(
                images=[ask.image for ask in asks],
                text=[ask.prompt for ask in asks],
                num_image_tokens=self.model.config.latent_query_num,
                padding=True,
                return_tensors="pt",
            )
        )
