"""Qwen2.5-VL and Qwen3-VL (Bai et al., 2025): boxes as JSON, in pixels of the resized picture or 0-1000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from groma_eval.box_formats import Canvas, smart_resize
from groma_eval.models.transformers_base import BATCH, Ask, ChatGenerator

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE = "<|image_pad|>"


class QwenVL(ChatGenerator):
    """See :class:`~groma_eval.models.transformers_base.ChatGenerator`.

    Its own processor would need torchvision for the video half, so tokens and picture are put together here.
    ``min_pixels`` and ``max_pixels`` bound the size that a picture is resized to.
    """

    settings: ClassVar[Mapping[str, float | None]] = {"batch": BATCH, "min_pixels": None, "max_pixels": None}

    def prepare_parts(self) -> None:
        """Set the limits of a picture's size."""
        size = self.image_processor.size
        least, most = self.setting["min_pixels"], self.setting["max_pixels"]
        self.pixels = (int(least or size["shortest_edge"]), int(most or size["longest_edge"]))
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(_IMAGE)

    def canvas(self, image: Image) -> Canvas:
        """The original size, and the one that the image processor makes of it."""
        factor = self.image_processor.patch_size * self.image_processor.merge_size
        return Canvas(*image.size, *smart_resize(*image.size, factor, *self.pixels))

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """See the base class."""
        pictures = self.image_processor(
            images=[ask.image for ask in asks],
            size={"shortest_edge": self.pixels[0], "longest_edge": self.pixels[1]},
            return_tensors="pt",
        )
        tokens = pictures["image_grid_thw"].prod(dim=1) // self.image_processor.merge_size**2
        # Once: what a question's text holds of the token stays text of the question.
        texts = [self.chat(ask).replace(_IMAGE, _IMAGE * int(n), 1) for ask, n in zip(asks, tokens, strict=True)]
        encoded = self.tokenized(texts)
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "mm_token_type_ids": (encoded["input_ids"] == self.image_token_id).int(),
            "pixel_values": pictures["pixel_values"],
            "image_grid_thw": pictures["image_grid_thw"],
        }
