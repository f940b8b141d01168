"""What is known of a benchmark's data before anything is asked: departures, and what the training saw."""

from __future__ import annotations

import json

import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark
from refcoco_forms import python2_pickle, refer_content, rows_of

from groma_eval import evaluate
from groma_eval.core import HarnessError, TrainingData


def manifest_of(root, **options):
    evaluate(Fake(truth, training_data=options.pop("training", None)), root / "cards/card.yaml", out=root / "run",
             data_root=root, progress=False, **options)  # fmt: skip
    return json.loads((root / "run/manifest.json").read_text())["benchmarks"]["toy"]


LVIS = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200}],
    "categories": [{"id": 1, "name": "thing", "frequency": "r"}],
}


@pytest.mark.parametrize(
    ("info", "deviations"),
    [
        ({"description": "drawn", "seed": 3, "source": "lvis_v1_val.json"}, ["questions drawn anew with seed 3"]),
        ({"description": "LVIS v1", "seeds": 3}, []),
        ({"contributor": {"seed": 3}}, []),
        (None, []),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_set_that_was_drawn_anew_departs_from_the_published_one(tmp_path, info, deviations, indent):
    content = json.dumps(({"info": info} if info else {}) | LVIS, indent=indent)
    write_benchmark(tmp_path, content, pictures=False, task="grounding", reader="lvis")
    assert manifest_of(tmp_path)["deviations"] == deviations


def test_a_drawn_lvis_ground_says_so(shared):
    from groma_eval.benchmarks.lvis_ground.prepare import draw

    from groma_eval.jobs import _DRAWN

    content = json.loads((shared / "data/lvis/lvis_val_100.json").read_text())
    said = _DRAWN.match(json.dumps(draw(content, 7, "lvis_val_100.json"))[:2000])
    assert said.group(1) == "7"


def test_data_from_elsewhere_are_the_cards_own_only_where_their_counts_are(tmp_path):
    write_benchmark(
        tmp_path, rec_rows(), counts={"questions": 18, "images": 6}, image_ids={"source": "coco", "set": "val2017"}
    )
    training = TrainingData(sets={"coco": frozenset({"train2017"})}, complete=True)
    (tmp_path / "same.json").write_text(json.dumps(rec_rows()))
    (tmp_path / "other.json").write_text(json.dumps(rec_rows(images=5)))
    same = manifest_of(tmp_path, annotations=tmp_path / "same.json", training=training)
    assert (same["deviations"], same["leakage"]["status"]) == ([], "clean")
    other = tmp_path / "other"
    other.mkdir()
    write_benchmark(other, rec_rows(), image_ids={"source": "coco", "set": "val2017"})
    found = manifest_of(other, annotations=tmp_path / "other.json", training=training)
    assert found["deviations"] == [f"annotations={tmp_path / 'other.json'}"]
    assert found["leakage"] == {"status": "unknown", "images": 0, "of": 5}


def refer_folder(root, rows):
    folder = root / "refer/refcoco"
    folder.mkdir(parents=True, exist_ok=True)
    references, instances = refer_content(rows)
    (folder / "refs(unc).p").write_bytes(python2_pickle(references))
    (folder / "instances.json").write_text(json.dumps(instances))
    return root / "refer"


def test_annotations_may_be_a_folder_of_several_files_and_their_content_is_in_the_key(tmp_path):
    rows = rows_of()
    fields = {"reader": "refcoco", "options": {"dataset": "refcoco", "split": "val"}}
    write_benchmark(tmp_path, "[]", pictures=False, counts={"questions": len(rows), "images": 5}, **fields)
    folder = refer_folder(tmp_path, rows)
    entry = manifest_of(tmp_path, annotations=folder)
    assert entry["deviations"] == []  # the card's own questions, kept in another form
    assert entry["key"]["data"] == manifest_of(tmp_path, annotations=folder)["key"]["data"]
    rows[3]["bbox"] = rows[2]["bbox"] = [5.0, 6.0, 7.0, 8.0]
    refer_folder(tmp_path, rows)
    with pytest.raises(HarnessError, match=r"holds a run with another toy .data:"):
        manifest_of(tmp_path, annotations=folder)


def test_further_files_of_a_card_are_in_the_key(tmp_path):
    question = {"question_id": 1, "image": "pic_000.png", "text": "what?", "width": 80, "height": 60}
    path = write_benchmark(
        tmp_path, json.dumps(question), pictures=False, task="vqa", reader="llava_jsonl", file="toy.jsonl",
        data={"annotations": "toy.jsonl", "answers": "answers.jsonl"},
    )  # fmt: skip
    assert path.is_file()
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1, "text": "a disc"}\n')
    assert set(manifest_of(tmp_path)["key"]["further_data"]) == {"answers"}
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1, "text": "a star"}\n')
    with pytest.raises(HarnessError, match=r"holds a run with another toy .further_data:"):
        manifest_of(tmp_path)
