"""A chat-completions endpoint on this machine, and a small benchmark for it to judge."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from harness_fakes import Fake

from groma_eval import evaluate
from groma_eval.core import Prediction

KEY = "sk-stub-0123456789"
CATEGORIES = ("conv", "detail", "complex")


class Stub:
    """Answers by ``reply(content, times) -> action``: ``content`` is the user message, ``times`` how often it was asked
    before. An action is text (the review), ``(status, headers, body)``, a number of seconds to say nothing, or raw
    bytes."""

    def __init__(self, reply=None) -> None:
        self.reply = reply or (lambda content, times: fair(content))
        self.asked: Counter[str] = Counter()
        self.reviewed: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.paths: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = body["messages"][-1]["content"]
                with stub.lock:
                    times = stub.asked[content]
                    stub.asked[content] += 1
                    stub.bodies.append(body)
                    stub.keys.add(self.headers["Authorization"])
                    stub.paths.add(self.path)
                    stub.at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub.at_once)
                try:
                    self._act(stub.reply(content, times), content, body["model"])
                finally:
                    with stub.lock:
                        stub.at_once -= 1

            def _act(self, action, content, model) -> None:
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
                        stub.reviewed[content] += 1
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": action}}
                    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                    action = (200, {}, json.dumps({"model": model, "choices": [choice], "usage": usage}))
                status, headers, body = action
                data = body.encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
                    self.send_header(name, str(value))
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


def fair(content: str) -> str:
    """A review whose two scores follow from what is reviewed."""
    number = hashlib.sha256(content.encode()).digest()
    return (
        f"{7 + number[0] % 4} {4 + number[1] % 5 + 0.5 * (number[2] % 2)}\nThe second is {'shorter' * (number[3] % 3)}."
    )


def scores(content: str) -> tuple[float, float]:
    """The two scores of :func:`fair`."""
    first, second = fair(content).split("\n")[0].split()
    return float(first), float(second)


def write_bench(root: Path, images: int = 4) -> Path:
    """A benchmark of three questions an image, one a category, with contexts, reference answers and rules; its card."""
    questions, answers, contexts = [], [], []
    for image in range(images):
        name = f"{image:03d}.jpg"
        contexts.append({"image": name, "captions": [f"picture {image}", "seen"], "instances": [box(image)]})
        for number, category in enumerate(CATEGORIES):
            identity = 3 * image + number
            row = {"question_id": identity, "image": name, "category": category}
            questions.append({**row, "text": f"What about {category} in {image}?"})
            answers.append({"question_id": identity, "text": f"reference {identity}", "category": category})
    rules = {c: {"role": "Assistant", "prompt": f"Judge {c}.\nTwo scores, please."} for c in CATEGORIES}
    for name, rows in (("questions", questions), ("answers", answers), ("context", contexts)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "rule.json").write_text(json.dumps(rules))
    card = {
        "name": "bench",
        "version": 1,
        "family": "Bench",
        "split": "test",
        "task": "vqa",
        "reader": "llava_jsonl",
        "data": {
            "annotations": "questions.jsonl",
            "answers": "answers.jsonl",
            "context": "context.jsonl",
            "judge_rules": "rule.json",
        },
        "counts": {"questions": 3 * images, "images": images},
        "headline": "score/overall",
        "protocols": {
            "paper": {"rules": {"match": "judge", "judge": "gpt-4-0613", "temperature": 0.2, "max_tokens": 1024}}
        },
    }
    (root / "card.yaml").write_text(yaml.safe_dump(card))
    return root / "card.yaml"


def box(image: int) -> dict:
    return {"category": "cup", "bbox": [0.1, 0.25, 0.5, image / 10 + 0.3]}


def answers(question, sample) -> Prediction:
    return Prediction(question.id, raw=f"<p>answer</p> {question.id}", text=f"answer {question.id}")


def make_run(root: Path, reply=answers, out: str = "run", name: str = "fake") -> Path:
    """An unjudged run on the benchmark that :func:`write_bench` wrote to ``root``."""
    evaluate(Fake(reply, name=name), root / "card.yaml", out=root / out, data_root=root, progress=False)
    return root / out
