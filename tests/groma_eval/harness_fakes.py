"""Small data files and adapters for the harness's own tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from groma_eval.core import ImageAnswer, ModelInfo, Prediction, Question, Sample

KINDS = frozenset({"ground_one", "ground_all", "describe", "describe_scene", "converse", "propose"})
SIZE = (80, 60)


class Fake:
    """Answers by ``reply(question, sample) -> Prediction``; opens its picture; can stop after some images."""

    def __init__(self, reply: Callable[[Question, Sample], Prediction], needs_images: bool = False, **info) -> None:
        self.reply = reply
        self.info = ModelInfo(info.pop("name", "fake"), KINDS, needs_images=needs_images, **info)
        self.stop_after: int | None = None
        self.asked: list[str] = []
        self.proposals: Callable[[Sample], list] | None = None

    def answer(self, samples, decoding, prompts, protocol) -> Iterator[ImageAnswer]:
        for sample in reversed(samples):  # any order is allowed
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            if self.info.needs_images:
                np.asarray(Image.open(sample.image).convert("RGB"))
            self.asked.append(sample.image_id)
            boxes = self.proposals(sample) if self.proposals else None
            yield ImageAnswer(
                sample.image_id,
                [self.reply(question, sample) for question in sample.questions],
                boxes,
                [1.0 / (i + 1) for i in range(len(boxes))] if boxes is not None else None,
            )


def truth(question: Question, sample: Sample) -> Prediction:
    """The ground truth as an answer."""
    target = question.target
    text = target.get("answer") or (target.get("references") or [""])[0]
    boxes = list(target.get("boxes", [])) if question.kind.startswith("ground") else []
    return Prediction(question.id, raw=text, text=text, boxes=boxes, phrases=list(target.get("phrases", [])))


def rec_rows(images: int = 6, each: int = 3, seed: int = 0) -> list[dict]:
    """Rows of a flat REC file over ``images`` pictures of 80 x 60."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        for number in range(each):
            x, y = rng.uniform(0, 50), rng.uniform(0, 40)
            box = [round(float(v), 2) for v in (x, y, rng.uniform(5, 30), rng.uniform(5, 20))]
            rows.append(
                {
                    "img_id": f"pic_{image:03d}_{number}",
                    "sents": f"thing {number}",
                    "bbox": box,
                    "width": 80,
                    "height": 60,
                    "group": ("attribute", "location")[number % 2],
                }
            )
    return rows


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", size, (index * 20 % 256, 90, 30)).save(folder / name)


def card(name: str = "toy", task: str = "rec", reader: str = "refcoco_flat", file: str = "toy.json", **more) -> dict:
    """A card's mapping."""
    return {
        "name": name,
        "version": 1,
        "task": task,
        "reader": reader,
        "data": {"annotations": file, "images": "images"},
        "headline": "acc@0.5",
        "protocols": {"paper": {"decoding": {"max_new_tokens": 8}, "prompts": {}, "rules": {}}},
        **more,
    }


def write_benchmark(root: Path, rows, pictures: bool = True, **card_fields) -> Path:
    """Write a REC benchmark (card, data, pictures) below ``root``; returns the card file."""
    fields = card(**card_fields)
    path = root / fields["data"]["annotations"]
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    if pictures:
        stems = dict.fromkeys(row["img_id"].rsplit("_", 1)[0] for row in rec_rows())
        write_pictures(root / "images", [stem + ".png" for stem in stems])
    cards = root / "cards"
    cards.mkdir(exist_ok=True)
    (cards / "card.yaml").write_text(yaml.safe_dump(fields))
    return cards / "card.yaml"
