"""What the benchmarks' preparations share: writing a file once and whole, and fetching one from the hub."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError

#: The data set on the hub with the annotation files of Groma's authors.
GROMA_DATA = "FoundationVision/groma_data"


def write_once(path: Path, text: str, overwrite: bool = False) -> None:
    """Write the JSON ``text`` beside ``path`` and rename it; a file of the same content is left alone.

    Raises:
        HarnessError: ``path`` is there with other content and ``overwrite`` is not given, or cannot be written.
    """
    beside = path.with_name(path.name + ".new")
    try:
        if path.exists() and _same(path.read_bytes(), text):
            return
        if path.exists() and not overwrite:
            raise HarnessError(f"{path} is there already with other content; move it away, or give --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise HarnessError(f"{path}: cannot be written ({error.strerror or error})") from None


def _same(there: bytes, text: str) -> bool:
    try:
        return there == text.encode() or json.loads(there) == json.loads(text)
    except (ValueError, RecursionError):
        return False


def rows_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON list, one row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def download(name: str, repository: str = GROMA_DATA) -> Path:
    """The file ``name`` of a data set on the hub, in the hub's own cache.

    Raises:
        HarnessError: it cannot be had: no connection, no such file, or huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError:
        raise HarnessError(
            f"downloading {name} needs huggingface_hub (python -m pip install huggingface_hub); "
            "or fetch it by hand and give it with --source"
        ) from None
    logging.set_verbosity_error()  # its retries are no news: one line says how it ended
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, repo_type="dataset"))
    except Exception as error:  # its errors, those of its transport, the disk's: all end here
        reason = " ".join(str(error).split())[:160]
        raise HarnessError(
            f"{name} cannot be downloaded from the data set {repository} ({type(error).__name__}: {reason}); "
            "fetch it by hand and give it with --source"
        ) from None
