"""The bundled recipes: they load, name modules that exist and hold the paper's numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import groma_model.recipes
import pytest
import torch

from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.training.recipe import load_recipe, recipe_variants

FOLDER = Path(groma_model.recipes.__file__).parent
PATHS = sorted(FOLDER.glob("*.yaml"))
PAPER = {"detect-7b": "1 detection pretraining", "align-7b": "2 alignment pretraining",
         "instruct-7b": "3 instruction finetuning"}  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_bundled_recipes_load_and_name_existing_modules(path):
    name = "7b" if path.stem.endswith("7b") else path.stem.split("-")[0]
    for variant in (None, *recipe_variants(path)):
        recipe = load_recipe(path, variant)
        assert recipe.stage == path.stem.split("-")[1 if name != "7b" else 0]
        assert recipe.batch_size % recipe.accumulate == 0
        with torch.device("meta"):
            model = GromaForConditionalGeneration(preset(name, **recipe.overrides))
        modules = {key for key, module in model.named_children() if module is not None}
        assert set(recipe.trainable) <= modules
        assert all(any(key in n for n, _ in model.named_parameters()) for key in recipe.lr_scale)


@pytest.mark.parametrize("name", PAPER)
def test_the_7b_recipes_hold_the_papers_numbers(shared, name):
    with (shared / "published" / "training.csv").open(newline="") as file:
        rows = {r["metric"]: r["value"] for r in csv.DictReader(file) if r["split"] == PAPER[name]}
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    assert recipe.batch_size == int(rows["global batch size"])
    assert recipe.lr == float(rows["learning rate"])
    assert recipe.weight_decay == float(rows["weight decay"])
    unit = {"M": 1e6, "k": 1e3}
    samples = float(rows["training samples per epoch"][:-1]) * unit[rows["training samples per epoch"][-1]]
    assert recipe.steps == int(int(rows["epochs"]) * samples / recipe.batch_size)
    warmup = rows["[repo] warmup"]
    ratio = warmup.startswith("ratio")
    assert recipe.warmup == (round(recipe.steps * float(warmup[6:])) if ratio else int(warmup.split()[0]))
    images, gpus, parts = (
        int(n) for n in rows["[repo] per-GPU batch x GPUs x accumulation"].split(" = ")[0].split("x")
    )
    assert (recipe.batch_size, recipe.accumulate) == (images * gpus * parts, parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accumulate: 0", "accumulate is 0"),
        ("accumulate: 1.5", r"accumulate is 1\.5"),
        ("draws: dice", "draws is 'dice'; it must be one of batch, image"),
        ("sharding: half", "sharding is 'half'; it must be one of none, full"),
        ("trainable: [proposer]", "the proposer gets no gradient"),
    ],
)
def test_bad_settings_are_named(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    base = {"stage": "align", "steps": "1", "batch_size": "2", "lr": "1.0", "trainable": "[llm]"}
    key, _, value = text.partition(": ")
    path.write_text("".join(f"{k}: {v}\n" for k, v in (base | {key: value}).items()))
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_variants_replace_settings_and_unknown_ones_are_named(tmp_path):
    assert "vision_encoder" in load_recipe(FOLDER / "detect-7b.yaml", "encoder-tuned").trainable
    with pytest.raises(ValueError, match="no variant 'all'; it has: encoder-tuned"):
        load_recipe(FOLDER / "detect-7b.yaml", "all")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_recipe(path)
