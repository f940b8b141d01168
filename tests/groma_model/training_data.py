"""Six drawn pictures with dialogues and small recipes for tests of training; imported by name, as ``small``."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from small import TEXTS, picture

from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor, train_tokenizer
from groma_model.training.recipe import Recipe

TASKS = ("rec", "grounding", "caption", "scene", "vqa")
LANGUAGE = ("projector", "region_encoder", "llm", "new_token_embeddings", "new_token_head", "pointer")


def detect(**changes) -> Recipe:
    trainable = ("vision_encoder", "proposer", "region_encoder")
    loss = {"source": "both", "attribute_weight": 1.0, "box_jitter": 0.05}
    values = dict(
        stage="detect", steps=4, batch_size=4, lr=1e-3, trainable=trainable, warmup=1, save_every=2, loss=loss
    )
    return Recipe(**(values | changes))


def align(**changes) -> Recipe:
    values = dict(stage="align", steps=4, batch_size=2, lr=1e-3, trainable=LANGUAGE, warmup=1, save_every=2,
                  tasks=dict.fromkeys(TASKS, 1))  # fmt: skip
    return Recipe(**(values | changes))


def recipe_with(recipe: Recipe, **changes) -> Recipe:
    return Recipe(**(recipe.to_dict() | changes))


def fresh(**overrides) -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    torch.manual_seed(0)
    config = preset("nano", **overrides)
    return GromaForConditionalGeneration(config), GromaProcessor(train_tokenizer(TEXTS, config), config)


def draw(root: Path) -> None:
    """Six pictures with two objects each and one dialogue a task, in the files' own formats."""
    (root / "images" / "train").mkdir(parents=True)
    notes = root / "annotations"
    notes.mkdir()
    images, objects, captions, regions, rec, scenes, vqa = [], [], [], [], [], [], []
    for i in range(1, 7):
        name = f"train_{i:06d}.png"
        Image.Image.save(picture(i, 96, 96), root / "images" / "train" / name)
        images.append({"id": i, "file_name": name, "width": 96, "height": 96})
        for j, box in enumerate(([10, 12, 30, 30], [50, 40, 40, 24])):
            attributes = {"shape": ["circle", "star"][(i + j) % 2], "colour": ["red", "blue"][j]}
            row = {"id": len(objects) + 1, "image_id": i, "bbox": box, "category_id": 1 + j, "area": 1, "iscrowd": 0}
            objects.append({**row, "attributes": attributes})
            rec.append(
                {"img_id": f"train_{i:06d}_{j}", "sents": "the red circle", "bbox": box, "width": 96, "height": 96}
            )
        captions.append({"id": i, "file_name": name, "captions": ["a small red circle"]})
        regions.append({"id": i, "image_id": i, "bbox": [10, 12, 30, 30]})
        phrase = {"start": 0, "end": 12, "phrase": "a red circle", "boxes": [[10, 12, 40, 42], [50, 40, 90, 64]]}
        scenes.append({"image": name, "caption": "a red circle is left", "phrases": [phrase]})
        question = {"image": name, "text": "what color is it?", "answer": "red", "box": [10, 12, 40, 42]}
        vqa.append({**question, "history": [["what is <box>?", "a circle"]], "evidence": [[[10, 12, 40, 42]]]})
    categories = [{"id": 1, "name": "red_circle"}, {"id": 2, "name": "blue star"}]
    base = {"images": images, "annotations": objects, "categories": categories}
    (notes / "instances_train.json").write_text(json.dumps(base))
    (notes / "lvis_train.json").write_text(json.dumps(base))
    (notes / "rec_train.json").write_text(json.dumps(rec))
    (notes / "region_captions_train.json").write_text(json.dumps({"images": captions, "annotations": regions}))
    (notes / "scene_captions_train.jsonl").write_text("\n".join(map(json.dumps, scenes)))
    (notes / "vqa_train.jsonl").write_text("\n".join(map(json.dumps, vqa)))


def fork(work: Callable[[], None], **environment: str) -> int:
    """Run ``work`` in a copy of this process, one thread, a process of accelerate's own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        from accelerate.state import AcceleratorState

        os.environ.update(environment)
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
