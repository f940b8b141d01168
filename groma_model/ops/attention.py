"""Attention as the wrapped transformers layers call it, and its form for packed sequences.

A packed sequence is a prefix (the image) followed by rows; a row holds whole blocks (questions). A block sees the
prefix and itself, so scores are computed against the prefix and within each row only: for T positions, a prefix of P
and rows of C that is T x (P + C) instead of T x T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

if TYPE_CHECKING:
    from groma_model.ops.tree_attention import TreeStep

#: The name under which the layers find :func:`attention`.
NAME = "groma"
#: The same function for steps behind shared prefixes, where the layers otherwise call another implementation.
TREE_NAME = "groma_tree"


@dataclass
class PackedMask:
    """What is visible in B packed sequences of T = P + R * C positions, additive (0 or the dtype's minimum).

    ``prefix``: (B, 1, T, P), every position against the prefix. ``rows``: (B, 1, R, C, C), within each row.
    """

    prefix: Tensor
    rows: Tensor


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: PackedMask | None = None,
    tree: TreeStep | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention on (B, H, T, d), returned as (B, T, H, d) (transformers' attention interface).

    ``packed`` takes the place of ``attention_mask`` for packed sequences, ``tree`` for a step behind shared prefixes.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if tree is not None:
        out = tree.attend(module.layer_idx, query, key, value, scale)
    elif packed is not None:
        out = packed_attention(query, *_repeated(query, key, value), packed, scale)
    else:
        out = dense_attention(query, key, value, attention_mask, scale, dropout if module.training else 0.0)
    return out.transpose(1, 2), None


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """Attention under an additive mask that broadcasts to (B, H, T, S); all (B, H, T or S, d), fewer heads of keys."""
    key, value = _repeated(query, key, value)
    if value.device.type == "cpu" and value.dtype is torch.bfloat16 and not dropout:
        # Plain products: torch's fused kernel for bfloat16 on the CPU is slower than its one for float32.
        scores = (query * scale) @ key.transpose(-1, -2)
        return torch.softmax(scores if mask is None else scores + mask, -1) @ value
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values for every head of the query."""
    groups = query.shape[1] // key.shape[1]
    return (key, value) if groups == 1 else (key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))


def packed_attention(query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, scale: float) -> Tensor:
    """Attention of packed sequences, (B, H, T, d) each; equals attention under the dense mask."""
    batch, heads, _, dim = query.shape
    start, (count, width) = mask.prefix.shape[-1], mask.rows.shape[2:4]
    query = query * scale
    prefix_value = value[:, :, :start]
    scores = query @ key[:, :, :start].transpose(-1, -2) + mask.prefix
    prefix = torch.softmax(scores[:, :, :start], -1) @ prefix_value

    def rows(x: Tensor) -> Tensor:
        return x[:, :, start:].reshape(batch, heads, count, width, dim)

    own = rows(query) @ rows(key).transpose(-1, -2) + mask.rows
    flat = (batch, heads, count * width)
    shares = torch.softmax(torch.cat([scores[:, :, start:], own.reshape(*flat, width)], -1), -1)
    within = shares[..., start:].reshape(batch, heads, count, width, width) @ rows(value)
    return torch.cat([prefix, shares[..., :start] @ prefix_value + within.reshape(*flat, dim)], 2)


AttentionInterface.register(NAME, attention)
AttentionInterface.register(TREE_NAME, attention)
