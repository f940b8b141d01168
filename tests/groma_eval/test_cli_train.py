from __future__ import annotations

import pytest
from PIL import Image

from groma_eval.cli.train import main


def test_bad_calls_are_one_line_and_exit_2(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stage: align\nsteps: 1\nbatch_size: 2\nlr: 1\ntrainable: [llm]\n")
    calls = [
        (["detect", "--recipe", str(tmp_path / "no.yaml")], "no.yaml is missing"),
        (["detect", "--recipe", str(recipe)], "is a recipe of stage 'align', not 'detect'"),
        (["align", "--recipe", str(recipe), "--init", str(tmp_path / "none")], "neither a folder nor bundled"),
        (["align", "--recipe", str(recipe), "--data", str(tmp_path)], "instances_train.json is missing"),
    ]
    for arguments, message in calls:
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_curves_are_drawn_from_the_logs(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["curves", str(tmp_path), "--save", str(tmp_path / "c.png")]) == 2
    assert "holds no training logs" in capsys.readouterr().err
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "log.csv").write_text(
        "step,seconds,lr,loss,acc_words\n20,1.0,1e-3,3.0,0.1\n40,2.0,1e-3,2.0,0.4\n"
    )
    assert main(["curves", str(tmp_path), "--save", str(tmp_path / "c.png")]) == 0
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 200
