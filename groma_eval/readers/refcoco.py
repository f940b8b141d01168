"""RefCOCO, RefCOCO+ and RefCOCOg in any of the forms in circulation, told apart by their content.

- a flat JSON list (:mod:`~groma_eval.readers.refcoco_flat`);
- COCO form, as Groma releases it (:mod:`~groma_eval.readers.refcoco_coco`);
- the REFER toolbox's folder, or its ``refs(NAME).p`` (:mod:`~groma_eval.readers.refcoco_refer`);
- parquet, one file or a folder of them (:mod:`~groma_eval.readers.refcoco_parquet`).

Several divisions into splits, and copies that mix them, circulate under the same names. The papers' splits have known
totals, so a file that holds another one is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from groma_eval.core import HarnessError, Sample
from groma_eval.readers import refcoco_coco, refcoco_flat, refcoco_parquet, refcoco_refer
from groma_eval.readers.common import read_json
from groma_eval.readers.expressions import Expression, to_samples

TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
#: (expressions, objects) of the splits that papers report: UNC's, and UMD's of RefCOCOg.
SPLITS = {
    ("refcoco", "val"): (10834, 3811),
    ("refcoco", "testA"): (5657, 1975),
    ("refcoco", "testB"): (5095, 1810),
    ("refcoco+", "val"): (10758, 3805),
    ("refcoco+", "testA"): (5726, 1975),
    ("refcoco+", "testB"): (4889, 1798),
    ("refcocog", "val"): (4896, 2573),
    ("refcocog", "test"): (9602, 5023),
}
#: What other copies hold, by data set and number of objects.
_OTHERS = {
    ("refcoco", 8811): "UNC's val (3811) and Google's val (5000) together, as val of lmms-lab/RefCOCO does",
    ("refcocog", 7573): "UMD's val (2573) and Google's val (5000) together, as val of lmms-lab/RefCOCOg does",
    ("refcoco", 5000): "Google's val or test",
    ("refcocog", 5000): "Google's val",
    ("refcoco", 42404): "UNC's train",
    ("refcocog", 42226): "UMD's train",
}


def read(
    annotations: Path,
    images: Path | None,
    need_images: bool = True,
    dataset: str | None = None,
    split: str | None = None,
) -> list[Sample]:
    """``ground_one`` questions (target ``{"boxes": [Box]}``) by image; ids are the expressions' numbers in the split.

    Args:
        annotations: a file or folder in any of the forms above.
        dataset: ``refcoco``, ``refcoco+`` or ``refcocog``; with ``split`` it finds the file in a folder, the split's
            references among others, and a wrong split. Cards give both as options.

    Raises:
        HarnessError: bad data, or another split than the one named.
    """
    return to_samples(expressions(annotations, dataset, split), images, need_images)


def expressions(path: Path, dataset: str | None = None, split: str | None = None) -> list[Expression]:
    """The split's expressions in file order, the split checked (:func:`check_split`); raises as :func:`read`."""
    if (dataset, split) != (None, None) and (dataset, split) not in SPLITS:
        known = ", ".join(f"{name} {part}" for name, part in SPLITS)
        raise HarnessError(f"{path}: no split {dataset} {split} is known; there are: {known}")
    found = list(_parse(path, dataset, split))
    if dataset and split:
        check_split(path, dataset, split, found)
    return found


def files(path: Path, dataset: str | None = None, split: str | None = None) -> list[Path]:
    """The files that :func:`read` would read, in reading order; raises where a folder holds none of the forms."""
    if not path.is_dir():
        return [path, path.with_name("instances.json")] if _is_pickle(path) else [path]
    if not (dataset and split):
        raise HarnessError(f"{path}: is a folder; the card's options 'dataset' and 'split' must say what to read in it")
    if references := refcoco_refer.find(path, dataset):
        return [references, references.with_name("instances.json")]
    named = path / f"{dataset}_{split}.json"
    found = [named] if named.is_file() else refcoco_parquet.find(path, split)
    if not found:
        references = f"refs({refcoco_refer.SPLIT_BY[dataset]}).p"
        raise HarnessError(
            f"{path}: no expressions of {dataset} {split} in this folder: neither {references} (here or in {dataset}/) "
            f"nor {named.name} nor {split}-*.parquet (here or in data/)"
        )
    return found


def check_split(path: Path, dataset: str, split: str, found: Iterable[Expression]) -> None:
    """HarnessError, naming what it is, where ``found`` are the expressions of another split than ``dataset split``.

    Other numbers than the known ones are left to the card's counts: a part of a split may be read on purpose.
    """
    found = list(found)
    objects = len({(item.picture, item.thing) for item in found})
    if len(found) == SPLITS[dataset, split][0]:
        return
    mine = f"{TITLES[dataset]} {split}"
    for (other, part), (count, _) in SPLITS.items():
        if len(found) == count:
            raise HarnessError(
                f"{path}: holds {count} expressions, as {TITLES[other]} {part} does; {mine} has "
                f"{SPLITS[dataset, split][0]} (ask for {other}_{part}, or give the other file)"
            )
    if what := _OTHERS.get((dataset, objects)):
        raise HarnessError(
            f"{path}: holds {objects} objects, as {what}; the papers' {mine} has {SPLITS[dataset, split][1]} objects "
            f"with {SPLITS[dataset, split][0]} expressions, in the flat, REFER or COCO form"
        )


def _parse(path: Path, dataset: str | None, split: str | None) -> Iterator[Expression]:
    chosen = files(path, dataset, split)
    if _is_pickle(chosen[0]):
        if not (dataset and split):
            raise HarnessError(f"{path}: the card's options 'dataset' and 'split' must say what to read in it")
        return refcoco_refer.parse(chosen[0], dataset, split)
    if _is_parquet(chosen[0]):
        return refcoco_parquet.parse(chosen, split)
    content = read_json(chosen[0])
    if isinstance(content, dict):
        return refcoco_coco.parse(chosen[0], content, dataset)
    return refcoco_flat.parse(chosen[0], content)


def _is_pickle(path: Path) -> bool:
    return path.suffix in (".p", ".pkl", ".pickle")


def _is_parquet(path: Path) -> bool:
    if path.suffix == ".parquet":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # the JSON reader says what is wrong
