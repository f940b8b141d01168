"""Both ways on one workload, in turns, so that what else the machine does slows both alike."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from groma_eval.speed.reference import OneAnswer, answer_alone
from groma_eval.speed.stages import REASONS, REST, STAGES, clock, count_flops, matmul_rate, peak_memory, wait, watched
from groma_eval.speed.subject import endless, fix_regions, recorded
from groma_eval.speed.workload import Workload, evenly, picture
from groma_model.generation import Groma, Query

#: Tokens of every answer: ``<roi><ri></roi>``, all that an expression's answer needs.
NEW_TOKENS = 3


@dataclass
class Reference:
    """What the reference way took: ``answers`` by the expression's place in the workload."""

    answers: dict[int, OneAnswer] = field(default_factory=dict)

    @property
    def image_seconds(self) -> float:
        """P, the mean."""
        return sum(a.image_seconds for a in self.answers.values()) / len(self.answers)

    @property
    def question_seconds(self) -> float:
        """q, the mean."""
        return sum(a.question_seconds for a in self.answers.values()) / len(self.answers)


@dataclass
class Measured:
    """The shared way: wall-clock ``seconds``, ``stages`` in seconds and ``flops``, the answers' token ids in order."""

    seconds: float
    stages: dict[str, float]
    flops: dict[str, float]
    answers: list[list[int]]
    prefix_tokens: int
    question_tokens: int
    memory: tuple[int, str]
    reference: Reference | None
    again: Reference | None  # the reference way in float32, where that is not the model's type


Batch = list[tuple[int, tuple[str, ...]]]  # places of pictures in the workload and what is asked of each


def measure(
    groma: Groma, workload: Workload, batch_size: int, reference: bool = False, expressions: int | None = None
) -> Measured:
    """Answer the workload; with ``reference``, also ``expressions`` of it (None: all), evenly drawn, the other way.

    Afterwards the model is in float32 if it was in another type on CUDA.
    """
    groma.model.requires_grad_(False)  # the counter of FLOPs would look for gradients
    fix_regions(groma)
    numbered = list(enumerate(workload.images))
    batches: list[Batch] = [numbered[i : i + batch_size] for i in range(0, len(numbered), batch_size)]
    drawn = set(evenly(workload.expressions, expressions)) if reference else set()
    other = Reference() if reference else None
    device = groma.model.device
    stages, seconds, first = clock(device), 0.0, 0
    answers: list[list[int]] = []
    with endless(groma), tqdm(total=workload.expressions, unit="expression", disable=None) as bar:
        _warm_up(groma, batches[0], reference)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for batch in batches:
            pictures = [picture(index) for index, _ in batch]
            with recorded(groma) as found, watched(groma, stages):
                wait(device)
                started = time.perf_counter()
                _answer(groma, batch, pictures)
                wait(device)
                seconds += time.perf_counter() - started
            answers += found
            if other is not None:
                _alone(groma, batch, pictures, first, drawn, other)
            first += len(found)
            bar.update(len(found))
        memory = peak_memory(device)
        took = stages.totals()
        took[REST] = seconds - sum(took.values())
        again = None
        flops = _count(groma, batches)
        if other is not None and device.type == "cuda" and groma.model.dtype is not torch.float32:
            again = _in_float32(groma, batches, drawn)
    lengths = _token_counts(groma, workload)
    return Measured(seconds, took, flops, answers, *lengths, memory, other, again)


def _answer(groma: Groma, batch: Batch, pictures: list[Image.Image]) -> None:
    scenes = groma.perceive_batch(pictures)
    queries = [[Query("ground_one", text) for text in asked] for _, asked in batch]
    groma.answer(scenes, queries, NEW_TOKENS)


def _alone(
    groma: Groma, batch: Batch, pictures: list[Image.Image], first: int, drawn: set[int], into: Reference
) -> None:
    """The drawn expressions of a batch, whose first one is the ``first`` of the workload, the reference way."""
    place = first
    for image, (_, asked) in zip(pictures, batch, strict=True):
        for text in asked:
            if place in drawn:
                into.answers[place] = answer_alone(groma, image, text, NEW_TOKENS)
            place += 1


def _warm_up(groma: Groma, batch: Batch, reference: bool) -> None:
    """What is done once only (buffers, kernels chosen) is no part of the figures."""
    pictures = [picture(index) for index, _ in batch]
    _answer(groma, batch, pictures)
    for _ in range(3 if reference else 0):
        answer_alone(groma, pictures[0], batch[0][1][0], NEW_TOKENS)


def _in_float32(groma: Groma, batches: list[Batch], drawn: set[int]) -> Reference:
    groma.model.float()
    found, first = Reference(), 0
    _warm_up(groma, batches[0][:1], True)
    for batch in batches:
        _alone(groma, batch, [picture(index) for index, _ in batch], first, drawn, found)
        first += sum(len(asked) for _, asked in batch)
    return found


def _count(groma: Groma, batches: list[Batch]) -> dict[str, float]:
    """FLOPs a stage of the whole workload, in a pass of its own: counting takes time."""

    def work() -> None:
        for batch in batches:
            _answer(groma, batch, [picture(index) for index, _ in batch])

    return count_flops(groma, work)


def _token_counts(groma: Groma, workload: Workload) -> tuple[int, int]:
    """Tokens of a picture's prefix, and of all questions together."""
    from groma_model.processing import render_question

    config, processor = groma.config, groma.processor
    regions = fix_regions(groma)
    image_tokens = config.grid_size**2 // (4 if config.token_merge else 1)
    template = processor.template.native["ground_one"]
    texts = [text for asked in workload.images for text in asked]
    questions = sum(len(processor.question_ids(render_question(template, text, 0))) for text in texts)
    return len(processor.prefix_ids(image_tokens, regions)), questions


def summary(groma: Groma, workload: Workload, measured: Measured, rate: float) -> dict[str, Any]:
    """The figures as they are written; ``rate`` is the measured FLOP/s of a matrix product."""
    images, expressions = len(workload.images), workload.expressions
    prefill = measured.stages["prefix prefill"]
    memory, of = measured.memory
    stages: dict[str, dict[str, Any]] = {}
    for stage in (*STAGES, REST):
        seconds, flops = measured.stages.get(stage, 0.0), measured.flops.get(stage, 0.0)
        stages[stage] = {"seconds": seconds, "flops": flops, "seconds_at_matmul_rate": flops / rate}
        if flops and flops / rate < seconds / 2:
            stages[stage]["below_half_because"] = REASONS[stage]
    found: dict[str, Any] = {
        "workload": {
            "source": workload.source,
            "images": images,
            "expressions": expressions,
            "regions_per_image": fix_regions(groma),
            "new_tokens_per_expression": NEW_TOKENS,
            "prefix_tokens_per_image": measured.prefix_tokens,
            "question_tokens_per_expression": measured.question_tokens / expressions,
        },
        "seconds": measured.seconds,
        "expressions_per_second": expressions / measured.seconds,
        "images_per_second": images / measured.seconds,
        "prefill_tokens_per_second": images * measured.prefix_tokens / prefill,
        "matmul_flops_per_second": rate,
        "stages": stages,
        "peak_memory_bytes": memory,
        "peak_memory_of": of,
    }
    if measured.reference is not None:
        found["reference"] = _compare(workload, measured, measured.reference)
        found |= {key: found["reference"][key] for key in ("ratio", "ideal_ratio", "share_of_ideal")}
    if measured.again is not None:
        found["reference_float32"] = _compare(workload, measured, measured.again)
    return found


def _compare(workload: Workload, measured: Measured, reference: Reference) -> dict[str, Any]:
    """The reference way's figures, those of the drawn expressions scaled to all, and the ratio of the ways."""
    images, expressions = len(workload.images), workload.expressions
    image, question = reference.image_seconds, reference.question_seconds
    same = sum(answer.ids == measured.answers[place] for place, answer in reference.answers.items())
    seconds = expressions * (image + question)
    ratio = seconds / measured.seconds
    ideal = seconds / (images * image)
    return {
        "expressions_measured": len(reference.answers),
        "seconds_for_all": seconds,
        "expressions_per_second": 1 / (image + question),
        "seconds_per_image": image,
        "seconds_per_question": question,
        "answers_identical": same,
        "ratio": ratio,
        "ideal_ratio": ideal,
        "share_of_ideal": ratio / ideal,
    }


def rate_of(groma: Groma) -> float:
    """FLOP/s of a matrix product in the model's type on its device."""
    return matmul_rate(groma.model.device, groma.model.dtype)
