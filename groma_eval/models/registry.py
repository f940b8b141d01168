"""Names of models to adapters.

Names: ``groma-tiny`` (bundled), ``groma:FOLDER`` or ``groma:HUB/ID``, a plain folder, ``bound:NAME`` or
``bound:NAME@MODEL``, ``predictions:FILE`` (answers made elsewhere), the transformers models of
:mod:`groma_eval.models.adapters` (``qwen3-vl``, ``qwen3-vl:FOLDER`` or ``qwen3-vl:HUB/ID``), ``endpoint:MODEL``, and
whatever :func:`register` or an entry point of the group ``groma_eval.models`` adds.
"""

from __future__ import annotations

import difflib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, Model, ModelInfo
from groma_eval.models.adapters import ADAPTERS

#: ``factory(argument, *, device, dtype, model_args) -> Model``; ``argument`` is what follows ``NAME:``, or None.
Factory = Callable[..., Model]

ENTRY_POINT_GROUP = "groma_eval.models"
BUNDLED = ("groma-tiny",)
_CACHE_SIZE = 4

_registered: dict[str, Factory] = {}
_cache: OrderedDict[tuple[Any, ...], Model] = OrderedDict()


def register(name: str, factory: Factory) -> None:
    """Make ``name`` (or ``name:ARGUMENT``) loadable in this process by ``factory``; the latest registration counts."""
    _registered[name] = factory
    _cache.clear()


def available() -> dict[str, str]:
    """Loadable names (or patterns of names, with the variable part in capitals) with a line about each."""
    from groma_eval.models.bounds import BOUNDS

    names = {
        "groma-tiny": "the bundled Groma, trained on the shapes world",
        "groma:PATH": "a Groma checkpoint: a folder or a hub id (a plain folder works as well)",
    }
    names |= {f"bound:{name}" + ("@MODEL" if bound.needs_model else ""): bound.about for name, bound in BOUNDS.items()}
    names["predictions:FILE"] = (
        "answers made elsewhere, from a file or a folder of BENCHMARK.jsonl; "
        "may go on: ,frame=pixels|0-1|0-1000|0-999,format=xyxy|xywh|cxcywh,name=NAME,benchmark=NAME"
    )
    names |= {f"{d.name}:PATH": f"{d.about}; without :PATH it is {d.checkpoint}" for d in ADAPTERS.values()}
    names["endpoint:MODEL"] = (
        "a model behind an OpenAI-compatible endpoint (vLLM, SGLang, hosted); see docs/models.md for its --model-args"
    )
    return names | {name: "added by a user" for name in sorted({*_registered, *_entry_points()})}


def declarations() -> dict[str, tuple[str, str]]:
    """What adapters declare before a model is loaded: question kinds, and box format with its frame, by name as in
    :func:`available`. Of a user's adapter it is known where its factory is a class with ``info``."""
    ground, talk = ("ground_all", "ground_one"), ("converse", "describe", "describe_scene")
    groma = (", ".join((*talk, *ground, "propose")), "xyxy (0-1)")
    boxes, texts = (", ".join(ground), "xyxy (0-1)"), (", ".join(talk), "none")
    found = {"groma-tiny": groma, "groma:PATH": groma}
    for name in available():
        if name.startswith("bound:"):
            found[name] = texts if name == "bound:majority" else boxes
    found["bound:blind@MODEL"] = ("what MODEL does", "as MODEL's")
    found["predictions:FILE"] = ("what the file holds", "as declared after the file's name")
    for d in ADAPTERS.values():
        found[f"{d.name}:PATH"] = (", ".join(sorted(d.capabilities)), f"{d.box_format} ({d.frame})")
    found["endpoint:MODEL"] = (
        f"converse; with a box format also {', '.join((*talk[1:], *ground))}",
        "as declared by --model-args format=NAME",
    )
    for name, factory in _added().items():
        info = getattr(factory, "info", None)
        if isinstance(info, ModelInfo):
            found[name] = (", ".join(sorted(info.capabilities)), f"{info.box_format} ({info.frame})")
        elif isinstance(factory, Exception):
            found[name] = (f"nothing: it cannot be loaded ({' '.join(str(factory).split())})", "unknown")
    return found


def _added() -> dict[str, Any]:
    """Users' factories by name; in place of one that cannot be loaded, the error."""
    found: dict[str, Any] = {}
    for name, point in _entry_points().items():
        try:
            found[name] = point.load()
        except Exception as error:  # whatever a package raises when it is imported, the list is still printed
            found[name] = error
    return found | _registered


def load(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    model_args: Mapping[str, str] | None = None,
    training_answers: str | Path | None = None,
    benchmark: str | None = None,
) -> Model:
    """The adapter called ``name``.

    Args:
        name: see :func:`available`.
        device: where the model runs (``cpu``, ``cuda``, ``cuda:1``); None: the model's own choice.
        dtype: ``float32`` or ``bfloat16`` (or ``fp32``, ``bf16``); None: the model's own choice.
        model_args: settings of the adapter, as given to ``--model-args``.
        training_answers: file ``bound:majority`` is fitted on instead of the table that is bundled.
        benchmark: name of the benchmark that is to be answered, which ``predictions:`` must know.

    Recently loaded models are kept, so that bounds of a model share it.

    Raises:
        HarnessError: unknown name (with the nearest ones), or a model that cannot be loaded.
    """
    if name.startswith("predictions:"):
        return _load_predictions(name, model_args, benchmark)
    args = tuple(sorted((model_args or {}).items()))
    key = (name, device, dtype, args, str(training_answers) if training_answers is not None else None)
    if key not in _cache:
        # The model inside a bound enters the cache under its own key, by a call of load in here.
        model = _build(name, device=device, dtype=dtype, model_args=dict(args), training_answers=training_answers)
        _cache[key] = model
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def _build(name: str, *, training_answers: str | Path | None, **options: Any) -> Model:
    prefix, _, argument = name.partition(":")
    factory = _registered.get(name) or _registered.get(prefix)
    if factory is None:
        found = _entry_points()
        point = found.get(name) or found.get(prefix)
        factory = point.load() if point is not None else None
    if factory is not None:
        return factory(argument or None, **options)
    if prefix == "bound":
        return _build_bound(name, argument, training_answers, options)
    if name in BUNDLED or (prefix == "groma" and argument) or Path(name).is_dir():
        from groma_eval.models.groma import GromaAdapter

        return GromaAdapter.load(argument if prefix == "groma" and argument else name, name=name, **options)
    if prefix in ADAPTERS:
        return _build_adapter(prefix, argument, name, options)
    if prefix == "endpoint":
        from groma_eval.models.endpoint_loading import load_endpoint

        return load_endpoint(argument, name=name, **options)
    if prefix == "groma" and not argument:
        raise HarnessError(f"model {name!r} names no checkpoint; write groma:FOLDER or groma:HUB/ID")
    if "/" in name or name.startswith("."):
        raise HarnessError(f"model {name!r}: there is no such folder; for a hub id write groma:{name}")
    raise HarnessError(f"unknown model {name!r}; {_nearest(name, list(available()))}")


def _build_adapter(prefix: str, argument: str, name: str, options: dict[str, Any]) -> Model:
    from groma_eval.models.transformers_loading import load_adapter

    module, _, attribute = ADAPTERS[prefix].target.partition(":")
    adapter = getattr(importlib.import_module(module), attribute)
    return load_adapter(adapter, ADAPTERS[prefix], argument or None, name=name, **options)


def _load_predictions(name: str, model_args: Mapping[str, str] | None, benchmark: str | None) -> Model:
    from groma_eval.models import predictions

    if model_args:
        raise HarnessError(f"model {name!r} takes no --model-args; its settings follow the file's name, after commas")
    return predictions.load(name.partition(":")[2], benchmark)


def _build_bound(name: str, spelled: str, training_answers: str | Path | None, options: dict[str, Any]) -> Model:
    from groma_eval.models.bounds import BOUNDS

    kind, at, inner_name = spelled.partition("@")
    if kind not in BOUNDS:
        names = [n for n in available() if n.startswith("bound:")]
        raise HarnessError(f"unknown bound {name!r}; {_nearest(f'bound:{kind}', names)}")
    bound = BOUNDS[kind]
    if not bound.needs_model:
        if at:
            raise HarnessError(f"model {name!r}: this bound uses no model; write bound:{kind}")
        if options["model_args"]:
            raise HarnessError(f"model {name!r} takes no --model-args (given: {', '.join(options['model_args'])})")
        return bound.build(name, training_answers) if kind == "majority" else bound.build(name)
    if not inner_name:
        raise HarnessError(f"model {name!r}: this bound uses a model; write bound:{kind}@MODEL, say @groma-tiny")
    return bound.build(name, load(inner_name, **options))


def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _nearest(name: str, names: list[str]) -> str:
    # Patterns are compared without their variable part: "bound:blnd" is near "bound:blind@MODEL".
    stems = {n.removesuffix("@MODEL").removesuffix("PATH").removesuffix("FILE"): n for n in names}
    close = difflib.get_close_matches(name.partition("@")[0], list(stems), n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(stems[stem] for stem in close)}?"
    return f"known: {', '.join(names)}"
