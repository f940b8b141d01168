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
from groma_eval.readers.common import need, read_json, read_jsonl, rows_of

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
        for number, row in read_jsonl(Path(vqa)):
            answer = need(row, "answer", str, f"{vqa}: line {number}")
            answers[answer] += 1
            for key in {row.get("type"), row.get("category")} - {None}:
                groups[str(key)][answer] += 1
        table["converse"] = {
            "all": commonest(answers, vqa),
            "groups": {key: commonest(counts, vqa) for key, counts in sorted(groups.items())},
        }
    if region_captions is not None:
        table["describe"] = commonest(Counter(_region_captions(Path(region_captions))), region_captions)
    if scene_captions is not None:
        rows = read_jsonl(Path(scene_captions))
        captions = Counter(need(row, "caption", str, f"{scene_captions}: line {n}") for n, row in rows)
        table["describe_scene"] = commonest(captions, scene_captions)
    return table


def fit_any(path: str | Path) -> dict[str, Any]:
    """:func:`fit_majority` of one file, whichever of the three formats it has (a card's ``training_answers``)."""
    if Path(path).suffix != ".jsonl":
        return fit_majority(region_captions=path)
    _, first = next(read_jsonl(Path(path)))
    return fit_majority(scene_captions=path) if "caption" in first else fit_majority(vqa=path)


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


def _region_captions(path: Path) -> Iterator[str]:
    for index, image in enumerate(rows_of(path, read_json(path), "images")):
        captions = need(image, "captions", list, f"{path}: images[{index}]")
        if not all(isinstance(caption, str) for caption in captions):
            raise HarnessError(f"{path}: images[{index}]: field 'captions' must be a list of texts")
        yield from captions


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
