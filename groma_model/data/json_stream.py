"""JSON files read element by element, so that a file of many gigabytes needs the memory of one of its elements.

Handles what annotation files are: a list of objects, an object of which some fields are such lists (COCO's form), and
one object a line (``.jsonl``).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


def stream_json(path: Path) -> Iterator[tuple[str | None, int | None, Any]]:
    """(field, index, value) of every element: field None in a file that is one list; index None for a value that is no
    list. In a JSONL file the index is the line number from 1.

    Raises:
        ValueError: a missing, empty or malformed file, naming the file and the last good place.
    """
    if path.suffix == ".jsonl":
        yield from _lines(path)
        return
    text = _Text(path)
    first = text.peek()
    if first == "[":
        yield from ((None, index, value) for index, value in _elements(text, None))
    elif first == "{":
        yield from _fields(text)
    else:
        raise ValueError(f"{path}: must hold a JSON list or object, not {first!r}")
    if text.peek(end=True):
        raise ValueError(f"{path}: not JSON (something follows its end)")


def starts_with(path: Path) -> str:
    """The first character that is no blank: ``[`` or ``{`` for JSON. Raises ValueError where there is none."""
    return _Text(path).peek()


def _lines(path: Path) -> Iterator[tuple[None, int, Any]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield None, number, json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {number}, column {error.colno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: line {number}: nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: after line {number}: not UTF-8 text") from None
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None


def _fields(text: _Text) -> Iterator[tuple[str, int | None, Any]]:
    text.take("{")
    while text.peek() != "}":
        name = text.value("a field's name")
        if not isinstance(name, str):
            raise ValueError(f"{text.path}: not JSON (a field's name must be text, not {str(name)[:40]!r})")
        text.take(":")
        if text.peek() == "[":
            yield from ((name, index, value) for index, value in _elements(text, name))
        else:
            yield name, None, text.value(f"field '{name}'")
        if text.peek() != ",":
            break
        text.take(",")
    text.take("}")


def _elements(text: _Text, name: str | None) -> Iterator[tuple[int, Any]]:
    label = name or "row "
    text.take("[")
    index = 0
    while text.peek() != "]":
        yield index, text.value(f"{label}[{index}]" if name else f"{label}{index}")
        index += 1
        if text.peek() != ",":
            break
        text.take(",")
    text.take("]")


class _Text:
    """The file's characters behind a moving window."""

    def __init__(self, path: Path):
        self.path = path
        self.decoder = json.JSONDecoder()
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.buffer, self.position, self.at_end = "", 0, False
        self.place = "the beginning"
        try:
            self.handle = path.open("rb")
        except OSError as error:
            raise ValueError(_unreadable(path, error)) from None
        if not self.peek(end=True):
            raise ValueError(f"{path}: the annotation file is empty")

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.handle.close()

    def _more(self, size: int = _CHUNK) -> None:
        try:
            raw = self.handle.read(size)
            new = self.utf8.decode(raw, final=not raw)
        except OSError as error:
            raise ValueError(_unreadable(self.path, error)) from None
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: after {self.place}: not UTF-8 text") from None
        self.at_end = not raw
        self.buffer = self.buffer[self.position :] + new
        self.position = 0

    def peek(self, end: bool = False) -> str:
        """The next character that is no blank; at the end of the file "" where ``end`` is allowed."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if self.at_end:
                if end:
                    return ""
                raise ValueError(f"{self.path}: not JSON (the file ends after {self.place})")
            self._more()

    def take(self, wanted: str) -> None:
        found = self.peek()
        if found != wanted:
            raise ValueError(f"{self.path}: not JSON (after {self.place}: {found!r} where {wanted!r} should be)")
        self.position += 1

    def value(self, place: str) -> Any:
        """The next JSON value, which ``place`` names in errors."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if self.at_end:
                    raise ValueError(f"{self.path}: {place}: not JSON ({error.msg})") from None
            except (RecursionError, ValueError):
                raise ValueError(
                    f"{self.path}: {place}: not usable JSON (nested too deeply, or a huge number)"
                ) from None
            else:
                # A number that ends near the window's end may go on behind it.
                if end + 4 < len(self.buffer) or self.at_end:
                    self.position, self.place = end, place
                    return value
            self._more(size)
            size *= 2  # a long value is not read again for every piece of it


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such annotation file"
    return f"{path}: cannot read the annotation file ({error.strerror})"
