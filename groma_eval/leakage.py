"""Whether a model's training saw the pictures it is tested on.

A card says how its pictures are known (:class:`groma_eval.core.ImageIds`), a checkpoint may say what it was trained on:
``training_data.json`` in its folder, for instance ::

    {"complete": true, "sets": {"coco": ["train2017"]}, "image_ids": {"flickr30k": "flickr_ids.txt", "vg": [2345, 61]}}

``sets`` are sets of a source by name (:data:`SETS`; ``all`` is the whole source), ``image_ids`` single pictures, as a
list or as a text file beside it with one id a line. ``complete`` is true where that is every picture of every stage,
those of the parts it started from included. Without the file nothing is known. ``mixtures`` is for people alone: the
records of the mixtures that it was trained on.

Pictures compare within a source. Of different sources only COCO and Visual Genome are known to share pictures, so a
model trained on one of them is never called clean on the other; what a source that is not listed here shares with
others is not known either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError, ImageIds, Sample, TrainingData
from groma_eval.readers.common import parse_json

STATEMENT = "training_data.json"
#: Sets of the sources that are known here, by name. Of ``vg`` no split is common to all that use it.
SETS: dict[str, tuple[str, ...]] = {
    "coco": ("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017"),
    "vg": (),
    "flickr30k": ("train", "val", "test"),
    "shapes": ("train", "val", "test"),
}
ALL = "all"
_GENERATED = {"shapes"}  # drawn by program: nobody else's pictures
_RELATED = {frozenset({"coco", "vg"})}  # Visual Genome took half of its pictures from COCO
# The 2017 release divides COCO's pictures of 2014 anew: all of train2014 and most of val2014 became train2017.
_INSIDE = {("coco", "train2014", "train2017"), ("coco", "val2017", "val2014")}
_MIXED = {
    ("coco", "train2014", "train2017"), ("coco", "val2014", "val2017"), ("coco", "train2017", "val2014"),
    ("coco", "test2014", "test2015"), ("coco", "test2014", "test2017"), ("coco", "test2015", "test2017"),
}  # fmt: skip
#: File names that tell their picture's set.
_STEMS = {
    "coco": re.compile(r"COCO_((?:train|val|test)\d{4})_"),
    "shapes": re.compile(r"shapes_(train|val|test)_"),
}


def read_training_data(folder: Path) -> TrainingData | None:
    """The statement of the checkpoint in ``folder``, None where there is none.

    Raises:
        HarnessError: it does not read, naming file and field.
    """
    path = folder / STATEMENT
    if not path.is_file():
        return None
    raw = parse_json(_text(path, str(path)), str(path))
    if not isinstance(raw, dict) or (unknown := raw.keys() - {"complete", "sets", "image_ids", "mixtures"}):
        what = f"unknown field '{min(unknown)}'" if isinstance(raw, dict) else "must be an object"
        raise HarnessError(f"{path}: {what}; there are complete, sets and image_ids")
    if not isinstance(raw.get("complete"), bool):
        raise HarnessError(f"{path}: field 'complete' must be true or false: whether all training pictures are stated")
    for field in ("sets", "image_ids"):
        if not isinstance(raw.get(field, {}), dict):
            raise HarnessError(f"{path}: field '{field}' must be an object by source")
    return TrainingData(
        sets={source: _set_names(path, source, names) for source, names in raw.get("sets", {}).items()},
        image_ids={source: _ids(path, source, ids) for source, ids in raw.get("image_ids", {}).items()},
        complete=raw["complete"],
    )


def state_training(folder: Path, seen: Mapping[str, Sequence[str]] | None, start: Path | None = None) -> None:
    """Write the statement of a checkpoint that was trained on the sets ``seen`` (by source; None: not known which).

    ``start`` is the checkpoint that the training began from, None where it began from random weights: what that one saw
    is taken over, and where it states nothing, or not all, nor does this one.
    """
    before = TrainingData(complete=True) if start is None else read_training_data(start) or TrainingData()
    sets = {source: set(names) for source, names in before.sets.items()}
    for source, names in (seen or {}).items():
        sets.setdefault(source, set()).update(names)
    content: dict[str, Any] = {
        "complete": before.complete and seen is not None,
        "sets": {source: sorted(names) for source, names in sorted(sets.items())},
    }
    if before.image_ids:
        content["image_ids"] = {source: sorted(ids) for source, ids in sorted(before.image_ids.items())}
    (folder / STATEMENT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_set(where: str, source: str, name: str) -> None:
    """HarnessError where ``source`` is listed in :data:`SETS` and has no set of this name."""
    if SETS.get(source) and name not in SETS[source]:
        raise HarnessError(f"{where}: {source} has no set '{name}'; it has {', '.join(SETS[source])}")


def _set_names(path: Path, source: str, names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise HarnessError(f"{path}: sets.{source} must be a list of names, not {names!r}")
    for name in names:
        if name != ALL:
            check_set(f"{path}: sets.{source}", source, name)
    return frozenset(names)


def _ids(path: Path, source: str, given: Any) -> frozenset[str]:
    where = f"{path}: image_ids.{source}"
    if isinstance(given, str):
        # A checkpoint may come from anywhere: it names files of its own folder only.
        if Path(given).name != given:
            raise HarnessError(f"{where}: '{given}' must be a file beside {STATEMENT}, without a folder")
        given = _text(path.with_name(given), f"{where}: {given}").split()
    if not isinstance(given, list) or not all(isinstance(i, int | str) and not isinstance(i, bool) for i in given):
        raise HarnessError(f"{where} must be a list of ids or the name of a text file with one id a line")
    return frozenset(map(_plain, given))


def _text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{where}: cannot be read ({getattr(error, 'strerror', error)})") from None


def describe(training: TrainingData | None) -> dict[str, Any] | None:
    """What the manifest keeps of a statement: the sets, and how many single pictures of each source."""
    if training is None:
        return None
    return {
        "complete": training.complete,
        "sets": {source: sorted(names) for source, names in sorted(training.sets.items())},
        "image_ids": {source: len(ids) for source, ids in sorted(training.image_ids.items())},
    }


def overlap(
    ids: ImageIds | None, samples: Sequence[Sample], training: TrainingData | None, own_data: bool = True
) -> dict[str, Any]:
    """``{"status", "images", "of"}``: how many of a benchmark's pictures the training is known to have seen.

    ``status`` is ``seen`` where that is one or more, ``clean`` where every picture is known to be none of the
    training's, else ``unknown``. ``of`` counts the different pictures. Unless the samples are the card's ``own_data``,
    its word on where they come from finds pictures that were seen, but calls none clean.
    """
    if ids is None:
        return {"status": "unknown", "images": 0, "of": len({sample.image_id for sample in samples})}
    pictures = dict(_picture(ids, sample) for sample in samples)
    if training is None:
        return {"status": "unknown", "images": 0, "of": len(pictures)}
    saw = [_saw(training, ids.source, *picture) for picture in pictures.values()]
    if not own_data:
        saw = [known or None for known in saw]
    status = "seen" if True in saw else "unknown" if None in saw else "clean"
    return {"status": status, "images": saw.count(True), "of": len(pictures)}


def _picture(ids: ImageIds, sample: Sample) -> tuple[str, tuple[str | None, str | None]]:
    """A picture's own key, with its id within the source and its set, each None where it is not known."""
    stem = sample.image.stem if sample.image is not None else sample.image_id
    found = re.search(ids.pattern, stem)
    identity = _plain(found.group(1)) if found else None
    stated = _STEMS[ids.source].match(stem) if ids.source in _STEMS else None
    name = stated.group(1) if stated else ids.set
    folder = sample.image.parent.name if sample.image is not None else ""
    if name is None and ids.source == "coco" and folder in SETS["coco"]:
        name = folder
    return identity or sample.image_id, (identity, name)


def _saw(training: TrainingData, source: str, identity: str | None, own: str | None) -> bool | None:
    listed = training.image_ids.get(source, frozenset())
    within = [_within(source, own, name) for name in training.sets.get(source, ())]
    if identity in listed or True in within:
        return True
    others = (training.sets.keys() | training.image_ids.keys()) - {source}
    doubtful = None in within or (listed and identity is None) or _may_share(source, others)
    return None if doubtful or not training.complete else False


def _within(source: str, own: str | None, stated: str) -> bool | None:
    """Whether a picture of set ``own`` is in the set ``stated`` of the same source; None where that is not known."""
    if stated == ALL or own == stated or (source, own, stated) in _INSIDE:
        return True
    if own is None or own not in SETS.get(source, ()) or (source, *sorted((own, stated))) in _MIXED:
        return None
    return False


def _may_share(source: str, others: Iterable[str]) -> bool:
    """Whether the pictures of ``source`` may be among those of other sources."""
    return any(
        frozenset({source, other}) in _RELATED or not {source, other} <= SETS.keys()
        for other in others
        if not _GENERATED & {source, other}
    )


def _plain(identity: int | str) -> str:
    text = str(identity)
    return str(int(text)) if text.isdecimal() and text.isascii() else text


def summarise(entry: Mapping[str, Any]) -> tuple[str, int, int]:
    """(status, images, of) of a manifest's benchmark entry; runs stored without it are ``unknown``."""
    stored = entry.get("leakage")
    if not isinstance(stored, Mapping) or stored.get("status") not in ("clean", "seen"):
        return "unknown", 0, 0
    return stored["status"], int(stored.get("images") or 0), int(stored.get("of") or 0)
