"""The preparations of the real benchmarks against plain definitions of what they should write."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from groma_eval.benchmarks.flickr30k.prepare import phrases
from groma_eval.benchmarks.lvis_ground.prepare import draw
from groma_eval.benchmarks.region_caption.prepare import from_expressions, from_regions
from refcoco_forms import coco_form, jxu_rows, rows_of, write_parquet

from groma_eval.cards import select
from groma_eval.cli.data import check_card, prepare_data
from groma_eval.core import HarnessError
from groma_eval.jobs import read_benchmark
from groma_eval.readers import read
from groma_eval.readers.refcoco import expressions


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------ LVIS-Ground
def lvis_world(images: int = 30, categories: int = 4, seed: int = 3) -> dict:
    """Category c is in about one image in c + 1, once to three times."""
    rng = random.Random(seed)
    annotations = [
        {"image_id": image, "category_id": category, "bbox": [8, 6, 16, 12], "area": 150.5, "segmentation": [[1, 2]]}
        for image in range(images)
        for category in range(categories)
        if rng.random() < 1 / (category + 1)
        for _ in range(rng.randint(1, 3))
    ]
    address = "http://images.cocodataset.org/val2017/{:012d}.jpg"
    return {
        "images": [
            {"id": i, "coco_url": address.format(i), "width": 80, "height": 60, "not_exhaustive_category_ids": [0]}
            for i in range(images)
        ],
        "annotations": [{"id": number, **row} for number, row in enumerate(annotations)],
        "categories": [{"id": c, "name": f"thing_{c}", "frequency": "rcff"[c % 4]} for c in range(categories)],
    }


def queries(content: dict) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for row in content["annotations"]:
        found.setdefault(row["category_id"], set()).add(row["image_id"])
    return found


def test_the_draw_is_the_papers_rule():
    world = lvis_world()
    before, drawn = queries(world), draw(world, 0, "w.json")
    after = queries(drawn)
    assert after.keys() == before.keys()
    for category, images in before.items():
        assert after[category] <= images
        assert len(after[category]) == min(5, len(images))
    # Of a query's picture every instance of the category is kept, and nothing of the others.
    kept = Counter((row["category_id"], row["image_id"]) for row in drawn["annotations"])
    every = Counter((row["category_id"], row["image_id"]) for row in world["annotations"])
    assert kept == {key: every[key] for key in kept}
    assert {image["id"] for image in drawn["images"]} == {image for images in after.values() for image in images}
    assert drawn["images"][0]["not_exhaustive_category_ids"] == [0]
    assert not any("segmentation" in row for row in drawn["annotations"])
    assert drawn["info"]["seed"] == 0


def test_the_draw_depends_on_the_seed_alone():
    world = lvis_world()
    shuffled = {key: random.Random(1).sample(rows, len(rows)) for key, rows in world.items()}
    assert draw(shuffled, 7, "w") == draw(world, 7, "w")
    assert queries(draw(world, 8, "w")) != queries(draw(world, 7, "w"))
    without = {**world, "annotations": [row for row in world["annotations"] if row["category_id"] != 0]}
    assert queries(draw(without, 7, "w")) == {c: i for c, i in queries(draw(world, 7, "w")).items() if c != 0}


def test_every_image_is_as_likely():
    # 600 draws of 5 of 15 images: each is taken 200 times, give or take (a binomial's deviation is 11.5).
    world = lvis_world(15, 1)
    counts = Counter(image for seed in range(600) for image in queries(draw(world, seed, "w"))[0])
    assert len(counts) == 15
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_prepared_lvis_is_what_the_card_reads(shared, tmp_path, capsys):
    source = shared / "data/lvis/lvis_val_100.json"
    content = json.loads(source.read_text())
    prepare_data("lvis_ground", tmp_path, source=source, seed=5)
    (card,) = select("lvis_ground")
    samples = read_benchmark(card, tmp_path)
    expected = {c: min(5, len(images)) for c, images in queries(content).items()}
    assert Counter(q.target["category"] for s in samples for q in s.questions) == expected
    assert f"{sum(expected.values())} queries" in capsys.readouterr().out
    every = Counter((row["image_id"], row["category_id"]) for row in content["annotations"])
    assert all(
        len(q.target["boxes"]) == every[int(s.image_id), q.target["category"]] for s in samples for q in s.questions
    )
    first = (tmp_path / card.data["annotations"]).read_bytes()
    prepare_data("lvis_ground", tmp_path, source=source, seed=5)  # the same again is no matter
    with pytest.raises(HarnessError, match="is there already with other content; move it away, or give --overwrite"):
        prepare_data("lvis_ground", tmp_path, source=source, seed=6)
    assert (tmp_path / card.data["annotations"]).read_bytes() == first
    prepare_data("lvis_ground", tmp_path, source=source, seed=6, overwrite=True)
    assert (tmp_path / card.data["annotations"]).read_bytes() != first
    assert [p.name for p in (tmp_path / "lvis_ground").iterdir()] == ["lvis_test.json"]


def test_the_cards_protocols():
    (card,) = select("lvis_ground")
    assert card.default_protocol == "as-many"
    assert card.protocols["as-many"].decoding["max_new_tokens"] == 100
    assert card.protocols["as-many"].rules == {"metric": "as-many", "rank": "confidence"}
    assert card.protocols["released"].decoding["max_new_tokens"] == 10
    assert card.protocols["released"].rules == {"metric": "lvis", "rank": "emission"}
    (whole,) = select("vg_caption_all")
    (single,) = select("vg_caption_test")
    assert (single.options, whole.options) == ({"regions": "one"}, {"regions": "all"})
    assert single.family != whole.family
    assert not set(single.protocols) & set(whole.protocols)
    # Flickr30k Entities is a card of a kind that was there before.
    assert {(c.task, c.reader, c.default_protocol) for c in select("flickr30k")} == {
        ("rec", "refcoco_flat", "merged-box")
    }


# ---------------------------------------------------------------------------------------------------------- RefCOCO
def test_prepared_refcoco_is_the_flat_file(shared, tmp_path):
    pytest.importorskip("pyarrow")
    rows = json.loads((shared / "data/refcoco/refcoco_testB.json").read_text())
    source = write_parquet(tmp_path / "s/testB-0.parquet", jxu_rows(rows, "testB"))
    prepare_data("refcoco_testB", tmp_path, source=source.parent)
    written = json.loads((tmp_path / "refcoco/refcoco_testB.json").read_text())
    assert [{**row, "img_id": 0} for row in written] == [{**row, "img_id": 0} for row in rows]
    prepare_data("refcoco_testB", tmp_path / "again", source=shared / "data/refcoco")
    assert json.loads((tmp_path / "again/refcoco/refcoco_testB.json").read_text()) == rows


def test_nothing_is_written_unless_every_split_is_right(shared, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for path in (shared / "data/refcoco").glob("*.json"):
        (folder / path.name).symlink_to(path)
    (folder / "refcocog_val.json").unlink()
    write(folder / "refcocog_val.json", rows_of())
    with pytest.raises(HarnessError, match="holds 30 expressions, refcocog_val has 4896: another split"):
        prepare_data("refcoco", tmp_path / "data", source=folder)
    assert not (tmp_path / "data").exists()
    with pytest.raises(HarnessError, match="is one file; name one benchmark: refcoco_val, refcoco_testA"):
        prepare_data("refcoco", tmp_path / "data", source=folder / "refcoco_val.json")


# -------------------------------------------------------------------------------------------------- region captions
def test_region_captions_of_expressions(shared, tmp_path):
    source = shared / "data/refcoco/refcocog_val.json"
    prepare_data("refcocog_caption_val", tmp_path, source=source)
    (card,) = select("refcocog_caption_val")
    samples = read_benchmark(card, tmp_path)
    questions = [q for s in samples for q in s.questions]
    rows = json.loads(source.read_text())
    wanted: dict[str, list[str]] = {}
    for row in rows:
        wanted.setdefault(row["img_id"], []).append(row["sents"])
    assert len(questions) == len(wanted) == 2573
    assert sum(len(q.target["references"]) for q in questions) == 4896
    ordered = sorted(questions, key=lambda q: int(q.id))
    assert [q.target["references"] for q in ordered] == list(wanted.values())
    first = {row["img_id"]: row for row in reversed(rows)}
    for question, name in zip(ordered, wanted, strict=True):
        x, y, w, h = first[name]["bbox"]
        width, height = first[name]["width"], first[name]["height"]
        assert question.box == pytest.approx((x / width, y / height, (x + w) / width, (y + h) / height))
    assert check_card(card, tmp_path)[1] == [f"{tmp_path / 'coco'}: no such folder of images"]


def test_region_captions_of_gromas_form(tmp_path):
    path = write(tmp_path / "a.json", coco_form(rows_of(2, 3, 2)))
    content = from_expressions(expressions(path))
    assert [len(image["captions"]) for image in content["images"]] == [2] * 6
    assert content["images"][0]["file_name"] == "000000000007.jpg"


def visual_genome(folder: Path, tests=(3, 1), **change) -> Path:
    regions = {
        1: [(11, 8, 6, 16, 12, "a red cup"), (12, 0, 0, 0, 5, "nothing"), (13, 8, 6, 8, 6, "a dog")],
        2: [(21, 0, 0, 5, 5, "not of the test set")],
        3: [(31, 90, 0, 5, 5, "outside"), (32, 8, 6, 8, 6, "  "), (33, 40, 30, 10, 10, " a cat ")],
    }
    rows = [
        {
            "id": number,
            "regions": [
                {"region_id": i, "image_id": number, "x": x, "y": y, "width": w, "height": h, "phrase": text}
                for i, x, y, w, h, text in given
            ],
        }
        for number, given in regions.items()
    ]
    sizes = [{"image_id": number, "width": 80, "height": 60} for number in regions]
    write(folder / "region_descriptions.json", change.get("rows", rows))
    write(folder / "image_data.json", change.get("sizes", sizes))
    write(folder / "densecap_splits.json", {"test": list(tests), "train": [2]})
    return folder


def test_visual_genome_all_regions_and_one(tmp_path, capsys):
    source = visual_genome(tmp_path / "vg_files")
    prepare_data("vg_caption_all", tmp_path, source=source)
    assert "3 regions on 2 pictures; 3 left out" in capsys.readouterr().out
    (card,) = select("vg_caption_all")
    samples = read_benchmark(card, tmp_path)
    assert [(s.image_id, [q.id for q in s.questions]) for s in samples] == [("3", ["33"]), ("1", ["11", "13"])]
    assert samples[0].questions[0].target["references"] == ["a cat"]
    assert samples[0].questions[0].box == pytest.approx((0.5, 0.5, 50 / 80, 40 / 60))
    prepare_data("vg_caption_test", tmp_path, source=source)
    (card,) = select("vg_caption_test")
    chosen = [q.id for s in read_benchmark(card, tmp_path) for q in s.questions]
    assert chosen[0] == "33"
    assert chosen[1] in ("11", "13")
    assert json.loads((tmp_path / card.data["annotations"]).read_text())["info"]["seed"] == 0
    both = {from_regions(source, "one", seed)["annotations"][1]["id"] for seed in range(20)}
    assert both == {11, 13}
    # The other protocol's file is refused by name.
    with pytest.raises(HarnessError, match="more than one annotation"):
        read("region_captions", tmp_path / "region_caption/vg_test_all.json", None, False, regions="one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": (3, 7)}, "image_data.json: picture 7, of the test set, is not there"),
        ({"tests": ("3",)}, "densecap_splits.json: field 'test' must be a list of picture ids"),
        ({"tests": ()}, "densecap_splits.json: field 'test' must be a list of picture ids"),
        ({"rows": [{"id": 1, "regions": [4]}], "tests": (1,)}, "row 0: regions[0]: must be an object"),
        ({"rows": [{"id": 1, "regions": [{"x": 1}]}], "tests": (1,)}, "regions[0]: field 'y' is missing"),
        ({"rows": [{"id": 1}], "tests": (1,)}, "region_descriptions.json: row 0: field 'regions' is missing"),
        ({"rows": "[", "tests": (1,)}, "region_descriptions.json: line 1, column 2: not JSON"),
        (
            {"sizes": [{"image_id": 1, "width": 0, "height": 5}]},
            "image_data.json: row 0: field 'width' must be above 0",
        ),
    ],
)
def test_bad_visual_genome_files(tmp_path, change, message):
    source = visual_genome(tmp_path, **change)
    with pytest.raises(HarnessError) as error:
        prepare_data("vg_caption_all", tmp_path / "data", source=source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_test_pictures_as_a_plain_list(tmp_path):
    source = visual_genome(tmp_path)
    (source / "densecap_splits.json").unlink()
    with pytest.raises(HarnessError, match=r"neither densecap_splits\.json nor test_ids\.txt"):
        from_regions(source, "all", 0)
    write(source / "test_ids.txt", "3\n1\n3\n")
    assert [image["id"] for image in from_regions(source, "all", 0)["images"]] == [3, 1]
    write(source / "test_ids.txt", "3\none\n")
    with pytest.raises(HarnessError, match=r"test_ids\.txt must be a list of picture ids"):
        from_regions(source, "all", 0)


# ------------------------------------------------------------------------------------------------ Flickr30k Entities
SENTENCES = (
    "[/EN#1/people Two young guys] with [/EN#2/bodyparts/clothing shaggy hair] in [/EN#4/scene the yard] .\n"
    "[/EN#1/people/other Men] see [/EN#0/notvisual it] and [/EN#3/other a thing] .\n"
)
OBJECTS = (
    "<object><name>1</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>31</xmax><ymax>41</ymax></bndbox></object>"
    "<object><name>1</name><name>2</name><bndbox><xmin>21</xmin><ymin>1</ymin><xmax>51</xmax><ymax>21</ymax></bndbox>"
    "</object>"
    "<object><name>3</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></object>"
    "<object><name>4</name><scene>1</scene><nobndbox>0</nobndbox></object>"
)


def flickr(folder: Path, sentences=SENTENCES, objects=OBJECTS, before="") -> Path:
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    write(folder / "Sentences/77.txt", sentences)
    write(folder / "Annotations/77.xml", f"{before}<annotation><filename>77.jpg</filename>{size}{objects}</annotation>")
    write(folder / "test.txt", "77\n")
    return folder


def test_flickr_phrases_have_the_box_around_all_that_they_name(tmp_path, capsys):
    source = flickr(tmp_path / "entities")
    prepare_data("flickr30k_test", tmp_path, source=source)
    # Counted from 1 in the file: x from 10 to 50 and y from 0 to 40 around the two boxes of chain 1.
    assert json.loads((tmp_path / "flickr30k/flickr30k_test.json").read_text()) == [
        {"img_id": f"77_{chain}", "sents": text, "bbox": box, "height": 60, "width": 80, "group": group}
        for chain, text, box, group in (
            (1, "Two young guys", [10, 0, 40, 40], "people"),
            (2, "shaggy hair", [20, 0, 30, 20], "bodyparts"),
            (1, "Men", [10, 0, 40, 40], "people"),
        )
    ]
    assert "flickr30k_test: 3 phrases; 1 left out: a box without area" in capsys.readouterr().out
    (card,) = select("flickr30k_test")
    (sample,) = read_benchmark(card, tmp_path)
    assert [q.kind for q in sample.questions] == ["ground_one"] * 3
    assert sample.questions[0].target["boxes"] == [pytest.approx((0.125, 0, 0.625, 40 / 60))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": "[/EN#1/people A man\n"}, "77.txt: line 1: a phrase is not written as [/EN#CHAIN/TYPE words]"),
        ({"sentences": "[/EN#x/people A man]\n"}, "77.txt: line 1: a phrase is not written"),
        ({"objects": "<object>"}, "77.xml: line 1, column "),
        (
            {"objects": "<object><name>1</name><bndbox><xmin>a</xmin></bndbox></object>"},
            "<xmin> must be a whole number",
        ),
        ({"before": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'}, "declares a document type or entities"),
        ({"before": '<!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "&b;&b;">]>'}, "declares a document type or entities"),
        ({"objects": "<a>&b;</a>"}, "not XML"),
    ],
)
def test_bad_flickr_files(tmp_path, change, message):
    source = flickr(tmp_path / "entities", **change)
    with pytest.raises(HarnessError) as error:
        prepare_data("flickr30k_test", tmp_path, source=source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "flickr30k").exists()


def test_flickr_needs_its_folder(tmp_path):
    with pytest.raises(HarnessError, match="is not downloaded; give the folder of its Sentences"):
        prepare_data("flickr30k_test", tmp_path)
    source = flickr(tmp_path)
    (source / "Annotations/77.xml").unlink()
    with pytest.raises(HarnessError, match=r"77\.xml: no such annotation file"):
        list(phrases(source, "77"))
