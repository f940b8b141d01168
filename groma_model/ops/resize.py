"""Bilinear resizing of 8-bit pictures by the fixed-point arithmetic that OpenCV uses.

The released Groma reads COCO-format data through OpenCV, whose bilinear resizing neither filters before it shrinks nor
rounds as other libraries do. PIL's differs from it by many grey levels wherever a picture shrinks.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

#: Weights are whole numbers of 1 / 2048 (11 bits, as OpenCV's ``INTER_RESIZE_COEF_BITS``).
ONE = 1 << 11


def resize_linear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """``cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)`` of an 8-bit picture.

    Pixel centres at halves, no antialiasing, the border repeated. Weights are rounded to 11 bits; a row's sum loses 4
    bits before, and 16 bits after, it is weighted with its neighbour's, and the last 2 bits are rounded half up. These
    are the steps of OpenCV's own loop; builds that hand 8-bit resizing to a vendor's library may differ by one grey
    level.

    Args:
        image: (H, W, C) uint8, H and W at least 1; the order of the channels does not matter.

    Returns:
        (height, width, C) uint8, a new array.

    Raises:
        ValueError: for another shape or type, or a size below 1.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"an (H, W, C) uint8 picture is needed, not {image.shape} {image.dtype}")
    if width < 1 or height < 1:
        raise ValueError(f"cannot resize to {width}x{height}")
    left, fraction = _sources(image.shape[1], width)
    # Across, a place beyond the outermost centres is moved onto them; down, the outermost row is taken twice, with the
    # weights of the place. The results differ in the bits that are lost.
    fraction[(left < 0) | (left >= image.shape[1] - 1)] = 0
    columns, across = _neighbours(left, image.shape[1]), _weights(fraction)
    top, fraction = _sources(image.shape[0], height)
    rows, down = _neighbours(top, image.shape[0]), _weights(fraction)
    blended = np.full((height, width, image.shape[2]), 2, np.int32)
    for row, weight in zip(rows, down):
        line = sum(image[row[:, None], column] * part[:, None] for column, part in zip(columns, across))
        blended += (weight[:, None, None] * (line >> 4)) >> 16
    return (blended >> 2).astype(np.uint8)


def resize_picture(image: Image.Image, size: int) -> Image.Image:
    """:func:`resize_linear` of a picture of any mode to ``size`` x ``size`` pixels, RGB."""
    return Image.fromarray(resize_linear(np.asarray(image.convert("RGB")), size, size))


def _sources(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``wanted`` pixels lies among ``length``: index to its left (-1 beyond the border) and fraction."""
    # OpenCV inverts the ratio that it was given, and narrows to single precision before it splits the number.
    scale = 1.0 / (wanted / length)
    place = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    left = np.floor(place)
    return left.astype(np.int64), place - left


def _neighbours(left: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the two source pixels, within the picture."""
    return left.clip(0, length - 1), (left + 1).clip(0, length - 1)


def _weights(fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Their weights in units of 1 / 2048, each rounded half to even by itself: the sum may be 2049 or 2047."""
    right = fraction.astype(np.float32)
    return np.rint((np.float32(1) - right) * ONE).astype(np.int32), np.rint(right * ONE).astype(np.int32)
