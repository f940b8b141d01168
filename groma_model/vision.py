"""The image encoder: pixels to patch tokens of every layer, and the 2x2 token merge (paper Sec. 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, Dinov2Model

from groma_model.configuration import GromaConfig
from groma_model.ops.attention import NAME as ATTENTION


class ImageEncoder(nn.Module):
    """DINOv2 (or CLIP's vision tower, for the ablation) read as a stack of patch-token maps.

    The wrapped transformers model provides the parameters and the layers; the position grid is resampled here, so that
    its arithmetic is the configuration's and not that of the installed library.
    """

    def __init__(self, config: GromaConfig):
        super().__init__()
        self.is_clip = config.vision_config.model_type == "clip_vision_model"
        self.position_interpolation = config.position_interpolation
        config.vision_config._attn_implementation = ATTENTION
        self.model = (CLIPVisionModel if self.is_clip else Dinov2Model)(config.vision_config)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Hidden states of the embedding and of each layer, without the class token and before the final LayerNorm.

        Args:
            pixel_values: (B, 3, S, S), normalised by the configuration's mean and deviation.

        Returns:
            ``num_hidden_layers + 1`` tensors (B, N, C); N = (S / patch size) ** 2 patches in row-major order.
        """
        states = self._embed_clip(pixel_values) if self.is_clip else self._embed_dinov2(pixel_values)
        hidden = [states]
        for layer in self._layers():
            states = layer(states, None)
            hidden.append(states)
        return [states[:, 1:] for states in hidden]

    def _layers(self) -> nn.ModuleList:
        return self.model.encoder.layers if self.is_clip else self.model.encoder.layer

    def _embed_dinov2(self, pixel_values: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        projection = embeddings.patch_embeddings.projection
        grid, patches = _as_tokens(projection(pixel_values.to(projection.weight.dtype)))
        tokens = torch.cat([embeddings.cls_token.expand(len(patches), -1, -1), patches], 1)
        positions = interpolate_positions(embeddings.position_embeddings[0], grid, self.position_interpolation)
        return embeddings.dropout(tokens + positions)

    def _embed_clip(self, pixel_values: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        projection = embeddings.patch_embedding
        grid, patches = _as_tokens(projection(pixel_values.to(projection.weight.dtype)))
        tokens = torch.cat([embeddings.class_embedding.expand(len(patches), 1, -1), patches], 1)
        positions = interpolate_positions(embeddings.position_embedding.weight, grid, self.position_interpolation)
        return self.model.pre_layrnorm(tokens + positions)


def _as_tokens(maps: Tensor) -> tuple[int, Tensor]:
    return maps.shape[-1], maps.flatten(2).transpose(1, 2)


def interpolate_positions(positions: Tensor, grid: int, method: str) -> Tensor:
    """Resample a square grid of position embeddings bicubically, in float32.

    Args:
        positions: (1 + P * P, C), the class token's first. grid: the wanted side.
        method: ``"size"`` resamples to exactly ``grid``; ``"scale_factor"`` passes the factor (grid + 0.1) / P, as
            transformers 4.32 did, which samples at slightly different places.

    Returns:
        (1 + grid * grid, C); ``positions`` itself where the grids are equal.
    """
    side = math.isqrt(len(positions) - 1)
    if side == grid:
        return positions
    source = positions[1:].float().T.reshape(1, -1, side, side)
    if method == "scale_factor":
        factor = (grid + 0.1) / side
        resized = F.interpolate(source, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
    else:
        resized = F.interpolate(source, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T.to(positions.dtype)])


def merge_tokens(tokens: Tensor) -> Tensor:
    """Concatenate each 2x2 neighbourhood's channels: (B, N, C) -> (B, N / 4, 4 C), both row-major over a square grid.

    Channels are ordered as in the released model: (even row, even column), (odd, even), (even, odd), (odd, odd).

    Raises:
        ValueError: where the grid is not square with an even side.
    """
    batch, count, channels = tokens.shape
    side = math.isqrt(count)
    if side * side != count or side % 2:
        raise ValueError(f"{count} image tokens cannot be merged two by two: the grid must be square with an even side")
    blocks = tokens.reshape(batch, side // 2, 2, side // 2, 2, channels)
    return blocks.permute(0, 1, 3, 4, 2, 5).reshape(batch, count // 4, 4 * channels)
