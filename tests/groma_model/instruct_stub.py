"""A chat-completions endpoint on this machine that takes pictures, and small Visual Genome and COCO files."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image, ImageDraw

from groma_model.data.readers import READERS, to_sample
from groma_model.data.samples import TrainingImage
from groma_model.processing import TEMPLATES

KEY = "sk-stub-0123456789"
SIZE = (160, 120)
BOXES = [(10, 10, 40, 40), (60, 10, 40, 40), (110, 10, 40, 40), (10, 60, 60, 50), (80, 60, 70, 50)]  # xywh pixels
NAMES = ["red square", "blue disc", "green bar", "grey box", "white tile"]


class Stub:
    """Answers by ``reply(name, count, times) -> action``: ``name`` is the picture that the request's notes name,
    ``count`` its numbered regions, ``times`` how often it was asked about before. An action is text, ``(status,
    headers, body)``, a number of seconds to say nothing, or raw bytes."""

    def __init__(self, reply=None) -> None:
        self.reply = reply or (lambda name, count, times: good(name, count))
        self.asked: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"][1]["text"]
                name, count = re.search(r"picture \w+", text)[0], len(re.findall(r"^\d+: ", text, re.MULTILINE))
                assert self.headers["Authorization"] == f"Bearer {KEY}"
                with stub.lock:
                    times = stub.asked[name]
                    stub.asked[name] += 1
                    stub.bodies.append(body)
                    stub.at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub.at_once)
                try:
                    self._act(stub.reply(name, count, times), name, body["model"])
                finally:
                    with stub.lock:
                        stub.at_once -= 1

            def _act(self, action, name, model) -> None:
                if isinstance(action, (int, float)):
                    time.sleep(action)
                    self.close_connection = True
                    return
                if isinstance(action, bytes):
                    self.wfile.write(action)
                    self.close_connection = True
                    return
                if isinstance(action, str):
                    with stub.lock:
                        stub.told[name] += 1
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": action}}
                    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
                    action = (200, {}, json.dumps({"model": model, "choices": [choice], "usage": usage}))
                status, headers, content = action
                data = content.encode()
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
                    self.send_header(key, str(value))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def good(name: str, count: int) -> str:
    """A usable reply, another for each picture."""
    many = ", ".join(str(number) for number in range(1, count + 1))
    return (
        f"User: What is on {name}?\nAssistant: There is [a thing](1) beside [another](2).\n"
        f"User: How many are there?\nAssistant: [All of them]({many}) make {count}."
    )


def sent_picture(body: dict) -> Image.Image:
    """The picture of a request."""
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def picture(number: int) -> Image.Image:
    image = Image.new("RGB", SIZE, (20 * number % 256, 90, 140))
    for index, (x, y, w, h) in enumerate(BOXES):
        ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=(50 * index, 200 - 40 * index, number))
    return image


def write_visual_genome(root: Path, count: int = 6) -> Path:
    """Pictures 1 to ``count``, in two folders; those with an odd number are also in COCO, as 1000 + number."""
    data, regions, questions = [], [], []
    for number in range(1, count + 1):
        folder = "VG_100K" if number % 2 else "VG_100K_2"
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
        picture(number).save(root / f"images/{folder}/{number}.jpg")
        width, height = SIZE
        url = f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg"
        coco = 1000 + number if number % 2 else None
        data.append({"image_id": number, "url": url, "width": width, "height": height, "coco_id": coco})
        rows = [
            {"region_id": 10 * number + i, "image_id": number, "x": x, "y": y, "width": w, "height": h, "phrase": n}
            for i, ((x, y, w, h), n) in enumerate(zip(BOXES, [f"{name}, picture {number}." for name in NAMES]))
        ]
        regions.append({"id": number, "regions": rows})
        qas = [{"qa_id": number, "image_id": number, "question": f"What is {number}?", "answer": "A  number."}]
        questions.append({"id": number, "qas": qas})
    (root / "vg").mkdir()
    for name, content in (("image_data", data), ("region_descriptions", regions), ("question_answers", questions)):
        (root / f"vg/{name}.json").write_text(json.dumps(content, indent=1))
    return root / "vg"


def write_coco(root: Path, count: int = 3) -> tuple[Path, Path]:
    """Instances and captions of pictures 1 to ``count``; each has a crowd over the whole picture."""
    (root / "images").mkdir(exist_ok=True)
    images, annotations, captions = [], [], []
    for number in range(1, count + 1):
        picture(number).save(root / f"images/{number:03d}.png")
        images.append({"id": number, "file_name": f"{number:03d}.png", "width": SIZE[0], "height": SIZE[1]})
        annotations += [
            {"id": 10 * number + i, "image_id": number, "category_id": i, "bbox": list(box), "iscrowd": 0}
            for i, box in enumerate(BOXES)
        ]
        annotations.append(
            {"id": 10 * number + 9, "image_id": number, "category_id": 0, "bbox": [0, 0, 150, 110], "iscrowd": 1}
        )
        captions += [{"id": 2 * number + k, "image_id": number, "caption": f"picture {number}, {k}"} for k in (0, 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    instances = root / "instances.json"
    instances.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return instances, root / "captions.json"


def training_samples(path: Path, images: Path) -> list[TrainingImage]:
    """A Groma-Instruct file as training reads it."""
    reader = READERS["groma_instruct"]
    tally: Counter[str] = Counter()
    records = list(reader.read(path, {}, tally))
    assert not tally
    return [to_sample(record, reader, {}, images, TEMPLATES["llava"], random.Random(0)) for record in records]
