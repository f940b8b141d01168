"""What ``bound:majority`` answers: the commonest training answers, fitted once and stored as a small JSON table.

The table: ``{"converse": {"all": answer, "groups": {type or category: answer}}, "describe": caption,
"describe_scene": caption}``; a kind that was not fitted is absent. ``python -m groma_eval.models.majority FOLDER``
fits the bundled table anew from the training split of the shapes data in FOLDER (the one holding ``annotations/``).
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError

BUNDLED_TABLE = Path(__file__).with_name("majority_shapes.json")


def fit_majority(
    vqa: str | Path | None = None,
    region_captions: str | Path | None = None,
    scene_captions: str | Path | None = None,
) -> dict[str, Any]:
    """The table of commonest answers in training files.

    Args:
        vqa: LLaVA-style JSONL with ``answer`` and, where present, ``type`` and ``category``.
        region_captions: JSON with ``images[].captions``.
        scene_captions: JSONL with ``caption``.

    Raises:
        HarnessError: a file is missing, malformed or holds no answer.
    """
    table: dict[str, Any] = {}
    if vqa is not None:
        answers: Counter[str] = Counter()
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for number, row in _lines(vqa):
            answer = _text(row, "answer", f"{vqa}, line {number}")
            answers[answer] += 1
            for key in {row.get("type"), row.get("category")} - {None}:
                groups[str(key)][answer] += 1
        table["converse"] = {
            "all": commonest(answers, vqa),
            "groups": {key: commonest(counts, vqa) for key, counts in sorted(groups.items())},
        }
    if region_captions is not None:
        table["describe"] = commonest(Counter(_region_captions(region_captions)), region_captions)
    if scene_captions is not None:
        captions = (_text(row, "caption", f"{scene_captions}, line {n}") for n, row in _lines(scene_captions))
        table["describe_scene"] = commonest(Counter(captions), scene_captions)
    return table


def fit_any(path: str | Path) -> dict[str, Any]:
    """:func:`fit_majority` of one file, whichever of the three formats it has (a card's ``training_answers``)."""
    if Path(path).suffix != ".jsonl":
        return fit_majority(region_captions=path)
    first = next(_lines(path), None)
    if first is None:
        raise HarnessError(f"{path} holds no training answers; give the training split's file")
    return fit_majority(scene_captions=path) if "caption" in first[1] else fit_majority(vqa=path)


def bundled() -> dict[str, Any]:
    """The table fitted on the training split of the shapes world, as shipped.

    Raises:
        HarnessError: the installation lacks it.
    """
    if not BUNDLED_TABLE.is_file():
        raise HarnessError(f"bound:majority: {BUNDLED_TABLE.name} is not installed; give a card with training_answers")
    return json.loads(BUNDLED_TABLE.read_text("utf-8"))


def commonest(counts: Counter[str], source: str | Path) -> str:
    """The most frequent text; of equally frequent ones the first in alphabetical order, so that fits are repeatable."""
    if not counts:
        raise HarnessError(f"{source} holds no training answers; give the training split's file")
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def _region_captions(path: str | Path) -> Iterator[str]:
    try:
        content = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise HarnessError(f"{path}, line {error.lineno}: not JSON ({error.msg}); mend or regenerate it") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise HarnessError(f"{path}: field 'images' must be a list; give a region caption file")
    for index, image in enumerate(images):
        captions = image.get("captions") if isinstance(image, dict) else None
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise HarnessError(f"{path}, images[{index}]: field 'captions' must be a list of texts; mend the file")
        yield from captions


def _lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise HarnessError(f"{path}, line {number}: not JSON ({error.msg}); mend or regenerate it") from None
        if not isinstance(row, dict):
            raise HarnessError(f"{path}, line {number}: must be a JSON object; mend or regenerate it")
        yield number, row


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise HarnessError(f"{where}: field {key!r} must be a text; mend or regenerate the file")
    return row[key]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def main(arguments: Iterable[str] | None = None) -> int:
    """Fit the bundled table from the training split under the one argument, a shapes folder."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("usage: python -m groma_eval.models.majority SHAPES_FOLDER", file=sys.stderr)
        return 2
    folder = Path(given[0]) / "annotations"
    try:
        table = fit_majority(
            folder / "vqa_train.jsonl", folder / "region_captions_train.json", folder / "scene_captions_train.jsonl"
        )
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2
    BUNDLED_TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(BUNDLED_TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
