"""Set-prediction loss of the region proposer: matching, objectness, L1 and GIoU, for every layer.

The base is DETR's loss as in Deformable-DETR (Zhu et al. 2021), as the released Groma was trained with: each decoder
layer and the encoder's first stage is matched to the targets on its own and adds the same three terms. Two options
that make training from scratch on small machines faster are off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from groma_model.boxes import cxcywh_to_xyxy, generalised_iou, generalised_iou_matrix, iou, xyxy_to_cxcywh
from groma_model.proposer import ProposerOutput

_HEADS = {"coco": (True, False), "sa1b": (False, True), "both": (True, True)}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three terms, the same in the matching cost and in the loss, and the focal loss's shape."""

    objectness: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass
class _Stage:
    """One prediction to be matched: boxes ``(B, n, 4)`` cxcywh and logits ``(K, B, n)`` of K objectness heads."""

    name: str
    boxes: Tensor
    logits: Tensor
    cost: Tensor


def detection_loss(
    output: ProposerOutput,
    targets: Sequence[Tensor],
    source: str | Sequence[str],
    *,
    weights: LossWeights = LossWeights(),
    dense_encoder_topk: int = 0,
    quality_focal: bool = False,
    normaliser: float | None = None,
    parts: int = 1,
) -> dict[str, Tensor]:
    """Loss of a batch of B images.

    Args:
        output: the proposer's output.
        targets: for each image ``(n_i, 4)`` boxes, xyxy, normalised; ``n_i`` may be 0.
        source: whose annotation the boxes are: ``"coco"`` or ``"sa1b"`` train that objectness head alone, ``"both"``
            trains the two heads on the same boxes (each counts half). Or one of the first two for each image, whose
            boxes then train that head alone.
        weights: see :class:`LossWeights`.
        dense_encoder_topk: if k > 0, the first stage is matched one-to-many: the k cheapest grid tokens of every
            target are positives (a token goes to its cheapest target), and the stage's loss is a mean over them.
        quality_focal: objectness learns the IoU of the matched box (varifocal loss, Zhang et al. 2021) instead of 1,
            so that scores rank boxes by how well they fit.
        normaliser: the number of targets that sums are divided by, if this batch is one of the ``parts`` of a step;
            its own number (at least 1) unless given.

    Returns:
        ``"loss"``, to be minimised, and its unweighted parts: ``"objectness"``, ``"l1"``, ``"giou"`` of the last
        decoder layer, with suffix ``_0``, ``_1``, ... of the layers before it, and with ``_enc`` of the first stage.

    Raises:
        ValueError: for another ``source``, or if it or ``targets`` does not have one entry an image.
    """
    for one in [source] if isinstance(source, str) else source:
        allowed = [name for name in _HEADS if isinstance(source, str) or name != "both"]
        if one not in allowed:
            raise ValueError(f"source is {one!r}; it must be one of {', '.join(map(repr, allowed))}")
    if len(targets) != len(output.boxes):
        raise ValueError(f"{len(targets)} lists of target boxes for {len(output.boxes)} images")
    if not isinstance(source, str) and len(source) != len(targets):
        raise ValueError(f"{len(source)} sources for {len(targets)} images")
    with torch.autocast(output.boxes.device.type, enabled=False):
        boxes, counts = _pad(targets, output.boxes)
        stages = _stages(output, source, boxes, weights)
        assigned = _assign(stages, counts, dense_encoder_topk)
        found: dict[str, Tensor] = {}
        total = output.boxes.new_zeros(())
        for stage, pairs in zip(stages, assigned):
            dense = dense_encoder_topk > 0 and stage.name == "_enc"
            targeted = max(1, sum(counts)) if normaliser is None else normaliser
            divisor = max(1, len(pairs[0])) * parts if dense else targeted
            terms = _stage_loss(stage, boxes, pairs, divisor, weights, quality_focal)
            total = total + sum(getattr(weights, name) * value for name, value in terms.items())
            found |= {name + stage.name: value.detach() for name, value in terms.items()}
    return {"loss": total, **found}


def _pad(targets: Sequence[Tensor], like: Tensor) -> tuple[Tensor, list[int]]:
    """Targets as one ``(B, M, 4)`` cxcywh tensor, zeros where an image has fewer, and each image's count."""
    counts = [len(boxes) for boxes in targets]
    padded = like.new_zeros(len(targets), max(counts, default=0), 4)
    for row, boxes in zip(padded, targets):
        if len(boxes):
            row[: len(boxes)] = boxes.to(row)
    return xyxy_to_cxcywh(padded), counts


def _stages(output: ProposerOutput, source: str | Sequence[str], targets: Tensor, weights: LossWeights) -> list[_Stage]:
    """Decoder layers and the first stage, with their matching costs ``(B, n, M)``."""
    coco, sa1b = output.layer_coco_logits, output.layer_sa1b_logits
    if isinstance(source, str):
        heads = [logits for logits, used in zip((coco, sa1b), _HEADS[source], strict=True) if used]
    else:
        # Both heads take part whatever the batch holds (one perhaps with a gradient of zero), so that all processes
        # of a step have gradients for the same parameters.
        is_coco = torch.tensor([one == "coco" for one in source], device=coco.device)
        heads = [torch.where(is_coco[:, None], coco, sa1b)]
    logits = torch.stack(heads, 1)  # L K B Q
    last = len(logits) - 1
    given = [("" if i == last else f"_{i}", output.layer_boxes[i], logits[i]) for i in range(len(logits))]
    given.append(("_enc", output.encoder_boxes, output.encoder_logits[None]))
    return [_Stage(name, b, l, _matching_cost(b.detach(), l.detach(), targets, weights)) for name, b, l in given]


def _matching_cost(boxes: Tensor, logits: Tensor, targets: Tensor, weights: LossWeights) -> Tensor:
    """Cost of every pair of a prediction and a target, ``(B, n, M)``."""
    probability = logits.sigmoid()
    alpha, gamma = weights.focal_alpha, weights.focal_gamma
    as_object = -alpha * (1 - probability) ** gamma * (probability + 1e-8).log()
    as_background = -(1 - alpha) * probability**gamma * (1 - probability + 1e-8).log()
    cost = weights.objectness * (as_object - as_background).mean(0)[..., None]
    cost = cost + weights.l1 * torch.cdist(boxes, targets, p=1)
    return cost - weights.giou * generalised_iou_matrix(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))


def _assign(stages: list[_Stage], counts: list[int], dense_topk: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every stage the matched (image, prediction, target) indices, three tensors of one length."""
    # Costs leave the device in one transfer: waiting for it once a stage and image would dominate on a GPU.
    hungarian = [stage for stage in stages if not (dense_topk and stage.name == "_enc")]
    flat = torch.cat([stage.cost.flatten() for stage in hungarian]).nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
    costs = flat.cpu().split([stage.cost.numel() for stage in hungarian])
    device = flat.device
    result = [_hungarian(cost.view(stage.cost.shape).numpy(), counts) for cost, stage in zip(costs, hungarian)]
    pairs = [tuple(torch.tensor(column, dtype=torch.long, device=device) for column in rows) for rows in result]
    if len(hungarian) < len(stages):
        pairs.append(_one_to_many(stages[-1].cost, counts, dense_topk))
    return pairs


def _hungarian(cost, counts: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The cheapest one-to-one matching of every image, for one stage's numpy costs ``(B, n, M)``."""
    from scipy.optimize import linear_sum_assignment

    images: list[int] = []
    predictions: list[int] = []
    chosen: list[int] = []
    for image, count in enumerate(counts):
        if count:
            rows, columns = linear_sum_assignment(cost[image, :, :count])
            images += [image] * len(rows)
            predictions += rows.tolist()
            chosen += columns.tolist()
    return images, predictions, chosen


def _one_to_many(cost: Tensor, counts: list[int], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` cheapest predictions of every target; one wanted by several targets goes to its cheapest."""
    if cost.shape[2] == 0:
        empty = torch.empty(0, dtype=torch.long, device=cost.device)
        return empty, empty, empty
    real = torch.arange(cost.shape[2], device=cost.device) < torch.tensor(counts, device=cost.device)[:, None]
    cheapest = cost.topk(min(k, cost.shape[1]), dim=1, largest=False).indices
    wanted = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, cheapest, True) & real[:, None]
    price, target = cost.masked_fill(~wanted, torch.inf).min(2)
    image, prediction = (price < torch.inf).nonzero(as_tuple=True)
    return image, prediction, target[image, prediction]


def _stage_loss(
    stage: _Stage,
    targets: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    normaliser: float,
    weights: LossWeights,
    quality_focal: bool,
) -> dict[str, Tensor]:
    """The three unweighted terms of one stage, sums over the batch divided by ``normaliser``."""
    image, prediction, target = pairs
    boxes, wanted = stage.boxes[image, prediction], targets[image, target]
    corners, wanted_corners = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted)
    goal = torch.zeros_like(stage.logits)
    goal[:, image, prediction] = iou(corners, wanted_corners).detach() if quality_focal else 1.0
    return {
        "objectness": _focal(stage.logits, goal, weights, quality_focal).sum() / len(goal) / normaliser,
        "l1": (boxes - wanted).abs().sum() / normaliser,
        "giou": (1 - generalised_iou(corners, wanted_corners)).sum() / normaliser,
    }


def _focal(logits: Tensor, goal: Tensor, weights: LossWeights, quality: bool) -> Tensor:
    """Focal loss (Lin et al. 2017) for goals of 0 and 1, or varifocal loss for goals in [0, 1]; elementwise."""
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    probability = logits.sigmoid()
    alpha, gamma = weights.focal_alpha, weights.focal_gamma
    if quality:
        # Varifocal: easy background counts less, objects by their IoU. (1 - alpha) is background's share, as below.
        return entropy * torch.where(goal > 0, goal, (1 - alpha) * probability.detach() ** gamma)
    wrong = probability * (1 - goal) + (1 - probability) * goal
    return entropy * wrong**gamma * (alpha * goal + (1 - alpha) * (1 - goal))
