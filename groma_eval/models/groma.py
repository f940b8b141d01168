"""The adapter of Groma: every image is perceived once, then all its questions are answered together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import (
    Box,
    Decoding,
    HarnessError,
    ImageAnswer,
    ModelInfo,
    Prediction,
    Question,
    Sample,
    Setup,
    TrainingData,
)
from groma_eval.leakage import read_training_data
from groma_eval.models.bounds import failed_image

if TYPE_CHECKING:
    from PIL.Image import Image

_DTYPES = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16",
}  # fmt: skip
_KINDS = frozenset({"ground_one", "ground_all", "describe", "describe_scene", "converse", "propose"})
#: Settings of proposal selection that may be changed for a run; a change is noted beside the model's name.
_SETTINGS = ("score_threshold", "nms_threshold")
#: Options of loading, see ``groma_model.placement``.
_LOADING = ("device_map", "quantization", "attn_implementation")
#: Of these, what may change answers and so is noted beside the model's name as well.
_NOTED = ("quantization",)


class GromaAdapter:
    """Groma as a :class:`groma_eval.core.Model`.

    Args:
        groma: a :class:`groma_model.Groma`, or a :class:`groma_model.Detector`, which can propose only.
        name: as in tables.
        checkpoint: what it was loaded from.
        notes: footnotes beside those that follow from the configuration.
        fixed: settings that the command line gave; no protocol changes them.
        training_data: what its training saw, None where that is not stated.
    """

    def __init__(
        self,
        groma: Any,
        name: str,
        checkpoint: str | None = None,
        notes: Sequence[str] = (),
        fixed: Collection[str] = (),
        training_data: TrainingData | None = None,
    ):
        self.groma = groma
        self._fixed = frozenset(fixed)
        templates = dict(getattr(groma, "native_prompts", {}))  # a detector has none
        pointer = ("with a pointer head, which the published Groma has not",) if groma.config.pointer_head else ()
        self.info = ModelInfo(
            name=name,
            capabilities=_KINDS if templates else frozenset({"propose"}),
            size=printed_size(groma.num_parameters),
            parameters=groma.num_parameters,
            checkpoint=checkpoint,
            checkpoint_hash=groma.checkpoint_hash,
            exposes_regions=True,
            exposes_confidences=True,
            notes=(*pointer, *notes),
            templates=templates,
            training_data=training_data,
        )

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        name: str,
        device: str | None = None,
        dtype: str | None = None,
        model_args: Mapping[str, str] | None = None,
    ) -> GromaAdapter:
        """The adapter of a bundled name, a folder or a hub id.

        Raises:
            HarnessError: no such checkpoint, one of another kind, or a device, dtype or setting that is not to be had.
        """
        from groma_model import Detector, Groma
        from groma_model.checkpoints import holds_detector, resolve_checkpoint

        settings, loading = _settings(name, model_args or {})
        try:
            folder = resolve_checkpoint(checkpoint)
            if holds_detector(folder):
                if loading:
                    raise ValueError(f"a detector has no language model to load with {next(iter(loading))}")
                groma = Detector.from_pretrained(folder, device=_device(device), dtype=_dtype(dtype))
            else:
                groma = Groma.from_pretrained(folder, device=_device(device), dtype=_dtype(dtype), **loading)
        except (OSError, ValueError) as error:
            raise HarnessError(f"model {name!r}: {' '.join(str(error).split())}") from error
        for key, value in settings.items():
            setattr(groma.config, key, value)
        notes = [f"{key}={value:g}" for key, value in settings.items()]
        notes += [f"{key}={loading[key]}" for key in _NOTED if key in loading]
        return cls(groma, name, checkpoint, notes, settings, read_training_data(folder))

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`; an image that cannot be read fails with all its questions."""
        if decoding.do_sample:
            raise HarnessError(f"model {self.info.name!r} decodes greedily; leave do_sample out of --gen-args")
        opened: list[tuple[Sample, Image]] = []
        preprocessing = _preprocessing(decoding)
        for sample in samples:
            try:
                opened.append((sample, sample.loaded or _open(sample, preprocessing)))
            except HarnessError as error:
                yield failed_image(sample, str(error))
        if not opened:
            return
        asked = [[question for question in sample.questions if question.kind != "propose"] for sample, _ in opened]
        answers: Sequence[Sequence[Any]] = [[] for _ in opened]
        with self._set_up(decoding.setup):
            scenes = self.groma.perceive_batch([image for _, image in opened], preprocessing)
            if any(asked):
                wording = decoding.setup.instructions
                queries = [[_query(q, wording.get(q.kind)) for q in questions] for questions in asked]
                answers = self.groma.answer(scenes, queries, max_new_tokens=decoding.max_new_tokens)
        for (sample, _), scene, questions, given in zip(opened, scenes, asked, answers, strict=True):
            found = {q.id: _prediction(q, answer) for q, answer in zip(questions, given, strict=True)}
            proposals, objectness = _regions(sample, scene)
            predictions = [found.get(question.id) or Prediction(question.id) for question in sample.questions]
            yield ImageAnswer(sample.image_id, predictions, proposals, objectness)

    def loader(self, decoding: Decoding) -> Callable[[Sample], Image]:
        """See :class:`groma_eval.core.LoadsPictures`: decoded and resized."""
        return partial(_load, size=self.groma.config.image_size, preprocessing=_preprocessing(decoding))

    @contextmanager
    def _set_up(self, setup: Setup) -> Iterator[None]:
        """The protocol's selection of regions, as long as this lasts."""
        own = self.groma.config.score_threshold
        if setup.score_threshold is not None and "score_threshold" not in self._fixed:
            self.groma.config.score_threshold = setup.score_threshold
        try:
            yield
        finally:
            self.groma.config.score_threshold = own


def _preprocessing(decoding: Decoding) -> str:
    return decoding.setup.preprocessing or "pil"


def _open(sample: Sample, preprocessing: str) -> Image:
    # OpenCV turns a picture as its EXIF data says.
    return open_image(sample.image, rotate=preprocessing == "cv2")


def _load(sample: Sample, size: int, preprocessing: str) -> Image:
    """The picture as the model takes it, in its own size: nothing is left to do to it but scaling its values."""
    from groma_model.processing import resized

    return resized(_open(sample, preprocessing), size, preprocessing)


def _regions(sample: Sample, scene: Any) -> tuple[list[Box], list[float]]:
    """The regions that answers may point at; where only proposals are asked for, all of them before selection."""
    only_proposals = all(question.kind == "propose" for question in sample.questions)
    boxes = scene.proposals if only_proposals else scene.boxes
    scores = scene.proposal_scores if only_proposals else scene.objectness
    return [_box(box) for box in boxes.tolist()], [float(score) for score in scores.tolist()]


def open_image(path: Path | None, rotate: bool = False) -> Image:
    """The picture at ``path`` as RGB, wholly decoded.

    EXIF rotation is not applied, as annotations are made without, unless ``rotate`` asks for it: OpenCV applies it.

    Raises:
        HarnessError: it is missing, truncated or no picture.
    """
    from PIL import Image, ImageOps

    if path is None:
        raise HarnessError("this model needs the pictures; give their folder with --images or --data-root")
    try:
        with Image.open(path) as image:
            return (ImageOps.exif_transpose(image) if rotate else image).convert("RGB")
    except FileNotFoundError:
        raise HarnessError(f"{path}: there is no such image") from None
    # A broken file makes PIL raise any of these, depending on the format and on where it breaks.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "no picture that PIL knows" if isinstance(error, Image.UnidentifiedImageError) else error
        raise HarnessError(f"{path}: cannot be read as an image ({reason})") from None


def printed_size(parameters: int) -> str:
    """A parameter count as tables print it: 7377311657 is ``7B``, 12345678 is ``12M``, 5500000 is ``5.5M``."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            count = parameters / size
            # Billions are named whole in the field: "7B" is what a 7.4 B Groma is called.
            return f"{count:.0f}{unit}" if unit == "B" or count >= 10 else f"{count:.1f}{unit}"
    return str(parameters)


def _query(question: Question, instruction: str | None = None) -> Any:
    """The model's form of a question, worded by ``instruction`` where the protocol gives one."""
    from groma_model.generation import Exchange, Query
    from groma_model.processing import BOX_PLACEHOLDER

    # The question's one box belongs to the turn that names it: the question itself, else the latest earlier one.
    history, boxes = list(question.history), () if question.box is None else (question.box,)
    if boxes and BOX_PLACEHOLDER not in (question.text or ""):
        named = [i for i, (asked, _) in enumerate(history) if BOX_PLACEHOLDER in asked]
        if named:
            history[named[-1]] = Exchange(*history[named[-1]], boxes)
            boxes = ()
    text = question.text
    if instruction is not None:
        # As the released scripts do: no white space at the ends, categories in lower case.
        text = (text or "").strip()
        text = text.lower() if "{text:lower}" in instruction else text
        instruction = instruction.replace("{text:lower}", "{text}")
    return Query(kind=question.kind, text=text, boxes=boxes, history=tuple(history), template=instruction)


def _prediction(question: Question, answer: Any) -> Prediction:
    grounded = answer.grounded
    boxes = [_box(box) for box in grounded.boxes]
    confidences = [float(confidence) for confidence in grounded.confidences]
    unparsed = question.kind in ("ground_one", "ground_all") and not boxes
    return Prediction(
        question.id,
        raw=answer.raw,
        text=grounded.text,
        boxes=boxes,
        confidences=confidences if len(confidences) == len(boxes) else None,
        phrases=[{"phrase": span.phrase, "boxes": [_box(box) for box in span.boxes]} for span in grounded.spans],
        prompt=answer.prompt,
        status="unparsed" if unparsed else "ok",
    )


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (float(value) for value in values)
    return (x1, y1, x2, y2)


def _settings(name: str, model_args: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """``--model-args`` as settings of proposal selection and options of loading."""
    settings: dict[str, float] = {}
    loading: dict[str, str] = {}
    for key, value in model_args.items():
        if key in _LOADING:
            choices = _choices(key)
            if value not in choices:
                raise HarnessError(f"--model-args {key}={value}: must be {' or '.join(choices)}")
            loading[key] = value
        elif key in _SETTINGS:
            settings[key] = _fraction(key, value)
        else:
            known = ", ".join((*_SETTINGS, *_LOADING))
            raise HarnessError(f"model {name!r} has no --model-args {key!r}; it has {known}")
    return settings, loading


def _choices(option: str) -> tuple[str, ...]:
    from groma_model.placement import ATTENTIONS, QUANTIZATIONS

    # A mapping of single layers to devices is for Python alone.
    return {"device_map": ("auto",), "quantization": QUANTIZATIONS, "attn_implementation": ATTENTIONS}[option]


def _fraction(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise HarnessError(f"--model-args {key}={text}: must be a number from 0 to 1")
    return value


def _device(device: str | None) -> str | None:
    import torch

    if device is None:
        return None
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise HarnessError(f"--device {device!r} is none; use cpu, cuda or cuda:NUMBER") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise HarnessError(f"--device {device}: no CUDA device here; use cpu")
    return device


def _dtype(dtype: str | None) -> Any:
    import torch

    if dtype is None:
        return None
    if dtype not in _DTYPES:
        raise HarnessError(f"--dtype {dtype!r} is none; use one of {', '.join(_DTYPES)}")
    return getattr(torch, _DTYPES[dtype])
