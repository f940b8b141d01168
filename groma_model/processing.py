"""Image and prompt -> tensors.

The prompt is split where the image's part ends: the *prefix* (system text, image tokens, region tokens, the fixed
acknowledgement) depends on the image alone and is shared by every question; a *turn* is one question with its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from groma_model.configuration import NEW_TOKENS, GromaConfig, region_token
from groma_model.ops.resize import resize_picture
from groma_model.released_tokenizer import load_tokenizer

_RESERVED = re.compile("|".join(re.escape(t) for t in NEW_TOKENS if t != "[grounding]") + r"|</?s>|<unk>|<r\d+>")

#: What a user's box becomes in a question: its proxy token (looked up among the regions) and its region embedding.
REFER = "<roi><refer_box></roi><refer_feat>"
#: How a question's text names the user's box before it is rendered.
BOX_PLACEHOLDER = "<box>"


@dataclass(frozen=True)
class PromptTemplate:
    """A conversation template: ``context`` and ``acknowledgement`` open every dialogue (paper Sec. 3.2).

    ``native`` are the instructions by kind of question, with ``{text}`` and ``{box}``. ``end`` closes each turn of the
    assistant: ``</s>``, or a space where the end of an answer is not learned.
    """

    system: str
    context: str
    acknowledgement: str
    native: Mapping[str, str]
    end: str = "</s>"

    def prefix(self) -> str:
        """Everything before the first question, with the ``<image>`` and ``<region>`` placeholders."""
        return f"{self.system}USER: {self.context} ASSISTANT: {self.acknowledgement}{self.end}"

    def question(self, text: str) -> str:
        """A user turn up to where the assistant's answer begins."""
        return f"USER: {text} ASSISTANT:"


_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)

TEMPLATES: dict[str, PromptTemplate] = {
    # The released model's template for finetuning and evaluation, with instructions from its lists.
    "llava": PromptTemplate(
        system=_SYSTEM,
        context="Here is an image with region crops from it. Image: <image>. Regions: <region>.",
        acknowledgement="Thank you for the image! How can I assist you with it?",
        native={
            "ground_one": "Locate <p>{text}</p> in the image.",
            "ground_all": "Locate all <p>{text}</p> in this image.",
            "describe": "Please briefly describe {box}.",
            "describe_scene": "[grounding]Give me a concise description of the image.",
            "converse": "{text}",
        },
    ),
    # The same order of parts in few tokens, for models whose language model is trained from scratch.
    "brief": PromptTemplate(
        system="",
        context="<image> <region>",
        acknowledgement="ok",
        native={
            "ground_one": "locate <p>{text}</p>",
            "ground_all": "locate all <p>{text}</p>",
            "describe": "describe {box}",
            "describe_scene": "[grounding] describe the image.",
            "converse": "[grounding] {text}",
        },
    ),
}

# The released model's template for pretraining (stage 2): no answer has an end.
TEMPLATES["default"] = replace(TEMPLATES["llava"], end=" ")


def render_question(template: str, text: str | None, num_boxes: int) -> str:
    """Fill an instruction: ``{text}`` with the question's text, each ``{box}`` and ``<box>`` with a referral to a box.

    Referrals that neither the template nor the text places are appended; without boxes the placeholders vanish. Markup
    in the user's text is removed (but for ``[grounding]``): it would be read as features that are not there.

    Raises:
        ValueError: more boxes are named than given.
    """
    plain = _RESERVED.sub("", text or "")
    filled = template.replace("{text}", plain).replace("{box}", BOX_PLACEHOLDER)
    named = filled.count(BOX_PLACEHOLDER)
    if num_boxes and named > num_boxes:
        raise ValueError(f"the question names {named} boxes, given are {num_boxes}")
    filled += f" {BOX_PLACEHOLDER}" * (num_boxes - named)
    return filled.replace(BOX_PLACEHOLDER, REFER if num_boxes else "").strip()


def resized(image: Image.Image, size: int, resize: str = "pil") -> Image.Image:
    """A picture as RGB of ``size`` x ``size`` pixels, aspect ratio not kept; one of that size is not resized.

    Args:
        resize: see :func:`image_pixels`.

    Raises:
        ValueError: for another ``resize``.
    """
    if resize not in ("pil", "cv2"):
        raise ValueError(f"resize is {resize!r}; it must be 'pil' or 'cv2'")
    rgb = image.convert("RGB")
    if rgb.size == (size, size):
        return rgb
    if resize == "cv2":
        return resize_picture(rgb, size)
    # In two steps, across first: PIL 13 and later would choose the order by the picture's shape.
    return rgb.resize((size, rgb.height), Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BICUBIC)


def image_pixels(images: Sequence[Image.Image], config: GromaConfig, resize: str = "pil") -> Tensor:
    """Pictures of any size -> ``(B, 3, S, S)``, resized (:func:`resized`) and normalised.

    Args:
        resize: ``"pil"``, bicubic and antialiased: how the released model sees chat and instruction data; or
            ``"cv2"``, OpenCV's bilinear without antialiasing: how it sees COCO-format benchmarks. OpenCV also turns
            a picture as its EXIF data says when it decodes one, which PIL and this function do not: see
            ``PIL.ImageOps.exif_transpose``.

    Raises:
        ValueError: for another ``resize``.
    """
    arrays = [np.asarray(resized(image, config.image_size, resize)) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    # Either way's own order of scaling and shifting, so that not even the last bit differs.
    pixels, unit = (pixels, 255) if resize == "cv2" else (pixels / 255, 1)
    mean = torch.tensor([unit * value for value in config.image_mean]).view(1, 3, 1, 1)
    std = torch.tensor([unit * value for value in config.image_std]).view(1, 3, 1, 1)
    return (pixels - mean) / std


class GromaProcessor:
    """Tokenizer and image transform of one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: GromaConfig):
        if config.prompt_template not in TEMPLATES:
            raise ValueError(f"prompt_template {config.prompt_template!r} is unknown; known: {', '.join(TEMPLATES)}")
        self.tokenizer = tokenizer
        self.config = config
        self.template = TEMPLATES[config.prompt_template]
        base = config.llm_config.vocab_size
        expected = {token: base + i for i, token in enumerate(config.new_tokens)}
        found = dict(zip(expected, tokenizer.convert_tokens_to_ids(list(expected)), strict=True))
        wrong = next((t for t, i in expected.items() if found[t] != i), None)
        if wrong is not None:
            raise ValueError(
                f"the tokenizer gives {wrong!r} the id {found[wrong]}, the model expects {expected[wrong]}: "
                "tokenizer and checkpoint do not belong together"
            )
        self.ids: dict[str, int] = expected
        self.region_ids = [expected[region_token(i)] for i in range(config.max_regions)]
        self.eos_id: int = tokenizer.eos_token_id
        self.bos_id: int | None = tokenizer.bos_token_id

    def pixel_values(self, images: Sequence[Image.Image], resize: str = "pil") -> Tensor:
        """See :func:`image_pixels`."""
        return image_pixels(images, self.config, resize)

    def encode(self, text: str, after: str = "") -> list[int]:
        """Token ids of a piece of prompt, without a beginning-of-sequence token.

        Args:
            after: the added token that the piece follows. The released tokenizer encodes a piece otherwise there than
                at the start of a text, where it puts a space before it.
        """
        ids = self.tokenizer(after + text, add_special_tokens=False)["input_ids"]
        return ids[ids.index(self.tokenizer.convert_tokens_to_ids(after)) + 1 :] if after else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text with all markup kept."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def prefix_ids(self, num_image_tokens: int, num_regions: int) -> list[int]:
        """Ids of the shared prefix: ``<image>`` repeated, ``<region>`` as ``<r0><region><r1><region>...``."""
        ids = [] if self.bos_id is None else [self.bos_id]
        # A space at the end belongs to the first piece of the question.
        for token in self.encode(self.template.prefix().rstrip()):
            if token == self.ids["<image>"]:
                ids += [token] * num_image_tokens
            elif token == self.ids["<region>"]:
                for i in range(num_regions):
                    ids += [self.region_ids[i], token]
            else:
                ids.append(token)
        return ids

    def question_ids(self, text: str, refer_regions: Sequence[int] = ()) -> list[int]:
        """Ids of a user turn; each ``<refer_box>`` becomes the proxy token of the region it stands for, in order.

        ``<refer_feat>`` keeps its id: the model replaces its embedding.
        """
        # An end that is a space is what the tokenizer puts before a text anyway.
        refer, ids, used = self.ids["<refer_box>"], [], 0
        for token in self.encode(self.template.question(text), after=self.template.end.strip()):
            if token == refer:
                token = self.region_ids[refer_regions[used]]
                used += 1
            ids.append(token)
        if used != len(refer_regions):
            raise ValueError(f"the question names {used} boxes but {len(refer_regions)} were given")
        return ids

    def answer_ids(self, text: str, regions: Sequence[int] = ()) -> list[int]:
        """Ids of an answer and its end; each ``<ground_box>`` becomes the token of its region, in order.

        All of them are trained. A template without an end of answers gives none.
        """
        ground, ids, used = self.ids["<ground_box>"], [], 0
        # The released code marks answers by <sep> on both sides and removes it after encoding.
        for token in self.encode(text, after="<sep>"):
            if token == ground:
                token = self.region_ids[regions[used]]
                used += 1
            ids.append(token)
        if used != len(regions):
            raise ValueError(f"the answer points {used} times but {len(regions)} regions were given")
        return [*ids, self.eos_id] if self.template.end == "</s>" else ids

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files (the image transform lives in config.json)."""
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, config: GromaConfig | None = None, **_: Any) -> GromaProcessor:
        """Read what :meth:`save_pretrained` wrote. Raises ValueError when it does not fit the configuration.

        ``config``: that of the model; read from the folder unless given.
        """
        return cls(load_tokenizer(folder), config or GromaConfig.from_pretrained(folder))


def train_tokenizer(corpus: Iterable[str], config: GromaConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly ``llm_config.vocab_size`` ids for a language model without a tokenizer of its own.

    Byte-level, so that any question can be asked; lower-cased; words of the corpus become single tokens while the
    vocabulary lasts. The new tokens follow in the configuration's order.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    size = config.llm_config.vocab_size
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # A small corpus may need fewer merges than there is room for: unused ids keep the tables' sizes.
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for i in range(len(vocabulary), size):
        vocabulary[f"<unused{i}>"] = i
    tokenizer = Tokenizer.from_str(json.dumps(state))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    # As in the released tokenizer, white space beside an added token carries no meaning.
    fast.add_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in config.new_tokens])
    fast.pad_token = "[PAD]"
    return fast
