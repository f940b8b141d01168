"""What the speed bench asks: pictures with their expressions, shaped like a REC split."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import HarnessError
from groma_eval.readers.common import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

#: The number of words of each expression of RefCOCO val, by picture.
BUNDLED = Path(__file__).parent.parent / "workloads" / "refcoco_val.json"
#: What expressions are made of where only their lengths are known: everyday words of place, people and things.
WORDS = (
    "left", "right", "man", "woman", "red", "the", "in", "person", "shirt", "white", "of", "front", "blue", "black",
    "girl", "chair", "boy", "middle", "standing", "top", "with", "bottom", "green", "cup", "dog", "sitting", "behind",
)  # fmt: skip
#: Pixels (width, height) of every picture: the commonest size in COCO.
PICTURE_SIZE = (640, 480)


@dataclass(frozen=True)
class Workload:
    """``images``: for each picture its expressions. ``source``: where their number and lengths come from."""

    source: str
    images: tuple[tuple[str, ...], ...]

    @property
    def expressions(self) -> int:
        """How many there are in all."""
        return sum(map(len, self.images))


def read_workload(path: Path | None, count: int, seed: int = 0) -> Workload:
    """``count`` pictures with their expressions, drawn by ``seed`` and kept in the file's order.

    Args:
        path: REC annotations as one flat JSON list (``img_id``, ``sents``; see
            :mod:`groma_eval.readers.refcoco_flat`), whose texts are asked, or lengths alone in the form of the bundled
            file, which is taken where this is None: ``{"name": ..., "images": [[words, ...], ...]}``.

    Raises:
        HarnessError: an unreadable file, a malformed entry, or fewer pictures than ``count``.
    """
    path = path or BUNDLED
    content = read_json(path)
    if isinstance(content, list):
        name, pictures = path.stem, _annotated(path)
    else:
        name, pictures = _lengths(path, content)
    if count > len(pictures):
        raise HarnessError(f"--images {count}: {path} has {len(pictures)} pictures; give fewer")
    rng = random.Random(seed)
    drawn = sorted(rng.sample(range(len(pictures)), count))
    images = []
    for index in drawn:
        asked = pictures[index]
        images.append(tuple(e if isinstance(e, str) else " ".join(rng.choices(WORDS, k=e)) for e in asked))
    return Workload(name, tuple(images))


def _annotated(path: Path) -> list[list[str]]:
    from groma_eval.readers import refcoco_flat

    samples = refcoco_flat.read(path, None, need_images=False)
    return [[question.text or "" for question in sample.questions] for sample in samples]


def _lengths(path: Path, content: Any) -> tuple[str, list[list[int]]]:
    pictures = content.get("images") if isinstance(content, dict) else None
    if not isinstance(pictures, list):
        raise HarnessError(f"{path}: must be a list of annotations, or an object whose 'images' is a list")
    for row, lengths in enumerate(pictures):
        whole = isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths)
        if not whole or not lengths:
            raise HarnessError(f"{path}: images[{row}] must be a list of word counts, whole numbers above 0")
    return str(content.get("name", path.stem)), pictures


def picture(index: int, seed: int = 0) -> Image:
    """Noise, the same for the same index."""
    import numpy as np
    from PIL import Image

    width, height = PICTURE_SIZE
    noise = np.random.default_rng((seed, index)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def evenly(total: int, wanted: int | None) -> list[int]:
    """``wanted`` of ``range(total)`` at even distances; all of them where ``wanted`` is None or not fewer."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return [(2 * k + 1) * total // (2 * wanted) for k in range(wanted)]
