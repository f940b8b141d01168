"""The model under the speed bench: its weights, and what is fixed about its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groma_eval.core import HarnessError
from groma_eval.speed.stages import replaced
from groma_model.configuration import preset
from groma_model.generation import Groma
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.placement import existing_device
from groma_model.processing import GromaProcessor, train_tokenizer

if TYPE_CHECKING:
    from groma_eval.speed.workload import Workload

#: Above every IoU: nothing is suppressed.
_NO_SUPPRESSION = 2.0


def random_model(name: str, device: str, dtype: torch.dtype, workload: Workload, seed: int = 0) -> Groma:
    """A preset with random weights, made on ``device``; its tokenizer knows the workload's words as single tokens.

    The proposer stays in float32, as in a loaded model.

    Raises:
        HarnessError: the device is not here.
    """
    config = preset(name)
    try:
        place = existing_device(device)
    except ValueError as error:
        raise HarnessError(f"--device: {error}") from None
    torch.manual_seed(seed)
    with place:
        model = GromaForConditionalGeneration(config)
    model = model.to(place, dtype)
    model.proposer.float()
    template_words = "a user: assistant: ok locate all in this image."
    texts = [text for asked in workload.images for text in asked]
    return Groma(model, GromaProcessor(train_tokenizer([template_words, *texts], config), config))


def loaded_model(name: str, device: str, dtype: torch.dtype) -> Groma:
    """A checkpoint: the bundled name, a folder or a hub id.

    Raises:
        HarnessError: it is none, or the device is not here.
    """
    try:
        return Groma.from_pretrained(name, device=device, dtype=dtype)
    except ValueError as error:
        raise HarnessError(f"--model {name}: {error}") from None


def fix_regions(groma: Groma) -> int:
    """Let every picture keep its best proposals, whatever they score and overlap; returns how many.

    Random weights would keep all or none. The vocabulary names ``max_regions`` regions, so that is their number.
    """
    config = groma.config
    config.score_threshold, config.nms_threshold = 0.0, _NO_SUPPRESSION
    return min(config.max_regions, config.num_queries)


@contextmanager
def endless(groma: Groma) -> Iterator[None]:
    """Within, the model cannot end an answer, so that all have the length that is asked for."""
    forbidden = torch.tensor([groma.processor.eos_id, groma.processor.ids["[PAD]"]], device=groma.model.device)
    plain = groma.model.logits

    def logits(hidden: Tensor, pointer_keys: Tensor | None = None, num_regions: Tensor | None = None) -> Tensor:
        scores = plain(hidden, pointer_keys, num_regions)
        return scores.index_fill_(-1, forbidden, torch.finfo(scores.dtype).min)

    with replaced(groma.model, "logits", logits):
        yield


@contextmanager
def recorded(groma: Groma) -> Iterator[list[list[int]]]:
    """Within, the token ids of the answers that ``groma`` decodes, in order; :meth:`Groma.answer` gives text only."""
    plain = groma._decode
    found: list[list[int]] = []

    def decode(jobs: Sequence[object], max_new_tokens: int) -> list[tuple[list[int], list[float]]]:
        results = plain(jobs, max_new_tokens)
        found.extend(ids for ids, _ in results)
        return results

    with replaced(groma, "_decode", decode):
        yield found
