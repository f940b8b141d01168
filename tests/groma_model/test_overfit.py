"""Eight samples of every reader, learnt by heart through the real loop: then the model gives the targets themselves."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass

import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from groma_model.boxes import iou_matrix
from groma_model.configuration import preset
from groma_model.data.mixture import Mixture, load_mixture
from groma_model.data.readers import READERS
from groma_model.data.samples import corpus
from groma_model.generation import Exchange, Groma, Query
from groma_model.grounded_text import parse
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import TEMPLATES, GromaProcessor, train_tokenizer
from groma_model.training.loop import train
from groma_model.training.recipe import Recipe

SIDE, COUNT = 96, 8
COLOURS = {"red": (230, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230), "yellow": (240, 220, 30)}
VISION = dict(model_type="dinov2", hidden_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=SIDE,
              patch_size=16, layerscale_value=1.0)  # fmt: skip
LLM = dict(model_type="llama", vocab_size=384, hidden_size=96, intermediate_size=192, num_hidden_layers=2,
           num_attention_heads=3, num_key_value_heads=3, initializer_range=0.04, max_position_embeddings=1024,
           rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)  # fmt: skip
SIZES = dict(image_size=SIDE, vision_config=VISION, llm_config=LLM, num_queries=16, max_regions=16,
             proposer_decoder_layers=1)  # fmt: skip
LANGUAGE = ("projector", "region_encoder", "llm", "new_token_embeddings", "new_token_head", "pointer")
GROUND = "<ground_box>"


@dataclass(frozen=True)
class Turn:
    """What is asked of picture ``picture`` and what the file answers; boxes xywh in pixels."""

    kind: str
    text: str | None
    answer: str
    points: tuple = ()
    box: tuple | None = None


#: Each picture: a square on the left and one on the right, as (colour, box xywh in pixels).
def _scenes():
    draw, scenes = random.Random(0), []
    for _ in range(COUNT):
        left, right = draw.sample(sorted(COLOURS), 2)
        boxes = [(4 + 46 * k + draw.randrange(10), 6 + draw.randrange(40), 26 + draw.randrange(10),
                  26 + draw.randrange(14)) for k in range(2)]  # fmt: skip
        scenes.append([(left, boxes[0]), (right, boxes[1])])
    return scenes


SCENES = _scenes()
CAPTIONS = [f"a {left} square left of a {right} square" for (left, _), (right, _) in SCENES]


def image(i, **more):
    return {"id": i, "file_name": f"p{i}.png", "width": SIDE, "height": SIDE, **more}


def coco(annotations, captions=False, **more):
    images = [image(i, **({"caption": CAPTIONS[i]} if captions else {})) for i in range(COUNT)]
    return {"images": images, "annotations": annotations, **more}


def spans(i):
    """Where each square's phrase stands in the picture's caption."""
    found, start = [], 0
    for colour, _ in SCENES[i]:
        start = CAPTIONS[i].index(f"a {colour} square", start)
        found.append([start, start + len(f"a {colour} square")])
    return found


def grounded(i):
    (left, _), (right, _) = SCENES[i]
    roi = f"<roi>{GROUND}</roi>"
    return f"<p>a {left} square</p>{roi} left of <p>a {right} square</p>{roi}"


def boxes(i):
    return tuple(box for _, box in SCENES[i])


def normalised(box):
    x, y, w, h = box
    return (x / SIDE, y / SIDE, (x + w) / SIDE, (y + h) / SIDE)


def rec():
    rows, asked = [], []
    for i in range(COUNT):
        colour, box = SCENES[i][i % 2]
        rows.append({"img_id": f"p{i}_0", "sents": f"the {colour} one", "bbox": box, "width": SIDE, "height": SIDE})
        asked.append([[Turn("ground_one", f"the {colour} one", f"<roi>{GROUND}</roi>", (box,))]])
    return rows, asked


def grit():
    rows, asked = [], []
    for i in range(COUNT):
        (colour, box), span = SCENES[i][i % 2], spans(i)[i % 2]
        x1, y1, x2, y2 = normalised(box)
        rows.append({"filename": f"p{i}.png", "caption": CAPTIONS[i], "ref_exps": [[*span, x1, y1, x2, y2, 0.9]]})
        asked.append([[Turn("ground_one", f"a {colour} square", f"<roi>{GROUND}</roi>", (box,))]])
    return rows, asked


def grounding():
    numbers = {name: k for k, name in enumerate([*COLOURS, "square"], 1)}
    annotations, asked = [], []
    for i in range(COUNT):
        for colour, box in reversed(SCENES[i]):  # asked for from left to right whatever the file's order
            annotations += [{"image_id": i, "bbox": box, "category_id": numbers[n]} for n in (colour, "square")]
        asked.append([[Turn("ground_all", "square", f"<roi>{GROUND}{GROUND}</roi>", boxes(i))]])
        asked[-1] += [[Turn("ground_all", c, f"<roi>{GROUND}</roi>", (b,))] for c, b in SCENES[i]]
    return coco(annotations, categories=[{"id": n, "name": name} for name, n in numbers.items()]), asked


def talk(*pairs):
    return [{"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair)]


def image_captions():
    rows = [{"image": f"p{i}.png", "conversations": talk(("<image>\nshow?", CAPTIONS[i]))} for i in range(COUNT)]
    return rows, [[[Turn("converse", "show?", caption)]] for caption in CAPTIONS]


def grounded_captions():
    annotations = [{"image_id": i, "bbox": box, "tokens_positive": [span]}
                   for i in range(COUNT) for span, box in zip(spans(i), boxes(i))]  # fmt: skip
    return coco(annotations, True), [[[Turn("describe_scene", None, grounded(i), boxes(i))]] for i in range(COUNT)]


def region_captions():
    annotations = [{"image_id": i, "bbox": box, "caption": f"a {colour} square"}
                   for i in range(COUNT) for colour, box in SCENES[i]]  # fmt: skip
    return coco(annotations), [[[Turn("describe", None, f"a {c} square", (), b)] for c, b in s] for s in SCENES]


def conversations():
    rows, asked = [], []
    for i, ((left, _), (right, _)) in enumerate(SCENES):
        pairs = [("what is left?", f"a {left} square."), ("and right?", f"a {right} one.")]
        rows.append({"image": f"p{i}.png", "conversations": talk(*pairs)})
        asked.append([[Turn("converse", *pair) for pair in pairs]])
    return rows, asked


def groma_instruct():
    rows, asked = [], []
    for i, ((_, first), (right, second)) in enumerate(SCENES):
        pairs = [("what is there?", grounded(i)), ("which is right?", f"<p>the {right} one</p><roi>{GROUND}</roi>.")]
        turns = talk(*pairs)
        turns[1]["box_inds"], turns[3]["box_inds"] = [1, 0], [0]
        rows.append({"file_name": f"p{i}.png", "width": SIDE, "height": SIDE, "boxes": [second, first],
                     "conversation": turns})  # fmt: skip
        asked.append([[Turn("converse", *pairs[0], (first, second)), Turn("converse", *pairs[1], (second,))]])
    return rows, asked


def detection(pictures=range(COUNT)):
    annotations = [{"image_id": i, "bbox": box} for i in pictures for box in boxes(i)]
    return {"images": [image(i) for i in pictures], "annotations": annotations}


LANGUAGE_FORMS = {
    "rec": (rec, {}), "grit": (grit, {}), "grounding": (grounding, {}), "image_captions": (image_captions, {}),
    "grounded_captions": (grounded_captions, {}), "region_captions": (region_captions, {"rounds": "single"}),
    "region_captions, multi": (region_captions, {"rounds": "multi"}), "conversations": (conversations, {}),
    "groma_instruct": (groma_instruct, {}),
}  # fmt: skip


STEPS = {"rec": 60, "grounding": 140, "groma_instruct": 140}


def test_every_reader_is_here():
    assert {"detection", *(name.split(",")[0] for name in LANGUAGE_FORMS)} == set(READERS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overfit")
    (folder / "images").mkdir()
    for i, scene in enumerate(SCENES):
        picture = Image.new("RGB", (SIDE, SIDE), (200, 200, 200))
        for colour, (x, y, w, h) in scene:
            ImageDraw.Draw(picture).rectangle((x, y, x + w, y + h), fill=COLOURS[colour])
        picture.save(folder / "images" / f"p{i}.png")
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mixture(root, *sets):
    """A mixture of (reader, content, options)."""
    listed = []
    for number, (reader, content, options) in enumerate(sets):
        (root / f"{number}.json").write_text(json.dumps(content))
        listed.append({"reader": reader, "annotations": f"{number}.json", "images": "images", "options": options})
    (root / "mixture.yaml").write_text(yaml.safe_dump(listed))
    return Mixture(load_mixture(root / "mixture.yaml"), TEMPLATES["brief"], 0, root / "cache")


def build(data):
    torch.manual_seed(0)
    config = preset("nano", **SIZES, objectness_exponents=(1.0, 0.0))
    processor = GromaProcessor(train_tokenizer(corpus(data, TEMPLATES["brief"]), config), config)
    return GromaForConditionalGeneration(config), processor


def losses(folder):
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def fit_boxes(data, out, steps=80):
    model, processor = build(data)
    recipe = Recipe(stage="detect", steps=steps, batch_size=COUNT, lr=3e-3, trainable=("vision_encoder", "proposer"),
                    warmup=5, betas=(0.9, 0.98), weight_decay=1e-2, save_every=1000, loss={"source": "coco"},
                    lr_scale={"sampling_offsets": 0.1})  # fmt: skip
    train(model, processor, data, recipe, out, progress=False)
    return model, processor


def picture(root, i):
    return Image.open(root / "images" / f"p{i}.png")


def assert_regions_are_the_boxes(groma, root, pictures):
    """At IoU 0.75 average precision and recall are 1: as many regions as boxes, each box met by one."""
    for i in pictures:
        scene = groma.perceive(picture(root, i))
        overlap = iou_matrix(torch.tensor([normalised(box) for box in boxes(i)]), scene.boxes)
        assert overlap.shape == (2, 2)
        assert overlap.max(1).values.min() > 0.75
        assert overlap.argmax(1).tolist() in ([0, 1], [1, 0])


@pytest.fixture(scope="module")
def detector(root, tmp_path_factory):
    """A model that knows the pictures' boxes; what it had learnt of them when it began and ended."""
    folder = tmp_path_factory.mktemp("detector")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (folder / "images").symlink_to(root / "images")
    model, processor = fit_boxes(mixture(folder, ("detection", detection(), {})), folder / "run")
    torch.set_num_threads(threads)
    return model, processor, losses(folder / "run")


def test_boxes_are_learnt_by_heart(detector, root):
    model, processor, curve = detector
    assert curve[-1] < 0.1 * curve[0]
    assert_regions_are_the_boxes(Groma(model, processor), root, range(COUNT))


@pytest.mark.slow
def test_boxes_of_two_sources_are_learnt_by_a_head_each(root, tmp_path):
    (tmp_path / "images").symlink_to(root / "images")
    coco_like, sa1b_like = range(COUNT // 2), range(COUNT // 2, COUNT)
    data = mixture(tmp_path, ("detection", detection(coco_like), {"source": "coco"}),
                   ("detection", detection(sa1b_like), {"source": "sa1b"}))  # fmt: skip
    model, processor = fit_boxes(data, tmp_path / "run", 160)
    curve = losses(tmp_path / "run")
    assert curve[-1] < 0.1 * curve[0]
    for pictures, exponents in ((coco_like, (1.0, 0.0)), (sa1b_like, (0.0, 1.0))):
        model.proposer.exponents = exponents
        assert_regions_are_the_boxes(Groma(model, processor), root, pictures)


@pytest.mark.parametrize(
    "name", ["rec", *(pytest.param(n, marks=pytest.mark.slow) for n in LANGUAGE_FORMS if n != "rec")]
)
def test_answers_are_learnt_by_heart(detector, root, tmp_path, name):
    (tmp_path / "images").symlink_to(root / "images")
    form, options = LANGUAGE_FORMS[name]
    content, asked = form()
    data = mixture(tmp_path, (name.split(",")[0], content, options))
    model, processor = build(data)
    model.load_state_dict(detector[0].state_dict())
    (task,) = data.tasks
    recipe = Recipe(stage="instruct", steps=STEPS.get(name, 100), batch_size=COUNT, lr=2e-3, warmup=10,
                    trainable=LANGUAGE, betas=(0.9, 0.98), weight_decay=1e-2, save_every=1000,
                    tasks={task: 1})  # fmt: skip
    train(model, processor, data, recipe, tmp_path / "run", progress=False)
    curve = losses(tmp_path / "run")
    assert curve[-1] < min(0.03, 0.05 * curve[0])

    groma = Groma(model, processor)
    for i, dialogues in enumerate(asked):
        scene = groma.perceive(picture(root, i))
        for dialogue in dialogues:
            history = []
            for turn in dialogue:
                given = () if turn.box is None else (normalised(turn.box),)
                query = Query(turn.kind, turn.text, given, tuple(history))
                ((answer,),) = groma.answer([scene], [[query]], 40)
                # The regions that lie on the target's boxes, by which the right answer points.
                regions = torch.tensor(answer.regions).view(-1, 4)
                targets = torch.tensor([normalised(box) for box in turn.points]).view(-1, 4)
                overlap = iou_matrix(targets, regions)
                assert (overlap.max(1).values > 0.75).all()
                expected = turn.answer
                for index in overlap.argmax(1).tolist():
                    expected = expected.replace(GROUND, f"<r{index}>", 1)
                wanted = parse(expected, answer.regions)
                assert (answer.grounded.text, answer.grounded.spans) == (wanted.text, wanted.spans)
                history.append(Exchange(turn.text or "", answer.raw, given, answer.regions))
