from __future__ import annotations

import random

import pytest
import torch
from training_data import LANGUAGE, TASKS, align, detect, draw, fresh, recipe_with

from groma_model.data.order import ImageList, batch_places
from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.training.loop import build_stage, learning_rate, train
from groma_model.training.recipe import load_recipe
from groma_model.training.stages import set_trainable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    return root


@pytest.fixture(scope="module")
def images(folder):
    return read_training_images(folder, "train", TEMPLATES["brief"], TASKS)


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
    with pytest.raises(Stop):  # after the save at step 2, before that at step 4
        train(
            interrupted,
            processor,
            images,
            recipe_with(recipe, evaluate_every=3),
            tmp_path / "part",
            stop,
            progress=False,
        )
    (tmp_path / "part" / "recipe.json").write_text((tmp_path / "whole" / "recipe.json").read_text())
    continued, _ = fresh()
    train(continued, processor, images, recipe, tmp_path / "part", progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name


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


@pytest.mark.parametrize("seed", [0, 3])
def test_a_list_of_images_keeps_the_order_that_bundled_checkpoints_were_trained_in(seed):
    """Position p of the run is place p mod n of the shuffle by (seed, p div n); processes share out a step in order."""
    count, batch = 30, 8
    data = ImageList(range(count), seed)

    def plain(position):
        order = list(range(count))
        random.Random(f"{seed}/{position // count}").shuffle(order)
        return order[position % count]

    for step in range(12):
        expected = [plain(position) for position in range(step * batch, (step + 1) * batch)]
        for processes in (1, 2, 4):
            places = [p for i in range(processes) for p in batch_places(step, batch, count, i, processes)]
            assert [data.sample(*place) for place in places] == expected
    assert sorted(data.sample(1, i) for i in range(count)) == list(range(count))


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
