"""RefCOCO, RefCOCO+ and RefCOCOg as the REFER toolbox distributes them: ``refs(NAME).p`` and ``instances.json``.

``refs(NAME).p`` is a pickled list of references, ``{ref_id, ann_id, image_id, file_name, split, sentences: [{sent_id,
sent, ...}], ...}``; ``NAME`` says whose division into splits it is: for RefCOCO and RefCOCO+ UNC's is in use, for
RefCOCOg UMD's. Boxes and picture sizes stand in ``instances.json``, COCO's form. (Yu et al., ECCV 2016; Mao et al.,
CVPR 2016; Nagaraja et al., ECCV 2016.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.readers.coco import load_images
from groma_eval.readers.common import need, need_text, read_json, rows_of
from groma_eval.readers.expressions import Expression, object_name
from groma_eval.readers.plain_pickle import load_plain

#: Whose splits the papers report.
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def find(folder: Path, dataset: str) -> Path | None:
    """The file of references of ``dataset`` in ``folder`` or its sub-folder of that name; None where there are none.

    Raises:
        HarnessError: there are references, but of another division into splits than the one in use.
    """
    wanted = f"refs({SPLIT_BY[dataset]}).p"
    for place in (folder / dataset, folder):
        if (place / wanted).is_file():
            return place / wanted
    others = sorted(p.name for place in (folder / dataset, folder) for p in place.glob("refs(*).p"))
    if others:
        raise HarnessError(f"{folder}: holds {', '.join(others)}, but the splits in use of {dataset} are in {wanted}")
    return None


def parse(path: Path, dataset: str, split: str) -> Iterator[Expression]:
    """The expressions of ``split``, in the order of the references in the file ``path``.

    Raises:
        HarnessError: bad data, code in the pickle, references that ``instances.json`` does not know, no such split.
    """
    if path.name.startswith("refs(") and path.name != f"refs({SPLIT_BY[dataset]}).p":
        raise HarnessError(f"{path}: another division into splits; {dataset}'s in use is refs({SPLIT_BY[dataset]}).p")
    references = _load(load_plain, path)
    pictures, objects = _load(_instances, path.with_name("instances.json"))
    rows = rows_of(path, references)
    seen: dict[str, set[Any]] = {"ref_id": set(), "sent_id": set()}
    splits: dict[str, int] = {}
    for index, row in enumerate(rows):
        where = f"{path}: row {index}"
        named = need(row, "split", str, where)
        splits[named] = splits.get(named, 0) + 1
        _once(seen, row, "ref_id", where)
        if named != split:
            continue
        image_id, ann_id = (need(row, key, int, where) for key in ("image_id", "ann_id"))
        if image_id not in pictures or ann_id not in objects:
            lacking = f"image_id {image_id}" if image_id not in pictures else f"ann_id {ann_id}"
            raise HarnessError(f"{where}: {lacking} is not in {path.with_name('instances.json')}")
        thing = need(row, "file_name", str, where)
        object_name(thing, "file_name", where)
        sentences = need(row, "sentences", list, where)
        for number, sentence in enumerate(sentences):
            place = f"{where}: sentences[{number}]"
            _once(seen, sentence, "sent_id", place)
            text = need_text(sentence, "sent", place)
            picture = pictures[image_id]
            box, *kind = objects[ann_id]
            yield Expression(picture["name"], thing, text, tuple(box), picture["size"], None, place, *kind)
    if split not in splits:
        there = ", ".join(f"{name} ({count} references)" for name, count in splits.items())
        raise HarnessError(f"{path}: holds no split '{split}'; there are: {there}")


def _once(seen: dict[str, set[Any]], row: dict[str, Any], key: str, where: str) -> None:
    value = need(row, key, int, where)
    if value in seen[key]:
        raise HarnessError(f"{where}: {key} {value} occurs twice")
    seen[key].add(value)


def _instances(path: Path) -> tuple[dict[Any, dict[str, Any]], dict[int, tuple[list[float], str | None, int | None]]]:
    """Pictures by id; by annotation id the box, the category's name and the picture's other objects of that category.

    The file holds every object of the pictures: only ids are checked, and the last two are None where it names no
    categories. Crowds are not counted.
    """
    content = read_json(path)
    pictures = {key: {"name": row["name"], "size": row["size"]} for key, row in load_images(path, content).items()}
    named = {row.get("id"): row.get("name") for row in content.get("categories") or () if isinstance(row, dict)}
    rows = rows_of(path, content, "annotations")
    counts = Counter((row.get("image_id"), row.get("category_id")) for row in rows if not row.get("iscrowd"))
    objects = {}
    for index, row in enumerate(rows):
        where = f"{path}: annotations[{index}]"
        category = named.get(row.get("category_id"))
        itself = not row.get("iscrowd")
        others = counts[row.get("image_id"), row.get("category_id")] - itself if category is not None else None
        objects[need(row, "id", int, where)] = (need(row, "bbox", list, where), category, others)
    return pictures, objects


def _load(load: Any, path: Path) -> Any:
    """What ``load`` makes of the file; the last ones are kept, as three splits are read from the same two files."""
    try:
        state = path.stat()
    except OSError:
        raise HarnessError(f"{path}: no such annotation file") from None
    return _cached(load, path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _cached(load: Any, path: Path, modified: int, size: int) -> Any:
    return load(path)
