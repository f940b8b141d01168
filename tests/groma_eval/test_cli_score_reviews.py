"""``groma-eval score reviews``: the published summaries, what is left out, bad files."""

from __future__ import annotations

import json
import re

import pytest

from groma_eval.cli.evaluate import main


def test_the_published_summaries(shared, tmp_path, capsys):
    folder = shared / "data/llava_bench/reviews_in_the_wild"
    paths = [str(folder / f"llava-v1.5-13b-eval{i}.jsonl") for i in (1, 2, 3)]
    assert main(["score", "reviews", *paths, "--json", str(tmp_path / "out/r.json")]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^ +all +(\S+) +(\S+) +(\S+)", shown, re.MULTILINE) == [
        ("72.8", "86.5", "63.0"),
        ("72.7", "86.5", "62.9"),
        ("72.1", "86.8", "62.6"),
    ]
    written = json.loads((tmp_path / "out/r.json").read_text())
    assert [written["metrics"][f"{path}:all"] for path in paths] == [72.8, 72.7, 72.1]
    assert written["per_item"][paths[0]][1] == {"question_id": "1", "scores": [9.0, 6.5]}
    assert main(["score", "reviews", paths[1], "--json", str(tmp_path / "r.json")]) == 0
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert (metrics["all"], metrics["all/reference"], metrics["all/model"]) == (72.7, 86.5, 62.9)
    assert metrics["llava_bench_conv"] == 74.7


def test_unread_and_repeated_reviews_are_told(tmp_path, capsys):
    rows = [{"question_id": i, "category": "conv", "tuple": [8, 6]} for i in (1, 2, 2)]
    rows += [{"question_id": 3, "category": "conv", "tuple": [-1, -1]}, {"question_id": 4, "category": "detail"}]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", "reviews", str(path), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "2 of 5 reviews could not be read and are left out" in shown
    assert "1 questions are reviewed more than once ('2')" in shown
    metrics = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert (metrics["all"], metrics["all/reviews"], metrics["all/unread"]) == (75.0, 3, 2)
    assert metrics["detail"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ('{"question_id": 1, "tuple": [1]}\n', "line 1: field 'tuple' must be two numbers")],
)
def test_bad_files(tmp_path, capsys, content, message):
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    assert main(["score", "reviews", str(path), "--json", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
    assert main(["score", "reviews", str(tmp_path / "none.jsonl")]) == 2
