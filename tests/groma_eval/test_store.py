"""The store keeps what it was given, drops torn lines, and merges in the samples' order."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import ImageAnswer, Prediction, Question, Sample, SampleScore
from groma_eval.store import BenchmarkStore, make_record, predictions_of, regions_of, rounded

BOX = (1 / 3, 0.25, 2 / 3, 0.75)


def _record(name, text="red"):
    prediction = Prediction(f"{name}-q", raw=f"<r1> {text}", text=text, boxes=[BOX], confidences=[0.123456789])
    return make_record(ImageAnswer(name, [prediction], [BOX], [0.5]), "hash")


def _samples(names):
    return [Sample(n, None, 10, 20, (Question(f"{n}-q", "ground_one", target={"boxes": [BOX]}),)) for n in names]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_is_idempotent_and_close(value):
    once = rounded(value)
    assert rounded(once) == once
    assert abs(once - value) <= max(5e-7, abs(value) * 1e-15) * 1.001
    assert str(rounded(-0.0)) == "0.0"


def test_parts_survive_a_torn_line(tmp_path):
    store = BenchmarkStore(tmp_path / "b")
    store.append([_record("x"), _record("y")])
    store.close()
    part = tmp_path / "b/parts/00000.jsonl"
    part.write_text(part.read_text()[:-7])  # killed while writing
    again = BenchmarkStore(tmp_path / "b")
    assert list(again.load()) == ["x"]
    again.append([_record("y", "blue")])
    again.close()
    loaded = BenchmarkStore(tmp_path / "b").load()
    assert loaded == {"x": _record("x"), "y": _record("y", "blue")}


def test_merge_order_and_round_trip(tmp_path):
    store = BenchmarkStore(tmp_path / "b")
    records = {name: _record(name) for name in "yx"}
    store.append(records.values())
    samples = _samples("xyz")  # z was never answered
    store.finish(samples, records, {"x-q": SampleScore("x-q", {"iou": 1 / 3})})
    assert store.finished()
    rows = [json.loads(line) for line in (tmp_path / "b/samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["x-q", "y-q", "z-q"]
    assert [row["status"] for row in rows] == ["ok", "ok", "missing"]
    assert rows[0]["scores"] == {"iou": 0.333333}
    assert list(rows[0]) == [
        "id", "image_id", "kind", "text", "box", "group", "prompt", "raw", "answer", "boxes", "confidences", "phrases",
        "target", "scores", "status", "error",
    ]  # fmt: skip
    loaded = store.load()
    assert {name: loaded[name] for name in "xy"} == records
    prediction = predictions_of(loaded.values())["x-q"]
    assert (prediction.raw, prediction.confidences) == ("<r1> red", [0.123457])
    assert regions_of(loaded.values())["x"].boxes[0] == [0.333333333333, 0.25, 0.666666666667, 0.75]
    read_back = store.samples()
    assert [s.image_id for s in read_back] == ["x", "y", "z"]
    assert tuple(read_back[0].questions[0].target["boxes"][0]) == BOX  # ground truth is kept exactly
