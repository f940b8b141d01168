"""From names to jobs: a benchmark with its protocol, decoding limits, samples and the model that is to answer it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from groma_eval import leakage, provenance
from groma_eval.cards import Card, CardProtocol
from groma_eval.core import Decoding, HarnessError, Model, ModelInfo, Sample
from groma_eval.readers import files, locate, read

DATA_VARIABLE = "GROMA_DATA"


class CannotAnswer(HarnessError):
    """The model lacks a capability that the benchmark asks for: the benchmark is not applicable to it."""


_DRAWN = re.compile(r'\s*\{\s*"info"\s*:\s*\{[^{}]*"seed"\s*:\s*(-?\d+)')


@dataclass(frozen=True)
class Job:
    """One benchmark, ready to run. ``leakage``: what the model's training saw of it (:func:`leakage.overlap`)."""

    card: Card
    protocol_name: str
    protocol: CardProtocol
    decoding: Decoding
    model: Model
    samples: list[Sample]
    deviations: list[str]
    key: dict[str, Any]
    leakage: dict[str, Any]


def default_data_root(given: str | Path | None = None) -> Path:
    """The data root: as given, else ``GROMA_DATA``, else ``./data``."""
    return Path(given or os.environ.get(DATA_VARIABLE) or "data")


def read_benchmark(
    card: Card,
    root: Path,
    need_images: bool = False,
    annotations: Path | None = None,
    images: Path | None = None,
) -> list[Sample]:
    """A card's samples from its files below ``root`` (or those given); counts are asserted by the run, not here."""
    path = annotations or root / card.data["annotations"]
    if not path.exists():
        raise HarnessError(_missing_data(card, path, root, annotations is not None))
    folder = images or (root / card.data["images"] if "images" in card.data else None)
    if images is None and folder is not None and not folder.is_dir():
        if need_images:
            raise HarnessError(_missing_data(card, folder, root, False))
        folder = None
    extra = {k: root / v for k, v in _further_data(card).items()}
    return read(card.reader, path, folder, need_images, **extra, **card.options)


def _further_data(card: Card) -> dict[str, str]:
    """The files beside the annotations that the card names, such as reference answers kept apart."""
    return {key: place for key, place in card.data.items() if key not in ("annotations", "images")}


def _data_hash(card: Card, path: Path) -> str | None:
    """The content of the annotations, whether they are one file or, for some readers, several in a folder."""
    hashes = [provenance.file_hash(file) for file in files(card.reader, path, **card.options)]
    return hashes[0] if len(hashes) == 1 else provenance.short_hash(hashes)


def _missing_data(card: Card, path: Path, root: Path, given: bool) -> str:
    if given:
        return f"{path}: no such annotation file (--annotations)"
    mend = f"groma-eval data prepare {card.prepare} --data-root {root}" if card.prepare else None
    return f"{path}: the data of {card.name} is not there; " + (
        f"make it with: {mend}" if mend else f"put it there, or give --data-root (or {DATA_VARIABLE}) or --annotations"
    )


def load_model(
    model: str | Model, card: Card, root: Path, device: str | None, dtype: str | None, model_args: Any
) -> Model:
    """The adapter to answer ``card`` with: ``model`` itself, or loaded by its name."""
    if not isinstance(model, str):
        return model
    from groma_eval import models

    answers = _training_answers(card, root) if model.startswith("bound:majority") else None
    return models.load(
        model,
        device=device,
        dtype=dtype,
        model_args=dict(model_args or {}),
        training_answers=answers,
        benchmark=card.name,
    )


def _training_answers(card: Card, root: Path) -> Path | None:
    """The card's file of training answers, None where it names none or the file is not there."""
    path = root / card.training_answers if card.training_answers else None
    return path if path is not None and path.is_file() else None


def places(
    card: Card, root: Path, annotations: str | Path | None, images: str | Path | None, several: bool
) -> tuple[Path | None, Path | None]:
    """Annotations and images folder that are to take the place of the card's (None where the card's own stand)."""
    if images is not None and not Path(images).is_dir():
        raise HarnessError(f"{images}: no such folder of images (--images)")
    if annotations is None:
        return None, Path(images) if images else None
    place = Path(annotations)
    if place.is_dir():
        place = locate(card.reader, place, Path(card.data["annotations"]).name)
    elif several:
        raise HarnessError(f"--annotations {place} is one file but several benchmarks are named; give a folder")
    return place, Path(images) if images else None


def prepare_job(
    card: Card,
    model: Model,
    root: Path,
    where: tuple[Path | None, Path | None],
    overridden: bool,
    options: Mapping[str, Any],
) -> Job:
    """Read and check everything ``card`` needs, before any question is asked.

    ``where`` is :func:`places`' answer, ``overridden`` whether annotations were given; ``options``: protocol, limit,
    seed and gen_args as given to ``evaluate``.
    """
    name, protocol = card.protocol(options["protocol"])
    decoding = _decoding(protocol, options["gen_args"], options["seed"])
    samples = read_benchmark(card, root, model.info.needs_images, *where)
    # Other files that hold exactly the card's questions are the benchmark itself, kept elsewhere.
    same = bool(card.counts) and _counts(samples) == {**_counts(samples), **card.counts}
    if not overridden:
        _check_counts(card, samples)
    samples = samples[: options["limit"]]
    _check_capabilities(card, model.info, samples)
    deviations = [f"limit={options['limit']}"] if options["limit"] else []
    deviations += [f"{k}={v}" for k, v in options["gen_args"].items()]
    deviations += [f"annotations={where[0]}"] if overridden and not same else []
    deviations += _drawn_anew(where[0] or root / card.data["annotations"])
    seen = leakage.overlap(card.image_ids, samples, model.info.training_data, own_data=same or not overridden)
    key = {
        "card_version": card.version,
        "protocol": name,
        "decoding": asdict(decoding),
        "prompts": dict(protocol.prompts),
        "templates": {kind: provenance.short_hash(text) for kind, text in sorted(model.info.templates.items())},
        "rules": dict(protocol.rules),
        "deviations": deviations,
        "training_answers": _training_hash(card, model, root),
        "data": _data_hash(card, where[0] or root / card.data["annotations"]),
    }
    if further := {k: provenance.file_hash(root / v) for k, v in _further_data(card).items()}:
        key["further_data"] = further
    return Job(card, name, protocol, decoding, model, samples, deviations, key, seen)


def _drawn_anew(path: Path) -> list[str]:
    """A departure where the annotation file says at its beginning that it was drawn with a seed of one's own.

    ``groma-eval data prepare`` writes so: the questions are as many and of the same kind, but not the published ones.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        said = _DRAWN.match(file.read(2000))
    return [f"questions drawn anew with seed {said.group(1)}"] if said else []


def _training_hash(card: Card, model: Model, root: Path) -> str | None:
    # Only what the model answers from belongs in the key: another training file is another bound:majority.
    if not model.info.name.startswith("bound:majority"):
        return None
    path = _training_answers(card, root)
    return provenance.file_hash(path) if path is not None else "bundled"


def _decoding(protocol: CardProtocol, gen_args: Mapping[str, Any], seed: int) -> Decoding:
    kinds = {f.name: type(f.default) for f in fields(Decoding) if f.name != "setup"}
    values = {**protocol.decoding, "seed": seed}
    for key, given in gen_args.items():
        if key not in kinds:
            raise HarnessError(f"--gen-args {key}: no such decoding limit; there are: {', '.join(kinds)}")
        kind = kinds[key]
        value = {"true": True, "false": False}.get(str(given).lower(), given) if kind is bool else given
        try:
            values[key] = value if kind is bool else kind(value)
        except (TypeError, ValueError):
            value = None
        if value is None or (kind is bool and not isinstance(value, bool)):
            raise HarnessError(f"--gen-args {key}={given}: must be {'true or false' if kind is bool else 'a number'}")
    return Decoding(**values)


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    return {"questions": sum(len(sample.questions) for sample in samples), "images": len(samples)}


def _check_counts(card: Card, samples: Sequence[Sample]) -> None:
    found = _counts(samples)
    for key, wanted in card.counts.items():
        if found[key] != wanted:
            raise HarnessError(
                f"{card.name}: the annotations hold {found[key]} {key}, the card says {wanted}: "
                "another file or another split (override knowingly with --annotations)"
            )


def _check_capabilities(card: Card, info: ModelInfo, samples: Sequence[Sample]) -> None:
    lacking = {question.kind for sample in samples for question in sample.questions} - info.capabilities
    if lacking:
        raise CannotAnswer(
            f"model {info.name} cannot {', '.join(sorted(lacking))}, which {card.name} asks; "
            f"it can: {', '.join(sorted(info.capabilities)) or 'nothing'}"
        )
