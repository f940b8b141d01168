"""Every form of training file: what is read from it, what is left out, how errors read."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict

import pytest
from data_files import CATEGORIES, FORMS, GROUNDED, TALK, annotation, coco, image, records, write

from groma_model.data.pictures import find_picture, picture_id
from groma_model.data.readers import READERS, to_sample
from groma_model.instructions import INSTRUCTIONS
from groma_model.processing import TEMPLATES

LLAVA, BRIEF = TEMPLATES["llava"], TEMPLATES["brief"]
BOX = (0.1, 0.1, 0.3, 0.3)  # 20, 10, 40 x 20 of 200 x 100


def samples(reader, folder, template=LLAVA, seed=0, **options):
    name, content, given, _ = FORMS[reader]
    path = write(folder, name, content)
    options = {**given, **options}
    found, _ = records(reader, path, **options)
    return [to_sample(r, READERS[reader], options, folder, template, random.Random(seed)) for r in found]


@pytest.mark.parametrize("reader", FORMS)
def test_every_form_gives_its_samples(tmp_path, reader):
    items = samples(reader, tmp_path)
    assert len(items) == FORMS[reader][3]
    for item in items:
        task = READERS[reader].task
        assert list(item.dialogues) == ([task] if task else [])
        for turns in item.dialogues.values():
            for turn in turns[0]:
                assert turn.answer.count("<ground_box>") == len(turn.ground_boxes)
                assert turn.question.count("<refer_box>") == (turn.refer_box is not None)
                assert all(0 <= a < b <= 1 for box in turn.ground_boxes for a, b in zip(box[:2], box[2:], strict=True))


def test_detection_says_whose_head_it_trains_and_leaves_out_crowds(tmp_path):
    first, second = samples("detection", tmp_path, source="sa1b")
    assert first.boxes == [BOX]
    assert second.boxes == []
    assert first.source == "sa1b"
    assert (first.path, first.width, first.height) == (tmp_path / "a.jpg", 200, 100)


def test_boxes_are_clipped_and_those_without_a_pixel_are_counted(tmp_path):
    rows = [
        annotation(1, -20, -10, 40, 20),
        annotation(1, 5, 5, 0, 9),
        annotation(1, 300, 5, 9, 9),
        annotation(1, 5, 5, 0.5, 9),
    ]
    found, tally = records("detection", write(tmp_path, "x.json", coco([image(1)], rows)))
    assert found[0]["boxes"] == [(0, 0, 0.1, 0.1)]
    assert tally["dropped_boxes"] == 3


def test_annotations_may_come_before_images_and_in_any_order(tmp_path):
    rows = [annotation("q", 20, 10, 40, 20), annotation("p", 0, 0, 20, 10), annotation("q", 0, 0, 20, 10)]
    content = {"annotations": rows, "images": [image("p"), image("q", "b.jpg")]}
    found, _ = records("detection", write(tmp_path, "x.json", content))
    assert {r["image"]: r["boxes"] for r in found} == {"b.jpg": [BOX, (0, 0, 0.1, 0.1)], "a.jpg": [(0, 0, 0.1, 0.1)]}


def test_sa1b_keeps_boxes_of_middling_area(tmp_path):
    rows = [annotation(1, 0, 0, 4, 4), annotation(1, 0, 0, 100, 50), annotation(1, 0, 0, 199, 99)]
    path = write(tmp_path, "x.json", coco([image(1)], rows))
    assert records("detection", path, source="sa1b")[0][0]["boxes"] == [(0, 0, 0.5, 0.5)]
    assert len(records("detection", path)[0][0]["boxes"]) == 3


def test_expressions_flat_and_in_coco_form_are_the_same(tmp_path):
    form = coco([image(1, "a.jpg", caption="the dog")], [annotation(1, 20, 10, 40, 20)])
    assert records("rec", write(tmp_path, "c.json", form))[0][0]["asks"] == [["the dog", [BOX]]]
    (item,) = samples("rec", tmp_path)
    (turn,) = item.dialogues["rec"][0]
    assert turn.question in [t.replace("{}", "<p>the dog</p>") for t in INSTRUCTIONS["refcoco_rec"]]
    assert turn.answer == "<roi><ground_box></roi>"
    assert turn.ground_boxes == (BOX,)


def test_grounding_has_all_instances_left_to_right_and_skips_what_is_not_exhaustive(tmp_path):
    (item,) = samples("grounding", tmp_path)
    (turn,) = item.dialogues["grounding"][0]
    assert "<p>traffic light</p>" in turn.question
    assert turn.answer == "<roi><ground_box><ground_box></roi>"
    assert turn.ground_boxes == (BOX, (0.5, 0.1, 0.7, 0.3))


def test_grit_draws_a_phrase_with_all_its_boxes(tmp_path):
    asked = {}
    for seed in range(20):
        (item,) = samples("grit", tmp_path, seed=seed)
        (turn,) = item.dialogues["rec"][0]
        asked[turn.question.split("<p>")[1].split("</p>")[0]] = turn.ground_boxes
    assert asked == {"a dog": ((0.1, 0.1, 0.3, 0.3), (0.4, 0.1, 0.6, 0.3)), "a cat": ((0.5, 0.5, 1.0, 0.9),)}


def test_grounded_captions_in_both_forms(tmp_path):
    (item,) = samples("grounded_captions", tmp_path)
    (turn,) = item.dialogues["scene"][0]
    assert turn.answer == "<p>A dog</p><roi><ground_box></roi> near <p>two cats</p><roi><ground_box><ground_box></roi>."
    assert turn.ground_boxes == (BOX, (0, 0, 0.1, 0.1), (0.2, 0, 0.3, 0.1))
    assert turn.question.removeprefix("[grounding]") in INSTRUCTIONS["flickr"]
    row = {"image": "a.jpg", "width": 200, "height": 100, "caption": "A dog near two cats.", "phrases": [
        {"start": 11, "end": 19, "boxes": [[0, 0, 20, 10], [40, 0, 60, 10]]},
        {"start": 0, "end": 5, "boxes": [[20, 10, 60, 30]]}]}  # fmt: skip
    assert records("grounded_captions", write(tmp_path, "x.jsonl", [row]))[0][0]["phrases"] == [
        [0, 5, [BOX]], [11, 19, [(0, 0, 0.1, 0.1), (0.2, 0, 0.3, 0.1)]]]  # fmt: skip


def test_region_captions_single_multi_and_visual_genomes_own(tmp_path):
    single = samples("region_captions", tmp_path)
    assert [s.dialogues["caption"][0][0].answer for s in single] == ["A red dog", "Grass"]
    (multi,) = samples("region_captions", tmp_path, rounds="multi")
    turns = multi.dialogues["caption"][0]
    assert {t.refer_box: t.answer for t in turns} == {BOX: "A red dog", (0.5, 0.5, 0.6, 0.7): "Grass"}
    (tmp_path / "image_data.json").write_text(
        json.dumps([{"image_id": 5, "url": "https://x.edu/rak248/VG_100K_2/5.jpg", "width": 200, "height": 100}])
    )
    rows = [{"id": 5, "regions": [{"phrase": "a Dog ", "x": 20, "y": 10, "width": 40, "height": 20}]}]
    found, _ = records("region_captions", write(tmp_path, "r.json", rows), image_data=str(tmp_path / "image_data.json"))
    assert found == [{"image": "VG_100K_2/5.jpg", "size": [200, 100], "regions": [[BOX, "A dog"]]}]
    found, _ = records(
        "region_captions", write(tmp_path, "g.json", coco([image(1, caption="x")], [annotation(1, 20, 10, 40, 20)]))
    )
    assert found[0]["regions"] == [[BOX, "X"]]


def test_several_rounds_are_at_most_ten_and_do_not_overlap_much(tmp_path):
    rows = [annotation(1, 10 * (i % 15), 1, 9, 9, caption=str(i)) for i in range(30)]  # every place twice
    path = write(tmp_path, "x.json", coco([image(1)], rows))
    found, _ = records("region_captions", path, rounds="multi")
    orders = set()
    for seed in range(5):
        item = to_sample(found[0], READERS["region_captions"], {}, tmp_path, LLAVA, random.Random(seed))
        boxes = [t.refer_box for t in item.dialogues["caption"][0]]
        assert len(boxes) == len(set(boxes)) == 10
        orders.add(tuple(boxes))
    assert len(orders) == 5


def test_conversations_lose_markup_and_rows_without_picture(tmp_path):
    (item,) = samples("conversations", tmp_path)
    (turn,) = item.dialogues["vqa"][0]
    assert (turn.question, turn.answer) == ("What is this?", "A dog. Yes.")
    assert records("conversations", tmp_path / "llava.json")[1]["no_picture"] == 1
    assert samples("image_captions", tmp_path)[0].dialogues["image_caption"][0][0].answer == "A dog. Yes."


def test_grounded_conversations_keep_their_spans(tmp_path):
    (item,) = samples("groma_instruct", tmp_path)
    (turn,) = item.dialogues["instruct"][0]
    assert turn.question == "[grounding]What is there?"
    assert turn.answer == (
        "Two <p>dogs</p><roi><ground_box><ground_box></roi>, <p>a cat</p><roi><ground_box></roi>."
    )  # fmt: skip
    assert turn.ground_boxes == (BOX, (0, 0, 0.1, 0.1), (0.5, 0.5, 1, 1))


@pytest.mark.parametrize("reader", FORMS)
def test_a_template_of_its_own_keeps_its_instructions(tmp_path, reader):
    for item in samples(reader, tmp_path, BRIEF):
        for turns in item.dialogues.values():
            for turn in turns[0]:
                start = {"rec": "locate <p>", "grounding": "locate all <p>", "caption": "describe <roi>",
                         "scene": "[grounding] describe"}.get(READERS[reader].task, "[grounding] ")  # fmt: skip
                assert turn.question.startswith(start)


def test_every_instruction_of_a_list_is_drawn(tmp_path):
    seen = Counter(samples("rec", tmp_path, seed=s)[0].dialogues["rec"][0][0].question for s in range(120))
    assert len(seen) == len(INSTRUCTIONS["refcoco_rec"])
    options = {"instructions": "refcoco_cap"}
    seen = {
        samples("region_captions", tmp_path, seed=s, **options)[0].dialogues["caption"][0][0].question
        for s in range(120)
    }
    assert len(seen) == len(INSTRUCTIONS["refcoco_cap"])


FLAT = FORMS["rec"][1][0]
GRIT = FORMS["grit"][1][0]
INSTRUCT = FORMS["groma_instruct"][1][0]


def altered(row, **changes):
    return [{k: v for k, v in {**row, **changes}.items() if v is not ...}]


def answer(text, inds=(0,)):
    return [GROUNDED[0], {"from": "gpt", "value": text, "box_inds": list(inds)}]


@pytest.mark.parametrize(
    ("reader", "content", "words"),
    [
        ("detection", {"images": []}, "'images' is missing or empty"),
        ("detection", {"images": 3}, "images: must be a list"),
        ("detection", coco([image(1), image(1)], []), "images[1]: image id 1 occurs twice"),
        ("detection", coco([{**image(1), "width": 0}], []), "images[0]: field 'width'"),
        ("detection", coco([{"id": 1}], []), "images[0]: field 'coco_url'"),
        ("detection", coco([image(1)], [annotation(2, 1, 1, 9, 9)]), "annotations[0]: its image_id"),
        ("detection", coco([image(1)], [annotation(1, 1, 9, 9)]), "annotations[0]: field 'bbox'"),
        ("detection", coco([image(1)], [annotation(1, 1, 1, 9, float("nan"))]), "annotations[0]: field 'bbox'"),
        ("detection", coco([image(1)], [7]), "annotations[0]: must be an object"),
        ("grounding", coco([image(1)], [annotation(1, 1, 1, 9, 9, category_id=3)], categories=CATEGORIES),
         "category_id 3"),
        ("rec", coco([image(1)], [annotation(1, 1, 1, 9, 9)]), "has no caption"),
        ("rec", [], "holds no samples"),
        ("rec", altered(FLAT, img_id="dog"), "row 0: field 'img_id'"),
        ("rec", altered(FLAT, sents=" "), "row 0: field 'sents' is empty"),
        ("rec", altered(FLAT, bbox=[1, 2, 3, True]), "row 0: field 'bbox'"),
        ("rec", altered(FLAT, width=...), "row 0: field 'width' is missing"),
        ("grit", altered(GRIT, ref_exps=[[0, 99, 0, 0, 1, 1]]), "ref_exps[0]: a phrase's place"),
        ("grit", altered(GRIT, ref_exps=[[0, 5, 0, 0]]), "ref_exps[0]"),
        ("grit", {"rows": [GRIT]}, "must hold a list of rows"),
        ("region_captions", coco([image(1)], [annotation(1, 1, 1, 9, 9)]), "has no caption"),
        ("region_captions", [{"id": 1, "regions": []}], "option image_data"),
        ("grounded_captions", coco([image(1, caption="a dog")], [annotation(1, 1, 1, 9, 9)]), "phrase's place"),
        ("conversations", [{"image": "a.jpg", "conversations": TALK[:1]}], "row 0: field 'conversations'"),
        ("conversations", [{"image": "a.jpg", "conversations": TALK[::-1]}], "conversations[0]: field 'from'"),
        ("groma_instruct", altered(INSTRUCT, conversation=answer("x", [9])), "'box_inds'"),
        ("groma_instruct", altered(INSTRUCT, conversation=answer("x", [0])), "points 0 times"),
        ("groma_instruct", altered(INSTRUCT, conversation=answer("<p>x</p> <roi></roi>")), "<p> outside a whole"),
        ("groma_instruct", altered(INSTRUCT, conversation=answer("<r3> x<roi><ground_box></roi>")),
         "<r3> outside a whole"),
    ],
)  # fmt: skip
def test_malformed_rows_are_one_line(tmp_path, reader, content, words):
    path = write(tmp_path, "x.json", content)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        records(reader, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_coco_as_pycocotools_reads_it(shared):
    pycocotools = pytest.importorskip("pycocotools.coco")
    path = shared / "data/photos/annotations/instances_train2017.json"
    reference = pycocotools.COCO(str(path))
    detection = {r["image"]: r for r in records("detection", path)[0]}
    grounding = {r["image"]: r for r in records("grounding", path)[0]}
    assert len(detection) == len(reference.imgs)
    for key, entry in reference.imgs.items():
        rows = reference.loadAnns(reference.getAnnIds(imgIds=[key], iscrowd=False))
        expected = defaultdict(list)
        for row in rows:
            x, y, w, h = row["bbox"]
            box = (x / entry["width"], y / entry["height"], (x + w) / entry["width"], (y + h) / entry["height"])
            expected[reference.cats[row["category_id"]]["name"]].append(box)
        found = detection[entry["file_name"]]["boxes"]
        everything = [b for boxes in expected.values() for b in boxes]
        assert len(found) == len(everything)
        for a, b in zip(sorted(found), sorted(everything), strict=True):
            assert a == pytest.approx(b, abs=1e-6)
        asks = dict(grounding[entry["file_name"]]["asks"]) if rows else {}
        assert {name: len(boxes) for name, boxes in asks.items()} == {n: len(b) for n, b in expected.items()}


def test_lvis_and_refcoco_at_scale(shared):
    path = shared / "data/lvis/lvis_val_100.json"
    raw = json.loads(path.read_text())
    partial = {i["id"]: set(i["not_exhaustive_category_ids"]) for i in raw["images"]}
    pairs = {
        (a["image_id"], a["category_id"]) for a in raw["annotations"] if a["category_id"] not in partial[a["image_id"]]
    }
    assert sum(len(r["asks"]) for r in records("grounding", path)[0]) == len(pairs)
    counts = {f.stem: len(records("rec", f)[0]) for f in sorted((shared / "data/refcoco").glob("*.json"))}
    assert sum(counts.values()) == 57_457
    assert sorted(counts.values()) == sorted((10834, 5657, 5095, 10758, 5726, 4889, 4896, 9602))


@pytest.mark.parametrize(
    ("stored", "asked", "collection", "identity"),
    [
        ("train2017/000000000139.jpg", "train2017/000000000139.jpg", None, ("coco", "139")),
        ("000000000139.jpg", "COCO_train2014_000000000139", None, ("coco", "139")),
        ("COCO_val2014_000000000139.jpg", "000000000139.jpg", None, ("coco", "139")),
        ("VG_100K_2/77.jpg", "77.jpg", None, ("vg", "77")),
        ("flickr30k-images/1000092795.jpg", "flickr30k-images/1000092795.jpg", None, ("flickr30k", "1000092795")),
        ("sam/images/sa_1.jpg", "sam/images/sa_1.jpg", None, ("sa1b", "1")),
        ("x/77.jpg", "x/77.jpg", None, None),
        ("x/77.jpg", "x/77.jpg", "vg", ("vg", "77")),
        ("x/abc.png", "x/abc.png", "mine", ("mine", "abc")),
    ],
)
def test_pictures_are_found_and_known(tmp_path, stored, asked, collection, identity):
    (tmp_path / stored).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stored).touch()
    assert find_picture(tmp_path, asked) == stored
    assert picture_id("data/" + stored, collection) == identity
    assert find_picture(tmp_path, "none.jpg") is None
