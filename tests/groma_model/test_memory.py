"""The estimate of a step against the step itself, and against sums by hand."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training_data import align, detect, draw, fresh

from groma_eval.cli.train import main
from groma_model.configuration import preset
from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.proposer_layers import grid_encodings
from groma_model.training.cost import KeptBytes, LiveBytes, Load, ModelFlops, expected_load, step_cost
from groma_model.training.loop import build_stage
from groma_model.training.memory import Memory, StepEstimate, estimate, estimate_step, time_line
from groma_model.training.recipe import load_recipe
from groma_model.training.recompute import recomputed

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("train_memory", ROOT / "bench" / "train_memory.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    return read_training_images(root, "train", TEMPLATES["brief"], tuple(bench.TASKS))


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", bench.STAGES)
def test_the_estimate_is_what_a_step_takes(images, name, precision):
    _, processor = fresh()
    measured, estimated, _, _ = bench.compare(
        preset("nano"), bench.recipe_of(name, 2, precision), processor, images[:2]
    )
    assert estimated.kept == pytest.approx(measured.kept, rel=0.05)
    assert estimated.peak == pytest.approx(measured.peak, rel=0.05)
    assert estimated.flops == pytest.approx(measured.flops, rel=0.02)
    assert estimated.recomputed == pytest.approx(measured.recomputed, rel=0.02)
    assert (estimated.recomputed > 0) == (name != "detect")


def test_counting_leaves_nothing_behind(images):
    """Neither tensors without contents in the cache of encodings, nor gradients, nor other weights."""
    _, processor = fresh()
    _, _, stage, _ = bench.compare(preset("nano"), bench.recipe_of("detect", 2), processor, images[:2])
    assert grid_encodings.cache_info().currsize == 0
    assert all(p.grad is None for p in stage.parameters())
    assert type(grid_encodings(8, 64, torch.device("cpu"))[0]) is torch.Tensor


def test_model_flops_of_layers_by_hand():
    layer, convolution = nn.Linear(5, 7), nn.Conv2d(2, 3, 3, padding=1)
    with ModelFlops() as counter:
        layer(torch.randn(4, 5)).sum().backward()
    assert counter.total == 2 * 4 * 5 * 7 * 2  # forward, and the weight's gradient: the input needs none
    with ModelFlops() as counter:
        convolution(torch.randn(1, 2, 6, 6, requires_grad=True)).sum().backward()
    assert counter.total == 3 * 2 * 36 * 2 * 3 * 9
    q = torch.randn(2, 3, 10, 8, requires_grad=True)
    with ModelFlops() as counter:
        F.scaled_dot_product_attention(q, q, q).sum().backward()
    assert counter.total == 3 * 2 * (2 * 3) * 10 * 10 * 8 * 2


def test_recomputed_flops_are_told_apart(images):
    recipe = bench.recipe_of("instruct", 2)
    totals = []
    for checkpointing in (False, True):
        model, processor = fresh()
        stage = build_stage(model, processor, recipe, images)
        batch = stage.collate(images[:2], random.Random(0))
        with recomputed(model, checkpointing), ModelFlops() as counter, FlopCounterMode(display=False) as whole:
            stage(batch)["loss"].backward()
        totals.append((counter.total, counter.recomputed, whole.get_total_flops()))
    (plain, none, library), (same, again, more) = totals
    assert plain == same
    assert none == 0
    assert again == more - library
    # The library does not know attention on the CPU, which is a part of the frozen image encoder.
    assert 0 < plain - library < 0.05 * plain


def test_bytes_by_hand():
    first, second = nn.Linear(10, 20, bias=False), nn.Linear(20, 1, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(100, 10)
    kept, live = KeptBytes(model), LiveBytes(model)
    with live:
        with kept.watch():
            loss = model(x).sum()
        # The input of the first layer and the ReLU's output, which the second layer shares; the weights are its own.
        assert kept.bytes() == 4 * (100 * 10 + 100 * 20)
        # Alive: the ReLU's output and the sum; at the most the first layer's or the last one's output as well.
        assert live.live == 4 * (100 * 20 + 1)
        assert live.peak == 4 * (2 * 100 * 20)
        del loss
    assert kept.bytes() == 0
    assert live.live == 0


def test_the_whole_at_the_worst_moment():
    memory, load = Memory(1000, 400, 800), Load(2, 3)
    cost = bench.StepCost((50, 20), (500, 100), 10**12, 10**11)

    def step(**changes):
        return StepEstimate(align(accumulate=2, steps=86400, **changes), 1, memory, load, cost)

    assert step().peak == 2200 + 500
    assert step(gradient_checkpointing=True).peak == 2200 + 400  # AdamW's temporaries
    assert step().flops == 2 * 10**12
    assert step().seconds(4.0, 0.5) == pytest.approx(1.0)
    assert time_line(step(), 4.0, 0.5) == (
        "at 4 TFLOP/s and 50 % utilisation (assumed): 1.00 s a step, 1.00 days for 86400 steps"
    )


def test_the_assumed_micro_batch():
    config = preset("7b")
    recipe = align(preset="7b", batch_size=128, accumulate=8, template="default")
    assert expected_load(recipe, config, 8) == Load(2, 100, 256 + 200 + 80, 5, 128, 2 * 5 * 64)
    assert expected_load(detect(batch_size=64), config, 8) == Load(8, 8)
    with pytest.raises(ValueError, match="batch_size 128 does not divide among 3 processes with 8 micro-batches each"):
        expected_load(recipe, config, 3)


def test_a_layer_of_7b_is_counted_without_its_memory():
    """The difference of two depths, against arithmetic by hand: 2 FLOPs a multiply-add."""
    full, wide = preset("7b").llm_config.to_dict(), preset("nano")
    recipe = load_recipe(ROOT / "recipes" / "instruct-7b.yaml", batch_size=8)
    prefix, row = 1900, 100
    tokens = prefix + row
    costs = []
    for depth in (1, 2):
        config = preset("nano", llm_config=full | {"num_hidden_layers": depth}, vision_config=wide.vision_config)
        costs.append(step_cost(recipe, config, Load(1, 1, prefix, 1, row, 1)))
    down = 4096 * 11008
    layer = tokens * (4 * 4096**2 + 3 * down) + 2 * 4096 * (tokens * prefix + row * row)
    one, two = costs
    assert two.flops - one.flops == 3 * 2 * layer
    # A layer's last product is needed by nobody and not computed again.
    assert two.recomputed - one.recomputed == 2 * (layer - tokens * down)
    # Checkpointing keeps a layer's input, in bfloat16 or, beside the norms, float32.
    assert two.kept[1] - one.kept[1] in (2 * tokens * 4096, 4 * tokens * 4096)
    assert two.peak[1] < two.peak[0]


def test_lora_is_estimated():
    pytest.importorskip("peft")
    recipe = align(preset="nano", trainable=("projector",), lora={"rank": 4})
    step = estimate_step(recipe)
    assert step.memory == estimate(recipe)
    whole = estimate_step(align(preset="nano", trainable=("projector", "llm")))
    assert step.cost.flops < whole.cost.flops
    assert step.memory.gradients < 0.2 * whole.memory.gradients


def test_the_command_prints_it(capsys):
    path = str(ROOT / "recipes" / "nano-detect.yaml")
    assert main(["estimate", path, "--tflops", "1", "--mfu", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("memory a process: parameters ")
    assert lines[1].startswith("activations of a micro-batch of 32 images (8 regions an image): ")
    assert lines[2].startswith("a step: 0.0")
    assert lines[3].startswith("at 1 TFLOP/s and 50 % utilisation (assumed): ")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "0"], "--processes is 0; it must be at least 1"),
        (["--tokens", "1"], "--tokens is 1; it must be at least 2"),
        (["--tflops", "-1"], "--tflops is -1.0; it must be above 0"),
        (["--mfu", "1.1"], "--mfu is 1.1; it must be above 0 and at most 1"),
        (["--processes", "7"], "batch_size 32 does not divide among 7 processes"),
    ],
)
def test_bad_options_are_named(capsys, options, message):
    assert main(["estimate", str(ROOT / "recipes" / "nano-detect.yaml"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("groma-train: error: ")
    assert message in line


def test_a_recipe_without_preset_is_named(capsys):
    assert main(["estimate", str(ROOT / "recipes" / "tiny-align.yaml")]) == 2
    assert "an estimate needs a recipe with a preset" in capsys.readouterr().err
