"""What the report says of one answer: a value, right or wrong where that is defined, and the kind of miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groma_eval.metrics.as_many import LARGE, SMALL

NOT_PROPOSED, NOT_SELECTED = 1, 2  # bits of Verdict.miss
_SIZES = {"small": 1, "medium": 2, "large": 4}  # bits of area_bits

#: What "right" means, by task; where an answer has no such thing the report speaks of better and worse.
RIGHT = {
    "rec": "the judged box reaches IoU 0.5",
    "grounding": "every true box is found at IoU 0.5 and no answered box is wrong",
    "caption": "every attribute, or every phrase with its box, is right",
    "vqa": "the answer is the known one",
    "proposals": "every true box is overlapped by 0.5",
}


@dataclass(frozen=True)
class Verdict:
    """``value`` in [0, 1] or None, ``right`` None where the task knows no right, ``miss`` bits of the two kinds."""

    value: float | None
    right: bool | None
    miss: int


def judge(task: str, row: Mapping[str, Any]) -> Verdict:
    """The verdict on a stored row, from its per-question scores alone."""
    scores = {k: float(v) for k, v in row["scores"].items() if isinstance(v, int | float)}
    value, right = _VERDICTS.get(task, _unknown)(scores)
    miss = NOT_PROPOSED * (scores.get("not_proposed", 0) > 0) + NOT_SELECTED * (scores.get("not_selected", 0) > 0)
    return Verdict(value, right, miss)


def area_bits(row: Mapping[str, Any], width: float, height: float) -> int:
    """Which of COCO's sizes (pixels: small < 32^2 <= medium < 96^2 <= large) the question's boxes have, as bits."""
    return sum({_SIZES[size_of(area)] for area in areas(row, width, height)})


def areas(row: Mapping[str, Any], width: float, height: float) -> list[float]:
    """Pixel areas of the true boxes (the annotations' or the boxes' own), or of the box asked about."""
    target = row["target"]
    boxes = target.get("boxes") or ([row["box"]] if row["box"] else [])
    given = target.get("areas")
    if isinstance(given, list) and len(given) == len(boxes) and all(isinstance(a, int | float) for a in given):
        return [float(area) for area in given]
    return [max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) * width * height for b in boxes]


def size_of(area: float) -> str:
    """small, medium or large."""
    return "small" if area < SMALL else "medium" if area < LARGE else "large"


def _rec(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    return scores.get("iou"), bool(scores["acc@0.5"]) if "acc@0.5" in scores else None


def _grounding(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    if not {"tp", "n_pred", "n_gt"} <= scores.keys():
        return None, None
    total = scores["n_pred"] + scores["n_gt"]
    f1 = 2 * scores["tp"] / total if total else 1.0
    return f1, f1 == 1.0


def _caption(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    attributes = [value for name, value in scores.items() if name.startswith("attr/")]
    if attributes:
        return sum(attributes) / len(attributes), all(attributes)
    if "phrase_tp" in scores:
        total = scores["phrase_n_pred"] + scores["phrase_n_gt"]
        f1 = 2 * scores["phrase_tp"] / total if total else 1.0
        return f1, f1 == 1.0
    return (scores["rouge_l"] / 100 if "rouge_l" in scores else None), None


def _vqa(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    if "accuracy" in scores:
        return scores["accuracy"], scores["accuracy"] >= 1.0
    return (scores["model"] / 10 if "model" in scores else None), None


def _proposals(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    if not {"covered@0.5", "n_gt"} <= scores.keys():
        return None, None
    share = scores["covered@0.5"] / scores["n_gt"] if scores["n_gt"] else 1.0
    return share, share == 1.0


def _unknown(scores: Mapping[str, float]) -> tuple[float | None, bool | None]:
    return None, None


_VERDICTS = {"rec": _rec, "grounding": _grounding, "caption": _caption, "vqa": _vqa, "proposals": _proposals}
