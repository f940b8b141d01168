"""The store keeps what it was given, drops torn lines, and merges in the samples' order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError, ImageAnswer, Prediction, Question, Sample, SampleScore
from groma_eval.store import BenchmarkStore, make_record, predictions_of, regions_of, rounded, write_json

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


def test_parts_of_several_processes_are_one_store(tmp_path):
    stores = [BenchmarkStore(tmp_path / "b") for _ in range(3)]
    for number in range(4):
        for process, store in enumerate(stores):
            store.append([_record(f"{process}-{number}")])
    names = {f"{process}-{number}" for process in range(3) for number in range(4)}
    assert [len(list((tmp_path / "b/parts").glob("*.jsonl")))] == [3]
    for store in (*stores, BenchmarkStore(tmp_path / "b")):  # whether it wrote a part itself or reads it
        loaded = store.load()
        assert loaded == {name: _record(name) for name in names}
        assert set(loaded) == names
        assert "other" not in loaded
        store.close()


def test_records_are_read_when_asked_for_even_after_the_merge(tmp_path):
    store = BenchmarkStore(tmp_path / "b")
    bare = make_record(ImageAnswer("bare", [Prediction("bare-q")]), None)
    store.append([_record("x"), bare, _record("y")])
    parts, regions = store.load(), store.load().regions()
    assert set(regions) == {"x", "y"}
    assert (regions["y"].boxes, regions["y"].objectness) == ([list(rounded(BOX, 12))], [0.5])
    assert parts["x"] == _record("x")
    samples = _samples(["y", "bare", "x"])
    store.finish(samples, parts, {})
    assert parts["y"] == _record("y")  # its file was open
    merged = BenchmarkStore(tmp_path / "b").load()
    assert merged == {"x": _record("x"), "y": _record("y"), "bare": bare}
    assert list(merged) == ["y", "bare", "x"]
    assert set(merged.regions()) == {"x", "y"}
    merged.close()
    assert merged["x"] == _record("x")


def test_a_failed_write_leaves_the_part_as_it_was(tmp_path, monkeypatch):
    store = BenchmarkStore(tmp_path / "b")
    store.append([_record("x")])

    def refuse(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(HarnessError, match=r"parts: cannot be written \(No space left on device\); mend that"):
        store.append([_record("y"), _record("z")])
    with pytest.raises(HarnessError, match=r"new.json: cannot be written"):
        write_json(tmp_path / "new.json", {})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert set(BenchmarkStore(tmp_path / "b").load()) == {"x"}
    store.append([_record("z")])
    assert set(store.load()) == set(BenchmarkStore(tmp_path / "b").load()) == {"x", "z"}


def test_a_merge_that_fails_keeps_the_merged_files_of_before(tmp_path, monkeypatch):
    store = BenchmarkStore(tmp_path / "b")
    store.append([_record("x")])
    store.finish(_samples("x"), store.load(), {})
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    records = store.load()

    def refuse(number):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(HarnessError, match=r"samples.jsonl: cannot be written"):
        store.finish(_samples("x"), records, {"x-q": SampleScore("x-q", {"iou": 1.0})})
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


def test_a_line_that_is_no_json_is_told_with_its_place(tmp_path):
    store = BenchmarkStore(tmp_path / "b")
    store.append([_record("x")])
    store.close()
    part = tmp_path / "b/parts/00000.jsonl"
    part.write_text(part.read_text() + '{"image_id": \n' + part.read_text())
    with pytest.raises(HarnessError, match=r"00000.jsonl: line 2, column \d+: not JSON .*remove the file's folder"):
        BenchmarkStore(tmp_path / "b").load()
