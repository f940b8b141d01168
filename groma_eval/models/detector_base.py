"""What the adapters of open-vocabulary detectors share: a phrase in, boxes with scores out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from groma_eval.box_formats import Canvas, to_unit
from groma_eval.core import Box, Decoding, Prediction
from groma_eval.frames import Frame
from groma_eval.models.transformers_base import BATCH, Ask, TransformersAdapter

if TYPE_CHECKING:
    import torch

Detections = tuple["torch.Tensor", "torch.Tensor"]  # boxes cxcywh [N, 4] in the declared frame, scores [N]


class Detector(TransformersAdapter):
    """A detector: ``ground_one`` is its surest box, ``ground_all`` every box whose score exceeds ``threshold``, surest
    first."""

    settings: ClassVar[Mapping[str, float | None]] = {"batch": BATCH, "threshold": 0.25}

    def detect(self, asks: Sequence[Ask]) -> list[Detections]:
        """All candidates for every ask; what else is in the batch does not change them."""
        raise NotImplementedError

    def ask(self, asks: Sequence[Ask], decoding: Decoding) -> list[Prediction]:
        """See the base class; ``decoding`` is of text and does not matter here."""
        import torch

        with torch.inference_mode():
            found = self.detect(asks)
        return [self._prediction(ask, *detections) for ask, detections in zip(asks, found, strict=True)]

    def _prediction(self, ask: Ask, boxes: Any, scores: Any) -> Prediction:
        order = scores.float().argsort(descending=True, stable=True).tolist()
        if ask.question.kind == "ground_one":
            order = order[:1]
        else:
            order = [i for i in order if float(scores[i]) > self.setting["threshold"]]
        return Prediction(
            ask.question.id,
            boxes=[self._box(boxes[i].tolist(), ask.canvas) for i in order],
            confidences=[float(scores[i]) for i in order],
            prompt=ask.prompt,
        )

    def _box(self, numbers: Sequence[float], canvas: Canvas) -> Box:
        corners = Frame("0-1", "cxcywh").to_unit(numbers, canvas.width, canvas.height)
        return to_unit(self.declared.frame, corners, canvas)
