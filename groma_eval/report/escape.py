"""Untrusted text on its way into a page: made visible, and written so that nothing in it is ever code."""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# Controls, formatting characters (reversed text among them), lone surrogates, private and unassigned code points, line
# and paragraph separators. Joiners stay: scripts and emoji need them.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_KEPT = frozenset("\n\t\u200c\u200d")
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")


def visible(text: str) -> str:
    """``text`` with every character that would not be seen, or would reorder what is seen, as ``\\u{CODE}``."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(f"\\u{{{ord(c):04x}}}" if unicodedata.category(c) in _HIDDEN and c not in _KEPT else c for c in text)


def clean(value: Any) -> Any:
    """JSON-ready ``value``: strings made :func:`visible`, numbers that are not finite None, tuples lists."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def script(name: str, content: Any) -> str:
    """A script that hands ``content`` (JSON-ready) to the page under ``name``, as a string that JSON.parse reads.

    As a string no key can be ``__proto__``; ASCII, without ``<``, ``&`` or a quote that could end it.
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in (("\\", "\\\\"), ("'", "\\x27"), ("<", "\\x3c"), (">", "\\x3e"), ("&", "\\x26")):
        text = text.replace(character, escape)
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"data file '{name}': only a-z, 0-9 and -")
    return f"Groma.put('{name}','{text}');\n"


class Html(str):
    """Text that is HTML already; everything else is escaped on its way in."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children and attribute values are escaped unless they are :class:`Html`; None is left out.

    ``class_`` and ``for_`` lose their underscore, other underscores become hyphens; True is an attribute without value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(_escaped(child) for child in children if child is not None)
    return Html(f"<{name}{written}>" + ("" if name in ("meta", "link") else f"{inner}</{name}>"))


def _escaped(value: Any) -> str:
    return value if isinstance(value, Html) else html.escape(visible(str(value)), quote=True)


def join(parts: Any) -> Html:
    """Several elements as one."""
    return Html("".join(_escaped(part) for part in parts))
