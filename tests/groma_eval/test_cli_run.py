"""``groma-eval run --judge``: answers made elsewhere, judged when the run is done."""

from __future__ import annotations

import io
import json

import pytest
from judge_stub import KEY, Stub, write_bench

from groma_eval.cli.evaluate import main


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("GROMA_BENCHMARKS", raising=False)
    write_bench(tmp_path)
    rows = [{"id": i, "text": f"answer {i}"} for i in range(12)]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def stub():
    started = Stub()
    yield started
    started.close()


def _run(*more):
    arguments = [
        "run",
        "--model",
        "predictions:bench.jsonl,benchmark=bench",
        "--benchmarks",
        "card.yaml",
        "--out",
        "run",
    ]
    return main([*arguments, "--data-root", ".", "--no-progress", *more])


def test_a_run_is_judged_when_it_is_done(root, stub, capsys):
    more = ["--judge", "a-judge", "--judge-base-url", stub.url, "--judge-temperature", "0.5", "--yes"]
    assert _run(*more) == 0
    assert len(stub.bodies) == 12
    assert {(body["model"], body["temperature"]) for body in stub.bodies} == {("a-judge", 0.5)}
    score = json.loads((root / "run/metrics.json").read_text())["bench"]["metrics"]["score/overall"]
    assert score > 0
    shown = capsys.readouterr().out
    assert "12 questions to judge" in shown
    assert f"score/overall           {score:8.2f}" in shown
    assert KEY not in shown + (root / "run/manifest.json").read_text()
    assert _run(*more) == 0  # nothing is asked twice
    assert len(stub.bodies) == 12


def test_without_a_judge_the_score_waits(root, capsys):
    assert _run() == 0
    assert json.loads((root / "run/metrics.json").read_text())["bench"]["metrics"]["score/overall"] is None
    assert f"score/overall           {'–':>8}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judge", "m"], "no terminal to ask at; repeat with --yes"),
        (["--judge", "m", "--yes", "--judge-base-url", "nowhere"], "must be like https://HOST/v1"),
        (["--judge", "m", "--yes", "--judge-api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--judge", "m", "--yes", "--judge-concurrency", "0"], "concurrency 0: must be at least 1"),
        (["--judge", "m", "--yes", "--benchmarks", "shapes-rec"], "--judge m: no judge scores any of shapes-rec"),
    ],
)
def test_a_judge_that_cannot_start_is_told_before_the_run(root, capsys, monkeypatch, more, message):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert _run(*more) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (root / "run").exists()
