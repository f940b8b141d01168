"""The command's side of the browser chat, and the app itself where gradio is installed."""

from __future__ import annotations

import json
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image
from test_web import SIZE, FakeGroma, FakeScene

from groma_eval import web_app
from groma_eval.cli import chat
from groma_eval.core import HarnessError


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", SIZE, "blue").save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


@pytest.fixture
def model(monkeypatch):
    loaded = []
    monkeypatch.setattr(chat, "load_groma", lambda name, device=None: loaded.append(name) or FakeGroma(FakeScene()))
    return loaded


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys, model):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert chat.main(["--web"]) == 2
    captured = capsys.readouterr()
    assert "pip install 'groma-eval[web]'" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert model == []  # told before the model is loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--web", "--port", "0"], "--port 0: must be from 1 to 65535"),
        (["--web", "--port", "70000"], "must be from 1 to 65535"),
        (["--web", "--save", "x.png"], "--save does not go with --web"),
        (["--web", "p.png", "what?"], "a question does not go with --web"),
        (["--web", "--box", "0,0,9,9"], "--box does not go with --web"),
        (["--web", "--max-new-tokens", "0"], "must be at least 1"),
        (["p.png", "--port", "7000"], "--port goes with --web"),
        ([], "name a picture, or use --web"),
    ],
)
def test_bad_calls_are_one_line(capsys, model, arguments, message):
    assert chat.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert model == []


def test_the_command_builds_and_serves(monkeypatch, model, picture):
    served = []
    monkeypatch.setattr(web_app, "require_gradio", lambda: None)
    monkeypatch.setattr(web_app, "build", lambda groma, tokens, first: (groma, tokens, first))
    monkeypatch.setattr(web_app, "serve", lambda app, port: served.append((app, port)))
    assert chat.main(["--web", "--port", "7999", "--model", "m", "--max-new-tokens", "7", picture]) == 0
    assert chat.main(["--web"]) == 0
    ((_, tokens, first), port), ((_, _, none), free) = served
    assert (tokens, first.size, port) == (7, SIZE, 7999)
    assert (none, free) == (None, None)
    assert model == ["m", "groma-tiny"]


def test_examples_are_scenes_of_the_shapes_world():
    pictures = web_app.example_pictures(2)
    assert [p.size for p in pictures] == [(192, 192)] * 2
    assert not np.array_equal(*map(np.asarray, pictures))


@pytest.fixture
def served(picture):
    """The app on a free port, with a stand-in for the model; gives its address and the scene."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'groma-eval[web]'")
    scene = FakeScene("<p><img src=x onerror=alert(1)></p><roi><r0></roi>")
    with Image.open(picture) as image:
        app = web_app.build(FakeGroma(scene), 9, image.convert("RGB"), web_app.example_pictures(1))
    app.block_thread = lambda: None
    web_app.serve(app)
    yield app, scene
    app.close()


def picture_of(folder):
    path = folder / "red.png"
    Image.new("RGB", (60, 40), "red").save(path)
    return str(path)


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def test_the_app_is_served_here_alone_and_tells_nobody(served, capsys):
    app, _ = served
    assert app.local_url.startswith("http://127.0.0.1:")
    assert app.share is False
    assert app.share_url is None
    assert app.analytics_enabled is False
    config = json.loads(get(f"{app.local_url}config"))
    kinds = {component["type"] for component in config["components"]}
    assert {"image", "gallery", "textbox", "html", "state"} <= kinds
    assert get(app.local_url).lstrip().startswith("<!doctype html>")


def test_a_conversation_over_the_wire(served, tmp_path):
    client_module = pytest.importorskip("gradio_client")
    app, scene = served
    client = client_module.Client(app.local_url, verbose=False)
    shown = client.predict("20,10,100,50", api_name="/box")
    assert "The next question has a box." in shown[1]
    shown = client.predict("what is <box>?", api_name="/ask")
    assert scene.asked == [("what is <box>?", [], ((0.1, 0.1, 0.5, 0.5),), 9)]
    conversation, drawn, question = shown[2:]
    assert "<img" not in conversation
    assert "&lt;img src=x onerror=alert(1)&gt;</mark>" in conversation
    assert question == ""
    with Image.open(drawn) as image:
        assert min(image.size) >= 480
    shown = client.predict("fail", api_name="/ask")
    assert "too long" in shown[1]
    assert shown[4] == "fail"  # the question stays to be mended
    # Another visitor has a conversation of their own, and may upload another picture.
    other = client_module.Client(app.local_url, verbose=False)
    assert "No question yet" in other.predict(api_name="/restart")[2]
    upload = client_module.handle_file(picture_of(tmp_path))
    assert other.predict("5,5,50,35", api_name="/box")[1] != ""
    assert other.predict(upload, api_name="/choose")[1] == ""
    assert "outside the image of 60x40" in other.predict("70,5,90,35", api_name="/box")[1]


def test_a_taken_port_is_one_line(served):
    app, scene = served
    again = web_app.build(FakeGroma(scene), 9, None, [])
    with pytest.raises(HarnessError, match=f"--port {app.server_port}: cannot be served"):
        web_app.serve(again, app.server_port)
