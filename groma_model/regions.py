"""Regions: which proposals become region tokens (paper Sec. 3.2), and the encoder that makes them (Sec. 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from groma_model.boxes import clip, iou_matrix, xyxy_to_cxcywh
from groma_model.configuration import GromaConfig
from groma_model.ops.nms import greedy_keep
from groma_model.ops.roi_align import roi_align

#: Score of a box given by the user: it outranks every proposal.
USER_SCORE = 1.0


@dataclass(frozen=True)
class Selection:
    """The regions of one image, best first; R <= ``max_regions``.

    Attributes:
        boxes: (R, 4) xyxy, normalised. scores: (R,) fused objectness (or the score a given box was entered with).
        user_index: (n,) int64, the region that stands for each of the user's boxes. ground_index: (m,) likewise for
            ground-truth boxes.
    """

    boxes: Tensor
    scores: Tensor
    user_index: Tensor
    ground_index: Tensor


def select_regions(
    boxes: Tensor,
    scores: Tensor,
    config: GromaConfig,
    user_boxes: Tensor | None = None,
    ground_boxes: Tensor | None = None,
    ground_score: float = 0.2,
) -> Selection:
    """:func:`select_regions_batch` for one image: ``boxes`` (Q, 4), ``scores`` (Q,), given boxes (n, 4) and (m, 4)."""
    return select_regions_batch(boxes[None], scores[None], config, [user_boxes], [ground_boxes], ground_score)[0]


@torch.no_grad()
def select_regions_batch(
    boxes: Tensor,
    scores: Tensor,
    config: GromaConfig,
    user_boxes: Sequence[Tensor | None] | None = None,
    ground_boxes: Sequence[Tensor | None] | None = None,
    ground_score: float = 0.2,
) -> list[Selection]:
    """Choose each image's regions among proposals, the user's boxes (score 1.0) and, in training, the ground truth.

    Proposals scoring strictly above ``config.score_threshold`` (all where that is 0) and all given boxes pass through
    class-agnostic NMS at ``config.nms_threshold``; survivors are ordered by score (equal scores by input order:
    proposals, user, ground truth) and the lowest proposals are cut beyond ``config.max_regions``. If nothing passes,
    the best candidate is the only region. Each given box is represented by itself or, where something better
    suppressed it, by the survivor of largest IoU. Boxes are clipped to the image. With ``config.region_selection``
    ``"released"`` the threshold and the cut apply to given boxes as well and nothing is clipped.

    Args:
        boxes: (B, Q, 4) xyxy, normalised. scores: (B, Q). user_boxes, ground_boxes: for each image (n, 4) xyxy or None.
        ground_score: the score ground-truth boxes enter with.

    Returns:
        One :class:`Selection` an image, float32, on the device of ``boxes``.
    """
    batch, released = len(boxes), config.region_selection == "released"
    users = _given(user_boxes, boxes)
    grounds = _given(ground_boxes, boxes)
    candidates, ranks, present = _candidates(boxes, scores, users, grounds, ground_score)
    if not released:
        candidates = clip(candidates)
    is_given = torch.arange(candidates.shape[1], device=boxes.device) >= boxes.shape[1]
    passes = present & (ranks > config.score_threshold) if config.score_threshold > 0 else present.clone()
    if not released:
        passes |= present & is_given
    if candidates.shape[1]:
        # Nothing passes: the single best candidate does.
        best = ranks.masked_fill(~present, -math.inf).argmax(1)
        none = ~passes.any(1)
        passes[none, best[none]] = present[none, best[none]]

    order = ranks.masked_fill(~passes, -math.inf).argsort(dim=1, descending=True, stable=True)
    ranked = candidates.gather(1, order[..., None].expand(-1, -1, 4))
    overlap = iou_matrix(ranked, ranked)
    keep = greedy_keep(overlap > config.nms_threshold, passes.gather(1, order))
    # Cut: given boxes first (they are what the text speaks of), then by score; as released: by score alone.
    precedence = keep.long() if released else keep.long() + (keep & is_given[order]).long()
    by_precedence = precedence.argsort(dim=1, descending=True, stable=True)
    keep.scatter_(1, by_precedence[:, config.max_regions :], False)

    place = order.argsort(1)  # of each candidate among the ranked
    selections = []
    for i in range(batch):
        kept = keep[i].nonzero()[:, 0]
        to_kept = overlap[i][:, kept].clone()
        if not released:
            to_kept[kept, torch.arange(len(kept), device=kept.device)] = 2.0  # a survivor stands for itself
        first_ground = boxes.shape[1] + max((len(u) for u in users), default=0)
        user_places = place[i, boxes.shape[1] : boxes.shape[1] + len(users[i])]
        ground_places = place[i, first_ground : first_ground + len(grounds[i])]
        selections.append(
            Selection(
                boxes=ranked[i, kept],
                scores=ranks[i, order[i, kept]],
                user_index=_closest(to_kept[user_places]),
                ground_index=_closest(to_kept[ground_places]),
            )
        )
    return selections


def reorder(selection: Selection, order: Tensor) -> Selection:
    """The same regions, the ``order[i]``-th at place i: (R,) a permutation."""
    place = torch.argsort(order)
    return Selection(
        selection.boxes[order], selection.scores[order], place[selection.user_index], place[selection.ground_index]
    )


def shuffle(selection: Selection) -> Selection:
    """The same regions in an order that their number alone decides (``region_order`` ``"shuffled"``)."""
    count = len(selection.boxes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return reorder(selection, order.to(selection.boxes.device))


def _given(given: Sequence[Tensor | None] | None, like: Tensor) -> list[Tensor]:
    given = [None] * len(like) if given is None else given
    none = like.new_zeros(0, 4)
    return [none if item is None else item.to(like.device).reshape(-1, 4) for item in given]


def _candidates(
    boxes: Tensor, scores: Tensor, users: list[Tensor], grounds: list[Tensor], ground_score: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Proposals, users' and ground-truth boxes side by side: boxes (B, N, 4), scores (B, N), present (B, N)."""
    parts, ranks, present = [boxes.float()], [scores.float()], [torch.ones_like(scores, dtype=torch.bool)]
    for group, score in ((users, USER_SCORE), (grounds, ground_score)):
        padded = nn.utils.rnn.pad_sequence([item.float() for item in group], batch_first=True)
        counts = torch.tensor([len(item) for item in group], device=boxes.device)
        parts.append(padded)
        ranks.append(padded.new_full(padded.shape[:2], score))
        present.append(torch.arange(padded.shape[1], device=boxes.device) < counts[:, None])
    return torch.cat(parts, 1), torch.cat(ranks, 1), torch.cat(present, 1)


def _closest(overlaps: Tensor) -> Tensor:
    """(n, R) overlaps -> (n,) index of the first largest."""
    return overlaps.argmax(1) if overlaps.numel() else overlaps.new_zeros(len(overlaps), dtype=torch.long)


class ConvNormReLU(nn.Module):
    """3x3 convolution without bias, GroupNorm, ReLU: one fusion step."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return F.relu(self.norm(self.conv(maps)))


class RegionEncoder(nn.Module):
    """Multi-scale RoIAlign features of boxes, as embeddings of the language model (paper Sec. 3.3; after GPT4RoI).

    The last ``region_layers`` hidden states become maps of ``region_scales`` times the patch grid, finest first. Each
    gets coordinate channels and a 1x1 convolution; fusion steps exchange channels between neighbouring levels; RoIAlign
    reads every level at the box; the levels' 3x3 convolutions are summed, pooled linearly, joined by an embedding of
    the box (centre and size) and projected to the language model's width.

    ``config.box_geometry``: with ``"xyxy"`` maps are resized by pixel centres, so that a box's features come from
    exactly its place. ``"released"`` reproduces the released code: maps resized corner to corner, boxes' (cx, cy, w, h)
    read as (x1, y1, x2, y2), at twice the scale.
    """

    def __init__(self, config: GromaConfig):
        super().__init__()
        channels, dim = config.vision_config.hidden_size, config.region_dim
        levels = config.region_layers
        if len(config.region_scales) != levels:
            raise ValueError(
                f"region_scales has {len(config.region_scales)} entries for region_layers={levels}; give one a level"
            )
        self.scales = config.region_scales
        self.released = config.box_geometry == "released"
        self.roi_size, self.sampling_ratio = config.roi_size, config.roi_sampling_ratio
        self.input_convs = nn.ModuleList(nn.Conv2d(channels + 2, channels, 1) for _ in range(levels))
        self.fuse_convs = nn.ModuleList(
            ConvNormReLU(channels, config.region_norm_groups) for _ in range(config.region_fuse_convs)
        )
        self.roi_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        self.pool = nn.Linear(channels * config.roi_size**2, dim)
        self.box_embed = nn.Sequential(
            nn.Linear(4, config.region_box_dim), nn.ReLU(), nn.LayerNorm(config.region_box_dim),
            nn.Linear(config.region_box_dim, dim), nn.ReLU(), nn.LayerNorm(dim),
        )  # fmt: skip
        self.project = nn.Linear(dim, config.llm_config.hidden_size)

    def forward(self, hidden_states: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Region embeddings of all images' boxes, concatenated in order.

        Args:
            hidden_states: patch tokens (B, N, C) of the encoder's layers (all, or the last ``region_layers``).
            boxes: for each image (R_i, 4) xyxy, normalised.

        Returns:
            (sum of R_i, hidden size of the language model).
        """
        return self.encode(self.fused_maps(hidden_states), boxes)

    def fused_maps(self, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """What depends on the picture alone: one fused map a level (B, C, H_l, W_l), finest first."""
        return self.fuse(self.feature_maps(hidden_states))

    def encode(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Region embeddings from the fused maps; see :meth:`forward`."""
        flat = torch.cat(list(boxes))
        counts = torch.tensor([len(item) for item in boxes], device=flat.device)
        image_index = torch.repeat_interleave(torch.arange(len(boxes), device=flat.device), counts)
        pooled = self.pool(self.roi_features(maps, flat, image_index).flatten(1))
        return self.project(pooled + self.box_embed(xyxy_to_cxcywh(flat.float()).to(pooled.dtype)))

    def feature_maps(self, hidden_states: Sequence[Tensor]) -> list[Tensor]:
        """Patch tokens of the last layers -> one map a level (B, C, H_l, W_l), finest first."""
        maps = []
        for tokens, scale, conv in zip(hidden_states[-len(self.scales) :], self.scales, self.input_convs):
            side = math.isqrt(tokens.shape[1])
            size = round(side * scale)
            grid = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
            # A 1x1 convolution commutes with bilinear resizing, so the channels are mixed on the small grid.
            mixed = F.conv2d(grid, conv.weight[:, :-2])
            place = F.conv2d(_coordinates(size, mixed), conv.weight[:, -2:], conv.bias)
            maps.append((self._resize(mixed, size) + place).contiguous(memory_format=torch.channels_last))
        return maps

    def fuse(self, maps: list[Tensor]) -> list[Tensor]:
        """Exchange channels between neighbouring levels, ``region_fuse_convs`` times; shapes stay.

        Each level keeps its first half, takes the last quarter of the next coarser level and the third quarter of the
        next finer one (the outermost levels take their own), then all pass the step's convolution.
        """
        half, quarter = maps[0].shape[1] // 2, maps[0].shape[1] // 4 * 3
        for step in self.fuse_convs:
            mixed = []
            for level, own in enumerate(maps):
                coarser, finer = maps[min(level + 1, len(maps) - 1)], maps[max(level - 1, 0)]
                size = own.shape[-1]
                parts = [
                    own[:, :half],
                    self._resize(coarser[:, quarter:], size),
                    self._resize(finer[:, half:quarter], size),
                ]
                mixed.append(step(torch.cat(parts, 1)))
            maps = mixed
        return maps

    def roi_features(self, maps: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoIAlign on every level, the levels' convolutions, their sum and ReLU: (R, C, roi_size, roi_size)."""
        rois = torch.cat([self.align(level, boxes, image_index) for level in maps], 1)
        # The sum of the levels' convolutions is one convolution over their concatenated channels.
        weight = torch.cat([conv.weight for conv in self.roi_convs], 1)
        # Not stacked: the backward pass through a stack and its sum gives all biases one gradient tensor in common,
        # which clipping in place would scale once a bias.
        bias = torch.cat([conv.bias for conv in self.roi_convs]).view(len(self.roi_convs), -1).sum(0)
        return F.relu(F.conv2d(rois, weight, bias, padding=1))

    def align(self, level: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoIAlign of one level (B, C, H, W) at normalised xyxy boxes (R, 4), in float32: (R, C, size, size)."""
        place = 2 * xyxy_to_cxcywh(boxes.float()) if self.released else boxes.float()
        return roi_align(level, place * level.shape[-1], image_index, self.roi_size, self.sampling_ratio)

    def _resize(self, maps: Tensor, size: int) -> Tensor:
        if maps.shape[-1] == size:
            return maps
        resized = F.interpolate(maps.float(), size=(size, size), mode="bilinear", align_corners=self.released)
        return resized.to(maps.dtype)


def _coordinates(size: int, like: Tensor) -> Tensor:
    """(1, 2, size, size): x then y, from -1 at the first pixel to 1 at the last."""
    axis = torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([columns, rows])[None]
