"""The Groma adapter: with a stand-in for the model that records how it is called, and with a small random model."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from groma_eval.core import Decoding, HarnessError, Question, Sample, Setup
from groma_eval.models import load, registry
from groma_eval.models.groma import GromaAdapter, open_image, printed_size
from groma_model.checkpoints import resolve_checkpoint
from groma_model.grounded_text import parse

BOXES = [(0.0, 0.0, 0.5, 0.5), (0.25, 0.5, 0.75, 1.0)]


class FakeGroma:
    """Answers ``ground_*`` about "red" by region 1, about anything else by text without a region."""

    def __init__(self):
        self.config = SimpleNamespace(pointer_head=True, score_threshold=0.15, nms_threshold=0.6, image_size=16)
        self.num_parameters = 5_500_000
        self.checkpoint_hash = "ab" * 32
        self.native_prompts = {"ground_one": "locate {text}"}
        self.perceived = []
        self.thresholds = []
        self.asked = []

    def perceive_batch(self, images, resize="pil"):
        self.resize = resize
        self.perceived.append([image.size for image in images])
        self.images = images
        self.thresholds.append(self.config.score_threshold)
        boxes = torch.tensor(BOXES)
        every = torch.cat([boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]])])
        return [
            SimpleNamespace(
                boxes=boxes,
                objectness=torch.tensor([0.9, 0.8]),
                proposals=every,
                proposal_scores=torch.tensor([0.9, 0.8, 0.1]),
                size=i.size,
            )
            for i in images
        ]

    def answer(self, scenes, queries, max_new_tokens):
        assert len(scenes) == len(queries)
        self.thresholds.append(self.config.score_threshold)
        self.asked.append((queries, max_new_tokens))
        return [[self._one(query) for query in each] for each in queries]

    def _one(self, query):
        raw = "<p>a red disc</p><roi><r1></roi> here" if query.text == "red" else "nothing there"
        grounded = parse(raw, BOXES, [0.75] if "<r1>" in raw else [])
        return SimpleNamespace(raw=raw, prompt=f"locate {query.text}", grounded=grounded)


@pytest.fixture
def groma():
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
    assert first[2].boxes == (BOXES[0],)
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
    assert found["a.png"].proposals == [*BOXES, (0.0, 0.0, 1.0, 1.0)]  # also those that selection drops
    assert found["a.png"].predictions[0].status == "ok"
    assert groma.asked == []


def test_broken_pictures_fail_alone(groma, pictures):
    question = Question("1", "ground_one", text="red")
    names = ["cut.jpg", "a.png", "text.png", "absent.png"]
    found = answers(GromaAdapter(groma, "fake"), *(sample(pictures / name, question) for name in names))
    assert found["a.png"].error is None
    assert groma.perceived == [[(40, 30)]]
    for name, message in (("cut.jpg", "truncated"), ("text.png", "no picture"), ("absent.png", "no such image")):
        assert message in found[name].error.lower()
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


def test_a_protocols_setup_is_followed(groma, pictures):
    instructions = {"ground_all": "all <p>{text:lower}</p>", "describe": "What is {box}?"}
    setup = Setup(preprocessing="cv2", score_threshold=0.3, instructions=instructions)
    asked = [
        Question("1", "ground_one", text="Red"),
        Question("2", "ground_all", text=" Wild Boar "),
        Question("3", "describe", box=BOXES[0]),
    ]
    adapter = GromaAdapter(groma, "fake")
    answers(adapter, sample(pictures / "a.png", *asked), decoding=Decoding(setup=setup))
    ((queries,), _) = groma.asked[0]
    assert [(q.text, q.template) for q in queries] == [
        ("Red", None), ("wild boar", "all <p>{text}</p>"), ("", "What is {box}?"),
    ]  # fmt: skip
    assert (groma.perceived, groma.resize) == ([[(40, 30)]], "cv2")
    assert groma.thresholds == [0.3, 0.3]
    assert groma.config.score_threshold == 0.15
    answers(adapter, sample(pictures / "a.png", *asked))
    assert (groma.perceived[-1], groma.resize) == ([(40, 30)], "pil")
    assert groma.thresholds[-1] == 0.15


def test_the_command_line_goes_before_the_protocol(groma, pictures):
    adapter = GromaAdapter(groma, "fake", fixed={"score_threshold"})
    decoding = Decoding(setup=Setup(score_threshold=0.3))
    answers(adapter, sample(pictures / "a.png", Question("1", "propose")), decoding=decoding)
    assert groma.thresholds == [0.15]


def test_pictures_are_turned_only_as_opencv_reads_them(groma, tmp_path):
    picture = Image.new("RGB", (30, 20), "black")
    picture.paste("white", (0, 0, 15, 20))
    picture.getexif()[0x0112] = 6  # to be turned clockwise by 90 degrees
    picture.save(tmp_path / "turned.png", exif=picture.getexif())
    assert open_image(tmp_path / "turned.png").size == (30, 20)
    turned = open_image(tmp_path / "turned.png", rotate=True)
    assert (turned.mode, turned.size) == ("RGB", (20, 30))
    asked = sample(tmp_path / "turned.png", Question("1", "propose"))
    answers(GromaAdapter(groma, "x"), asked, decoding=Decoding(setup=Setup(preprocessing="cv2")))
    (seen,) = groma.images
    assert [seen.getpixel(at) for at in ((8, 2), (8, 27))] == [(255,) * 3, (0,) * 3]


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
        (
            {"model_args": {"nms": "1"}},
            "has score_threshold, nms_threshold, device_map, quantization, attn_implementation",
        ),
        ({"model_args": {"device_map": "0"}}, "device_map=0: must be auto"),
        ({"model_args": {"quantization": "int8"}}, "quantization=int8: must be 8bit or 4bit"),
        (
            {"model_args": {"attn_implementation": "flash"}},
            "attn_implementation=flash: must be groma or sdpa or eager or flash_attention_2",
        ),
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
        GromaAdapter.load("groma-tiny", name="n", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_loading_reach_the_loader_and_only_quantisation_is_noted(monkeypatch, groma):
    called = {}

    def from_pretrained(name, **options):
        called[name] = options
        return groma

    monkeypatch.setattr("groma_model.Groma", SimpleNamespace(from_pretrained=from_pretrained), raising=False)
    options = {"device_map": "auto", "quantization": "4bit", "attn_implementation": "eager"}
    adapter = GromaAdapter.load("groma-tiny", name="n", model_args=options | {"nms_threshold": "0.5"})
    assert called == {resolve_checkpoint("groma-tiny"): {"device": None, "dtype": None, **options}}
    assert adapter._fixed == {"nms_threshold"}
    assert adapter.info.notes[-2:] == ("nms_threshold=0.5", "quantization=4bit")
    del options["quantization"]
    assert (
        GromaAdapter.load("groma-tiny", name="n", model_args=options).info.notes == GromaAdapter(groma, "n").info.notes
    )


def test_settings_reach_the_model_and_its_notes(monkeypatch, groma):
    called = {}

    def from_pretrained(name, **options):
        called[name] = options
        return groma

    monkeypatch.setattr("groma_model.Groma", SimpleNamespace(from_pretrained=from_pretrained), raising=False)
    adapter = GromaAdapter.load("groma-tiny", name="n", device="cpu", dtype="bf16", model_args={"nms_threshold": "0.5"})
    assert called == {resolve_checkpoint("groma-tiny"): {"device": "cpu", "dtype": torch.bfloat16}}
    assert groma.config.nms_threshold == 0.5
    assert adapter._fixed == {"nms_threshold"}
    assert adapter.info.notes[-1] == "nms_threshold=0.5"


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A checkpoint of preset nano with random weights, which proposes whatever scores above nothing."""
    from groma_model.checkpoints import save_checkpoint
    from groma_model.configuration import preset
    from groma_model.modeling import GromaForConditionalGeneration
    from groma_model.processing import GromaProcessor, train_tokenizer

    torch.manual_seed(0)
    config = preset("nano", score_threshold=0.0)
    tokenizer = train_tokenizer(["locate all the red disc", "describe the image"], config)
    folder = tmp_path_factory.mktemp("nano")
    save_checkpoint(GromaForConditionalGeneration(config), GromaProcessor(tokenizer, config), folder)
    yield str(folder)
    registry._cache.clear()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    samples = []
    for i in range(5):
        path = folder / f"{i}.png"
        Image.effect_noise((60 + i, 50), 100).convert("RGB").save(path)
        questions = (
            Question(f"{i}/one", "ground_one", text="red disc", target={"boxes": [BOXES[0]]}),
            Question(f"{i}/all", "ground_all", text="disc", target={"boxes": BOXES}),
            Question(f"{i}/box", "describe", box=BOXES[1]),
            Question(f"{i}/scene", "describe_scene"),
            Question(f"{i}/talk", "converse", text="what is <box>?", box=BOXES[1], history=(("hello", "yes"),)),
        )
        samples.append(Sample(str(i), path, 60 + i, 50, questions))
    return samples


def in_batches(model, samples, size):
    if hasattr(model, "prepare"):
        model.prepare(samples)
    decoding = Decoding(max_new_tokens=4)
    starts = range(0, len(samples), size)
    found = [a for i in starts for a in model.answer(samples[i : i + size], decoding, {}, "paper")]
    return {answer.image_id: answer for answer in found}


@pytest.mark.parametrize("name", ["groma:{}", "{}", "bound:blind@groma:{}"])
def test_a_real_model_answers_alike_at_every_batch_size(nano, noise, name):
    model = load(name.format(nano), device="cpu")
    assert model.info.checkpoint_hash
    whole, single = in_batches(model, noise, 5), in_batches(model, noise, 1)
    assert set(whole) == {sample.image_id for sample in noise}
    for sample in noise:
        one, two = whole[sample.image_id], single[sample.image_id]
        assert one.error is None
        assert torch.tensor(one.proposals).shape[1] == 4
        torch.testing.assert_close(torch.tensor(one.proposals), torch.tensor(two.proposals), atol=1e-4, rtol=0)
        assert [p.raw for p in one.predictions] == [p.raw for p in two.predictions]
        assert [p.question_id for p in one.predictions] == [q.id for q in sample.questions]
        assert all(p.prompt for p in one.predictions)


@pytest.mark.parametrize("preprocessing", ["pil", "cv2"])
def test_pictures_that_a_worker_read_give_the_same_answers(nano, noise, preprocessing):
    model = load(nano, device="cpu")
    decoding = Decoding(max_new_tokens=4, setup=Setup(preprocessing=preprocessing))
    read = pickle.loads(pickle.dumps(model.loader(decoding)))
    ahead = [replace(sample, loaded=read(sample)) for sample in noise]
    assert {sample.loaded.size for sample in ahead} == {(128, 128)}
    ahead = [replace(sample, image=sample.image.with_name("gone.png")) for sample in ahead]
    assert list(model.answer(ahead, decoding, {}, "paper")) == list(model.answer(noise, decoding, {}, "paper"))


def test_the_blind_model_answers_as_for_the_other_picture(nano, noise):
    seeing = in_batches(load(nano, device="cpu"), noise, 2)
    blind = in_batches(load(f"bound:blind@{nano}", device="cpu"), noise, 2)
    for i in range(5):
        expected = torch.tensor(seeing[str((i + 1) % 5)].proposals)
        torch.testing.assert_close(torch.tensor(blind[str(i)].proposals), expected, atol=1e-4, rtol=0)


def test_proposal_bounds_choose_from_the_models_proposals(nano, noise):
    seeing = in_batches(load(nano, device="cpu"), noise, 5)
    grounding = [Sample(s.image_id, s.image, s.width, s.height, s.questions[:2]) for s in noise]
    for kind in ("oracle-proposal", "random-proposal", "largest-proposal"):
        for name, answer in in_batches(load(f"bound:{kind}@{nano}", device="cpu"), grounding, 5).items():
            assert answer.proposals == seeing[name].proposals
            assert all(set(p.boxes) <= set(answer.proposals) for p in answer.predictions)
            assert len(answer.predictions[0].boxes) == 1


def test_settings_change_the_proposals(nano, noise):
    all_of_them = in_batches(load(nano, device="cpu"), noise[:1], 1)["0"]
    few = in_batches(load(nano, device="cpu", model_args={"nms_threshold": "0.0"}), noise[:1], 1)["0"]
    assert 0 < len(few.proposals) < len(all_of_them.proposals)


def test_options_of_loading_leave_the_answers_alone(nano, noise):
    plain = in_batches(load(nano, device="cpu"), noise[:2], 2)
    options = {"device_map": "auto", "attn_implementation": "eager"}
    placed = in_batches(load(nano, device="cpu", model_args=options), noise[:2], 2)
    for name, answer in plain.items():
        assert [p.raw for p in placed[name].predictions] == [p.raw for p in answer.predictions]


def test_quantisation_names_what_is_missing(monkeypatch, nano):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(HarnessError, match=r"pip install bitsandbytes") as caught:
        load(nano, device="cpu", model_args={"quantization": "4bit"})
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(HarnessError, match="another kind") as caught:
        load(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)
