"""Asking the model: blocks of images in, answers that are checked and on the disk out.

The model is handed batches of images, each with all its questions. While it answers one batch, worker processes read
the pictures of the next ones (:mod:`groma_eval.prefetch`) and a thread writes the answers of the last
(:mod:`groma_eval.writer`).
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from groma_eval.batching import Budget, Cost, cost_of, start_budget
from groma_eval.core import HarnessError, ImageAnswer, Prediction, Sample
from groma_eval.jobs import Job
from groma_eval.prefetch import Read, ReadAhead
from groma_eval.store import BenchmarkStore
from groma_eval.writer import Writer


def answer_blocks(
    job: Job,
    store: BenchmarkStore,
    blocks: Iterator[Sequence[Sample]],
    *,
    auto: bool,
    workers: int,
    stored: Callable[[int], None],
    warn: Callable[[str, str], None],
) -> None:
    """Ask the job's model about all the blocks and store its answers.

    Args:
        job: the benchmark.
        store: its store; closed at the end.
        blocks: taken one after another, when there is need of them.
        auto: fill batches by tokens, and halve them where memory ends; else a block is a batch.
        workers: processes that read pictures ahead.
        stored: called with the number of images whenever some are on the disk, in another thread.
        warn: ``warn(kind, text)`` tells the user, once a kind.

    Raises:
        HarnessError: memory ended and the batch cannot be smaller, the disk refuses, or the model answers what was not
            asked. What was answered before is stored.
    """
    cost = cost_of(job.model)
    budget = Budget(start_budget(job.samples, cost)) if auto else None
    pending: deque[Read] = deque()
    reader = ReadAhead(blocks, job.model, job.decoding, workers, lambda text: warn("workers", text))
    with reader, Writer(store, stored) as writer:
        while batch := _next_batch(pending, reader, budget, cost):
            given: dict[str, ImageAnswer] = {}
            began = time.perf_counter()
            samples = [sample for sample, _ in batch]
            fits = _ask(job, samples, given)
            tokens = sum(map(cost, samples))
            if not fits:
                if budget is None or len(batch) == 1:
                    raise HarnessError(
                        f"out of memory at {len(batch)} image(s) a batch; repeat with a smaller --batch-size "
                        "(or auto): what is answered is kept"
                    )
                warn("memory", f"out of memory at {len(batch)} images a batch; going on with batches of half the size")
                budget.out_of_memory(tokens)
                pending.extendleft(reversed([read for read in batch if read[0].image_id not in given]))
            elif budget is not None:
                budget.answered(tokens, time.perf_counter() - began)
            reader.ahead = max(reader.ahead, 2 * len(batch))
            answered = [(sample, found) for sample, found in batch if fits or sample.image_id in given]
            if answered:
                name = job.model.info.name
                answers = [_complete(sample, given.get(sample.image_id), name) for sample, _ in answered]
                writer.put(answers, {sample.image_id: found for sample, found in answered})


def _next_batch(pending: deque[Read], reader: ReadAhead, budget: Budget | None, cost: Cost) -> list[Read]:
    """A block as it is, or as many images as the budget allows, at least one; none at the end."""
    if budget is None:
        return reader.next() or []
    batch: list[Read] = []
    left = budget.tokens
    while True:
        if not pending:
            pending.extend(reader.next() or [])
        if not pending or (batch and cost(pending[0][0]) > left):
            return batch
        batch.append(pending.popleft())
        left -= cost(batch[-1][0])


def _ask(job: Job, batch: Sequence[Sample], given: dict[str, ImageAnswer]) -> bool:
    """Put the model's answers into ``given``; False where memory ended before all had come."""
    try:
        _ask_safely(job, batch, given)
        return True
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
    # Only now, as the error held what the model had on the device.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _ask_safely(job: Job, batch: Sequence[Sample], given: dict[str, ImageAnswer]) -> None:
    """As :func:`_ask`; where an adapter raises at an unreadable picture, its image alone fails."""
    wanted = {sample.image_id for sample in batch}
    try:
        for answer in job.model.answer(batch, job.decoding, job.protocol.prompts, job.protocol_name):
            if answer.image_id not in wanted or answer.image_id in given:
                raise HarnessError(
                    f"model {job.model.info.name} answered image '{answer.image_id}' "
                    + ("twice" if answer.image_id in given else "that was not in the batch")
                )
            given[answer.image_id] = answer
    except OSError as error:
        if len(batch) == 1:
            given[batch[0].image_id] = ImageAnswer(batch[0].image_id, [], error=str(error))
            return
        for sample in batch:
            if sample.image_id not in given:
                _ask_safely(job, [sample], given)


def _complete(sample: Sample, answer: ImageAnswer | None, model: str) -> ImageAnswer:
    answer = answer or ImageAnswer(sample.image_id, [])
    by_id = {prediction.question_id: prediction for prediction in answer.predictions}
    unknown = by_id.keys() - {question.id for question in sample.questions}
    if unknown or len(by_id) < len(answer.predictions):
        what = f"unknown question '{min(unknown)}'" if unknown else "a question twice"
        raise HarnessError(f"model {model} answered {what} for image '{sample.image_id}'")
    status = "failed" if answer.error else "missing"
    answer.predictions = [
        _checked(question.kind, by_id.get(question.id) or Prediction(question.id, status=status, error=answer.error))
        for question in sample.questions
    ]
    return answer


def _checked(kind: str, prediction: Prediction) -> Prediction:
    """The prediction, marked unparsed where it has no usable box for a question that asks for one."""
    if prediction.status != "ok":
        return prediction
    confidences = prediction.confidences
    problem = None
    if not all(math.isfinite(value) for box in prediction.boxes for value in box):
        problem = "a box is not finite"
    elif confidences is not None and len(confidences) != len(prediction.boxes):
        problem = f"{len(prediction.boxes)} boxes with {len(confidences)} confidences"
    elif confidences is not None and not all(map(math.isfinite, confidences)):
        problem = "a confidence is not finite"
    elif kind == "ground_one" and not prediction.boxes:
        return replace(prediction, status="unparsed")
    if problem:
        return replace(prediction, status="unparsed", error=problem, boxes=[], confidences=None, phrases=[])
    return prediction


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # What torch's CPU allocator and cuBLAS raise has no type of its own.
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "ALLOC_FAILED" in said)
