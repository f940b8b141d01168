"""Runs that are killed at any moment and continued; the best checkpoint."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
import torch
from training_data import TASKS, align, draw, fork, fresh

from groma_model.checkpoints import load_checkpoint
from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.training.loop import train
from groma_model.training.state import load_state

RECIPE = align(steps=6, batch_size=2, save_every=1, evaluate_every=2, keep_best="score", draws="image", accumulate=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    return read_training_images(root, "train", TEMPLATES["brief"], TASKS)


def score(model, processor, step) -> dict[str, float]:
    """Highest at step 4."""
    return {"score": float(-abs(step - 4)), "weight": float(model.projector[0].weight.sum())}


def go(images, folder) -> None:
    train(*fresh(), images, RECIPE, folder, score, progress=False)


def files(folder) -> dict[str, bytes]:
    """What must not depend on the kills: weights, metrics, the state's tensors; times may differ."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        del row["seconds"]
    names = ("model.safetensors", "best/model.safetensors", "recipe.json")
    return {name: (folder / name).read_bytes() for name in names} | {"metrics": json.dumps(metrics).encode()}


def killed_at(images, folder, moments) -> int:
    """Kill the run so many seconds after each start, then let it end. Returns how many kills hit it."""
    hits = 0
    for moment in moments:
        child = fork(lambda: go(images, folder))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    child = fork(lambda: go(images, folder))
    assert os.waitpid(child, 0)[1] == 0
    return hits


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    child = fork(lambda: go(images, folder))
    assert os.waitpid(child, 0)[1] == 0
    return folder, time.monotonic() - began


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_continues_to_the_same_bytes(images, tmp_path, whole, kills):
    folder, seconds = whole
    rng = random.Random(kills)
    assert killed_at(images, tmp_path, [rng.uniform(0.1, 0.8) * seconds for _ in range(kills)]) > 0
    assert files(tmp_path) == files(folder)


def test_the_best_model_is_kept(whole):
    folder, _ = whole
    best, _ = load_checkpoint(folder / "best")
    rows = {row["step"]: row for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}
    assert list(rows) == [2, 4, 6]
    assert float(best.projector[0].weight.detach().sum()) == pytest.approx(rows[4]["weight"], abs=1e-6)
    assert rows[4]["weight"] != rows[6]["weight"]
    assert not list(folder.glob("*.new")) + list(folder.glob("*.old"))


def test_best_without_evaluation_and_unknown_metrics_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match="keep_best needs held-out evaluation"):
        train(*fresh(), images, RECIPE, tmp_path, progress=False)
    with pytest.raises(ValueError, match="no metric 'score'; it has other"):
        train(*fresh(), images, RECIPE, tmp_path, lambda *_: {"other": 1.0}, progress=False)


def test_a_state_of_several_processes_is_not_continued_with_one(tmp_path):
    torch.save({"sharded": True, "step": 1, "seconds": 0.0}, tmp_path / "state.pt")
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="is of a run with several processes"):
        load_state(tmp_path / "state.pt", layer, torch.optim.AdamW(layer.parameters()), False)
