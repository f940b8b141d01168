"""Objectness heads by the pictures' sources; clipping of gradients that parameters must not share."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from training_data import TASKS, align, detect, draw, fresh

from groma_model.configuration import preset
from groma_model.data.samples import read_training_images
from groma_model.processing import TEMPLATES
from groma_model.proposer import RegionProposer
from groma_model.training.detection_loss import detection_loss
from groma_model.training.loop import _Batches, _Run, build_stage, parameter_groups

SOURCES = ("coco", "sa1b", "sa1b", "coco", "sa1b")
COUNTS = (2, 0, 3, 1, 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    draw(root)
    return read_training_images(root, "train", TEMPLATES["brief"], TASKS)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def targets():
    generator = torch.Generator().manual_seed(5)
    corners = [torch.rand(n, 2, generator=generator) * 0.5 for n in COUNTS]
    return [torch.cat([c, c + 0.1 + 0.3 * torch.rand(len(c), 2, generator=generator)], 1) for c in corners]


@pytest.mark.parametrize("options", [{}, {"quality_focal": True}], ids=["plain", "quality"])
def test_a_mixed_batch_is_its_sources_together(options):
    """Loss and every gradient: each source's pictures through the proposer alone, divided by all boxes."""
    torch.manual_seed(0)
    config = preset("nano")
    proposer = RegionProposer(config).double()
    states = [torch.randn(len(SOURCES), 64, config.vision_config.hidden_size).double() for _ in range(4)]
    boxes = [b.double() for b in targets()]

    def gradients(loss):
        found = torch.autograd.grad(loss, list(proposer.parameters()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, proposer.parameters(), strict=True)]

    mixed = detection_loss(proposer(states), boxes, SOURCES, **options)
    alone = []
    for source in ("coco", "sa1b"):
        own = [i for i, name in enumerate(SOURCES) if name == source]
        output = proposer([s[own] for s in states])
        alone.append(detection_loss(output, [boxes[i] for i in own], source, normaliser=sum(COUNTS), **options))
    for name, value in mixed.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in alone), rel=1e-6), name
    plain = [sum(pair) for pair in zip(*(gradients(part["loss"]) for part in alone), strict=True)]
    for (name, _), found, wanted in zip(proposer.named_parameters(), gradients(mixed["loss"]), plain, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("source", ["coco", "sa1b"])
def test_one_source_by_picture_is_that_source(source):
    torch.manual_seed(0)
    proposer = RegionProposer(preset("nano"))
    output = proposer([torch.randn(5, 64, 96) for _ in range(4)])
    assert detection_loss(output, targets(), [source] * 5) == detection_loss(output, targets(), source)


def test_bad_sources_are_named():
    proposer = RegionProposer(preset("nano"))
    output = proposer([torch.randn(2, 64, 96) for _ in range(4)])
    for source, words in ((["coco", "both"], "source is 'both'"), (["coco"], "1 sources for 2"), ("lvis", "'lvis'")):
        with pytest.raises(ValueError, match=words):
            detection_loss(output, [torch.zeros(0, 4)] * 2, source)


@pytest.mark.parametrize(
    ("given", "own", "expected"),
    [
        ("both", ("coco", "sa1b"), "both"),
        ("both", (None, None), "both"),
        ("coco", (None, None), "coco"),
        ("coco", ("sa1b", "sa1b"), "sa1b"),
        ("coco", ("sa1b", None), ["sa1b", "coco"]),
        ("sa1b", ("coco", "sa1b"), ["coco", "sa1b"]),
    ],
)
def test_a_pictures_source_goes_before_the_recipes(images, given, own, expected):
    chosen = [replace(item, source=source) for item, source in zip(images, own)]
    stage = build_stage(*fresh(), detect(loss={"source": given}), chosen)
    assert stage.collate(chosen, random.Random(0))["source"] == expected


RECIPES = {
    "detect": detect(draws="image"),
    "detect, by picture": detect(draws="image", trainable=("proposer",), loss={"source": "coco"}),
    "align": align(batch_size=4, tasks={"rec": 2, "grounding": 1}),
    "align, by image": align(batch_size=4, draws="image"),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", RECIPES)
def test_clipping_gives_every_parameter_the_plain_definitions_value(images, name, accumulate):
    """g * min(1, limit / norm), the norm over every parameter once, whatever shares memory."""
    sources = SOURCES if name == "detect, by picture" else [None] * 5
    data = [replace(item, source=source) for item, source in zip(images, sources)]
    recipe = replace(RECIPES[name], accumulate=accumulate, lr=0.0)
    model, processor = fresh()
    stage = build_stage(model, processor, recipe, data)

    def step(limit):
        optimizer = torch.optim.SGD(parameter_groups(stage, recipe))
        optimizer.zero_grad = lambda **_: None
        stage.zero_grad()
        AcceleratorState._reset_state()
        loop = _Run(Accelerator(cpu=True), stage, stage, optimizer, replace(recipe, max_grad_norm=limit), False)
        norm = loop.step(0, _Batches(stage, data, recipe, 0, 0, 1)[0])["grad_norm"]
        gradients = {n: p.grad for n, p in stage.named_parameters() if p.grad is not None}
        return norm, {n: g.double() for n, g in gradients.items()}, gradients

    norm, free, _ = step(1e9)
    assert norm == pytest.approx(sum(float((g**2).sum()) for g in free.values()) ** 0.5, rel=1e-5)
    _, clipped, tensors = step(norm / 10)
    for key, gradient in free.items():
        assert torch.allclose(clipped[key], gradient / 10, rtol=1e-4, atol=1e-7), key
    spans = sorted((g.data_ptr(), g.data_ptr() + g.nbytes, n) for n, g in tensors.items())
    for (_, end, first), (start, _, second) in itertools.pairwise(spans):
        assert end <= start, f"{first} and {second} share their gradients' memory"
