"""Write the shapes world as pictures and annotation files in the standard formats (see README.md)."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from groma_eval.core import HarnessError

from .draw import draw
from .language import EXPRESSIONS, region_captions, scene_caption
from .questions import KINDS
from .world import CATEGORIES, CATEGORY_ID, SIDE, SPLITS, Rng, Scene, Thing, frequency, make_scene

VERSION = 2
DEFAULT_SPLITS = {"train": 24000, "val": 400, "test": 320}
#: Items an image by split kind: expressions a group, region captions, questions a type.
REC_PER_IMAGE = {"train": (3, 2, 2), "held": (2, 1, 1)}
CAPTIONS_PER_IMAGE = {"train": 8, "held": 2}
QUESTIONS = {
    "train": {"attribute": 3, "existence": 2, "counting": 4, "relation": 4, "description": 1},
    "held": {"attribute": 2, "existence": 1, "counting": 1, "relation": 1, "description": 1},
}


def prepare(
    root: Path,
    splits: Mapping[str, int] | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write the splits below ``root/shapes``; what is already there with the same settings is left alone.

    Args:
        splits: number of scenes by split; a split depends on its own seed alone.
        workers: processes that draw.

    Returns:
        The data set's folder.

    Raises:
        HarnessError: an unknown split, or data of other settings in the folder.
    """
    folder = Path(root) / "shapes"
    wanted = dict(DEFAULT_SPLITS if splits is None else splits)
    for split, count in wanted.items():
        if split not in SPLITS or count < 1:
            raise HarnessError(f"shapes: split {split}={count}: choose from {', '.join(SPLITS)}, at least 1 scene each")
    meta_path = folder / "meta.json"
    meta = (
        json.loads(meta_path.read_text()) if meta_path.is_file() else {"version": VERSION, "seed": seed, "splits": {}}
    )
    if meta["version"] != VERSION or meta["seed"] != seed:
        raise HarnessError(
            f"{folder} holds shapes version {meta['version']}, seed {meta['seed']}; wanted version {VERSION}, "
            f"seed {seed}: remove it or choose another --data-root"
        )
    for split, count in wanted.items():
        there = meta["splits"].get(split)
        if there == count:
            continue
        if there is not None:
            raise HarnessError(
                f"{folder} holds {there} {split} scenes, wanted {count}: remove it or choose another --data-root"
            )
        _write_split(folder, split, count, seed, workers, progress)
        meta["splits"][split] = count
        _write(meta_path, json.dumps(meta) + "\n")
    return folder


def is_drawn(folder: Path) -> bool:
    """Whether ``folder`` holds scenes that :func:`prepare` drew (and not other data in the same form)."""
    return (folder / "meta.json").is_file()


def _write_split(folder: Path, split: str, count: int, seed: int, workers: int, progress: bool) -> None:
    pictures, notes = folder / "images" / split, folder / "annotations"
    pictures.mkdir(parents=True, exist_ok=True)
    notes.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, split, index, str(pictures)) for index in range(1, count + 1)]
    bar = {"total": count, "desc": f"shapes {split}", "disable": not progress}
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            rows = list(tqdm(pool.imap(_scene_rows, jobs, chunksize=64), **bar))
    else:
        rows = list(tqdm(map(_scene_rows, jobs), **bar))
    for name, text in _files(rows, split).items():
        _write(notes / name, text)


def _scene_rows(job: tuple[int, str, int, str]) -> dict[str, Any]:
    """Draw one scene and say everything about it."""
    seed, split, index, pictures = job
    scene = make_scene(seed, split, index)
    name = f"{scene.stem}.png"
    Image.fromarray(draw(scene)).save(Path(pictures) / name, compress_level=1)
    kind = "train" if split == "train" else "held"
    rng = Rng(seed, SPLITS[split], index, 2)
    return {
        "name": name,
        "things": [_thing(t) for t in scene.things],
        "rec": _expressions(scene, rng, REC_PER_IMAGE[kind]),
        "captions": _captions(scene, rng, CAPTIONS_PER_IMAGE[kind]),
        "scene": _scene_caption(scene, name),
        "vqa": _questions(scene, rng, QUESTIONS[kind]),
    }


def _thing(thing: Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    attributes = {name: getattr(thing, name) for name in ("shape", "colour", "size", "pattern", "location")}
    return {"bbox": _xywh(thing), "area": round((x2 - x1) * (y2 - y1), 2), "iscrowd": 0,
            "category_id": CATEGORY_ID[thing.category], "attributes": attributes}  # fmt: skip


def _xywh(thing: Thing) -> list[float]:
    x1, y1, x2, y2 = thing.box
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]


def _expressions(scene: Scene, rng: Rng, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    for (group, make), count in zip(EXPRESSIONS.items(), counts, strict=True):
        said: set[str] = set()
        for _ in range(12 * count):
            number = rng.below(len(scene.things))
            text = make(scene, scene.things[number], rng)
            if text is None or text in said or len(said) == count:
                continue
            said.add(text)
            rows.append({"img_id": f"{scene.stem}_{number}", "sents": text, "bbox": _xywh(scene.things[number]),
                         "height": SIDE, "width": SIDE, "group": group})  # fmt: skip
    return rows


def _captions(scene: Scene, rng: Rng, count: int) -> list[dict[str, Any]]:
    chosen = rng.shuffled(scene.things)[:count]
    return [{"captions": region_captions(t), "bbox": _xywh(t), "attributes": _thing(t)["attributes"]} for t in chosen]


def _scene_caption(scene: Scene, name: str) -> dict[str, Any]:
    text, spans = scene_caption(scene)
    phrases = [
        {"start": a, "end": b, "phrase": text[a:b], "boxes": [list(t.box) for t in things]} for a, b, things in spans
    ]
    return {"image": name, "image_id": scene.index, "width": SIDE, "height": SIDE, "caption": text, "phrases": phrases}


def _questions(scene: Scene, rng: Rng, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    for kind, count in counts.items():
        said: set[str] = set()
        for _ in range(6 * count):
            row = KINDS[kind](scene, rng)
            if row is None or len(said) == count or row["text"] in said:
                continue
            said.add(row["text"])
            rows.append({"image": f"{scene.stem}.png", **row})
    return rows


def _files(rows: list[dict[str, Any]], split: str) -> dict[str, str]:
    """File name -> content."""
    images, objects, regions, region_images, vqa = [], [], [], [], []
    for number, row in enumerate(rows, start=1):
        images.append({"id": number, "file_name": row["name"], "width": SIDE, "height": SIDE})
        objects += [{"id": len(objects) + k, "image_id": number, **t} for k, t in enumerate(row["things"], start=1)]
        for entry in row["captions"]:
            place = len(regions) + 1
            region_images.append({**images[-1], "id": place, "captions": entry["captions"]})
            regions.append({"id": place, "image_id": place, "bbox": entry["bbox"], "attributes": entry["attributes"]})
        for question in row["vqa"]:
            vqa.append({"question_id": len(vqa) + 1, **question})
    categories = [{"id": CATEGORY_ID[c], "name": " ".join(c)} for c in CATEGORIES]
    dump = json.dumps
    return {
        f"instances_{split}.json": dump({"images": images, "annotations": objects, "categories": categories}),
        f"lvis_{split}.json": dump(_lvis(images, objects)),
        f"rec_{split}.json": dump([r for row in rows for r in row["rec"]]),
        f"region_captions_{split}.json": dump({"images": region_images, "annotations": regions}),
        f"scene_captions_{split}.jsonl": "".join(dump(row["scene"]) + "\n" for row in rows),
        f"vqa_{split}.jsonl": "".join(dump(row) + "\n" for row in vqa),
    }


def _lvis(images: list[dict[str, Any]], objects: list[dict[str, Any]]) -> dict[str, Any]:
    present: dict[int, set[int]] = {}
    instances: Counter[int] = Counter()
    for row in objects:
        present.setdefault(row["image_id"], set()).add(row["category_id"])
        instances[row["category_id"]] += 1
    counts = Counter(c for found in present.values() for c in found)
    categories = [
        {"id": rank + 1, "name": "_".join(category), "synonyms": ["_".join(category)], "frequency": frequency(rank),
         "image_count": counts[rank + 1], "instance_count": instances[rank + 1]}
        for rank, category in enumerate(CATEGORIES)
    ]  # fmt: skip
    absent = [
        {**image, "neg_category_ids": [c for c in range(1, 97) if c not in present[image["id"]]],
         "not_exhaustive_category_ids": []}
        for image in images
    ]  # fmt: skip
    kept = [{k: row[k] for k in ("id", "image_id", "category_id", "bbox", "area")} for row in objects]
    return {"images": absent, "annotations": kept, "categories": categories}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
