"""``groma-train data check``: what a training mixture holds, lacks, and shares with the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import HarnessError, TrainingData

if TYPE_CHECKING:
    from groma_eval.cards import Card
    from groma_model.data.mixture import Mixture
    from groma_model.processing import PromptTemplate
    from groma_model.training.recipe import Recipe

ABOUT = "count a training mixture's samples, and find the benchmarks' pictures among its own"
Picture = tuple[str, str]  # (collection, id)
#: Collections of which a statement lists the single pictures: those that benchmarks are taken from.
_LISTED = ("coco", "vg", "flickr30k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = "read every set of a mixture: samples, missing pictures, overlaps with benchmarks; exit 1 if too much lacks"
    check = actions.add_parser("check", help=about, description=about[0].upper() + about[1:] + ".")
    add = check.add_argument
    add("mixture", type=Path, metavar="MIXTURE.yaml", help="the mixture; see docs/training_data.md")
    add("--root", type=Path, metavar="DIR", help="what the mixture's paths are relative to (default: its folder)")
    add("--data-root", metavar="DIR", help="where the benchmarks' data is (default: $GROMA_DATA, else ./data)")
    add("--benchmarks-dir", metavar="DIR", help="folder of your own cards (default: $GROMA_BENCHMARKS)")
    add("--benchmarks", metavar="NAME,...", help="compare with these only (default: all whose annotations are there)")
    add("--vg-image-data", type=Path, metavar="FILE", help="Visual Genome's image_data.json: which are COCO's")
    add("--exclude", type=Path, metavar="OUT.txt", help="write the pictures shared with benchmarks")
    add("--statement", type=Path, metavar="DIR", help="write training_data.json for the checkpoint in this folder")


def run(args: argparse.Namespace) -> int:
    """Do the check; returns 0, or 1 where a set is empty or lacks more pictures than it allows."""
    from groma_eval.jobs import default_data_root
    from groma_model.data.mixture import load_mixture

    root = default_data_root(args.data_root)
    cards = _cards(args.benchmarks, args.benchmarks_dir, root)
    # Reading may take long: what would fail after it is tried before.
    if args.statement and not args.statement.is_dir():
        raise HarnessError(f"--statement {args.statement}: no such folder (it must be a checkpoint's)")
    if args.exclude and not args.exclude.parent.is_dir():
        raise HarnessError(f"--exclude {args.exclude}: cannot be written (there is no folder {args.exclude.parent})")
    try:
        mixture = load_mixture(args.mixture, args.root)
        same = _known_pictures(args.vg_image_data) if args.vg_image_data else {}
        found, listed, wrong = _sets(mixture, args.exclude)
    except ValueError as error:
        raise HarnessError(str(error)) from None
    shared = _overlaps(cards, root, found, same)
    if args.exclude:
        pictures = sorted(listed | shared)
        _write(args.exclude, "".join(f"{collection} {identity}\n" for collection, identity in pictures))
        print(f"{len(pictures)} pictures to leave out -> {args.exclude}")
    if args.statement:
        print(f"statement of {_state(args.statement, args.statement, found)} -> {args.statement}")
    for line in wrong:
        print(f"wrong: {line}")
    return int(bool(wrong))


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """What the stages take besides, to train on a mixture."""
    add = parser.add_argument_group("mixtures").add_argument
    add("--root", type=Path, metavar="DIR", help="what the mixture's paths are relative to (default: its folder)")
    add("--data-root", metavar="DIR", help="where the benchmarks' data is (default: $GROMA_DATA, else ./data)")
    add("--keep-overlaps", action="store_true", help="train on the benchmarks' pictures as well")
    add("--vg-image-data", type=Path, metavar="FILE", help="Visual Genome's image_data.json: which are COCO's")
    add("--evaluate", metavar="NAME,...", help="held-out benchmarks (default: with a mixture none, else shapes)")


def is_mixture(path: Path) -> bool:
    """Whether ``--data`` names a mixture's file, not a folder."""
    return path.suffix in (".yaml", ".yml")


def open_mixture(args: argparse.Namespace, recipe: Recipe, template: PromptTemplate) -> Mixture:
    """The mixture that a stage's arguments name, without the benchmarks' pictures unless these are to be kept.

    The first process of a machine reads the files, the others find what it made.
    """
    from groma_eval.jobs import default_data_root
    from groma_model.data.mixture import Mixture, check_stage, load_mixture
    from groma_model.training.loop import first_process_first

    if args.limit:
        raise HarnessError("--limit takes the first images of a folder; of a mixture's sets draw less with ratio")
    given = load_mixture(args.data, args.root)
    check_stage(given.path, given.sets, recipe.stage, recipe.tasks)
    pictures, names = frozenset(), []
    if not args.keep_overlaps:
        pictures, names = benchmark_pictures(default_data_root(args.data_root), args.vg_image_data)
    with first_process_first():
        mixture = Mixture(given, template, recipe.seed, exclude=pictures)
    if os.environ.get("RANK", "0") == "0":
        out = sum(store.counts.get("excluded", 0) for store in mixture.stores)
        print(f"{args.data}: {len(mixture)} samples an epoch, fingerprint {mixture.fingerprint()}; {out} left out as "
              f"pictures of {', '.join(names) or 'no benchmark'}", file=sys.stderr)  # fmt: skip
    return mixture


def _sets(mixture: Any, out: Path | None) -> tuple[set[Picture | None], set[Picture], list[str]]:
    """Print a line a set; (pictures of the mixture, pictures it already excludes, what is wrong)."""
    from groma_model.data.mixture import missing_line, read_exclusions
    from groma_model.data.pictures import picture_id
    from groma_model.data.store import open_store

    listed: frozenset[Picture] = frozenset()
    if mixture.exclude is not None:
        # A mixture may name the very list that this run is to write.
        first = out is not None and out.resolve() == mixture.exclude.resolve() and not out.exists()
        listed = frozenset() if first else read_exclusions(mixture.exclude)
    everything: set[Picture | None] = set()
    wrong, total = [], 0
    for one in mixture.sets:
        store = open_store(
            one.reader, one.annotations, one.images, one.options, one.collection, listed, rebuild=True
        )  # pictures are looked for anew
        pictures = {picture_id(one.images / record["image"], one.collection) for record in store}
        everything |= pictures
        drawn = max(1, round(one.ratio * len(store)))
        total += drawn if len(store) else 0
        sources = sorted({p[0] if p else "unknown" for p in pictures})
        left = "".join(f", {name.replace('_', ' ')} {n}" for name, n in sorted(store.counts.items()) if n)
        print(f"{one.name}: {len(store)} samples, {drawn if len(store) else 0} an epoch, {len(pictures)} pictures "
              f"({', '.join(sources) or 'none'}){left}")  # fmt: skip
        if store.missing > one.missing:
            wrong.append(missing_line(one, store))
        elif not len(store):
            wrong.append(f"{one.annotations}: no sample is left of this set")
    print(f"together: {total} samples an epoch")
    return everything, set(listed), wrong


def _known_pictures(path: Path) -> dict[Picture, list[Picture]]:
    """Visual Genome's pictures that are COCO's or Flickr30k's too, where its ``image_data.json`` knows their ids."""
    from groma_model.data.fields import need, place
    from groma_model.data.json_stream import stream_json

    same: dict[Picture, list[Picture]] = {}
    for name, index, row in stream_json(path):
        key = ("vg", str(need(row, "image_id", int, place(path, name, index))))
        for collection, field in (("coco", "coco_id"), ("flickr30k", "flickr_id")):
            if row.get(field):
                same.setdefault(key, []).append((collection, str(row[field])))
    return same


def _cards(names: str | None, benchmarks_dir: str | None, root: Path) -> list[Card]:
    """The benchmarks to compare with: those named, else all whose annotations are there."""
    from groma_eval.cards import registry, select

    named = select(names, benchmarks_dir) if names else None
    cards = []
    for card in registry(benchmarks_dir).values() if named is None else named:
        if card.image_ids is not None and (root / card.data["annotations"]).exists():
            cards.append(card)
        elif named is not None:
            raise HarnessError(f"benchmark {card.name}: its pictures' ids are not known, or {root} lacks its data")
    return cards


def _overlaps(
    cards: Sequence[Card], root: Path, found: set[Picture | None], same: Mapping[Picture, list[Picture]]
) -> set[Picture]:
    """Print how many pictures of each benchmark the mixture has; the mixture's pictures that are shared."""
    # Under every name that a picture is known by, the mixture's own names for it.
    names: dict[Picture, set[Picture]] = {}
    for picture in filter(None, found):
        for name in (picture, *same.get(picture, ())):
            names.setdefault(name, set()).add(picture)
    shared: set[Picture] = set()
    for card in cards:
        pictures = _benchmark_pictures(card, root)
        hits = [p for p in pictures if any(name in names for name in (p, *same.get(p, ())))]
        for picture in hits:
            for name in (picture, *same.get(picture, ())):
                shared |= names.get(name, set())
        print(f"{card.name}: {len(hits)} of {len(pictures)} pictures are in the mixture")
    if not cards:
        print(f"no benchmark's annotations are in {root}: nothing to compare with (give --data-root DIR)")
    return shared


def _benchmark_pictures(card: Card, root: Path) -> set[Picture]:
    from groma_eval.jobs import read_benchmark

    ids = card.image_ids
    assert ids is not None
    pictures = set()
    for sample in read_benchmark(card, root):
        stem = sample.image.stem if sample.image is not None else sample.image_id
        if match := re.search(ids.pattern, stem):
            identity = match.group(1)
            pictures.add((ids.source, str(int(identity)) if identity.isdecimal() else identity))
    return pictures


def benchmark_pictures(root: Path, vg_image_data: Path | None = None) -> tuple[frozenset[Picture], list[str]]:
    """The pictures of all benchmarks whose annotations are below ``root``, by every name that they are known by.

    Also the benchmarks' names. ``vg_image_data``: Visual Genome's ``image_data.json``, which tells COCO's pictures.
    """
    same = _known_pictures(vg_image_data) if vg_image_data else {}
    cards = _cards(None, None, root)
    pictures = {picture for card in cards for picture in _benchmark_pictures(card, root)}
    aliases = {name for picture in pictures for name in same.get(picture, ())}
    aliases |= {picture for picture, names in same.items() if pictures & set(names)}
    return frozenset(pictures | aliases), [card.name for card in cards]


def state_mixture(folder: Path, mixture: Mixture, start: Path | None) -> str:
    """Write the statement of a checkpoint that was trained on a mixture from ``start`` (None: random weights).

    It has the mixture's record besides: sets, counts and fingerprint. Returns a line's words on it.
    """
    from groma_model.data.pictures import picture_id

    found = {
        picture_id(one.images / record["image"], one.collection)
        for one, store in zip(mixture.sets, mixture.stores, strict=True)
        for record in store
    }
    return _state(folder, start, found, mixture.record())


def _state(
    folder: Path, start: Path | None, found: Iterable[Picture | None], record: Mapping[str, Any] | None = None
) -> str:
    """Write ``training_data.json`` (and lists of ids beside it) into ``folder``, adding to what ``start`` states.

    ``start`` is None where the training began from random weights; ``record`` is that of a mixture.
    """
    from groma_eval.leakage import ALL, STATEMENT, read_training_data

    # Nothing is known of what a checkpoint without a statement started from: it cannot be complete.
    before = TrainingData(complete=True) if start is None else read_training_data(start) or TrainingData()
    stated = start / STATEMENT if start is not None else None
    records = json.loads(stated.read_text()).get("mixtures", []) if stated is not None and stated.is_file() else []
    sets = {source: set(names) for source, names in before.sets.items()}
    ids = {source: set(known) for source, known in before.image_ids.items()}
    known = [picture for picture in found if picture is not None]
    complete = before.complete and None not in set(found)
    for collection, identity in known:
        if collection in _LISTED:
            ids.setdefault(collection, set()).add(identity)
        else:
            sets.setdefault(collection, set()).add(ALL)
    content: dict[str, Any] = {"complete": complete, "sets": {s: sorted(names) for s, names in sorted(sets.items())}}
    content["image_ids"] = {source: f"{source}_ids.txt" for source in sorted(ids)}
    if record is not None:
        records = [*records, record]
    if records:
        content["mixtures"] = records
    for source, values in ids.items():
        _write(folder / f"{source}_ids.txt", "".join(f"{value}\n" for value in sorted(values)))
    _write(folder / STATEMENT, json.dumps(content, indent=1) + "\n")
    return f"{len(known)} pictures{'' if complete else ' (not all of what the checkpoint saw)'}"


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be written ({error.strerror})") from None
