"""Footnotes of a grid: citations are numbered, remarks lettered, departures from a protocol daggered;
a sign of the table's own stands for itself."""

from __future__ import annotations

import string

_DAGGERS = "†‡§¶‖"


class Footnotes:
    """Hands out one mark for each distinct text, in the order of first use."""

    def __init__(self) -> None:
        self._cited: list[str] = []
        self._lettered: list[str] = []
        self._daggered: list[str] = []
        self._plain: list[str] = []
        self._signs: dict[str, str] = {}

    def cite(self, text: str) -> str:
        """``[1]``, ``[2]``, ... for a source."""
        return f"[{_index(self._cited, text) + 1}]"

    def letter(self, text: str) -> str:
        """``a`` ... ``z``, ``aa``, ... for a remark."""
        return _letters(_index(self._lettered, text))

    def dagger(self, text: str) -> str:
        """``†``, ``‡``, ... then doubled, for a departure from the protocol."""
        at = _index(self._daggered, text)
        return _DAGGERS[at % len(_DAGGERS)] * (at // len(_DAGGERS) + 1)

    @staticmethod
    def is_dagger(mark: str) -> bool:
        """Whether :meth:`dagger` gave this mark."""
        return bool(mark) and set(mark) <= set(_DAGGERS)

    def sign(self, mark: str, text: str) -> str:
        """``mark`` itself, explained by ``text``."""
        self._signs[mark] = text
        return mark

    def plain(self, text: str) -> None:
        """A remark about the whole grid, without a mark."""
        _index(self._plain, text)

    def listed(self) -> list[tuple[str, str]]:
        """(mark, text) of all footnotes: the grid's own, signs, departures, remarks, sources."""
        marked = [("", text) for text in self._plain]
        marked += self._signs.items()
        marked += [(self.dagger(text), text) for text in self._daggered]
        marked += [(self.letter(text), text) for text in self._lettered]
        return marked + [(self.cite(text), text) for text in self._cited]


def _index(texts: list[str], text: str) -> int:
    if text not in texts:
        texts.append(text)
    return texts.index(text)


def _letters(index: int) -> str:
    name = ""
    while index >= 0:
        name = string.ascii_lowercase[index % 26] + name
        index = index // 26 - 1
    return name
