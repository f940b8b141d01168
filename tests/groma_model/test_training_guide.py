"""The guide "fine-tune on your own boxes", followed literally in an empty folder."""

from __future__ import annotations

import json
import re
import runpy
import shlex

import pytest
import torch
from conftest import ROOT

from groma_eval.cli import evaluate, train
from groma_eval.leakage import read_training_data

GUIDE = ROOT / "docs/finetune.md"
PROGRAMS = {"groma-eval": evaluate.main, "groma-train": train.main}


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    for name in ("GROMA_BENCHMARKS", "GROMA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_guide_works_as_written(fresh, capsys):
    codes = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        if language in ("python", "yaml"):
            (fresh / re.match(r"# (\S+)\n", text).group(1)).write_text(text)
            continue
        assert language == "bash"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
            else:
                codes.append(PROGRAMS[program](arguments))
    assert codes == [0] * 5
    printed = capsys.readouterr().out
    assert "rec:train.json: 120 samples, 120 an epoch, 40 pictures (toys)" in printed
    score = {
        name: json.loads((fresh / f"runs/eval-{name}/metrics.json").read_text())["shapes-rec-val"]["metrics"]["acc@0.5"]
        for name in ("base", "toys")
    }
    assert score["base"] < 60
    assert score["toys"] > score["base"] + 30
    assert read_training_data(fresh / "runs/toys").sets == {"shapes": {"train"}, "toys": {"all"}}
    table = printed[printed.index("Referring expression") :]
    assert re.search(r"^  groma-tiny .*\n  runs/toys ", table, re.MULTILINE)
