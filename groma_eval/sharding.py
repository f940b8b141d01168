"""One run by several processes: who answers which images, and when all are answered.

The processes share the run's folder and a key/value store (``torch.distributed.TCPStore``) at ``MASTER_ADDR`` and
``MASTER_PORT``, which torchrun and ``accelerate launch`` provide; no process group is needed. Rank 0 opens the run and
publishes which blocks of images are to be answered. Every process claims the next block when it has need of one, so
that a slow one holds up nobody, and stores its answers in a part file of its own. When all have finished, rank 0 merges
what is *on the disk*, and only if nothing is missing there: a process that was killed leaves a gap, never a wrong
result, and a repeat fills it, whatever the number of processes then.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Protocol

from groma_eval.core import HarnessError

_POLL_S = 0.1
_MEET_S = 300.0
#: Without a newly stored image for so long, the processes that have not finished are taken for dead.
PATIENCE_S = 1800.0
_HEARD_S = 10.0


class Store(Protocol):
    """What is used of ``torch.distributed.Store``; none of it waits."""

    def set(self, key: str, value: str) -> Any: ...

    def get(self, key: str) -> bytes: ...

    def add(self, key: str, amount: int) -> int: ...

    def check(self, keys: list[str]) -> bool: ...


class LocalStore:
    """The store of a process that is alone."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()  # the thread that writes answers counts them

    def set(self, key: str, value: str) -> None:
        """Keep ``value``."""
        self._values[key] = value

    def get(self, key: str) -> bytes:
        """What was kept."""
        return self._values[key].encode()

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; the new count."""
        with self._lock:
            count = int(self._values.get(key, "0")) + amount
            self._values[key] = str(count)
        return count

    def check(self, keys: list[str]) -> bool:
        """Whether all are there."""
        return all(key in self._values for key in keys)


class World:
    """The processes of a run as one of them sees them. ``World()`` is a process that is alone.

    Args:
        rank, size: which process this is, and of how many.
        local_rank, local_size: the same on its machine.
        store: shared by all.
        patience: seconds, see :data:`PATIENCE_S`.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Store | None = None,
        local_rank: int = 0,
        local_size: int = 1,
        patience: float = PATIENCE_S,
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self._store = store or LocalStore()
        self._patience = patience

    def publish(self, name: str, content: Any) -> None:
        """Rank 0 tells the others something that JSON can hold."""
        self._call("set", name, json.dumps(content))

    def fetch(self, name: str) -> Any:
        """What rank 0 published, waited for; HarnessError where some process has failed."""
        while not self._call("check", [name]):
            self.check()
            time.sleep(_POLL_S)
        return json.loads(self._call("get", name))

    def claims(self, name: str, count: int) -> Iterator[int]:
        """Numbers below ``count``, each given to one process alone, as long as there are any."""
        while (number := self._call("add", f"{name}/claimed", 1) - 1) < count:
            self.check()
            yield number

    def count(self, name: str, amount: int = 0) -> int:
        """Add to a counter of all processes; its value."""
        return self._call("add", name, amount)

    def first(self, name: str) -> bool:
        """Whether this call is the first of its name in all processes."""
        return self.count(f"{name}/first", 1) == 1

    def finish(self, name: str) -> None:
        """This process has stored all that it claimed."""
        self.count(f"{name}/finished", 1)

    def wait_for_all(self, name: str, progress: Callable[[], int]) -> None:
        """Wait until every process has called :meth:`finish`; ``progress`` tells the number of images stored so far.

        Raises:
            HarnessError: a process failed, or no image was stored for too long.
        """
        seen, since = progress(), time.monotonic()
        while self.count(f"{name}/finished") < self.size:
            self.check()
            time.sleep(_POLL_S)
            now = progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience:
                missing = self.size - self.count(f"{name}/finished")
                raise HarnessError(
                    f"{missing} of {self.size} processes stored nothing for {self._patience:.0f} s and are taken for "
                    "dead: the run is not complete; repeat the command to continue, with any number of processes"
                )

    def fail(self, message: str) -> bool:
        """Tell the others that this process ends with an error; whether rank 0 has heard of it and says so itself."""
        if self.size == 1:
            return False
        try:
            if self.rank == 0:
                self._call("set", "heard", "")
                self._call("set", "failed", json.dumps([0, message]))
                return True
            if not self._call("check", ["failed"]):
                self._call("set", "failed", json.dumps([self.rank, message]))
            until = time.monotonic() + _HEARD_S
            while time.monotonic() < until:
                if self._call("check", ["heard"]):
                    return True
                time.sleep(_POLL_S)
        except HarnessError:  # rank 0 has gone, and has said why
            return True
        return False

    def check(self) -> None:
        """HarnessError where another process has failed."""
        if self.size > 1 and self._call("check", ["failed"]):
            rank, message = json.loads(self._call("get", "failed"))
            if rank != self.rank:
                raise HarnessError(f"process {rank} of {self.size}: {message}")

    def device(self, given: str | None, model_args: Mapping[str, str]) -> str | None:
        """The device of this process: each has a GPU of its own while there are enough, else they share."""
        if self.size == 1 or given not in (None, "cuda") or "device_map" in model_args:
            return given
        import torch

        if not torch.cuda.is_available():
            return given
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, method)(*arguments)
        except (RuntimeError, OSError) as error:  # torch's DistError is a RuntimeError
            raise HarnessError(
                f"process {self.rank} of {self.size} has lost the others ({' '.join(str(error).split())[:120]}); "
                "repeat the command to continue"
            ) from None


def join() -> World:
    """The world that torchrun, ``accelerate launch`` or ``--processes`` describe in the environment, alone without.

    Raises:
        HarnessError: the variables are wrong, or the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    try:
        rank, size, local_rank, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", ""), ("WORLD_SIZE", ""), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
        )
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise HarnessError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but RANK, MASTER_ADDR or MASTER_PORT is missing or no number; "
            "start the processes with torchrun, accelerate launch or --processes"
        ) from None
    from torch.distributed import PrefixStore, TCPStore

    # torchrun keeps a server of its own; without it rank 0 is the server.
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            host, port, size, is_master=rank == 0 and not elsewhere, timeout=timedelta(seconds=_MEET_S),
            wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise HarnessError(
            f"process {rank} of {size}: no connection to {host}:{port} ({' '.join(str(error).split())[:120]})"
        ) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return World(rank, size, PrefixStore(f"groma-eval/{attempt}", store), local_rank, local_size)
