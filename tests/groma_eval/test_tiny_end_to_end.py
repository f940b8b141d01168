"""The whole recipe of groma-tiny in small: data, three stages on two processes, export, evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from groma_eval.benchmarks.shapes.prepare import prepare

from groma_eval import evaluate
from groma_eval.cli.train import main

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_three_stages_make_a_model_that_the_harness_runs(tmp_path, monkeypatch, processes):
    folder = prepare(tmp_path / "data", {"train": 96, "val": 8, "test": 8}, progress=False)
    monkeypatch.setattr("groma_eval.benchmarks.shapes.prepare.DEFAULT_SPLITS", {"train": 96, "val": 8, "test": 8})
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for stage in ("detect", "align", "instruct"):
        recipe = yaml.safe_load((RECIPES / f"tiny-{stage}.yaml").read_text())
        changes = {"steps": 6, "batch_size": 4, "warmup": 2, "save_every": 3}
        changes |= {"preset": "nano"} if stage == "detect" else {}
        (recipes / f"tiny-{stage}.yaml").write_text(yaml.safe_dump(recipe | changes))
    run = tmp_path / "run"
    arguments = ["tiny", "--out", str(run), "--data", str(folder), "--recipes", str(recipes), "--no-evaluate"]
    assert main([*arguments, "--processes", str(processes)]) == 0
    assert set(json.loads((run / "seconds.json").read_text())) == {"detect", "align", "instruct"}
    # The test split is smaller than the card's, so its files are named: that skips the card's counts.
    result = evaluate(
        str(run / "groma-tiny"),
        "shapes",
        out=tmp_path / "eval",
        data_root=tmp_path / "data",
        annotations=folder / "annotations",
        limit=4,
        progress=False,
    )
    assert result.exit_code == 0
    assert {entry["counts"]["images"] for entry in result.metrics.values()} == {4}
