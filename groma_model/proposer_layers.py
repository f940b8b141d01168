"""Layers of the region proposer: deformable attention, the encoder and decoder layer, heads and encodings.

Shapes, arithmetic and initial values are those of Deformable-DETR (Zhu et al. 2021). They are written out here, and
not taken from transformers, because the signatures of its layers change between 5.x releases and because every feature
level of Groma lies on the same grid, which needs no level bookkeeping.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groma_model.ops.deformable_attention import deformable_sample


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x``, clamped so that it stays finite; in float32."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _sine(positions: Tensor, width: int) -> Tensor:
    """Interleaved sin/cos features, temperature 10000, of positions (radians): ``(...)`` to ``(..., width)``."""
    index = torch.arange(width, device=positions.device, dtype=torch.float32)
    frequencies = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / width)
    angles = positions[..., None].float() / frequencies
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


def box_encoding(boxes: Tensor, width: int) -> Tensor:
    """Sine features of cxcywh boxes in [0, 1]: ``(..., 4)`` to float32 ``(..., 4 * width)``."""
    return _sine(boxes.float() * 2 * math.pi, width).flatten(-2)


@lru_cache(maxsize=32)
def grid_encodings(side: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What depends on the grid alone, row-major: float32 position encoding ``(N, width)`` and cell centres ``(N, 2)``.

    The encoding has the row's features first, then the column's; centres are (x, y) fractions of the image.
    """
    # Tensors born in inference mode could not serve a later training step, so the cache never holds any.
    with torch.inference_mode(False), torch.no_grad():
        cells = torch.arange(side, device=device, dtype=torch.float32) + 0.5
        features = _sine(cells / (side + 1e-6) * 2 * math.pi, width // 2)
        rows = features[:, None].expand(side, side, -1)
        columns = features[None].expand(side, side, -1)
        y, x = torch.meshgrid(cells / side, cells / side, indexing="ij")
        return torch.cat([rows, columns], -1).flatten(0, 1), torch.stack([x, y], -1).flatten(0, 1)


class InputProjection(nn.Module):
    """1x1 convolution and LayerNorm over channels, on tokens: ``(B, N, C)`` to ``(B, N, dim)``."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 1)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(F.linear(tokens, self.conv.weight.flatten(1), self.conv.bias))


class BoxHead(nn.Module):
    """Three-layer perceptron from a query to four box logits (differences to a reference box)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x).float()


class DeformableAttention(nn.Module):
    """Multi-head attention to a few sampled points around a reference (Zhu et al. 2021, section 4.1)."""

    def __init__(self, dim: int, heads: int, levels: int, points: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"proposer_dim {dim} is not divisible by proposer_heads {heads}")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def reset_parameters(self) -> None:
        """Point ``p`` of head ``h`` starts ``p + 1`` cells away in the head's own direction, with equal weights."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]  # H 1 P 2
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, tokens: Tensor, references: Tensor, side: int) -> Tensor:
        """``queries (B, Q, dim)`` (with positions) look at ``tokens (B, L * side**2, dim)`` around ``references``.

        ``references`` (..., Q, 2) are points: offsets count in cells. (..., Q, 4) are cxcywh boxes: offsets count in
        half-widths and half-heights divided by the number of points.
        """
        split = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (*split, 2))
        weights = self.attention_weights(queries).float().unflatten(-1, (self.heads, self.levels * self.points))
        weights = weights.softmax(-1).unflatten(-1, split[1:])
        references = references.float()[..., None, None, None, :]
        if references.shape[-1] == 2:
            locations = references + offsets / side
        else:
            locations = references[..., :2] + offsets / self.points * references[..., 2:] * 0.5
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        return self.output_proj(deformable_sample(value, locations, weights, side))


class SelfAttention(nn.Module):
    """Multi-head attention among the queries; the position enters queries and keys, not values."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        with_position = x + position
        q, k, v = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.q_proj, with_position), (self.k_proj, with_position), (self.v_proj, x))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Deformable self-attention over the grid and a feed-forward network, each followed by LayerNorm."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads, levels, points)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, references: Tensor, side: int) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x + position, x, references, side)))
        return self.final_layer_norm(x + self.dropout(self.fc2(F.relu(self.fc1(x)))))


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the grid, feed-forward network; LayerNorm after each."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = DeformableAttention(dim, heads, levels, points)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, tokens: Tensor, references: Tensor, side: int) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, position)))
        x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x + position, tokens, references, side)))
        return self.final_layer_norm(x + self.dropout(self.fc2(F.relu(self.fc1(x)))))
