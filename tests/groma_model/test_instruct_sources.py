"""Reading Visual Genome and COCO files for conversations, and the Groma-Instruct file."""

from __future__ import annotations

import json

import pytest
from instruct_stub import BOXES, NAMES, SIZE, training_samples, write_coco, write_visual_genome

from groma_model.instruct.dataset import instruct_row
from groma_model.instruct.parse import GroundedTurn
from groma_model.instruct.regions import RegionRules, draw
from groma_model.instruct.sources import read_coco, read_visual_genome

RULES = RegionRules()
#: By hand: corners over the picture's 160 x 120 pixels.
NORMALISED = [
    (0.0625, 1 / 12, 0.3125, 5 / 12),
    (0.375, 1 / 12, 0.625, 5 / 12),
    (0.6875, 1 / 12, 0.9375, 5 / 12),
    (0.0625, 0.5, 0.4375, 11 / 12),
    (0.5, 0.5, 0.9375, 11 / 12),
]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_visual_genome(tmp_path):
    folder = write_visual_genome(tmp_path)
    captions = tmp_path / "captions.json"
    rows = [{"image_id": 1003, "caption": "shapes\non a wall "}, {"image_id": 1003, "caption": "five things"}]
    captions.write_text(json.dumps({"annotations": rows}))
    selection = read_visual_genome(folder, tmp_path / "images", [captions], rules=RULES)
    assert (selection.looked_at, selection.too_few_regions, selection.missing) == (6, 0, 0)
    assert [image.id for image in selection.images] == sorted(map(str, range(1, 7)), key=lambda i: draw(0, i))
    by_id = {image.id: image for image in selection.images}
    three = by_id["3"]
    assert (three.file_name, three.width, three.height, three.coco_id) == ("VG_100K/3.jpg", 160, 120, 1003)
    assert three.captions == ("shapes on a wall", "five things")
    assert three.questions == (("What is 3?", "A number."),)
    assert by_id["2"].file_name == "VG_100K_2/2.jpg"
    assert (by_id["2"].captions, by_id["2"].coco_id) == ((), None)
    found = {region.descriptions[0]: region.box for region in three.regions}
    assert found == {f"{name}, picture 3": pytest.approx(box) for name, box in zip(NAMES, NORMALISED)}


def test_a_limit_takes_the_first_of_a_larger_one(tmp_path):
    folder = write_visual_genome(tmp_path)
    every = read_visual_genome(folder, tmp_path / "images", rules=RULES, seed=5).images
    for limit in (1, 2, 5, 9):
        assert read_visual_genome(folder, tmp_path / "images", rules=RULES, seed=5, limit=limit).images == every[:limit]
    assert read_visual_genome(folder, tmp_path / "images", rules=RULES, seed=6).images != every


def test_pictures_without_file_or_regions_are_counted(tmp_path):
    folder = write_visual_genome(tmp_path)
    (tmp_path / "images/VG_100K/1.jpg").unlink()
    edit(folder / "region_descriptions.json", lambda rows: rows[1].update(regions=rows[1]["regions"][:2]))
    selection = read_visual_genome(folder, tmp_path / "images", rules=RULES)
    assert (selection.looked_at, selection.too_few_regions, selection.missing) == (6, 1, 1)
    assert {image.id for image in selection.images} == {"3", "4", "5", "6"}


def test_pictures_side_by_side_and_no_questions(tmp_path):
    folder = write_visual_genome(tmp_path, 2)
    (tmp_path / "images/VG_100K/1.jpg").rename(tmp_path / "images/1.jpg")
    (folder / "question_answers.json").unlink()
    selection = read_visual_genome(folder, tmp_path / "images", rules=RULES)
    assert {(i.id, i.file_name, i.questions) for i in selection.images} == {
        ("1", "1.jpg", ()),
        ("2", "VG_100K_2/2.jpg", ()),
    }


def test_coco(tmp_path):
    instances, captions = write_coco(tmp_path)
    selection = read_coco(instances, tmp_path / "images", [captions], rules=RULES)
    assert {(i.id, i.coco_id, i.file_name) for i in selection.images} == {(str(n), n, f"00{n}.png") for n in (1, 2, 3)}
    for image in selection.images:
        assert image.captions == (f"picture {image.id}, 0", f"picture {image.id}, 1")
        assert {region.descriptions: region.box for region in image.regions} == {
            (name,): pytest.approx(box) for name, box in zip(NAMES, NORMALISED)
        }


VG_BROKEN = [
    ("image_data", lambda rows: rows[0].pop("width"), "image_data.json: row 0: field 'width' is missing"),
    ("image_data", lambda rows: rows[0].update(height=0), "image_data.json: row 0: field 'height' must be above 0"),
    ("image_data", lambda rows: rows.pop(0), "image 1 is not in image_data.json"),
    ("image_data", lambda rows: rows.insert(0, 7), "image_data.json: row 0: must be an object"),
    ("region_descriptions", lambda rows: rows[0].pop("id"), "row 0: field 'id' is missing"),
    ("region_descriptions", lambda rows: rows.append(rows[0]), "row 3: image 1 stands there twice"),
    (
        "region_descriptions",
        lambda rows: rows[2]["regions"][0].update(x="3"),
        r"row 2: regions\[0\]: field 'x' must be",
    ),
    ("region_descriptions", lambda rows: rows[2]["regions"][1].update(x=float("nan")), r"regions\[1\].* finite"),
    ("region_descriptions", lambda rows: rows[2]["regions"][0].pop("phrase"), "field 'phrase' is missing"),
    ("region_descriptions", lambda rows: rows[2].update(regions={}), "field 'regions' must be a list"),
    ("question_answers", lambda rows: rows[0]["qas"][0].pop("answer"), "field 'answer' is missing"),
]


@pytest.mark.parametrize(("name", "change", "message"), VG_BROKEN)
def test_malformed_visual_genome(tmp_path, name, change, message):
    folder = write_visual_genome(tmp_path, 3)
    edit(folder / f"{name}.json", change)
    with pytest.raises(ValueError, match=message) as caught:
        read_visual_genome(folder, tmp_path / "images", rules=RULES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": []}', "image_data.json"),
        ("", "image_data.json"),
        ("[\n{]", "image_data.json.*not JSON"),
        ('[\n{"image_id": 1}\n', "image_data.json.*not JSON"),
        ('[{"image_id": 1} {"image_id": 2}]', "image_data.json.*not JSON"),
        (None, "image_data.json: no such annotation file"),
    ],
)
def test_not_json(tmp_path, content, message):
    folder = write_visual_genome(tmp_path, 1)
    path = folder / "image_data.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_visual_genome(folder, tmp_path / "images", rules=RULES)


COCO_BROKEN = [
    (lambda data: data.pop("categories"), "instances.json: field 'categories' is missing or empty"),
    (lambda data: data["annotations"][0].update(bbox=[1, 2]), r"annotations\[0\]: field 'bbox'"),
    (lambda data: data["annotations"][1].update(image_id=77), r"annotations\[1\]: image 77 is not among"),
    (lambda data: data["annotations"][2].update(category_id=77), r"annotations\[2\]: category 77 is not among"),
    (lambda data: data["images"].append(data["images"][0]), r"images\[3\]: image 1 stands there twice"),
    (lambda data: data["images"][0].update(file_name=None), r"images\[0\]: field 'file_name' must be text"),
    (lambda data: data["images"][0].update(width=-5), r"images\[0\]: field 'width' must be above 0"),
]


@pytest.mark.parametrize(("change", "message"), COCO_BROKEN)
def test_malformed_coco(tmp_path, change, message):
    instances, _ = write_coco(tmp_path)
    edit(instances, change)
    with pytest.raises(ValueError, match=message):
        read_coco(instances, tmp_path / "images", rules=RULES)


def test_captions_that_are_none(tmp_path):
    instances, captions = write_coco(tmp_path)
    edit(captions, lambda data: data.pop("annotations"))
    with pytest.raises(ValueError, match=r"captions\.json: no captions"):
        read_coco(instances, tmp_path / "images", [captions], rules=RULES)


def test_a_row_is_what_the_reader_of_training_data_takes(tmp_path):
    folder = write_visual_genome(tmp_path, 1)
    (image,) = read_visual_genome(folder, tmp_path / "images", rules=RULES).images
    turns = [
        GroundedTurn("What?", "<p>It</p><roi><ground_box></roi>.", (3,)),
        GroundedTurn("So?", "Well.", ()),
        GroundedTurn("All?", "<p>Both</p><roi><ground_box><ground_box></roi>.", (5, 1)),
    ]
    path = tmp_path / "groma_instruct.json"
    row = instruct_row(image, turns)
    path.write_text(json.dumps([row]))
    assert row["boxes"] == [list(map(float, box)) for box in sorted(BOXES)]  # pixels, as they came
    assert [turn.get("box_inds") for turn in row["conversation"]] == [None, [2], None, [], None, [4, 0]]
    assert (row["image_id"], row["coco_id"], row["file_name"]) == ("1", 1001, "VG_100K/1.jpg")
    (sample,) = training_samples(path, tmp_path / "images")
    assert sample.path == tmp_path / "images/VG_100K/1.jpg"
    assert (sample.width, sample.height) == SIZE
    ((first, second, third),) = sample.dialogues["instruct"]
    assert (first.question, second.question) == ("[grounding]What?", "[grounding]So?")
    boxes = [region.box for region in image.regions]
    assert first.ground_boxes == (pytest.approx(boxes[2]),)
    assert second.ground_boxes == ()
    assert third.ground_boxes == (pytest.approx(boxes[4]), pytest.approx(boxes[0]))
    assert third.answer == "<p>Both</p><roi><ground_box><ground_box></roi>."
