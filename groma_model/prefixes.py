"""The part of the prompt that a picture's questions share: prefilled once a picture, many pictures together.

A question about a box of the user's has a list of regions of its own, for the box joins the list as its first region.
What its prompt still has in common with the picture's own (the text before the regions and the image tokens) is shared
as well; the rest is prefilled with the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from groma_model.grounded_text import Box
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.ops.tree_attention import Layers, group_rows
from groma_model.packing import feature_indices
from groma_model.processing import GromaProcessor
from groma_model.regions import Selection, select_regions_batch, shuffle

if TYPE_CHECKING:
    from groma_model.generation import Scene

#: Most tokens of one pass through the language model, padding included: more would only take memory.
PASS_TOKENS = 16384
#: Sequences of different lengths are padded to each other as long as that adds no more than this factor.
PADDING = 1.1


@dataclass
class Stem:
    """The first ``length`` positions of a picture's own prefix, prefilled: keys and values, and the pointer's keys of
    the regions among them (R, d)."""

    length: int
    layers: Layers
    pointer_keys: Tensor | None


@dataclass
class Prefix:
    """The prompt up to the questions for one list of regions.

    ``feature_index``: see :func:`groma_model.packing.feature_indices`. ``shared``: how many leading positions, and
    ``shared_regions`` of the regions, are those of the picture's own prefix ``own``. ``user_index``: the region of each
    of the user's boxes.
    """

    scene: Scene
    ids: list[int]
    feature_index: list[int]
    boxes: list[Box]
    region_tokens: Tensor  # (R, H)
    user_index: list[int]
    shared: int
    shared_regions: int
    derived_from: Prefix | None = None

    @property
    def own(self) -> Prefix:
        """The picture's own prefix, perhaps this one."""
        return self.derived_from or self

    @property
    def length(self) -> int:
        """Positions."""
        return len(self.ids)


def own_prefix(processor: GromaProcessor, scene: Scene) -> Prefix:
    """That of the picture's regions, for questions without boxes."""
    listed = [tuple(box) for box in scene.boxes.tolist()]
    ids, index = _layout(processor, scene, len(listed))
    return Prefix(scene, ids, index, listed, scene.region_tokens, [], len(ids), len(listed))


def boxed_prefixes(
    model: GromaForConditionalGeneration, processor: GromaProcessor, own: Prefix, asked: Sequence[tuple[Box, ...]]
) -> list[Prefix]:
    """Those of one picture for questions about boxes: the boxes join the regions, and regions that overlap one of them
    too much give way to it. Only regions that the picture's own list has not are encoded."""
    scene, config = own.scene, model.config
    proposals = scene.proposals.expand(len(asked), -1, -1)
    scores = scene.proposal_scores.expand(len(asked), -1)
    given = [torch.tensor(boxes, dtype=torch.float32) for boxes in asked]
    selections = select_regions_batch(proposals, scores, config, user_boxes=given)
    if config.region_order == "shuffled":
        selections = [shuffle(selection) for selection in selections]
    places = {box: place for place, box in enumerate(own.boxes)}
    lists = [[tuple(box) for box in selection.boxes.tolist()] for selection in selections]
    new = list(dict.fromkeys(box for boxes in lists for box in boxes if box not in places))
    tokens = own.region_tokens
    if new:
        encoded = model.encode_regions(scene.region_maps, [torch.tensor(new, device=model.device)])[0]
        tokens = torch.cat([tokens, encoded.to(tokens.dtype)])
        places |= {box: len(own.boxes) + i for i, box in enumerate(new)}
    prefixes = []
    for boxes, selection in zip(lists, selections, strict=True):
        index = torch.tensor([places[box] for box in boxes], device=tokens.device)
        prefixes.append(_with_regions(processor, own, selection, boxes, tokens[index]))
    return prefixes


def _with_regions(
    processor: GromaProcessor, own: Prefix, selection: Selection, boxes: list[Box], tokens: Tensor
) -> Prefix:
    ids, index = _layout(processor, own.scene, len(boxes))
    same = next(
        (i for i, pair in enumerate(zip(boxes, own.boxes)) if pair[0] != pair[1]), min(len(boxes), len(own.boxes))
    )
    if len(boxes) == len(own.boxes) == same:
        shared = len(ids)
    else:
        # Up to the name of the first region that differs, or where one list ends.
        feature = len(own.scene.image_tokens) + same
        shared = min(at.index(feature) - 1 for at in (index, own.feature_index) if feature in at)
    return Prefix(own.scene, ids, index, boxes, tokens, selection.user_index.tolist(), shared, same, own)


def _layout(processor: GromaProcessor, scene: Scene, regions: int) -> tuple[list[int], list[int]]:
    """Ids of a prefix and where its features lie."""
    count, names = len(scene.image_tokens), processor.ids
    ids = processor.prefix_ids(count, regions)
    return ids, feature_indices(ids, names["<image>"], names["<region>"], names["<refer_feat>"], count)


def prefill(
    model: GromaForConditionalGeneration, processor: GromaProcessor, prefixes: Sequence[Prefix], lengths: Sequence[int]
) -> list[Stem]:
    """The first ``lengths[i]`` positions of each picture's own prefix, padded to each other in few passes."""
    stems: dict[int, Stem] = {}
    for group in group_rows(lengths, PADDING):
        step = max(1, PASS_TOKENS // lengths[group[0]])
        for start in range(0, len(group), step):
            chosen = group[start : start + step]
            found = _prefill_together(model, processor, [prefixes[i] for i in chosen], [lengths[i] for i in chosen])
            stems |= dict(zip(chosen, found, strict=True))
    return [stems[i] for i in range(len(prefixes))]


def _prefill_together(
    model: GromaForConditionalGeneration, processor: GromaProcessor, prefixes: Sequence[Prefix], lengths: Sequence[int]
) -> list[Stem]:
    device, padding = model.device, processor.ids["[PAD]"]
    longest, count = max(lengths), len(prefixes[0].scene.image_tokens)
    most = max(len(p.region_tokens) for p in prefixes)

    def padded(values: Sequence[int], length: int, fill: int) -> list[int]:
        return [*values[:length], *[fill] * (longest - length)]

    ids = torch.tensor([padded(p.ids, n, padding) for p, n in zip(prefixes, lengths)], device=device)
    index = torch.tensor([padded(p.feature_index, n, -1) for p, n in zip(prefixes, lengths)], device=device)
    features = torch.stack(
        [
            torch.cat([p.scene.image_tokens, _pad(p.region_tokens.to(p.scene.image_tokens.dtype), most)])
            for p in prefixes
        ]
    )
    places = torch.arange(longest, device=device)
    known = places < torch.tensor(lengths, device=device)[:, None]
    causal = (places[None, :] <= places[:, None]) & known[:, None]
    cache = DynamicCache(config=model.config.llm_config)
    positions = places.expand(len(prefixes), -1)
    hidden = model.run_llm(model.embed(ids, index, features, count), causal[:, None], positions, cache)
    stems = []
    for row, length in enumerate(lengths):
        layers = [(layer.keys[row, :, :length], layer.values[row, :, :length]) for layer in cache.layers]
        keys = None
        if model.pointer is not None:
            at = [t for t, token in enumerate(prefixes[row].ids[:length]) if token == processor.ids["<region>"]]
            keys = model.pointer.keys(hidden[row, at], features[row, count : count + len(at)])
        stems.append(Stem(length, layers, keys))
    return stems


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zero rows up to ``length``."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, length - len(tensor)))
