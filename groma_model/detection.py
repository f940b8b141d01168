"""Region proposals alone: a detector's checkpoint (stage 1, without a language model) behind a simple interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from groma_model.boxes import clip
from groma_model.checkpoints import checkpoint_digest, load_detector, resolve_checkpoint
from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForRegionProposal
from groma_model.processing import image_pixels
from groma_model.proposer import ProposerOutput


@dataclass(frozen=True)
class Detections:
    """What was found in an image of ``width`` x ``height`` pixels, on the CPU, best first.

    ``boxes`` (R, 4) and ``objectness`` (R,) after threshold, suppression and cut; ``proposals`` (Q, 4) and
    ``proposal_scores`` (Q,) before. Boxes are xyxy, normalised to the image.
    """

    width: int
    height: int
    boxes: Tensor
    objectness: Tensor
    proposals: Tensor
    proposal_scores: Tensor


def ranked_proposals(output: ProposerOutput, index: int, config: GromaConfig) -> tuple[Tensor, Tensor]:
    """All proposals of one image of a batch, on the CPU, best first: boxes (Q, 4) xyxy normalised, scores (Q,)."""
    ranked = output.score[index].float().cpu().sort(descending=True, stable=True)
    boxes = output.boxes[index].float().cpu()[ranked.indices]
    return boxes if config.region_selection == "released" else clip(boxes), ranked.values


class Detector:
    """A loaded image encoder and region proposer."""

    def __init__(self, model: GromaForRegionProposal, checkpoint_hash: str = ""):
        self.model = model.eval()
        self.config: GromaConfig = model.config
        self.checkpoint_hash = checkpoint_hash

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
    ) -> Detector:
        """Load a released detector (groma-det-pretrain): a folder or a hub id.

        Raises:
            ValueError: one line, when it is none or does not fit its own configuration.
        """
        folder = resolve_checkpoint(name)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_detector(folder, dtype, device), checkpoint_digest(folder))

    @property
    def num_parameters(self) -> int:
        """All parameters, each counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @torch.inference_mode()
    def perceive_batch(self, images: Sequence[Image.Image], resize: str = "pil") -> list[Detections]:
        """Pictures in one batch. ``resize``: see :func:`groma_model.processing.image_pixels`."""
        if not images:
            return []
        pixels = image_pixels(images, self.config, resize).to(self.model.device, self.model.dtype)
        _, proposals, selections = self.model.propose(pixels)
        return [
            Detections(
                image.width,
                image.height,
                selection.boxes.float().cpu(),
                selection.scores.float().cpu(),
                *ranked_proposals(proposals, i, self.config),
            )
            for i, (image, selection) in enumerate(zip(images, selections, strict=True))
        ]
