"""Attention of many questions behind the shared prefixes of their pictures, with a preallocated key/value cache.

A *row* is one picture: the slots of its prefix, of its questions (*blocks*) and of the tokens they generate. A block
sees the leading positions of the prefix that it shares, and itself; positions of every block restart where its share
of the prefix ends. The layers see the tokens of all rows as one sequence without padding; rows are padded to each
other only where their scores are computed together. A step gives any number of blocks any number of tokens, so a
question that has ended costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groma_model.ops.attention import dense_attention

#: Owner of a prefix's slots and of slots that nothing stands in; blocks count from 0.
_PREFIX, _NOTHING = -1, -2

Layers = Sequence[tuple[Tensor, Tensor]]  # of each layer the keys and values, (heads, positions, d) each


@dataclass
class Row:
    """``prefix``: keys and values of the P positions that all blocks of a picture may see.

    ``shares``: how many of them each block sees. ``lengths``: positions of each block before anything is generated.
    """

    prefix: Layers
    shares: list[int]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Of all its blocks."""
        return sum(self.lengths)


def group_rows(sizes: Sequence[int], padding: float) -> list[list[int]]:
    """Which rows are padded to the longest of them: places in ``sizes``, longest first.

    A group ends where its padded size would exceed ``padding`` times what it holds; 1 leaves only equals together.
    """
    groups: list[list[int]] = []
    held = 0
    for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if groups and (len(groups[-1]) + 1) * sizes[groups[-1][0]] <= padding * (held + sizes[place]):
            groups[-1].append(place)
            held += sizes[place]
        else:
            groups.append([place])
            held = sizes[place]
    return groups


class TreeCache:
    """Keys and values of rows in groups, with room for ``new_tokens`` tokens of each block."""

    def __init__(self, groups: Sequence[Sequence[Row]], new_tokens: int, device: torch.device):
        """``device``: the main one, where masks are made; a layer's keys and values stand where its prefixes do."""
        self.groups = [_Group(rows, new_tokens, device) for rows in groups]

    def step(self, fed: Sequence[Sequence[tuple[int, int, int, int]]]) -> TreeStep:
        """A pass over new tokens.

        Args:
            fed: for each group its segments in the order of the flat sequence: (row, block, index of the first token
                in the block, how many). The sequence holds the first group's tokens, then the second's and so on. A
                token given again (its first form was a wrong guess) replaces the earlier one.
        """
        parts, start = [], 0
        for group, segments in zip(self.groups, fed, strict=True):
            if segments:
                parts.append(group.part(segments, start))
                start = parts[-1].end
        return TreeStep(parts)


class _Group:
    """Rows padded to the longest: slots [prefix | blocks | first generated token of each block | second | ...]."""

    def __init__(self, rows: Sequence[Row], new_tokens: int, device: torch.device):
        self.rows = rows
        self.device = device
        self.prefix = max(row.prefix[0][0].shape[1] for row in rows)
        self.blocks = max(row.tokens for row in rows)
        self.most = max(len(row.lengths) for row in rows)
        size = self.prefix + self.blocks + self.most * new_tokens
        self.layers = [self._stored(layer, size) for layer in range(len(rows[0].prefix))]
        owner = torch.full((len(rows), size), _NOTHING)
        place = torch.zeros(len(rows), size, dtype=torch.long)
        self.starts: list[list[int]] = []
        for r, row in enumerate(rows):
            length = row.prefix[0][0].shape[1]
            owner[r, :length] = _PREFIX
            place[r, :length] = torch.arange(length)
            starts, slot = [], self.prefix
            for b, (share, count) in enumerate(zip(row.shares, row.lengths, strict=True)):
                starts.append(slot)
                owner[r, slot : slot + count] = b
                place[r, slot : slot + count] = torch.arange(share, share + count)
                later = slice(self.prefix + self.blocks + b, size, self.most)
                owner[r, later] = b
                place[r, later] = torch.arange(share + count, share + count + new_tokens)
                slot += count
            self.starts.append(starts)
        self.owner, self.place = owner.to(device), place.to(device)

    def _stored(self, layer: int, size: int) -> tuple[Tensor, Tensor]:
        """(rows, slots, heads, d) keys and values with the prefixes in their slots."""
        found = []
        for which in (0, 1):
            heads, _, dim = self.rows[0].prefix[layer][which].shape
            # Zeros: a masked value is multiplied by 0, which leftovers of memory that are NaN would survive.
            stored = self.rows[0].prefix[layer][which].new_zeros(len(self.rows), size, heads, dim)
            for r, row in enumerate(self.rows):
                prefix = row.prefix[layer][which]
                stored[r, : prefix.shape[1]] = prefix.transpose(0, 1)
            found.append(stored)
        return found[0], found[1]

    def part(self, segments: Sequence[tuple[int, int, int, int]], start: int) -> _Part:
        """The step's part of these rows; its first token is the ``start``-th of the flat sequence."""
        size = self.owner.shape[1]
        counts = [0] * len(self.rows)
        slots: list[int] = []
        within: list[int] = []  # row and place of each token among the row's own
        asking: list[tuple[int, int, int]] = []  # block, position and share of the prefix of each token
        used = self.prefix + self.blocks
        for r, b, first, count in segments:
            row = self.rows[r]
            for k in range(first, first + count):
                later = k - row.lengths[b]
                slot = self.starts[r][b] + k if later < 0 else self.prefix + self.blocks + later * self.most + b
                used = max(used, slot + 1)
                slots.append(r * size + slot)
                within.append(counts[r])
                asking.append((b, row.shares[b] + k, row.shares[b]))
                counts[r] += 1
        longest = max(counts)
        rows = torch.tensor([s // size for s in slots], device=self.device)
        padded = rows * longest + torch.tensor(within, device=self.device)
        who = torch.tensor([[_NOTHING - 1, 0, 0]], device=self.device).repeat(len(self.rows) * longest, 1)
        who[padded] = torch.tensor(asking, device=self.device)
        block, position, share = who.view(len(self.rows), longest, 1, 3).unbind(-1)
        owner, place = self.owner[:, None, :used], self.place[:, None, :used]
        visible = (owner == _PREFIX) & (place < share) | (owner == block) & (place <= position)
        return _Part(
            self, start, start + len(slots), torch.tensor(slots, device=self.device), padded, visible[:, None], longest
        )


@dataclass
class _Part:
    """One group's part of a step: its stretch of the flat sequence and what each token may see."""

    group: _Group
    start: int
    end: int
    slots: Tensor  # (T,) in the group's (rows * slots)
    padded: Tensor  # (T,) in the (rows * longest) padded tokens
    visible: Tensor  # (rows, 1, longest, used slots)
    longest: int
    _moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Slots, padded places and the additive mask where a layer needs them; made once for all its layers."""
        key = (device, dtype)
        if key not in self._moved:
            mask = torch.zeros_like(self.visible, dtype=dtype).masked_fill_(~self.visible, torch.finfo(dtype).min)
            self._moved[key] = (self.slots.to(device), self.padded.to(device), mask.to(device))
        return self._moved[key]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(T, heads, d) of this part's tokens, and new keys and values likewise -> (T, heads, d)."""
        slots, padded, mask = self.on(query.device, query.dtype)
        for stored, new in zip(self.group.layers[layer], (key, value), strict=True):
            stored.view(-1, *stored.shape[2:]).index_copy_(0, slots, new)
        keys, values = (stored[:, : mask.shape[-1]].transpose(1, 2) for stored in self.group.layers[layer])
        count = len(mask)
        if count == 1:  # nothing is padded
            rows = query[None]
        else:
            rows = query.new_zeros(count * self.longest, *query.shape[1:]).index_copy_(0, padded, query)
            rows = rows.unflatten(0, (count, self.longest))
        out = dense_attention(rows.transpose(1, 2), keys, values, mask, scale).transpose(1, 2)
        return out[0] if count == 1 else out.flatten(0, 1)[padded]


@dataclass
class TreeStep:
    """What the layers are handed beside one flat sequence of tokens (1, T)."""

    parts: list[_Part]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store the new keys and values of a layer and attend: all (1, H, T, d), fewer heads of keys; the same out."""
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        spans = [(part, slice(part.start, part.end)) for part in self.parts]
        outs = [part.attend(layer, query[s], key[s], value[s], scale) for part, s in spans]
        return torch.cat(outs).transpose(0, 1)[None]
