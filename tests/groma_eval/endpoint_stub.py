"""A chat-completions endpoint on this machine that misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """Answers by ``reply(text, times) -> action``: ``text`` is the last user message's, ``times`` how often it was
    asked before. An action is text (the answer), ``(status, headers, body)``, a number of seconds to say nothing, or
    bytes that are sent as they are before the connection is dropped."""

    def __init__(self, reply) -> None:
        self.reply = reply
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
                with stub.lock:
                    times = stub.asked[text]
                    stub.asked[text] += 1
                    stub.bodies.append(body)
                    stub.keys.add(self.headers["Authorization"])
                    stub.at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub.at_once)
                try:
                    self._act(stub.reply(text, times), body["model"])
                finally:
                    with stub.lock:
                        stub.at_once -= 1

            def _act(self, action, model) -> None:
                if isinstance(action, (int, float)):
                    time.sleep(action)
                if not isinstance(action, (str, tuple)):
                    self.wfile.write(action if isinstance(action, bytes) else b"")
                    self.close_connection = True
                    return
                if isinstance(action, str):
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": action}}
                    usage = {"prompt_tokens": 100, "completion_tokens": len(action)}
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
