"""The few types that everything in the harness speaks.

The unit of work is a :class:`Sample`: an image with all its questions. Readers yield samples, model adapters receive
batches of them and return an :class:`ImageAnswer` each, tasks turn questions and predictions into scores. Boxes are
float ``xyxy`` tuples, normalised to [0, 1] of the original image, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Box = tuple[float, float, float, float]
Status = Literal["ok", "unparsed", "missing", "failed"]


class HarnessError(Exception):
    """Bad input or a bad call: one clear line (what is wrong, where, the mend). Commands print it and exit 2."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing asked about an image.

    ``kind`` is what is asked of the model, and names the adapter capability it needs:

    - ``"ground_one"``: ``text`` is a phrase; the answer is one box (REC).
    - ``"ground_all"``: ``text`` is a phrase or category; the answer is every matching box.
    - ``"describe"``: ``box`` is a region; the answer is text.
    - ``"describe_scene"``: the answer is a caption with phrases tied to boxes.
    - ``"converse"``: ``text`` is a question, ``history`` earlier (question, answer) turns; the answer is text. A
      ``box`` is named ``<box>`` in the text or in the turn of the history that it belongs to.
    - ``"propose"``: nothing is asked; only the proposals are wanted (class-agnostic detection).

    ``target`` is the ground truth in the task's own form (never shown to the model): ``{"boxes": [...]}``,
    ``{"references": [...]}``, ``{"answer": ...}``; see the task's docstring. ``group`` is the sub-split the question is
    reported under (``"attribute"``, a category's frequency, ...).
    """

    id: str
    kind: str
    text: str | None = None
    box: Box | None = None
    history: tuple[tuple[str, str], ...] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its questions. ``image`` may be None where no picture is needed (sizes in pixels).

    ``loaded`` is what the adapter's own loader made of the picture (:class:`LoadsPictures`), None where it did not run.
    """

    image_id: str
    image: Path | None
    width: int
    height: int
    questions: tuple[Question, ...]
    loaded: Any = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Prediction:
    """A model's answer to one question.

    ``raw`` is the model's text as emitted, ``text`` the same without grounding markup. ``boxes`` are in the order of
    emission, with one confidence each (None where the model gives none). ``phrases`` ties spans of ``text`` to boxes:
    ``{"phrase": str, "boxes": [Box, ...]}``.
    """

    question_id: str
    raw: str = ""
    text: str = ""
    boxes: list[Box] = field(default_factory=list)
    confidences: list[float] | None = None
    phrases: list[dict[str, Any]] = field(default_factory=list)
    prompt: str = ""
    status: Status = "ok"
    error: str | None = None


@dataclass
class ImageAnswer:
    """All predictions for one sample, and the region proposals where the model exposes them (score-descending)."""

    image_id: str
    predictions: list[Prediction]
    proposals: list[Box] | None = None
    objectness: list[float] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a protocol fixes of a model's own workings; an adapter follows what its model has, None leaves it alone.

    ``preprocessing``: how pictures are read and resized, ``"pil"`` or ``"cv2"``. ``score_threshold``: objectness that a
    proposal must exceed to become a region. ``instructions`` by question kind: the model's own wording, with its
    markup, ``{text}`` (``{text:lower}``: in lower case) and ``{box}``; they take the place of its native templates.
    """

    preprocessing: str | None = None
    score_threshold: float | None = None
    instructions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded, from the card (or ``--gen-args``): greedy unless ``do_sample``.

    ``setup`` comes from the card alone.
    """

    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 1.0
    seed: int = 0
    setup: Setup = Setup()


@dataclass(frozen=True)
class ImageIds:
    """How a benchmark's pictures are known: the collection they come from and their ids in it.

    ``pattern`` finds the id, its one group, in the stem of the picture's file name (or in the sample's image id where
    there is no file); zeros in front of a number do not count. ``set`` names the part of the collection where all
    pictures are of one.
    """

    source: str
    pattern: str = r"(\d+)$"
    set: str | None = None


@dataclass(frozen=True)
class TrainingData:
    """The pictures that a model's training saw, by source: named sets, and single ids (:mod:`groma_eval.leakage`).

    ``complete``: whether that is all of them.
    """

    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    image_ids: Mapping[str, frozenset[str]] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True)
class ModelInfo:
    """What an adapter declares about itself. ``frame`` and ``box_format`` are declared, never guessed from numbers."""

    name: str
    capabilities: frozenset[str]  # of Question.kind
    size: str = "-"  # as printed in tables: "7B", "12M"
    parameters: int | None = None
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    exposes_regions: bool = False
    exposes_confidences: bool = False
    box_format: str = "xyxy"
    frame: str = "0-1"
    needs_images: bool = True
    notes: tuple[str, ...] = ()  # printed as footnotes, e.g. "uses a pointer head"
    oracle: bool = False  # a bound that looks at the ground truth
    templates: Mapping[str, str] = field(default_factory=dict)  # native prompt per question kind
    training_data: TrainingData | None = None  # None: nothing is stated


@runtime_checkable
class Model(Protocol):
    """A model adapter. ``answer`` may yield images in any order, but every image once.

    ``prompts`` gives the card's reference prompt per question kind, with ``{text}`` and ``{box}`` placeholders, used
    when the adapter declares no native template for that kind. An adapter reports a failure of one image or question
    in the answer's ``error``/``status`` instead of raising.
    """

    info: ModelInfo

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]: ...


@runtime_checkable
class LoadsPictures(Protocol):
    """What an adapter may have besides: pictures that are read ahead of it, in worker processes.

    ``loader`` gives a function that can be pickled (one of a module, or a ``functools.partial`` of one). It makes of a
    sample what ``answer`` needs of its picture, best as a PIL image or an array, and ``answer`` finds that in
    ``sample.loaded``. Where the function raised, or nothing is read ahead, ``loaded`` is None: ``answer`` then opens
    the picture itself, and reports what is wrong with it.
    """

    def loader(self, decoding: Decoding) -> Callable[[Sample], Any]: ...


@runtime_checkable
class CountsTokens(Protocol):
    """What an adapter may have besides: how many tokens an image with its questions takes.

    ``--batch-size auto`` fills its batches by it; without it they are estimated from the length of the texts.
    """

    def cost(self, sample: Sample) -> int: ...


@dataclass(slots=True)
class SampleScore:
    """Per-question scores: ``values`` are what metrics are averaged from (``{"acc@0.5": 1.0, "iou": 0.83}``)."""

    question_id: str
    values: Mapping[str, float | int | bool | None]


@dataclass
class TaskResult:
    """What a task makes of a benchmark's predictions: metrics in percent where the field prints percent."""

    metrics: dict[str, float]
    counts: dict[str, int]
    scores: list[SampleScore]
