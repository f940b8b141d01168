"""Small copies of the pictures, under generated names, one for each different picture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SIDES = (640, 512, 448, 384, 320, 256)  # longer side of a copy, pixels
BUDGET = 120_000_000  # bytes of all copies together, by which the side is chosen
_QUALITY = 72
_MAX_PIXELS = 100_000_000  # of a picture that is opened: a small file may claim to be a huge one
_PROBES = 12


def make_copies(
    pictures: Mapping[str, tuple[str | None, float, float]], folder: Path, progress: bool = True
) -> dict[str, int | None]:
    """Copy each picture of ``pictures`` (recorded path -> content hash or None, width, height) into ``folder`` as WebP.

    Returns the number that stands in the copy's name by path, None where the picture cannot be read. Paths of one
    content share a copy. The longer side is the largest of :data:`SIDES` by which all copies are estimated to stay
    within :data:`BUDGET` bytes.
    """
    from tqdm import tqdm

    groups: dict[str, list[str]] = {}
    for path, (content, _, _) in pictures.items():
        groups.setdefault(content or f"path {path}", []).append(path)
    sources = list(groups.values())
    side = _choose_side(sources, pictures)
    folder.mkdir(parents=True)

    def copy(number: int) -> bool:
        data = _first_copy(sources[number], pictures, side)
        if data is not None:
            (folder / file_name(number)).write_bytes(data)
        return data is not None

    numbers: dict[str, int | None] = {}
    with (
        ThreadPoolExecutor(max_workers=4) as pool,
        tqdm(total=len(sources), desc="pictures", unit="image", file=sys.stderr, disable=not progress) as bar,
    ):
        for number, done in enumerate(pool.map(copy, range(len(sources)))):
            numbers |= dict.fromkeys(sources[number], number if done else None)
            bar.update()
    return numbers


def file_name(number: int) -> str:
    """The name of a copy; the page makes the same one from the number."""
    return f"{number:06d}.webp"


def _choose_side(sources: list[list[str]], pictures: Mapping[str, tuple[str | None, float, float]]) -> int:
    step = max(1, len(sources) // _PROBES)
    probes = sources[::step][:_PROBES]
    for side in SIDES:
        sizes = [len(data) for paths in probes if (data := _first_copy(paths, pictures, side)) is not None]
        if not sizes or sum(sizes) / len(sizes) * len(sources) <= BUDGET:
            return side
    return SIDES[-1]


def _first_copy(
    paths: Iterable[str], pictures: Mapping[str, tuple[str | None, float, float]], side: int
) -> bytes | None:
    for path in paths:
        data = _copy(Path(path), pictures[path][1:], side)
        if data is not None:
            return data
    return None


def _copy(path: Path, size: tuple[float, float], side: int) -> bytes | None:
    from PIL import Image

    try:
        if not path.is_file():  # a pipe would wait for ever
            return None
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            turned = _as_recorded(image, size)
            turned.draft("RGB", (side, side))
            picture = turned.convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        picture.save(buffer, "WEBP", quality=_QUALITY, method=2)
        return buffer.getvalue()
    except Exception:  # PIL raises whatever a broken file leads it to; a picture that cannot be shown is a placeholder
        return None


def _as_recorded(image: Image, size: tuple[float, float]) -> Image:
    """The picture, turned as its EXIF says where only that gives the size that the run recorded."""
    from PIL import ImageOps

    width, height = size
    if (image.width, image.height) != (width, height) and (image.height, image.width) == (width, height):
        return ImageOps.exif_transpose(image)
    return image
