"""The reference way: one expression at a time, nothing shared, as released evaluation scripts do.

For each expression the picture is perceived again, the whole prompt is prefilled and the answer decoded token by token
with a key/value cache, in batches of one: the modules are those of the shared way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers.cache_utils import DynamicCache

from groma_eval.speed.stages import wait
from groma_model.generation import Groma
from groma_model.modeling import Perception
from groma_model.packing import feature_indices
from groma_model.processing import render_question


@dataclass(frozen=True)
class OneAnswer:
    """Token ids of an answer, and seconds: ``perception`` of the picture, ``prompt`` and decoding, and what the
    prefix of the prompt takes alone (``prefix``, measured apart)."""

    ids: list[int]
    perception: float
    prompt: float
    prefix: float

    @property
    def image_seconds(self) -> float:
        """P: perception and prefix, what depends on the picture alone."""
        return self.perception + self.prefix

    @property
    def question_seconds(self) -> float:
        """q: the rest of the prompt and the decoding."""
        return self.prompt - self.prefix


@torch.inference_mode()
def answer_alone(groma: Groma, picture: Image.Image, text: str, new_tokens: int) -> OneAnswer:
    """Ask one expression of one picture."""
    model, processor = groma.model, groma.processor
    device = model.device
    wait(device)
    started = time.perf_counter()
    perception = model.perceive(processor.pixel_values([picture]).to(device, model.dtype))
    wait(device)
    perceived = time.perf_counter()
    question = processor.question_ids(render_question(processor.template.native["ground_one"], text, 0))
    ids = _decode(groma, perception, question, new_tokens)
    wait(device)
    answered = time.perf_counter()
    _prefill(groma, perception, [])
    wait(device)
    prefilled = time.perf_counter()
    return OneAnswer(ids, perceived - started, answered - perceived, prefilled - answered)


def _prefill(groma: Groma, perception: Perception, question: list[int]) -> tuple[Tensor, Tensor, Tensor, DynamicCache]:
    """Prefix and question in one pass: hidden states (1, T, H), features (1, M + R, H), ids (1, T) and the cache."""
    model, processor = groma.model, groma.processor
    names, device = processor.ids, model.device
    regions, count = perception.region_tokens[0], perception.image_tokens.shape[1]
    ids = processor.prefix_ids(count, len(regions)) + question
    index = feature_indices(ids, names["<image>"], names["<region>"], names["<refer_feat>"], count)
    features = torch.cat([perception.image_tokens[0], regions.to(perception.image_tokens.dtype)])[None]
    id_tensor = torch.tensor([ids], device=device)
    embeddings = model.embed(id_tensor, torch.tensor([index], device=device), features, count)
    cache = DynamicCache(config=groma.config.llm_config)
    length = len(ids)
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
    hidden = model.run_llm(embeddings, causal, torch.arange(length, device=device)[None], cache)
    return hidden, features, id_tensor, cache


def _decode(groma: Groma, perception: Perception, question: list[int], new_tokens: int) -> list[int]:
    model, device = groma.model, groma.model.device
    hidden, features, ids, cache = _prefill(groma, perception, question)
    regions, count = perception.region_tokens[0], perception.image_tokens.shape[1]
    keys = None
    if model.pointer is not None:
        at_regions = hidden[0, ids[0] == groma.processor.ids["<region>"]]
        keys = model.pointer.keys(at_regions, regions.to(hidden.dtype))[None]
    number = torch.tensor([len(regions)], device=device)
    length, last = ids.shape[1], hidden[:, -1]
    chosen: list[int] = []
    while True:
        token = model.logits(last, keys, number).argmax(-1)
        chosen.append(int(token))
        if len(chosen) == new_tokens:
            return chosen
        position = length + len(chosen) - 1
        token = token[:, None]
        embedding = model.embed(token, torch.full_like(token, -1), features, count)
        visible = torch.ones(1, 1, 1, position + 1, dtype=torch.bool, device=device)
        last = model.run_llm(embedding, visible, torch.tensor([[position]], device=device), cache)[:, -1]
