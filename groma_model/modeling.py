"""Groma: image encoder -> region proposer -> region encoder -> language model (paper Sec. 3).

:class:`GromaForConditionalGeneration` holds the four modules and the tensors between them; it has no prompt text and
no decoding loop (see :mod:`groma_model.processing` and :mod:`groma_model.generation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache

from groma_model.configuration import GromaConfig
from groma_model.ops.attention import NAME as ATTENTION
from groma_model.ops.attention import TREE_NAME, PackedMask
from groma_model.ops.tree_attention import TreeStep
from groma_model.proposer import ProposerOutput, RegionProposer
from groma_model.regions import RegionEncoder, Selection, select_regions_batch, shuffle
from groma_model.vision import ImageEncoder, merge_tokens

#: Label of positions without a training target.
IGNORE = -100


@dataclass
class Perception:
    """What is known of a batch of images before any question.

    ``region_maps``: the region encoder's fused maps, (B, C, H, W) each. ``image_tokens``: (B, M, H) in the language
    model's width. ``selections``: the kept regions of each image. ``region_tokens``: (R_i, H) of each image.
    """

    region_maps: list[Tensor]
    proposals: ProposerOutput
    selections: list[Selection]
    image_tokens: Tensor
    region_tokens: list[Tensor]


class PointerHead(nn.Module):
    """Reads and writes region tokens by content (setting ``pointer_head``; not part of the published Groma).

    Writing: logit(<ri>) += (Wq h) . (Wk state_i + We region_i) / sqrt(d), with ``h`` the hidden state and ``state_i``
    the hidden state at region i's embedding. Reading: where text contains <ri>, Wf region_i is added to its embedding.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.query = nn.Linear(width, dim, bias=False)
        self.state_key = nn.Linear(width, dim, bias=False)
        self.region_key = nn.Linear(width, dim, bias=False)
        self.feedback = nn.Linear(width, width, bias=False)
        for layer in (self.query, self.state_key):
            nn.init.eye_(layer.weight)
        nn.init.eye_(self.feedback.weight)
        nn.init.normal_(self.region_key.weight, std=width**-0.5)
        self.scale = dim**-0.5

    def keys(self, states: Tensor, regions: Tensor) -> Tensor:
        """Keys (..., R, d) from the hidden states at the regions and the region tokens, both (..., R, H)."""
        return self.state_key(states) + self.region_key(regions)

    def scores(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """(..., H) hidden states, (..., R, d) keys of the same leading shape -> (..., R) additions to the logits.

        In float32, as the logits.
        """
        query = nn.functional.linear(hidden.float(), self.query.weight.float())
        return (keys.float() @ query.unsqueeze(-1)).squeeze(-1) * self.scale


class GromaForRegionProposal(PreTrainedModel):
    """Image encoder and region proposer alone: what stage 1 trains and a detector's checkpoint holds."""

    config_class = GromaConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        self.vision_encoder = ImageEncoder(config)
        self.proposer = RegionProposer(config)
        if type(self) is GromaForRegionProposal:
            self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves when they are built; nothing is initialised again."""

    def propose(
        self,
        pixel_values: Tensor,
        user_boxes: Sequence[Tensor] | None = None,
        ground_boxes: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], ProposerOutput, list[Selection]]:
        """Image encoder, proposer and region selection alone: no gradient is needed through the selection."""
        states = self.vision_encoder(pixel_values)
        proposals = self.proposer(states)
        selections = select_regions_batch(
            proposals.boxes.detach().float(),
            proposals.score.detach().float(),
            self.config,
            user_boxes=user_boxes,
            ground_boxes=ground_boxes,
        )
        return states, proposals, selections


class GromaForConditionalGeneration(GromaForRegionProposal):
    """The model. See :class:`groma_model.configuration.GromaConfig` for every size and setting."""

    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "Dinov2Layer"]  # noqa: RUF012 (a transformers class attribute)

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        width = config.llm_config.hidden_size
        image_width = config.vision_config.hidden_size * (4 if config.token_merge else 1)
        self.region_encoder = RegionEncoder(config)
        self.projector = nn.Sequential(nn.Linear(image_width, width), nn.GELU(), nn.Linear(width, width))
        config.llm_config._attn_implementation = ATTENTION
        self.llm = LlamaForCausalLM(config.llm_config)
        self.new_token_embeddings = nn.Embedding(len(config.new_tokens), width)
        self.new_token_head = nn.Linear(width, len(config.new_tokens), bias=False)
        self.pointer = PointerHead(width, config.pointer_dim) if config.pointer_head else None
        with torch.no_grad():  # new tokens start at the mean of the known ones, as in the released code
            mean = self.llm.get_input_embeddings().weight.mean(0, keepdim=True)
            noise = config.llm_config.initializer_range
            self.new_token_embeddings.weight.normal_(std=noise).add_(mean)
        self._wide: list[Tensor] | None = None
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu",
        device_map: Any = None, quantization: str | None = None, attn_implementation: str | None = None, **_: Any,
    ) -> GromaForConditionalGeneration:  # fmt: skip
        """The model alone of a bundled name, a folder of either layout or a hub id (transformers' entry point).

        The options are those of :func:`groma_model.checkpoints.load_checkpoint`.
        """
        from groma_model.checkpoints import load_checkpoint, resolve_checkpoint

        return load_checkpoint(
            resolve_checkpoint(name), dtype, device,
            device_map=device_map, quantization=quantization, attn_implementation=attn_implementation,
        )[0]  # fmt: skip

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write config.json and model.safetensors; the processor writes the tokenizer's files."""
        from groma_model.checkpoints import save_model

        save_model(self, Path(folder))

    @property
    def first_region_id(self) -> int:
        """Token id of ``<r0>``."""
        return self.config.llm_config.vocab_size + len(self.config.new_tokens) - self.config.max_regions

    # ------------------------------------------------------------------ perceive
    def perceive(
        self,
        pixel_values: Tensor,
        user_boxes: Sequence[Tensor] | None = None,
        ground_boxes: Sequence[Tensor] | None = None,
    ) -> Perception:
        """Everything about a batch of pictures that no question is needed for.

        Args:
            pixel_values: (B, 3, S, S).
            user_boxes, ground_boxes: boxes (n_i, 4) xyxy normalised that join the proposals of each image.
        """
        states, proposals, selections = self.propose(pixel_values, user_boxes, ground_boxes)
        if self.config.region_order == "shuffled":
            selections = [shuffle(s) for s in selections]
        maps = self.region_encoder.fused_maps(states)
        regions = self.encode_regions(maps, [s.boxes for s in selections])
        return Perception(maps, proposals, selections, self.image_tokens(states), regions)

    def image_tokens(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """(B, N/4, H), or (B, N, H) without the 2x2 merge (Sec. 3.1)."""
        tokens = hidden_states[self.config.vision_output_layer]
        return self.projector(merge_tokens(tokens) if self.config.token_merge else tokens)

    def encode_regions(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Region tokens (R_i, H) of each image for boxes (R_i, 4) xyxy normalised, from the images' fused maps."""
        flat = self.region_encoder.encode(maps, list(boxes))
        return list(flat.split([len(b) for b in boxes]))

    # ------------------------------------------------------------------ understand
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings of ids of both vocabularies: (...) -> (..., H)."""
        base = self.config.llm_config.vocab_size
        known = self.llm.get_input_embeddings()(ids.clamp(max=base - 1))
        new = self.new_token_embeddings((ids - base).clamp(min=0))
        return torch.where((ids < base).unsqueeze(-1), known, new)

    def embed(self, ids: Tensor, feature_index: Tensor, features: Tensor, first_region: int) -> Tensor:
        """Input embeddings of token sequences with features in place of placeholders.

        Args:
            ids: (B, T).
            feature_index: (B, T) index into ``features`` where a placeholder is replaced, -1 elsewhere.
            features: (B, F, H): the image tokens, then the region tokens (padded).
            first_region: index in ``features`` of region 0.
        """
        region_index = torch.full_like(ids, -1)
        if self.pointer is not None and features.shape[1] > first_region:
            region = ids - self.first_region_id
            named = (region >= 0) & (region < features.shape[1] - first_region)
            region_index = torch.where(named, region + first_region, -1)
        return self.embed_at(ids, feature_index, region_index, features)

    def embed_at(self, ids: Tensor, feature_index: Tensor, region_index: Tensor, features: Tensor) -> Tensor:
        """:meth:`embed` where each token's region is told.

        Args:
            region_index: (B, T) index into ``features`` of the region that an ordinary token ``<ri>`` names (read by
                the pointer head alone), -1 elsewhere.
        """
        width = features.shape[-1]

        def gathered(index: Tensor) -> Tensor:
            return features.gather(1, index.clamp(min=0).unsqueeze(-1).expand(-1, -1, width))

        embeddings = self.embed_tokens(ids).to(features.dtype)
        embeddings = torch.where((feature_index >= 0).unsqueeze(-1), gathered(feature_index), embeddings)
        if self.pointer is not None:
            content = self.pointer.feedback(gathered(region_index))
            embeddings = embeddings + torch.where((region_index >= 0).unsqueeze(-1), content, 0)
        return embeddings

    def run_llm(
        self,
        embeddings: Tensor,
        mask: Tensor | PackedMask | TreeStep,
        position_ids: Tensor,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last hidden states (B, T, H).

        Args:
            mask: boolean (B, 1, T, T + past), True where visible, or that of packed sequences, or a step behind shared
                prefixes, which holds its own cache. Flash attention is causal by itself: it takes from a boolean mask
                only which positions the last one sees, and has no part in a step behind shared prefixes.

        Raises:
            ValueError: packed sequences under another implementation of attention than this package's.
        """
        implementation = self.config.llm_config._attn_implementation
        extra: dict[str, object] = {}
        if isinstance(mask, TreeStep):
            extra = {"tree": mask}
            implementation = ATTENTION if implementation == ATTENTION else TREE_NAME
        elif isinstance(mask, PackedMask):
            extra = {"packed": mask}
        if isinstance(mask, PackedMask) and implementation != ATTENTION:
            raise ValueError(
                f"packed sequences need attn_implementation {ATTENTION!r}, not {implementation!r}: load the model "
                "without that option to train it"
            )
        with _attending_by(self.config.llm_config, implementation):
            output = self.llm.model(
                inputs_embeds=embeddings,
                attention_mask=_layer_mask(mask, embeddings, implementation),
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=cache is not None,
                **extra,
            )
        return output.last_hidden_state

    def _heads(self) -> list[Tensor]:
        """The weights of both vocabularies' heads in float32."""
        return [head.weight.float() for head in (self.llm.lm_head, self.new_token_head)]

    @contextmanager
    def widened_heads(self) -> Iterator[None]:
        """Within, :meth:`logits` keeps one float32 copy of half-precision heads instead of making one a call.

        Changes of the weights within are not seen.
        """
        self._wide = self._heads()
        try:
            yield
        finally:
            self._wide = None

    def logits(self, hidden: Tensor, pointer_keys: Tensor | None = None, num_regions: Tensor | None = None) -> Tensor:
        """Scores over both vocabularies: hidden (M, H) -> (M, V + new), float32.

        Computed in float32 whatever the weights' type: of logits around 10, bfloat16 cannot tell 0.03 apart.

        Args:
            pointer_keys: (M, R, d), the keys of the regions that each row may point at (only with a pointer head).
            num_regions: (M,) how many of them exist; tokens of regions that do not are excluded.
        """
        wide = hidden.float()
        logits = torch.cat([nn.functional.linear(wide, weight) for weight in self._wide or self._heads()], -1).float()
        if self.pointer is not None and pointer_keys is not None:
            scores = self.pointer.scores(hidden, pointer_keys).float()
            index = torch.arange(self.config.max_regions, device=hidden.device)
            exists = index < num_regions.unsqueeze(-1)
            padded = torch.nn.functional.pad(scores, (0, self.config.max_regions - scores.shape[-1]))
            first = self.first_region_id
            regions = (logits[:, first:] + padded).masked_fill(~exists, torch.finfo(torch.float32).min)
            logits = torch.cat([logits[:, :first], regions], -1)
        return logits


#: The layers take the implementation from their configuration, which threads share.
_SWITCH = Lock()


@contextmanager
def _attending_by(config: Any, implementation: str) -> Iterator[None]:
    """Within, the layers of this configuration call ``implementation``."""
    if implementation == ATTENTION:  # never switched
        yield
        return
    with _SWITCH:
        own = config._attn_implementation
        config._attn_implementation = implementation
        try:
            yield
        finally:
            config._attn_implementation = own


def _layer_mask(mask: Tensor | PackedMask | TreeStep, embeddings: Tensor, implementation: str) -> Tensor:
    """The mask as the wrapped layers take it: additive (B, 1, T, T + past); for flash attention (B, T + past)."""
    if isinstance(mask, PackedMask | TreeStep):
        # The layers ignore it beside such a mask, but without one the library would build its own.
        return torch.zeros(1, 1, 1, 1, dtype=embeddings.dtype, device=embeddings.device)
    if implementation == "flash_attention_2":
        return mask[:, 0, -1].expand(len(embeddings), -1)
    floor = torch.finfo(embeddings.dtype).min
    return torch.zeros_like(mask, dtype=embeddings.dtype).masked_fill(~mask, floor)
