"""The packed way beside the plainest one: a question alone, no cache, the whole sequence anew for each token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from groma_eval.benchmarks.shapes.prepare import prepare
from PIL import Image

from groma_model import Groma
from groma_model.generation import Exchange, Query
from groma_model.packing import feature_indices
from groma_model.processing import BOX_PLACEHOLDER, render_question

NEW_TOKENS = 12


@torch.inference_mode()
def answer_plainly(groma: Groma, image: Image.Image, query: Query) -> tuple[list[int], list[float]]:
    """Greedy ids and the probability of each region token among them."""
    model, processor, names = groma.model, groma.processor, groma.processor.ids
    user = torch.tensor(query.all_boxes()).reshape(-1, 4)
    found = model.perceive(processor.pixel_values([image]), user_boxes=[user])
    selection, image_tokens, regions = found.selections[0], found.image_tokens[0], found.region_tokens[0]
    place = iter(selection.user_index.tolist())
    count, native = len(image_tokens), processor.template.native
    refer, ids = [], processor.prefix_ids(count, len(regions))
    for exchange in query.exchanges():
        named = [next(place) for _ in exchange.boxes]
        refer += named
        ids += processor.question_ids(render_question(native["converse"], exchange.question, len(named)), named)
        ids += processor.answer_ids(exchange.answer)
    named = [next(place) for _ in query.boxes]
    refer += named
    ids += processor.question_ids(render_question(native[query.kind], query.text, len(named)), named)
    index = feature_indices(ids, names["<image>"], names["<region>"], names["<refer_feat>"], count, refer)
    features = torch.cat([image_tokens, regions])[None]
    produced: list[int] = []
    chances: list[float] = []
    while len(produced) < NEW_TOKENS:
        sequence = torch.tensor([ids + produced])
        embeddings = model.embed(sequence, torch.tensor([index + [-1] * len(produced)]), features, count)
        causal = torch.ones(1, 1, sequence.shape[1], sequence.shape[1], dtype=torch.bool).tril()
        hidden = model.run_llm(embeddings, causal, torch.arange(sequence.shape[1])[None])[0]
        at_regions = [t for t, token in enumerate(ids) if token == names["<region>"]]
        keys = model.pointer.keys(hidden[at_regions], regions)[None]
        logits = model.logits(hidden[-1:], keys, torch.tensor([len(regions)]))[0]
        token = int(logits.argmax())
        if token in (processor.eos_id, names["[PAD]"]):
            break
        produced.append(token)
        if token >= model.first_region_id:
            chances.append(float(logits.softmax(-1)[token]))
    return produced, chances


def asked_of(notes: Path, split: str) -> dict[str, list[Query]]:
    """The questions of all tasks, by picture: expressions, categories, regions to describe, dialogues."""
    found: dict[str, list[Query]] = {}

    def corners(box: list[float], size: tuple[int, int]) -> tuple[float, ...]:
        x, y, w, h = box
        return (x / size[0], y / size[1], (x + w) / size[0], (y + h) / size[1])

    for row in json.loads((notes / f"rec_{split}.json").read_text()):
        name = row["img_id"].rpartition("_")[0] + ".png"
        found.setdefault(name, []).append(Query("ground_one", row["sents"]))
    lvis = json.loads((notes / f"lvis_{split}.json").read_text())
    files = {image["id"]: image["file_name"] for image in lvis["images"]}
    categories = {category["id"]: category["name"].replace("_", " ") for category in lvis["categories"]}
    for image, category in dict.fromkeys((a["image_id"], a["category_id"]) for a in lvis["annotations"]):
        found.setdefault(files[image], []).append(Query("ground_all", categories[category]))
    captions = json.loads((notes / f"region_captions_{split}.json").read_text())
    images = {image["id"]: image for image in captions["images"]}
    for row in captions["annotations"]:
        image = images[row["image_id"]]
        box = corners(row["bbox"], (image["width"], image["height"]))
        found.setdefault(image["file_name"], []).append(Query("describe", boxes=(box,)))
    for line in (notes / f"vqa_{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        boxes = () if row["box"] is None else (tuple(v / 192 for v in row["box"]),)  # every picture is 192 pixels wide
        here = BOX_PLACEHOLDER in row["text"]
        history = [Exchange(q, a, boxes if BOX_PLACEHOLDER in q else ()) for q, a in row["history"]]
        if boxes and not here and not any(e.boxes for e in history):
            continue
        found.setdefault(row["image"], []).append(Query("converse", row["text"], boxes if here else (), tuple(history)))
    return found


@pytest.mark.parametrize(("pictures", "wanted"), [(5, 60), pytest.param(70, 1000, marks=pytest.mark.slow)])
def test_packed_questions_are_answered_as_each_alone(tmp_path, monkeypatch, pictures, wanted):
    folder = prepare(tmp_path, {"test": pictures}, progress=False)
    groma = Groma.from_pretrained("groma-tiny", device="cpu", dtype="float32")
    asked = asked_of(folder / "annotations", "test")
    kinds = {q.kind for queries in asked.values() for q in queries}
    assert kinds == {"ground_one", "ground_all", "describe", "converse"}
    by_picture = [(Image.open(folder / "images" / "test" / name).convert("RGB"), q) for name, q in asked.items()]
    decode, found = groma._decode, []
    monkeypatch.setattr(groma, "_decode", lambda *args: found.extend(results := decode(*args)) or results)
    for start in range(0, len(by_picture), 8):
        batch = by_picture[start : start + 8]
        groma.answer(groma.perceive_batch([image for image, _ in batch]), [q for _, q in batch], NEW_TOKENS)
    pairs = [(image, query) for image, queries in by_picture for query in queries]
    assert len(pairs) == len(found) >= wanted
    # At even distances, so that every task has its part.
    for k in range(wanted):
        place = k * len(pairs) // wanted
        ids, chances = answer_plainly(groma, *pairs[place])
        assert found[place][0] == ids, pairs[place][1]
        assert found[place][1] == pytest.approx(chances, abs=1e-4)
