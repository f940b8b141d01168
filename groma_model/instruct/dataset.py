"""Rows of a Groma-Instruct file, which training reads with the reader ``groma_instruct``.

A JSON list with one row a picture, in the form that the released code's ``GromaInstruct`` data set reads:
``file_name``, ``width``, ``height``, ``boxes`` (xywh in pixels) and ``conversation``, whose turns have ``value`` and
alternate from the user's to the assistant's. An assistant's ``value`` ties phrases to boxes,
``<p>a dog</p><roi><ground_box></roi>``, and its ``box_inds`` say which of ``boxes`` each ``<ground_box>`` stands for.
Rows written here also have ``image_id`` and, for pictures that are in COCO, ``coco_id``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groma_model.instruct.parse import GroundedTurn
from groma_model.instruct.sources import SourceImage


def instruct_row(image: SourceImage, turns: Sequence[GroundedTurn]) -> dict[str, Any]:
    """One row of a Groma-Instruct file."""
    boxes = []
    for x1, y1, x2, y2 in (region.box for region in image.regions):
        pixels = (x1 * image.width, y1 * image.height, (x2 - x1) * image.width, (y2 - y1) * image.height)
        boxes.append([round(value, 2) for value in pixels])
    conversation: list[dict[str, Any]] = []
    for turn in turns:
        conversation.append({"from": "human", "value": turn.question})
        inds = [marker - 1 for marker in turn.markers]
        conversation.append({"from": "gpt", "value": turn.answer, "box_inds": inds})
    return {
        "image_id": image.id,
        **({"coco_id": image.coco_id} if image.coco_id is not None else {}),
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
        "boxes": boxes,
        "conversation": conversation,
    }
