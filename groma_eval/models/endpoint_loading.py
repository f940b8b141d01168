"""``endpoint:MODEL`` and its ``--model-args``: what must be declared, and where the endpoint is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groma_eval.box_formats import FORMATS, BoxFormat, box_format
from groma_eval.core import HarnessError
from groma_eval.judge.client import read_key
from groma_eval.judge.settings import JudgeSettings
from groma_eval.models.endpoint import Endpoint, as_model_arg

_HOSTED = "https://api.openai.com/v1"
#: ``--model-args`` that are settings of the client, with their types, and the others.
CLIENT_ARGS = {"base_url": str, "api_key_env": str, "concurrency": int, "timeout": float, "retries": int}
OTHER_ARGS = ("format", "frame", "cache", "min_pixels", "max_pixels")


def load_endpoint(
    model: str,
    *,
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    model_args: Mapping[str, str] | None = None,
) -> Endpoint:
    """The adapter of ``endpoint:MODEL``; ``device`` and ``dtype`` are the endpoint's own matter and not taken.

    Raises:
        HarnessError: no model, a setting that is none, no declared box format, no key.
    """
    if not model:
        raise HarnessError(f"model {name!r} names no model; write endpoint:MODEL, as the endpoint calls it")
    if device or dtype:
        raise HarnessError(f"model {name!r} takes no --device or --dtype: the endpoint has its own")
    args = dict(model_args or {})
    for key in args:
        if key not in CLIENT_ARGS and key not in OTHER_ARGS:
            raise HarnessError(
                f"model {name!r} has no --model-args {key!r}; it has {', '.join((*OTHER_ARGS, *CLIENT_ARGS))}"
            )
    form = _declared(name, args.get("format"), args.get("frame"))
    pixels = {key: _number(key, args[key], int) for key in ("min_pixels", "max_pixels") if key in args}
    if pixels and (form is None or form.frame != "input-pixels"):
        raise HarnessError("--model-args min_pixels, max_pixels: only for a format in pixels of the resized picture")
    settings = _settings(name, model, args)
    key = None
    # Servers of one's own mostly want no key; a hosted one says so where it is missing.
    if settings.base_url != _HOSTED and "api_key_env" not in args and not os.environ.get(settings.api_key_env):
        key = "none"
    else:
        read_key(settings, "the model", as_model_arg)
    return Endpoint(name, settings, form, key=key, cache=_cache(args.get("cache")), pixels=pixels)


def _declared(name: str, form: str | None, frame: str | None) -> BoxFormat | None:
    choices = f"one of {', '.join(FORMATS)} (json with frame=...), or none for a model that writes no boxes"
    if form is None:
        raise HarnessError(f"model {name!r}: declare how it writes boxes with --model-args format=NAME, {choices}")
    if form == "none":
        if frame is not None:
            raise HarnessError(f"model {name!r}: format=none has no frame; leave frame out")
        return None
    if form not in FORMATS:
        raise HarnessError(f"--model-args format={form}: is none; give {choices}")
    return box_format(form, frame)


def _settings(name: str, model: str, args: Mapping[str, str]) -> JudgeSettings:
    values = {key: _number(key, args[key], kind) for key, kind in CLIENT_ARGS.items() if key in args}
    values["base_url"] = (args.get("base_url") or os.environ.get("OPENAI_BASE_URL") or _HOSTED).rstrip("/")
    if "timeout" in values:
        values["timeout_s"] = values.pop("timeout")
    try:
        return JudgeSettings(model=model, **values)
    except HarnessError as error:
        text = str(error)
        for option in ("base-url", "concurrency", "retries", "timeout"):
            text = text.replace(f"--{option}", f"--model-args {option.replace('-', '_')}")
        raise HarnessError(f"model {name!r}: {text}") from None


def _number(key: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or (key.endswith("_pixels") and value < 1):
        raise HarnessError(f"--model-args {key}={text}: must be a {'whole ' if kind is int else ''}number")
    return value


def _cache(given: str | None) -> Path | None:
    if given == "none":
        return None
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groma-eval" / "endpoint"
