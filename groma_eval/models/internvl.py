"""InternVL 2.5 to 3.5 in transformers' own form: the picture in tiles, boxes 0-1000 within <box>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groma_eval.models.transformers_base import Ask, ChatGenerator


class InternVL(ChatGenerator):
    """See :class:`~groma_eval.models.transformers_base.ChatGenerator`.

    Its own processor would need torchvision for the video half, so tokens and tiles are put together here.
    """

    def prepare_parts(self) -> None:
        """Look up the tokens around a picture."""
        self.image_token = self.tokenizer.context_image_token
        self.start, self.end = self.tokenizer.start_image_token, self.tokenizer.end_image_token

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """See the base class."""
        pictures = self.image_processor(images=[ask.image for ask in asks], crop_to_patches=True, return_tensors="pt")
        length = self.model.config.image_seq_length
        texts = []
        for ask, tiles in zip(asks, pictures["num_patches"], strict=True):
            tokens = self.start + self.image_token * (length * int(tiles)) + self.end
            texts.append(self.chat(ask).replace(self.image_token, tokens, 1))
        encoded = self.tokenized(texts)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "pixel_values": pictures["pixel_values"],
        }
