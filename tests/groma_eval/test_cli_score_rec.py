"""``groma-eval score rec``: numbers against a plain definition, and one line for every bad call."""

from __future__ import annotations

import json
import random
import re

import pytest
from harness_fakes import rec_rows
from refcoco_forms import coco_form, rows_of, write_refer

from groma_eval.cli.evaluate import main

SPLIT = "refcoco_testB"


def plain_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def corners(row):
    x, y, w, h = row["bbox"]
    return [x, y, x + w, y + h]


def perturbed(rows, rng):
    for index, row in enumerate(rows):
        box = corners(row)
        spread = rng.choice((0.0, 0.05, 0.2))
        sides = (box[2] - box[0], box[3] - box[1]) * 2
        yield {"id": index, "box": [v + spread * side * rng.gauss(0, 1) for v, side in zip(box, sides)]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rec.json").write_text(json.dumps(rec_rows()))
    return tmp_path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def truth():
    return [{"id": index, "box": corners(row)} for index, row in enumerate(rec_rows())]


def score(*more, references="rec.json", predictions="p.jsonl"):
    return main(["score", "rec", "--references", str(references), "--predictions", str(predictions), *more])


def test_a_real_split_against_the_plain_definition(shared, tmp_path):
    references = shared / "data" / "refcoco" / f"{SPLIT}.json"
    rows = json.loads(references.read_text())
    records = list(perturbed(rows, random.Random(0)))
    for i in range(0, 60, 3):
        records[i]["box"] = None
        records[i + 1] = {"id": i + 1, "error": "killed"}
    gone = {record["id"] for record in records[2:60:3]}
    predictions = write(tmp_path / "p.jsonl", [r for r in records if r["id"] not in gone])
    assert score("--json", str(tmp_path / "o.json"), references=references, predictions=predictions) == 0
    written = json.loads((tmp_path / "o.json").read_text())
    metrics = written["metrics"]
    ious = [
        plain_iou(record["box"], corners(row)) if record.get("box") and record["id"] not in gone else 0.0
        for record, row in zip(records, rows)
    ]
    for t in (0.3, 0.5, 0.7, 0.9):
        assert metrics[f"acc@{t}"] == pytest.approx(100 * sum(iou >= t for iou in ious) / 5095, abs=1e-9)
        assert metrics[f"acc@{t}_strict"] == pytest.approx(100 * sum(iou > t for iou in ious) / 5095, abs=1e-9)
    assert metrics["miou"] == pytest.approx(100 * sum(ious) / 5095, abs=1e-9)
    inside = sum(
        row["bbox"][0] <= (box[0] + box[2]) / 2 <= row["bbox"][0] + row["bbox"][2]
        and row["bbox"][1] <= (box[1] + box[3]) / 2 <= row["bbox"][1] + row["bbox"][3]
        for record, row in zip(records, rows)
        if (box := record.get("box")) and record["id"] not in gone
    )
    assert metrics["centre_acc"] == pytest.approx(100 * inside / 5095, abs=1e-9)
    found = {key: metrics[key] for key in ("questions", "images", "ok", "unparsed", "missing", "failed")}
    assert found == {"questions": 5095, "images": 750, "ok": 5035, "unparsed": 20, "missing": 20, "failed": 20}
    assert [written["per_item"][str(i)]["status"] for i in range(4)] == ["unparsed", "failed", "missing", "unparsed"]
    assert [entry["iou"] for entry in written["per_item"].values()] == pytest.approx(ious, abs=1e-9)


@pytest.mark.parametrize(
    ("frame", "form", "change"),
    [
        ("pixels", "xyxy", lambda b: b),
        ("pixels", "xywh", lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]]),
        ("0-1", "xyxy", lambda b: [b[0] / 80, b[1] / 60, b[2] / 80, b[3] / 60]),
        ("0-1000", "xyxy", lambda b: [1000 * b[0] / 80, 1000 * b[1] / 60, 1000 * b[2] / 80, 1000 * b[3] / 60]),
        ("0-999", "xyxy", lambda b: [999 * b[0] / 80, 999 * b[1] / 60, 999 * b[2] / 80, 999 * b[3] / 60]),
    ],
)
def test_the_frame_is_the_declared_one(root, capsys, frame, form, change):
    write(root / "p.jsonl", [{**record, "box": change(record["box"])} for record in truth()])
    assert score("--frame", frame, "--format", form) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^acc@0\.9 +100\.000000$", shown, re.M)
    assert f"boxes read as {frame}, {form}" in shown
    assert "outside" not in shown


def test_the_list_form_and_groups(root, capsys):
    (root / "p.json").write_text(json.dumps(truth()))
    assert score(predictions="p.json") == 0
    assert "acc@0.5/location" in capsys.readouterr().out


def test_boxes_outside_the_frame_are_told(root, capsys):
    records = truth()
    records[4]["box"] = [0, 0, 200, 60]
    write(root / "p.jsonl", records)
    assert score() == 0
    assert "note: p.jsonl: 1 of 18 boxes reach outside the declared frame (pixels, xyxy); first: id 4" in (
        capsys.readouterr().out
    )


def test_every_form_of_the_references_gives_the_same(root):
    rows = rows_of()
    (root / "flat.json").write_text(json.dumps(rows))
    (root / "coco.json").write_text(json.dumps(coco_form(rows)))
    write_refer(root / "refer", rows)
    write(root / "p.jsonl", perturbed(rows, random.Random(1)))
    found = []
    for references in ("flat.json", "coco.json", "refer"):
        assert score("--json", "o.json", "--split", "refcoco_val", references=references) == 0
        found.append(json.loads((root / "o.json").read_text()))
    assert found[0] == found[1] == found[2]
    assert 0 < found[0]["metrics"]["acc@0.7"] < 100


def bad(change):
    records = truth()
    change(records)
    return records


@pytest.mark.parametrize(
    ("records", "more", "message"),
    [
        (truth(), ["--frame", "0-1"], "all 18 boxes lie outside the declared frame (0-1, xyxy); first: id 0"),
        ([{"id": i, "box": [0, 0, 1, 1]} for i in range(18)], [], "lie within one unit of the corner"),
        (bad(lambda r: r.append({"id": 18, "box": None})), [], "line 19: id '18' is none of the 18 rows"),
        (bad(lambda r: r.append(r[3])), [], "line 19: id '3' occurs twice (first at p.jsonl: line 4)"),
        (bad(lambda r: r[0].pop("box")), [], "line 1: the record holds no answer"),
        (bad(lambda r: [x.update(benchmark=str(x["id"] % 2)) for x in r]), [], "are of several benchmarks (0, 1)"),
        ([], [], "p.jsonl: the predictions file holds no records"),
        (truth(), ["--references", "none.json"], "none.json"),
        (truth(), ["--predictions", "none.jsonl"], "none.jsonl: no such predictions file"),
        (truth(), ["--json", "rec.json/o.json"], "--json rec.json/o.json: cannot be written"),
    ],
)
def test_bad_calls(root, capsys, records, more, message):
    write(root / "p.jsonl", records)
    assert score(*more) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("groma-eval: error: ")
    assert message in shown
    assert shown.count("\n") == 1


def test_the_split_is_asserted(shared, root, capsys):
    references = shared / "data" / "refcoco" / f"{SPLIT}.json"
    write(root / "p.jsonl", [{"id": 0, "box": [1, 2, 30, 40]}])
    assert score("--split", SPLIT, references=references) == 0
    assert re.search(r"^missing +5094$", capsys.readouterr().out, re.M)
    assert score("--split", "refcoco_testA", references=references) == 2
    assert "holds 5095 expressions, as RefCOCO testB does" in capsys.readouterr().err
    assert score("--split", "refcoco_test") == 2
    assert "--split refcoco_test: there is no such split; there are: refcoco_val" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--frame", "0-100"], "--frame: invalid choice: '0-100'"), (["--form", "x"], "invalid choice: 'x'"),
     (["more"], "unrecognized arguments: more")],
)  # fmt: skip
def test_bad_arguments(root, capsys, more, message):
    with pytest.raises(SystemExit) as caught:
        score(*more)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("groma-eval score rec: error: ")
    assert message in shown
    assert shown.count("\n") == 1
