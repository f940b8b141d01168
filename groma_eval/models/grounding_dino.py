"""Grounding DINO (Liu et al., 2023) and MM-Grounding-DINO (Zhao et al., 2024): a phrase's boxes with confidences."""

from __future__ import annotations

from collections.abc import Sequence

from groma_eval.models.detector_base import Detections, Detector
from groma_eval.models.transformers_base import BATCH, Ask, batches


class GroundingDino(Detector):
    """See :class:`~groma_eval.models.detector_base.Detector`. A box's score is its best match with a token of the
    phrase, as in the model's own post-processing."""

    def prepare_parts(self) -> None:
        """Compose the processor."""
        from transformers import GroundingDinoProcessor

        self.processor = GroundingDinoProcessor(self.image_processor, self.tokenizer)

    def detect(self, asks: Sequence[Ask]) -> list[Detections]:
        """See the base class. Only pictures of equal size share a batch: padding would change the boxes a little."""
        found: dict[int, Detections] = {}
        for indices in batches([ask.image.size for ask in asks], int(self.setting["batch"] or BATCH)):
            inputs = self.processor(
                images=[asks[i].image for i in indices],
                text=[_phrase(asks[i].prompt) for i in indices],
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            outputs = self.model(**inputs)
            scores = outputs.logits.float().sigmoid().amax(dim=-1)
            for row, index in enumerate(indices):
                found[index] = (outputs.pred_boxes[row].float().cpu(), scores[row].cpu())
        return [found[index] for index in range(len(asks))]


def _phrase(prompt: str) -> str:
    """In lower case, ending in one full stop: the text that the model was trained on; inner ones part phrases."""
    return prompt.lower().strip().rstrip(".").replace(".", " ") + "."
