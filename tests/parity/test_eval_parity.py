"""The released evaluation loops (16 annotations each): our scoring of their answers, and our answers beside theirs.

The recording took the first instruction of each list and left the regions in the order of their scores. ``boosted``
recordings multiply the output weights of the first 14 region tokens by 4, so that regions that exist are emitted.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fixture import note

from groma_eval.cards import select
from groma_eval.core import Decoding, Question, Sample
from groma_eval.models.groma import GromaAdapter, _prediction
from groma_eval.tasks import TASKS
from groma_eval.tasks.caption import released_text
from groma_model.boxes import cxcywh_to_xyxy
from groma_model.checkpoints import load_checkpoint
from groma_model.generation import Groma
from groma_model.grounded_text import parse
from groma_model.released_tokenizer import read_pieces

REC = ["eval_rec thres=0.15", "eval_rec thres=0.0", "eval_rec boosted thres=0.15", "eval_rec boosted thres=0.25"]
CAPTIONS = {"model_refcocog": "refcocog_caption_val", "model_vg": "vg_caption_test"}
#: Where our IoU may differ from the recorded one: theirs is single precision throughout, ours takes their boxes (or our
#: own, recomputed ones) to double.
FLOAT32, RECOMPUTED = 1e-7, 1e-5


def read(shared, name):
    return json.loads((shared / "parity" / "eval" / name).read_text())


def released(benchmark):
    """Rules and decoding limits of a card's protocol."""
    protocol = select(benchmark)[0].protocols["released"]
    return protocol.rules, Decoding(**protocol.decoding)


def questions(shared, kind):
    """One question an annotation, in file order; the picture's file with each."""
    content = read(shared, "rec.json")
    images = {image["id"]: image for image in content["images"]}
    found = []
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        box = (x / image["width"], y / image["height"], (x + w) / image["width"], (y + h) / image["height"])
        grounding = kind == "ground_one"
        asked = Question(
            str(annotation["id"]),
            kind,
            text=annotation["caption"] if grounding else None,
            box=None if grounding else box,
            target={"boxes": [box]} if grounding else {"references": [annotation["caption"]]},
        )
        found.append((asked, image))
    return found


def samples_of(shared, asked):
    """Two pictures, each with half the questions."""
    by_file = {}
    for question, image in asked:
        by_file.setdefault(image["file_name"], (image, []))[1].append(question)
    folder = shared / "parity" / "images"
    return [
        Sample(name, folder / name, image["width"], image["height"], tuple(each))
        for name, (image, each) in by_file.items()
    ]


def corners(recorded):
    return cxcywh_to_xyxy(torch.tensor(recorded["pred_boxes_cxcywh"], dtype=torch.float64)).tolist()


def printed(recorded):
    """The three numbers that the released script prints: accuracy, mean IoU, share of answers without a region."""
    lines = dict(line.split(": ") for line in recorded["stdout"] if ": " in line)
    return (float(lines[key]) for key in ("iou@0.5 accu", "m_iou", "missing percentage"))


@pytest.mark.parametrize(
    ("benchmark", "recorded", "asked"),
    [
        ("refcoco_val", "refcoco_rec", "<p>{text}</p>"),
        ("lvis_ground", "lvis", "<p>{text:lower}</p>"),
        ("refcocog_caption_val", "refcoco_cap", "{box}"),
        ("vg_caption_test", "visual_genome", "{box}"),
    ],
)
def test_cards_ask_with_the_first_instruction(shared, benchmark, recorded, asked):
    lists = json.loads((shared / "parity" / "data" / "data.json").read_text())["instructions"]
    (instruction,) = released(benchmark)[1].setup.instructions.values()
    assert instruction == lists[recorded][0].format(asked)


# ------------------------------------------------------------------ the recorded answers, our scoring
def text_of_bytes(raw):
    """UTF-8 with one replacement character for each byte that belongs to no character, as sentencepiece reads it."""
    text = ""
    while raw:
        for size in (1, 2, 3, 4):
            try:
                text, raw = text + raw[:size].decode(), raw[size:]
                break
            except UnicodeDecodeError:
                continue
        else:
            text, raw = text + "\ufffd", raw[1:]
    return text


def plain_text(tokens):
    """Pieces between added tokens as text: byte pieces joined to characters, no space at the beginning."""
    text, raw = "", b""
    for token in [*tokens, ""]:
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            raw += bytes([int(token[3:5], 16)])
            continue
        text, raw = text + text_of_bytes(raw) + token, b""
    return text.replace("\u2581", " ").removeprefix(" ")


@pytest.fixture(scope="module")
def decode(shared):
    """Ids to text as the released tokenizer decodes them, written out here: a space beside every added token."""
    folder = shared / "parity" / "small" / "checkpoint"
    base = [piece.text for piece in read_pieces(folder / "tokenizer.model")]
    added = {number: token for token, number in json.loads((folder / "added_tokens.json").read_text()).items()}

    def decoded(ids):
        parts, waiting = [], []
        for number in [*ids, None]:
            if number is not None and number not in added:
                waiting.append(base[number])
                continue
            if waiting:
                parts.append(plain_text(waiting))
            waiting = []
            if number is not None:
                parts.append(added[number])
        return " ".join(parts)

    return decoded


def test_the_decoding_of_these_tests(shared, decode):
    table = json.loads((shared / "parity" / "data" / "data.json").read_text())["tokenization"]["legacy=False"]
    entries = [entry for text, entry in table.items() if isinstance(entry, dict) and "</s>" not in text]
    assert len(entries) == 12
    for entry in entries:
        assert decode(entry["fresh"][1:]) == entry["decode_skip"]


@pytest.mark.parametrize("name", REC)
def test_recorded_regions_score_as_recorded(shared, decode, name):
    recorded = read(shared, "official_eval.json")[name]
    rules, _ = released("refcoco_val")
    asked, predictions = questions(shared, "ground_one"), {}
    for (question, _), sample in zip(asked, recorded["samples"], strict=True):
        raw = decode(sample["new_tokens"])
        grounded = parse(raw, [tuple(box) for box in corners(sample)])
        assert list(grounded.regions) == sample["region_indices_valid"]
        assert grounded.dropped == len(sample["region_indices"]) - len(sample["region_indices_valid"])
        predictions[question.id] = _prediction(question, SimpleNamespace(raw=raw, grounded=grounded, prompt=""))
    result = TASKS["rec"](samples_of(shared, asked), predictions, {}, rules)
    accuracy, mean_iou, missing = printed(recorded)
    assert result.metrics["acc@0.5"] == 100 * accuracy
    assert result.metrics["miou"] / 100 == pytest.approx(mean_iou, abs=FLOAT32)
    assert result.counts["unparsed"] / result.counts["questions"] == missing


@pytest.mark.parametrize("name", CAPTIONS)
def test_recorded_answers_are_cleaned_as_recorded(shared, decode, name):
    recorded = read(shared, "official_eval.json")[name]
    for sample, stored in zip(recorded["samples"], recorded["result_file"], strict=True):
        assert released_text(decode(sample["new_tokens"])) == stored["caption"]


# ------------------------------------------------------------------ the released checkpoint through our adapter
@pytest.fixture(scope="module")
def groma(shared):
    model, processor = load_checkpoint(shared / "parity" / "small" / "checkpoint")
    model.config.region_order = "score"
    return Groma(model, processor)


@pytest.fixture
def decoded(groma, monkeypatch):
    """(job, generated ids) of every question, in order."""
    seen = []
    decode_ids = groma._decode

    def keeping(jobs, *args):
        results = decode_ids(jobs, *args)
        seen.extend((job, ids) for job, (ids, _) in zip(jobs, results, strict=True))
        return results

    monkeypatch.setattr(groma, "_decode", keeping)
    return seen


def same_jobs(groma, decoded, order, recorded):
    """Every question's prompt, regions and generated ids beside the recorded ones; ``order`` are the ids asked."""
    refer = groma.processor.ids["<refer_box>"]
    for (job, ids), question in zip(decoded, order, strict=True):
        theirs = recorded["samples"][int(question) - 1]
        prompt = theirs["prompt_ids"][-len(job.ids) :]
        assert job.ids == [groma.processor.region_ids[job.refer[0]] if t == refer else t for t in prompt]
        boxes, wanted = torch.tensor(job.prefix.boxes), torch.tensor(corners(theirs)).float()
        assert boxes.shape == wanted.shape
        note("evaluation loops: boxes", (boxes - wanted).abs().max().item(), RECOMPUTED)
        assert ids == theirs["new_tokens"]


def ask(groma, samples, decoding):
    adapter = GromaAdapter(groma, "released")
    answers = list(adapter.answer(samples, decoding, {}, "released"))
    return {p.question_id: p for answer in answers for p in answer.predictions}


@pytest.mark.parametrize("name", REC)
def test_rec_from_the_released_checkpoint(shared, groma, decoded, name):
    recorded = read(shared, "official_eval.json")[name]
    rules, decoding = released("refcoco_val")
    threshold = float(name.rpartition("=")[2])
    if threshold != decoding.setup.score_threshold:
        decoding = replace(decoding, setup=replace(decoding.setup, score_threshold=threshold))
    samples = samples_of(shared, questions(shared, "ground_one"))
    factor = 4 if "boosted" in name else 1
    weight = groma.model.new_token_head.weight.data[14:28]
    weight *= factor
    try:
        predictions = ask(groma, samples, decoding)
    finally:
        weight /= factor
    same_jobs(groma, decoded, [q.id for sample in samples for q in sample.questions], recorded)
    result = TASKS["rec"](samples, predictions, {}, rules)
    accuracy, mean_iou, missing = printed(recorded)
    assert result.metrics["acc@0.5"] == 100 * accuracy
    assert result.metrics["miou"] / 100 == pytest.approx(mean_iou, abs=RECOMPUTED)
    assert result.counts["unparsed"] / result.counts["questions"] == missing
    for score in result.scores:
        sample = recorded["samples"][int(score.question_id) - 1]
        valid, boxes = sample["region_indices_valid"], corners(sample)
        chosen = predictions[score.question_id].boxes
        assert len(chosen) == len(valid)
        for box, index in zip(chosen, valid):
            assert box == pytest.approx(boxes[index], abs=RECOMPUTED)


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_from_the_released_checkpoint(shared, groma, decoded, name):
    recorded = read(shared, "official_eval.json")[name]
    _, decoding = released(CAPTIONS[name])
    samples = samples_of(shared, questions(shared, "describe"))
    predictions = ask(groma, samples, decoding)
    same_jobs(groma, decoded, [q.id for sample in samples for q in sample.questions], recorded)
    for number, sample in enumerate(recorded["samples"], start=1):
        assert predictions[str(number)].raw == groma.processor.decode(sample["new_tokens"]).strip()


@pytest.mark.parametrize("name", CAPTIONS)
def test_our_tokenizers_text_of_recorded_answers(shared, groma, name):
    recorded = read(shared, "official_eval.json")[name]
    for sample, stored in zip(recorded["samples"], recorded["result_file"], strict=True):
        assert released_text(groma.processor.decode(sample["new_tokens"])) == stored["caption"]
