"""The grammar that ties text to regions, in both directions.

A model writes ``<p>a dog</p><roi><r4></roi> catches <p>a frisbee</p><roi><r7></roi>``: ``<p>`` encloses a phrase and
``<roi>`` the region tokens it is tied to, several where the phrase is plural (paper Sec. 3.2). A ``<roi>`` without a
phrase before it is an answer that only points. :func:`parse` turns such text into a :class:`GroundedText` and never
fails: model output is untrusted, so unclosed, misplaced or unknown markup is dropped and text is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Box = tuple[float, float, float, float]

_MARKUP = re.compile(
    r"<p>|</p>|<roi>|</roi>|<r\d{1,6}>"
    r"|<sep>|<img>|</img>|<image>|<region>|<refer_box>|<ground_box>|<refer_feat>|\[grounding\]|\[PAD\]|<s>|</s>|<unk>"
)
_REGION = re.compile(r"<r(\d+)>")
_NO_SPACE_BEFORE = frozenset(".,;:!?)'")


@dataclass(frozen=True)
class Span:
    """A stretch ``text[start:end]`` tied to regions; ``phrase`` is that stretch, empty where the answer only points."""

    start: int
    end: int
    phrase: str
    boxes: tuple[Box, ...]
    regions: tuple[int, ...]


@dataclass(frozen=True)
class GroundedText:
    """Text without markup, its spans, and every region the text points at in the order of emission (repeats kept).

    Boxes are xyxy, normalised to the original image. ``confidences`` are the probabilities with which the region
    tokens were emitted, empty where unknown. ``dropped`` counts region tokens that name no region of the image.
    """

    text: str
    spans: tuple[Span, ...] = ()
    boxes: tuple[Box, ...] = ()
    regions: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    dropped: int = 0
    raw: str = field(default="", compare=False)


def parse(raw: str, boxes: Sequence[Box], confidences: Sequence[float] | None = None) -> GroundedText:
    """Read a model's text.

    Args:
        raw: text with markup.
        boxes: the image's regions; ``<ri>`` stands for ``boxes[i]``.
        confidences: one number for each region token in ``raw``, in order (also for those that name no region).
    """
    text = ""
    spans: list[Span] = []
    all_regions: list[int] = []
    kept_confidences: list[float] = []
    phrase_start: int | None = None  # inside <p>
    phrase: tuple[int, int] | None = None  # the last closed <p>, waiting for its <roi>
    roi: list[int] | None = None  # inside <roi>
    seen = dropped = 0

    def close_roi() -> None:
        nonlocal roi, phrase
        if roi:
            start, end = phrase if phrase is not None else (len(text), len(text))
            spans.append(Span(start, end, text[start:end], tuple(tuple(boxes[i]) for i in roi), tuple(roi)))
        roi, phrase = None, None

    position = 0
    for match in [*_MARKUP.finditer(raw), None]:
        piece = raw[position : match.start() if match else len(raw)]
        if piece.strip():
            if roi is not None:
                close_roi()
            if phrase_start is None:
                phrase = None  # text between </p> and <roi> unties them
            text = _append(text, piece)
        elif piece and text:
            text = text.rstrip() + " "
        if match is None:
            break
        position, token = match.end(), match.group()
        region = _REGION.fullmatch(token)
        if region:
            index = int(region.group(1))
            if index < len(boxes):
                all_regions.append(index)
                if confidences is not None:
                    kept_confidences.append(float(confidences[seen]))
                if roi is not None:
                    roi.append(index)
            else:
                dropped += 1
            seen += 1
        elif token == "<p>":
            close_roi()
            phrase_start, phrase = len(text), None
        elif token == "</p>":
            if phrase_start is not None:
                start = phrase_start + (len(text[phrase_start:]) - len(text[phrase_start:].lstrip()))
                phrase = (start, len(text.rstrip()))
            phrase_start = None
        elif token == "<roi>":
            roi = []
        elif token == "</roi>":
            close_roi()
    close_roi()
    text = text.rstrip()
    return GroundedText(
        text,
        tuple(spans),
        tuple(tuple(boxes[i]) for i in all_regions),
        tuple(all_regions),
        tuple(kept_confidences),
        dropped,
        raw,
    )


def _append(text: str, piece: str) -> str:
    piece = re.sub(r"\s+", " ", piece)
    if not text:
        return piece.lstrip()
    if piece.lstrip()[:1] in _NO_SPACE_BEFORE:
        return text.rstrip() + piece.lstrip()
    if text.endswith(" "):
        return text + piece.lstrip()
    return text + piece


def render(text: str, spans: Sequence[tuple[int, int, Sequence[int]]]) -> str:
    """Write markup: ``spans`` are (start, end, region indices), sorted and disjoint; the inverse of :func:`parse`.

    A span with ``start == end`` only points. Raises ValueError for overlapping or out-of-range spans.
    """
    pieces, position = [], 0
    for start, end, regions in spans:
        if not position <= start <= end <= len(text):
            raise ValueError(
                f"span ({start}, {end}) overlaps the one before or leaves the text of {len(text)} characters"
            )
        pieces.append(text[position:start])
        tokens = "".join(f"<r{i}>" for i in regions)
        pieces.append(f"<p>{text[start:end]}</p><roi>{tokens}</roi>" if end > start else f"<roi>{tokens}</roi>")
        position = end
    return "".join([*pieces, text[position:]])
