"""Readers against plain readings of the same files, and every kind of bad input: one line with file, row and value."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from harness_fakes import rec_rows, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.readers import read
from groma_eval.readers.common import Pictures, short


def _write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_refcoco_counts_and_rows(shared):
    path = shared / "data/refcoco/refcoco_val.json"
    rows = json.loads(path.read_text())
    samples = read("refcoco_flat", path, None, False)
    assert len(samples) == 1500
    questions = {q.id: (s, q) for s in samples for q in s.questions}
    assert len(questions) == len(rows) == 10834
    for index in range(0, len(rows), 97):
        sample, question = questions[str(index)]
        x, y, w, h = rows[index]["bbox"]
        assert rows[index]["img_id"].startswith(sample.image_id + "_")
        assert question.text == rows[index]["sents"]
        x1, y1, x2, y2 = question.target["boxes"][0]
        assert (x1 * sample.width, y1 * sample.height) == pytest.approx((x, y))
        assert (x2 * sample.width, y2 * sample.height) == pytest.approx((x + w, y + h))
    first_seen = list(dict.fromkeys(row["img_id"].rsplit("_", 1)[0] for row in rows))
    assert [s.image_id for s in samples] == first_seen


def test_lvis_asks_every_category_present_once(shared):
    path = shared / "data/lvis/lvis_val_100.json"
    content = json.loads(path.read_text())
    samples = read("lvis", path, None, False)
    wanted = Counter((a["image_id"], a["category_id"]) for a in content["annotations"])
    found = {(int(s.image_id), q.target["category"]): len(q.target["boxes"]) for s in samples for q in s.questions}
    assert found == dict(wanted)
    names = {c["id"]: c for c in content["categories"]}
    for sample in samples:
        for question in sample.questions:
            assert question.text == names[question.target["category"]]["name"].replace("_", " ")
            assert question.group == names[question.target["category"]]["frequency"]


def test_coco_keeps_images_without_boxes(tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 60} for i in (7, 3)],
        "annotations": [{"id": 1, "image_id": 3, "bbox": [-8, 6, 40, 30], "area": 900, "iscrowd": 1}],
    }
    empty, full = read("coco", _write(tmp_path / "c.json", content), None, False)
    assert (empty.image_id, full.image_id) == ("7", "3")
    assert empty.questions[0].target == {"boxes": [], "areas": [], "iscrowd": []}
    # Partly outside: as written.
    assert full.questions[0].target["boxes"][0] == pytest.approx((-0.1, 0.1, 0.4, 0.6))
    assert full.questions[0].target["areas"] == [900]


def test_region_captions_share_pictures(tmp_path):
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 80, "height": 60, "captions": ["a red cup", "red cup"]},
            {"id": 2, "file_name": "b.png", "width": 80, "height": 60, "captions": ["a dog"]},
            {"id": 3, "file_name": "a.png", "width": 80, "height": 60, "captions": ["a table"]},
        ],
        "annotations": [
            {"id": i, "image_id": i, "bbox": [8, 6, 16, 12], "attributes": {"colour": "red"}} for i in (1, 2, 3)
        ],
    }
    samples = read("region_captions", _write(tmp_path / "r.json", content), None, False)
    assert [(s.image_id, [q.id for q in s.questions]) for s in samples] == [("a", ["1", "3"]), ("b", ["2"])]
    assert samples[0].questions[0].target["references"] == ["a red cup", "red cup"]
    assert samples[0].questions[0].target["attributes"] == {"colour": "red"}
    assert samples[0].questions[0].box == pytest.approx((0.1, 0.1, 0.3, 0.3))
    content["annotations"].append({"id": 9, "image_id": 1, "bbox": [0, 0, 1, 1]})
    with pytest.raises(HarnessError, match="more than one annotation"):
        read("region_captions", _write(tmp_path / "r.json", content), None, False)


def regions_file(tmp_path, annotations, **entry):
    images = [{"id": 5, "file_name": "VG_100K/5.jpg", "width": 80, "height": 60, **entry}]
    return _write(tmp_path / "r.json", {"images": images, "annotations": annotations})


def region(identity, x=8, **more):
    return {"id": identity, "image_id": 5, "bbox": [x, 6, 16, 12], "area": 192, **more}


def test_references_are_the_annotations_captions_where_they_have_any(tmp_path):
    path = regions_file(
        tmp_path,
        [
            region(1, caption="a red cup"),
            region(2, caption="cup, red"),  # the same box: a second reference
            region(3, x=30, caption="the cup", ignore=True),  # as files hide further references from the loader
            {"id": 4, "image_id": 5, "caption": "a cup"},
        ],
        caption="one of them",
    )
    (sample,) = read("region_captions", path, None, False)
    (question,) = sample.questions
    assert question.target["references"] == ["a red cup", "cup, red", "the cup", "a cup"]
    assert (question.id, question.box) == ("5", pytest.approx((0.1, 0.1, 0.3, 0.3)))
    (sample,) = read("region_captions", regions_file(tmp_path, [region(1)], caption="a cup"), None, False)
    assert sample.questions[0].target["references"] == ["a cup"]


def test_one_region_and_all_regions_are_kept_apart(tmp_path):
    path = regions_file(tmp_path, [region(7, caption="a cup"), region(3, x=30, caption="a dog")])
    (sample,) = read("region_captions", path, None, False, regions="all")
    assert [(q.id, q.target["references"]) for q in sample.questions] == [("7", ["a cup"]), ("3", ["a dog"])]
    assert sample.questions[1].box == pytest.approx((30 / 80, 0.1, 46 / 80, 0.3))
    with pytest.raises(HarnessError, match=r"images\[0\]: entry 5 has more than one annotation .* vg_caption_all"):
        read("region_captions", path, None, False)
    with pytest.raises(HarnessError, match="option 'regions' is 'some'; it is one or all"):
        read("region_captions", path, None, False, regions="some")


def lvis_file(tmp_path, images, annotations, **more):
    categories = [{"id": 1, "name": "tea_cup", "frequency": "r"}, {"id": 2, "name": "dog", "frequency": "f"}]
    return _write(tmp_path / "l.json", {"images": images, "annotations": annotations, "categories": categories, **more})


def lvis_image(identity, name="000000000009.jpg", **more):
    address = f"http://images.cocodataset.org/val2017/{name}"
    return {"id": identity, "coco_url": address, "width": 80, "height": 60, **more}


def lvis_box(identity, image, category, **more):
    return {"id": identity, "image_id": image, "category_id": category, "bbox": [8, 6, 16, 12], **more}


def test_entries_of_one_picture_are_one_sample(tmp_path):
    images = [lvis_image(1), lvis_image(4, "000000000008.jpg"), lvis_image(2, not_exhaustive_category_ids=[2])]
    path = lvis_file(tmp_path, images, [lvis_box(1, 1, 1), lvis_box(2, 4, 1), lvis_box(3, 2, 2), lvis_box(4, 2, 2)])
    first, second = read("lvis", path, tmp_path, False)
    assert [(q.id, q.text, q.target["exhaustive"]) for q in first.questions] == [
        ("1_1", "tea cup", True),
        ("2_2", "dog", False),
    ]
    assert [len(q.target["boxes"]) for q in first.questions] == [1, 2]
    assert first.questions[0].target["areas"] == [192]  # not given: of the box
    assert (first.image_id, second.image_id) == ("1", "4")
    assert first.image == tmp_path / "val2017/000000000009.jpg"
    twice = lvis_file(tmp_path, images, [lvis_box(1, 1, 1), lvis_box(2, 2, 1)])
    with pytest.raises(HarnessError, match="is there twice and asks category 1 twice"):
        read("lvis", twice, None, False)


NAN = float("nan")


def coco_image(**more):
    return {"id": 5, "file_name": "a.jpg", "width": 80, "height": 60, **more}


def phrase_row(**more):
    return {"image": "a.png", "width": 80, "height": 60, "caption": "a cup", "phrases": [], **more}


def phrase(**more):
    return {"phrase": "a cup", "boxes": [[8, 6, 16, 12]], **more}


BAD = [
    ("coco", {"images": [], "annotations": []}, "field 'images' holds no samples"),
    (
        "coco",
        {"images": [coco_image(), coco_image()], "annotations": [region(1)]},
        "images[1]: image id 5 occurs twice",
    ),
    ("coco", {"images": [coco_image()], "annotations": [region(1), region(1)]}, "annotation id 1 occurs twice"),
    (
        "coco",
        {"images": [coco_image()], "annotations": [region(1, area=NAN)]},
        "field 'area' must be a number of pixels",
    ),
    ("coco", {"images": [coco_image()], "annotations": [region(1, x=NAN)]}, "annotations[0]: field 'bbox' = [nan"),
    ("coco", {"images": [coco_image()], "annotations": [region(1, x=80)]}, "wholly outside the 80x60 image"),
    ("coco", {"images": [coco_image()], "annotations": [region(1, x=8.5, image_id=6)]}, "image_id 6 is not among"),
    (
        "coco",
        {"images": [coco_image(file_name="a\ud800")], "annotations": [region(1)]},
        "'file_name' is no Unicode text",
    ),
    ("coco", {"images": [{**coco_image(), "file_name": None}], "annotations": []}, "field 'coco_url' is missing"),
    ("coco", {"images": [3], "annotations": []}, "images 0: must be an object"),
    ("lvis", {"images": [coco_image()], "annotations": [lvis_box(1, 5, 1)]}, "field 'categories' is missing"),
    (
        "lvis",
        {"images": [coco_image()], "annotations": [lvis_box(1, 5, 3)], "categories": [{"id": 1, "name": "x"}]},
        "annotations[0]: category_id 3 is not among",
    ),
    (
        "lvis",
        {"images": [coco_image()], "annotations": [], "categories": [{"id": 1, "name": "x", "frequency": "often"}]},
        "categories[0]: field 'frequency' must be r, c or f",
    ),
    (
        "lvis",
        {
            "images": [coco_image(not_exhaustive_category_ids=3)],
            "annotations": [],
            "categories": [{"id": 1, "name": "x"}],
        },
        "images[0]: field 'not_exhaustive_category_ids' must be a list",
    ),
    (
        "lvis",
        {"images": [coco_image()], "annotations": [lvis_box(1, 5, "1")], "categories": [{"id": 1, "name": "x"}]},
        "annotations[0]: field 'category_id' must be a whole number",
    ),
    ("region_captions", {"images": [coco_image()], "annotations": [region(1)]}, "field 'captions' must be one or more"),
    ("region_captions", {"images": [coco_image(captions=[])], "annotations": [region(1)]}, "'captions' must be one or"),
    (
        "region_captions",
        {"images": [coco_image(captions=["a", " "])], "annotations": [region(1)]},
        "'captions' is empty",
    ),
    ("region_captions", {"images": [coco_image()], "annotations": [region(1, caption="")]}, "field 'caption' is empty"),
    (
        "region_captions",
        {"images": [coco_image(caption="a"), coco_image(id=6, caption="b")], "annotations": [region(1)]},
        "images[1]: entry 6 has no annotation with a box",
    ),
    ("region_captions", {"images": [coco_image(caption="a")], "annotations": [region(1, x=NAN)]}, "is not finite"),
    ("grounded_captions", phrase_row(caption=" "), "line 1: field 'caption' is empty"),
    ("grounded_captions", phrase_row(phrases=["a cup"]), "line 1: phrases[0]: must be an object"),
    ("grounded_captions", phrase_row(phrases=[phrase(boxes=[[NAN, 6, 16, 12]])]), "field 'boxes' = [nan"),
    ("grounded_captions", phrase_row(phrases=[phrase(boxes=[[90, 6, 96, 12]])]), "wholly outside"),
    ("grounded_captions", phrase_row(phrases=[phrase(start="0", end=5)]), "field 'start' must be a whole number"),
    ("grounded_captions", phrase_row(phrases=[phrase(start=0)]), "field 'end' is missing"),
    ("grounded_captions", phrase_row(width=0), "field 'width' must be above 0"),
    ("grounded_captions", "[1]", "line 1: must be an object"),
    ("grounded_captions", "[" * 100000, "line 1: not usable JSON"),
]


@pytest.mark.parametrize(("reader", "content", "message"), BAD)
def test_bad_content_is_one_line(tmp_path, reader, content, message):
    path = _write(tmp_path / "a.json", content)
    with pytest.raises(HarnessError) as error:
        read(reader, path, None, False)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", ["coco", "lvis", "region_captions", "refcoco_flat", "refcoco"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the annotation file is empty"),
        (b"\xff\xfe", "byte 0: not UTF-8 text"),
        (b'{"images": [', "line 1, column 13: not JSON"),
        (b"[" * 200000, "nested too deeply"),
        (b"7", "7"),
        (None, "no such annotation file"),
    ],
)
def test_bad_files_of_every_json_reader(tmp_path, reader, raw, message):
    path = tmp_path / "a.json"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(HarnessError) as error:
        read(reader, path, None, False)
    assert message in str(error.value) or raw == b"7"
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_grounded_captions(tmp_path):
    row = {"image": "a.png", "image_id": 5, "width": 80, "height": 60, "caption": "a cup on a table"}
    row["phrases"] = [{"start": 0, "end": 5, "phrase": "a cup", "boxes": [[8, 6, 16, 12]]}]
    (sample,) = read("grounded_captions", _write(tmp_path / "g.jsonl", json.dumps(row)), None, False)
    (question,) = sample.questions
    assert (sample.image_id, question.kind) == ("5", "describe_scene")
    assert question.target["phrases"][0]["boxes"][0] == pytest.approx((0.1, 0.1, 0.2, 0.2))
    row["phrases"][0]["end"] = 4
    with pytest.raises(HarnessError, match=r"g\.jsonl: line 1: phrases\[0\]: 'start' and 'end'"):
        read("grounded_captions", _write(tmp_path / "g.jsonl", json.dumps(row)), None, False)


def test_llava_questions_and_answers(tmp_path, shared):
    folder = shared / "data/llava_bench"
    samples = read(
        "llava_jsonl", folder / "qa90_questions.jsonl", None, False, answers=folder / "qa90_gpt4_answer.jsonl"
    )
    questions = [q for s in samples for q in s.questions]
    assert (len(samples), len(questions)) == (30, 90)
    assert questions[0].target["answer"].startswith("The colors of the two suitcases")
    row = {"question_id": 1, "image": "a.png", "text": "what is in <box>?", "category": "detail", "type": "attribute"}
    row |= {"answer": "red", "box": [8, 6, 16, 12], "history": [["q", "a"]], "width": 80, "height": 60}
    (sample,) = read("llava_jsonl", _write(tmp_path / "v.jsonl", json.dumps(row)), None, False)
    assert sample.questions[0].group == "detail/attribute"
    assert sample.questions[0].box == pytest.approx((0.1, 0.1, 0.2, 0.2))
    assert sample.questions[0].history == (("q", "a"),)
    del row["width"], row["height"]
    write_pictures(tmp_path / "p", ["a.png"])
    (sample,) = read("llava_jsonl", _write(tmp_path / "v.jsonl", json.dumps(row)), tmp_path / "p", True)
    assert (sample.width, sample.height) == (80, 60)
    with pytest.raises(HarnessError, match="a box needs the picture's size"):
        read("llava_jsonl", tmp_path / "v.jsonl", None, False)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([float("nan"), 0, 5, 5], "nan"),
        ([0, 0, 0, 5], "is empty"),
        ([0, 0, 5, -1], "is empty"),
        ([80, 0, 5, 5], "wholly outside the 80x60 image"),
        ([-9, 0, 9, 5], "wholly outside"),
        ([0, 61, 5, 5], "wholly outside"),
        ([0, 0, float("inf"), 5], "is not finite"),
        ([0, 0, 5], "is not four numbers"),
        ([0, 0, 5, "5"], "is not four numbers"),
        ([0, 0, 5, True], "is not four numbers"),
    ],
)
def test_bad_ground_truth_box(tmp_path, box, reason):
    rows = rec_rows(2)
    rows[4]["bbox"] = box
    path = _write(tmp_path / "rec.json", rows)
    with pytest.raises(HarnessError, match=reason) as error:
        read("refcoco_flat", path, None, False)
    assert str(error.value).startswith(f"{path}: row 4: field 'bbox' = ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the annotation file is empty"),
        ("[]", "the list is empty"),
        ('[{"img_id": "a_1",\n "sents": }]', "line 2, column 11: not JSON"),
        ('{"a": 1}', "must hold a list"),
        ('[{"img_id": "a_1", "bbox": [0,0,1,1], "width": 5, "height": 5}]', "row 0: field 'sents' is missing"),
        ('[{"img_id": "a_1", "sents": 5, "bbox": [0,0,1,1], "width": 5, "height": 5}]', "row 0: field 'sents' must be"),
        (
            '[{"img_id": "a_1", "sents": "x", "bbox": [0,0,1,1], "width": 0, "height": 5}]',
            "field 'width' must be above",
        ),
        ('[{"img_id": "a", "sents": "x", "bbox": [0,0,1,1], "width": 5, "height": 5}]', "field 'img_id'"),
        ("[3]", "row 0: must be an object"),
    ],
)
def test_bad_annotation_files(tmp_path, content, message):
    with pytest.raises(HarnessError, match=message) as error:
        read("refcoco_flat", _write(tmp_path / "rec.json", content), None, False)
    assert "rec.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_jsonl_names_its_line(tmp_path):
    good = json.dumps({"question_id": 1, "image": "a.png", "text": "?"})
    with pytest.raises(HarnessError, match=r"v\.jsonl: line 3, column 1: not JSON"):
        read("llava_jsonl", _write(tmp_path / "v.jsonl", f"{good}\n\nnope\n"), None, False)
    with pytest.raises(HarnessError, match=r"line 2: field 'text' is missing"):
        read(
            "llava_jsonl", _write(tmp_path / "v.jsonl", good + '\n{"question_id": 2, "image": "a.png"}\n'), None, False
        )
    with pytest.raises(HarnessError, match="question id '1' occurs twice"):
        read("llava_jsonl", _write(tmp_path / "v.jsonl", f"{good}\n{good}\n"), None, False)
    with pytest.raises(HarnessError, match=r"holds no samples|is empty"):
        read("llava_jsonl", _write(tmp_path / "v.jsonl", "\n\n"), None, False)


def test_pictures_are_found_under_both_names(tmp_path):
    write_pictures(tmp_path / "train2017", ["000000581282.jpg"])
    write_pictures(tmp_path, ["a.png", "COCO_val2014_000000000042.jpg"])
    pictures = Pictures(tmp_path, True)
    assert pictures.find("COCO_train2014_000000581282") == tmp_path / "train2017/000000581282.jpg"
    assert pictures.find("COCO_val2014_000000000042") == tmp_path / "COCO_val2014_000000000042.jpg"
    assert pictures.find("a") == tmp_path / "a.png"
    assert pictures.find("train2017/000000581282.jpg") == tmp_path / "train2017/000000581282.jpg"
    assert pictures.find("000000000042.jpg") == tmp_path / "COCO_val2014_000000000042.jpg"
    assert not pictures.find("000000000043.jpg").exists()
    assert not pictures.find("gone").exists()
    assert Pictures(None, False).find("a") is None
    with pytest.raises(HarnessError, match="--images"):
        Pictures(tmp_path / "none", True)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUE)
def test_a_value_in_an_error_is_one_short_line(value):
    shown = short(value)
    assert len(shown) <= 60
    assert len(shown.splitlines()) <= 1


def test_a_bottomless_value_in_an_error():
    value = []
    for _ in range(100000):
        value = [value]
    assert len(short(value)) <= 60
    assert len(short({"x": "y" * 10**7})) <= 60


def test_pictures_in_several_folders(tmp_path):
    write_pictures(tmp_path / "VG_100K", ["2.jpg"])
    write_pictures(tmp_path / "VG_100K_2", ["3.jpg"])
    write_pictures(tmp_path / "val2017", ["000000000009.jpg"])
    pictures = Pictures(tmp_path, True)
    assert pictures.find("3.jpg") == tmp_path / "VG_100K_2/3.jpg"
    assert pictures.find("VG_100K/3.jpg") == tmp_path / "VG_100K_2/3.jpg"
    assert pictures.find("images/2.jpg") == tmp_path / "VG_100K/2.jpg"
    # A file that says train2017 finds what the 2017 release put elsewhere.
    assert pictures.find("train2017/000000000009.jpg") == tmp_path / "val2017/000000000009.jpg"
