"""OWLv2 (Minderer et al., 2023): a picture is encoded once, all its phrases are compared with it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from groma_eval.models.detector_base import Detections, Detector
from groma_eval.models.transformers_base import Ask


class Owlv2(Detector):
    """See :class:`~groma_eval.models.detector_base.Detector`. The picture is padded to a square, which its boxes refer
    to; phrases beyond the 16 tokens of its text encoder are cut off."""

    settings: ClassVar[Mapping[str, float | None]] = {"threshold": 0.1}  # as on its card

    def detect(self, asks: Sequence[Ask]) -> list[Detections]:
        """See the base class; phrases of a picture do not influence each other."""
        found: dict[int, Detections] = {}
        of_picture: dict[int, list[int]] = {}
        for index, ask in enumerate(asks):
            of_picture.setdefault(id(ask.image), []).append(index)
        for indices in of_picture.values():
            pixels = self.image_processor(images=asks[indices[0]].image, return_tensors="pt")["pixel_values"]
            texts = self.tokenizer(
                [asks[i].prompt for i in indices],
                padding="max_length",
                max_length=self.model.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            outputs = self.model(
                pixel_values=pixels.to(self.model.device, self.model.dtype),
                input_ids=texts["input_ids"].to(self.model.device),
                attention_mask=texts["attention_mask"].to(self.model.device),
            )
            boxes = outputs.pred_boxes[0].float().cpu()
            scores = outputs.logits[0].float().sigmoid().cpu()  # [boxes, phrases]
            for column, index in enumerate(indices):
                found[index] = (boxes, scores[:, column])
        return [found[index] for index in range(len(asks))]
