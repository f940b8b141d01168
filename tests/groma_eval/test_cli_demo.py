"""The demo on a toy suite: every table, every bound on the tasks it can do, and a repeat that asks nothing."""

from __future__ import annotations

import json

import pytest
import yaml
from harness_fakes import Fake, card, rec_rows, truth, write_pictures

from groma_eval.cli import demo
from groma_eval.cli.evaluate import main
from groma_eval.models import majority, registry

TASKS = {
    "rec": ("rec", "refcoco_flat", "acc@0.5"),
    "ground": ("grounding", "lvis", "ar"),
    "caption": ("caption", "region_captions", "cider"),
    "scene": ("caption", "grounded_captions", "phrase_f1"),
    "vqa": ("vqa", "llava_jsonl", "accuracy"),
    "proposals": ("proposals", "coco", "ar50"),
}


def _write_suite(root):
    """Six benchmarks over the same six pictures, from the boxes of the REC rows."""
    rows = rec_rows()
    stems = list(dict.fromkeys(row["img_id"].rsplit("_", 1)[0] for row in rows))
    write_pictures(root / "images", [f"{stem}.png" for stem in stems])
    images = [{"id": i, "file_name": f"{stem}.png", "width": 80, "height": 60} for i, stem in enumerate(stems)]
    colours = ("red", "green", "blue")
    annotations = [
        {"id": n + 1, "image_id": n // 3, "bbox": row["bbox"], "category_id": n % 3 + 1} for n, row in enumerate(rows)
    ]
    categories = [{"id": i + 1, "name": f"{c}_cup", "frequency": "rcf"[i]} for i, c in enumerate(colours)]
    detection = {"images": images, "annotations": annotations, "categories": categories}
    regions = {
        "images": [
            {**images[n // 3], "id": n, "captions": [f"a {colours[n % 3]} cup at place {n}"]} for n in range(18)
        ],
        "annotations": [
            {"id": n, "image_id": n, "bbox": rows[n]["bbox"], "attributes": {"colour": colours[n % 3]}}
            for n in range(18)
        ],
    }
    scenes = []
    for image in images:
        x, y, w, h = rows[image["id"] * 3]["bbox"]
        phrase = {"start": 0, "end": 9, "phrase": "a red cup", "boxes": [[x, y, x + w, y + h]]}
        scenes.append({"image": image["file_name"], "width": 80, "height": 60, "caption": "a red cup here"})
        scenes[-1]["phrases"] = [phrase]
    questions = [
        {"question_id": i, "image": f"{stem}.png", "text": "?", "answer": "red", "category": "detail", "width": 80}
        | {"height": 60, "type": "attribute"}
        for i, stem in enumerate(stems)
    ]
    for name, content in (("rec", rows), ("ground", detection), ("caption", regions), ("proposals", detection)):
        (root / f"{name}.json").write_text(json.dumps(content))
    for name, lines in (("scene", scenes), ("vqa", questions)):
        (root / f"{name}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cards = [
        card(f"toy-{name}", task, reader, f"{name}.json", headline=headline, suites=["toys"])
        for name, (task, reader, headline) in TASKS.items()
    ]
    (root / "cards").mkdir()
    (root / "cards/card.yaml").write_text(yaml.safe_dump(cards))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    _write_suite(tmp_path)
    model = Fake(truth, needs_images=True, name=demo.MODEL, exposes_regions=True)
    model.proposals = lambda sample: [(0.1, 0.1, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0)]
    monkeypatch.setenv("GROMA_BENCHMARKS", str(tmp_path / "cards"))
    monkeypatch.setattr(demo, "SUITE", "toys")
    monkeypatch.setitem(registry._registered, demo.MODEL, lambda argument, **options: model)
    table = {"converse": {"all": "red", "groups": {}}, "describe": "a red cup", "describe_scene": "a red cup here"}
    monkeypatch.setattr(majority, "bundled", lambda: table)
    registry._cache.clear()
    yield tmp_path, model
    registry._cache.clear()


def test_demo(toys, capsys):
    root, model = toys
    arguments = ["demo", "--out", str(root / "demo"), "--data-root", str(root)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    tables = (root / "demo/tables.md").read_text()
    for text in (shown, tables):
        for name in (
            demo.MODEL,
            "bound:center",
            "bound:whole-image",
            "bound:majority",
            "bound:oracle-proposal",
            "bound:blind",
        ):
            assert name in text
    assert tables.count("|") > 100
    metrics = json.loads((root / "demo/groma-tiny/metrics.json").read_text())
    assert list(metrics) == [f"toy-{name}" for name in TASKS]
    assert metrics["toy-rec"]["metrics"]["acc@0.5"] == metrics["toy-vqa"]["metrics"]["accuracy"] == 100
    assert metrics["toy-scene"]["metrics"]["phrase_f1"] == metrics["toy-ground"]["metrics"]["recall@0.5"] == 100
    model.asked.clear()
    assert main(arguments) == 0
    assert model.asked == []
    assert (root / "demo/tables.md").read_text() == tables


def test_the_oracle_bound_is_cocos_recall_of_the_stored_proposals(toys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root, model = toys
    boxes = json.loads((root / "proposals.json").read_text())
    model.proposals = lambda sample: [
        (x / 80 + 0.01 * (n % 4), y / 60, (x + w) / 80 + 0.01 * (n % 4), (y + h) / 60)
        for n, (x, y, w, h) in enumerate(a["bbox"] for a in boxes["annotations"][:9])
    ]
    name = f"bound:oracle-proposal@{demo.MODEL}"
    arguments = ["run", "--model", name, "--benchmarks", "toy-ground", "--out", str(root / "o"), "--no-progress"]
    assert main([*arguments, "--data-root", str(root)]) == 0
    recall = json.loads((root / "o/metrics.json").read_text())["toy-ground"]["metrics"]["recall@0.5"]
    truth_set, found = COCO(), COCO()
    truth_set.dataset = {**boxes, "annotations": []}
    for a in boxes["annotations"]:
        truth_set.dataset["annotations"].append({**a, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0})
    found.dataset = {**boxes, "annotations": []}
    for line in (root / "o/toy-ground/images.jsonl").read_text().splitlines():
        row = json.loads(line)
        for (x1, y1, x2, y2), score in zip(row["proposals"], row["objectness"]):
            box = [x1 * 80, y1 * 60, (x2 - x1) * 80, (y2 - y1) * 60]
            for category in (1, 2, 3):  # every proposal stands for every category asked about
                found.dataset["annotations"].append(
                    {"id": len(found.dataset["annotations"]) + 1, "image_id": int(row["image_id"]), "bbox": box}
                    | {"category_id": category, "score": score, "area": box[2] * box[3], "iscrowd": 0}
                )
    truth_set.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth_set, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    table = evaluation.eval["recall"][0, :, 0, -1]  # IoU 0.5, by category; all hold six boxes
    assert 0 < recall < 100
    assert recall == pytest.approx(100 * table.mean(), abs=1e-4)
