"""RefCOCO, RefCOCO+ and RefCOCOg: any form in circulation to the flat files that the cards read (see README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groma_eval.cards import Card
from groma_eval.core import HarnessError
from groma_eval.readers import refcoco
from groma_eval.readers.expressions import to_flat
from groma_eval.readers.prepared import download, rows_text, write_once


def prepare(root: Path, cards: Sequence[Card], source: Path | None = None, overwrite: bool = False) -> list[Path]:
    """Write each card's annotation file below ``root``, from ``source`` or, without one, from Groma's on the hub.

    Nothing is written unless every split reads and has its card's number of expressions.

    Raises:
        HarnessError: bad data, another split, no connection, or a file of other content in the way.
    """
    if source is not None and not source.is_dir() and len(cards) > 1:
        raise HarnessError(f"--source {source} is one file; name one benchmark: {', '.join(c.name for c in cards)}")
    texts = {}
    for card in cards:
        origin = source or download(f"{card.name}.json")
        found = refcoco.expressions(origin, card.options["dataset"], card.options["split"])
        if len(found) != card.counts["questions"]:
            raise HarnessError(
                f"{origin}: holds {len(found)} expressions, {card.name} has {card.counts['questions']}: another split"
            )
        texts[root / card.data["annotations"]] = rows_text(to_flat(found))
    for path, text in texts.items():
        write_once(path, text, overwrite)
    return list(texts)
