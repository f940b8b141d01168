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

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.cache_utils import DynamicCache

from groma_model.boxes import iou_matrix
from groma_model.checkpoints import checkpoint_digest, load_checkpoint, resolve_checkpoint
from groma_model.configuration import GromaConfig
from groma_model.detection import ranked_proposals
from groma_model.grounded_text import Box, GroundedText, parse
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.packing import feature_indices
from groma_model.placement import count_parameters
from groma_model.processing import BOX_PLACEHOLDER, GromaProcessor, render_question
from groma_model.regions import select_regions, shuffle


class Exchange(NamedTuple):
    """An earlier question and its answer with markup.

    ``boxes`` are the user's, each named ``<box>`` in ``question``; ``regions`` the list that the answer's ``<ri>``
    index. A later box changes the numbering, so answers are rewritten by their boxes.
    """

    question: str
    answer: str
    boxes: tuple[Box, ...] = ()
    regions: tuple[Box, ...] = ()


#: Most memory that the key/value caches of questions decoded together may take.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Query:
    """One question. ``kind`` chooses the model's native instruction (see ``PromptTemplate.native``) unless
    ``template`` is given; ``boxes`` are the user's, named ``<box>`` in ``text``; ``history`` are earlier exchanges,
    oldest first (plain (question, answer) pairs will do where they name no box and no region)."""

    kind: str
    text: str | None = None
    boxes: tuple[Box, ...] = ()
    history: tuple[Exchange | tuple[str, str], ...] = ()
    template: str | None = None

    def exchanges(self) -> list[Exchange]:
        """The history with every entry in full."""
        return [Exchange(*entry) for entry in self.history]

    def all_boxes(self) -> tuple[Box, ...]:
        """The user's boxes of the whole dialogue, in order."""
        turns = [*(e.boxes for e in self.exchanges()), self.boxes]
        return tuple(tuple(box) for boxes in turns for box in boxes)


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
    region_maps: list[Tensor]  # (1, C, H, W) each
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
        answers = self.groma.answer([self], [[Query("describe", boxes=(tuple(b),)) for b in boxes]], max_new_tokens)
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
            question: free text. Each ``<box>`` stands for one of the user's boxes, in order; those that the text does
                not place are appended.
            history: earlier exchanges that replace this scene's own.
            boxes: what this question is about, if it is about boxes.

        Raises:
            ValueError: the question names more boxes than are given, or the dialogue is too long for the model.
        """
        if history is not None:
            self.history = list(history)
        boxes = tuple(tuple(box) for box in boxes)
        question += f" {BOX_PLACEHOLDER}" * max(0, len(boxes) - question.count(BOX_PLACEHOLDER))
        query = Query("converse", question, boxes, tuple(self.history))
        answer = self.groma.answer([self], [[query]], max_new_tokens)[0][0]
        self.history.append(Exchange(question, answer.raw, boxes, answer.regions))
        return answer.grounded


@dataclass
class _Prefix:
    """The prefilled prefix for one list of regions: cache, image tokens (M, H), region tokens (R, H), keys (R, d)."""

    length: int
    cache: DynamicCache
    image_tokens: Tensor
    region_tokens: Tensor
    pointer_keys: Tensor | None
    boxes: list[Box]
    user_index: list[int]


@dataclass
class _Job:
    """One question: its prefix, its ids behind it, the region of each referral, and the rendered prompt."""

    prefix: _Prefix
    ids: list[int]
    refer: list[int]
    prompt: str


class Groma:
    """A loaded model with its processor."""

    def __init__(self, model: GromaForConditionalGeneration, processor: GromaProcessor, checkpoint_hash: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.config: GromaConfig = model.config
        self.checkpoint_hash = checkpoint_hash

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        device_map: str | Mapping[int, torch.device | str | int] | None = None,
        quantization: str | None = None,
        attn_implementation: str | None = None,
    ) -> Groma:
        """Load the bundled ``groma-tiny``, a folder, or a hub id.

        Args:
            device_map, quantization, attn_implementation: see :func:`groma_model.placement.plan`.

        Raises:
            ValueError: one line, when it is not a Groma checkpoint, does not fit its own configuration, or an option
                is not to be had.
        """
        folder = resolve_checkpoint(name)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, processor = load_checkpoint(
            folder,
            dtype,
            device,
            device_map=device_map,
            quantization=quantization,
            attn_implementation=attn_implementation,
        )
        return cls(model, processor, checkpoint_digest(folder))

    @property
    def num_parameters(self) -> int:
        """All parameters, each counted once."""
        return count_parameters(self.model)

    @property
    def native_prompts(self) -> dict[str, str]:
        """The instruction template of each kind of question."""
        return dict(self.processor.template.native)

    def perceive(self, image: Image.Image) -> Scene:
        """One picture of any size."""
        return self.perceive_batch([image])[0]

    @torch.inference_mode()
    def perceive_batch(self, images: Sequence[Image.Image], resize: str = "pil") -> list[Scene]:
        """Pictures in one batch; each is encoded once. ``resize``: see :meth:`GromaProcessor.pixel_values`."""
        if not images:
            return []
        pixels = self.processor.pixel_values(images, resize=resize).to(self.model.device, self.model.dtype)
        perception = self.model.perceive(pixels)
        scenes = []
        for i, (image, selection) in enumerate(zip(images, perception.selections, strict=True)):
            scenes.append(
                Scene(
                    self,
                    image.width,
                    image.height,
                    selection.boxes.float().cpu(),
                    selection.scores.float().cpu(),
                    *ranked_proposals(perception.proposals, i, self.config),
                    [level[i : i + 1] for level in perception.region_maps],
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

        Questions that share their list of regions share the prefix's cache; a user's box that is not among the regions
        makes a list of its own. All questions, of all scenes, are decoded together as far as memory allows.
        """
        jobs: list[_Job] = []
        for scene, asked in zip(scenes, queries, strict=True):
            prefixes: dict[tuple[Box, ...], _Prefix] = {}
            for query in asked:
                boxes = query.all_boxes()
                if boxes not in prefixes:
                    prefixes[boxes] = self._prefix(scene, boxes)
                jobs.append(_Job(prefixes[boxes], *self._encode(query, prefixes[boxes])))
        answers = []
        for chunk in self._chunks(jobs, max_new_tokens):
            for job, (ids, confidences) in zip(chunk, self._decode(chunk, max_new_tokens), strict=True):
                raw = self.processor.decode(ids).strip()
                regions = tuple(job.prefix.boxes)
                answers.append(Answer(raw, parse(raw, regions, confidences), job.prompt, regions))
        remaining = iter(answers)
        return [[next(remaining) for _ in asked] for asked in queries]

    def _chunks(self, jobs: list[_Job], max_new_tokens: int) -> Iterator[list[_Job]]:
        """Questions in order, so many at a time that their caches stay within ``CACHE_BYTES``."""
        llm = self.config.llm_config
        width = llm.num_key_value_heads * (llm.hidden_size // llm.num_attention_heads)
        position = 2 * llm.num_hidden_layers * width * torch.finfo(self.model.dtype).bits // 8
        chunk: list[_Job] = []
        longest = 0
        for job in jobs:
            length = job.prefix.length + len(job.ids) + max_new_tokens
            limit = llm.max_position_embeddings
            if length > limit:
                raise ValueError(f"the dialogue needs {length} positions, the language model has {limit}: shorten it")
            longest = max(longest, length)
            if chunk and (len(chunk) + 1) * longest * position > CACHE_BYTES:
                yield chunk
                chunk, longest = [], length
            chunk.append(job)
        if chunk:
            yield chunk

    # ------------------------------------------------------------------ prompts
    def _encode(self, query: Query, prefix: _Prefix) -> tuple[list[int], list[int], str]:
        """Ids of a dialogue behind the prefix, the region of each referral, and the rendered question."""
        ids: list[int] = []
        refer: list[int] = []
        prompts = []
        regions = iter(prefix.user_index)
        native = self.processor.template.native
        for exchange in query.exchanges():
            named = [next(regions) for _ in exchange.boxes]
            rendered = render_question(native["converse"], exchange.question, len(named))
            raw = _renumber(exchange, prefix.boxes)
            ids += self.processor.question_ids(rendered, named)
            ids += self.processor.answer_ids(raw)
            refer += named
            prompts += [self.processor.template.question(rendered), f" {raw}</s>"]
        named = [next(regions) for _ in query.boxes]
        rendered = render_question(query.template or native[query.kind], query.text, len(named))
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
        tokens = self.model.encode_regions(scene.region_maps, [regions.to(self.model.device)])[0]
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
        listed = [tuple(b) for b in boxes.tolist()]
        return _Prefix(length, cache, scene.image_tokens, features[0, count:], keys, listed, user_index)

    # ------------------------------------------------------------------ decoding
    def _decode(self, jobs: Sequence[_Job], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """Greedy ids (without the end) and the probability of each region token among them, for each question.

        Prefixes and questions of different lengths are padded on the right; padding is never attended to and positions
        are each question's own, so an answer does not depend on its neighbours.
        """
        model, processor, device = self.model, self.processor, self.model.device
        rows, padding = len(jobs), processor.ids["[PAD]"]
        prefix_lengths = torch.tensor([job.prefix.length for job in jobs], device=device)
        lengths = torch.tensor([len(job.ids) for job in jobs], device=device)
        past, longest = int(prefix_lengths.max()), int(lengths.max())
        cache, features, keys, regions = self._stack(jobs, past)
        count = len(jobs[0].prefix.image_tokens)
        refer_id = processor.ids["<refer_feat>"]
        places = [feature_indices(job.ids, -1, -1, refer_id, count, job.refer) for job in jobs]
        ids = torch.tensor([job.ids + [padding] * (longest - len(job.ids)) for job in jobs], device=device)
        index = torch.tensor([place + [-1] * (longest - len(place)) for place in places], device=device)
        offsets = torch.arange(longest, device=device)
        known = offsets < lengths[:, None]  # (rows, longest): real question tokens
        prefix_known = torch.arange(past, device=device) < prefix_lengths[:, None]
        causal = (offsets[None, :] <= offsets[:, None]) & known[:, None, :]
        mask = torch.cat([prefix_known[:, None, :].expand(-1, longest, -1), causal], -1)[:, None]
        positions = prefix_lengths[:, None] + offsets
        hidden = model.run_llm(model.embed(ids, index, features, count), mask, positions, cache)
        last = hidden[torch.arange(rows, device=device), lengths - 1]
        visible = torch.cat([prefix_known, known], -1)  # (rows, past + longest)
        running = torch.ones(rows, dtype=torch.bool, device=device)
        chosen_ids, chosen_probabilities = [], []
        for step in range(max_new_tokens):
            logits = model.logits(last, keys, regions)
            best, chosen = logits.max(-1)
            running = running & (chosen != processor.eos_id) & (chosen != padding)
            chosen_ids.append(torch.where(running, chosen, padding))
            chosen_probabilities.append((best - logits.logsumexp(-1)).exp())
            if step + 1 == max_new_tokens or not bool(running.any()):
                break
            chosen = chosen.unsqueeze(1)
            visible = torch.cat([visible, visible.new_ones(rows, 1)], -1)
            embeddings = model.embed(chosen, torch.full_like(chosen, -1), features, count)
            position = (prefix_lengths + lengths + step)[:, None]
            last = model.run_llm(embeddings, visible[:, None, None, :], position, cache)[:, -1]
        table = torch.stack(chosen_ids, 1).tolist()
        probabilities = torch.stack(chosen_probabilities, 1).tolist()
        first = model.first_region_id
        results = []
        for tokens, chances in zip(table, probabilities, strict=True):
            end = tokens.index(padding) if padding in tokens else len(tokens)
            results.append((tokens[:end], [c for t, c in zip(tokens[:end], chances, strict=False) if t >= first]))
        return results

    def _stack(self, jobs: Sequence[_Job], past: int) -> tuple[DynamicCache, Tensor, Tensor | None, Tensor]:
        """The prefixes of several questions as one batch, padded on the right to ``past`` positions.

        Returns the cache, features (rows, M + R, H), pointer keys (rows, R, d) and the number of regions (rows,).
        """
        unique = list({id(job.prefix): job.prefix for job in jobs}.values())
        place = {id(prefix): i for i, prefix in enumerate(unique)}
        rows = torch.tensor([place[id(job.prefix)] for job in jobs], device=self.model.device)
        cache = DynamicCache(config=self.config.llm_config)
        for layer in range(self.config.llm_config.num_hidden_layers):
            stored = [p.cache.layers[layer] for p in unique]
            chosen = rows.to(stored[0].keys.device)  # a layer away from the main device keeps its cache there
            keys = torch.cat([_pad_rows(s.keys, past) for s in stored])[chosen]
            values = torch.cat([_pad_rows(s.values, past) for s in stored])[chosen]
            cache.update(keys, values, layer)
        most = max(len(p.region_tokens) for p in unique)
        features = torch.stack([torch.cat([p.image_tokens, _pad_rows(p.region_tokens, most)]) for p in unique])[rows]
        pointer_keys = None
        if self.model.pointer is not None:
            pointer_keys = torch.stack([_pad_rows(p.pointer_keys, most) for p in unique])[rows]
        counts = torch.tensor([len(job.prefix.boxes) for job in jobs], device=self.model.device)
        return cache, features, pointer_keys, counts


def _pad_rows(tensor: Tensor, length: int) -> Tensor:
    """Zeros behind the second last dimension up to ``length``."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, length - tensor.shape[-2]))


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
    selection = select_regions(scene.proposals, scene.proposal_scores, config, user_boxes=given)
    if config.region_order == "shuffled":
        selection = shuffle(selection)
    return selection.boxes, selection.user_index.tolist()
