"""Referring expressions as parquet files, a row an object, as two families of copies on the hub have them.

- ``lmms-lab/RefCOCO`` and its like: ``question_id, image, answer, bbox, file_name, ...``; ``answer`` lists the
  expressions, ``bbox`` is xywh in pixels, ``image`` holds the picture itself (only its size is used here).
- ``jxu124/refcoco`` and its like: ``sentences, raw_anns, raw_image_info, file_name, split, ...``; the two ``raw``
  columns are JSON texts of COCO's own entries, so the box is read there: xywh in pixels, whatever column ``bbox`` has.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.readers.common import need, need_size, need_text, parse_json, short
from groma_eval.readers.expressions import Expression

#: What a split is called in file names and in the column ``split``. Where a copy has both, the first one is taken.
SPLIT_NAMES = {"val": ("val", "validation"), "testA": ("testA", "test"), "testB": ("testB",), "test": ("test",)}
_ROWS = 256  # rows held at a time: each may carry a picture


def find(folder: Path, split: str) -> list[Path]:
    """The files of ``split`` in ``folder`` or its ``data``, as ``val-00000-of-00004.parquet``; sorted, may be empty."""
    for place in (folder, folder / "data"):
        for name in SPLIT_NAMES[split]:
            if found := sorted([*place.glob(f"{name}-*.parquet"), *place.glob(f"{name}.parquet")]):
                return found
    return []


def parse(paths: Sequence[Path], split: str | None) -> Iterator[Expression]:
    """The expressions of the files, in order; rows whose column ``split`` names another split are left out.

    Raises:
        HarnessError: no parquet (or cut short), columns of neither family, bad rows, no row of ``split``.
    """
    others: dict[str, int] = {}
    found = False
    for path in paths:
        for index, row in _rows(path):
            where = f"{path}: row {index}"
            named = row.get("split")
            if split and isinstance(named, str) and named not in SPLIT_NAMES[split]:
                others[named] = others.get(named, 0) + 1
                continue
            found = True
            yield from _expressions(row, where)
    if not found:
        there = ", ".join(f"{name} ({count} rows)" for name, count in others.items())
        of = f" of split '{split}'; there are: {there}" if there else ""
        raise HarnessError(f"{paths[0]}: holds no samples{of}")


def _expressions(row: dict[str, Any], where: str) -> Iterator[Expression]:
    name = need(row, "file_name", str, where)
    # Named after the object or after its picture, as the copy pleases.
    stem = name.rsplit(".", 1)[0]
    picture = stem.rsplit("_", 1)[0] if stem.startswith("COCO_") and stem.count("_") > 2 else name
    if "answer" in row:
        texts, box = need(row, "answer", list, where), need(row, "bbox", list, where)
        thing = where  # a copy that mixes splits may have an object twice, under one name and number
        size = _picture_size(row, where)
    else:
        sentences = need(row, "sentences", list, where)
        texts = [need_text(sentence, "sent", where) for sentence in sentences]
        box = need(_entry(row, "raw_anns", where), "bbox", list, f"{where}: raw_anns")
        size = need_size(_entry(row, "raw_image_info", where), f"{where}: raw_image_info")
        thing = f"{where} {name}"
    for text in texts:
        yield Expression(picture, thing, need_text({"answer": text}, "answer", where), tuple(box), size, None, where)


def _entry(row: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    entry = parse_json(need(row, key, str, where), f"{where}: field '{key}'")
    if not isinstance(entry, dict):
        raise HarnessError(f"{where}: field '{key}' must hold an object, not {short(entry)}")
    return entry


def _picture_size(row: dict[str, Any], where: str) -> tuple[int, int]:
    """The row's ``width`` and ``height``, else those in the header of the picture it carries."""
    if "width" in row and "height" in row:
        return need_size(row, where)
    raw = row["image"].get("bytes") if isinstance(row.get("image"), dict) else None
    if not isinstance(raw, bytes):
        raise HarnessError(f"{where}: neither 'width' and 'height' nor a picture in 'image'")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:  # reads the header only
            return image.size
    except Exception:  # a damaged picture may raise anything
        raise HarnessError(f"{where}: field 'image' holds no readable picture") from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of a parquet file, the needed columns only."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise HarnessError(f"{path}: reading parquet needs pyarrow (python -m pip install pyarrow)") from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names)
            start = 0
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield start, row
                    start += 1
    except FileNotFoundError:
        raise HarnessError(f"{path}: no such annotation file") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise HarnessError(f"{path}: not a readable parquet file, cut short or damaged ({reason})") from None


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    """The columns to read, of the family that the file is of."""
    has = set(names)
    if {"file_name", "sentences", "raw_anns", "raw_image_info"} <= has:
        wanted = ["file_name", "sentences", "raw_anns", "raw_image_info"]
    elif {"file_name", "answer", "bbox"} <= has:
        sizes = ["width", "height"] if {"width", "height"} <= has else ["image"]
        wanted = ["file_name", "answer", "bbox", *sizes]
    else:
        raise HarnessError(
            f"{path}: no RefCOCO columns (file_name, answer, bbox, or file_name, sentences, raw_anns, raw_image_info); "
            f"it has: {short(', '.join(names))}"
        )
    return [name for name in (*wanted, "split") if name in has]
