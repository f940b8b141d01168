"""Several questions behind one shared prefix in one sequence.

A block sees the prefix and itself; its positions restart where the prefix ends, so that every block computes exactly
what it would compute alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groma_model.modeling import IGNORE


@dataclass
class Turn:
    """One question with its answer.

    ``refer_regions``: region of each ``<refer_feat>`` among the ids, in order. ``weight``: of the answer's loss.
    """

    question: list[int]
    answer: list[int]
    refer_regions: list[int]
    weight: float = 1.0


@dataclass
class PackedBatch:
    """Tensors of B packed sequences; T the longest. ``segment``: 0 the prefix, k block k, -1 padding."""

    ids: Tensor  # (B, T)
    feature_index: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    segment: Tensor  # (B, T)
    labels: Tensor  # (B, T), the id each position is to predict at the *next* position, IGNORE elsewhere
    region_positions: Tensor  # (B, R) where the region tokens stand, 0 where there are fewer
    num_regions: Tensor  # (B,)
    weights: Tensor  # (B, T) loss weight of each label

    def attention_mask(self) -> Tensor:
        """Boolean (B, 1, T, T), True where visible; padding sees only itself."""
        seg = self.segment
        length = seg.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=seg.device).tril()
        shared = (seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None])
        visible = causal & shared & (seg[:, None, :] >= 0)
        visible |= torch.eye(length, dtype=torch.bool, device=seg.device)
        return visible.unsqueeze(1)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        return PackedBatch(**{k: v.to(device) for k, v in self.__dict__.items()})


def feature_indices(ids: Sequence[int], image_id: int, region_id: int, refer_id: int, num_image_tokens: int,
                    refer_regions: Sequence[int] = ()) -> list[int]:  # fmt: skip
    """Where each position's feature lies among (image tokens, region tokens); -1 for ordinary tokens."""
    result, image, region, refer = [], 0, 0, iter(refer_regions)
    for token in ids:
        if token == image_id:
            result.append(image)
            image += 1
        elif token == region_id:
            result.append(num_image_tokens + region)
            region += 1
        elif token == refer_id:
            result.append(num_image_tokens + next(refer))
        else:
            result.append(-1)
    return result


def pack(
    prefixes: Sequence[list[int]],
    dialogues: Sequence[Sequence[Sequence[Turn]]],
    placeholder_ids: tuple[int, int, int],
    num_image_tokens: int,
    pad_id: int,
    region_counts: Sequence[int],
    pointer_weight: float = 1.0,
    first_region_id: int | None = None,
) -> PackedBatch:
    """Lay out images with their dialogues (each a list of turns) as packed sequences.

    Args:
        prefixes: ids of each image's prefix.
        dialogues: for each image its dialogues; every dialogue is one block behind the prefix.
        placeholder_ids: ids of ``<image>``, ``<region>``, ``<refer_feat>``.
        region_counts: number of regions of each image.
        pointer_weight: loss weight of region tokens relative to words.
    """
    image_id, region_id, refer_id = placeholder_ids
    rows = []
    for prefix, blocks in zip(prefixes, dialogues, strict=True):
        ids, index = list(prefix), feature_indices(prefix, image_id, region_id, refer_id, num_image_tokens)
        positions, segment, labels = list(range(len(prefix))), [0] * len(prefix), [IGNORE] * len(prefix)
        weights = [1.0] * len(prefix)
        for number, turns in enumerate(blocks, start=1):
            block: list[int] = []
            block_labels: list[int] = []
            for turn in turns:
                index += feature_indices(
                    turn.question, image_id, region_id, refer_id, num_image_tokens, turn.refer_regions
                )
                index += [-1] * len(turn.answer)
                # position t predicts the id at t + 1: the question's last position predicts the answer's first id
                block_labels += [IGNORE] * (len(turn.question) - 1) + turn.answer + [IGNORE]
                block += turn.question + turn.answer
                weights += [turn.weight] * (len(turn.question) + len(turn.answer))
            ids += block
            labels += block_labels
            positions += range(len(prefix), len(prefix) + len(block))
            segment += [number] * len(block)
        rows.append((ids, index, positions, segment, labels, weights))
    length = max(len(r[0]) for r in rows)
    fill = (pad_id, -1, 0, -1, IGNORE)
    tensors = [
        torch.tensor([row[i] + [fill[i]] * (length - len(row[i])) for row in rows], dtype=torch.long) for i in range(5)
    ]
    most = max(1, *region_counts)
    where = torch.zeros(len(rows), most, dtype=torch.long)
    for b, prefix in enumerate(prefixes):
        found = [t for t, token in enumerate(prefix) if token == region_id]
        where[b, : len(found)] = torch.tensor(found, dtype=torch.long)
    labels = tensors[4]
    weights = torch.tensor([row[5] + [1.0] * (length - len(row[5])) for row in rows])
    if first_region_id is not None:
        weights[labels >= first_region_id] *= pointer_weight
    return PackedBatch(*tensors, where, torch.tensor(list(region_counts), dtype=torch.long), weights)
