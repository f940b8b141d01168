"""Pictures read and hashed ahead of the model, in worker processes.

The adapter says how a picture is read (:class:`groma_eval.core.LoadsPictures`). Whatever goes wrong with one picture is
left to the adapter, which opens it itself and says so. A worker that dies takes its pool with it: what was being read,
and all that follows, is then read by the process itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from groma_eval.core import Decoding, HarnessError, LoadsPictures, Model, Sample
from groma_eval.provenance import file_hash

#: A sample with, where a worker read it, its picture, and the hash of the picture's file.
Read = tuple[Sample, str | None]
_MOST_WORKERS = 8


def default_workers(model: Model, processes: int) -> int:
    """Workers a process where the user names none.

    On a GPU, whose work leaves the processor free, all cores but the processes' own, at most 8; none on a CPU, which
    they would take from the model.
    """
    torch = sys.modules.get("torch")
    if not isinstance(model, LoadsPictures) or torch is None or not torch.cuda.is_available():
        return 0
    return max(0, min(_MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


class ReadAhead:
    """Goes through blocks of samples, reading the pictures of what comes next; use as a context manager.

    Args:
        blocks: of samples; taken only when their turn to be read has come.
        model: whose pictures they are.
        decoding: passed on to its loader.
        workers: processes; with 0, or a model that has no loader, pictures are only hashed here.
        warn: told once, in one line, when the workers are lost.
    """

    def __init__(
        self,
        blocks: Iterator[Sequence[Sample]],
        model: Model,
        decoding: Decoding,
        workers: int,
        warn: Callable[[str], None],
    ) -> None:
        self._blocks = blocks
        self._needed = model.info.needs_images
        self._warn = warn
        self._waiting: deque[list[tuple[Sample, Future[tuple[str | None, Any]] | None]]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self.ahead = 2 * workers  # images that are being read beside the block in hand
        if workers and self._needed and isinstance(model, LoadsPictures):
            self._read = partial(read_picture, model.loader(decoding))
            # Not forked: threads and a GPU in use do not survive that.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)

    def next(self) -> list[Read] | None:
        """The next block, None where there is none."""
        self._fill()
        if not self._waiting:
            return None
        block = self._waiting.popleft()
        self._fill()  # the workers go on while the model has this block
        return [self._result(sample, future) for sample, future in block]

    def _fill(self) -> None:
        while not self._waiting or (self._pool and sum(map(len, self._waiting)) < self.ahead):
            block = next(self._blocks, None)
            if block is None:
                return
            self._waiting.append([(sample, self._submit(sample)) for sample in block])

    def _submit(self, sample: Sample) -> Future[tuple[str | None, Any]] | None:
        if self._pool is None or sample.image is None:
            return None
        try:
            return self._pool.submit(self._read, sample)
        except RuntimeError as error:  # BrokenProcessPool is one
            self._lose(error)
            return None

    def _result(self, sample: Sample, future: Future[tuple[str | None, Any]] | None) -> Read:
        if future is not None:
            try:
                found, loaded = future.result()
                return replace(sample, loaded=loaded), found
            except Exception as error:  # a dead worker, or a picture that cannot be passed on
                self._lose(error)
        return sample, file_hash(sample.image) if self._needed and sample.image is not None else None

    def _lose(self, error: Exception) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        pool.shutdown(wait=False, cancel_futures=True)
        why = " ".join(str(error).split()) or type(error).__name__
        self._warn(f"reading pictures in worker processes failed ({why}); the run goes on without them")

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def read_picture(load: Callable[[Sample], Any], sample: Sample) -> tuple[str | None, Any]:
    """The hash of a sample's picture and what ``load`` makes of it, None where it cannot."""
    found = file_hash(sample.image) if sample.image is not None else None
    try:
        return found, load(sample)
    except (HarnessError, OSError, SyntaxError, ValueError, EOFError, MemoryError):
        return found, None  # the adapter opens it itself and says what is wrong


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run itself is interrupted, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # The pool's queues stay open in its workers, who would wait for ever for work from a run that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
