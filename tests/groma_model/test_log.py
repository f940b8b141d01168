"""What a run writes about itself: speed in log.csv and finished.json, and TensorBoard's files."""

from __future__ import annotations

import csv
import json
import sys

import pytest
from training_data import TASKS, align, draw, fresh

from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.training.log import RunLog, Speed
from groma_model.training.loop import train
from groma_model.training.recipe import Recipe


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_speed_by_hand():
    speed = Speed(3 * 10**12, 12.0, step=1, seconds=10.0)
    assert speed.since_last(1, 11.0) == {}  # no step since
    assert speed.since_last(3, 12.0) == {"tflops": 6.0, "mfu": 0.5}
    assert speed.since_last(4, 13.0) == {"tflops": 3.0, "mfu": 0.25}
    assert speed.overall(4, 13.0) == {"step_tflop": 3.0, "tflops": 3.0, "mfu": 0.25}
    assert Speed(3 * 10**12, None, 1, 10.0).overall(3, 16.0) == {"step_tflop": 3.0, "tflops": 1.0}


def test_the_log_states_the_speed(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in range(40):
        log.add(step, 2.0 * step, 0.1, {"loss": 1.0})
        if step == 21:
            log.speed = Speed(10**12, 5.0, 22, 42.0)
    first, second = rows_of(tmp_path)
    assert (first["tflops"], first["mfu"]) == ("", "")
    assert (second["step"], second["tflops"], second["mfu"]) == ("40", "0.5", "0.1")


def test_a_run_states_its_speed(tmp_path):
    draw(tmp_path / "data")
    images = read_training_images(tmp_path / "data", "train", TEMPLATES["brief"], TASKS)
    train(*fresh(), images, align(steps=2), tmp_path / "run", progress=False, peak_tflops=1e-3)
    finished = json.loads((tmp_path / "run" / "finished.json").read_text())
    assert finished["step_tflop"] > 1e-3
    assert finished["mfu"] == pytest.approx(finished["tflops"] / 1e-3, abs=0.02)


def test_without_tensorboard_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        RunLog(tmp_path, 0, "tensorboard")
    assert str(caught.value) == (
        "logging: tensorboard needs the package tensorboard: pip install 'groma-eval[tensorboard]'"
    )


def test_other_logging_is_refused():
    with pytest.raises(ValueError, match="logging is 'wandb'; it must be one of csv, tensorboard"):
        Recipe(stage="align", steps=1, batch_size=1, lr=1.0, trainable=("llm",), logging="wandb")


def test_tensorboard_shows_what_the_files_hold(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def go(start: int, stop: int) -> None:
        log = RunLog(tmp_path, start, "tensorboard")
        for step in range(start, stop):
            log.add(step, float(step), 0.1, {"loss": float(step + start)})
        log.metrics(stop, 1.0, {"shapes-rec-val/acc@0.5": 0.5 + start})
        log.close()

    go(0, 60)
    go(20, 60)  # killed after its save at 20, and continued
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = {e.step: e.value for e in events.Scalars("train/loss")}
    assert points == pytest.approx({int(row["step"]): float(row["loss"]) for row in rows_of(tmp_path)})
    assert [e.step for e in events.Scalars("train/loss")] == [20, 40, 60]
    assert [(e.step, e.value) for e in events.Scalars("held-out/shapes-rec-val/acc@0.5")] == [(60, 20.5)]
    assert "train/lr" in events.Tags()["scalars"]
