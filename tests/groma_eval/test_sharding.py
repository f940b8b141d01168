"""Several processes answer what one would, and a process that dies leaves a gap, never a wrong result."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark

from groma_eval import evaluate
from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError, Prediction
from groma_eval.launching import _end, _wait
from groma_eval.run import rescore
from groma_eval.sharding import LocalStore, World, join

STORED = ("metrics.json", "toy/samples.jsonl", "toy/images.jsonl")
IMAGES = 23
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    write_benchmark(tmp_path, rec_rows(images=IMAGES), pictures=False)
    return tmp_path


def _run(root, model, out="run", batch_size=2, **options):
    return evaluate(model, root / "cards/card.yaml", out=root / out, data_root=root, progress=False,
                    batch_size=batch_size, **options)  # fmt: skip


def _bytes(root, out):
    return [(root / out / name).read_bytes() for name in STORED]


def _model(delay=0.0):
    def reply(question, sample):
        time.sleep(delay)
        exact = truth(question, sample)
        boxes = exact.boxes if int(question.id) % 3 else [(0.1, 0.1, 0.2, 1 / 3)]
        return Prediction(question.id, raw="<r1>", boxes=boxes, confidences=[1 / 7])

    model = Fake(reply)
    model.proposals = lambda sample: [(0.1, 0.1, 0.2, 1 / 3), (0.0, 0.0, 1.0, 1.0)]
    return model


def _together(root, size, out, store=None, **options):
    """``size`` ranks as threads: their models and results, rank by rank."""
    store, models = store or LocalStore(), [_model(0.002) for _ in range(size)]

    def rank(number):
        return _run(root, models[number], out, world=World(number, size, store, patience=5), **options)

    with ThreadPoolExecutor(size) as pool:
        return models, list(pool.map(rank, range(size)))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_processes_stores_the_same_bytes(root, size):
    whole = _run(root, _model(), "whole")
    models, results = _together(root, size, "run")
    assert _bytes(root, "run") == _bytes(root, "whole")
    assert results[0].metrics == whole.metrics
    assert all(result.metrics == {} for result in results[1:])
    asked = [image for model in models for image in model.asked]
    assert sorted(asked) == [f"pic_{i:03d}" for i in range(IMAGES)]  # each by one process alone
    assert not (root / "run/toy/parts").exists()
    assert json.loads((root / "run/manifest.json").read_text())["processes"] == size


@pytest.mark.parametrize("size", [2, 4])
def test_batches_by_tokens_are_shared_too(root, size):
    _run(root, _model(), "whole", batch_size="auto")
    models, _ = _together(root, size, "run", batch_size="auto")
    assert _bytes(root, "run") == _bytes(root, "whole")
    assert sorted(image for model in models for image in model.asked) == [f"pic_{i:03d}" for i in range(IMAGES)]


def _dies(root, out, size=2):
    """Rank 1 claims a block and is gone; rank 0 goes on alone. What rank 0 raised."""
    store = LocalStore()
    model = _model()
    lost = World(1, size, store)
    waited = threading.Thread(target=lambda: (lost.fetch("run"), next(lost.claims("toy", 99))), daemon=True)
    waited.start()
    reply = model.reply

    def wait(question, sample):
        waited.join()
        return reply(question, sample)

    model.reply = wait
    with pytest.raises(HarnessError) as raised:
        _run(root, model, out, world=World(0, size, store, patience=0.3))
    assert IMAGES - 2 <= len(model.asked) < IMAGES
    return str(raised.value)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_process_that_dies_leaves_a_gap_that_any_number_fills(root, size):
    said = _dies(root, "run")
    assert "1 of 2 processes stored nothing for 0 s" in said
    assert "not complete; repeat the command" in said
    assert not (root / "run/toy/samples.jsonl").exists()
    assert not (root / "run/metrics.json").exists()
    with pytest.raises(HarnessError, match=r"not finished|no finished run"):
        rescore(root / "run")
    models, _ = _together(root, size, "run")
    assert 0 < sum(len(model.asked) for model in models) <= 2  # the lost block alone
    _run(root, _model(), "whole")
    assert _bytes(root, "run") == _bytes(root, "whole")


def test_a_process_that_says_it_has_finished_is_not_believed(root, monkeypatch):
    monkeypatch.setattr(World, "wait_for_all", lambda self, name, progress: None)
    store = LocalStore()
    next(World(1, 2, store).claims("toy", 99))
    with pytest.raises(HarnessError, match=r"2 of 23 images were not stored.*not complete; repeat the command"):
        _run(root, _model(), world=World(0, 2, store))
    assert not (root / "run/toy/samples.jsonl").exists()


def test_an_error_in_one_process_ends_all_in_one_line(root):
    store = LocalStore()

    def rank(number):
        def reply(question, sample):
            time.sleep(0.01)
            if number == 1:
                return Prediction("other")
            return truth(question, sample)

        world = World(number, 2, store, patience=5)
        try:
            _run(root, Fake(reply), world=world)
        except HarnessError as error:
            return str(error), world.fail(str(error))

    with ThreadPoolExecutor(2) as pool:
        (first, _), (second, heard) = pool.map(rank, range(2))
    assert first == f"process 1 of 2: {second}"
    assert "answered unknown question 'other'" in second
    assert heard  # rank 0 tells it, so rank 1 keeps quiet


def test_processes_must_agree_on_what_is_run(root):
    store = LocalStore()

    def rank(number):
        try:
            _run(root, _model(), world=World(number, 2, store, patience=1), seed=number)
        except HarnessError as error:
            World(number, 2, store).fail(str(error))
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(rank, range(2)))
    assert "another model, other data or other settings" in said[1]
    assert said[0] == f"process 1 of 2: {said[1]}"


def test_only_rank_0_shows_a_bar_and_a_warning(root, capsys):
    class Small(Fake):
        def answer(self, samples, *args):
            if len(samples) > 1:
                raise MemoryError
            return super().answer(samples, *args)

    store = LocalStore()

    def rank(number):
        return evaluate(Small(_model(0.001).reply), root / "cards/card.yaml", out=root / "run", data_root=root,
                        batch_size="auto", world=World(number, 3, store, patience=5))  # fmt: skip

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(rank, range(3)))
    shown = capsys.readouterr().err
    assert shown.count("warning") == 1
    assert shown.count("\n") == 2  # the warning's line, and one bar's
    assert shown.count(f"{IMAGES}/{IMAGES}") == 1


def test_claims_are_each_given_once():
    store = LocalStore()
    worlds = [World(number, 8, store) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda world: list(world.claims("x", 500)), worlds))
    assert sorted(number for numbers in claimed for number in numbers) == list(range(500))


def test_the_device_follows_the_local_rank(monkeypatch):
    import torch

    world = World(5, 8, LocalStore(), local_rank=1, local_size=4)
    assert world.device(None, {}) is None  # no GPU here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (world.device(None, {}), world.device("cuda", {})) == ("cuda:1", "cuda:1")
    assert (world.device("cpu", {}), world.device("cuda:3", {})) == ("cpu", "cuda:3")
    assert world.device(None, {"device_map": "auto"}) is None
    assert World().device(None, {}) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR or MASTER_PORT is missing"),
        ({"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "missing or no number"),
    ],
)
def test_a_half_described_world(monkeypatch, capsys, root, variables, message):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HarnessError, match=message):
        join()
    arguments = ["run", "--model", "bound:center", "--benchmarks", str(root / "cards/card.yaml"), "--out", "o"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_processes_and_workers_are_counted(capsys, root):
    arguments = ["run", "--model", "bound:center", "--benchmarks", str(root / "cards/card.yaml"), "--out", "o"]
    arguments += ["--data-root", str(root)]
    assert main([*arguments, "--processes", "0"]) == 2
    assert main([*arguments, "--workers", "-1"]) == 2
    shown = capsys.readouterr().err
    assert shown.splitlines() == [
        "groma-eval: error: --processes 0: must be at least 1",
        "groma-eval: error: --workers -1: must be 0 or more",
    ]


def _started(*codes):
    """Processes that exit with these codes, are killed (None), or would go on for a minute (...)."""
    started = []
    for code in codes:
        seconds = 60 if code in (None, ...) else 0
        text = f"import sys, time; time.sleep({seconds}); sys.exit({code if seconds == 0 else 0})"
        started.append(subprocess.Popen([sys.executable, "-S", "-c", text]))
        if code is None:
            started[-1].kill()
    return started


@pytest.mark.parametrize(
    ("codes", "expected", "killed"),
    [((0, 0), 0, None), ((1, 0), 1, None), ((2, 2), 2, None), ((2, ...), 2, None), ((..., None), 2, 1),
     ((..., 0, None), 2, 2), ((None, ...), 2, 0)],
)  # fmt: skip
def test_the_launcher_waits_and_reports(capfd, codes, expected, killed):
    started = _started(*codes)
    try:
        assert _wait(started) == expected
    finally:
        _end(started)
    assert all(process.poll() is not None for process in started)
    shown = capfd.readouterr().err
    assert shown.count("\n") == (killed is not None)
    if killed is not None:
        assert f"process {killed} of {len(codes)} was killed (signal 9): the run is not complete; repeat" in shown


RANK = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_sharding import _model, _run
from groma_eval.core import HarnessError
from groma_eval.sharding import join
world = join()
world._patience = 3
try:
    result = _run(Path("."), _model({delay}), world=world)
except HarnessError as error:
    sys.exit(str(error))
"""


def _ranks(root, delay, size=2):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port)}  # fmt: skip
    command = [sys.executable, "-c", RANK.format(tests=str(Path(__file__).parent), delay=delay)]
    return [
        subprocess.Popen(command, cwd=root, env={**shared, "RANK": str(r)}, stderr=subprocess.PIPE, text=True)
        for r in range(size)
    ]


@pytest.mark.slow
def test_real_processes_meet_and_one_that_is_killed_is_missed(root):
    _run(root, _model(), "whole")
    processes = _ranks(root, 0.1)
    deadline = time.monotonic() + 240
    parts = root / "run/toy/parts"
    while len(list(parts.glob("*.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    said = processes[0].communicate(timeout=240)[1]
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "1 of 2 processes stored nothing for 3 s and are taken for dead" in said
    assert not (root / "run/toy/samples.jsonl").exists()
    assert [process.wait(240) for process in _ranks(root, 0.0)] == [0, 0]
    assert _bytes(root, "run") == _bytes(root, "whole")


@pytest.mark.slow
def test_the_bundled_model_gives_the_same_with_1_2_and_4_processes(tmp_path, monkeypatch):
    from groma_eval.benchmarks.shapes.prepare import prepare

    folder = prepare(tmp_path / "data", {"test": 8}, progress=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for processes in (1, 2, 4):
        code = main(
            ["run", "--model", "groma-tiny", "--benchmarks", "shapes-rec,shapes-ground,shapes-caption",
             "--out", str(tmp_path / str(processes)), "--data-root", str(tmp_path / "data"), "--batch-size", "2",
             "--annotations", str(folder / "annotations"), "--processes", str(processes), "--no-progress"]
        )  # fmt: skip
        assert code == 0
    files = ["metrics.json"] + [
        f"shapes-{task}/{name}.jsonl" for task in ("rec", "ground", "caption") for name in ("samples", "images")
    ]
    for name in files:
        first = (tmp_path / "1" / name).read_bytes()
        assert first
        assert all((tmp_path / n / name).read_bytes() == first for n in ("2", "4")), name
