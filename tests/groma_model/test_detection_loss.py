"""The detection loss against hand calculations and brute force, its options, and that it trains a proposer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import groma_model.training.detection_loss as loss_module
from groma_model.boxes import cxcywh_to_xyxy, iou_matrix, xyxy_to_cxcywh
from groma_model.configuration import preset
from groma_model.proposer import ProposerOutput, RegionProposer
from groma_model.training.detection_loss import LossWeights, detection_loss


def _output(boxes: torch.Tensor, coco: torch.Tensor, sa1b: torch.Tensor | None = None, encoder=None) -> ProposerOutput:
    """An output of one decoder layer from cxcywh ``boxes (B, Q, 4)``; the first stage repeats it unless given."""
    sa1b = coco if sa1b is None else sa1b
    encoder_boxes, encoder_logits = (boxes, coco) if encoder is None else encoder
    return ProposerOutput(
        boxes=cxcywh_to_xyxy(boxes),
        coco_logits=coco,
        sa1b_logits=sa1b,
        score=coco.sigmoid(),
        layer_boxes=boxes[None],
        layer_coco_logits=coco[None],
        layer_sa1b_logits=sa1b[None],
        encoder_boxes=encoder_boxes,
        encoder_logits=encoder_logits,
        selected=torch.zeros(coco.shape, dtype=torch.long),
        query_features=torch.zeros(*coco.shape, 4),
    )


def _random_output(batch: int, queries: int, seed: int) -> ProposerOutput:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(batch, queries, 4, generator=generator) * 0.6 + 0.2
    return _output(boxes, torch.randn(batch, queries, generator=generator))


def test_one_query_by_hand():
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.2], [0.9, 0.9, 0.1, 0.1]]])
    logits = torch.tensor([[0.0, 1.0]])
    target = cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, 0.2, 0.4]]))
    terms = detection_loss(_output(box, logits), [target], "coco")
    p = 1 / (1 + math.exp(-1))
    focal = 0.25 * 0.5**2 * math.log(2) + 0.75 * p**2 * -math.log(1 - p)
    overlap, union, hull = 0.04, 0.12, 0.16
    giou = 1 - (overlap / union - (hull - union) / hull)
    assert terms["objectness"].item() == pytest.approx(focal, rel=1e-5)
    assert terms["l1"].item() == pytest.approx(0.4, rel=1e-5)
    assert terms["giou"].item() == pytest.approx(giou, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(2 * (2 * focal + 5 * 0.4 + 2 * giou), rel=1e-5)


def test_weights_weigh():
    output, targets = _random_output(2, 5, 0), [torch.tensor([[0.1, 0.1, 0.5, 0.6]]), torch.zeros(0, 4)]
    terms = detection_loss(output, targets, "coco", weights=LossWeights(objectness=0.5, l1=0, giou=3))
    parts = sum(0.5 * terms["objectness" + s] + 3 * terms["giou" + s] for s in ("", "_enc"))
    assert terms["loss"].item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_cheapest_of_all(seed):
    """Against trying every assignment, with the cost written out pair by pair."""
    output = _random_output(1, 5, seed)
    target = cxcywh_to_xyxy(torch.rand(3, 4, generator=torch.Generator().manual_seed(seed + 100)) * 0.5 + 0.25)
    wanted = xyxy_to_cxcywh(target)

    def cost(query: int, box: int) -> float:
        p = output.coco_logits[0, query].sigmoid().item()
        objectness = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        a, b = output.boxes[0, query], target[box]
        overlap = iou_matrix(a[None], b[None]).item()
        union = (output.layer_boxes[0, 0, query, 2:].prod() + wanted[box, 2:].prod()).item() / (1 + overlap)
        hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod().item()
        l1 = (output.layer_boxes[0, 0, query] - wanted[box]).abs().sum().item()
        return 2 * objectness + 5 * l1 - 2 * (overlap - (hull - union) / hull)

    best = min(itertools.permutations(range(5), 3), key=lambda order: sum(cost(q, b) for b, q in enumerate(order)))
    terms = detection_loss(output, [target], "coco")
    expected = (output.layer_boxes[0, 0, list(best)] - wanted).abs().sum() / 3
    assert terms["l1"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_images_are_matched_apart():
    """The loss of a batch is the box-weighted mean of its images' losses."""
    generator = torch.Generator().manual_seed(3)
    targets = [cxcywh_to_xyxy(torch.rand(n, 4, generator=generator) * 0.5 + 0.25) for n in (3, 1, 0)]
    output = _random_output(3, 6, 4)
    together = detection_loss(output, targets, "coco")["loss"]
    alone = 0.0
    for i, boxes in enumerate(targets):
        single = _output(output.layer_boxes[0, i : i + 1], output.coco_logits[i : i + 1])
        alone += detection_loss(single, [boxes], "coco")["loss"] * max(1, len(boxes))
    assert together.item() == pytest.approx(alone.item() / 4, rel=1e-5)


def test_source_chooses_the_head():
    output = _random_output(2, 5, 1)
    output.layer_sa1b_logits = output.layer_sa1b_logits - 2
    output.layer_coco_logits.requires_grad_()
    output.layer_sa1b_logits.requires_grad_()
    targets = [torch.tensor([[0.1, 0.1, 0.5, 0.6]])] * 2
    for source, coco, sa1b in (("coco", True, False), ("sa1b", False, True), ("both", True, True)):
        given = [output.layer_coco_logits, output.layer_sa1b_logits]
        gradients = torch.autograd.grad(detection_loss(output, targets, source)["loss"], given, allow_unused=True)
        assert [g is not None for g in gradients] == [coco, sa1b]
    with pytest.raises(ValueError, match="source is 'lvis'"):
        detection_loss(output, targets, "lvis")
    with pytest.raises(ValueError, match="1 lists of target boxes for 2 images"):
        detection_loss(output, targets[:1], "coco")


def test_both_heads_count_half():
    output = _random_output(1, 5, 2)
    targets = [torch.tensor([[0.1, 0.1, 0.5, 0.6]])]
    single = detection_loss(output, targets, "coco")
    both = detection_loss(output, targets, "both")
    assert both.keys() == single.keys()
    for name, value in single.items():
        assert both[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("topk", [0, 3])
def test_no_target_at_all(topk):
    output = _random_output(2, 4, 5)
    output.layer_boxes.requires_grad_()
    terms = detection_loss(output, [torch.zeros(0, 4)] * 2, "coco", dense_encoder_topk=topk, quality_focal=True)
    assert terms["l1"] == terms["giou"] == 0
    assert terms["objectness"] > 0
    terms["loss"].backward()
    assert output.layer_boxes.grad is not None, "distributed training needs a gradient for every parameter"
    assert output.layer_boxes.grad.abs().max() == 0


def test_more_targets_than_queries():
    output = _random_output(1, 3, 6)
    targets = cxcywh_to_xyxy(torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25)
    for topk in (0, 4):
        terms = detection_loss(output, [targets], "coco", dense_encoder_topk=topk)
        assert all(value.isfinite() for value in terms.values())


def test_one_to_many_takes_the_cheapest_tokens():
    # Rows are predictions, columns targets. Token 0 is wanted by both targets and is cheaper for target 1.
    cost = torch.tensor([[[2.0, 1.0, -9.0], [1.0, 5.0, -9.0], [7.0, 3.0, -9.0], [8.0, 8.0, -9.0]]])
    image, prediction, target = loss_module._one_to_many(cost, [2], 2)
    assert image.tolist() == [0, 0, 0]
    assert prediction.tolist() == [0, 1, 2]
    assert target.tolist() == [1, 0, 1]


def test_dense_assignment_touches_the_first_stage_alone():
    output = _random_output(2, 8, 7)
    targets = [cxcywh_to_xyxy(torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.7, 0.6, 0.2, 0.4]])), torch.zeros(0, 4)]
    plain, dense = (detection_loss(output, targets, "coco", dense_encoder_topk=k) for k in (0, 3))
    for name in ("objectness", "l1", "giou"):
        assert dense[name] == plain[name]
        assert dense[f"{name}_enc"] != plain[f"{name}_enc"]


def test_quality_focal_is_least_at_the_overlap():
    """The matched query's best probability is its IoU, here 1/3, not 1."""
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])
    target = [cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, 0.2, 0.4]]))]

    def objectness(probability: float) -> float:
        logits = torch.tensor([[math.log(probability / (1 - probability))]])
        return detection_loss(_output(box, logits), target, "coco", quality_focal=True)["objectness"].item()

    grid = [i / 60 for i in range(1, 60)]
    assert min(grid, key=objectness) == pytest.approx(1 / 3, abs=0.02)
    entropy = -(math.log(1 / 3) / 3 + 2 / 3 * math.log(2 / 3))
    assert objectness(1 / 3) == pytest.approx(entropy / 3, rel=1e-4)


@pytest.mark.parametrize("refinement", ["accumulate", "released"])
def test_training_finds_synthetic_boxes(refinement):
    """Bright rectangles on an 8x8 grid of tokens: the loss falls and the best boxes come to overlap them."""
    torch.manual_seed(0)
    config = preset("nano", proposer_dim=32, num_queries=12, proposer_box_head_dim=32, box_refinement=refinement)
    model = RegionProposer(config)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    directions = torch.randn(4, config.vision_config.hidden_size)

    def batch(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        targets = []
        inside = torch.zeros(16, 8, 8, 4)
        for image in inside:
            corner = torch.rand(2, generator=generator) * 0.5
            box = torch.cat([corner, corner + 0.25 + torch.rand(2, generator=generator) * 0.25])
            cells = (torch.arange(8) + 0.5) / 8
            y, x = torch.meshgrid(cells, cells, indexing="ij")
            distances = torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y], -1)
            image += distances * (distances.amin(-1, keepdim=True) > 0)
            targets.append(box[None])
        return [inside.flatten(1, 2) @ directions] * 4, targets

    losses = []
    for step in range(120):
        states, targets = batch(step)
        terms = detection_loss(model(states), targets, "both", dense_encoder_topk=3, quality_focal=True)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms["loss"].item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    states, targets = batch(10_000)
    with torch.no_grad():
        output = model.eval()(states)
    best = output.boxes[torch.arange(16), output.score.argmax(-1)]
    overlap = torch.stack([iou_matrix(b[None], t)[0, 0] for b, t in zip(best, targets)])
    assert overlap.mean() > 0.6
