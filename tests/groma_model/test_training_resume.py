"""Runs that are killed at any moment and continued; the best checkpoint."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

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


def killed(images, folder, kills, seconds, rng) -> list[Path]:
    """Kill runs at random moments until ``kills`` kills have hit one; returns the folders of the runs, all ended.

    A run that ended first is left as it is and another one begun. ``seconds``, what a run takes, is only where the
    moments are drawn from: it is halved after a run that no kill hit, so that a slow first measurement does no harm.
    """
    hits, ended = 0, []
    while hits < kills:
        run, before, alive = folder / str(len(ended)), hits, True
        while alive and hits < kills:
            child = fork(lambda run=run: go(images, run))
            time.sleep(rng.uniform(0.1, 0.8) * seconds)
            os.kill(child, signal.SIGKILL)
            alive = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            hits += alive
        if hits == before:
            seconds /= 2
        if alive:
            child = fork(lambda run=run: go(images, run))
            assert os.waitpid(child, 0)[1] == 0
        ended.append(run)
    return ended


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
    runs = killed(images, tmp_path, kills, seconds, random.Random(kills))
    assert [files(run) == files(folder) for run in runs] == [True] * len(runs)


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
