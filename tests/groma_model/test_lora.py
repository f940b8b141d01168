"""Adapters of the language model: what they train, what they leave alone, what a checkpoint holds of them."""

from __future__ import annotations

import os
import random
import signal
import sys

import pytest
import torch
from training_data import LANGUAGE, TASKS, align, draw, fork, fresh, recipe_with

from groma_model.checkpoints import load_checkpoint
from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.training.loop import _Run, build_stage, parameter_groups, train
from groma_model.training.lora import adapted_layers, adapter_size, merge, merged_weights
from groma_model.training.memory import estimate
from groma_model.training.recipe import LINEAR, Lora

BESIDE = tuple(name for name in LANGUAGE if name != "llm")
RECIPE = align(
    stage="instruct", trainable=BESIDE, lora={"rank": 4, "alpha": 6.0, "dropout": 0.25}, draws="image", save_every=1
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    return read_training_images(root, "train", TEMPLATES["brief"], TASKS)


def loss_of(stage, images) -> torch.Tensor:
    torch.manual_seed(1)
    return stage(stage.collate(images[:2], random.Random(0)))["loss"]


def stirred(images, recipe=RECIPE):
    """A stage whose adapters do something: B is not zero."""
    model, processor = fresh()
    stage = build_stage(model, processor, recipe, images)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(std=0.05)
    return stage, model, processor


@pytest.mark.parametrize("targets", [LINEAR, ("q_proj", "v_proj")])
def test_gradients_reach_exactly_the_adapters_and_the_named_modules(images, targets):
    recipe = recipe_with(RECIPE, lora={"rank": 2, "targets": list(targets)})
    stage, model, _ = stirred(images, recipe)
    layers = len(model.llm.model.layers)
    assert len(adapted_layers(model)) == layers * len(targets)
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == set(targets)
    loss_of(stage, images).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {n.split(".")[0] for n in reached} == {"llm", *BESIDE}
    adapters = {n for n in reached if n.startswith("llm.")}
    assert all(".lora_A." in n or ".lora_B." in n for n in adapters)
    assert len(adapters) == 2 * len(adapted_layers(model))
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith("llm.") and n not in adapters)
    held = sum(len(group["params"]) for group in parameter_groups(stage, recipe))
    assert held == sum(p.requires_grad for p in stage.parameters())
    assert adapter_size(fresh()[0], recipe.lora) == sum(model.get_parameter(n).numel() for n in adapters)


def test_new_adapters_change_nothing(images):
    plain, processor = fresh()
    wanted = loss_of(build_stage(plain, processor, recipe_with(RECIPE, lora=None), images), images)
    model, _ = fresh()
    assert torch.equal(loss_of(build_stage(model, processor, RECIPE, images), images), wanted)


def test_merged_weights_are_the_sum_by_hand(images):
    _, model, _ = stirred(images)
    before = model.state_dict()
    merged = merged_weights(model, before)
    assert merged.keys() == fresh()[0].state_dict().keys()
    for name, layer in adapted_layers(model).items():
        a, b = (before[f"{name}.lora_{part}.default.weight"].double() for part in "AB")
        exact = before[f"{name}.base_layer.weight"].double() + 6.0 / 4 * (b[:, None] * a.T[None]).sum(-1)
        assert torch.equal(merged[f"{name}.weight"], exact.float()), name
        assert not torch.equal(merged[f"{name}.weight"], layer.base_layer.weight)
    for name, tensor in merged.items():
        if name in before:
            assert torch.equal(tensor, before[name]), name


def test_a_merged_model_answers_as_the_adapted_one(images):
    """In float64, where the sum of two products and the product with a sum agree."""
    stage, model, _ = stirred(images, recipe_with(RECIPE, lora={"rank": 4}))
    stage.double()
    wanted = loss_of(stage, images)
    merge(model)
    assert not adapted_layers(model)
    assert model.state_dict().keys() == fresh()[0].state_dict().keys()
    found = loss_of(stage, images)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=0)
    merge(model)  # nothing is left to merge
    assert torch.equal(loss_of(stage, images), found)


def test_training_leaves_frozen_bits_and_writes_an_ordinary_checkpoint(images, tmp_path):
    model, processor = fresh()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    recipe = recipe_with(RECIPE, gradient_checkpointing=True, evaluate_every=2, keep_best="score")
    seen = []

    def evaluate(model, processor, step):
        seen.append(bool(adapted_layers(model)) and not model.training)
        return {"score": float(step)}

    train(model, processor, images, recipe, tmp_path, evaluate, progress=False)
    assert seen == [True, True]
    state = torch.load(tmp_path / "state.pt", weights_only=True)["stage"]
    frozen = [n for n in state if not any(f"model.{m}." in n for m in BESIDE) and ".lora_" not in n]
    assert len(frozen) > 100
    for name in frozen:
        assert torch.equal(state[name], before[name.removeprefix("model.").replace(".base_layer", "")]), name
    assert all(state[n].abs().max() > 0 for n in state if ".lora_B." in n)
    written, _ = load_checkpoint(tmp_path)
    best, _ = load_checkpoint(tmp_path / "best")
    assert written.state_dict().keys() == before.keys()
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
        assert torch.equal(tensor, best.state_dict()[name]), name
    moved = {n for n, t in written.state_dict().items() if not torch.equal(t, before[n])}
    assert {n.split(".")[0] for n in moved} == {"llm", *BESIDE}
    assert all(n.split(".")[-2] in LINEAR for n in moved if n.startswith("llm."))


def test_a_killed_run_continues_to_the_same_bytes(images, tmp_path):
    def go(folder, kill_at=None):
        plain = _Run.step

        def step(self, number, parts):
            if number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, number, parts)

        _Run.step = step
        train(*fresh(), images, RECIPE, folder, progress=False)

    for folder, kill in (("whole", None), ("part", 2), ("part", 3), ("part", None)):
        child = fork(lambda folder=folder, kill=kill: go(tmp_path / folder, kill))
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) if kill else status == 0
    whole, part = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part"))
    assert whole == part


def test_the_memory_estimate_counts_adapters(images):
    stage, model, _ = stirred(images)
    found = estimate(recipe_with(RECIPE, preset="nano"))
    assert found.parameters == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(p.nbytes for p in stage.parameters() if p.requires_grad)
    assert estimate(recipe_with(RECIPE, preset="nano"), model=fresh()[0]) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 0}}, "lora: rank is 0; it must be a whole number from 1"),
        ({"lora": {"rank": True}}, "lora: rank is True"),
        ({"lora": {"alpha": 0}}, "lora: alpha is 0; it must be a number above 0"),
        ({"lora": {"dropout": 1.0}}, "lora: dropout is 1.0; it must be from 0 to below 1"),
        ({"lora": {"targets": ["lm_head"]}}, "lora: targets is ['lm_head']; it must be a list of some of q_proj, "),
        ({"lora": {"targets": "q_proj"}}, "lora: targets is 'q_proj'; it must be a list"),
        ({"lora": {"r": 4}}, "lora: unknown setting 'r'; known: rank, alpha, dropout, targets"),
        ({"lora": 16}, "lora is 16; it must be a mapping of rank, alpha, dropout, targets"),
        ({"lora": {}, "trainable": ("llm",)}, "lora adapts the language model, which trainable trains whole"),
        ({"lora": {}, "stage": "detect", "loss": {"source": "coco"}}, "which detect does not run"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        recipe_with(align(trainable=("projector",)), **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults():
    assert align(trainable=("projector",), lora={}).lora == Lora(16, 32.0, 0.0, LINEAR)


def test_without_peft_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"^lora needs the package peft: pip install 'groma-eval\[lora\]'$"):
        build_stage(*fresh(), RECIPE, [])
