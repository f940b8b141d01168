"""Which images are asked together: blocks of a benchmark, and batches that are filled by tokens.

A *block* is a few images that follow one another in the benchmark. It is what a process claims, and what is answered
again as a whole where part of it is not stored. With a fixed ``--batch-size`` a block is a batch, so that batches are
the same however often a run is interrupted and whatever the number of processes. With ``auto`` blocks are small and a
batch takes as many images as its budget of tokens allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from groma_eval.core import CountsTokens, HarnessError, Model, Sample

#: Images that ``auto`` begins with: as many as hold this many times the benchmark's mean cost.
AUTO_START = 16
#: Growing ends at so many times the start: beyond it a batch gains nothing and only holds up what is stored.
AUTO_MOST = 16
_BLOCKS_A_BATCH = 4  # of the first budget
_PAYS = 1.1  # a doubled budget must be faster by this factor to be kept
_TRIALS = 2  # batches a budget is judged by; the better counts, since the first of a shape is slow
#: Tokens of an image's own prompt and of a question around its text, where the adapter counts none.
_IMAGE_TOKENS, _QUESTION_TOKENS = 400, 20
_LETTERS_A_TOKEN = 4

Cost = Callable[[Sample], int]


def estimated_cost(sample: Sample) -> int:
    """Tokens of an image with its questions, guessed from the length of the texts."""
    texts = [
        len(question.text or "") + sum(len(asked) + len(answered) for asked, answered in question.history)
        for question in sample.questions
    ]
    return _IMAGE_TOKENS + sum(_QUESTION_TOKENS + letters // _LETTERS_A_TOKEN for letters in texts)


def cost_of(model: Model) -> Cost:
    """The adapter's own count of tokens, or the estimate."""
    return model.cost if isinstance(model, CountsTokens) else estimated_cost


def check_batch_size(given: int | str) -> int | None:
    """The number of images; None for ``auto``. HarnessError where it is neither."""
    if given == "auto":
        return None
    if not isinstance(given, int) or given < 1:
        raise HarnessError(f"--batch-size {given}: must be a whole number above 0, or auto")
    return given


def cut(samples: Sequence[Sample], size: int | None, cost: Cost) -> list[list[Sample]]:
    """Blocks in file order: of ``size`` images, or (None) of images that together cost about the same."""
    if size is not None:
        return [list(samples[i : i + size]) for i in range(0, len(samples), size)]
    most = start_budget(samples, cost) // _BLOCKS_A_BATCH
    blocks: list[list[Sample]] = []
    left = 0
    for sample in samples:
        price = cost(sample)
        if not blocks or price > left:
            blocks.append([])
            left = most
        blocks[-1].append(sample)
        left -= price
    return blocks


def start_budget(samples: Sequence[Sample], cost: Cost) -> int:
    """Tokens that ``auto`` begins with for a benchmark."""
    return max(1, AUTO_START * sum(map(cost, samples)) // max(1, len(samples)))


class Budget:
    """Tokens a batch with ``--batch-size auto``: doubled while that is faster by a tenth, halved when memory ends.

    Once memory has ended it never grows again. ``tokens`` is what the next batch may hold.
    """

    def __init__(self, start: int) -> None:
        self.tokens = start
        self._most = start * AUTO_MOST
        self._growing = True
        self._rates: list[float] = []
        self._before: tuple[int, float] | None = None  # the budget that was doubled, and its rate

    def answered(self, cost: int, seconds: float) -> None:
        """Take note of a batch that went well. Batches far from full say nothing of their budget."""
        if not self._growing or cost < 0.7 * self.tokens:
            return
        self._rates.append(cost / seconds if seconds > 0 else math.inf)
        if len(self._rates) < _TRIALS:
            return
        rate, self._rates = max(self._rates), []
        if self._before is not None and not rate >= _PAYS * self._before[1]:
            self.tokens, self._growing = self._before[0], False
        elif 2 * self.tokens > self._most:
            self._growing = False
        else:
            self._before = (self.tokens, rate)
            self.tokens *= 2

    def out_of_memory(self, cost: int) -> None:
        """Take note of a batch that did not fit."""
        self.tokens, self._growing = max(1, cost // 2), False
