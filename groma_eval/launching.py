"""``--processes N``: copies of the command on this machine, joined as torchrun would join them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_POLL_S = 0.1
#: How long the others may go on, to say what is wrong, when one process has ended with an error.
_GRACE_S = 15.0


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``groma-eval ARGUMENTS`` as so many processes; the exit code of the first, which prints the results.

    Where one ends early or with an error the others are ended too, and the code is 2.
    """
    command = [sys.executable, "-m", "groma_eval.cli.evaluate", *arguments]
    cores = max(1, (os.cpu_count() or 1) // processes)
    shared = {
        "OMP_NUM_THREADS": str(cores),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    started: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for rank in range(processes):
            started.append(subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        return _wait(started)
    except KeyboardInterrupt:  # a terminal interrupts the processes as well
        return 130
    finally:
        _end(started)
        signal.signal(signal.SIGTERM, before)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    failed_at: float | None = None
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes[1:] if process.poll()]
        if failed and failed_at is None:
            failed_at = time.monotonic()
        # One that was killed cannot tell the others, so there is nothing to wait for; nor is there without the first.
        gone = min(failed, default=0) < 0 or (processes[0].poll() or 0) not in (0, 1)
        if gone or (failed_at is not None and time.monotonic() - failed_at > _GRACE_S):
            break
        time.sleep(_POLL_S)
    codes = [process.poll() for process in processes]
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            print(
                f"groma-eval: error: process {rank} of {len(codes)} was killed (signal {-code}): the run is not "
                "complete; repeat the command to continue, with any number of processes",
                file=sys.stderr,
            )
            return 2
    if any(codes[1:]):
        return codes[0] or 2
    return 2 if codes[0] is None else codes[0]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
