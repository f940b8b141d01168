"""Greedy non-maximum suppression, one definition for a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

from groma_model.boxes import iou_matrix


def greedy_keep(overlaps: Tensor, candidates: Tensor) -> Tensor:
    """Which candidates survive greedy suppression, best first.

    Args:
        overlaps: (B, N, N) bool, ``overlaps[b, i, j]`` says that candidate i, if kept, suppresses a later j. The
            candidates of an image are ordered from best to worst.
        candidates: (B, N) bool, False for padding and for candidates that take no part.

    Returns:
        (B, N) bool on the device of ``candidates``.
    """
    # The loop is sequential by nature, so it runs over rows of small numpy arrays: one transfer, no kernel launches.
    suppresses = overlaps.cpu().numpy()
    keep = candidates.cpu().numpy().copy()
    for i in range(keep.shape[1] - 1):
        keep[:, i + 1 :] &= ~(suppresses[:, i, i + 1 :] & keep[:, i, None])
    return torch.from_numpy(keep).to(candidates.device)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes kept by class-agnostic NMS, by falling score (equal scores in input order).

    A box is dropped where its IoU with a kept better one is strictly above ``threshold``.

    Args:
        boxes: (N, 4) xyxy in any one frame. scores: (N,).

    Returns:
        (K,) int64.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order].float()
    overlaps = iou_matrix(ranked, ranked) > threshold
    everyone = torch.ones(1, len(order), dtype=torch.bool, device=boxes.device)
    return order[greedy_keep(overlaps[None], everyone)[0]]
