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
from groma_model.ops.attention import PackedMask


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
    """Tensors of B packed sequences: ``prefix_length`` positions of prefix, then rows of ``row_length`` positions.

    A row holds one or more whole blocks. ``segment``: 0 the prefix, k block k, -1 padding.
    """

    ids: Tensor  # (B, T)
    feature_index: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    segment: Tensor  # (B, T)
    labels: Tensor  # (B, T), the id each position is to predict at the *next* position, IGNORE elsewhere
    region_positions: Tensor  # (B, R) where the region tokens stand, 0 where there are fewer
    num_regions: Tensor  # (B,)
    weights: Tensor  # (B, T) loss weight of each label
    prefix_length: int
    row_length: int

    def mask(self, dtype: torch.dtype = torch.float32) -> PackedMask:
        """What each position sees: the prefix up to itself and its own block up to itself; padding sees itself."""
        seg, start = self.segment, self.prefix_length
        index = torch.arange(seg.shape[1], device=seg.device)
        before = index[:, None] >= index[:start]
        prefix = (seg[:, None, :start] == 0) & before | (index[:, None] == index[:start])
        rows = seg[:, start:].unflatten(1, (-1, self.row_length))
        own = (rows.unsqueeze(-1) == rows.unsqueeze(-2)).tril()
        own |= torch.eye(self.row_length, dtype=torch.bool, device=seg.device)
        floor = torch.finfo(dtype).min
        return PackedMask(*(torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill(~m, floor).unsqueeze(1)
                            for m in (prefix, own)))  # fmt: skip

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        return PackedBatch(**moved)


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
    #: id, feature index, position, segment, label, weight of each position
    fill = (pad_id, -1, 0, -1, IGNORE, 1.0)
    prefix_length = max(map(len, prefixes))
    packed = []
    for prefix, blocks in zip(prefixes, dialogues, strict=True):
        index = feature_indices(prefix, image_id, region_id, refer_id, num_image_tokens)
        columns = [prefix, index, list(range(len(prefix))), [0] * len(prefix), [IGNORE] * len(prefix)]
        encoded = []
        for number, turns in enumerate(blocks, start=1):
            block: list[list[float]] = [[] for _ in fill]
            for turn in turns:
                size = len(turn.question) + len(turn.answer)
                block[0] += turn.question + turn.answer
                block[1] += feature_indices(
                    turn.question, image_id, region_id, refer_id, num_image_tokens, turn.refer_regions
                )
                block[1] += [-1] * len(turn.answer)
                # position t predicts the id at t + 1: the question's last position predicts the answer's first id
                block[4] += [IGNORE] * (len(turn.question) - 1) + turn.answer + [IGNORE]
                block[5] += [turn.weight] * size
            block[2] = list(range(len(prefix), len(prefix) + len(block[0])))
            block[3] = [number] * len(block[0])
            encoded.append(block)
        packed.append(([*columns, [1.0] * len(prefix)], encoded))
    row_length = max((len(block[0]) for _, blocks in packed for block in blocks), default=1)
    rows = [_fill_rows([len(block[0]) for block in blocks], row_length) for _, blocks in packed]
    most_rows = max(map(len, rows))

    def column(k: int, dtype: torch.dtype) -> Tensor:
        result = torch.full((len(packed), prefix_length + most_rows * row_length), fill[k], dtype=dtype)
        for b, (prefix, blocks) in enumerate(packed):
            result[b, : len(prefix[k])] = torch.tensor(prefix[k], dtype=dtype)
            for r, members in enumerate(rows[b]):
                values = [v for m in members for v in blocks[m][k]]
                start = prefix_length + r * row_length
                result[b, start : start + len(values)] = torch.tensor(values, dtype=dtype)
        return result

    labels, weights = column(4, torch.long), column(5, torch.float32)
    most = max(1, *region_counts)
    where = torch.zeros(len(packed), most, dtype=torch.long)
    for b, prefix in enumerate(prefixes):
        found = [t for t, token in enumerate(prefix) if token == region_id]
        where[b, : len(found)] = torch.tensor(found, dtype=torch.long)
    if first_region_id is not None:
        weights[labels >= first_region_id] *= pointer_weight
    counts = torch.tensor(list(region_counts), dtype=torch.long)
    return PackedBatch(*(column(k, torch.long) for k in range(4)), labels, where, counts, weights,
                       prefix_length, row_length)  # fmt: skip


def _fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which blocks share a row: first fit, the longest first; within a row in their given order."""
    rows: list[list[int]] = []
    free: list[int] = []
    for block in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for r, left in enumerate(free):
            if lengths[block] <= left:
                rows[r].append(block)
                free[r] -= lengths[block]
                break
        else:
            rows.append([block])
            free.append(capacity - lengths[block])
    return [sorted(members) for members in rows]
