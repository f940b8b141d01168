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

from groma_model.boxes import iou_matrix
from groma_model.checkpoints import checkpoint_digest, load_checkpoint, resolve_checkpoint
from groma_model.configuration import GromaConfig
from groma_model.decoding import Job, decode, row_padding
from groma_model.detection import ranked_proposals
from groma_model.grounded_text import Box, GroundedText, parse
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.placement import count_parameters
from groma_model.prefixes import PASS_TOKENS, Prefix, Stem, boxed_prefixes, own_prefix, prefill
from groma_model.processing import BOX_PLACEHOLDER, GromaProcessor, render_question


class Exchange(NamedTuple):
    """An earlier question and its answer with markup.

    ``boxes`` are the user's, each named ``<box>`` in ``question``; ``regions`` the list that the answer's ``<ri>``
    index. A later box changes the numbering, so answers are rewritten by their boxes.
    """

    question: str
    answer: str
    boxes: tuple[Box, ...] = ()
    regions: tuple[Box, ...] = ()


#: Memory that the key/value caches of questions decoded together may take; see :func:`cache_room`.
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
    _stem: Stem | None = None

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

        The part of the prompt that a picture's questions share is prefilled once; a user's box that is not among the
        regions makes a list of its own, whose questions share what comes before the regions. All questions, of all
        scenes, are decoded together as far as memory allows. Scenes keep their prefix where all of them fit at once.

        Raises:
            ValueError: a dialogue is too long for the model, or names more boxes than are given.
        """
        jobs: list[Job] = []
        for scene, asked in zip(scenes, queries, strict=True):
            prefixes = self._prefixes(scene, [query.all_boxes() for query in asked])
            jobs += [self._job(query, prefixes[query.all_boxes()]) for query in asked]
        answers = []
        chunks = list(self._chunks(jobs, max_new_tokens))
        for number, chunk in enumerate(chunks):
            self._prefill(chunk)
            for job, (ids, confidences) in zip(chunk, self._decode(chunk, max_new_tokens), strict=True):
                raw = self.processor.decode(ids).strip()
                regions = tuple(job.prefix.boxes)
                answers.append(Answer(raw, parse(raw, regions, confidences), job.prompt, regions))
            if len(chunks) > 1:
                needed = {id(job.prefix.scene) for job in chunks[number + 1]} if number + 1 < len(chunks) else set()
                for job in chunk:
                    if id(job.prefix.scene) not in needed:
                        job.prefix.scene._stem = None
        remaining = iter(answers)
        return [[next(remaining) for _ in asked] for asked in queries]

    def _chunks(self, jobs: list[Job], max_new_tokens: int) -> Iterator[list[Job]]:
        """Questions in order, so many at a time that all caches stay within :func:`cache_room` and one pass within
        ``PASS_TOKENS`` (a question alone may exceed them)."""
        llm = self.config.llm_config
        width = llm.num_key_value_heads * (llm.hidden_size // llm.num_attention_heads)
        position = 2 * llm.num_hidden_layers * width * torch.finfo(self.model.dtype).bits // 8
        device = self.model.device
        room = cache_room(device) // (position * row_padding(device))
        chunk: list[Job] = []
        held = tokens = 0
        scene = None
        for job in jobs:
            length = job.prefix.length + len(job.ids) + max_new_tokens
            limit = llm.max_position_embeddings
            if length > limit:
                raise ValueError(f"the dialogue needs {length} positions, the language model has {limit}: shorten it")
            own = len(job.block)
            # A picture's prefix is held by the scene and once more in the cache that its questions stand in.
            more = own + max_new_tokens + (0 if scene is job.prefix.scene else 2 * job.prefix.own.length)
            if chunk and (held + more > room or tokens + own > PASS_TOKENS):
                yield chunk
                chunk, held, tokens = [], 0, 0
                more = own + max_new_tokens + 2 * job.prefix.own.length
            chunk.append(job)
            held, tokens, scene = held + more, tokens + own, job.prefix.scene
        if chunk:
            yield chunk

    # ------------------------------------------------------------------ prompts
    def _prefixes(self, scene: Scene, asked: Sequence[tuple[Box, ...]]) -> dict[tuple[Box, ...], Prefix]:
        """The prefix of each of the lists of users' boxes; that of no box is always among them."""
        own = own_prefix(self.processor, scene)
        lists = list(dict.fromkeys(boxes for boxes in asked if boxes))
        boxed = boxed_prefixes(self.model, self.processor, own, lists) if lists else []
        return {(): own} | dict(zip(lists, boxed, strict=True))

    def _job(self, query: Query, prefix: Prefix) -> Job:
        """A question behind its prefix: its dialogue's ids, the region of each referral, and the rendered question."""
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
        return Job(prefix, ids, refer + named, "".join(prompts), query.kind in ("ground_one", "ground_all"))

    # ------------------------------------------------------------------ prefill and decoding
    def _prefill(self, jobs: Sequence[Job]) -> None:
        """Give the scenes what these questions share of their prefixes."""
        needed: dict[int, tuple[Prefix, int]] = {}
        for job in jobs:
            own, length = job.prefix.own, job.prefix.shared
            needed[id(own.scene)] = (own, max(length, needed.get(id(own.scene), (own, 0))[1]))
        missing = [(own, n) for own, n in needed.values() if own.scene._stem is None or own.scene._stem.length < n]
        stems = prefill(self.model, self.processor, [own for own, _ in missing], [length for _, length in missing])
        for (own, _), stem in zip(missing, stems, strict=True):
            own.scene._stem = stem

    def _decode(self, jobs: Sequence[Job], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        """Greedy ids (without the end) and the probability of each region token among them, for each question."""
        return decode(self.model, self.processor, jobs, lambda job: job.prefix.scene._stem, max_new_tokens)


def cache_room(device: torch.device) -> int:
    """Bytes that the key/value caches of questions decoded together may take: ``CACHE_BYTES``, or half of what a CUDA
    device has free where that is more."""
    if device.type != "cuda":
        return CACHE_BYTES
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(CACHE_BYTES, (torch.cuda.mem_get_info(device)[0] + unused) // 2)


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
