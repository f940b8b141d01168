"""Finding boxes in text: the syntaxes that :mod:`groma_eval.box_formats` gives a meaning to.

Every ``find_*`` takes a model's answer and gives what of it is boxes, in order; numbers stay as written, as x1, y1, x2,
y2 (``find_patches``: two indices). Answers are untrusted: whatever is no box is left out, nothing raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_NUMBER = r"-?\d{1,12}(?:\.\d{1,12})?"
_FOUR = rf"{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}"
_LIST = rf"\[\s*({_FOUR})\s*\]"

# No pattern begins with what may be long (blanks, words): a model that repeats itself for pages is read at once.
_PATCHES = re.compile(
    r"(?:<phrase>(?P<phrase>[^<]*)</phrase>\s*)?<object>(?P<boxes>(?:\s*<patch_index_\d{1,6}>"
    r"|\s*</delimiter_of_multi_objects/>)*)\s*(?:</object>|$)"
)
_PATCH = re.compile(r"<patch_index_(\d{1,6})>")
_FLORENCE = re.compile(r"(?:<loc_\d{1,3}>){4,}")
_PALIGEMMA = re.compile(r"(?P<boxes>(?:<loc\d{4}>){4})(?:\s*<seg\d{3}>)*(?P<phrase>[^<;\n]*)(?:\s*;\s*)?")
_PAIRS = re.compile(
    r"(?:(?:<\|object_ref_start\|>|<ref>)(?P<phrase>[^<]*)(?:<\|object_ref_end\|>|</ref>)\s*)?"
    rf"(?:(?:<\|box_start\|>|<box>)\s*)?\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,?\s*"
    rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)(?:<\|box_end\|>|</box>)?"
)
_OBJECT = re.compile(r"\{[^{}]*(?:\}|$)")
_KEYED = re.compile(rf'"bbox(?:_2d)?"\s*:\s*{_LIST}')
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_BARE = re.compile(_LIST)
_INTERNVL = re.compile(
    r"(?:<ref>(?P<phrase>[^<]*)</ref>\s*)?(?:<box>\s*)?"
    rf"\[\s*(?P<boxes>{_LIST}(?:\s*,\s*{_LIST})*)\s*\]\s*(?:</box>)?".replace("(" + _FOUR + ")", _FOUR)
)
_LISTS = re.compile(rf"\[\s*(?P<boxes>{_FOUR}(?:\s*;\s*{_FOUR})*)\s*\]")
_MARKUP = re.compile(
    r"</?(?:s|pad|unk|grounding|phrase|object|delimiter_of_multi_objects/|ref|box|poly|image|eos|bos)>"
    r"|<\|(?:object_ref|box)_(?:start|end)\|>|<loc_?\d{1,4}>|<patch_index_\d{1,6}>"
)


@dataclass(frozen=True)
class Found:
    """Boxes at one place of a text (``start`` to ``end``) and the phrase that they belong to, if the syntax has one."""

    start: int
    end: int
    numbers: list[tuple[float, ...]]
    phrase: str | None = None


def without(text: str, found: Sequence[Found]) -> str:
    """``text`` with its boxes taken out, phrases kept, and what is left of markup removed."""
    if not found:
        return _MARKUP.sub("", text).strip()
    parts, position = [], 0
    for item in found:
        parts += [text[position : item.start], _kept(text, item)]
        position = item.end
    plain = _MARKUP.sub("", "".join([*parts, text[position:]]))
    return re.sub(r"[ \t]{2,}", " ", plain).strip()


def _kept(text: str, item: Found) -> str:
    if not item.phrase:
        return ""
    # The blank before a phrase often stands inside the markup.
    written = text[item.start : item.end]
    lead = " " if written[:1].isspace() or re.match(r"<[^<>]*>\s", written) else ""
    return lead + item.phrase


def find_patches(text: str) -> list[Found]:
    """Kosmos-2: pairs of ``<patch_index_NNNN>`` of a 32 x 32 grid within ``<object>``, after its ``<phrase>``."""

    def numbers(match: re.Match) -> Iterator[tuple[float, ...]]:
        for part in match["boxes"].split("</delimiter_of_multi_objects/>"):
            indices = [int(index) for index in _PATCH.findall(part)]
            if len(indices) == 2 and max(indices) < 1024:
                yield (indices[0], indices[1])

    return _find(_PATCHES, text, numbers)


def write_patches(numbers: Sequence[float]) -> str:
    """The inverse of :func:`find_patches`."""
    return "<object>" + "".join(f"<patch_index_{int(number):04d}>" for number in numbers) + "</object>"


def find_florence(text: str) -> list[Found]:
    """Florence-2: ``<loc_N>`` in fours after the phrase that they belong to."""
    found, end = [], 0
    for match in _FLORENCE.finditer(text):
        start = max(end, text.rfind(">", end, match.start()) + 1)
        numbers = list(_fours(re.findall(r"\d+", match[0])))
        found.append(Found(start, match.end(), numbers, text[start : match.start()].strip() or None))
        end = match.end()
    return found


def find_paligemma(text: str) -> list[Found]:
    """PaliGemma: ``<locNNNN>`` in fours, y1 x1 y2 x2, before their phrase; objects are parted by semicolons."""

    def numbers(match: re.Match) -> Iterator[tuple[float, ...]]:
        for y1, x1, y2, x2 in _fours(re.findall(r"\d{4}", match["boxes"])):
            if max(y1, x1, y2, x2) < 1024:
                yield (x1, y1, x2, y2)

    return _find(_PALIGEMMA, text, numbers)


def find_pairs(text: str) -> list[Found]:
    """Qwen-VL and Qwen2-VL: ``(x1,y1),(x2,y2)`` after the phrase."""
    return _find(_PAIRS, text, lambda match: iter([tuple(float(match[i]) for i in range(2, 6))]))


def find_json(text: str) -> list[Found]:
    """JSON objects with ``bbox_2d`` (or ``bbox``) and ``label``; without such, every list of exactly four numbers.

    An object that the token limit cut off counts when its box is whole.
    """
    found = []
    for match in _OBJECT.finditer(text):
        box = _KEYED.search(match[0])
        if box:
            label = _LABEL.search(match[0])
            found.append(Found(*match.span(), [_numbers(box[1])], _unquoted(label[1]) if label else None))
    return found or [Found(*match.span(), [_numbers(match[1])]) for match in _BARE.finditer(text)]


def find_internvl(text: str) -> list[Found]:
    """InternVL: ``[[x1, y1, x2, y2], ...]`` within ``<box>`` after ``<ref>``, whose tags some servers leave out."""
    return _find(_INTERNVL, text, lambda match: map(_numbers, re.findall(_FOUR, match["boxes"])))


def find_lists(text: str) -> list[Found]:
    """Shikra and LLaVA: ``[x1,y1,x2,y2]``, several boxes parted by semicolons."""
    return _find(_LISTS, text, lambda match: map(_numbers, match["boxes"].split(";")))


def _find(pattern: re.Pattern, text: str, numbers: Callable[[re.Match], Iterator[tuple[float, ...]]]) -> list[Found]:
    found = []
    for match in pattern.finditer(text):
        phrase = (match.groupdict().get("phrase") or "").strip()
        found.append(Found(*match.span(), list(numbers(match)), phrase or None))
    return found


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _fours(digits: Sequence[str]) -> Iterator[tuple[float, ...]]:
    for start in range(0, len(digits) - 3, 4):
        yield tuple(int(number) for number in digits[start : start + 4])


def _unquoted(text: str) -> str:
    try:
        return json.loads(text).strip()
    except ValueError:
        return text.strip('"')
