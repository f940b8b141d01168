"""``groma-eval score caption``: COCO files in, the reference tool's figures out; bad files give one line."""

from __future__ import annotations

import json
import math

import pytest
from caption_data import FAKECAP, expected

from groma_eval.cli.evaluate import main

IMAGES = [{"id": 7}, {"id": 3}, {"id": "x"}]
CAPTIONS = [
    {"image_id": 3, "caption": "two dogs bark"},
    {"image_id": 7, "caption": "A cat sat on the mat."},
    {"image_id": "x", "caption": "a red bus"},
    {"image_id": 7, "caption": "a cat"},
]
RESULTS = [{"image_id": "x", "caption": "a red bus"}, {"image_id": 7, "caption": "A cat sat."}]
NAMES = ["BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "METEOR", "ROUGE_L", "CIDEr"]


@pytest.fixture
def score(tmp_path, capsys):
    """Runs the command on files of these contents; returns (exit code, stdout, stderr, what --json wrote)."""

    def run(references, predictions, *options):
        files = {"references": references, "predictions": predictions}
        words = ["score", "caption", *options, "--json", str(tmp_path / "out.json")]
        for name, content in files.items():
            path = tmp_path / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            words += [f"--{name}", str(path)]
        code = main(words)
        printed = capsys.readouterr()
        out = tmp_path / "out.json"
        return code, printed.out, printed.err, json.loads(out.read_text()) if out.exists() else None

    return run


def coco(images=IMAGES, annotations=CAPTIONS):
    return {"images": images, "annotations": annotations}


def test_the_fake_captions(shared, tmp_path, capsys):
    folder = shared / "data" / "captions"
    out = tmp_path / "out.json"
    words = ["score", "caption", "--references", str(folder / "en_captions_val2014.json"), "--json", str(out)]
    assert main([*words, "--predictions", str(folder / "en_captions_val2014_fakecap_results.json")]) == 0
    known, found = expected(shared, FAKECAP), json.loads(out.read_text())
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith("note"))
    assert list(printed) == list(found["metrics"]) == NAMES
    for name in set(NAMES) - {"METEOR"}:
        assert found["metrics"][name] == pytest.approx(known["corpus"][name], abs=1e-9)
        assert float(printed[name]) == pytest.approx(known["corpus"][name], abs=1e-6)
    for key, item in known["per_item"].items():
        assert found["per_item"][key]["CIDEr"] == pytest.approx(item["CIDEr"], abs=1e-9)
        assert found["per_item"][key]["ROUGE_L"] == pytest.approx(item["ROUGE_L"], abs=1e-9)


def test_a_missing_prediction_counts_unless_left_out(score):
    code, printed, _, found = score(coco(), RESULTS)
    assert code == 0
    assert list(found["per_item"]) == ["7", "3", "x"]
    assert found["per_item"]["3"]["ROUGE_L"] == 0
    assert "note: 1 of 3 items have no prediction and count as empty captions" in printed
    whole = found["metrics"]["ROUGE_L"]
    _, printed, _, found = score(coco(), RESULTS, "--only-predicted")
    assert list(found["per_item"]) == ["7", "x"]
    assert found["metrics"]["ROUGE_L"] == pytest.approx(1.5 * whole)
    assert "only predicted items are scored: 1 of 3 are left out" in found["notes"]


def test_images_without_a_caption_are_left_out_and_told(score):
    code, printed, _, found = score(coco([*IMAGES, {"id": 9}]), RESULTS)
    assert code == 0
    assert "note: 1 images have no reference caption and are left out" in printed
    assert "9" not in found["per_item"]
    code, _, error, _ = score(coco([*IMAGES, {"id": 9}]), [{"image_id": 9, "caption": "x"}])
    assert code == 2
    assert "image '9' has no reference caption" in error


def test_original_cider_is_printed_when_asked_for(score):
    _, printed, _, found = score(coco(), RESULTS, "--cider-original")
    assert list(found["metrics"]) == [*NAMES, "CIDEr-original"]
    assert "CIDEr-original" in printed


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        (coco(), [*RESULTS, {"image_id": 7, "caption": "x"}], "row 2: field 'image_id': image '7' has a prediction"),
        (coco(), [*RESULTS, {"image_id": "7", "caption": "x"}], "row 2: field 'image_id': image '7' has a prediction"),
        (coco(), [{"image_id": 8, "caption": "x"}], "image '8' has no reference caption"),
        (coco(), [{"image_id": math.nan, "caption": "x"}], "row 0: field 'image_id' must be a whole number or text"),
        (coco(), [{"image_id": True, "caption": "x"}], "row 0: field 'image_id' must be"),
        (coco(), [{"image_id": 7.0, "caption": "x"}], "row 0: field 'image_id' must be"),
        (coco(), [{"image_id": 7}], "row 0: field 'caption' is missing"),
        (coco(), [{"image_id": 7, "caption": ["x"]}], "row 0: field 'caption' must be text"),
        (coco(), [{"image_id": 7, "caption": None}], "row 0: field 'caption' must be text"),
        (coco(), [{"image_id": 7, "caption": math.nan}], "row 0: field 'caption' must be text"),
        (coco(), [{"caption": "x"}], "row 0: field 'image_id' is missing"),
        (coco(), ["x"], "row 0: must be an object"),
        (coco(), [], "the list is empty"),
        (coco(), {"7": "a cat"}, "must hold a list"),
        (coco(), '[{"image_id": 7, "caption": "x"}', "not JSON"),
        (coco(), "", "is empty"),
        (coco([*IMAGES, {"id": 3}]), RESULTS, "images 3: field 'id': image '3' occurs twice"),
        (coco([{"name": 1}]), RESULTS, "images 0: field 'id' is missing"),
        (coco([]), RESULTS, "field 'images' holds no samples"),
        (coco(IMAGES, []), RESULTS, "field 'annotations' holds no samples"),
        (coco(IMAGES, [{"image_id": 5, "caption": "x"}]), RESULTS, "annotations 0: field 'image_id': '5' is none of"),
        (coco(IMAGES, [{"image_id": 7, "caption": 5}]), RESULTS, "annotations 0: field 'caption' must be text"),
        ({"images": IMAGES}, RESULTS, "field 'annotations' is missing"),
        (RESULTS, RESULTS, "field 'images' is missing"),
        ("{", RESULTS, "not JSON"),
    ],
)
def test_bad_files_give_one_line(score, references, predictions, message):
    code, printed, error, found = score(references, predictions)
    assert code == 2
    assert (printed, found) == ("", None)
    assert error.count("\n") == 1
    assert message in error


def test_absent_files_and_folders(score, tmp_path, capsys):
    words = ["score", "caption", "--references", str(tmp_path / "a.json"), "--predictions", str(tmp_path / "b.json")]
    assert main(words) == 2
    assert "a.json: no such annotation file" in capsys.readouterr().err
    code, _, error, found = score(coco(), RESULTS, "--meteor-data", str(tmp_path / "nowhere"))
    assert (code, found) == (2, None)
    assert error.count("\n") == 1
    assert "nowhere" in error


def test_odd_texts_are_scored(score):
    odd = [{"image_id": 7, "caption": "\ud83d \u0000 🐈 a cat\r\nsat"}, {"image_id": 3, "caption": ""}]
    code, _, _, found = score(coco(), odd)
    assert code == 0
    assert found["per_item"]["7"]["ROUGE_L"] == pytest.approx(1.0)
