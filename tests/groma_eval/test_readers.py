"""Readers against plain readings of the same files, and every kind of bad input: one line with file, row and value."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from harness_fakes import rec_rows, write_pictures

from groma_eval.core import HarnessError
from groma_eval.readers import read
from groma_eval.readers.common import Pictures


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
    assert not pictures.find("gone").exists()
    assert Pictures(None, False).find("a") is None
    with pytest.raises(HarnessError, match="--images"):
        Pictures(tmp_path / "none", True)
