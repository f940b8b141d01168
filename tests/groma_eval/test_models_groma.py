"""The Groma adapter with a stand-in for the model that records how it is called."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from groma_eval.core import Decoding, HarnessError, Question, Sample
from groma_eval.models.groma import GromaAdapter, open_image, printed_size
from groma_model.grounded_text import parse

BOXES = [(0.0, 0.0, 0.5, 0.5), (0.25, 0.5, 0.75, 1.0)]


@dataclass
class Query:
    kind: str
    text: str | None
    box: tuple | None
    history: tuple


class FakeGroma:
    """Answers ``ground_*`` about "red" by region 1, about anything else by text without a region."""

    def __init__(self):
        self.config = SimpleNamespace(pointer_head=True, score_threshold=0.15, nms_threshold=0.6)
        self.num_parameters = 5_500_000
        self.checkpoint_hash = "ab" * 32
        self.native_prompts = {"ground_one": "locate {text}"}
        self.perceived = []
        self.asked = []

    def perceive_batch(self, images):
        self.perceived.append([image.size for image in images])
        boxes = torch.tensor(BOXES)
        return [SimpleNamespace(boxes=boxes, objectness=torch.tensor([0.9, 0.8]), size=i.size) for i in images]

    def answer(self, scenes, queries, max_new_tokens):
        assert len(scenes) == len(queries)
        self.asked.append((queries, max_new_tokens))
        return [[self._one(query) for query in each] for each in queries]

    def _one(self, query):
        raw = "<p>a red disc</p><roi><r1></roi> here" if query.text == "red" else "nothing there"
        grounded = parse(raw, BOXES, [0.75] if "<r1>" in raw else [])
        return SimpleNamespace(raw=raw, prompt=f"locate {query.text}", grounded=grounded)


@pytest.fixture
def groma(monkeypatch):
    if "groma_model.generation" not in sys.modules:
        stand_in = ModuleType("groma_model.generation")
        monkeypatch.setitem(sys.modules, "groma_model.generation", stand_in)
    monkeypatch.setattr("groma_model.generation.Query", Query, raising=False)
    return FakeGroma()


@pytest.fixture
def pictures(tmp_path):
    Image.new("RGBA", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("L", (20, 20)).save(tmp_path / "b.jpg")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def sample(path, *questions):
    return Sample(path.name, path, 40, 30, questions)


def answers(adapter, *samples, decoding=None):
    found = list(adapter.answer(samples, decoding or Decoding(max_new_tokens=7), {}, "paper"))
    assert len(found) == len(samples)
    return {answer.image_id: answer for answer in found}


def test_an_image_is_perceived_once_and_asked_all(groma, pictures):
    adapter = GromaAdapter(groma, "fake")
    asked = [
        Question("1", "ground_one", text="red"),
        Question("2", "propose"),
        Question("3", "ground_all", text="blue"),
        Question("4", "describe", box=BOXES[0]),
        Question("5", "converse", text="red", history=(("q", "a"),)),
    ]
    found = answers(adapter, sample(pictures / "a.png", *asked), sample(pictures / "b.jpg", asked[0]))
    assert groma.perceived == [[(40, 30), (20, 20)]]
    ((first, second), limit) = groma.asked[0]
    assert len(groma.asked) == 1
    assert limit == 7
    assert [query.kind for query in first] == ["ground_one", "ground_all", "describe", "converse"]
    assert first[2].box == BOXES[0]
    assert first[3].history == (("q", "a"),)
    assert len(second) == 1
    one = found["a.png"]
    assert one.proposals == BOXES
    assert one.objectness == pytest.approx([0.9, 0.8])
    assert [p.question_id for p in one.predictions] == ["1", "2", "3", "4", "5"]
    assert [p.status for p in one.predictions] == ["ok", "ok", "unparsed", "ok", "ok"]
    pointed = one.predictions[0]
    assert pointed.boxes == [BOXES[1]]
    assert pointed.confidences == [0.75]
    assert pointed.raw == "<p>a red disc</p><roi><r1></roi> here"
    assert pointed.text == "a red disc here"
    assert pointed.prompt == "locate red"
    assert pointed.phrases == [{"phrase": "a red disc", "boxes": [BOXES[1]]}]


def test_proposals_alone_run_no_language_model(groma, pictures):
    found = answers(GromaAdapter(groma, "fake"), sample(pictures / "a.png", Question("1", "propose")))
    assert found["a.png"].proposals == BOXES
    assert found["a.png"].predictions[0].status == "ok"
    assert groma.asked == []


def test_broken_pictures_fail_alone(groma, pictures):
    question = Question("1", "ground_one", text="red")
    names = ["cut.jpg", "a.png", "text.png", "absent.png"]
    found = answers(GromaAdapter(groma, "fake"), *(sample(pictures / name, question) for name in names))
    assert found["a.png"].error is None
    assert groma.perceived == [[(40, 30)]]
    for name, message in (("cut.jpg", "truncated"), ("text.png", "no picture"), ("absent.png", "no such image")):
        assert message in found[name].error
        assert found[name].predictions[0].status == "failed"
        assert found[name].proposals is None
        assert "\n" not in found[name].error
    only = answers(GromaAdapter(groma, "fake"), sample(pictures / "cut.jpg", question))
    assert only["cut.jpg"].error is not None
    without = Sample("none", None, 1, 1, (question,))
    assert "--images" in answers(GromaAdapter(groma, "fake"), without)["none"].error


def test_info(groma):
    info = GromaAdapter(groma, "fake", "somewhere").info
    assert (info.size, info.parameters, info.checkpoint, info.checkpoint_hash) == (
        "5.5M", 5_500_000, "somewhere", "ab" * 32,
    )  # fmt: skip
    assert "propose" in info.capabilities
    assert len(info.notes) == 1
    assert info.templates == {"ground_one": "locate {text}"}
    groma.config.pointer_head = False
    assert GromaAdapter(groma, "fake").info.notes == ()


def test_sampling_is_refused(groma, pictures):
    with pytest.raises(HarnessError, match="greedily"):
        answers(GromaAdapter(groma, "x"), sample(pictures / "a.png"), decoding=Decoding(do_sample=True))


@pytest.mark.parametrize(
    ("count", "printed"),
    [(7_377_311_657, "7B"), (12_345_678, "12M"), (5_500_000, "5.5M"), (123_456, "123K"), (999, "999")],
)
def test_printed_size(count, printed):
    assert printed_size(count) == printed


def test_pictures_are_rgb(pictures):
    for name in ("a.png", "b.jpg"):
        assert open_image(pictures / name).mode == "RGB"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu9"}, "--device 'gpu9'"),
        ({"dtype": "int3"}, "--dtype 'int3'"),
        ({"model_args": {"nms": "1"}}, "has score_threshold and nms_threshold"),
        ({"model_args": {"nms_threshold": "x"}}, "nms_threshold=x: must be a number"),
        ({"model_args": {"nms_threshold": "1.5"}}, "must be a number from 0 to 1"),
        ({}, "model 'n': no such file two lines"),
    ],
)
def test_load_errors_are_one_line(monkeypatch, options, message):
    def from_pretrained(name, **_):
        raise OSError("no such file\n  two lines")

    monkeypatch.setattr("groma_model.Groma", SimpleNamespace(from_pretrained=from_pretrained), raising=False)
    with pytest.raises(HarnessError) as caught:
        GromaAdapter.load("somewhere", name="n", **options)
    assert message in str(caught.value)


def test_settings_reach_the_model_and_its_notes(monkeypatch, groma):
    called = {}

    def from_pretrained(name, **options):
        called[name] = options
        return groma

    monkeypatch.setattr("groma_model.Groma", SimpleNamespace(from_pretrained=from_pretrained), raising=False)
    adapter = GromaAdapter.load("c", name="n", device="cpu", dtype="bf16", model_args={"nms_threshold": "0.5"})
    assert called == {"c": {"device": "cpu", "dtype": torch.bfloat16}}
    assert groma.config.nms_threshold == 0.5
    assert adapter.info.notes[-1] == "nms_threshold=0.5"
