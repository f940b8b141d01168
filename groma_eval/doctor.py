"""Whether a run's boxes fit the frame that its model declares: a wrong declaration scores near nothing and looks like a
bad model.

Nothing is changed or guessed for the score. What is looked at: boxes that reach outside the picture, boxes that all lie
in its top left corner, corners in the wrong order (sizes read as corners), and whether the same numbers, read in
another frame or form, meet the ground truth far better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from groma_eval.box_formats import FORMATS, Canvas, from_unit
from groma_eval.core import HarnessError, ModelInfo, Prediction, Question, Sample
from groma_eval.frames import FORMS, FRAMES, OVERSHOOT, Frame
from groma_eval.models.prompting import CUT_OFF

#: Fewer boxes tell nothing of corners and of other frames.
ENOUGH = 20
_OUTSIDE = 0.1  # share of boxes out of the picture, or with corners in the wrong order, that is told
_CORNER = 0.7  # of the farthest target: boxes that never reach so far lie in a corner
_BETTER, _TIMES, _MOST = 0.1, 1.5, 2 / 3  # mean IoU above the declared one by so much, so many times, for so many
_OTHER_FRAMES = ("pixels", "0-1", "0-1000")
_OTHER_FORMS = ("xyxy", "xywh", "cxcywh", "yxyx")


@dataclass
class Diagnosis:
    """What was found of one benchmark: ``boxes`` looked at, ``notes`` one line a finding (none: the boxes fit)."""

    declared: str
    boxes: int
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against the declared frame."""
        return not self.notes


@dataclass(frozen=True)
class _Boxes:
    """All boxes of a benchmark's answers about places.

    ``unit`` [N, 4]: xyxy in [0, 1]; ``written`` [N, 4]: the numbers as the model gave them, NaN where they are not
    known; ``sizes`` [N, 2]: width and height of the picture; ``first``: indices of the boxes that REC scores, with
    their ``targets``.
    """

    unit: np.ndarray
    written: np.ndarray
    sizes: np.ndarray
    first: list[int]
    targets: list[np.ndarray]


def diagnose(
    samples: Iterable[Sample], predictions: Mapping[str, Prediction], box_format: str, frame: str
) -> Diagnosis:
    """Hold the boxes of a benchmark's answers against the declared format and frame.

    Args:
        samples: with their questions and targets.
        predictions: by question id, boxes xyxy in [0, 1].
        box_format, frame: as in :class:`groma_eval.core.ModelInfo`.
    """
    found = _collect(samples, predictions, box_format, frame)
    diagnosis = Diagnosis(f"{box_format} ({frame})", len(found.unit))
    if len(found.unit):
        diagnosis.notes += _outside(found)
        diagnosis.notes += _corner(found)
        diagnosis.notes += _disorder(found)
        diagnosis.notes += _other_frames(found, box_format, frame)
    return diagnosis


def fit_warnings(
    benchmark: str, samples: Iterable[Sample], predictions: Mapping[str, Prediction], info: ModelInfo
) -> list[str]:
    """What a run says at its end where the boxes of a benchmark do not fit what the model declares; mostly nothing."""
    diagnosis = diagnose(samples, predictions, info.box_format, info.frame)
    cut = sum((p.error or "").startswith(CUT_OFF) for p in predictions.values())
    notes = [f"{benchmark}: {note} (declared: {diagnosis.declared})" for note in diagnosis.notes]
    if cut:
        notes.append(f"{benchmark}: {cut} answers ended at the limit of tokens before they held a box")
    return notes


def diagnose_run(folder: str | Path, benchmarks: Sequence[str] | None = None) -> dict[str, Diagnosis]:
    """A diagnosis for each finished benchmark of a stored run (or for those named) that has answers with boxes.

    Raises:
        HarnessError: ``folder`` is no run, or it has no such benchmark, or that is not finished.
    """
    from groma_eval.store import BenchmarkStore, predictions_of, read_store_json

    folder = Path(folder)
    manifest = read_store_json(folder / "manifest.json")
    for name in benchmarks or ():
        if name not in manifest["benchmarks"]:
            raise HarnessError(f"{folder}: has no benchmark {name!r}; it has: {', '.join(manifest['benchmarks'])}")
        if not BenchmarkStore(folder / name).finished():
            raise HarnessError(f"{folder / name}: is not finished; repeat its groma-eval run command")
    found = {}
    for name in benchmarks or manifest["benchmarks"]:
        store = BenchmarkStore(folder / name)
        if store.finished():
            model = manifest["model"]
            predictions = predictions_of(store.load().values())
            diagnosis = diagnose(store.samples(), predictions, model["box_format"], model["frame"])
            if diagnosis.boxes:
                found[name] = diagnosis
    return found


def _collect(samples: Iterable[Sample], predictions: Mapping[str, Prediction], box_format: str, frame: str) -> _Boxes:
    unit, written, sizes, first, targets = [], [], [], [], []
    for sample in samples:
        for question in sample.questions:
            prediction = predictions.get(question.id)
            if prediction is None or prediction.status != "ok" or not _asks_for_boxes(question):
                continue
            numbers = _written(prediction, box_format, frame, Canvas(sample.width, sample.height))
            if prediction.boxes and question.target.get("boxes"):
                first.append(len(unit))
                targets.append(np.asarray(question.target["boxes"], float).reshape(-1, 4))
            unit += prediction.boxes
            written += numbers
            sizes += [(sample.width, sample.height)] * len(prediction.boxes)
    return _Boxes(
        np.asarray(unit, float).reshape(-1, 4), np.asarray(written, float).reshape(-1, 4),
        np.asarray(sizes, float).reshape(-1, 2), first, targets,
    )  # fmt: skip


def _asks_for_boxes(question: Question) -> bool:
    return question.kind in ("ground_one", "ground_all")


def _written(prediction: Prediction, box_format: str, frame: str, canvas: Canvas) -> list[tuple[float, ...]]:
    """The numbers of a prediction's boxes as they were given: from its text where there is one."""
    unknown = [(np.nan,) * 4] * len(prediction.boxes)
    if box_format in FORMATS and prediction.raw:
        numbers = [four for item in FORMATS[box_format].find(prediction.raw) for four in item.numbers if len(four) == 4]
        return numbers if len(numbers) == len(prediction.boxes) else unknown
    if frame in FRAMES:
        if frame == "pixels" and not (canvas.width and canvas.height):
            return unknown
        form = box_format if box_format in FORMS else "xyxy"
        return [Frame(frame, form).from_unit(box, canvas.width, canvas.height) for box in prediction.boxes]
    if frame == "padded-square":
        return [Frame("0-1", "cxcywh").from_unit(from_unit(frame, box, canvas), 0, 0) for box in prediction.boxes]
    return unknown


def _outside(found: _Boxes) -> list[str]:
    outside = (found.unit.min(axis=1) < -OVERSHOOT) | (found.unit.max(axis=1) > 1 + OVERSHOOT)
    if outside.mean() < _OUTSIDE:
        return []
    return [f"{_share(outside)} of the boxes reach far outside their picture"]


def _corner(found: _Boxes) -> list[str]:
    if len(np.unique(found.unit, axis=0)) < ENOUGH or not found.targets:
        return []
    farthest, reached = max(target.max() for target in found.targets), found.unit.max()
    if reached >= _CORNER * farthest:
        return []
    return [
        f"all boxes lie in the top left {100 * max(reached, 0):.2g} % of width and height, where the targets do not"
    ]


def _disorder(found: _Boxes) -> list[str]:
    crossed = (found.unit[:, 2] < found.unit[:, 0]) | (found.unit[:, 3] < found.unit[:, 1])
    if crossed.mean() < _OUTSIDE:
        return []
    return [f"{_share(crossed)} of the boxes end before they begin: sizes (xywh) read as corners, or y before x"]


def _other_frames(found: _Boxes, box_format: str, frame: str) -> list[str]:
    """The frame and form in which the numbers meet the targets best, where that is far better than as declared."""
    known = np.isfinite(found.written[found.first]).all(axis=1) if found.first else np.zeros(0, bool)
    if len(np.unique(found.written[found.first][known], axis=0)) < ENOUGH:
        return []
    rows = [row for row, usable in zip(found.first, known) if usable]
    targets = [target for target, usable in zip(found.targets, known) if usable]
    declared = _best_ious(found.unit[rows], targets)
    form = box_format if box_format in FORMS else "xyxy"
    ranked = []
    for other_frame in _OTHER_FRAMES:
        for other_form in _OTHER_FORMS:
            sizes = found.sizes[rows]
            if (other_frame, other_form) != (frame, form) and (other_frame != "pixels" or sizes.min() > 0):
                boxes = _READ[other_form](found.written[rows]) / _edges(other_frame, sizes)
                ranked.append((_best_ious(boxes, targets), f"{other_frame}, {other_form}"))
    ious, name = max(ranked, key=lambda entry: entry[0].mean())
    before, after = declared.mean(), ious.mean()
    differs = ious != declared
    if after < before + _BETTER or after < _TIMES * before or (ious > declared)[differs].mean() < _MOST:
        return []
    return [f"read as {name}, the same numbers meet the targets with a mean IoU of {after:.2f} instead of {before:.2f}"]


_READ: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xyxy": lambda n: n,
    "xywh": lambda n: np.concatenate([n[:, :2], n[:, :2] + n[:, 2:]], axis=1),
    "cxcywh": lambda n: np.concatenate([n[:, :2] - n[:, 2:] / 2, n[:, :2] + n[:, 2:] / 2], axis=1),
    "yxyx": lambda n: n[:, [1, 0, 3, 2]],
}


def _edges(frame: str, sizes: np.ndarray) -> np.ndarray:
    if frame == "pixels":
        return np.concatenate([sizes, sizes], axis=1)
    return np.full((len(sizes), 4), 1.0 if frame == "0-1" else 1000.0)


def _best_ious(boxes: np.ndarray, targets: Sequence[np.ndarray]) -> np.ndarray:
    """The best IoU of each box [N, 4] with any of its targets; 0 for a box without extent."""
    owner = np.repeat(np.arange(len(boxes)), [len(target) for target in targets])
    truth, guess = np.concatenate(targets), boxes[owner]
    sides = np.minimum(guess[:, 2:], truth[:, 2:]) - np.maximum(guess[:, :2], truth[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    extent = guess[:, 2:] - guess[:, :2]
    shared[(extent <= 0).any(axis=1)] = 0.0
    union = extent.prod(axis=1) + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared
    best = np.zeros(len(boxes))
    np.maximum.at(best, owner, np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0))
    return best


def _share(flags: np.ndarray) -> str:
    return f"{int(flags.sum())} of {len(flags)} ({100 * flags.mean():.0f} %)"
