"""Resizing as OpenCV does it: by hand, against the recorded pictures, and against OpenCV where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from groma_model.configuration import preset
from groma_model.ops.resize import resize_linear, resize_picture
from groma_model.processing import GromaProcessor, train_tokenizer


@pytest.fixture(scope="module")
def processor():
    config = preset("nano", image_size=448)
    return GromaProcessor(train_tokenizer(["user: assistant: ok locate"], config), config)


def row(*values):
    return np.array(values, np.uint8)[None, :, None]


def test_by_hand():
    # centres at -0.25, 0.25, 0.75 and 1.25 of the source: 3/4 of one and 1/4 of the other, and the border repeated
    assert resize_linear(row(10, 250), 4, 1)[0, :, 0].tolist() == [10, 70, 190, 250]
    # 127.5 is rounded up
    assert resize_linear(row(0, 255), 3, 1)[0, :, 0].tolist() == [0, 128, 255]
    # four pixels of one: the place of the last is 4.5, between the fifth and the sixth; nothing else is looked at
    assert resize_linear(row(255, 0, 0, 0, 7, 9, 0, 0, 0, 255), 1, 1).item() == 8


def test_bits_are_lost_where_opencv_loses_them():
    # One half, made of 1 and 0: across 1024 * 1 of 2048, of which 4 bits go: 64. A row of weight 2048 adds
    # 2048 * 64 >> 16 = 2, and (2 + 2) >> 2 = 1. Rows of weights 1536 and 512 add 1 (of 1.5) and 0 (of 0.5): 3 >> 2 = 0.
    image = np.concatenate([row(0, 1), row(0, 1)])
    assert resize_linear(image, 3, 2)[:, 1, 0].tolist() == [1, 1]
    assert resize_linear(image, 3, 4)[:, 1, 0].tolist() == [0, 0, 0, 0]


def test_what_cannot_be_resized():
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 picture is needed"):
            resize_linear(image, 2, 2)
    with pytest.raises(ValueError, match="0x2"):
        resize_linear(np.zeros((4, 4, 3), np.uint8), 0, 2)


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 70)] * 4, st.integers(0, 10**6))
def test_as_opencv(width, height, new_width, new_height, seed):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for wanted in ((new_width, new_height), (max(1, width // 2), max(1, height // 2))):
        theirs = cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_linear(image, *wanted), theirs)


@pytest.mark.parametrize("name", ["img0", "img1"])
def test_recorded_pictures(shared, processor, name):
    recorded = load_file(shared / "parity" / "data" / "preprocess.safetensors")
    original = Image.fromarray(recorded[f"{name}.uint8_original"].numpy())
    resized = resize_picture(original, 448)
    assert np.array_equal(np.asarray(resized), recorded[f"{name}.uint8_448_cv2_bilinear"].numpy())
    for resize, which in (("pil", "pil"), ("cv2", "mmdet")):
        pixels = processor.pixel_values([original], resize=resize)[0]
        assert torch.equal(pixels, recorded[f"{name}.pixel_values_{which}"])
    # a picture that was resized before is left as it is; only the order of scaling and shifting differs
    before, now = processor.pixel_values([resized]), processor.pixel_values([original], resize="cv2")
    assert (before - now).abs().max().item() <= 5e-7


def test_another_way_of_resizing(processor):
    with pytest.raises(ValueError, match="'pil' or 'cv2'"):
        processor.pixel_values([Image.new("RGB", (4, 4))], resize="nearest")
