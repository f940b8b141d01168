"""Ablations: what is shared, what is continued, what is tabulated."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import yaml

from groma_eval import ablation as module
from groma_eval.ablation import ablation_table, load_ablation, plan, run_ablation
from groma_eval.cli.train import main
from groma_eval.core import HarnessError

FIRST = {"stage": "detect", "preset": "nano", "overrides": {"num_queries": 48}, "steps": 4, "batch_size": 2, "lr": 1e-3,
         "trainable": ["vision_encoder", "proposer", "region_encoder"], "loss": {"source": "both"}}  # fmt: skip
SECOND = {"stage": "instruct", "steps": 3, "batch_size": 2, "lr": 1e-3, "trainable": ["llm"], "tasks": {"rec": 1}}


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "recipes" / "ablations"
    folder.mkdir(parents=True)
    for name, recipe in (("first", FIRST), ("second", SECOND)):
        (folder.parent / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    path = folder / "quirk.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "title": "a quirk",
                "seeds": [0, 1],
                "data": {"train": 8, "val": 4},
                "stages": ["first.yaml", "second.yaml"],
                "variants": {
                    "plain": {},
                    "boxes": {"first": {"overrides": {"box_geometry": "released"}}},
                    "longer": {"second": {"steps": 9}},
                },
                "columns": {"shapes-rec-val": ["acc@0.5"]},
            },
            sort_keys=False,
        )
    )
    return path


def test_variants_change_settings_and_share_what_they_do_not_change(file, tmp_path):
    ablation = load_ablation(file)
    plans = {(v, s): plan(ablation, v, s, tmp_path) for v in ablation.variants for s in ablation.seeds}
    detect, instruct = plans["boxes", 0]
    assert detect.recipe == FIRST | {"overrides": {"num_queries": 48, "box_geometry": "released"}, "seed": 0}
    assert instruct.recipe == SECOND | {"seed": 0}
    assert (detect.init, instruct.init) == (None, detect.folder)
    assert plans["longer", 1][1].recipe["steps"] == 9
    # "longer" begins where "plain" does; nothing else is shared.
    assert plans["longer", 0][0].folder == plans["plain", 0][0].folder
    assert len({stage.folder for stages in plans.values() for stage in stages}) == 4 + 6


@pytest.fixture
def trained(monkeypatch):
    """Stages that only say that they ran, and measurements that the checkpoint's recipe decides."""
    ran, measured = [], []

    def train(stage, data_root):
        if not (stage.folder / "finished.json").is_file():
            ran.append(stage.folder.name)
            stage.folder.mkdir(parents=True)
            (stage.folder / "finished.json").write_text(json.dumps({"seconds": 30.0 * stage.recipe["steps"]}))
            (stage.folder / "given.yaml").write_text(yaml.safe_dump(stage.recipe))

    def measure(ablation, checkpoint, out, data_root):
        if len(measured) == getattr(measure, "limit", 99):
            raise KeyboardInterrupt
        measured.append(checkpoint.name)
        recipe = yaml.safe_load((checkpoint / "given.yaml").read_text())
        value = 50.0 + 10 * recipe["seed"] + recipe["steps"]
        return {f"{name}/{metric}": value for name, metrics in ablation.columns.items() for metric in metrics}

    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "_measure", measure)
    monkeypatch.setattr("groma_eval.benchmarks.shapes.prepare.prepare", lambda *_, **__: None)
    return ran, measured, measure


def test_an_interrupted_ablation_continues_from_its_results(file, tmp_path, trained):
    ran, measured, measure = trained
    ablation = load_ablation(file)
    measure.limit = 2
    with pytest.raises(KeyboardInterrupt):
        run_ablation(ablation, tmp_path / "out", tmp_path)
    assert len(ran) == 10
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 2
    measure.limit = 99
    rows = run_ablation(ablation, tmp_path / "out", tmp_path)
    assert len(ran) == 10
    assert len(measured) == len(set(measured)) == 6
    assert {(r["variant"], r["seed"]) for r in rows} == {(v, s) for v in ablation.variants for s in (0, 1)}


def test_ablations_that_share_a_folder_share_trainings_and_measure_what_is_missing(file, tmp_path, trained):
    ran, measured, _ = trained
    run_ablation(load_ablation(file), tmp_path / "out", tmp_path)
    content = yaml.safe_load(file.read_text())
    content["variants"] = {"base": {}}
    content["columns"]["shapes-ground-val"] = ["ar"]
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    rows = run_ablation(load_ablation(file), tmp_path / "out", tmp_path)
    assert (len(ran), len(measured)) == (10, 8)
    assert [(row["variant"], sorted(row["metrics"])) for row in rows] == [
        ("base", ["shapes-ground-val/ar", "shapes-rec-val/acc@0.5"])
    ] * 2


def test_the_table_says_mean_spread_steps_and_what_changed(file, tmp_path, trained):
    ablation = load_ablation(file)
    text = ablation_table(ablation, run_ablation(ablation, tmp_path / "out", tmp_path))
    spread = statistics.stdev([53, 63])
    assert f"| plain     | 58.0 ± {spread:.1f}" in text
    assert "| longer    | 64.0" in text
    assert "preset nano" in text
    assert "first 4, second 3" in text
    assert "Against 'plain', 'longer' changes shapes-rec acc@0.5 by +6.0" in text


def test_a_variant_of_a_recipe_that_is_not_trained(file, tmp_path):
    ablation = load_ablation(file)
    ablation.variants["odd"] = {"third": {"steps": 1}}
    with pytest.raises(HarnessError, match="variant 'odd' changes recipe 'third', which this ablation does not train"):
        plan(ablation, "odd", 0, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("title: [", "is not YAML"), ("title: x\n", "lacks 'stages'"), ("- 1\n", "lacks"), (None, "no ablation")],
)
def test_bad_files_are_one_line(tmp_path, text, message, capsys):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_geometry_ablation_changes_both_quirks(tmp_path):
    path = Path(__file__).parents[2] / "recipes" / "ablations" / "geometry.yaml"
    ablation = load_ablation(path)
    detect, instruct = plan(ablation, "released", 2, tmp_path)
    assert detect.recipe["overrides"]["box_geometry"] == detect.recipe["overrides"]["box_refinement"] == "released"
    assert (detect.recipe["preset"], instruct.recipe["seed"]) == ("nano", 2)


@pytest.mark.slow
def test_two_variants_in_small(file, tmp_path):
    """The whole way with real trainings of a few steps."""
    content = yaml.safe_load(file.read_text())
    content["variants"].pop("longer")
    content["seeds"] = [0]
    content["data"]["val"] = 400  # as the cards of the validation split say
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    assert main(["ablate", str(file), "--out", str(out), "--data-root", str(tmp_path / "data"), "--jobs", "2"]) == 0
    rows = json.loads((out / "results.json").read_text())
    assert [row["variant"] for row in rows] == ["plain", "boxes"]
    assert all(0 <= row["metrics"]["shapes-rec-val/acc@0.5"] <= 100 for row in rows)
    assert (out / "table.md").read_text().startswith("| variant")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes" / "ablations").glob("*.yaml")))
def test_bundled_ablations_plan_and_find_their_published_rows(path, tmp_path):
    ablation = load_ablation(path)
    folders = {tuple(s.folder.name for s in plan(ablation, v, 0, tmp_path)) for v in ablation.variants}
    assert len(folders) == len(ablation.variants) >= 2
    assert module._paper(ablation).count("arXiv:2404.13013v1") == len(ablation.paper)


def test_published_rows_are_named_exactly(file):
    content = yaml.safe_load(file.read_text())
    content["paper"] = [{"variant": "plain", "method": "Groma"}]
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(HarnessError, match="names 5 published rows"):
        module._paper(load_ablation(file))
