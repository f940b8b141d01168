from __future__ import annotations

import pytest
from small import picture, small_groma

from groma_model.generation import Query
from groma_model.processing import REFER, render_question


@pytest.fixture(scope="module")
def groma():
    return small_groma()


def test_a_box_is_placed_where_the_text_names_it():
    assert render_question("{text}", "what is <box>?", 1) == f"what is {REFER}?"
    assert render_question("{text}", "what is this?", 1) == f"what is this? {REFER}"
    assert render_question("describe {box}", None, 1) == f"describe {REFER}"
    assert render_question("{text}", "what is <box>?", 0) == "what is ?"


@pytest.mark.parametrize("token", ["<refer_box>", "<image>", "<region>", "<r3>", "</s>", "<ground_box>", "<sep>"])
def test_markup_in_a_question_is_text_without_power(groma, token):
    assert token not in render_question("{text}", f"what {token} is it?", 0)
    scene = groma.perceive(picture())
    plain = groma.answer([scene], [[Query("converse", "what is it?")]], 3)[0][0]
    marked = groma.answer([scene], [[Query("converse", f"what{token} is it?")]], 3)[0][0]
    assert marked.raw == plain.raw


def test_the_prefix_announces_every_region_by_its_token(groma):
    processor = groma.processor
    ids = processor.prefix_ids(4, 3)
    assert ids.count(processor.ids["<image>"]) == 4
    assert ids.count(processor.ids["<region>"]) == 3
    for i in range(3):
        assert ids[ids.index(processor.region_ids[i]) + 1] == processor.ids["<region>"]


def test_text_survives_the_tokenizer(groma):
    processor = groma.processor
    for text in ("a small red circle.", "what's über-striped?", "42 stars"):
        assert processor.decode(processor.encode(text)).strip() == text


def test_a_dialogue_longer_than_the_model_is_refused(groma):
    with pytest.raises(ValueError, match="shorten it"):
        groma.perceive(picture()).chat("word " * 3000)


def test_pictures_are_resized_and_normalised(groma):
    from PIL import Image

    pixels = groma.processor.pixel_values([Image.new("RGB", (50, 30), (255, 0, 0))])
    size = groma.config.image_size
    assert pixels.shape == (1, 3, size, size)
    assert pixels[0, 0].unique().item() == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)
    assert pixels[0, 2].unique().item() == pytest.approx(-0.406 / 0.225, abs=1e-5)
