"""Draw the README's pictures with the bundled model: ``python docs/pictures.py DATA_ROOT [SCENE]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from groma_eval.drawing import draw_grounded
from groma_model import Groma

HERE = Path(__file__).parent / "images"


def main(root: Path, number: int) -> None:
    """Write a grounded caption, a grounded chat and a three-turn dialogue about a user's box."""
    HERE.mkdir(exist_ok=True)
    groma = Groma.from_pretrained("groma-tiny")
    image = Image.open(root / "shapes" / "images" / "test" / f"shapes_test_{number:06d}.png")
    objects = json.loads((root / "shapes" / "annotations" / "instances_test.json").read_text())["annotations"]
    x, y, w, h = next(o["bbox"] for o in objects if o["image_id"] == number)
    box = (x / image.width, y / image.height, (x + w) / image.width, (y + h) / image.height)

    (caption,) = groma.answer([groma.perceive(image)], [[_scene_query()]], 128)[0]
    draw_grounded(image, caption.grounded).save(HERE / "caption.png")
    print("caption:", caption.raw)

    answer = groma.perceive(image).chat("how many yellow objects are there?")
    draw_grounded(image, answer).save(HERE / "chat.png")
    print("chat:", answer.raw)

    scene = groma.perceive(image)
    panels = []
    for question, boxes in (
        ("what is this <box>?", [box]),
        ("what color is it?", []),
        ("what pattern does it have?", []),
    ):
        answer = scene.chat(question, boxes=boxes)
        panels.append(draw_grounded(image, answer, boxes_from_user=boxes))
        print("dialogue:", question, "->", answer.raw)
    strip = Image.new("RGB", (sum(p.width for p in panels), max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        strip.paste(panel, (left, 0))
        left += panel.width
    strip.save(HERE / "dialogue.png")


def _scene_query():
    from groma_model.generation import Query

    return Query("describe_scene")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
