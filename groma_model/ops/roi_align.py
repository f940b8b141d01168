"""RoIAlign (He et al. 2017) with half-pixel alignment and averaging, defined once in plain PyTorch.

Every output bin is a weighted sum of a few map pixels, so the whole operation is one `embedding_bag` over the map read
as a table of pixels: no loop over boxes, nothing but the output is stored, differentiable with respect to the map.
Boxes may have negative size (the bins then run backwards), as in the CUDA kernels of mmcv and torchvision.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(features: Tensor, boxes: Tensor, image_index: Tensor, size: int, sampling_ratio: int) -> Tensor:
    """Average-pool ``sampling_ratio`` x ``sampling_ratio`` bilinear samples in each of ``size`` x ``size`` bins.

    The centre of pixel (i, j) of the map lies at (j + 0.5, i + 0.5). A sample at most one pixel beyond the
    outermost centres takes the border's value; farther out it is 0.

    Args:
        features: (B, C, H, W) floating point map.
        boxes: (R, 4) xyxy in pixels of this map; a side may be negative.
        image_index: (R,) int64, the image of each box.

    Returns:
        (R, C, size, size) in the map's dtype, computed in at least float32. On the CPU its memory is channels-last.
    """
    working = torch.promote_types(features.dtype, torch.float32)
    # torchvision's kernel adds gradients in no fixed order, so it stays out where determinism is asked for.
    deterministic = torch.are_deterministic_algorithms_enabled()
    if features.is_cuda and working is torch.float32 and not deterministic and _has_torchvision():
        rois = torch.cat([image_index[:, None].to(working), boxes.to(working)], 1)
        pooled = _torchvision_roi_align(features.to(working), rois, size, sampling_ratio)
    else:
        pooled = roi_align_reference(features.to(working), boxes, image_index, size, sampling_ratio)
    return pooled.to(features.dtype)


def roi_align_reference(features: Tensor, boxes: Tensor, image_index: Tensor, size: int, sampling_ratio: int) -> Tensor:
    """The plain definition of :func:`roi_align`, on any device; ``features`` in float32 or float64."""
    channels, height, width = features.shape[1:]
    boxes = boxes.to(features.dtype)
    columns, column_weights = _axis_taps(boxes[:, 0], boxes[:, 2], width, size, sampling_ratio)
    rows, row_weights = _axis_taps(boxes[:, 1], boxes[:, 3], height, size, sampling_ratio)
    # (R, bin y, bin x, tap y, tap x): the pixel's row in the table and its weight in the bin.
    pixels = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    pixels = pixels + (image_index * (height * width))[:, None, None, None, None]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = rows.shape[-1] ** 2
    pooled = F.embedding_bag(pixels.reshape(-1, taps), table, mode="sum", per_sample_weights=weights.reshape(-1, taps))
    return pooled.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def _axis_taps(start: Tensor, end: Tensor, extent: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Pixel indices and weights along one axis: two (R, size, 2 * samples) tensors, int64 and floating point."""
    steps = (torch.arange(size * samples, device=start.device, dtype=start.dtype) + 0.5) / (size * samples)
    position = (start - 0.5)[:, None] + (end - start)[:, None] * steps
    inside = (position >= -1) & (position <= extent)
    position = position.clamp(0, extent - 1)
    low = position.floor()
    high = (low + 1).clamp(max=extent - 1)
    fraction = position - low
    share = inside.to(start.dtype) / samples
    index = torch.stack([low, high], -1).long().view(len(start), size, 2 * samples)
    weight = torch.stack([(1 - fraction) * share, fraction * share], -1).view(len(start), size, 2 * samples)
    return index, weight


def _torchvision_roi_align(features: Tensor, rois: Tensor, size: int, sampling_ratio: int) -> Tensor:
    # The compiled operator itself: torchvision's Python function may switch to an own Python version, which reads the
    # border's value however far outside the map a sample lies.
    return torch.ops.torchvision.roi_align(features, rois, 1.0, size, size, sampling_ratio, True)


@cache
def _has_torchvision() -> bool:
    """Whether torchvision's compiled operators can be loaded (a mismatched build counts as absent)."""
    try:
        import torchvision  # noqa: F401 - registers the operators
    except (ImportError, RuntimeError):
        return False
    return hasattr(torch.ops.torchvision, "roi_align")
