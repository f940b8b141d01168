"""``make-instruct`` end to end against an endpoint that also misbehaves: nothing is asked twice, the file trains."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from instruct_stub import (
    BOXES,
    KEY,
    SIZE,
    Stub,
    good,
    picture,
    sent_picture,
    training_samples,
    write_coco,
    write_visual_genome,
)
from small import small_groma

from groma_eval.cli import make_instruct, make_instruct_calls
from groma_eval.core import HarnessError
from groma_eval.judge import JudgeSettings
from groma_eval.judge.journal import Journal
from groma_model.grounded_text import parse
from groma_model.training.recipe import Recipe
from groma_model.training.stages import LanguageStage, set_trainable

BAD = "User: What?\nAssistant: [A thing](44)."


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Waits between tries are the client's; here they are short.
    usual = JudgeSettings

    def quick(**given):
        return usual(**given, backoff_s=0.01)

    monkeypatch.setattr(make_instruct, "JudgeSettings", quick)
    write_visual_genome(tmp_path)
    return tmp_path


@pytest.fixture
def serve():
    stubs = []

    def start(reply=None) -> Stub:
        stubs.append(Stub(reply))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()


def command(root: Path, stub: Stub, *more: str, out: str = "out", source: tuple[str, ...] | None = None) -> int:
    parser = argparse.ArgumentParser()
    make_instruct.add_arguments(parser)
    source = source or ("--visual-genome", str(root / "vg"))
    usual = ["--images", str(root / "images"), "--out", str(root / out), "--base-url", stub.url, "--timeout", "5"]
    return make_instruct.run(parser.parse_args([*source, *usual, "--no-progress", "--yes", *more]))


def load(root: Path, name: str = "groma_instruct.json", out: str = "out"):
    return json.loads((root / out / name).read_text())


def test_end_to_end(root, serve, capsys):
    stub = serve()
    assert command(root, stub) == 0
    rows = load(root)
    assert len(rows) == 6
    assert stub.asked.total() == 6
    assert stub.most_at_once <= 4
    report = load(root, "report.json")
    assert report["pictures"] == {
        "looked_at": 6,
        "too_few_regions": 0,
        "missing": 0,
        "chosen": 6,
        "accepted": 6,
        "rejected": {},
    }
    assert report["spent"] == {"prompt_tokens": 6000, "completion_tokens": 300, "replies": 6}
    shown = capsys.readouterr()
    assert "6 pictures to ask about, about" in shown.out
    assert "$0." in shown.out
    assert "6 conversations of 6 pictures\n" in shown.out
    assert KEY not in shown.out + shown.err + "".join(p.read_text() for p in (root / "out").iterdir())
    assert sorted(p.name for p in (root / "out").iterdir()) == [
        "calls.jsonl",
        "groma_instruct.json",
        "rejects.jsonl",
        "report.json",
    ]
    # The picture that was sent is the file's with markers on it.
    body = stub.bodies[0]
    number = int(re.search(r"picture (\d+)", body["messages"][-1]["content"][1]["text"])[1])
    plain = np.asarray(picture(number).resize((512, 384))).astype(int)
    sent = np.asarray(sent_picture(body)).astype(int)
    assert sent.shape == (384, 512, 3)
    different = np.abs(sent - plain).max(-1) > 60
    assert 0.01 < different.mean() < 0.3
    x, y, w, h = (round(3.2 * value) for value in BOXES[3])
    assert different[y : y + 4, x : x + w].mean() > 0.5  # an outline
    assert different[y + h // 2 - 8 : y + h // 2 + 8, x + w // 2 - 8 : x + w // 2 + 8].mean() > 0.3  # a number
    assert body["messages"][-1]["content"][1]["text"].startswith("Regions:\n1: ")
    assert (body["temperature"], body["max_tokens"]) == (0.7, 1500)


def test_the_file_is_read_into_turns_whose_spans_are_the_marked_boxes(root, serve):
    stub = serve()
    assert command(root, stub) == 0
    samples = training_samples(root / "out/groma_instruct.json", root / "images")
    assert len(samples) == 6
    for sample in samples:
        assert sample.path.is_file()
        ((what, many),) = sample.dialogues["instruct"]
        assert what.question.startswith("[grounding]What is on picture")
        for turn, phrases in ((what, [("a thing", [0]), ("another", [1])]), (many, [("All of them", range(5))])):
            raw, answer = "", turn.answer
            for i, piece in enumerate(answer.split("<ground_box>")):
                raw += (f"<r{i - 1}>" if i else "") + piece
            grounded = parse(raw, turn.ground_boxes)
            order = sorted(BOXES)
            expected = [(phrase, [order[i] for i in inds]) for phrase, inds in phrases]
            found = [(span.phrase, span.boxes) for span in grounded.spans]
            assert [phrase for phrase, _ in found] == [phrase for phrase, _ in expected]
            for (_, boxes), (_, pixels) in zip(found, expected):
                for box, (x, y, w, h) in zip(boxes, pixels, strict=True):
                    corners = (x / SIZE[0], y / SIZE[1], (x + w) / SIZE[0], (y + h) / SIZE[1])
                    assert box == pytest.approx(corners, abs=1e-7)


def test_the_file_trains(root, serve):
    """Loss on the file's answers alone falls by half in a few steps of the language stage."""
    assert command(root, serve(), "--limit", "2") == 0
    samples = training_samples(root / "out/groma_instruct.json", root / "images")
    groma = small_groma()
    modules = ("projector", "region_encoder", "llm", "new_token_embeddings", "new_token_head", "pointer")
    recipe = Recipe("instruct", steps=40, batch_size=2, lr=3e-3, trainable=modules, tasks={"instruct": 1})
    set_trainable(groma.model, recipe.trainable)
    stage = LanguageStage(groma.model, groma.processor, recipe)
    optimizer = torch.optim.AdamW([p for p in groma.model.parameters() if p.requires_grad], lr=recipe.lr)
    losses = []
    for _ in range(recipe.steps):
        loss = stage(stage.collate(samples, random.Random(0)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] / 2


def test_a_repeat_asks_nothing_and_writes_the_same(root, serve, capsys):
    stub = serve()
    command(root, stub)
    before = {p.name: p.read_bytes() for p in (root / "out").iterdir()}
    assert command(root, stub) == 0
    assert stub.asked.total() == 6
    assert "nothing to ask: 6 pictures have their outcome" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (root / "out").iterdir()} == before
    command(root, stub, "--temperature", "0.1", "--limit", "2")  # another question
    assert stub.asked.total() == 8


def test_only_what_changed_is_asked_again(root, serve):
    stub = serve()
    command(root, stub, "--limit", "3")
    assert stub.asked.total() == 3
    first = load(root)
    command(root, stub)
    assert stub.asked.total() == 6
    assert load(root)[:3] == first
    picture(99).save(root / "images/VG_100K/5.jpg")
    command(root, stub)
    assert stub.asked["picture 5"] == 2
    assert stub.asked.total() == 7


def test_rejects_are_asked_again_and_reported(root, serve, capsys):
    def reply(name, count, times):
        if name == "picture 2":
            return "I cannot help with that." if times else BAD
        return BAD if name == "picture 4" and not times else good(name, count)

    stub = serve(reply)
    assert command(root, stub) == 0
    assert stub.asked == {f"picture {n}": 2 if n in (2, 4) else 1 for n in range(1, 7)}
    assert {row["image_id"] for row in load(root)} == {"1", "3", "4", "5", "6"}
    report = load(root, "report.json")
    assert report["pictures"]["rejected"] == {"no_turns": 1}
    assert report["replies_rejected"] == {"no_turns": 1, "unknown_marker": 2}
    assert report["spent"]["replies"] == 8
    (line,) = (root / "out/rejects.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["image_id"], row["reason"], row["reply"]) == ("2", "no_turns", "I cannot help with that.")
    assert "5 conversations of 6 pictures; rejected: 1 no_turns" in capsys.readouterr().out
    command(root, stub)  # what was rejected for good is not asked again
    assert stub.asked.total() == 8
    assert command(root, stub, "--asks", "3") == 0  # but once more where more is allowed
    assert stub.asked["picture 2"] == 3


def test_an_endpoint_that_misbehaves(root, serve):
    trouble = [
        (429, {"Retry-After": "0.01"}, '{"error": {"message": "slow down"}}'),
        (500, {}, "oops"),
        (200, {}, "{]"),
        (200, {}, '{"choices": []}'),
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf",
        b"junk\r\n\r\n",
        (503, {}, ""),
    ]
    order = itertools.cycle(range(len(trouble)))

    def reply(name, count, times):
        if times == 0 or (times == 1 and name == "picture 3"):
            return trouble[next(order)]
        if name == "picture 1" and times == 1:
            return 1.5  # longer than the timeout
        return good(name, count)

    stub = serve(reply)
    assert command(root, stub, "--timeout", "1") == 0
    clean = serve()
    assert command(root, clean, out="clean") == 0
    for name in ("groma_instruct.json", "report.json", "rejects.jsonl"):
        assert (root / "out" / name).read_bytes() == (root / "clean" / name).read_bytes()
    assert set(stub.told.values()) == {1}


def test_failed_requests_are_asked_by_a_repeat(root, serve, capsys):
    down = {"picture 3"}
    stub = serve(lambda name, count, times: (400, {}, '{"error": "no"}') if name in down else good(name, count))
    assert command(root, stub, "--retries", "0") == 1
    assert len(load(root)) == 5
    assert load(root, "report.json")["pictures"]["rejected"] == {"request_failed": 1}
    assert "requests for 1 pictures failed; a repeat asks them again" in capsys.readouterr().err
    down.clear()
    assert command(root, stub) == 0
    assert len(load(root)) == 6
    assert stub.asked.total() == 7


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}})), r"the vision-language model at .*HTTP 401"),
        ((404, {}, ""), "no such address or model"),
        ((429, {}, '{"error": {"code": "insufficient_quota"}}'), "no credit left"),
        ((500, {}, ""), "what was answered is kept"),
    ],
)
def test_an_endpoint_that_refuses(root, serve, answer, message):
    stub = serve(lambda name, count, times: answer)
    with pytest.raises(HarnessError, match=message) as caught:
        command(root, stub, "--retries", "0", "--concurrency", "1")
    assert KEY not in str(caught.value)
    assert stub.asked.total() <= 5
    assert not (root / "out/groma_instruct.json").exists()


def test_pictures_that_cannot_be_used_are_not_asked_about(root, serve):
    (root / "images/VG_100K/1.jpg").write_bytes(b"no picture")
    picture(3).resize((80, 60)).save(root / "images/VG_100K/3.jpg")
    whole = (root / "images/VG_100K/5.jpg").read_bytes()
    (root / "images/VG_100K/5.jpg").write_bytes(whole[: len(whole) // 2])
    stub = serve()
    assert command(root, stub) == 0
    assert load(root, "report.json")["pictures"]["rejected"] == {"other_size": 1, "unreadable_picture": 2}
    assert set(stub.asked) == {"picture 2", "picture 4", "picture 6"}


def test_coco(root, serve):
    (root / "coco").mkdir()
    instances, captions = write_coco(root / "coco")
    stub = serve()
    source = ("--coco", str(instances), "--captions", str(captions))
    assert command(root, stub, "--images", str(root / "coco/images"), source=source) == 0
    rows = load(root)
    assert [row["coco_id"] for row in rows] == [int(row["image_id"]) for row in rows]
    assert len(rows) == 3
    text = stub.bodies[0]["messages"][-1]["content"][1]["text"]
    assert sorted(line[3:] for line in text.splitlines() if line[0].isdigit()) == sorted(
        ["red square", "blue disc", "green bar", "grey box", "white tile"]
    )
    assert "Captions:\n- picture" in text


def test_cost_comes_first(root, serve, monkeypatch, capsys):
    stub = serve()
    parser = argparse.ArgumentParser()
    make_instruct.add_arguments(parser)
    usual = ["--visual-genome", str(root / "vg"), "--images", str(root / "images"), "--out", str(root / "out")]
    args = parser.parse_args([*usual, "--base-url", stub.url, "--no-progress", "--price", "1000", "2000"])
    with pytest.raises(HarnessError, match="repeat with --yes"):
        make_instruct.run(args)
    shown = capsys.readouterr().out
    tokens = int(shown.split("about, about ")[1].split()[0])
    assert f"about ${(tokens * 1000 + 6 * 350 * 2000) / 1e6:.2f}" in shown
    assert f"at most ${(tokens * 1000 + 6 * 1500 * 2000) / 1e6:.2f}" in shown
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for typed, code, asked in (("n", 1, 0), ("y", 0, 6)):
        monkeypatch.setattr("builtins.input", lambda _, typed=typed: typed)
        assert make_instruct.run(args) == code
        assert stub.asked.total() == asked


def test_tokens_of_a_picture_by_tiles():
    """1024 x 768 are 2 x 2 tiles; 1024 x 1024 is brought to 768 x 768; a small picture is one tile."""

    def tokens(width, height, model="gpt-4o"):
        return make_instruct_calls._picture_tokens(argparse.Namespace(width=width, height=height), model)

    assert tokens(1024, 768) == 85 + 4 * 170
    assert tokens(4000, 4000) == 85 + 4 * 170
    assert tokens(500, 375) == 85 + 170
    assert tokens(500, 375, "gpt-4o-mini") == 2833 + 5667


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "0"], "--limit 0"),
        (["--regions", "5", "3"], "lower limit first"),
        (["--regions", "9", "10"], "none of 6 pictures has 9 regions"),
        (["--max-iou", "0"], "max_iou"),
        (["--max-missing", "2"], "--max-missing 2"),
        (["--model", " "], "--model"),
        (["--images", "/nowhere"], "6 of 6 pictures have no file"),
        (["--captions", "/nowhere/captions.json"], "captions.json: no such annotation file"),
        (["--visual-genome", "/nowhere"], "image_data.json: no such annotation file"),
        (["--concurrency", "0"], "--concurrency 0"),
        (["--base-url", "ftp://x"], "--base-url"),
        (["--api-key-env", "NO_SUCH_KEY"], "no key for the vision-language model"),
        (["--out", "vg/image_data.json"], "no such folder can be made"),
    ],
)
def test_bad_calls(root, serve, more, message, monkeypatch):
    monkeypatch.chdir(root)
    stub = serve()
    with pytest.raises(HarnessError, match=message) as caught:
        command(root, stub, *more)
    assert "\n" not in str(caught.value)
    assert not stub.asked


def test_missing_pictures_stop_it_above_the_limit(root, serve, capsys):
    (root / "images/VG_100K/1.jpg").unlink()
    stub = serve()
    with pytest.raises(HarnessError, match="1 of 6 pictures have no file there"):
        command(root, stub)
    assert command(root, stub, "--max-missing", "0.2") == 0
    assert len(load(root)) == 5
    assert load(root, "report.json")["pictures"]["missing"] == 1
    assert "1 pictures have no file and are left out" in capsys.readouterr().err


def test_two_at_once_are_refused(root, serve):
    stub = serve()
    (root / "out").mkdir()
    journal = Journal(root / "out", "calls.jsonl")
    with pytest.raises(HarnessError, match="another process"):
        command(root, stub)
    journal.close()
    assert not stub.asked


KILLED = """
import argparse, sys
from groma_eval.cli import make_instruct
parser = argparse.ArgumentParser()
make_instruct.add_arguments(parser)
make_instruct.run(parser.parse_args(sys.argv[1:]))
"""


def test_killed_and_continued_asks_nothing_twice(root, serve):
    allowed, tickets, waiting = 2, itertools.count(1), []

    def reply(name, count, times):
        if next(tickets) <= allowed:
            return good(name, count)
        waiting.append(name)
        return 60

    stub = serve(reply)
    calls = root / "out/calls.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    arguments = ["--visual-genome", "vg", "--images", "images", "--out", "out", "--base-url", stub.url, "--yes"]
    for kill in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments, "--concurrency", "2"], cwd=root, env=environment
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            # Both threads wait for a reply that will not come.
            if len(waiting) == 2 * kill and calls.read_bytes().count(b"\n") >= allowed:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert calls.read_bytes().count(b"\n") == allowed == stub.told.total()
        assert not (root / "out/groma_instruct.json").exists()
        allowed, tickets = (4, itertools.count(3)) if kill == 1 else (100, itertools.count(1))
    with calls.open("ab") as file:
        file.write(b'{"key": "cut off whi')  # as a kill while writing leaves it
    assert command(root, stub) == 0
    assert stub.told == {f"picture {n}": 1 for n in range(1, 7)}
    assert command(root, serve(), out="clean") == 0
    for name in ("groma_instruct.json", "report.json", "rejects.jsonl"):
        assert (root / "out" / name).read_bytes() == (root / "clean" / name).read_bytes()
