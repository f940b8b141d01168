from __future__ import annotations

import json
import random

import pytest
import torch
from PIL import Image
from small import TEXTS, picture

from groma_model.configuration import preset
from groma_model.data.samples import read_training_images
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import TEMPLATES, GromaProcessor, train_tokenizer
from groma_model.training.loop import batch_indices, build_stage, learning_rate, train
from groma_model.training.recipe import Recipe, load_recipe
from groma_model.training.stages import set_trainable

TASKS = ("rec", "grounding", "caption", "scene", "vqa")
LANGUAGE = ("projector", "region_encoder", "llm", "new_token_embeddings", "new_token_head", "pointer")


def detect(**changes) -> Recipe:
    trainable = ("vision_encoder", "proposer", "region_encoder")
    loss = {"source": "both", "attribute_weight": 1.0, "box_jitter": 0.05}
    values = dict(
        stage="detect", steps=4, batch_size=4, lr=1e-3, trainable=trainable, warmup=1, save_every=2, loss=loss
    )
    return Recipe(**(values | changes))


def align(**changes) -> Recipe:
    values = dict(stage="align", steps=4, batch_size=2, lr=1e-3, trainable=LANGUAGE, warmup=1, save_every=2,
                  tasks=dict.fromkeys(TASKS, 1))  # fmt: skip
    return Recipe(**(values | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures with two objects each and one dialogue a task, in the files' own formats."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "images" / "train").mkdir(parents=True)
    notes = root / "annotations"
    notes.mkdir()
    images, objects, captions, regions, rec, scenes, vqa = [], [], [], [], [], [], []
    for i in range(1, 7):
        name = f"train_{i:06d}.png"
        Image.Image.save(picture(i, 96, 96), root / "images" / "train" / name)
        images.append({"id": i, "file_name": name, "width": 96, "height": 96})
        for j, box in enumerate(([10, 12, 30, 30], [50, 40, 40, 24])):
            attributes = {"shape": ["circle", "star"][(i + j) % 2], "colour": ["red", "blue"][j]}
            row = {"id": len(objects) + 1, "image_id": i, "bbox": box, "category_id": 1 + j, "area": 1, "iscrowd": 0}
            objects.append({**row, "attributes": attributes})
            rec.append(
                {"img_id": f"train_{i:06d}_{j}", "sents": "the red circle", "bbox": box, "width": 96, "height": 96}
            )
        captions.append({"id": i, "file_name": name, "captions": ["a small red circle"]})
        regions.append({"id": i, "image_id": i, "bbox": [10, 12, 30, 30]})
        phrase = {"start": 0, "end": 12, "phrase": "a red circle", "boxes": [[10, 12, 40, 42], [50, 40, 90, 64]]}
        scenes.append({"image": name, "caption": "a red circle is left", "phrases": [phrase]})
        question = {"image": name, "text": "what color is it?", "answer": "red", "box": [10, 12, 40, 42]}
        vqa.append({**question, "history": [["what is <box>?", "a circle"]], "evidence": [[[10, 12, 40, 42]]]})
    categories = [{"id": 1, "name": "red_circle"}, {"id": 2, "name": "blue star"}]
    base = {"images": images, "annotations": objects, "categories": categories}
    (notes / "instances_train.json").write_text(json.dumps(base))
    (notes / "lvis_train.json").write_text(json.dumps(base))
    (notes / "rec_train.json").write_text(json.dumps(rec))
    (notes / "region_captions_train.json").write_text(json.dumps({"images": captions, "annotations": regions}))
    (notes / "scene_captions_train.jsonl").write_text("\n".join(map(json.dumps, scenes)))
    (notes / "vqa_train.jsonl").write_text("\n".join(map(json.dumps, vqa)))
    return root


@pytest.fixture(scope="module")
def images(folder):
    return read_training_images(folder, "train", TEMPLATES["brief"], TASKS)


def fresh() -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    torch.manual_seed(0)
    config = preset("nano")
    return GromaForConditionalGeneration(config), GromaProcessor(train_tokenizer(TEXTS, config), config)


def test_files_become_dialogues(images):
    item = images[0]
    assert item.boxes[0] == pytest.approx((10 / 96, 12 / 96, 40 / 96, 42 / 96))
    (scene,) = item.dialogues["scene"][0]
    assert scene.answer == "<p>a red circle</p><roi><ground_box><ground_box></roi> is left"
    assert len(scene.ground_boxes) == 2
    first, second = item.dialogues["vqa"][0]
    assert "<refer_box>" in first.question
    assert first.refer_box == second.ground_boxes[0]
    assert second.refer_box is None
    assert second.answer == "<roi><ground_box></roi> red"
    queries = {turn.question for (turn,) in item.dialogues["grounding"]}
    assert queries == {"locate all <p>red circle</p>", "locate all <p>blue star</p>"}


def test_missing_and_malformed_files_are_named(tmp_path, folder):
    with pytest.raises(ValueError, match=r"instances_val\.json is missing"):
        read_training_images(folder, "val", TEMPLATES["brief"], ())
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text('{"images": [}')
    with pytest.raises(ValueError, match=r"instances_train\.json, line 1: not JSON"):
        read_training_images(tmp_path, "train", TEMPLATES["brief"], ())


def test_only_the_named_modules_move(images, tmp_path):
    model, processor = fresh()
    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, processor, images, align(steps=2), tmp_path, progress=False)
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(LANGUAGE)
    with pytest.raises(ValueError, match="no module 'encoder'"):
        set_trainable(model, ["encoder"])


@pytest.mark.parametrize("recipe", [detect(), align()], ids=["detect", "align"])
def test_a_run_stopped_and_continued_equals_an_uninterrupted_one(images, tmp_path, recipe):
    model, processor = fresh()
    train(model, processor, images, recipe, tmp_path / "whole", progress=False)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    interrupted, _ = fresh()
    with pytest.raises(Stop):  # after the save at step 2
        train(
            interrupted,
            processor,
            images,
            recipe_with(recipe, evaluate_every=2),
            tmp_path / "part",
            stop,
            progress=False,
        )
    (tmp_path / "part" / "recipe.json").write_text((tmp_path / "whole" / "recipe.json").read_text())
    continued, _ = fresh()
    train(continued, processor, images, recipe, tmp_path / "part", progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name


def recipe_with(recipe: Recipe, **changes) -> Recipe:
    return Recipe(**(recipe.to_dict() | changes))


def test_another_recipe_is_not_continued(images, tmp_path):
    model, processor = fresh()
    train(model, processor, images, align(steps=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match="another lr"):
        train(model, processor, images, align(steps=1, lr=1.0), tmp_path, progress=False)


@pytest.mark.parametrize("recipe", [detect(), align(loss={"pointer_weight": 2.0})], ids=["detect", "align"])
def test_the_loss_falls(images, recipe):
    model, processor = fresh()
    stage = build_stage(model, processor, recipe, images)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=2e-3)
    batch = stage.collate(images[:4], random.Random(0))
    losses = []
    for _ in range(12):
        loss = stage(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_batches_are_the_same_for_any_number_of_processes():
    recipe = align(batch_size=8, steps=10)
    for step in range(6):
        whole = batch_indices(step, recipe, 30, 0, 1)
        for processes in (2, 4):
            parts = [batch_indices(step, recipe, 30, p, processes) for p in range(processes)]
            assert [i for part in parts for i in part] == whole
    epoch = [i for step in range(30) for i in batch_indices(step, align(batch_size=1), 30, 0, 1)]
    assert sorted(epoch) == list(range(30))


def test_learning_rate_warms_up_and_decays():
    recipe = align(steps=100, warmup=10)
    rates = [learning_rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_recipes_say_what_is_wrong(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: detect\nsteps: 1\nbatch: 3\n")
    with pytest.raises(ValueError, match="unknown setting 'batch'"):
        load_recipe(path)
    path.write_text("stage: dream\nsteps: 1\nbatch_size: 3\nlr: 1\ntrainable: []\n")
    with pytest.raises(ValueError, match="stage is 'dream'"):
        load_recipe(path)
