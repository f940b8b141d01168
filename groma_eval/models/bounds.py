"""Bounds: answers that understand nothing, or that look at the ground truth.

They say what a figure is worth. The image-blind ones (``center``, ``whole-image``, ``majority``, ``blind``) show what
the benchmark's statistics alone give, ``random-proposal`` and ``largest-proposal`` what the region proposals alone
give, and ``oracle-proposal`` what is left to a perfect choice among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groma_eval.core import (
    Box,
    Decoding,
    HarnessError,
    ImageAnswer,
    Model,
    ModelInfo,
    Prediction,
    Question,
    Sample,
    TrainingData,
)
from groma_eval.metrics.boxes import TIE
from groma_eval.models import majority

CENTER: Box = (0.25, 0.25, 0.75, 0.75)
WHOLE_IMAGE: Box = (0.0, 0.0, 1.0, 1.0)
_HIT = 0.5 - TIE  # as the metrics read "at least 0.5"
_GROUND = frozenset({"ground_one", "ground_all"})
_NO_PICTURES = TrainingData(complete=True)


class FixedBox:
    """The same box for every question; opens no image."""

    def __init__(self, name: str, box: Box):
        self.box = box
        self.info = ModelInfo(
            name, _GROUND, exposes_confidences=True, needs_images=False, training_data=_NO_PICTURES
        )  # fmt: skip

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`."""
        for sample in samples:
            yield ImageAnswer(sample.image_id, [_boxes(q, [self.box], [1.0]) for q in _known(self, sample)])


class Majority:
    """The commonest training answer: per question group (VQA), one caption for every region or scene. No image.

    Args:
        name: as in tables.
        training_answers: a training file (VQA or scene caption JSONL, region caption JSON) that takes the place of
            what it holds in the bundled table.
    """

    def __init__(self, name: str, training_answers: str | Path | None = None):
        fitted = majority.fit_any(training_answers) if training_answers and Path(training_answers).is_file() else {}
        self.table: dict[str, Any] = fitted if len(fitted) == 3 else _bundled_if_any(fitted)
        self.info = ModelInfo(name, frozenset(self.table), needs_images=False, training_data=_NO_PICTURES)

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`."""
        for sample in samples:
            texts = ((question, self._text(question)) for question in _known(self, sample))
            yield ImageAnswer(sample.image_id, [Prediction(q.id, raw=text, text=text) for q, text in texts])

    def _text(self, question: Question) -> str:
        entry = self.table[question.kind]
        if isinstance(entry, str):
            return entry
        # A group may name several divisions, "conversation/attribute": the last known one is the finest.
        known = [part for part in (question.group or "").split("/") if part in entry["groups"]]
        return entry["groups"][known[-1]] if known else entry["all"]


class ProposalChoice:
    """A choice among a model's region proposals by ``choose(question, proposals, objectness, seed)``.

    ``choose`` returns indices of proposals in the order of emission. Proposals and objectness are passed on, so that
    the store holds what was chosen from.
    """

    def __init__(self, name: str, model: Model, choose: Callable[..., list[int]], oracle: bool = False):
        if "propose" not in model.info.capabilities:
            raise HarnessError(
                f"model {name!r}: {model.info.name} exposes no region proposals; choose a model that does"
            )
        self.model = model
        self.choose = choose
        self.info = ModelInfo(
            name, _GROUND, checkpoint=model.info.checkpoint, checkpoint_hash=model.info.checkpoint_hash,
            exposes_regions=True, exposes_confidences=not oracle, oracle=oracle, training_data=model.info.training_data,
        )  # fmt: skip

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`."""
        asked = {sample.image_id: sample for sample in samples}
        bare = [replace(sample, questions=(Question(f"{sample.image_id}/propose", "propose"),)) for sample in samples]
        for perceived in self.model.answer(bare, decoding, prompts, protocol):
            sample = asked[perceived.image_id]
            if perceived.error is not None or perceived.proposals is None:
                yield failed_image(sample, perceived.error or "the model gave no region proposals")
                continue
            boxes, scores = perceived.proposals, perceived.objectness or [1.0] * len(perceived.proposals)
            predictions = []
            for question in _known(self, sample):
                chosen = self.choose(question, boxes, scores, decoding.seed)
                # The oracle's order of emission is the one to match in, so it states no confidences.
                confidences = None if self.info.oracle else [scores[i] for i in chosen]
                predictions.append(_boxes(question, [boxes[i] for i in chosen], confidences))
            yield ImageAnswer(sample.image_id, predictions, boxes, perceived.objectness)


class Blind:
    """A model that is shown another picture: the next different one of the benchmark (the last one gets the first).

    The pairing is made by :meth:`prepare` from all the benchmark's samples and so does not depend on the batch size;
    without it the pictures of a batch are rotated among themselves.
    """

    def __init__(self, name: str, model: Model):
        self.model = model
        self._pairs: dict[Path, Path] = {}
        inner = model.info
        self.info = replace(inner, name=name, size="-", parameters=None, notes=(*inner.notes, "given another image"))

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Pair every picture of a benchmark with another; called once with all its samples, in file order."""
        self._pairs = _rotated(samples)

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`."""
        prepared = all(sample.image in self._pairs for sample in samples)
        pairs = self._pairs if prepared else _rotated(samples)
        shown = []
        for sample in samples:
            if sample.image is not None and pairs.get(sample.image, sample.image) == sample.image:
                yield failed_image(sample, "there is no other picture to show; evaluate at least two images")
            else:
                shown.append(replace(sample, image=None if sample.image is None else pairs[sample.image]))
        if shown:
            yield from self.model.answer(shown, decoding, prompts, protocol)


def failed_image(sample: Sample, error: str) -> ImageAnswer:
    """The answer of an image that could not be perceived: every question of it failed."""
    predictions = [Prediction(question.id, status="failed", error=error) for question in sample.questions]
    return ImageAnswer(sample.image_id, predictions, error=error)


def choose_random(question: Question, proposals: Sequence[Box], objectness: Sequence[float], seed: int) -> list[int]:
    """One proposal, or for ``ground_all`` one to three different ones; the same ones whenever the question is asked."""
    # A text seeds Random through SHA-512: independent of the process, the batch and the order of questions.
    draw = random.Random(f"{seed}:{question.id}")
    count = 1 if question.kind == "ground_one" else draw.randint(1, 3)
    return draw.sample(range(len(proposals)), min(count, len(proposals)))


def choose_largest(question: Question, proposals: Sequence[Box], objectness: Sequence[float], seed: int) -> list[int]:
    """The proposal of largest area; of equal ones the one with the higher objectness."""
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in proposals]
    return [areas.index(max(areas))] if areas else []


def choose_oracle(question: Question, proposals: Sequence[Box], objectness: Sequence[float], seed: int) -> list[int]:
    """For every target box its best proposal, one to one; the recall at IoU 0.5 is that of all the proposals.

    Pairs are made best IoU first: a metric that goes through the boxes in this order finds the same pairs, at every
    threshold. COCO's matching goes by score instead, which in a crowd may make another *number* of pairs at 0.5; then
    its pairs are taken, so that the bound is exactly the recall that COCO's evaluation gives the proposals.
    """
    targets = question.target.get("boxes", ())
    overlaps = [[box_iou(box, target) for target in targets] for box in proposals]
    best: list[tuple[float, int, int]] = []
    ranked = sorted((-iou, i, j) for i, row in enumerate(overlaps) for j, iou in enumerate(row) if iou > 0)
    taken_boxes: set[int] = set()
    taken_targets: set[int] = set()
    for negative, i, j in ranked:
        if i not in taken_boxes and j not in taken_targets:
            best.append((-negative, i, j))
            taken_boxes.add(i)
            taken_targets.add(j)
    coco = _coco_matches(overlaps, len(targets))
    if sum(iou >= _HIT for iou, _, _ in best) != len(coco):
        return coco
    return [i for _, i, _ in best]


def _coco_matches(overlaps: Sequence[Sequence[float]], count: int) -> list[int]:
    # pycocotools' evaluateImg at IoU 0.5 without crowds: by falling score, each box takes the best target still free.
    free = set(range(count))
    matched = []
    for i, row in enumerate(overlaps):
        candidates = [j for j in free if row[j] >= _HIT]
        if candidates:
            # On equal overlaps pycocotools keeps the later target.
            free.discard(max(candidates, key=lambda j: (row[j], j)))
            matched.append(i)
    return matched


def box_iou(a: Box, b: Box) -> float:
    """IoU of two xyxy boxes of one frame; 0 where the union is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def _boxes(question: Question, boxes: list[Box], confidences: list[float] | None) -> Prediction:
    return Prediction(question.id, boxes=boxes, confidences=confidences, status="ok" if boxes else "unparsed")


def _known(model: Model, sample: Sample) -> Iterator[Question]:
    for question in sample.questions:
        if question.kind not in model.info.capabilities:
            raise HarnessError(f"model {model.info.name!r} cannot answer {question.kind!r} questions ({question.id})")
        yield question


def _rotated(samples: Sequence[Sample]) -> dict[Path, Path]:
    # Over *different* pictures: samples that share one must not be shown it as "another".
    pictures = list(dict.fromkeys(sample.image for sample in samples if sample.image is not None))
    return dict(zip(pictures, pictures[1:] + pictures[:1]))


def _bundled_if_any(fitted: dict[str, Any]) -> dict[str, Any]:
    if fitted and not majority.BUNDLED_TABLE.is_file():
        return fitted
    return majority.bundled() | fitted


@dataclass(frozen=True)
class Bound:
    """An entry of :data:`BOUNDS`; ``build(name)``, ``build(name, model)`` or, for majority, ``build(name, file)``."""

    about: str
    build: Callable[..., Model]
    needs_model: bool = False


BOUNDS: dict[str, Bound] = {
    "center": Bound("a box of half the width and height in the middle", lambda name: FixedBox(name, CENTER)),
    "whole-image": Bound("the whole image as the box", lambda name: FixedBox(name, WHOLE_IMAGE)),
    "majority": Bound("the commonest training answer", Majority),
    "oracle-proposal": Bound(
        "the proposals that overlap the targets best",
        lambda name, m: ProposalChoice(name, m, choose_oracle, True),
        True,
    ),
    "random-proposal": Bound(
        "proposals drawn at random", lambda name, m: ProposalChoice(name, m, choose_random), needs_model=True
    ),
    "largest-proposal": Bound(
        "the largest proposal", lambda name, m: ProposalChoice(name, m, choose_largest), needs_model=True
    ),
    "blind": Bound("the model given another image", Blind, needs_model=True),
}
