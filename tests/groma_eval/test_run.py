"""The run loop: truth scores 100, interruption changes nothing, bad calls and inputs are told in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from harness_fakes import Fake, card, rec_rows, truth, write_benchmark

from groma_eval import evaluate
from groma_eval.core import HarnessError, Prediction
from groma_eval.run import rescore
from groma_eval.table_runs import read_run

LVIS = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200}],
    "categories": [{"id": 1, "name": "thing", "frequency": "r"}],
}
STORED = ("metrics.json", "toy/samples.jsonl", "toy/images.jsonl")


def _run(root: Path, model, out: str = "run", **options):
    options = {"data_root": root, "progress": False, "batch_size": 2, **options}
    return evaluate(model, root / "cards/card.yaml", out=root / out, **options)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in STORED}


@pytest.fixture
def root(tmp_path):
    write_benchmark(tmp_path, rec_rows(), counts={"questions": 18, "images": 6})
    return tmp_path


def test_truth_scores_exactly_100(root):
    result = _run(root, Fake(truth))
    entry = result.metrics["toy"]
    for name in ("acc@0.3", "acc@0.5", "acc@0.7", "acc@0.9", "acc@0.5/attribute", "centre_acc", "miou"):
        assert entry["metrics"][name] == 100, name
    assert entry["counts"] == {"questions": 18, "images": 6, "ok": 18, "unparsed": 0, "missing": 0, "failed": 0}
    assert entry["intervals"]["acc@0.5"][1] == 100
    assert result.exit_code == 0
    assert json.loads((root / "run/metrics.json").read_text()) == json.loads(json.dumps(result.metrics))


def test_truth_scores_exactly_100_on_lvis(tmp_path, shared):
    write_benchmark(tmp_path, "[]", pictures=False, task="grounding", reader="lvis")
    path = shared / "data/lvis/lvis_val_100.json"
    metrics = _run(tmp_path, Fake(truth), annotations=path).metrics["toy"]["metrics"]
    assert {k: metrics[k] for k in ("ar", "ar@0.5", "recall@0.5", "precision@0.5")} == {
        "ar": 100, "ar@0.5": 100, "recall@0.5": 100, "precision@0.5": 100,
    }  # fmt: skip


def test_a_repeat_asks_nothing_and_changes_nothing(root):
    _run(root, Fake(truth))
    before = _bytes(root / "run")
    model = Fake(truth)
    _run(root, model)
    assert model.asked == []
    assert _bytes(root / "run") == before


def test_interrupted_three_times_equals_uninterrupted(root):
    _run(root, Fake(truth), "whole")
    for images in (1, 2, 3):
        model = Fake(truth)
        model.stop_after = images
        with pytest.raises(KeyboardInterrupt):
            _run(root, model)
        with pytest.raises(HarnessError, match=r"not finished|no finished run"):
            rescore(root / "run")
    _run(root, Fake(truth))
    assert _bytes(root / "run") == _bytes(root / "whole")
    assert not (root / "run/toy/parts").exists()


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from harness_fakes import Fake, truth
from groma_eval import evaluate
def slow(question, sample):
    time.sleep({delay})
    return truth(question, sample)
evaluate(Fake(slow), Path("cards/card.yaml"), out="run", data_root=".", batch_size=1, progress=False)
"""


def test_killed_and_continued(root):
    _run(root, Fake(truth), "whole", batch_size=1)
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent), delay=0.25)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for kill in range(1, 3):
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not _answered(root) >= kill and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        assert _answered(root) >= kill
    model = Fake(truth)
    _run(root, model, batch_size=1)
    assert 0 < len(model.asked) < 6
    assert _bytes(root / "run")["metrics.json"] == _bytes(root / "whole")["metrics.json"]
    assert _bytes(root / "run")["toy/samples.jsonl"] == _bytes(root / "whole")["toy/samples.jsonl"]


def _answered(root: Path) -> int:
    return sum(part.read_text().count("\n") for part in (root / "run/toy/parts").glob("*.jsonl"))


def test_batch_sizes_give_the_same_bytes(root):
    for size in (1, 4, "auto"):
        _run(root, Fake(truth), f"run{size}", batch_size=size)
    assert _bytes(root / "run1") == _bytes(root / "run4") == _bytes(root / "runauto")


def test_auto_halves_when_memory_runs_out(root):
    class Big(Fake):
        def answer(self, samples, *args):
            if len(samples) > 2:
                raise MemoryError
            return super().answer(samples, *args)

    model = Big(truth)
    assert _run(root, model, batch_size="auto").metrics["toy"]["metrics"]["acc@0.5"] == 100
    assert sorted(model.asked) == sorted({*model.asked})
    with pytest.raises(HarnessError, match=r"out of memory at 4 image\(s\) a batch"):
        _run(root, Big(truth), "fixed", batch_size=4)


def test_another_model_or_setting_in_the_same_folder(root):
    _run(root, Fake(truth))
    with pytest.raises(HarnessError, match=r"model: \"fake\" there, \"other\" now.*give another --out"):
        _run(root, Fake(truth, name="other"))
    with pytest.raises(HarnessError, match="checkpoint_hash"):
        _run(root, Fake(truth, checkpoint_hash="1"))
    with pytest.raises(HarnessError, match="seed: 0 there, 1 now"):
        _run(root, Fake(truth), seed=1)
    with pytest.raises(HarnessError, match="deviations"):
        _run(root, Fake(truth), limit=2)
    with pytest.raises(HarnessError, match="templates"):
        _run(root, Fake(truth, templates={"ground_one": "where is {text}?"}))
    write_benchmark(root, rec_rows(), version=2)
    with pytest.raises(HarnessError, match="card_version: 1 there, 2 now"):
        _run(root, Fake(truth))


def test_a_changed_picture_is_asked_again(root):
    _run(root, Fake(truth, needs_images=True))
    (root / "images/pic_003.png").write_bytes((root / "images/pic_005.png").read_bytes())
    model = Fake(truth, needs_images=True)
    _run(root, model)
    assert sorted(model.asked) == ["pic_002", "pic_003"]  # its whole batch


def test_unreadable_pictures_fail_alone_and_can_be_mended(root):
    good = (root / "images/pic_002.png").read_bytes()
    (root / "images/pic_002.png").write_bytes(good[: len(good) // 2])
    (root / "images/pic_005.png").unlink()
    result = _run(root, Fake(truth, needs_images=True))
    assert result.exit_code == 1
    assert result.metrics["toy"]["counts"] == {
        "questions": 18, "images": 6, "ok": 12, "unparsed": 0, "missing": 0, "failed": 6,
    }  # fmt: skip
    assert result.metrics["toy"]["metrics"]["acc@0.5"] == pytest.approx(100 * 12 / 18, abs=1e-5)
    rows = [json.loads(line) for line in (root / "run/toy/samples.jsonl").read_text().splitlines()]
    assert {row["image_id"] for row in rows if row["status"] == "failed"} == {"pic_002", "pic_005"}
    assert all(row["error"] for row in rows if row["status"] == "failed")
    before = _bytes(root / "run")
    _run(root, Fake(truth, needs_images=True))
    assert _bytes(root / "run") == before
    (root / "images/pic_002.png").write_bytes(good)
    (root / "images/pic_005.png").write_bytes(good)
    mended = _run(root, Fake(truth, needs_images=True))
    assert (mended.exit_code, mended.metrics["toy"]["metrics"]["acc@0.5"]) == (0, 100)


def test_no_picture_is_needed_without_pixels(tmp_path):
    write_benchmark(tmp_path, rec_rows(), pictures=False)
    assert _run(tmp_path, Fake(truth)).exit_code == 0
    with pytest.raises(HarnessError, match="images: the data of toy is not there"):
        _run(tmp_path, Fake(truth, needs_images=True), "other")


def test_missing_and_odd_answers_count_as_wrong(root):
    def reply(question, sample):
        number = int(question.id)
        if number == 0:
            return Prediction(question.id)  # no box
        if number == 1:
            return Prediction(question.id, boxes=[(0, 0, float("nan"), 1)])
        return truth(question, sample)

    class Forgetful(Fake):
        def answer(self, samples, *args):
            for answer in super().answer(samples, *args):
                answer.predictions = [p for p in answer.predictions if p.question_id != "2"]
                yield answer

    result = _run(root, Forgetful(reply))
    assert result.metrics["toy"]["counts"] == {
        "questions": 18, "images": 6, "ok": 15, "unparsed": 2, "missing": 1, "failed": 0,
    }  # fmt: skip
    assert result.metrics["toy"]["metrics"]["acc@0.5"] == pytest.approx(100 * 15 / 18, abs=1e-5)
    assert result.exit_code == 1


def test_an_answer_to_nothing_is_an_error(root):
    def reply(question, sample):
        return Prediction("other")

    with pytest.raises(HarnessError, match="answered unknown question 'other'"):
        _run(root, Fake(reply))


def test_limit_and_gen_args_leave_the_protocol(root):
    seen = []

    class Watching(Fake):
        def answer(self, samples, decoding, *args):
            seen.append(decoding)
            return super().answer(samples, decoding, *args)

    result = _run(root, Watching(truth), limit=2, gen_args={"max_new_tokens": "5"})
    assert result.metrics["toy"]["counts"]["images"] == 2
    assert seen[0].max_new_tokens == 5
    manifest = json.loads((root / "run/manifest.json").read_text())
    assert manifest["benchmarks"]["toy"]["deviations"] == ["limit=2", "max_new_tokens=5"]
    for arguments, message in (
        ({"gen_args": {"max_tokens": 5}}, "no such decoding limit"),
        ({"gen_args": {"max_new_tokens": "many"}}, "must be a number"),
        ({"limit": 0}, "must be at least 1"),
        ({"batch_size": 0}, "above 0"),
        ({"protocol": "released"}, "no protocol 'released'"),
        ({"images": "/nowhere"}, "no such folder of images"),
    ):
        with pytest.raises(HarnessError, match=message):
            _run(root, Fake(truth), "bad", **arguments)
    assert not (root / "bad").exists()


def test_counts_are_asserted_unless_overridden(root):
    path = write_benchmark(root, rec_rows(), counts={"questions": 17})
    with pytest.raises(HarnessError, match="toy: the annotations hold 18 questions, the card says 17"):
        _run(root, Fake(truth))
    result = evaluate(Fake(truth), path, out=root / "o", data_root=root, annotations=root / "toy.json", progress=False)
    assert result.metrics["toy"]["metrics"]["acc@0.5"] == 100


def test_a_model_that_cannot_answer(root):
    model = Fake(truth)
    model.info = type(model.info)("mute", frozenset({"describe"}))
    with pytest.raises(HarnessError, match="model mute cannot ground_one, which toy asks; it can: describe"):
        _run(root, model)


def test_what_a_model_cannot_answer_is_not_applicable_and_the_rest_is_run(root, capsys):
    second = write_benchmark(root, json.dumps(LVIS), False, name="many", task="grounding", reader="lvis",
                             file="many.json", family="shapes-ground", split="val", headline="ar")  # fmt: skip
    second.rename(root / "many.yaml")
    write_benchmark(root, rec_rows())
    model = Fake(truth)
    model.info = replace(model.info, capabilities=frozenset({"ground_one"}))
    with pytest.raises(HarnessError, match="model fake cannot ground_all"):
        evaluate(model, root / "many.yaml", out=root / "none", data_root=root, progress=False)
    both = [root / "cards/card.yaml", root / "many.yaml"]
    assert list(evaluate(model, both, out=root / "run", data_root=root, progress=False).metrics) == ["toy"]
    assert "groma-eval: many: n/a: model fake cannot ground_all, which many asks" in capsys.readouterr().err
    assert read_run(root / "run").not_applicable == {("shapes-ground", "val")}


def test_score_needs_no_model_and_changes_nothing(root):
    model = Fake(lambda q, s: Prediction(q.id, boxes=[(0.1, 0.1, 0.6, 0.6)]))
    model.proposals = lambda sample: [(0.1, 0.1, 0.6, 0.6), (0.0, 0.0, 1 / 3, 1.0)]
    _run(root, model)
    before = _bytes(root / "run")
    metrics = json.loads(before["metrics.json"])["toy"]["metrics"]
    assert metrics["acc@0.5"] + metrics["not_proposed"] + metrics["not_selected"] == pytest.approx(100, abs=1e-4)
    (root / "toy.json").unlink()
    (root / "run/metrics.json").unlink()
    rescore(root / "run")
    assert _bytes(root / "run") == before
    with pytest.raises(HarnessError, match="no finished run"):
        rescore(root / "nothing")


def test_benchmarks_add_up_in_one_folder(root):
    write_benchmark(root, rec_rows())
    _run(root, Fake(truth))
    fields = card("toy2")
    (root / "cards/card.yaml").write_text(json.dumps(fields))
    _run(root, Fake(truth))
    assert list(json.loads((root / "run/metrics.json").read_text())) == ["toy", "toy2"]
    assert list(json.loads((root / "run/manifest.json").read_text())["benchmarks"]) == ["toy", "toy2"]
