"""Perceive once, ask many: the user's view of a Groma model.

    groma = Groma.from_pretrained("groma-tiny")
    scene = groma.perceive(image)
    scene.ground(["the red cup", "a dog"])
    scene.describe([box])
    scene.chat("[grounding] What is going on?")

A :class:`Scene` holds everything that depends on the picture alone: boxes, region tokens and the language model's
key/value cache of the shared prompt prefix. Boxes are xyxy, normalised to the original image.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.cache_utils import DynamicCache

from groma_model.boxes import clip, iou_matrix
from groma_model.checkpoints import load_checkpoint, resolve_checkpoint
from groma_model.configuration import GromaConfig
from groma_model.grounded_text import Box, GroundedText, parse
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.packing import feature_indices
from groma_model.processing import BOX_PLACEHOLDER, GromaProcessor, render_question
from groma_model.regions import select_regions


class Exchange(NamedTuple):
    """An earlier question and its answer with markup.

    ``box`` is the user's box, named ``<box>`` in ``question``; ``regions`` the list that the answer's ``<ri>`` index.
    A later box changes the numbering, so answers are rewritten by their boxes.
    """

    question: str
    answer: str
    box: Box | None = None
    regions: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Query:
    """One question. ``kind`` chooses the model's native instruction (see ``PromptTemplate.native``) unless
    ``template`` is given; ``box`` is the user's, named ``<box>`` in ``text``; ``history`` are earlier exchanges,
    oldest first (plain (question, answer) pairs will do where they name no box and no region)."""

    kind: str
    text: str | None = None
    box: Box | None = None
    history: tuple[Exchange | tuple[str, str], ...] = ()
    template: str | None = None

    def exchanges(self) -> list[Exchange]:
        """The history with every entry in full."""
        return [Exchange(*entry) for entry in self.history]

    def boxes(self) -> tuple[Box, ...]:
        """The user's boxes of the whole dialogue, in order."""
        every = [*(e.box for e in self.exchanges()), self.box]
        return tuple(tuple(b) for b in every if b is not None)


@dataclass(frozen=True)
class Answer:
    """A model's answer: text with markup, the same parsed, the rendered question, and the regions it could name."""

    raw: str
    grounded: GroundedText
    prompt: str
    regions: tuple[Box, ...] = ()


@dataclass
class Scene:
    """A perceived image, on the CPU what users read: ``boxes`` (R, 4) and ``objectness`` (R,) of the regions that text
    can point at, ``proposals`` (Q, 4) and ``proposal_scores`` (Q,) of all proposals before selection; best first."""

    groma: Groma
    width: int
    height: int
    boxes: Tensor
    objectness: Tensor
    proposals: Tensor
    proposal_scores: Tensor
    hidden_states: list[Tensor]  # (1, N, C) each
    image_tokens: Tensor  # (M, H)
    region_tokens: Tensor  # (R, H)
    history: list[Exchange | tuple[str, str]] = field(default_factory=list)
    _prefix: _Prefix | None = None

    def ground(
        self, phrases: Sequence[str], all_instances: bool = True, max_new_tokens: int = 32
    ) -> list[GroundedText]:
        """Find each phrase: one :class:`GroundedText` a phrase, whose ``boxes`` carry ``confidences``."""
        kind = "ground_all" if all_instances else "ground_one"
        answers = self.groma.answer([self], [[Query(kind, phrase) for phrase in phrases]], max_new_tokens)
        return [a.grounded for a in answers[0]]

    def describe(self, boxes: Sequence[Box], max_new_tokens: int = 48) -> list[str]:
        """Describe the user's boxes: one text a box."""
        answers = self.groma.answer([self], [[Query("describe", box=tuple(b)) for b in boxes]], max_new_tokens)
        return [a.grounded.text for a in answers[0]]

    def chat(
        self,
        question: str,
        history: Sequence[Exchange | tuple[str, str]] | None = None,
        boxes: Sequence[Box] = (),
        max_new_tokens: int = 128,
    ) -> GroundedText:
        """Ask anything; the dialogue continues.

        Args:
            question: free text. ``<box>`` stands for the user's box; it is appended where the text does not place it.
            history: earlier exchanges that replace this scene's own.
            boxes: at most one box for this question.
        """
        if len(boxes) > 1:
            raise ValueError("one box a question: ask about the boxes one after the other")
        if history is not None:
            self.history = list(history)
        box = tuple(boxes[0]) if boxes else None
        if box is not None and BOX_PLACEHOLDER not in question:
            question = f"{question} {BOX_PLACEHOLDER}"
        query = Query("converse", question, box, tuple(self.history))
        answer = self.groma.answer([self], [[query]], max_new_tokens)[0][0]
        self.history.append(Exchange(question, answer.raw, box, answer.regions))
        return answer.grounded


@dataclass
class _Prefix:
    """The prefilled prefix for one list of regions: cache, features (1, M + R, H), pointer keys (R, d)."""

    length: int
    cache: DynamicCache
    features: Tensor
    pointer_keys: Tensor | None
    boxes: list[Box]
    user_index: list[int]


class Groma:
    """A loaded model with its processor."""

    def __init__(self, model: GromaForConditionalGeneration, processor: GromaProcessor, checkpoint_hash: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.config: GromaConfig = model.config
        self.checkpoint_hash = checkpoint_hash

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
    ) -> Groma:
        """Load the bundled ``groma-tiny``, a folder, or a hub id.

        Raises:
            ValueError: one line, when it is not a Groma checkpoint or does not fit its own configuration.
        """
        folder = resolve_checkpoint(name)
        model, processor = load_checkpoint(folder, dtype)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        digest = hashlib.sha256()
        for path in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
            digest.update(path.read_bytes())
        return cls(model.to(device), processor, digest.hexdigest())

    @property
    def num_parameters(self) -> int:
        """All parameters, each counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def native_prompts(self) -> dict[str, str]:
        """The instruction template of each kind of question."""
        return dict(self.processor.template.native)

    def perceive(self, image: Image.Image) -> Scene:
        """One picture of any size."""
        return self.perceive_batch([image])[0]

    @torch.inference_mode()
    def perceive_batch(self, images: Sequence[Image.Image]) -> list[Scene]:
        """Pictures in one batch; each is encoded once."""
        if not images:
            return []
        pixels = self.processor.pixel_values(images).to(self.model.device, self.model.dtype)
        perception = self.model.perceive(pixels)
        scenes = []
        for i, (image, selection) in enumerate(zip(images, perception.selections, strict=True)):
            ranked = perception.proposals.score[i].float().cpu().sort(descending=True, stable=True)
            scenes.append(
                Scene(
                    self,
                    image.width,
                    image.height,
                    selection.boxes.float().cpu(),
                    selection.scores.float().cpu(),
                    clip(perception.proposals.boxes[i].float().cpu()[ranked.indices]),
                    ranked.values,
                    [state[i : i + 1] for state in perception.hidden_states],
                    perception.image_tokens[i],
                    perception.region_tokens[i],
                )
            )
        return scenes

    @torch.inference_mode()
    def answer(
        self, scenes: Sequence[Scene], queries: Sequence[Sequence[Query]], max_new_tokens: int
    ) -> list[list[Answer]]:
        """Answer every question about every scene, greedily.

        Questions that share their list of regions share the prefix's cache and are decoded together; a user's box
        that is not among the regions makes a list of its own.
        """
        return [
            self._answer_scene(scene, list(asked), max_new_tokens) for scene, asked in zip(scenes, queries, strict=True)
        ]

    def _answer_scene(self, scene: Scene, queries: list[Query], max_new_tokens: int) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(queries)
        groups: dict[tuple[Box, ...], list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault(query.boxes(), []).append(i)
        for boxes, members in groups.items():
            prefix = self._prefix(scene, boxes)
            asked = [self._encode(queries[i], prefix) for i in members]
            self._check_length(prefix.length + max(len(ids) for ids, _, _ in asked) + max_new_tokens)
            decoded = self._decode(prefix, [(ids, refer) for ids, refer, _ in asked], max_new_tokens)
            for i, (ids, confidences), (_, _, prompt) in zip(members, decoded, asked, strict=True):
                raw = self.processor.decode(ids).strip()
                answers[i] = Answer(raw, parse(raw, prefix.boxes, confidences), prompt, tuple(prefix.boxes))
        return [a for a in answers if a is not None]

    def _check_length(self, length: int) -> None:
        limit = self.config.llm_config.max_position_embeddings
        if length > limit:
            raise ValueError(f"the dialogue needs {length} positions, the language model has {limit}: shorten it")

    # ------------------------------------------------------------------ prompts
    def _encode(self, query: Query, prefix: _Prefix) -> tuple[list[int], list[int], str]:
        """Ids of a dialogue behind the prefix, the region of each referral, and the rendered question."""
        ids: list[int] = []
        refer: list[int] = []
        prompts = []
        regions = iter(prefix.user_index)
        native = self.processor.template.native
        for exchange in query.exchanges():
            named = [next(regions)] if exchange.box is not None else []
            rendered = render_question(native["converse"], exchange.question, bool(named))
            raw = _renumber(exchange, prefix.boxes)
            ids += self.processor.question_ids(rendered, named)
            ids += [*self.processor.encode(raw), self.processor.eos_id]
            refer += named
            prompts += [self.processor.template.question(rendered), f" {raw}</s>"]
        named = [next(regions)] if query.box is not None else []
        rendered = render_question(query.template or native[query.kind], query.text, bool(named))
        ids += self.processor.question_ids(rendered, named)
        prompts.append(self.processor.template.question(rendered))
        return ids, refer + named, "".join(prompts)

    # ------------------------------------------------------------------ the shared prefix
    def _prefix(self, scene: Scene, boxes: tuple[Box, ...]) -> _Prefix:
        if not boxes:
            if scene._prefix is None:
                scene._prefix = self._prefill(scene, scene.boxes, scene.region_tokens, [])
            return scene._prefix
        given = torch.tensor(boxes, dtype=torch.float32)
        regions, user_index = _add_boxes(scene, given, self.config)
        tokens = self.model.encode_regions(scene.hidden_states, [regions.to(self.model.device)])[0]
        return self._prefill(scene, regions, tokens, user_index)

    def _prefill(self, scene: Scene, boxes: Tensor, region_tokens: Tensor, user_index: list[int]) -> _Prefix:
        model, processor = self.model, self.processor
        count = len(scene.image_tokens)
        ids = processor.prefix_ids(count, len(boxes))
        names = processor.ids
        index = feature_indices(ids, names["<image>"], names["<region>"], names["<refer_feat>"], count)
        features = torch.cat([scene.image_tokens, region_tokens.to(scene.image_tokens.dtype)])[None]
        id_tensor = torch.tensor([ids], device=model.device)
        embeddings = model.embed(id_tensor, torch.tensor([index], device=model.device), features, count)
        cache = DynamicCache(config=self.config.llm_config)
        length = len(ids)
        causal = torch.ones(length, length, dtype=torch.bool, device=model.device).tril()[None, None]
        hidden = model.run_llm(embeddings, causal, torch.arange(length, device=model.device)[None], cache)
        keys = None
        if model.pointer is not None:
            at_regions = hidden[0, [t for t, token in enumerate(ids) if token == names["<region>"]]]
            keys = model.pointer.keys(at_regions, region_tokens.to(hidden.dtype))
        return _Prefix(length, cache, features, keys, [tuple(b) for b in boxes.tolist()], user_index)

    # ------------------------------------------------------------------ decoding
    def _decode(
        self, prefix: _Prefix, asked: Sequence[tuple[list[int], list[int]]], max_new_tokens: int
    ) -> list[tuple[list[int], list[float]]]:
        """Greedy ids (without the end) and the probability of each region token among them, for each question.

        Questions of different lengths are padded on the right; padding is never attended to and positions are each
        question's own, so an answer does not depend on its neighbours.
        """
        model, processor = self.model, self.processor
        device, rows = model.device, len(asked)
        names, count = processor.ids, prefix.features.shape[1] - len(prefix.boxes)
        lengths = torch.tensor([len(ids) for ids, _ in asked], device=device)
        longest = int(lengths.max())
        ids = torch.full((rows, longest), names["[PAD]"], device=device)
        index = torch.full((rows, longest), -1, device=device)
        for row, (tokens, refer) in enumerate(asked):
            ids[row, : len(tokens)] = torch.tensor(tokens, device=device)
            places = feature_indices(tokens, -1, -1, names["<refer_feat>"], count, refer)
            index[row, : len(tokens)] = torch.tensor(places, device=device)
        features = prefix.features.expand(rows, -1, -1)
        cache = copy.deepcopy(prefix.cache)
        if rows > 1:
            cache.batch_repeat_interleave(rows)
        offsets = torch.arange(longest, device=device)
        known = offsets[None] < lengths[:, None]  # (rows, longest): real question tokens
        past = torch.ones(rows, 1, longest, prefix.length, dtype=torch.bool, device=device)
        causal = (offsets[None, :] <= offsets[:, None])[None, None] & known[:, None, None, :]
        positions = (prefix.length + offsets)[None].expand(rows, -1)
        embeddings = model.embed(ids, index, features, count)
        hidden = model.run_llm(embeddings, torch.cat([past, causal], -1), positions, cache)
        last = hidden[torch.arange(rows, device=device), lengths - 1]
        keys = None if prefix.pointer_keys is None else prefix.pointer_keys.expand(rows, -1, -1)
        regions = torch.full((rows,), len(prefix.boxes), device=device)
        visible = torch.cat([past[:, 0, 0], known], -1)  # (rows, past + longest)
        outputs: list[list[int]] = [[] for _ in range(rows)]
        confidences: list[list[float]] = [[] for _ in range(rows)]
        running = torch.ones(rows, dtype=torch.bool, device=device)
        first = model.first_region_id
        for step in range(max_new_tokens):
            logits = model.logits(last, keys, regions)
            best, chosen = logits.max(-1)
            probability = (best - logits.logsumexp(-1)).exp()
            for row in range(rows):
                if not running[row]:
                    continue
                token = int(chosen[row])
                if token == processor.eos_id:
                    running[row] = False
                    continue
                outputs[row].append(token)
                if token >= first:
                    confidences[row].append(float(probability[row]))
            if step + 1 == max_new_tokens or not bool(running.any()):
                break
            chosen = chosen.unsqueeze(1)
            visible = torch.cat([visible, visible.new_ones(rows, 1)], -1)
            embeddings = model.embed(chosen, torch.full_like(chosen, -1), features, count)
            hidden = model.run_llm(
                embeddings, visible[:, None, None, :], (prefix.length + lengths + step)[:, None], cache
            )
            last = hidden[:, -1]
        return list(zip(outputs, confidences, strict=True))


def _renumber(exchange: Exchange, regions: Sequence[Box]) -> str:
    """An earlier answer with each ``<ri>`` naming the region that now stands for the same box."""
    if not exchange.regions or not regions or tuple(regions) == tuple(exchange.regions):
        return exchange.answer
    overlaps = iou_matrix(torch.tensor(exchange.regions), torch.tensor(list(regions)))
    nearest = overlaps.argmax(-1).tolist()

    def rename(match: re.Match[str]) -> str:
        index = int(match.group(1))
        return f"<r{nearest[index]}>" if index < len(nearest) else ""

    return re.sub(r"<r(\d+)>", rename, exchange.answer)


def _add_boxes(scene: Scene, given: Tensor, config: GromaConfig) -> tuple[Tensor, list[int]]:
    """The user's boxes join the regions; regions that overlap one too much give way to it."""
    selection = select_regions(scene.boxes, scene.objectness, config, user_boxes=given)
    return selection.boxes, selection.user_index.tolist()
