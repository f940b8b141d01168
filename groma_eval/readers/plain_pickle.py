"""Pickles from strangers: plain containers, text and numbers, and nothing that runs.

A pickle is a program; what it can do beyond building lists and numbers goes through looking up a name
(``Unpickler.find_class``), which is refused here whatever the name.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError


class _Refused(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent object")


def load_plain(path: Path) -> Any:
    """The pickled lists, dictionaries, texts and numbers in ``path``. Nothing in the file is executed.

    Raises:
        HarnessError: the file is absent, cut short, no pickle, or asks for anything but plain data.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the annotation file ({error.strerror})") from None
    if not raw:
        raise HarnessError(f"{path}: the annotation file is empty")
    # Python 2 pickled text as bytes; UTF-8 in what was distributed, Latin-1 decodes whatever is left.
    for encoding in ("utf-8", "latin-1"):
        try:
            return _PlainUnpickler(io.BytesIO(raw), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except _Refused as error:
            raise HarnessError(
                f"{path}: the pickle asks for {error}: only plain lists, texts and numbers are read, nothing was run"
            ) from None
        except Exception as error:  # a damaged pickle may raise anything
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise HarnessError(f"{path}: not a readable pickle, cut short or damaged ({reason})") from None
    raise HarnessError(f"{path}: not a readable pickle: its text is neither UTF-8 nor Latin-1")
