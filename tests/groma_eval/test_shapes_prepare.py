"""The written data set: complete, repeatable, in the standard formats, and read by the harness's own readers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path

import pytest
from groma_eval.benchmarks.shapes.prepare import prepare
from PIL import Image

from groma_eval.core import HarnessError
from groma_eval.readers import read

SIZES = {"train": 30, "val": 20, "test": 25}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    assert prepare(root, SIZES, progress=False) == root / "shapes"
    return root


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_files_whatever_the_order_processes_and_other_splits(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, {"test": SIZES["test"]}, workers=2, progress=False)
    alone, whole = digests(tmp_path / "shapes"), digests(root / "shapes")
    alone.pop("meta.json")
    assert alone
    assert alone == {name: digest for name, digest in whole.items() if name in alone}


def test_a_larger_split_begins_with_the_same_pictures(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, {"val": SIZES["val"] + 3}, progress=False)
    longer, shorter = digests(tmp_path / "shapes" / "images"), digests(root / "shapes" / "images" / "val")
    assert all(longer[f"val/{name}"] == digest for name, digest in shorter.items())


def test_another_seed_gives_other_scenes(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, {"test": 5}, seed=1, progress=False)
    other = set(digests(tmp_path / "shapes" / "images").values())
    assert not other & set(digests(root / "shapes" / "images").values())


def test_splits_share_no_picture(root: Path) -> None:
    found = digests(root / "shapes" / "images")
    assert len(found) == sum(SIZES.values()) == len(set(found.values()))


def test_a_repeat_touches_nothing_and_a_missing_split_is_added(tmp_path: Path) -> None:
    prepare(tmp_path, {"val": 3}, progress=False)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    prepare(tmp_path, {"val": 3}, progress=False)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    prepare(tmp_path, {"test": 2}, progress=False)
    assert (tmp_path / "shapes/annotations/rec_test.json").is_file()
    assert (tmp_path / "shapes/annotations/rec_val.json").is_file()


@pytest.mark.parametrize("changed", [{"splits": {"val": 4}}, {"splits": {"val": 3}, "seed": 9}])
def test_other_settings_in_the_same_place_are_refused(tmp_path: Path, changed: dict) -> None:
    prepare(tmp_path, {"val": 3}, progress=False)
    with pytest.raises(HarnessError, match="remove it or choose another --data-root"):
        prepare(tmp_path, **changed, progress=False)


def test_an_interrupted_split_is_written_again(tmp_path: Path) -> None:
    prepare(tmp_path, {"val": 3}, progress=False)
    whole = digests(tmp_path / "shapes")
    (tmp_path / "shapes/meta.json").unlink()
    (tmp_path / "shapes/annotations/rec_val.json").write_text("[{")
    (tmp_path / "shapes/images/val/shapes_val_000002.png").write_bytes(b"half")
    prepare(tmp_path, {"val": 3}, progress=False)
    assert digests(tmp_path / "shapes") == whole


@pytest.mark.parametrize("splits", [{"testA": 5}, {"val": 0}])
def test_bad_splits_are_refused(tmp_path: Path, splits: dict[str, int]) -> None:
    with pytest.raises(HarnessError, match="shapes"):
        prepare(tmp_path, splits, progress=False)


@pytest.mark.parametrize("split", list(SIZES))
def test_pictures_are_192_square_and_named_in_all_files(root: Path, split: str) -> None:
    names = {p.name for p in (root / "shapes/images" / split).iterdir()}
    assert len(names) == SIZES[split]
    for name in names:
        with Image.open(root / "shapes/images" / split / name) as picture:
            assert (picture.size, picture.mode) == ((192, 192), "RGB")
    notes = root / "shapes/annotations"
    rec = json.loads((notes / f"rec_{split}.json").read_text())
    assert {row["img_id"].rsplit("_", 1)[0] + ".png" for row in rec} == names
    for name in (f"scene_captions_{split}.jsonl", f"vqa_{split}.jsonl"):
        assert {json.loads(line)["image"] for line in (notes / name).read_text().splitlines()} == names


def test_coco_and_lvis_tools_load_the_files(root: Path) -> None:
    coco_tools = pytest.importorskip("pycocotools.coco")
    lvis_tools = pytest.importorskip("lvis")
    notes = root / "shapes/annotations"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_tools.COCO(str(notes / "instances_test.json"))
        lvis = lvis_tools.LVIS(str(notes / "lvis_test.json"))
    assert len(coco.getImgIds()) == len(lvis.get_img_ids()) == SIZES["test"]
    images, instances = defaultdict(set), defaultdict(int)
    for row in lvis.dataset["annotations"]:
        images[row["category_id"]].add(row["image_id"])
        instances[row["category_id"]] += 1
    for category in lvis.dataset["categories"]:
        assert category["image_count"] == len(images[category["id"]])
        assert category["instance_count"] == instances[category["id"]]
        assert category["frequency"] in ("r", "c", "f")
    for image in lvis.dataset["images"]:
        present = {row["category_id"] for row in lvis.dataset["annotations"] if row["image_id"] == image["id"]}
        assert not present & set(image["neg_category_ids"])


READERS = {
    "rec": ("refcoco_flat", "rec_test.json", {}),
    "ground": ("lvis", "lvis_test.json", {}),
    "caption": ("region_captions", "region_captions_test.json", {}),
    "scene": ("grounded_captions", "scene_captions_test.jsonl", {}),
    "vqa": ("llava_jsonl", "vqa_test.jsonl", {"size": [192, 192]}),
    "proposals": ("coco", "instances_test.json", {}),
}


@pytest.mark.parametrize("name", list(READERS))
def test_the_readers_take_the_files(root: Path, name: str) -> None:
    reader, file, options = READERS[name]
    samples = read(reader, root / "shapes/annotations" / file, root / "shapes/images/test", **options)
    assert len(samples) == SIZES["test"]
    assert all(sample.image is not None and sample.image.is_file() for sample in samples)
    assert all((sample.width, sample.height) == (192, 192) and sample.questions for sample in samples)
