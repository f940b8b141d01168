"""What all tasks share: joining predictions to questions by id, counting statuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from groma_eval.core import Box, HarnessError, Prediction, Question, Sample
from groma_eval.metrics.boxes import TIE, iou_matrix

STATUSES = ("ok", "unparsed", "missing", "failed")
PROPOSED_IOU = 0.5  # a target counts as proposed when a proposal overlaps it by at least this


@dataclass(frozen=True)
class Regions:
    """Proposals of one image as the model exposed them: normalised xyxy boxes with objectness, best first."""

    boxes: Sequence[Box]
    objectness: Sequence[float] | None = None


@dataclass(frozen=True)
class Answered:
    """One question with its image and its prediction; ``prediction`` is an empty one where the status is not ok."""

    sample: Sample
    question: Question
    prediction: Prediction
    regions: Regions | None


def join(
    samples: Sequence[Sample], predictions: Mapping[str, Prediction], regions: Mapping[str, Regions]
) -> tuple[list[Answered], dict[str, int]]:
    """Every question exactly once with its prediction, and the counts of questions, images and statuses.

    A question without a prediction counts as ``missing``; whatever is not ``ok`` is scored as an empty answer.
    """
    counts = {"questions": 0, "images": len(samples), **dict.fromkeys(STATUSES, 0)}
    answered = []
    for sample in samples:
        for question in sample.questions:
            prediction = predictions.get(question.id) or Prediction(question.id, status="missing")
            counts["questions"] += 1
            counts[prediction.status] += 1
            if prediction.status != "ok":
                prediction = Prediction(question.id, status=prediction.status, error=prediction.error)
            answered.append(Answered(sample, question, prediction, regions.get(sample.image_id)))
    if not answered:
        raise HarnessError("no questions to score: the benchmark (or --limit) leaves none")
    return answered, counts


def is_proposed(regions: Regions, targets: Sequence[Box]) -> list[bool]:
    """Whether some proposal overlaps each target by :data:`PROPOSED_IOU`."""
    if not len(regions.boxes):
        return [False] * len(targets)
    return [bool(best >= PROPOSED_IOU - TIE) for best in iou_matrix(regions.boxes, targets).max(axis=0)]


def percent(hits: float, total: float) -> float:
    """100 hits / total, 0 for nothing of nothing."""
    return 100.0 * hits / total if total else 0.0


def by_group(answered: Sequence[Answered], values: Sequence[float]) -> Iterator[tuple[str, list[float]]]:
    """Values by sub-split, names sorted; a group ``"a/b"`` belongs to both ``a`` and ``b``."""
    groups: dict[str, list[float]] = {}
    for item, value in zip(answered, values, strict=True):
        for name in filter(None, (item.question.group or "").split("/")):
            groups.setdefault(name, []).append(value)
    yield from sorted(groups.items())
