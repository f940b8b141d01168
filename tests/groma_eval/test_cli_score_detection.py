"""``groma-eval score detection`` on the reference files, and what it says of bad calls."""

from __future__ import annotations

import argparse
import json

import pytest

from groma_eval.cli import score_detection as command
from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError


def _run(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("reference", [[], ["--reference-metrics"]])
def test_lvis_figures_are_printed_and_written(shared, tmp_path, capsys, reference):
    folder = shared / "data" / "lvis"
    out = tmp_path / "out" / "scores.json"
    files = ["--references", folder / "lvis_val_100.json", "--predictions", folder / "detections_perturbed.json"]
    assert _run(*files, "--protocol", "lvis", "--json", out, *reference) == 0
    expected = json.loads((folder / "expected_detections_perturbed.json").read_text())
    written = json.loads(out.read_text())
    assert written["metrics"] == pytest.approx(expected, abs=1e-6)
    assert written["per_item"]
    printed = capsys.readouterr()
    lines = dict(line.split() for line in printed.out.splitlines())
    assert {name: float(value) for name, value in lines.items()} == pytest.approx(expected, abs=1e-6)
    assert printed.err == ""


@pytest.mark.parametrize("protocol", ["coco", "as-many"])
def test_coco_files_under_the_other_protocols(shared, tmp_path, capsys, protocol):
    folder = shared / "data" / "detection"
    out = tmp_path / "scores.json"
    truth = folder / "instances_val2014_100.json"
    found = folder / "instances_val2014_fakebbox100_results.json"
    assert _run("--references", truth, "--predictions", found, "--protocol", protocol, "--json", out) == 0
    metrics = json.loads(out.read_text())["metrics"]
    if protocol == "coco":
        assert metrics["AP"] == pytest.approx(0.50458, abs=5e-6)
    else:
        assert 0.3 < metrics["AR"] < 0.7
        assert metrics["ARr"] is None
        assert "ARr       –" in capsys.readouterr().out


def test_bad_files_end_with_one_line_and_nothing_written(shared, tmp_path, capsys):
    folder = shared / "data" / "lvis"
    found, out = tmp_path / "found.json", tmp_path / "scores.json"
    found.write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]')
    words = ["--references", folder / "lvis_val_100.json", "--predictions", found, "--protocol", "lvis", "--json", out]
    with pytest.raises(HarnessError, match="image_id 1 is not in the ground truth"):
        _run(*words)
    assert main(["score", "detection", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("groma-eval: error: ")
    assert error.count("\n") == 1
    assert not out.exists()
