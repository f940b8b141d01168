"""What the adapters of transformers models share: prompts, batches of questions, greedy decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from groma_eval.box_formats import FORMATS, Canvas
from groma_eval.core import Decoding, HarnessError, ImageAnswer, ModelInfo, Prediction, Question, Sample
from groma_eval.models.adapters import Declared
from groma_eval.models.bounds import failed_image
from groma_eval.models.groma import open_image, printed_size
from groma_eval.models.prompting import cut_off, fill

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 8  # questions at a time


@dataclass(frozen=True)
class Ask:
    """One question about an opened picture, with the prompt that puts it."""

    question: Question
    image: Image
    canvas: Canvas
    prompt: str


@dataclass(frozen=True)
class Completion:
    """What a model wrote; ``cut``: the token limit ended it."""

    text: str
    cut: bool


@dataclass(frozen=True)
class Parts:
    """A loaded checkpoint: the model, its tokenizer and PIL image processor, its chat template where it has one, and
    how many of the model's weights it lacks."""

    model: Any
    tokenizer: Any
    image_processor: Any
    chat_template: str | None = None
    missing: int = 0


class TransformersAdapter:
    """A transformers model as a :class:`groma_eval.core.Model`: opens the pictures, asks in batches, joins answers.

    Args:
        declared: the entry of :data:`groma_eval.models.adapters.ADAPTERS`.
        parts: the loaded checkpoint.
        name: as in tables.
        checkpoint, content: what was loaded, and the hash of its content.
        settings: ``--model-args`` that were given.
    """

    #: ``--model-args`` with their defaults; ``batch`` is the number of questions at a time.
    settings: ClassVar[Mapping[str, float | None]] = {"batch": BATCH}

    def __init__(
        self,
        declared: Declared,
        parts: Parts,
        *,
        name: str | None = None,
        checkpoint: str | None = None,
        content: str | None = None,
        settings: Mapping[str, float | None] | None = None,
    ):
        self.declared = declared
        self.model = parts.model.eval()
        self.tokenizer = parts.tokenizer
        self.image_processor = parts.image_processor
        self.chat_template = parts.chat_template
        changed = {key: value for key, value in (settings or {}).items() if key != "batch"}
        self.setting = {**self.settings, **(settings or {})}
        lacking = (f"{parts.missing} weights are not in the checkpoint and random",) if parts.missing else ()
        parameters = self.model.num_parameters()
        self.info = ModelInfo(
            name=name or declared.name,
            capabilities=declared.capabilities,
            size=printed_size(parameters),
            parameters=parameters,
            checkpoint=checkpoint,
            checkpoint_hash=content,
            exposes_confidences=declared.exposes_confidences,
            box_format=declared.box_format,
            frame=declared.frame,
            notes=(*declared.notes, *lacking, *(f"{key}={value:g}" for key, value in changed.items())),
            templates=dict(declared.templates),
        )
        self.prepare_parts()

    def prepare_parts(self) -> None:
        """Compose what the model's inputs are made with."""

    def answer(
        self, samples: Sequence[Sample], decoding: Decoding, prompts: Mapping[str, str], protocol: str
    ) -> Iterator[ImageAnswer]:
        """See :class:`groma_eval.core.Model`; an image that cannot be read fails with all its questions."""
        if decoding.do_sample:
            raise HarnessError(f"model {self.info.name!r} decodes greedily; leave do_sample out of --gen-args")
        opened: list[Sample] = []
        asks: list[Ask] = []
        for sample in samples:
            try:
                image = open_image(sample.image)
                canvas = self.canvas(image)
            except HarnessError as error:
                yield failed_image(sample, str(error))
                continue
            opened.append(sample)
            for question in sample.questions:
                asks.append(Ask(question, image, canvas, self.prompt(question, canvas, prompts)))
        found = {ask.question.id: prediction for ask, prediction in zip(asks, self.ask(asks, decoding), strict=True)}
        for sample in opened:
            yield ImageAnswer(sample.image_id, [found[question.id] for question in sample.questions])

    def canvas(self, image: Image) -> Canvas:
        """The sizes that the model's boxes refer to."""
        return Canvas(*image.size)

    def prompt(self, question: Question, canvas: Canvas, prompts: Mapping[str, str]) -> str:
        """The question in the model's own words, or else the card's; ``{box}`` and ``<box>`` as the model writes it."""
        template = self.info.templates.get(question.kind) or prompts.get(question.kind) or "{text}"
        return self.filled(template, question, canvas)

    def filled(self, template: str, question: Question, canvas: Canvas) -> str:
        """``template`` with the question's text and box in it."""
        return fill(template, question, FORMATS.get(self.declared.box_format), canvas)

    def ask(self, asks: Sequence[Ask], decoding: Decoding) -> list[Prediction]:
        """A prediction for every ask, in order."""
        raise NotImplementedError


class Generator(TransformersAdapter):
    """A model that answers in text: :meth:`inputs` makes a batch's tensors, the declared format reads what it wrote."""

    #: Encoder-decoders emit the answer alone, others the prompt before it.
    emits_prompt: ClassVar[bool] = True
    #: Whether prompts of different lengths may share a batch.
    pads: ClassVar[bool] = True

    def inputs(self, asks: Sequence[Ask]) -> Mapping[str, Any]:
        """The model's inputs for a batch, on the CPU; padded on the left (encoder-decoders: on the right)."""
        raise NotImplementedError

    def ask(self, asks: Sequence[Ask], decoding: Decoding) -> list[Prediction]:
        """See the base class."""
        keys = [None if self.pads else len(self.tokenizer(ask.prompt)["input_ids"]) for ask in asks]
        found: dict[int, Prediction] = {}
        for indices in batches(keys, int(self.setting["batch"] or BATCH)):
            completions = self.complete([asks[i] for i in indices], decoding.max_new_tokens)
            for index, completion in zip(indices, completions, strict=True):
                found[index] = self.read(asks[index], completion, decoding.max_new_tokens)
        return [found[index] for index in range(len(asks))]

    def complete(self, asks: Sequence[Ask], limit: int) -> list[Completion]:
        """What the model writes after each prompt: greedy, one beam, no penalties, at most ``limit`` tokens."""
        import torch

        inputs = self.inputs(asks)
        placed = {}
        for key, value in inputs.items():
            floating = torch.is_tensor(value) and value.is_floating_point()
            placed[key] = value.to(self.model.device, self.model.dtype if floating else None)
        with torch.inference_mode():
            tokens = self.model.generate(
                **placed, max_new_tokens=limit, do_sample=False, num_beams=1, repetition_penalty=1.0,
                no_repeat_ngram_size=0, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        if self.emits_prompt:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [self._decoded(row.tolist(), limit) for row in tokens]

    def _decoded(self, row: list[int], limit: int) -> Completion:
        ends = self.model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        if not self.emits_prompt and row:
            row = row[1:]  # the token that starts the decoder, which may be the one that ends an answer
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        kept = row if stop is None else row[:stop]
        silent = {self.tokenizer.pad_token_id, self.tokenizer.bos_token_id}
        text = self.tokenizer.decode(
            [token for token in kept if token not in silent],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return Completion(text, stop is None and len(kept) >= limit)

    def read(self, ask: Ask, completion: Completion, limit: int) -> Prediction:
        """The answer in a completion that was allowed ``limit`` tokens."""
        parsed = FORMATS[self.declared.box_format].parse(completion.text, ask.canvas)
        wanted = ask.question.kind in ("ground_one", "ground_all")
        unparsed = wanted and not parsed.boxes
        return Prediction(
            ask.question.id,
            raw=completion.text,
            text=parsed.text,
            boxes=parsed.boxes,
            phrases=parsed.phrases,
            prompt=ask.prompt,
            status="unparsed" if unparsed else "ok",
            error=cut_off(limit) if unparsed and completion.cut else None,
        )

    def tokenized(self, texts: Sequence[str], **options: Any) -> dict[str, Any]:
        """Token ids and attention mask of texts, padded on the left."""
        self.tokenizer.padding_side = "left"
        return dict(self.tokenizer(list(texts), padding=True, return_tensors="pt", **options))


class ChatGenerator(Generator):
    """A model with a chat template: the picture stands before the first question, earlier turns before the last."""

    def chat(self, ask: Ask) -> str:
        """The conversation as the template renders it, ending where the model is to answer."""
        turns: list[dict[str, Any]] = []
        for asked, answered in ask.question.history:
            turns += [_turn("user", self.filled("{text}", _named(ask.question, asked), ask.canvas))]
            turns += [_turn("assistant", answered)]
        turns.append(_turn("user", ask.prompt))
        turns[0]["content"].insert(0, {"type": "image"})
        return self.tokenizer.apply_chat_template(
            turns, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
        )


def batches(keys: Sequence[Any], size: int) -> list[list[int]]:
    """Indices in batches of at most ``size`` in which all keys are equal."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _named(question: Question, text: str) -> Question:
    return Question(question.id, question.kind, text=text, box=question.box)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
