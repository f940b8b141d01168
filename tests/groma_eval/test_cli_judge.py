"""``groma-eval judge``: the estimate and consent, what is printed, exit codes, and one line for bad calls."""

from __future__ import annotations

import argparse
import json

import pytest
from judge_stub import KEY, Stub, fair, make_run, write_bench

from groma_eval.cli import judge
from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError


@pytest.fixture
def stub():
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    write_bench(tmp_path)
    return make_run(tmp_path)


def call(folder, stub, *words: str) -> int:
    parser = argparse.ArgumentParser()
    judge.add_arguments(parser)
    args = parser.parse_args([str(folder), "--base-url", stub.url, "--no-progress", *words])
    return judge.run(args)


def test_judging_prints_the_estimate_and_the_scores(folder, stub, capsys):
    assert call(folder, stub, "--yes") == 0
    shown, errors = capsys.readouterr()
    assert f"judge gpt-4-0613 at {stub.url}: 12 questions to judge, about" in shown.split("\n")[0]
    assert "$" in shown.split("\n")[0]
    score = json.loads((folder / "metrics.json").read_text())["bench"]["metrics"]["score/overall"]
    assert f"{score:.2f}" in shown
    assert KEY not in shown + errors
    assert call(folder, stub) == 0  # nothing to ask, so no consent
    assert "nothing to ask: 12 reviews are there" in capsys.readouterr().out
    assert stub.asked.total() == 12


def test_without_a_terminal_it_needs_yes(folder, stub):
    with pytest.raises(HarnessError, match="repeat with --yes"):
        call(folder, stub)
    assert not stub.asked


@pytest.mark.parametrize(("reply", "asked"), [("n", 0), ("", 0), ("y", 12), ("Yes", 12)])
def test_at_a_terminal_it_asks(folder, stub, monkeypatch, reply, asked):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: reply)
    assert call(folder, stub) == int(not asked)
    assert stub.asked.total() == asked


def test_the_end_of_the_input_is_no_consent(folder, stub, monkeypatch):
    def end(prompt):
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", end)
    assert call(folder, stub) == 1
    assert not stub.asked


def test_bad_calls_are_one_line_and_exit_2(folder, stub, monkeypatch, capsys):
    words = ["judge", str(folder), "--base-url", stub.url, "--no-progress"]
    monkeypatch.setenv("OPENAI_API_KEY", "")
    for more, message in (
        (["--yes"], "OPENAI_API_KEY is not set"),
        (["--yes", "--api-key-env", "STUB_KEY", "--base-url", "http://127.0.0.1:9/v1"], "connection refused"),
        (["--api-key-env", "STUB_KEY"], "repeat with --yes"),
        (["--benchmarks", "nope"], "'nope' is not in it"),
        (["--asks", "0"], "--asks 0: must be at least 1"),
        (["--base-url", "nowhere"], "--base-url nowhere: must be like"),
    ):
        monkeypatch.setenv("STUB_KEY", KEY)
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not stub.asked


def test_an_incomplete_judging_exits_1(folder, stub, capsys):
    stub.reply = lambda content, times: "?" if "reference 3\n" in content else fair(content)
    assert call(folder, stub, "--yes", "--asks", "2") == 1
    assert "1 questions have no usable review" in capsys.readouterr().err


def test_no_key_and_a_wrong_address(folder, stub, monkeypatch):
    stub.close()
    with pytest.raises(HarnessError, match="connection refused"):
        call(folder, stub, "--yes")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(HarnessError, match="OPENAI_API_KEY is not set"):
        call(folder, stub, "--yes")
    with pytest.raises(HarnessError, match="JUDGE_KEY is not set"):
        call(folder, stub, "--yes", "--api-key-env", "JUDGE_KEY")
    with pytest.raises(HarnessError, match="must be like"):
        call(folder, stub, "--yes", "--base-url", "localhost:8000")


def test_settings_reach_the_judge(folder, stub):
    words = ["--judge", "mine", "--temperature", "0", "--max-tokens", "300", "--concurrency", "2", "--timeout", "9"]
    words += ["--retries", "1", "--asks", "2", "--price", "1", "2", "--benchmarks", "bench", "--yes"]
    assert call(folder, stub, *words) == 0
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in stub.bodies} == {("mine", 0.0, 300)}
    assert stub.most_at_once <= 2


def test_import(folder, stub, tmp_path, capsys):
    rows = [{"question_id": i, "tuple": [8, 4]} for i in range(12)]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(HarnessError, match="needs --judge"):
        call(folder, stub, "--import-reviews", str(path))
    assert call(folder, stub, "--import-reviews", str(path), "--judge", "gpt-4-0613") == 0
    assert "50.00" in capsys.readouterr().out
    assert not stub.asked
