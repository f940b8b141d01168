"""Adapters of transformers models: each on a tiny random-weight checkpoint of its architecture, from load to score."""

from __future__ import annotations

import json

import pytest
from harness_fakes import card, write_pictures
from PIL import Image
from tiny_models import BUILDERS

from groma_eval import evaluate, models
from groma_eval.box_formats import FORMATS, Canvas, smart_resize
from groma_eval.core import Decoding, HarnessError, Question, Sample
from groma_eval.models.adapters import ADAPTERS
from groma_eval.models.transformers_base import Completion, Generator
from groma_eval.models.transformers_loading import read_settings

DETECTORS = {"grounding-dino", "mm-grounding-dino", "owlv2"}
SIZES = [(80, 60), (60, 80), (80, 60)]
LONG = "a thing that is farther to the left of all the others"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with three pictures that differ, and a REC benchmark about them."""
    root = tmp_path_factory.mktemp("world")
    rows = []
    (root / "images").mkdir()
    for number, (width, height) in enumerate(SIZES):
        picture = Image.linear_gradient("L").resize((width, height)).rotate(90 * number).resize((width, height))
        Image.merge("RGB", [picture, picture.point(lambda v: 255 - v), picture]).save(root / f"images/p{number}.png")
        for index, phrase in enumerate(("cup", LONG)):
            rows.append({"img_id": f"p{number}_{index}", "sents": phrase, "bbox": [8, 6, 16, 24],
                         "width": width, "height": height})  # fmt: skip
    (root / "toy.json").write_text(json.dumps(rows))
    import yaml

    (root / "card.yaml").write_text(yaml.safe_dump(card()))
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folder of a tiny checkpoint by adapter name, made when first asked for."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name):
        if not (root / name).is_dir():
            BUILDERS[name](root / name)
        return root / name

    return folder


@pytest.fixture(autouse=True, scope="module")
def _forget_models():
    yield
    models.registry._cache.clear()


def _samples(world, *kinds):
    questions = {
        "ground_one": Question("one", "ground_one", text="cup"),
        "ground_all": Question("all", "ground_all", text=LONG),
        "describe": Question("describe", "describe", box=(0.125, 0.25, 0.5, 0.75)),
        "describe_scene": Question("scene", "describe_scene"),
        "converse": Question("talk", "converse", text="What is in <box>?", box=(0.125, 0.25, 0.5, 0.75),
                             history=(("Hello {box}", "Hi"),)),
    }  # fmt: skip
    return [
        Sample(f"p{n}", world / f"images/p{n}.png", *SIZES[n], tuple(
            Question(f"{n}/{q.id}", q.kind, q.text, q.box, q.history) for k, q in questions.items() if k in kinds
        ))
        for n in range(3)
    ]  # fmt: skip


def _answers(model, samples, limit=8):
    prompts = {"describe": "Describe {box}.", "describe_scene": "Describe the image.", "converse": "{text}"}
    answers = list(model.answer(samples, Decoding(max_new_tokens=limit), prompts, "paper"))
    assert sorted(answer.image_id for answer in answers) == sorted(sample.image_id for sample in samples)
    return {p.question_id: p for answer in answers for p in answer.predictions}


def test_every_declared_adapter_has_a_tiny_checkpoint_here():
    assert set(BUILDERS) == set(ADAPTERS)
    for declared in ADAPTERS.values():
        if declared.name in DETECTORS:
            assert declared.box_format == "cxcywh"
        else:
            assert FORMATS[declared.box_format].frame == declared.frame
        assert set(declared.templates) <= declared.capabilities


@pytest.mark.parametrize("name", ADAPTERS)
def test_from_the_command_to_the_score(name, world, checkpoints, tmp_path):
    result = evaluate(
        f"{name}:{checkpoints(name)}", world / "card.yaml", out=tmp_path / "run", data_root=world, progress=False
    )
    counts = result.metrics["toy"]["counts"]
    assert (counts["questions"], counts["failed"], counts["missing"]) == (6, 0, 0)
    model = json.loads((tmp_path / "run/manifest.json").read_text())["model"]
    assert (model["box_format"], model["frame"]) == (ADAPTERS[name].box_format, ADAPTERS[name].frame)
    assert set(model["capabilities"]) == ADAPTERS[name].capabilities
    assert model["parameters"] > 0
    assert model["checkpoint_hash"]
    rows = [json.loads(line) for line in (tmp_path / "run/toy/samples.jsonl").read_text().splitlines()]
    if name in DETECTORS:
        assert all(row["status"] == "ok" and len(row["boxes"]) == len(row["confidences"]) == 1 for row in rows)
    else:
        assert all(row["raw"] or row["status"] == "unparsed" for row in rows)
        assert all("cup" in row["prompt"] or LONG in row["prompt"] for row in rows)


@pytest.mark.parametrize("name", ADAPTERS)
def test_answers_do_not_depend_on_the_batch(name, world, checkpoints):
    kinds = ADAPTERS[name].capabilities
    samples = _samples(world, *kinds)
    together = _answers(models.load(f"{name}:{checkpoints(name)}"), samples)
    assert len(together) == 3 * len(kinds)
    one = {} if name == "owlv2" else {"batch": "1"}
    model = models.load(f"{name}:{checkpoints(name)}", model_args=one)
    alone = {key: found for sample in reversed(samples) for key, found in _answers(model, [sample]).items()}
    for key, found in together.items():
        assert (found.raw, found.text, found.prompt) == (alone[key].raw, alone[key].text, alone[key].prompt)
        assert len(found.boxes) == len(alone[key].boxes)
        for box, other in zip(found.boxes, alone[key].boxes):
            assert box == pytest.approx(other, abs=1e-4)
    if name not in DETECTORS:  # what is told apart: the picture, not the wording alone
        assert len({found.raw for found in together.values()}) > 1


#: What the models' cards show as answers (numbers for pictures of 80 x 60 where they are pixels), and the boxes.
WRITTEN = {
    "kosmos-2": ("<object><patch_index_0044><patch_index_0863></object>", [(0.390625, 0.046875, 0.984375, 0.828125)]),
    "florence-2": ("a green car<loc_54><loc_375><loc_906><loc_707>", [(0.0545, 0.3755, 0.9065, 0.7075)]),
    "paligemma": (
        "<loc0256><loc0128><loc0512><loc1023> cat ; <loc0000><loc0512><loc0256><loc0768> cat",
        [(0.125, 0.25, 1023 / 1024, 0.5), (0.5, 0.0, 0.75, 0.25)],
    ),
    "qwen2.5-vl": ('```json\n[\n\t{"bbox_2d": [14, 14, 28, 21], "label": "cup"}\n]\n```', None),
    "qwen3-vl": ('```json\n[\n\t{"bbox_2d": [74, 361, 324, 808], "label": "cup"}\n]\n```',
                 [(0.074, 0.361, 0.324, 0.808)]),
    "internvl": ("<ref>cup</ref><box>[[225, 452, 389, 760]]</box>", [(0.225, 0.452, 0.389, 0.760)]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_documented_answers_are_read(name, world, checkpoints, monkeypatch):
    text, wanted = WRITTEN[name]
    model = models.load(f"{name}:{checkpoints(name)}")
    tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = model.model.generation_config.eos_token_id

    def generate(self, **inputs):
        import torch

        prompt = inputs["input_ids"] if model.emits_prompt else inputs["input_ids"][:, :1]
        answer = torch.tensor([[*tokens, ends, model.tokenizer.pad_token_id]]).expand(len(prompt), -1)
        return torch.cat([prompt, answer], dim=1)

    monkeypatch.setattr(type(model.model), "generate", generate)
    answers = _answers(model, _samples(world, "ground_one"), limit=200)
    for key, found in answers.items():
        assert found.raw == text
        assert found.status == "ok"
        if name == "qwen2.5-vl":
            width, height = smart_resize(*SIZES[int(key[0])], 28, 784, 3136)
            boxes = [(14 / width, 14 / height, 28 / width, 21 / height)]
        else:
            boxes = wanted
        assert len(found.boxes) == len(boxes)
        for box, expected in zip(found.boxes, boxes):
            assert box == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - DETECTORS))
def test_boxes_are_asked_about_in_the_models_own_format(name, world, checkpoints, monkeypatch):
    if "describe" not in ADAPTERS[name].capabilities:
        pytest.skip("cannot describe regions")
    model = models.load(f"{name}:{checkpoints(name)}")
    monkeypatch.setattr(Generator, "complete", lambda self, asks, limit: [Completion("a cup", False) for _ in asks])
    found = _answers(model, _samples(world, "describe")[:1])["0/describe"]
    canvas = Canvas(80, 60, *smart_resize(80, 60, 28, 784, 3136))
    assert FORMATS[name].format((0.125, 0.25, 0.5, 0.75), canvas) in found.prompt
    assert (found.text, found.status) == ("a cup", "ok")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "internvl"])
def test_earlier_turns_are_told(name, world, checkpoints):
    from groma_eval.models.transformers_base import Ask

    model = models.load(f"{name}:{checkpoints(name)}")
    sample = _samples(world, "converse")[0]
    image = Image.open(sample.image)
    question = sample.questions[0]
    canvas = model.canvas(image)
    prompt = model.prompt(question, canvas, {})
    text = model.chat(Ask(question, image, canvas, prompt))
    box = FORMATS[name].format(question.box, canvas)
    assert text.endswith(f"<|im_start|>user\nWhat is in {box}?<|im_end|>\n<|im_start|>assistant\n")
    assert "Hello {box}<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>" in text
    assert text.count(model.image_token if name == "internvl" else "<|image_pad|>") == 1
    assert text.index("Hello") > text.index("<")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "internvl"])
def test_inputs_are_those_of_the_models_own_processor(name, world, checkpoints):
    """The own processor, made without its video half, which needs torchvision."""
    import torch
    import transformers

    model = models.load(f"{name}:{checkpoints(name)}")
    classes = {"qwen2.5-vl": "Qwen2_5_VLProcessor", "qwen3-vl": "Qwen3VLProcessor", "internvl": "InternVLProcessor"}
    asks, texts = _chat_asks(model, world)
    own = getattr(transformers, classes[name])
    processor = own.__new__(own)
    processor.__dict__.update(image_processor=model.image_processor, tokenizer=model.tokenizer, chat_template=None)
    if name == "internvl":
        import re

        tokenizer = model.tokenizer
        processor.__dict__.update(
            image_seq_length=4, start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>",
            video_token="<video>", image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            start_image_token_id=tokenizer.convert_tokens_to_ids("<img>"),
            end_image_token_id=tokenizer.convert_tokens_to_ids("</img>"),
            multimodal_pattern=re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)"),
        )  # fmt: skip
    else:
        for kind in ("image", "video"):
            token = f"<|{kind}_pad|>"
            setattr(processor, f"{kind}_token", token)
            setattr(processor, f"{kind}_token_id", model.tokenizer.convert_tokens_to_ids(token))
    theirs = processor(images=[ask.image for ask in asks], text=texts, padding=True, return_tensors="pt",
                       padding_side="left")  # fmt: skip
    ours = model.inputs(asks)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[key]).to(value.dtype), value), key


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "internvl"])
def test_inputs_are_those_of_the_whole_processor_with_torchvision(name, world, checkpoints):
    pytest.importorskip("torchvision")
    import torch
    from transformers import AutoProcessor

    model = models.load(f"{name}:{checkpoints(name)}")
    asks, texts = _chat_asks(model, world)
    processor = AutoProcessor.from_pretrained(checkpoints(name), backend="pil")
    theirs = processor(images=[ask.image for ask in asks], text=texts, padding=True, return_tensors="pt",
                       padding_side="left")  # fmt: skip
    ours = model.inputs(asks)
    for key in ("input_ids", "attention_mask"):
        assert torch.equal(ours[key], theirs[key])
    assert torch.allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-5)


def _chat_asks(model, world):
    from groma_eval.models.transformers_base import Ask

    asks = []
    for sample in _samples(world, "ground_one", "ground_all"):
        image = Image.open(sample.image).convert("RGB")
        canvas = model.canvas(image)
        asks += [Ask(q, image, canvas, model.prompt(q, canvas, {})) for q in sample.questions]
    return asks, [model.chat(ask) for ask in asks]


def test_the_declared_input_size_is_the_one_the_model_sees(world, checkpoints):
    for name, patch in (("qwen2.5-vl", 14), ("qwen3-vl", 16)):
        model = models.load(f"{name}:{checkpoints(name)}", model_args={"max_pixels": "6000"})
        asks, _ = _chat_asks(model, world)
        grids = model.inputs(asks)["image_grid_thw"].tolist()
        for ask, (_, rows, columns) in zip(asks, grids):
            assert (ask.canvas.input_width, ask.canvas.input_height) == (columns * patch, rows * patch)


@pytest.mark.parametrize("name", ["grounding-dino", "mm-grounding-dino", "owlv2"])
def test_detections_are_those_of_the_models_own_post_processing(name, world, checkpoints):
    import torch
    import transformers

    model = models.load(f"{name}:{checkpoints(name)}", model_args={"threshold": "0"})
    samples = _samples(world, "ground_all", "ground_one")
    answers = _answers(model, samples)
    own = {"owlv2": "Owlv2Processor"}.get(name, "GroundingDinoProcessor")
    processor = getattr(transformers, own)(model.image_processor, model.tokenizer)
    for number, sample in enumerate(samples):
        image = Image.open(sample.image).convert("RGB")
        for question, phrase in ((f"{number}/all", LONG), (f"{number}/one", "cup")):
            text = ADAPTERS[name].templates["ground_all" if phrase == LONG else "ground_one"].format(text=phrase)
            inputs = processor(images=image, text=[[text]] if name == "owlv2" else text, return_tensors="pt",
                               **({"truncation": True, "max_length": 16} if name == "owlv2" else {}))  # fmt: skip
            with torch.inference_mode():
                outputs = model.model(**inputs)
            sizes = {"target_sizes": [image.size[::-1]], "threshold": 0.0}
            if name != "owlv2":
                sizes["input_ids"] = inputs["input_ids"]
            (theirs,) = processor.post_process_grounded_object_detection(outputs, **sizes)
            order = theirs["scores"].argsort(descending=True, stable=True)
            width, height = image.size
            boxes = (theirs["boxes"] / torch.tensor([width, height, width, height]))[order].tolist()
            scores = theirs["scores"][order].tolist()
            ours = answers[question]
            if question.endswith("one"):
                boxes, scores = boxes[:1], scores[:1]
            assert ours.confidences == pytest.approx(scores, abs=1e-5)
            for box, expected in zip(ours.boxes, boxes, strict=True):
                assert box == pytest.approx(expected, abs=1e-4)


def test_a_threshold_leaves_boxes_out(world, checkpoints):
    folder = checkpoints("owlv2")
    everything = _answers(models.load(f"owlv2:{folder}", model_args={"threshold": "0"}), _samples(world, "ground_all"))
    scores = everything["0/all"].confidences
    middle = sorted(scores)[len(scores) // 2]
    some = models.load(f"owlv2:{folder}", model_args={"threshold": f"{middle:.6f}"})
    kept = _answers(some, _samples(world, "ground_all"))["0/all"]
    assert 0 < len(kept.boxes) < len(scores)
    assert all(confidence > middle - 1e-6 for confidence in kept.confidences)
    assert f"threshold={middle:g}" in " ".join(some.info.notes)


def test_an_answer_that_the_limit_cut_off_says_so(world, checkpoints):
    model = models.load(f"kosmos-2:{checkpoints('kosmos-2')}")
    found = _answers(model, _samples(world, "ground_one"), limit=2)
    for prediction in found.values():
        assert prediction.status == "unparsed"
        assert prediction.error == "cut off at max_new_tokens=2; --gen-args max_new_tokens=N gives more"


def test_a_picture_that_cannot_be_read_fails_alone(world, checkpoints, tmp_path):
    write_pictures(tmp_path, ["good.png"])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    model = models.load(f"owlv2:{checkpoints('owlv2')}")
    question = Question("q", "ground_one", text="cup")
    samples = [
        Sample("bad", tmp_path / "bad.png", 80, 60, (question,)),
        Sample("good", tmp_path / "good.png", 80, 60, (Question("p", "ground_one", text="cup"),)),
    ]
    answers = {answer.image_id: answer for answer in model.answer(samples, Decoding(), {}, "paper")}
    assert "bad.png" in answers["bad"].error
    assert answers["bad"].predictions[0].status == "failed"
    assert answers["good"].predictions[0].status == "ok"


def test_what_a_model_cannot_do_is_one_line(world, checkpoints):
    from groma_eval.jobs import _check_capabilities

    model = models.load(f"owlv2:{checkpoints('owlv2')}")
    with pytest.raises(HarnessError, match=r"model owlv2:.* cannot converse, which") as caught:
        _check_capabilities(type("C", (), {"name": "pope"}), model.info, _samples(world, "converse"))
    assert "\n" not in str(caught.value)


def test_sampling_is_refused(checkpoints):
    model = models.load(f"owlv2:{checkpoints('owlv2')}")
    with pytest.raises(HarnessError, match="decodes greedily"):
        list(model.answer([], Decoding(do_sample=True), {}, "paper"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_args": {"treshold": "0.1"}}, "has no --model-args 'treshold'; it has batch, threshold"),
        ({"model_args": {"threshold": "2"}}, "threshold=2: must be a number from 0 to 1"),
        ({"model_args": {"batch": "0"}}, "batch=0: must be a whole number > 0"),
        ({"model_args": {"batch": "1.5"}}, "must be a whole number"),
        ({"dtype": "int8"}, "--dtype 'int8' is none"),
        ({"device": "gpu"}, "--device 'gpu' is none"),
    ],
)
def test_wrong_settings(checkpoints, options, message):
    with pytest.raises(HarnessError) as caught:
        models.load(f"grounding-dino:{checkpoints('grounding-dino')}", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_checkpoints(checkpoints, tmp_path):
    with pytest.raises(HarnessError, match=r"its config\.json says 'owlv2', not qwen3_vl"):
        models.load(f"qwen3-vl:{checkpoints('owlv2')}")
    with pytest.raises(HarnessError) as caught:
        models.load(f"qwen3-vl:{tmp_path / 'nothing'}")
    assert "\n" not in str(caught.value)
    assert read_settings("m", {"batch": "4"}, {"batch": 8}) == {"batch": 4}


def test_broken_checkpoints(checkpoints, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "qwen"
    shutil.copytree(checkpoints("qwen3-vl"), folder)
    weights = load_file(folder / "model.safetensors")
    gone = next(key for key in weights if key.endswith("q_proj.weight"))
    save_file({key: value for key, value in weights.items() if key != gone}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    assert "1 weights are not in the checkpoint and random" in models.load(f"qwen3-vl:{folder}").info.notes
    models.registry._cache.clear()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(HarnessError, match="has no chat template"):
        models.load(f"qwen3-vl:{folder}")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(HarnessError, match="model 'qwen3-vl:") as caught:
        models.load(f"qwen3-vl:{folder}")
    assert "\n" not in str(caught.value)


def test_another_checkpoint_has_another_hash(checkpoints, tmp_path):
    import shutil

    other = tmp_path / "copy"
    shutil.copytree(checkpoints("owlv2"), other)
    same = models.load(f"owlv2:{other}").info.checkpoint_hash
    assert same == models.load(f"owlv2:{checkpoints('owlv2')}").info.checkpoint_hash
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    models.registry._cache.clear()
    assert models.load(f"owlv2:{other}").info.checkpoint_hash != same


@pytest.mark.parametrize("name", ADAPTERS)
def test_half_precision(name, world, checkpoints):
    model = models.load(f"{name}:{checkpoints(name)}", dtype="bf16", device="cpu")
    assert str(model.model.dtype) == "torch.bfloat16"
    found = _answers(model, _samples(world, "ground_one")[:1])
    assert found["0/one"].status in ("ok", "unparsed")
