"""The region proposer: class-agnostic boxes with objectness from the image encoder's patch tokens.

A two-stage Deformable-DETR (Zhu et al. 2021) with DINO's mixed query selection and look-forward-twice (Zhang et al.
2023), as Groma's paper describes in section 3.1. Two objectness heads, one for each kind of box annotation the
released model learnt from (COCO-like objects, SA-1B-like parts), are fused into one score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groma_model.boxes import cxcywh_to_xyxy
from groma_model.configuration import GromaConfig
from groma_model.proposer_layers import (
    BoxHead,
    DecoderLayer,
    DeformableAttention,
    EncoderLayer,
    InputProjection,
    box_encoding,
    grid_encodings,
    inverse_sigmoid,
)


@dataclass
class ProposerOutput:
    """What the proposer says of B images, Q queries, N grid tokens, L decoder layers. Everything is float32.

    Attributes:
        boxes: ``(B, Q, 4)`` xyxy, normalised; may reach outside [0, 1].
        coco_logits, sa1b_logits: ``(B, Q)`` of the last layer's two objectness heads.
        score: ``(B, Q)`` fused objectness, ``sigmoid(coco)**a * sigmoid(sa1b)**b``.
        layer_boxes: ``(L, B, Q, 4)`` cxcywh, of every decoder layer.
        layer_coco_logits, layer_sa1b_logits: ``(L, B, Q)``.
        encoder_boxes: ``(B, N, 4)`` cxcywh, first-stage box of every grid token.
        encoder_logits: ``(B, N)`` first-stage objectness.
        selected: ``(B, Q)`` grid tokens that became queries, best first.
        query_features: ``(B, Q, proposer_dim)`` the last layer's queries.
    """

    boxes: Tensor
    coco_logits: Tensor
    sa1b_logits: Tensor
    score: Tensor
    layer_boxes: Tensor
    layer_coco_logits: Tensor
    layer_sa1b_logits: Tensor
    encoder_boxes: Tensor
    encoder_logits: Tensor
    selected: Tensor
    query_features: Tensor


class RegionProposer(nn.Module):
    """Patch tokens of the last ``proposer_layers`` encoder layers in, boxes and objectness out."""

    def __init__(self, config: GromaConfig):
        super().__init__()
        dim, layers = config.proposer_dim, config.proposer_decoder_layers
        if dim % 4:
            raise ValueError(f"proposer_dim is {dim}; the position encodings need a multiple of 4")
        self.input_layers = config.proposer_layers
        self.pyramid = config.proposer_features == "pyramid"
        self.num_queries = config.num_queries
        self.anchor_size = config.anchor_size
        self.accumulate = config.box_refinement == "accumulate"
        self.exponents = tuple(config.objectness_exponents)

        levels = config.proposer_layers if self.pyramid else 1
        sizes = (dim, config.proposer_heads, levels, config.proposer_points)
        rest = (config.proposer_ffn_dim, config.proposer_dropout)
        channels = config.vision_config.hidden_size
        self.input_proj = nn.ModuleList([InputProjection(channels, dim) for _ in range(levels)])
        self.level_embed = nn.Parameter(torch.empty(levels, dim))
        self.encoder = nn.ModuleList([EncoderLayer(*sizes, *rest) for _ in range(config.proposer_encoder_layers)])
        self.enc_output, self.enc_output_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        # The second half of this projection's output is unused; the LayerNorm runs over both, so the shapes stay.
        self.pos_trans, self.pos_trans_norm = nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim)
        self.query_content = nn.Embedding(config.num_queries, dim)
        self.decoder = nn.ModuleList([DecoderLayer(*sizes, *rest) for _ in range(layers)])
        # One box head a decoder layer, and the last one for the encoder's tokens.
        self.box_heads = nn.ModuleList([BoxHead(dim, config.proposer_box_head_dim) for _ in range(layers + 1)])
        self.class_embed_enc = nn.Linear(dim, 1)
        self.class_embed_coco = nn.ModuleList([nn.Linear(dim, 1) for _ in range(layers)])
        self.class_embed_sa1b = nn.ModuleList([nn.Linear(dim, 1) for _ in range(layers)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values of Deformable-DETR: boxes start at their anchors, objectness at one in a hundred."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        for head in self.box_heads:
            nn.init.zeros_(head.layers[-1].weight)
        for head in (self.class_embed_enc, *self.class_embed_coco, *self.class_embed_sa1b):
            nn.init.constant_(head.bias, -math.log(99))
        nn.init.normal_(self.level_embed)
        nn.init.normal_(self.query_content.weight)

    def forward(self, hidden_states: Sequence[Tensor]) -> ProposerOutput:
        """Propose regions.

        Args:
            hidden_states: the image encoder's layers ``(B, N, C)``, in order, patch tokens only (no CLS), row-major
                on a square grid; the last ``proposer_layers`` of them are used.

        Raises:
            ValueError: for too few layers, a grid that is not square, or fewer tokens than queries.
        """
        # Boxes in bfloat16 would be off by up to 1/512 of the image, so the proposer stays in float32 in a model that
        # is loaded in half precision (see load_checkpoint); it is a hundredth of a 7B model.
        x, position, centres, side = self._tokens([h.to(self.level_embed.dtype) for h in hidden_states])
        for layer in self.encoder:
            x = layer(x, position, centres, side)

        first_stage = self.enc_output_norm(self.enc_output(x))
        encoder_logits = self.class_embed_enc(first_stage).squeeze(-1).float()
        anchors = torch.cat([centres, torch.full_like(centres, self.anchor_size)], -1)
        encoder_box_logits = self.box_heads[-1](first_stage) + inverse_sigmoid(anchors)

        # A stable sort, so that equal logits (common in half precision) give one order on every device.
        selected = encoder_logits.detach().sort(dim=-1, descending=True, stable=True).indices[:, : self.num_queries]
        chosen = encoder_box_logits.detach().gather(1, selected[..., None].expand(-1, -1, 4))
        layer_boxes, queries = self._decode(x, chosen.sigmoid(), side)

        coco = torch.stack([head(q).squeeze(-1).float() for head, q in zip(self.class_embed_coco, queries)])
        sa1b = torch.stack([head(q).squeeze(-1).float() for head, q in zip(self.class_embed_sa1b, queries)])
        return ProposerOutput(
            boxes=cxcywh_to_xyxy(layer_boxes[-1]),
            coco_logits=coco[-1],
            sa1b_logits=sa1b[-1],
            score=coco[-1].sigmoid() ** self.exponents[0] * sa1b[-1].sigmoid() ** self.exponents[1],
            layer_boxes=layer_boxes,
            layer_coco_logits=coco,
            layer_sa1b_logits=sa1b,
            encoder_boxes=encoder_box_logits.sigmoid(),
            encoder_logits=encoder_logits,
            selected=selected,
            query_features=queries[-1],
        )

    def _tokens(self, hidden_states: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
        """Encoder input ``(B, L * N, dim)``, its position encoding, cell centres (x, y) and the grid's side."""
        if len(hidden_states) < self.input_layers:
            raise ValueError(f"the proposer reads {self.input_layers} layers, {len(hidden_states)} were given")
        states = list(hidden_states[-self.input_layers :])
        count = states[0].shape[1]
        side = math.isqrt(count)
        if side * side != count:
            raise ValueError(f"{count} patch tokens do not form a square grid; was the CLS token left in?")
        sources = states if self.pyramid else [torch.stack(states).mean(0)]
        if count * len(sources) < self.num_queries:
            raise ValueError(
                f"{count * len(sources)} grid tokens cannot give num_queries = {self.num_queries} proposals"
            )
        x = torch.cat([project(source) for project, source in zip(self.input_proj, sources)], 1)
        sine, centres = grid_encodings(side, x.shape[-1], x.device)
        position = (sine.to(self.level_embed.dtype) + self.level_embed[:, None]).flatten(0, 1)
        return x, position.to(x.dtype), centres.repeat(len(sources), 1), side

    def _decode(self, tokens: Tensor, references: Tensor, side: int) -> tuple[Tensor, list[Tensor]]:
        """Every layer's boxes ``(L, B, Q, 4)`` cxcywh and queries, from first-stage boxes ``(B, Q, 4)`` cxcywh."""
        encoding = box_encoding(references, tokens.shape[-1] // 2).to(tokens.dtype)
        position = self.pos_trans_norm(self.pos_trans(encoding)).chunk(2, -1)[0]
        x = self.query_content.weight.to(tokens.dtype).expand(len(tokens), -1, -1)
        boxes, queries, previous = [], [], references
        for layer, box_head in zip(self.decoder, self.box_heads):
            x = layer(x, position, tokens, references, side)
            delta = box_head(x)
            # Look forward twice: the output builds on the layer before with its gradient, the samples do not.
            boxes.append((delta + inverse_sigmoid(previous)).sigmoid())
            previous = (delta + inverse_sigmoid(references)).sigmoid()
            if self.accumulate:
                # The released code never moves the reference: its layers all refine, and sample around, the first.
                references = previous.detach()
            queries.append(x)
        return torch.stack(boxes), queries
