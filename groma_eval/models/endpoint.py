"""Any model behind an OpenAI-compatible endpoint (vLLM, SGLang, hosted) as an adapter.

Pictures go as data URLs; several questions are asked at a time; what fails for a moment is asked again; every answer is
kept on disk under a hash of all that was sent, so that a run that was stopped asks nothing twice. How the model writes
boxes is declared (``--model-args format=qwen3-vl``), never guessed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.box_formats import BoxFormat, Canvas, smart_resize
from groma_eval.core import Decoding, HarnessError, ImageAnswer, ModelInfo, Prediction, Question, Sample
from groma_eval.judge.client import CallFailed, Client, Completion, Stopped
from groma_eval.judge.settings import JudgeSettings
from groma_eval.models.adapters import ADAPTERS
from groma_eval.models.bounds import failed_image
from groma_eval.models.groma import open_image
from groma_eval.models.prompting import cut_off, fill
from groma_eval.provenance import short_hash

if TYPE_CHECKING:
    from PIL.Image import Image

_TALK = frozenset({"converse"})
_ALL = frozenset({"ground_one", "ground_all", "describe", "describe_scene", "converse"})
_GIVE_UP = 8  # questions in a row that failed for good: the endpoint is down
_WORDS = {
    "pixels": "in pixels of the image",
    "0-1": "as fractions of the image's width and height",
    "0-1000": "scaled so that the image's width and height are 1000",
    "0-999": "scaled so that the image's width and height are 999",
}


@dataclass(frozen=True)
class _Ask:
    question: Question
    canvas: Canvas
    prompt: str
    messages: list[dict[str, Any]]


class Endpoint:
    """See the module.

    Args:
        name: as in tables.
        settings: address, model, concurrency, retries.
        form: how it writes boxes; None: not at all.
        key: sent to the endpoint, kept nowhere.
        cache: folder of answers; None: nothing is kept.
        pixels: limits of a picture's size, for formats in pixels of the resized picture.
    """

    def __init__(
        self,
        name: str,
        settings: JudgeSettings,
        form: BoxFormat | None,
        *,
        key: str | None = None,
        cache: Path | None = None,
        pixels: Mapping[str, int] | None = None,
    ):
        self.settings = settings
        self.form = form
        self.key = key
        self.cache = cache
        self.pixels = dict(pixels or {})
        self.info = ModelInfo(
            name=name,
            capabilities=_TALK if form is None else _ALL,
            checkpoint=f"{settings.model} at {settings.base_url}",
            checkpoint_hash=short_hash([settings.base_url, settings.model]),
            box_format="none" if form is None else form.name,
            frame="none" if form is None else str(form.frame),
            templates=_templates(form),
        )

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`.

        A question that fails for good fails alone.

        Raises:
            HarnessError: no request can go through (address, key, model), or one question after another fails.
        """
        asks: list[_Ask] = []
        opened: list[Sample] = []
        for sample in samples:
            try:
                image = open_image(sample.image)
                canvas = self._canvas(image)
            except HarnessError as error:
                yield failed_image(sample, str(error))
                continue
            opened.append(sample)
            url = _data_url(sample.image, image)
            for question in sample.questions:
                prompt = self._prompt(question, canvas, prompts)
                asks.append(_Ask(question, canvas, prompt, self._messages(question, canvas, prompt, url)))
        found = {p.question_id: p for p in self._ask(asks, decoding)}
        for sample in opened:
            yield ImageAnswer(sample.image_id, [found[question.id] for question in sample.questions])

    def _canvas(self, image: Image) -> Canvas:
        if self.form is not None and self.form.frame == "input-pixels":
            return Canvas(*image.size, *smart_resize(*image.size, **self.pixels))
        return Canvas(*image.size)

    def _prompt(self, question: Question, canvas: Canvas, prompts: Mapping[str, str]) -> str:
        template = self.info.templates.get(question.kind) or prompts.get(question.kind) or "{text}"
        return fill(template, question, self.form, canvas)

    def _messages(self, question: Question, canvas: Canvas, prompt: str, url: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for asked, answered in question.history:
            turn = Question(question.id, question.kind, text=asked, box=question.box)
            messages.append({"role": "user", "content": _text(fill("{text}", turn, self.form, canvas))})
            messages.append({"role": "assistant", "content": answered})
        messages.append({"role": "user", "content": _text(prompt)})
        messages[0]["content"].insert(0, {"type": "image_url", "image_url": {"url": url}})
        return messages

    def _ask(self, asks: Sequence[_Ask], decoding: Decoding) -> list[Prediction]:
        stop = threading.Event()
        client = Client(self.settings, stop, "the model", self.key, as_model_arg)
        limits = _limits(decoding)
        failures = _Failures()
        fatal: list[HarnessError] = []

        def one(ask: _Ask) -> Prediction:
            try:
                completion = self._complete(client, ask, limits)
            except CallFailed as error:
                failures.count(str(error), stop, fatal)
                return Prediction(ask.question.id, prompt=ask.prompt, status="failed", error=str(error))
            except HarnessError as error:
                fatal.append(error)
                stop.set()  # the others wait in vain
                raise
            failures.reset()
            return self._read(ask, completion, decoding.max_new_tokens)

        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            found = list(pool.map(one, asks))
        except Stopped:
            raise fatal[0] from None
        finally:
            # After an error (or Ctrl-C) nothing more is asked; otherwise all is done.
            stop.set()
            pool.shutdown(cancel_futures=True)
        if fatal:
            raise fatal[0]
        return found

    def _complete(self, client: Client, ask: _Ask, limits: Mapping[str, Any]) -> Completion:
        if self.cache is None:
            return client.complete(ask.messages, limits)
        sent = {"url": self.settings.base_url, "model": self.settings.model, "messages": ask.messages, **limits}
        key = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
        path = self.cache / key[:2] / f"{key}.json"
        kept = _kept(path)
        if kept is None:
            kept = client.complete(ask.messages, limits)
            _keep(path, kept)
        return kept

    def _read(self, ask: _Ask, completion: Completion, limit: int) -> Prediction:
        text = completion.content
        prediction = Prediction(ask.question.id, raw=text, text=text.strip(), prompt=ask.prompt)
        if self.form is None:
            return prediction
        parsed = self.form.parse(text, ask.canvas)
        prediction.boxes, prediction.phrases = parsed.boxes, parsed.phrases
        prediction.text = parsed.text
        if ask.question.kind in ("ground_one", "ground_all") and not parsed.boxes:
            prediction.status = "unparsed"
            prediction.error = cut_off(limit) if completion.completion_tokens >= limit else None
        return prediction


class _Failures:
    """Counts failures in a row; where there are too many, stops the others and says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._row = 0

    def count(self, reason: str, stop: threading.Event, fatal: list[HarnessError]) -> None:
        with self._lock:
            self._row += 1
            if self._row == _GIVE_UP:
                text = f"{self._row} questions in a row failed, the last one: {reason}; repeat the command when the "
                fatal.append(HarnessError(text + "endpoint answers: what it has answered is kept"))
                stop.set()

    def reset(self) -> None:
        with self._lock:
            self._row = 0


def as_model_arg(name: str) -> str:
    """How messages spell a setting of the adapter."""
    return "--model-args " + name.replace("-", "_")


def _templates(form: BoxFormat | None) -> dict[str, str]:
    """Native prompts of the family that a format is named for; a plain format is described in words."""
    if form is None:
        return {}
    if form.name != "json":
        return dict(ADAPTERS[form.name].templates) if form.name in ADAPTERS else {}
    one = f"[x1, y1, x2, y2], {_WORDS[str(form.frame)]}"
    return {
        "ground_one": f"Give the bounding box of {{text}} as {one}. Answer with the box alone.",
        "ground_all": f"Give the bounding box of every {{text}}, each as {one}. Answer with the boxes alone.",
    }


def _limits(decoding: Decoding) -> dict[str, Any]:
    if not decoding.do_sample:
        return {"temperature": 0.0, "max_tokens": decoding.max_new_tokens}
    return {
        "temperature": float(decoding.temperature),
        "max_tokens": decoding.max_new_tokens,
        "seed": decoding.seed,
    }


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def _data_url(path: Path | None, image: Image) -> str:
    """The picture's own file where every reader sees the same in it, else a PNG of what PIL decoded."""
    from PIL import Image as Pillow

    assert path is not None  # it has been opened
    with Pillow.open(path) as file:
        # A reader may or may not turn a picture as its EXIF data says (274: orientation); annotations are made without.
        plain = file.format in ("JPEG", "PNG") and file.mode == "RGB" and file.getexif().get(274, 1) == 1
        kind = str(file.format).lower()
    if plain:
        content = path.read_bytes()
    else:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        content, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _kept(path: Path) -> Completion | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        content, served = fields["content"], fields["served"]
        tokens = fields["prompt_tokens"], fields["completion_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = isinstance(content, str) and all(isinstance(count, int) for count in tokens)
    return Completion(content, served, *tokens) if sound else None


def _keep(path: Path, completion: Completion) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(vars(completion)), encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HarnessError(
            f"{path}: cannot be written ({error.strerror}); give another folder with --model-args cache=DIR, or none"
        ) from None
