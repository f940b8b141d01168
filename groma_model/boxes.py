"""The one box module: formats, clipping, areas and IoU.

Inside the project a box is float ``xyxy``, normalised to [0, 1] of the *original* image. Every conversion to another
format or frame happens at an edge, with a function of this module. All functions take tensors of shape ``(..., 4)``
and keep dtype and device; they raise nothing and clip nothing unless their name says so.
"""

from __future__ import annotations

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size, same frame."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, same frame."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Top-left corner and size (COCO's format) to corners, same frame."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x, y, x + w, y + h], -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to top-left corner and size (COCO's format), same frame."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, y1, x2 - x1, y2 - y1], -1)


def normalise(boxes: Tensor, width: float, height: float) -> Tensor:
    """Pixel boxes (xyxy, cxcywh or xywh) to fractions of an image of ``width`` x ``height`` pixels."""
    return boxes / boxes.new_tensor([width, height, width, height])


def denormalise(boxes: Tensor, width: float, height: float) -> Tensor:
    """Fractions of an image to pixels; the inverse of :func:`normalise`."""
    return boxes * boxes.new_tensor([width, height, width, height])


def clip(boxes: Tensor) -> Tensor:
    """Clip normalised boxes to the image, component by component."""
    return boxes.clamp(0.0, 1.0)


def area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes, shape ``(...)``; boxes with a negative side have area 0."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise IoU of xyxy boxes ``(..., n, 4)`` and ``(..., m, 4)`` of one frame: ``(..., n, m)``.

    It is 0 where the union is empty.
    """
    return _iou_union_hull(a[..., :, None, :], b[..., None, :, :])[0]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise IoU of xyxy boxes of equal (broadcastable) shape ``(..., 4)``: ``(...)``."""
    return _iou_union_hull(a, b)[0]


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise generalised IoU (Rezatofighi et al. 2019) of xyxy boxes: ``(...)`` in [-1, 1]."""
    overlap, union, hull = _iou_union_hull(a, b)
    return overlap - torch.where(hull > 0, (hull - union) / hull.clamp(min=1e-12), torch.zeros_like(hull))


def generalised_iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise generalised IoU of ``(..., n, 4)`` and ``(..., m, 4)``: ``(..., n, m)``."""
    return generalised_iou(a[..., :, None, :], b[..., None, :, :])


def _iou_union_hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - intersection
    hull_sides = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = hull_sides[..., 0] * hull_sides[..., 1]
    overlap = torch.where(union > 0, intersection / union.clamp(min=1e-12), torch.zeros_like(union))
    return overlap, union, hull
