"""Answers on their way to the disk, off the path of the model: a thread writes what the run hands it.

Crash safety is the store's: a batch counts as answered when its lines are on the disk. What waits in the queue when the
process is killed is asked again. A disk that is slower than the model slows the run to its own rate, since the queue is
bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from groma_eval.core import ImageAnswer
from groma_eval.store import BenchmarkStore, make_record

_WAITING = 4  # batches
_Batch = tuple[Sequence[ImageAnswer], Mapping[str, str | None]]


class Writer:
    """Writes batches to ``store`` in the order of :meth:`put`; use as a context manager.

    Leaving waits until everything is written and closes the part. What goes wrong in the thread is raised by the next
    ``put``, or on leaving: the store's one line, or a fault of the program as it is. Nothing is written after it.

    Args:
        store: of the benchmark.
        stored: called with the number of images after each batch is on the disk, in the thread.
    """

    def __init__(self, store: BenchmarkStore, stored: Callable[[int], None]) -> None:
        self._store = store
        self._stored = stored
        self._queue: queue.Queue[_Batch | None] = queue.Queue(_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="groma-eval-writer", daemon=True)

    def put(self, answers: Sequence[ImageAnswer], hashes: Mapping[str, str | None]) -> None:
        """Hand over a batch with its pictures' hashes; waits while the queue is full."""
        self._raise()
        self._queue.put((answers, hashes))
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # taken from the queue all the same, so that nobody waits for room in it
            answers, hashes = batch
            try:
                self._store.append([make_record(answer, hashes.get(answer.image_id)) for answer in answers])
                self._stored(len(answers))
            except BaseException as error:
                self._failure = error

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        self._store.close()
        if kind is None:
            self._raise()
