"""Every answer that a judge gave, on disk before the next question is asked."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError

FILE = "judge_calls.jsonl"
Calls = dict[str, dict[str, Any]]  # by key; each has "key" and "content"


def read_calls(folder: Path, file: str = FILE) -> Calls:
    """The answers in ``folder``/``file`` by key, none where there is no such file.

    A last line that was not written to its end (the process was killed) is left out; HarnessError names any other line
    that is no answer.
    """
    path = folder / file
    return _parse(path, _whole_lines(path.read_bytes())) if path.is_file() else {}


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _parse(path: Path, content: bytes) -> Calls:
    calls: Calls = {}
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            call = json.loads(line)
            if not isinstance(call["key"], str) or not isinstance(call["content"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise HarnessError(
                f"{path}: line {number}: no answer of a judge or model; remove the line (its question is asked again)"
            ) from None
        calls[call["key"]] = call
    return calls


class Journal:
    """``folder``/``file`` open for more; ``calls`` is what it holds. Safe to use from several threads.

    Raises:
        HarnessError: another process is at work on the same file, or the file is broken or cannot be written.
    """

    def __init__(self, folder: Path, file: str = FILE) -> None:
        path = folder / file
        self._lock = threading.Lock()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise HarnessError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            _claim(self._file, path)
            self._file.seek(0)
            content = self._file.read()
            whole = _whole_lines(content)
            self.calls = _parse(path, whole)
            if len(whole) < len(content):
                self._file.truncate(len(whole))
        except BaseException:
            self._file.close()
            raise

    def add(self, call: dict[str, Any]) -> None:
        """Append ``call`` and make sure it is on disk; nothing happens once the journal is closed.

        HarnessError where it cannot be written.
        """
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.write(json.dumps(call).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise HarnessError(f"{self._file.name}: cannot be written ({error.strerror})") from None
            self.calls[call["key"]] = call

    def close(self) -> None:
        """Take nothing more."""
        with self._lock:
            self._file.close()


def _claim(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HarnessError(f"{path}: another process is judging or asking there; wait for it to end") from None
    except OSError:
        pass  # a file system without locks
