"""Benchmark cards: load, validate, register.

A card is a YAML file that says everything about a benchmark except its data: task, reader, files, protocols (decoding
limits, reference prompts, scoring rules), the counts the data must have. One file may hold a list of cards, or one card
with ``splits:`` (``[{name, split, data, counts}, ...]``), which expands to a benchmark a split.

Cards are found in the package's own benchmarks, in a user's folder (``--benchmarks-dir`` or ``GROMA_BENCHMARKS``) and
through the entry-point group ``groma_eval.benchmarks`` (an entry point names a folder, a file, or a function that
returns one).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from groma_eval.core import Decoding, HarnessError, ImageIds, Setup
from groma_eval.leakage import check_set
from groma_eval.readers import QUESTION_KINDS

TASKS = ("rec", "grounding", "caption", "vqa", "proposals")
KINDS = ("ground_one", "ground_all", "describe", "describe_scene", "converse", "propose")
PREPROCESSING = ("pil", "cv2")
ENTRY_POINTS = "groma_eval.benchmarks"
FOLDER_VARIABLE = "GROMA_BENCHMARKS"


@dataclass(frozen=True)
class CardProtocol:
    """One way of asking and scoring: ``decoding`` (fields of Decoding), ``prompts`` by question kind, ``rules``.

    A card's ``setup`` stands among the fields of ``decoding``, as a :class:`groma_eval.core.Setup`.
    """

    decoding: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One benchmark. ``data`` paths are relative to the data root; ``options`` are passed to the reader."""

    name: str
    version: int
    task: str
    reader: str
    data: Mapping[str, str]
    protocols: Mapping[str, CardProtocol]
    default_protocol: str
    headline: str
    title: str
    family: str
    split: str
    suites: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    prepare: str | None = None
    training_answers: str | None = None
    image_ids: ImageIds | None = None
    source: str = ""

    def protocol(self, name: str | None = None) -> tuple[str, CardProtocol]:
        """The protocol called ``name`` (None: the default one) with its name; unknown names raise HarnessError."""
        name = name or self.default_protocol
        if name not in self.protocols:
            raise HarnessError(
                f"benchmark {self.name} has no protocol '{name}'; it has: {', '.join(sorted(self.protocols))}"
            )
        return name, self.protocols[name]


_REQUIRED = {"name": str, "version": int, "task": str, "reader": str, "data": dict, "protocols": dict, "headline": str}
_OPTIONAL = {
    "title": str,
    "family": str,
    "split": str,
    "suites": list,
    "counts": dict,
    "options": dict,
    "default_protocol": str,
    "prepare": str,
    "training_answers": str,
    "image_ids": dict,
    "splits": list,
}
_Kind = type | tuple[type, ...]
_TYPE_NAMES = {str: "text", int: "a whole number", (int, float): "a number", dict: "a mapping", list: "a list"}


def _expect(where: str, mapping: Mapping[str, Any], key: str, kind: _Kind) -> None:
    value = mapping[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise HarnessError(f"{where}: field '{key}' must be {_TYPE_NAMES[kind]}, not {value!r}")


def _check_fields(
    where: str, raw: Mapping[str, Any], required: Mapping[str, _Kind], optional: Mapping[str, _Kind]
) -> None:
    known = {**required, **optional}
    for key in raw:
        if key not in known:
            hint = difflib.get_close_matches(str(key), known, 1)
            raise HarnessError(f"{where}: unknown field '{key}'" + (f" (did you mean '{hint[0]}'?)" if hint else ""))
    for key in required:
        if key not in raw:
            raise HarnessError(f"{where}: field '{key}' is missing")
    for key in raw:
        _expect(where, raw, key, known[key])


def _protocol(where: str, raw: Any) -> CardProtocol:
    if not isinstance(raw, dict):
        raise HarnessError(f"{where} must be a mapping with decoding, prompts, rules and setup, not {raw!r}")
    _check_fields(where, raw, {}, {"decoding": dict, "prompts": dict, "rules": dict, "setup": dict})
    limits = {f.name for f in fields(Decoding)} - {"setup"}
    for key in raw.get("decoding", {}):
        if key not in limits:
            raise HarnessError(f"{where}: decoding has no setting '{key}'; it has: {', '.join(sorted(limits))}")
    _check_prompts(where, "prompts", raw.get("prompts", {}))
    decoding = dict(raw.get("decoding", {}))
    if "setup" in raw:
        decoding["setup"] = _setup(f"{where}.setup", raw["setup"])
    return CardProtocol(decoding, raw.get("prompts", {}), raw.get("rules", {}))


def _setup(where: str, raw: Mapping[str, Any]) -> Setup:
    _check_fields(where, raw, {}, {"preprocessing": str, "score_threshold": (int, float), "instructions": dict})
    if raw.get("preprocessing", "pil") not in PREPROCESSING:
        raise HarnessError(
            f"{where}: preprocessing is '{raw['preprocessing']}'; it is one of {', '.join(PREPROCESSING)}"
        )
    if not 0 <= raw.get("score_threshold", 0) <= 1:
        raise HarnessError(f"{where}: score_threshold is {raw['score_threshold']}; it must be from 0 to 1")
    _check_prompts(where, "instructions", raw.get("instructions", {}))
    return Setup(**raw)


def _check_prompts(where: str, name: str, prompts: Mapping[str, Any]) -> None:
    for kind, prompt in prompts.items():
        if kind not in KINDS:
            raise HarnessError(f"{where}: {name} names no question kind '{kind}'; kinds are: {', '.join(KINDS)}")
        if not isinstance(prompt, str):
            raise HarnessError(f"{where}: {name}.{kind} must be text, not {prompt!r}")


def _image_ids(where: str, raw: Mapping[str, Any]) -> ImageIds:
    _check_fields(where, raw, {"source": str}, {"pattern": str, "set": str})
    try:
        groups = re.compile(raw.get("pattern", ImageIds.pattern)).groups
    except re.error as error:
        raise HarnessError(f"{where}: pattern '{raw['pattern']}' is no regular expression ({error})") from None
    if groups != 1:
        raise HarnessError(f"{where}: pattern '{raw['pattern']}' has {groups} groups; the id must be its one group")
    if "set" in raw:
        check_set(where, raw["source"], raw["set"])
    return ImageIds(**raw)


def parse_card(raw: Any, where: str) -> list[Card]:
    """One card's mapping to benchmarks (several where it has ``splits``); ``where`` names it in errors."""
    if not isinstance(raw, dict):
        raise HarnessError(f"{where}: a card must be a mapping of fields, not {raw!r}")
    if "splits" in raw:
        _expect(where, raw, "splits", list)
        shared = {key: value for key, value in raw.items() if key != "splits"}
        cards = []
        for index, split in enumerate(raw["splits"]):
            if not isinstance(split, dict):
                raise HarnessError(f"{where}: splits[{index}] must be a mapping, not {split!r}")
            merged = {**shared, **split}
            for key in ("data", "counts", "options", "image_ids"):  # a split adds to what the splits share
                if isinstance(shared.get(key), dict) and isinstance(split.get(key), dict):
                    merged[key] = {**shared[key], **split[key]}
            cards += parse_card(merged, f"{where}: splits[{index}]")
        return cards
    _check_fields(where, raw, _REQUIRED, _OPTIONAL)
    if raw["task"] not in TASKS:
        raise HarnessError(f"{where}: field 'task' is '{raw['task']}'; tasks are: {', '.join(TASKS)}")
    if raw["reader"] not in QUESTION_KINDS:
        raise HarnessError(f"{where}: field 'reader' is '{raw['reader']}'; readers are: {', '.join(QUESTION_KINDS)}")
    if "annotations" not in raw["data"]:
        raise HarnessError(f"{where}: field 'data' names no 'annotations' file")
    for key, value in raw["data"].items():
        if not isinstance(value, str):
            raise HarnessError(f"{where}: data.{key} must be a path, not {value!r}")
    for key, value in raw.get("counts", {}).items():
        if key not in ("questions", "images") or not isinstance(value, int):
            raise HarnessError(f"{where}: counts may hold whole numbers 'questions' and 'images', not {key}: {value!r}")
    if not raw["protocols"]:
        raise HarnessError(f"{where}: field 'protocols' is empty")
    protocols = {str(k): _protocol(f"{where}: protocols.{k}", v) for k, v in raw["protocols"].items()}
    default = raw.get("default_protocol", next(iter(protocols)))
    if default not in protocols:
        raise HarnessError(f"{where}: default_protocol '{default}' is not among protocols: {', '.join(protocols)}")
    name = raw["name"]
    return [
        Card(
            name=name,
            version=raw["version"],
            task=raw["task"],
            reader=raw["reader"],
            data=raw["data"],
            protocols=protocols,
            default_protocol=default,
            headline=raw["headline"],
            title=raw.get("title", name),
            family=raw.get("family", name),
            split=raw.get("split", "-"),
            suites=tuple(raw.get("suites", ())),
            counts=raw.get("counts", {}),
            options=raw.get("options", {}),
            prepare=raw.get("prepare"),
            training_answers=raw.get("training_answers"),
            image_ids=_image_ids(f"{where}: image_ids", raw["image_ids"]) if "image_ids" in raw else None,
            source=where,
        )
    ]


def load_cards(path: Path) -> list[Card]:
    """Every benchmark of one YAML file; bad files raise HarnessError naming file and field (or line)."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the card ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise HarnessError(f"{path}:{line} not YAML ({getattr(error, 'problem', None) or error})") from None
    if isinstance(raw, list):
        return [card for index, entry in enumerate(raw) for card in parse_card(entry, f"{path}: card {index + 1}")]
    return parse_card(raw, str(path))


def _card_files(folder: Path) -> list[Path]:
    return sorted(p for pattern in ("card*.yaml", "*/card*.yaml") for p in folder.glob(pattern))


def _entry_point_paths() -> Iterable[Path]:
    for entry in entry_points(group=ENTRY_POINTS):
        value = entry.load()
        value = value() if callable(value) else value
        # A package may be named instead of a folder.
        yield Path(value.__path__[0] if hasattr(value, "__path__") else value)


def registry(folder: str | Path | None = None) -> dict[str, Card]:
    """All benchmarks by name: built-in, then entry points, then the user's ``folder`` (a later name replaces)."""
    import groma_eval.benchmarks as builtin

    places = [Path(p) for p in builtin.__path__] + list(_entry_point_paths())
    user = folder or os.environ.get(FOLDER_VARIABLE)
    if user:
        if not Path(user).is_dir():
            raise HarnessError(f"{user}: no such folder of benchmark cards (--benchmarks-dir or {FOLDER_VARIABLE})")
        places.append(Path(user))
    cards: dict[str, Card] = {}
    for place in places:
        for path in _card_files(place) if place.is_dir() else [place]:
            cards.update((card.name, card) for card in load_cards(path))
    return cards


def suites(cards: Mapping[str, Card]) -> dict[str, list[str]]:
    """Benchmark names by suite, in the cards' order."""
    result: dict[str, list[str]] = {}
    for card in cards.values():
        for suite in card.suites:
            result.setdefault(suite, []).append(card.name)
    return result


def select(names: str | Path | Iterable[str | Path | Card], folder: str | Path | None = None) -> list[Card]:
    """Benchmarks by name, suite or card file (``"a,b"`` or a list), once each; unknown names list the nearest ones."""
    if isinstance(names, str):
        names = [part.strip() for part in names.split(",") if part.strip()]
    elif isinstance(names, (Path, Card)):
        names = [names]
    known = registry(folder)
    groups = suites(known)
    chosen: dict[str, Card] = {}
    for name in names:
        if isinstance(name, Card):
            found = [name]
        elif isinstance(name, Path) or name.endswith((".yaml", ".yml")):
            found = load_cards(Path(name))
        elif name in known:
            found = [known[name]]
        elif name in groups:
            found = [known[member] for member in groups[name]]
        else:
            near = difflib.get_close_matches(name, [*known, *groups], 3, cutoff=0.4)
            raise HarnessError(
                f"unknown benchmark '{name}'"
                + (f"; nearest names: {', '.join(near)}" if near else "")
                + " (see: groma-eval list benchmarks)"
            )
        chosen.update((card.name, card) for card in found)
    if not chosen:
        raise HarnessError("no benchmark named (see: groma-eval list benchmarks)")
    return list(chosen.values())
