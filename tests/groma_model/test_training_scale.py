"""A step divided among micro-batches and processes; gradient checkpointing; what trains and what does not."""

from __future__ import annotations

import json
import os
import random
import socket
from collections import defaultdict

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from training_data import LANGUAGE, TASKS, align, detect, draw, fork, fresh, recipe_with

from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.training.loop import _Batches, _Run, build_stage, parameter_groups, train
from groma_model.training.memory import estimate
from groma_model.training.recompute import recomputed, transformer_layers

#: Stages and variants: recipe, then the modules that must get gradients.
RECIPES = {
    "detect": detect(trainable=("proposer",), loss={"source": "both"}),
    "detect, encoder tuned": detect(trainable=("vision_encoder", "proposer"), loss={"source": "both"}),
    "align": align(trainable=("projector", "region_encoder", "new_token_embeddings", "new_token_head")),
    "instruct": align(stage="instruct"),
    "instruct, all tuned": align(stage="instruct", trainable=("vision_encoder", *LANGUAGE)),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    found = read_training_images(root, "train", TEMPLATES["brief"], TASKS)
    # Parts of a step that differ: one image without objects and attributes, one with a single dialogue.
    found[1].boxes, found[1].attributes = [], []
    found[2].dialogues = defaultdict(list, vqa=found[2].dialogues["vqa"])
    return found


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients(model, processor, recipe, images) -> dict[str, torch.Tensor | None]:
    stage = build_stage(model, processor, recipe, images)
    batch = stage.collate(images[: recipe.batch_size], random.Random(0))
    stage(batch)["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_reach_exactly_the_trained_modules(images, name):
    model, processor = fresh(proposer_dropout=0.1)
    found = gradients(model, processor, RECIPES[name], images)
    reached = {n.split(".")[0] for n, g in found.items() if g is not None and g.abs().max() > 0}
    assert reached == set(RECIPES[name].trainable)
    assert all(g is None for n, g in found.items() if n.split(".")[0] not in RECIPES[name].trainable)


@pytest.mark.parametrize("name", RECIPES)
def test_frozen_weights_do_not_change_by_a_bit(images, tmp_path, name):
    model, processor = fresh(proposer_dropout=0.1)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    train(model, processor, images, recipe_with(RECIPES[name], steps=2, weight_decay=0.1), tmp_path, progress=False)
    moved = {n.split(".")[0] for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert moved == set(RECIPES[name].trainable)


def test_the_proposer_is_refused_where_no_gradient_reaches_it():
    with pytest.raises(ValueError, match="the proposer gets no gradient"):
        align(trainable=("proposer", "llm"))


@pytest.mark.parametrize("name", ["detect, encoder tuned", "align", "instruct, all tuned"])
def test_recomputed_layers_give_the_same_gradients(images, name):
    model, processor = fresh()
    wanted = gradients(model, processor, RECIPES[name], images)
    other, _ = fresh()
    with recomputed(other):
        found = gradients(other, processor, RECIPES[name], images)
    assert "forward" not in vars(transformer_layers(other)[0])
    for key, gradient in wanted.items():
        assert (gradient is None) == (found[key] is None), key
        if gradient is not None:
            assert torch.equal(gradient, found[key]), key


def test_recomputed_layers_keep_less_for_the_backward_pass(images):
    def kept(wanted: bool) -> int:
        model, processor = fresh()
        recipe = RECIPES["instruct, all tuned"]
        stage = build_stage(model, processor, recipe, images)
        batch = stage.collate(images[:2], random.Random(0))
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with recomputed(model, wanted), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            stage(batch)
        return sum(sizes.values()) - sum(p.numel() * 4 for p in model.parameters())

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.parametrize("name", RECIPES)
def test_the_memory_estimate_is_what_tensors_take(images, name):
    model, processor = fresh()
    recipe = RECIPES[name]
    stage = build_stage(model, processor, recipe, images)
    optimizer = torch.optim.AdamW(parameter_groups(stage, recipe), lr=1e-3)
    stage(stage.collate(images[:2], random.Random(0)))["loss"].backward()
    optimizer.step()
    found = estimate(recipe_with(recipe, preset="nano"))
    assert found.parameters == sum(p.nbytes for p in model.parameters())
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    # DINOv2's mask token and last LayerNorm are counted, but have no part in the model.
    unused = [(n, p) for n, p in trained if p.grad is None]
    assert all(n.startswith("vision_encoder.model.") for n, _ in unused)
    assert len(unused) == (3 if "vision_encoder" in recipe.trainable else 0)
    spare = sum(p.nbytes for _, p in unused)
    assert found.gradients == spare + sum(p.grad.nbytes for _, p in trained if p.grad is not None)
    moments = [v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    assert found.optimiser == 2 * spare + sum(moments)


def test_sharding_divides_the_memory():
    recipe = align(preset="7b", sharding="full", trainable=LANGUAGE[:-1])
    one, eight = estimate(recipe), estimate(recipe, 8)
    assert 27 < one.parameters / 2**30 < 28
    assert eight.total == pytest.approx(one.total / 8, rel=1e-6)
    assert estimate(recipe_with(recipe, sharding="none"), 8) == one


def losses_of(folder) -> list[dict[str, float]]:
    return json.loads((folder / "losses.json").read_text())


def run(recipe, images, folder) -> None:
    """Train and write every step's losses, as the loop gives them, and the final weights."""
    model, processor = fresh()
    rows, plain = [], _Run.step

    def step(self, number, parts):
        rows.append(plain(self, number, parts))
        return rows[-1]

    _Run.step = step
    try:
        train(model, processor, images, recipe, folder, progress=False)
    finally:
        _Run.step = plain
    if os.environ.get("RANK", "0") == "0":
        (folder / "losses.json").write_text(json.dumps(rows))


def weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


#: SGD-like steps would hide nothing, but Adam's first steps have the size lr whatever the gradient, also where it is
#: noise; a small lr keeps that noise below the tolerance.
DIVIDED = {
    "detect": detect(steps=3, draws="image", lr=1e-4),
    "align": align(steps=3, batch_size=4, draws="image", lr=1e-4, loss={"pointer_weight": 2.0}),
}


def close(a, b) -> None:
    assert [x["loss"] for x in a] == pytest.approx([y["loss"] for y in b], rel=0, abs=1e-5)


@pytest.mark.parametrize("name", DIVIDED)
def test_micro_batches_compute_the_whole_step(images, tmp_path, name):
    run(DIVIDED[name], images, tmp_path / "whole")
    run(recipe_with(DIVIDED[name], accumulate=4), images, tmp_path / "parts")
    close(losses_of(tmp_path / "whole"), losses_of(tmp_path / "parts"))


@pytest.mark.parametrize("name", DIVIDED)
def test_micro_batches_give_the_gradients_of_the_whole_step(images, name):
    """In float64: below the region encoder's ReLUs float32 gradients depend on the order of summation."""
    found = []
    for accumulate in (1, 4):
        model, processor = fresh()
        recipe = recipe_with(DIVIDED[name], accumulate=accumulate)
        stage = build_stage(model.double(), processor, recipe, images).double()
        optimizer = torch.optim.SGD(parameter_groups(stage, recipe), lr=0.0)
        parts = _Batches(stage, images, recipe, 0, 0, 1)[0]
        optimizer.zero_grad = lambda **_: None
        AcceleratorState._reset_state()
        loop = _Run(Accelerator(cpu=True), stage, stage, optimizer, recipe_with(recipe, max_grad_norm=1e9), False)
        loop.step(0, parts)
        found.append({n: p.grad for n, p in stage.named_parameters() if p.grad is not None})
    whole, divided = found
    assert whole.keys() == divided.keys()
    for key, gradient in whole.items():
        assert torch.allclose(gradient, divided[key], rtol=1e-5, atol=1e-6), key


def test_a_batch_that_does_not_divide_is_refused(images, tmp_path):
    model, processor = fresh()
    with pytest.raises(ValueError, match="batch_size 4 does not divide among 1 processes with 3 micro-batches"):
        train(model, processor, images, detect(accumulate=3), tmp_path, progress=False)


def together(work, processes: int = 2) -> None:
    """Run ``work`` in so many processes that form a gloo group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": str(processes)}  # fmt: skip
    children = [fork(work, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(processes)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * processes


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("name", DIVIDED)
def test_two_processes_give_the_losses_of_one(images, tmp_path, name, sharding):
    recipe = recipe_with(DIVIDED[name], steps=20, lr=1e-5, save_every=20)
    run(recipe, images, tmp_path / "one")
    two = recipe_with(recipe, sharding=sharding, accumulate=2 if name == "align" else 1)
    together(lambda: run(two, images, tmp_path / "two"))
    close(losses_of(tmp_path / "one"), losses_of(tmp_path / "two"))
    one = weights(tmp_path / "one")
    for key, tensor in weights(tmp_path / "two").items():
        assert (tensor - one[key]).abs().max() < 2e-5, key  # a tenth of the way that Adam goes in 20 steps


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_two_processes_stop_and_continue(images, tmp_path, sharding):
    recipe = align(steps=2, batch_size=2, draws="image", lr=1e-4, sharding=sharding, save_every=1)
    together(lambda: run(recipe, images, tmp_path / "whole"))

    def killed():
        plain = _Run.step

        def step(self, number, parts):
            if number == 1:
                os._exit(0)
            return plain(self, number, parts)

        _Run.step = step
        train(*fresh(), images, recipe, tmp_path / "parts", progress=False)

    together(killed)
    together(lambda: run(recipe, images, tmp_path / "parts"))
    assert [row["loss"] for row in losses_of(tmp_path / "parts")] == [losses_of(tmp_path / "whole")[1]["loss"]]
    whole = weights(tmp_path / "whole")
    for key, tensor in weights(tmp_path / "parts").items():
        assert torch.equal(tensor, whole[key]), key
