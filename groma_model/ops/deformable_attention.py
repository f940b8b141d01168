"""Deformable attention's sampling (Zhu et al. 2021, eq. 2 and 3), in plain PyTorch.

All feature levels of this model lie on one square grid, so the levels fold into the batch and a single
``grid_sample`` serves them all. Sampling runs in float32 whatever the model's dtype: a location in bfloat16 is
off by up to a pixel on a 224-wide grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def deformable_sample(value: Tensor, locations: Tensor, weights: Tensor, side: int) -> Tensor:
    """Weighted sum of bilinear samples, one set of points for every query, head and level.

    Args:
        value: ``(B, L * side * side, H, D)`` projected features, level by level, each row-major.
        locations: ``(B, Q, H, L, P, 2)`` points (x, y), as fractions of the grid; outside it, features are 0.
        weights: ``(B, Q, H, L, P)`` attention weights, adding up to 1 over the last two axes.
        side: cells along a side of the grid.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.
    """
    batch, queries, heads, levels, points, _ = locations.shape
    maps = value.unflatten(1, (levels, side * side)).permute(0, 3, 1, 4, 2)  # B H L D N
    maps = maps.reshape(batch * heads * levels, -1, side, side).float()
    grid = (2 * locations.float() - 1).permute(0, 2, 3, 1, 4, 5).reshape(batch * heads * levels, queries, points, 2)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # BHL D Q P
    weights = weights.float().permute(0, 2, 3, 1, 4).reshape(batch * heads * levels, 1, queries, points)
    pooled = (sampled * weights).sum(-1).unflatten(0, (batch, heads, levels))
    pooled = pooled.squeeze(2) if levels == 1 else pooled.sum(2)  # B H D Q
    return pooled.flatten(1, 2).transpose(1, 2).to(value.dtype)
