"""A second, independent reading of the texts of the shapes world: words in, objects out. Shares no code with the
generator; objects are rows of the written annotation files."""

from __future__ import annotations

import re
from typing import Any

VALUES = {
    "size": ("small", "medium", "large"),
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"),
    "pattern": ("plain", "striped", "dotted"),
    "shape": ("circle", "square", "triangle", "star", "cross", "heart",
              "diamond", "crescent", "ring", "arrow", "ellipse", "hourglass"),
}  # fmt: skip
PLACES = ("top left", "top right", "bottom left", "bottom right", "top", "bottom", "left", "right", "center")
AWAY = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
MOST = {"leftmost": (-1, 0), "rightmost": (1, 0), "highest": (0, -1), "lowest": (0, 1)}
Row = dict[str, Any]


def centre(row: Row) -> tuple[float, float]:
    x, y, w, h = row["bbox"]
    return x + w / 2, y + h / 2


def corners(row: Row) -> list[float]:
    x, y, w, h = row["bbox"]
    return [x, y, x + w, y + h]


def along(row: Row, direction: tuple[int, int]) -> float:
    x, y = centre(row)
    return direction[0] * x + direction[1] * y


def cell(row: Row) -> str:
    x, y = centre(row)
    name = ("top ", "", "bottom ")[int(y // 64)] + ("left", "", "right")[int(x // 64)]
    return name.strip() or "center"


def kind(text: str) -> dict[str, str]:
    """Attributes in a noun phrase; raises on a word that is none."""
    found = {}
    for word in re.sub(r"^(the|an?) ", "", text.strip()).split():
        stem = re.sub(r"(?<=[a-z])(es|s)$", "", word)
        for name, values in VALUES.items():
            if word in values or (name == "shape" and {stem, stem + "s", stem + "e", word[:-1]} & set(values)):
                stem = next((v for v in (word, word[:-1], word[:-2], stem) if v in values), stem)
                assert name not in found, text
                found[name] = stem
                break
        else:
            assert word in ("object", "objects"), f"{word!r} in {text!r}"
    return found


def fitting(rows: list[Row], text: str) -> list[Row]:
    wanted = kind(text)
    return [row for row in rows if all(row["attributes"][k] == v for k, v in wanted.items())]


def referred(rows: list[Row], text: str) -> list[Row]:
    """Every object that an expression may mean, near misses included: a clear expression gives exactly one."""
    text = text.removeprefix("the ")
    for word, direction in MOST.items():
        if text.startswith(word + " "):
            found = fitting(rows, text[len(word) :])
            best = max(along(row, direction) for row in found)
            return [row for row in found if along(row, direction) > best - 12]
    for relation, direction in AWAY.items():
        if f" {relation} the " in text:
            subject, anchor = text.split(f" {relation} the ")
            anchors = fitting(rows, anchor)
            assert len(anchors) == 1, text
            base = along(anchors[0], direction)
            found = [row for row in fitting(rows, subject) if row is not anchors[0]]
            assert any(along(row, direction) >= base + 16 for row in found), text
            return [row for row in found if along(row, direction) > base - 4]
    for place in PLACES:
        match = re.fullmatch(rf"(.*) (?:at the|on the|in the) {place}", text)
        if match:
            return [row for row in fitting(rows, match[1]) if cell(row) == place]
    return fitting(rows, text)
