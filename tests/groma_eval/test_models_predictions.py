"""Predictions made elsewhere: reading them, and running them as a model."""

from __future__ import annotations

import json
import math

import pytest
from harness_fakes import card, rec_rows, write_benchmark
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval import evaluate, models
from groma_eval.cards import KINDS, parse_card
from groma_eval.core import Decoding, HarnessError, Question, Sample
from groma_eval.frames import FORMS, FRAMES, Frame
from groma_eval.models.predictions import load
from groma_eval.prediction_records import read_records, to_prediction

SAMPLE = Sample("a", None, 200, 100, ())


def _write(path, records, as_list=False):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text(f"[{','.join(lines)}]" if as_list else "\n".join(lines) + "\n")
    return path


def _answer(record, kind="ground_one"):
    return to_prediction(record, Question(record.id, kind), SAMPLE, Frame())


def _one(tmp_path, record, kind="ground_one"):
    return _answer(read_records(_write(tmp_path / "p.jsonl", [record]))[None]["0"], kind)


@pytest.mark.parametrize("as_list", [False, True])
def test_records_of_jsonl_and_of_a_list(tmp_path, as_list):
    path = _write(
        tmp_path / "p", [{"id": 3, "box": [0, 0, 100, 50]}, {"id": "x é", "benchmark": None, "text": "é"}], as_list
    )
    records = read_records(path)[None]
    assert list(records) == ["3", "x é"]
    assert _answer(records["3"]).boxes == [(0, 0, 0.5, 0.5)]
    assert _answer(records["x é"], "describe").text == "é"


@pytest.mark.parametrize(
    ("record", "kind", "status"),
    [
        ({"id": 0, "box": [0, 0, 1, 1]}, "ground_one", "ok"),
        ({"id": 0, "box": None}, "ground_one", "unparsed"),
        ({"id": 0, "box": [0, 0, 1]}, "ground_one", "unparsed"),
        ({"id": 0, "box": "a cat"}, "ground_one", "unparsed"),
        ('{"id": 0, "box": [0, 0, NaN, 1]}', "ground_one", "unparsed"),
        ('{"id": 0, "box": [0, 0, 1e999, 1]}', "ground_one", "unparsed"),
        ({"id": 0, "box": [10**400, 0, 1, 1]}, "ground_one", "unparsed"),
        ({"id": 0, "boxes": [[0, 0, 1, 1], [0, 0, 1, "x"]]}, "ground_all", "unparsed"),
        ({"id": 0, "boxes": []}, "ground_all", "ok"),
        ({"id": 0, "boxes": None}, "ground_all", "unparsed"),
        ({"id": 0, "text": "no box"}, "ground_one", "unparsed"),
        ({"id": 0, "box": [0, 0, 1, 1]}, "describe", "unparsed"),
        ({"id": 0, "text": ""}, "describe", "ok"),
        ({"id": 0, "text": None}, "converse", "unparsed"),
        ({"id": 0, "phrases": []}, "describe_scene", "ok"),
        ({"id": 0, "phrases": [{"phrase": "a", "boxes": [[0, 0]]}]}, "describe_scene", "unparsed"),
        ({"id": 0, "error": "out of memory"}, "ground_one", "failed"),
        ({"id": 0, "box": [0, 0, 1, 1], "error": None}, "ground_one", "ok"),
    ],
)
def test_status_of_an_answer(tmp_path, record, kind, status):
    prediction = _one(tmp_path, record, kind)
    assert prediction.status == status
    if status != "ok":
        assert prediction.boxes == []
        assert prediction.text == ""
        assert prediction.error


def test_everything_an_answer_may_hold(tmp_path):
    record = {
        "id": 0,
        "text": "a cat",
        "raw": "<p>a cat</p>[..]",
        "boxes": [[0, 0, 100, 50], [100, 50, 200, 100]],
        "confidences": [0.25, 0.75],
        "phrases": [{"phrase": "a cat", "boxes": [[0, 0, 20, 10]]}],
    }
    prediction = _one(tmp_path, record, "describe_scene")
    assert (prediction.raw, prediction.text) == (record["raw"], "a cat")
    assert prediction.boxes == [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)]
    assert prediction.confidences == [0.25, 0.75]
    assert prediction.phrases == [{"phrase": "a cat", "boxes": [(0, 0, 0.1, 0.1)]}]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "p.jsonl: the predictions file holds no records"),
        (["{"], "p.jsonl: line 1: column 2: not JSON"),
        (['{"id": 0, "box": null}', "x"], "p.jsonl: line 2: column 1: not JSON"),
        (["[1]"], "p.jsonl: row 0: a record must be an object, not 1"),
        (["7"], "p.jsonl: line 1: a record must be an object, not 7"),
        (['[{"id": 0}'], "not JSON"),
        (["[" * 100_000], "not JSON that can be read"),
        ([{"box": None}], "line 1: field 'id' must be the question's id"),
        ([{"id": True, "box": None}], "field 'id' must be the question's id"),
        ([{"id": 1.5, "box": None}], "field 'id' must be the question's id"),
        (
            [{"id": 0, "bbox": [0, 0, 1, 1]}],
            "holds no answer: give one of box, boxes, text, phrases, error (it has: id, bbox)",
        ),
        ([{"id": 0, "box": None, "boxes": []}], "'box' or 'boxes', not both"),
        ([{"id": 0, "boxes": "none"}], "field 'boxes' must be a list of boxes, not 'none'"),
        ([{"id": 0, "text": 7}], "field 'text' must be text, not 7"),
        ([{"id": 0, "benchmark": 7, "box": None}], "field 'benchmark' must be a benchmark's name"),
        ([{"id": 0, "phrases": [{"phrase": "a"}]}], "field 'phrases' must be a list of"),
        ([{"id": 0, "boxes": [], "confidences": [1]}], "0 boxes with 1 confidences: give one a box"),
        (['{"id": 0, "box": [0, 0, 1, 1], "confidences": [NaN]}'], "field 'confidences' must be a list of finite"),
        ([{"id": 0, "box": None}, {"id": "0", "box": None}], "line 2: id '0' occurs twice (first at "),
    ],
)
def test_bad_records_are_named(tmp_path, records, message):
    path = _write(tmp_path / "p.jsonl", records)
    with pytest.raises(HarnessError) as caught:
        read_records(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


words = st.sampled_from(["id", "box", "boxes", "text", "raw", "phrases", "phrase", "confidences", "error", "benchmark"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([1.0, 2.0, 3.0, 4.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries({"id": st.integers(0, 2)}, optional={w: anything for w in (
    "box", "boxes", "text", "raw", "phrases", "confidences", "error", "benchmark")})  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(records | anything, max_size=3), st.sampled_from(KINDS))
def test_whatever_stands_in_a_file_gives_predictions_or_one_line(tmp_path_factory, rows, kind):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    told, found = "", {}
    try:
        found = read_records(path)
    except HarnessError as error:
        told = str(error)
    assert "\n" not in told
    for record in (record for part in found.values() for record in part.values()):
        prediction = _answer(record, kind)
        assert prediction.status in ("ok", "unparsed", "failed")
        assert all(math.isfinite(v) for box in prediction.boxes for v in box)
        assert prediction.confidences is None or len(prediction.confidences) == len(prediction.boxes)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(HarnessError, match="no such predictions file"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(HarnessError, match="cannot read the predictions file"):
        read_records(tmp_path)
    (tmp_path / "p").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HarnessError, match="byte 0: not UTF-8"):
        read_records(tmp_path / "p")


def test_a_changed_file_is_read_again(tmp_path):
    path = _write(tmp_path / "p.jsonl", [{"id": 0, "box": [0, 0, 1, 1]}])
    first = load(f"{path},benchmark=b", "b")
    _write(path, [{"id": 0, "box": [0, 0, 2, 1]}])
    second = load(f"{path},benchmark=b", "b")
    assert first.records["0"].fields["box"] != second.records["0"].fields["box"]
    assert first.info.checkpoint_hash != second.info.checkpoint_hash


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ([{"box": None}], {"ground_one", "ground_all", "propose"}),
        ([{"text": ""}], {"describe", "describe_scene", "converse"}),
        ([{"phrases": []}], {"describe_scene"}),
        ([{"boxes": []}, {"text": ""}],
         {"ground_one", "ground_all", "propose", "describe", "describe_scene", "converse"}),
        ([{"error": "x"}, {"boxes": []}], {"ground_one", "ground_all", "propose"}),
    ],
)  # fmt: skip
def test_capabilities_are_what_the_file_holds(tmp_path, fields, kinds):
    path = _write(tmp_path / "b.jsonl", [{"id": i, **row} for i, row in enumerate(fields)])
    assert load(str(path), "b").info.capabilities == kinds


def test_settings_and_what_is_declared(tmp_path):
    path = _write(tmp_path / "b.jsonl", [{"id": 0, "box": [0.5, 0, 0.5, 1], "confidences": [1]}])
    model = load(f"{path},frame=0-1,format=xywh,name=their model", "b")
    assert (model.info.name, model.info.frame, model.info.box_format) == ("their model", "0-1", "xywh")
    assert model.info.exposes_confidences
    assert not model.info.needs_images
    sample = Sample("a", None, 0, 0, (Question("0", "ground_one"), Question("1", "ground_one")))
    (answer,) = model.answer([sample], Decoding(), {}, "paper")
    assert [p.boxes for p in answer.predictions] == [[(0.5, 0, 1, 1)]]  # question 1 has no record: left out
    assert load(str(path), "b").info.name == "predictions:b"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (",frame", "cannot read 'frame'"),
        (",frames=0-1", "cannot read 'frames=0-1'"),
        (",frame=0-1,frame=0-1", "cannot read 'frame=0-1'"),
        (",frame=0-100", "frame '0-100': it is one of pixels, 0-1"),
        (",format=ltrb", "box format 'ltrb'"),
        (",benchmark=a", "its answers are to a, not to b"),
    ],
)
def test_wrong_settings(tmp_path, more, message):
    path = _write(tmp_path / "b.jsonl", [{"id": 0, "box": None}])
    with pytest.raises(HarnessError) as caught:
        models.load(f"predictions:{path}{more}", benchmark="b")
    assert message in str(caught.value)


def test_which_benchmark_the_records_are_of(tmp_path):
    plain = _write(tmp_path / "p.jsonl", [{"id": 0, "box": None}])
    with pytest.raises(HarnessError, match=r"name no benchmark; .*call the file b.jsonl, or write .*,benchmark=b"):
        load(str(plain), "b")
    assert load(f"{plain},benchmark=b", "b").records
    assert load(str(plain)).records
    both = _write(tmp_path / "q.jsonl", [{"benchmark": b, "id": 0, "text": b} for b in "ab"])
    assert load(str(both), "a").records["0"].fields["text"] == "a"
    with pytest.raises(HarnessError, match="no predictions for c; it holds: a, b"):
        load(str(both), "c")
    with pytest.raises(HarnessError, match="name one of its benchmarks; it holds: a, b"):
        load(str(both))
    mixed = _write(tmp_path / "m.jsonl", [{"benchmark": "a", "id": 0, "box": None}, {"id": 1, "box": None}])
    with pytest.raises(HarnessError, match="line 2: field 'benchmark' is missing"):
        load(str(mixed), "a")
    with pytest.raises(HarnessError, match="names no file"):
        models.load("predictions:", benchmark="b")
    with pytest.raises(HarnessError, match="takes no --model-args"):
        models.load(f"predictions:{plain}", benchmark="b", model_args={"frame": "0-1"})


def test_a_folder_has_a_file_a_benchmark(tmp_path):
    for name in "ab":
        _write(tmp_path / f"{name}.jsonl", [{"id": 0, "text": name}])
    model = load(str(tmp_path), "a")
    assert model.records["0"].fields["text"] == "a"
    assert model.info.name == f"predictions:{tmp_path.name}"
    assert model.info.checkpoint_hash == load(str(tmp_path), "b").info.checkpoint_hash  # one model, one run
    with pytest.raises(HarnessError, match=r"there is no c.jsonl; it holds: a.jsonl, b.jsonl"):
        load(str(tmp_path), "c")
    with pytest.raises(HarnessError, match="name the benchmark"):
        load(str(tmp_path))
    _write(tmp_path / "c.jsonl", [{"id": 0, "benchmark": "d", "text": ""}])
    with pytest.raises(HarnessError, match="no predictions for c; it holds: d"):
        load(str(tmp_path), "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"no \.jsonl or \.json files"):
        load(str(tmp_path / "empty"), "c")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROMA_BENCHMARKS", raising=False)
    write_benchmark(tmp_path, rec_rows(), pictures=False)
    return tmp_path


def _run(model, out, cards="cards/card.yaml", **options):
    options = {"data_root": ".", "progress": False, **options}
    return evaluate(load(model), cards, out=out, **options)


def _truth(frame):
    for index, row in enumerate(rec_rows()):
        x, y, w, h = row["bbox"]
        box = frame.from_unit((x / 80, y / 60, (x + w) / 80, (y + h) / 60), 80, 60)
        yield {"id": index, "box": list(box)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FRAMES)
def test_the_truth_in_any_frame_scores_100(root, name, form, capsys):
    path = _write(root / "p.jsonl", _truth(Frame(name, form)))
    result = _run(f"{path},frame={name},format={form}", root / "run")
    metrics = result.metrics["toy"]["metrics"]
    assert {metrics[key] for key in ("acc@0.9", "acc@0.9_strict", "centre_acc")} == {100.0}
    assert metrics["miou"] == pytest.approx(100, abs=1e-4)
    assert result.exit_code == 0
    assert capsys.readouterr().err == ""
    manifest = json.loads((root / "run/manifest.json").read_text())["model"]
    assert (manifest["frame"], manifest["box_format"]) == (name, form)


def test_missing_failed_and_unparsed_count_as_wrong(root):
    records = list(_truth(Frame()))[:-4]
    records[0] = {"id": 0, "box": None}
    records[1] = {"id": 1, "error": "out of memory"}
    result = _run(str(_write(root / "p.jsonl", records)), root / "run")
    counts = result.metrics["toy"]["counts"]
    assert counts == {"questions": 18, "images": 6, "ok": 12, "unparsed": 1, "missing": 4, "failed": 1}
    assert result.metrics["toy"]["metrics"]["acc@0.5"] == pytest.approx(100 * 12 / 18, abs=1e-5)
    assert result.exit_code == 1
    rows = [json.loads(line) for line in (root / "run/toy/samples.jsonl").read_text().splitlines()]
    assert rows[1]["error"] == "out of memory"


def test_another_file_is_another_run(root):
    path = _write(root / "p.jsonl", _truth(Frame()))
    _run(str(path), root / "run")
    _run(str(path), root / "run")
    _write(path, [*_truth(Frame())][1:])
    with pytest.raises(HarnessError, match="holds a run with another model or setting"):
        _run(str(path), root / "run")


def test_records_of_no_question(root, capsys):
    path = _write(root / "p.jsonl", [{"id": i, "box": None} for i in range(100, 103)])
    with pytest.raises(HarnessError, match="line 1: id '100' is no question of the benchmark"):
        _run(str(path), root / "run")
    _write(path, [*_truth(Frame()), {"id": 100, "box": None}])
    assert _run(str(path), root / "other").metrics["toy"]["metrics"]["acc@0.5"] == 100
    warned = capsys.readouterr().err
    assert "warning" in warned
    assert "id '100' is none of the 18 questions asked (1 of 19" in warned


def test_boxes_of_another_frame(root):
    path = _write(root / "p.jsonl", _truth(Frame()))
    with pytest.raises(HarnessError, match=r"all 18 boxes lie outside the declared frame \(0-1, xyxy\)"):
        _run(f"{path},frame=0-1", root / "run")


COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 6, 40, 30], "area": 1200, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}


def test_proposals_are_boxes_too(root):
    (root / "coco.json").write_text(json.dumps(COCO))
    fields = card("boxes", "proposals", "coco", "coco.json", headline="ar50")
    records = [
        {"id": 1, "boxes": [[50, 40, 80, 60], [8, 6, 48, 36]], "confidences": [0.1, 0.9]},
        {"id": 2, "boxes": []},
    ]
    result = _run(str(_write(root / "p.jsonl", records)), root / "run", parse_card(fields, "card"))
    assert result.metrics["boxes"]["metrics"]["ar@1"] == 100  # the surest first
    images = [json.loads(line) for line in (root / "run/boxes/images.jsonl").read_text().splitlines()]
    assert images[0]["objectness"] == [0.9, 0.1]
    assert images[1]["proposals"] == []


def test_text_answers(root):
    row = {
        "question_id": "q",
        "image": "a.png",
        "text": "Red?",
        "category": "detail",
        "answer": "yes",
        "width": 8,
        "height": 8,
    }
    (root / "vqa.jsonl").write_text(json.dumps(row))
    (fields,) = parse_card(card("vqa", "vqa", "llava_jsonl", "vqa.jsonl", headline="accuracy"), "card")
    path = _write(root / "p.jsonl", [{"id": "q", "text": "Yes."}])
    assert _run(str(path), root / "run", fields).metrics["vqa"]["metrics"]["accuracy"] == 100
    with pytest.raises(HarnessError, match="cannot ground_one, which toy asks"):
        _run(str(path), root / "run2")
