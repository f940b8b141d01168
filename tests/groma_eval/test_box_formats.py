"""Box formats, both ways, against hand-made examples, transformers' own parsers and laws that hold for every box."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.box_formats import FORMATS, MODEL_FRAMES, Canvas, box_format, from_unit, smart_resize, to_unit
from groma_eval.core import HarnessError
from groma_eval.frames import FRAMES

CANVAS = Canvas(640, 480, 644, 476)
share = st.floats(0, 1)
boxes = st.tuples(share, share, share, share).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
side = st.integers(1, 3000)
canvases = st.builds(Canvas, side, side, side, side)
#: How far a number may be from the one that was written, as a share of the side (pixels: of the smallest side).
RESOLUTION = {
    "kosmos-2": 1 / 32, "florence-2": 1 / 1000, "paligemma": 1 / 1024, "qwen2-vl": 0.5 / 1000, "qwen3-vl": 0.5 / 1000,
    "internvl": 0.5 / 1000, "shikra": 0.0005,
}  # fmt: skip
CHOSEN = {name: box_format(name, "0-1" if name == "json" else None) for name in FORMATS}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        # The published examples of each model's card or documentation.
        (
            "kosmos-2",
            "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> "
            "warming himself by<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>.",
            [(0.390625, 0.046875, 0.984375, 0.828125), (0.171875, 0.015625, 0.484375, 0.890625)],
        ),
        (
            "florence-2",
            "</s><s>A green car<loc_54><loc_375><loc_906><loc_707>in front of<loc_10><loc_20><loc_30><loc_40></s>",
            [(0.0545, 0.3755, 0.9065, 0.7075), (0.0105, 0.0205, 0.0305, 0.0405)],
        ),
        (
            "florence-2",
            "car<loc_54><loc_375><loc_906><loc_707><loc_0><loc_0><loc_999><loc_999>",
            [(0.0545, 0.3755, 0.9065, 0.7075), (0.0005, 0.0005, 0.9995, 0.9995)],
        ),
        (
            "paligemma",
            "<loc0256><loc0128><loc0512><loc1023> cat ; <loc0000><loc0512><loc0256><loc0768> dog",
            [(0.125, 0.25, 1023 / 1024, 0.5), (0.5, 0.0, 0.75, 0.25)],
        ),
        (
            "qwen2-vl",
            "<|object_ref_start|>the eyes<|object_ref_end|><|box_start|>(250,500),(750,1000)<|box_end|>",
            [(0.25, 0.5, 0.75, 1.0)],
        ),
        ("qwen2-vl", "<ref>a hand</ref><box>(536,509),(588,602)</box>", [(0.536, 0.509, 0.588, 0.602)]),
        (
            "qwen2.5-vl",
            '```json\n[\n\t{"bbox_2d": [161, 119, 322, 238], "label": "a \\"red\\" cup"},\n'
            '\t{"bbox_2d": [0, 0, 644, 476], "label": "b"}\n]\n```',
            [(0.25, 0.25, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)],
        ),
        ("qwen2.5-vl", '```json\n[\n\t{"bbox_2d": [161, 119, 322, 238], "lab', [(0.25, 0.25, 0.5, 0.5)]),
        ("qwen2.5-vl", "(161, 119) or [161, 119, 322, 238].", [(0.25, 0.25, 0.5, 0.5)]),
        ("qwen3-vl", '{"bbox_2d": [74, 361, 324, 808]}', [(0.074, 0.361, 0.324, 0.808)]),
        (
            "internvl",
            "<ref>the cats</ref><box>[[225, 452, 389, 760], [0, 0, 1000, 1000]]</box>",
            [(0.225, 0.452, 0.389, 0.760), (0.0, 0.0, 1.0, 1.0)],
        ),
        ("internvl", "[[225, 452, 389, 760]]", [(0.225, 0.452, 0.389, 0.760)]),
        ("shikra", "The man [0.220,0.332,0.404,0.778;0.1,0.2,0.3,0.4] rides.",
         [(0.22, 0.332, 0.404, 0.778), (0.1, 0.2, 0.3, 0.4)]),
        ("shikra", "[0.5, 0.25, 1.00, 0.75]", [(0.5, 0.25, 1.0, 0.75)]),
    ],
)  # fmt: skip
def test_documented_examples(name, text, found):
    parsed = FORMATS[name].parse(text, CANVAS).boxes
    assert len(parsed) == len(found)
    for box, wanted in zip(parsed, found):
        assert box == pytest.approx(wanted, abs=1e-12)


def test_phrases_and_plain_text():
    kosmos = FORMATS["kosmos-2"].parse(
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863>"
        "</delimiter_of_multi_objects/><patch_index_0005><patch_index_0911></object> warming himself.", CANVAS
    )  # fmt: skip
    assert kosmos.text == "An image of a snowman warming himself."
    assert [(p["phrase"], len(p["boxes"])) for p in kosmos.phrases] == [("a snowman", 2)]
    florence = FORMATS["florence-2"].parse("turquoise door<loc_1><loc_2><loc_3><loc_4>", CANVAS)
    assert (florence.text, florence.phrases[0]["phrase"]) == ("turquoise door", "turquoise door")
    pali = FORMATS["paligemma"].parse("<loc0001><loc0002><loc0003><loc0004> the cat ; <loc0001><loc0002>", CANVAS)
    assert pali.phrases[0]["phrase"] == "the cat"
    assert len(pali.boxes) == 1
    qwen = FORMATS["qwen3-vl"].parse('[{"bbox_2d": [1, 2, 3, 4], "label": "a \\"red\\" cup"}]', CANVAS)
    assert qwen.phrases[0]["phrase"] == 'a "red" cup'


def test_kosmos_as_transformers_reads_it():
    module = pytest.importorskip("transformers.models.kosmos2.processing_kosmos2")
    for first in range(0, 1024, 37):
        for last in range(0, 1024, 41):
            theirs = module.patch_index_to_coordinate(first, last, 32)
            assert to_unit("patches-32", (first, last), CANVAS) == pytest.approx(theirs, abs=1e-15)
    text = (
        "<grounding> It<phrase> a b</phrase><object><patch_index_0044><patch_index_0863></object> x<phrase> c</phrase>"
    )
    plain, entities = module.clean_text_and_extract_entities_with_bboxes(text)
    ours = FORMATS["kosmos-2"].parse(text, CANVAS)
    assert ours.text == plain
    assert [(p["phrase"], p["boxes"]) for p in ours.phrases] == [(name, found) for name, _, found in entities]


@given(boxes)
def test_kosmos_writes_as_transformers(box):
    module = pytest.importorskip("transformers.models.kosmos2.processing_kosmos2")
    if box[0] < box[2] and box[1] < box[3] and min(box[2] - box[0], box[3] - box[1]) > 1e-6 and max(box[:2]) < 1:
        assert from_unit("patches-32", box, CANVAS) == module.coordinate_to_patch_index(box, 32)


@given(st.sampled_from(sorted(RESOLUTION)), boxes, canvases)
def test_what_is_written_is_read_again(name, box, canvas):
    text = FORMATS[name].format(box, canvas)
    (found,) = FORMATS[name].parse(text, canvas).boxes
    assert found == pytest.approx(box, abs=RESOLUTION[name] + 1e-9)
    # What has been rounded once stays: the text of a parsed text is the same text.
    assert FORMATS[name].format(found, canvas) == text


@given(boxes, canvases)
def test_pixels_of_the_resized_input(box, canvas):
    form = FORMATS["qwen2.5-vl"]
    text = form.format(box, canvas)
    (found,) = form.parse(text, canvas).boxes
    for value, wanted, size in zip(found, box, (canvas.input_width, canvas.input_height) * 2):
        assert abs(value - wanted) <= 0.5 / size + 1e-9
    assert form.format(found, canvas) == text


@given(st.sampled_from(FRAMES), boxes, canvases)
def test_plain_json_in_every_frame(frame, box, canvas):
    form = box_format("json", frame)
    (found,) = form.parse(f"Here: {form.format(box, canvas)}", canvas).boxes
    sizes = {"pixels": (canvas.width, canvas.height), "0-1": (1000, 1000)}.get(frame, (999, 999))
    for value, wanted, size in zip(found, box, sizes * 2):
        assert abs(value - wanted) <= 0.5 / size + 1e-9


@given(st.sampled_from([*FRAMES, *MODEL_FRAMES[:2]]), boxes, canvases)
def test_frames_round_trip(frame, box, canvas):
    assert to_unit(frame, from_unit(frame, box, canvas), canvas) == pytest.approx(box, abs=1e-9)


@given(st.sampled_from(sorted(CHOSEN)), st.text(st.sampled_from('[](){}<>"0123456789.,;: locpath_|/'), max_size=80))
def test_junk_never_raises(name, text):
    for box in CHOSEN[name].parse(text, CANVAS).boxes:
        assert len(box) == 4
        assert all(isinstance(value, float) for value in box)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "piece",
    [" ", "\n", "a", "1", "[", "{", "(", "<", ">", '"', "[ ", "<object> ", "<ref>", "<box> ", "<loc_1>", "[1,", "1,",
     '"label": "', "<phrase>", "<patch_index_0001> ", "<loc0001>", "[[1,2,3,4],"],
)  # fmt: skip
def test_endless_repetition_is_read_at_once(name, piece):
    """Patterns that try again at every letter would take hours here."""
    CHOSEN[name].parse(piece * 20_000, CANVAS)


def test_layout_is_kept_where_there_are_no_boxes():
    text = "- one\n    - two   three"
    assert FORMATS["qwen3-vl"].parse(text, CANVAS).text == text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        "", "no box here", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "<loc_1><loc_2><loc_3>", "<loc0001><loc0002><loc0003>",
        "<object><patch_index_0044></object>", "<object><patch_index_0044><patch_index_1024></object>", "(1,2)",
        "<loc9999><loc9999><loc9999><loc9999> cat", f"[{'9' * 400}, 1, 2, 3]", '{"bbox_2d": null}', "[[]]",
    ],
)  # fmt: skip
def test_what_holds_no_box(name, text):
    assert CHOSEN[name].parse(text, CANVAS).boxes == []


def test_the_order_of_coordinates():
    """A box that is wide, flat, and low: any swap of axes or corners shows."""
    box = (0.125, 0.5, 0.875, 0.625)
    assert FORMATS["paligemma"].format(box, CANVAS) == "<loc0512><loc0128><loc0640><loc0896>"
    assert FORMATS["florence-2"].format(box, CANVAS) == "<loc_125><loc_500><loc_875><loc_625>"
    assert FORMATS["kosmos-2"].format(box, CANVAS) == "<object><patch_index_0516><patch_index_0635></object>"
    assert FORMATS["qwen2.5-vl"].format(box, CANVAS) == "[80, 238, 564, 298]"
    assert FORMATS["qwen3-vl"].format(box, CANVAS) == "[125, 500, 875, 625]"
    assert FORMATS["internvl"].format(box, CANVAS) == "<box>[[125, 500, 875, 625]]</box>"
    assert FORMATS["shikra"].format(box, CANVAS) == "[0.125,0.500,0.875,0.625]"
    assert from_unit("padded-square", box, CANVAS) == pytest.approx((0.125, 0.375, 0.875, 0.46875))
    assert box_format("json", "pixels").format(box, CANVAS) == "[80, 240, 560, 300]"


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("qwen", None, "is one of kosmos-2, florence-2"),
        ("json", None, "needs a frame: frame is one of pixels, 0-1"),
        ("json", "0-100", "frame is one of"),
        ("qwen3-vl", "pixels", "is in the frame 0-1000, not pixels"),
    ],
)
def test_wrong_declarations(name, frame, message):
    with pytest.raises(HarnessError, match=re.escape(message)) as caught:
        box_format(name, frame)
    assert "\n" not in str(caught.value)


def test_what_is_not_declared_is_not_guessed():
    with pytest.raises(HarnessError, match="declare it"):
        FORMATS["json"].parse("[1, 2, 3, 4]", CANVAS)
    with pytest.raises(HarnessError, match="resized to"):
        FORMATS["qwen2.5-vl"].parse("[1, 2, 3, 4]", Canvas(640, 480))


@given(st.integers(30, 4000), st.integers(30, 4000), st.sampled_from([28, 32]))
def test_smart_resize_as_transformers(width, height, factor):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    theirs = module.smart_resize(height, width, factor, 3136, 1_003_520)
    assert smart_resize(width, height, factor, 3136, 1_003_520) == theirs[::-1]


def test_smart_resize_refuses_stripes():
    with pytest.raises(HarnessError, match="1:200"):
        smart_resize(4000, 10)
