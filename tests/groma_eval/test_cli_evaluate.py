"""The command: what it prints, where it writes, and one line with exit 2 for every bad call."""

from __future__ import annotations

import json

import pytest
import yaml
from harness_fakes import card, rec_rows, write_benchmark

from groma_eval.cli.evaluate import main
from groma_eval.cli.run import pairs
from groma_eval.core import HarnessError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROMA_DATA", raising=False)
    monkeypatch.delenv("GROMA_BENCHMARKS", raising=False)
    write_benchmark(tmp_path, rec_rows(), pictures=False)
    return tmp_path


def _run(*more, model="bound:center", benchmarks="toy", out="run"):
    arguments = ["run", "--model", model, "--benchmarks", benchmarks, "--out", out, "--no-progress"]
    return main([*arguments, "--benchmarks-dir", "cards", "--data-root", ".", *more])


def test_run_score_table(root, capsys):
    assert _run() == 0
    shown = capsys.readouterr().out
    assert "questions 18, images 6, ok 18" in shown
    assert "acc@0.5" in shown
    before = (root / "run/metrics.json").read_bytes()
    assert main(["score", "run"]) == 0
    assert (root / "run/metrics.json").read_bytes() == before
    assert main(["table", "rec", "run", "--baselines", "none"]) == 0
    assert "bound:center" in capsys.readouterr().out
    manifest = json.loads((root / "run/manifest.json").read_text())
    assert manifest["command"][:2] == ["groma-eval", "run"]


def test_centre_bound_is_what_hand_calculation_gives(root):
    _run()
    hits = 0
    for row in rec_rows():
        x, y, w, h = row["bbox"]
        overlap = max(0, min(x + w, 60) - max(x, 20)) * max(0, min(y + h, 45) - max(y, 15))
        hits += overlap / (w * h + 40 * 30 - overlap) >= 0.3
    stored = json.loads((root / "run/metrics.json").read_text())["toy"]["metrics"]["acc@0.3"]
    assert stored == pytest.approx(100 * hits / 18, abs=1e-5)


@pytest.mark.parametrize(
    ("what", "entry"),
    [
        ("benchmarks", "toy"),
        ("models", "bound:center"),
        ("models", "predictions:FILE"),
        ("tasks", "proposals"),
        ("metrics", "acc@T"),
    ],
)
def test_list(root, capsys, what, entry):
    assert main(["list", what, "--benchmarks-dir", "cards"]) == 0
    assert entry in capsys.readouterr().out


def test_one_file_of_predictions_for_several_benchmarks(root, capsys):
    cards = [card("toy"), card("toy2", data={"annotations": "toy.json"})]
    (root / "cards/card.yaml").write_text(yaml.safe_dump(cards))
    with (root / "p.jsonl").open("w") as file:
        for index, row in enumerate(rec_rows()):
            x, y, w, h = row["bbox"]
            for name, box in (("toy", [x, y, x + w, y + h]), ("toy2", None)):
                print(json.dumps({"benchmark": name, "id": index, "box": box}), file=file)
    assert _run(model="predictions:p.jsonl,name=theirs", benchmarks="toy,toy2") == 0
    metrics = json.loads((root / "run/metrics.json").read_text())
    assert metrics["toy"]["metrics"]["acc@0.9"] == 100
    assert metrics["toy2"]["counts"]["unparsed"] == 18
    assert metrics["toy2"]["metrics"]["acc@0.3"] == 0
    assert main(["table", "rec", "run", "--baselines", "none"]) == 0
    shown = capsys.readouterr().out
    assert "theirs" in shown
    assert "answers read from a file" in shown
    assert _run(model="predictions:p.jsonl", benchmarks="toy,shapes-rec", out="other") == 2
    assert "no predictions for shapes-rec; it holds: toy, toy2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmarks": "tyo"}, "unknown benchmark 'tyo'; nearest names: toy"),
        ({"model": "groma-tinny"}, "groma-tinny"),
        ({"out": "toy.json"}, "is a file"),
        ({"more": ["--batch-size", "few"]}, "--batch-size few"),
        ({"more": ["--batch-size", "0"]}, "--batch-size 0"),
        ({"more": ["--limit", "-1"]}, "--limit -1"),
        ({"more": ["--gen-args", "max_new_tokens"]}, "must be KEY=VALUE"),
        ({"more": ["--annotations", "none.json"]}, "none.json: no such annotation file"),
        ({"more": ["--data-root", "none"]}, "the data of toy is not there"),
        ({"more": ["--benchmarks-dir", "none"]}, "no such folder of benchmark cards"),
    ],
)
def test_bad_calls(root, capsys, options, message):
    assert _run(*options.pop("more", ()), **options) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("groma-eval: error: ")
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "toy.json: the annotation file is empty"),
        ('[{"img_id": "a_1",', "toy.json: line 1, column 19: not JSON"),
        ('[{"img_id": "a_1"}]', "toy.json: row 0: field 'sents' is missing"),
    ],
)
def test_bad_data(root, capsys, content, message):
    (root / "toy.json").write_text(content)
    assert _run() == 2
    assert message in capsys.readouterr().err


def test_other_commands_say_what_is_wrong(root, capsys):
    for arguments, message in (
        (["score", "nowhere"], "no finished run"),
        (["data", "prepare", "shape"], "shape is no benchmark"),
        (["data", "prepare", "shapes", "--splits", "test=some"], "--splits test=some"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_pairs():
    assert pairs(["a=1,b=x=y", "c="], "--o") == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(HarnessError, match="--o a"):
        pairs(["a"], "--o")


@pytest.mark.parametrize("bound", ["bound:center", "bound:whole-image"])
def test_real_splits_need_no_images(shared, tmp_path, bound, capsys):
    arguments = ["run", "--model", bound, "--benchmarks", "refcoco_testB,refcoco+_testB", "--out", str(tmp_path / "r")]
    assert main([*arguments, "--data-root", str(shared / "data"), "--no-progress"]) == 0
    counts = {k: v["counts"] for k, v in json.loads((tmp_path / "r/metrics.json").read_text()).items()}
    assert counts["refcoco_testB"]["questions"] == 5095
    assert counts["refcoco+_testB"]["questions"] == 4889
    assert {c["images"] for c in counts.values()} == {750}
