"""The adapter of OpenAI-compatible endpoints, against a local one that misbehaves."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from endpoint_stub import Stub
from harness_fakes import rec_rows, write_benchmark
from PIL import Image

from groma_eval import evaluate, models
from groma_eval.box_formats import FORMATS, Canvas, smart_resize
from groma_eval.core import Decoding, HarnessError, Question, Sample
from groma_eval.models import endpoint_loading


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No keys or addresses of the user's, no waiting between tries, a cache of the test's own."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("groma_eval.judge.client._LONGEST_WAIT", 0.01)
    yield
    models.registry._cache.clear()


@pytest.fixture
def serve():
    stubs = []

    def start(reply):
        stubs.append(Stub(reply))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()


@pytest.fixture
def bench(tmp_path):
    """A REC benchmark of 18 expressions about six pictures, each expression told from all others."""
    rows = [{**row, "sents": f"thing {index}"} for index, row in enumerate(rec_rows())]
    return write_benchmark(tmp_path, rows)


def _run(stub, bench, tmp_path, out="run", **args):
    args = {"format": "qwen3-vl", "base_url": stub.url, **args}
    return evaluate("endpoint:some/model", bench, out=tmp_path / out, data_root=tmp_path, progress=False,
                    model_args=args, gen_args={"max_new_tokens": 300})  # fmt: skip


def _rows(folder):
    return [json.loads(line) for line in (folder / "toy/samples.jsonl").read_text().splitlines()]


def _box(text):
    number = int(text.split("thing ")[1].split(",")[0])
    return [10 * number, 20, 10 * number + 100, 500]


def _good(text, times=0):
    return json.dumps([{"bbox_2d": _box(text), "label": "thing"}])


def test_a_run_that_meets_every_trouble(serve, bench, tmp_path):
    troubles = [
        (429, {"Retry-After": "0"}, '{"error": {"message": "slow down"}}'), (500, {}, "oops"), (503, {}, ""),
        (200, {}, "no JSON"), (200, {}, '{"choices": []}'), b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{",
        b"", 1.5,
    ]  # fmt: skip

    def reply(text, times):
        number = int(text.split("thing ")[1].split(",")[0])
        return troubles[number % len(troubles)] if times == 0 else _good(text)

    stub = serve(reply)
    result = _run(stub, bench, tmp_path, timeout="1", concurrency="4")
    assert result.metrics["toy"]["counts"] == {
        "questions": 18, "images": 6, "ok": 18, "unparsed": 0, "missing": 0, "failed": 0,
    }  # fmt: skip
    assert set(stub.asked.values()) == {2}
    assert 1 < stub.most_at_once <= 4
    for row in _rows(tmp_path / "run"):
        assert row["boxes"] == [[value / 1000 for value in _box(row["text"])]]
        assert row["phrases"][0]["phrase"] == "thing"
        assert row["prompt"].startswith("Locate thing ")
    sent = stub.bodies[0]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("some/model", 0.0, 300)
    model = json.loads((tmp_path / "run/manifest.json").read_text())["model"]
    assert (model["box_format"], model["frame"]) == ("qwen3-vl", "0-1000")


def test_what_is_answered_is_not_asked_again(serve, bench, tmp_path):
    broken = {"now": True}

    def reply(text, times):
        return (400, {}, '{"error": "no such content"}') if broken["now"] and "thing 7," in text else _good(text)

    stub = serve(reply)
    result = _run(stub, bench, tmp_path)
    assert result.exit_code == 1
    assert result.metrics["toy"]["counts"]["failed"] == 1
    (failed,) = [row for row in _rows(tmp_path / "run") if row["status"] == "failed"]
    assert "HTTP 400: no such content" in failed["error"]
    broken["now"] = False
    again = _run(stub, bench, tmp_path)
    assert again.metrics["toy"]["counts"]["ok"] == 18
    # Another run of the same questions asks nothing: their answers are kept by content.
    _run(stub, bench, tmp_path, out="other")
    assert {text: n for text, n in stub.asked.items() if n > 1} == {failed["prompt"]: 2}
    assert sum(stub.asked.values()) == 19
    # Without a cache, all is asked.
    _run(stub, bench, tmp_path, out="third", cache="none")
    assert sum(stub.asked.values()) == 19 + 18


def test_a_run_that_was_stopped_continues(serve, bench, tmp_path):
    def reply(text, times):
        return (401, {}, '{"error": "who are you"}') if down["now"] and "thing 16," in text else _good(text)

    down = {"now": True}
    stub = serve(reply)
    with pytest.raises(HarnessError, match="refuses the key"):
        _run(stub, bench, tmp_path, concurrency="1")
    asked = sum(stub.asked.values())
    assert asked == 17
    down["now"] = False
    assert _run(stub, bench, tmp_path, concurrency="1").metrics["toy"]["counts"]["ok"] == 18
    assert sum(stub.asked.values()) == asked + 2


def test_an_endpoint_that_is_down_ends_the_run(serve, bench, tmp_path):
    stub = serve(lambda text, times: (500, {}, ""))
    with pytest.raises(HarnessError, match=r"8 questions in a row failed, .* HTTP 500 \(2 tries\); repeat") as caught:
        _run(stub, bench, tmp_path, retries="1", concurrency="2")
    assert "\n" not in str(caught.value)
    assert sum(stub.asked.values()) < 2 * 18


def test_nothing_listens(bench, tmp_path):
    with pytest.raises(HarnessError, match=r"connection refused\); check --model-args base_url"):
        evaluate("endpoint:m", bench, out=tmp_path / "run", data_root=tmp_path, progress=False,
                 model_args={"format": "json", "frame": "0-1", "base_url": "http://127.0.0.1:9/v1"})  # fmt: skip


def test_the_cache_knows_all_that_was_sent(serve, tmp_path):
    stub = serve(lambda text, times: "hello")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (1, 2, 4)).save(tmp_path / "b.png")

    def ask(name="m", image="a.png", text="?", **decoding):
        model = models.load(f"endpoint:{name}", model_args={"format": "none", "base_url": stub.url})
        sample = Sample("i", tmp_path / image, 8, 8, (Question("q", "converse", text=text),))
        (answer,) = model.answer([sample], Decoding(**decoding), {}, "paper")
        assert answer.predictions[0].text == "hello"
        return len(stub.bodies)

    assert [ask(), ask()] == [1, 1]
    assert ask(name="n") == 2
    assert ask(image="b.png") == 3
    assert ask(text="!") == 4
    assert ask(max_new_tokens=5) == 5
    assert ask(do_sample=True, temperature=0.5, seed=1) == 6
    assert ask(do_sample=True, temperature=0.5, seed=2) == 7
    assert stub.bodies[-1]["seed"] == 2
    assert ask() == 7
    for file in (tmp_path / "cache/groma-eval/endpoint").rglob("*.json"):  # spoilt files are asked anew
        file.write_text("{")
    assert ask() == 8


def test_pictures_go_as_they_are_read(serve, tmp_path):
    stub = serve(lambda text, times: "hello")
    noise = Image.effect_noise((20, 10), 80).convert("RGB")
    noise.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[274] = 6
    noise.save(tmp_path / "turned.jpg", exif=exif)
    noise.convert("P").save(tmp_path / "palette.png")
    model = models.load("endpoint:m", model_args={"format": "none", "base_url": stub.url, "concurrency": "1"})
    names = ("plain.jpg", "turned.jpg", "palette.png")
    samples = [Sample(n, tmp_path / n, 20, 10, (Question(n, "converse", text=n),)) for n in names]
    list(model.answer(samples, Decoding(), {}, "paper"))
    sent = {}
    for body in stub.bodies:
        image, text = body["messages"][0]["content"]
        sent[text["text"]] = image["image_url"]["url"]
    for name, kind in zip(names, ("jpeg", "png", "png")):
        head, content = sent[name].split(",")
        assert head == f"data:image/{kind};base64"
        content = base64.b64decode(content)
        assert (content == (tmp_path / name).read_bytes()) == (name == "plain.jpg")
        with Image.open(io.BytesIO(content)) as got, Image.open(tmp_path / name) as wanted:
            assert got.getexif().get(274, 1) == 1
            assert got.convert("RGB").tobytes() == wanted.convert("RGB").tobytes()


def test_conversations_keep_their_turns(serve, tmp_path):
    stub = serve(lambda text, times: "[0.1, 0.2, 0.3, 0.4] is [100, 200, 300, 400]")
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    model = models.load("endpoint:m", model_args={"format": "json", "frame": "pixels", "base_url": stub.url})
    box = (0.25, 0.5, 0.5, 1.0)
    questions = (
        Question("talk", "converse", text="and now?", box=box, history=(("what is <box>?", "a cup"),)),
        Question("one", "ground_one", text="cup {box}"),
        Question("tell", "describe", box=box),
    )
    sample = Sample("a", tmp_path / "a.png", 400, 200, questions)
    (answer,) = model.answer([sample], Decoding(max_new_tokens=9), {"describe": "Describe {box}."}, "paper")
    talk, one, tell = answer.predictions
    (body,) = [body for body in stub.bodies if len(body["messages"]) == 3]
    first, second, third = body["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert first["content"][1]["text"] == "what is [100, 100, 200, 200]?"
    assert second == {"role": "assistant", "content": "a cup"}
    assert third["content"] == [{"type": "text", "text": "and now?"}]
    assert one.prompt.startswith("Give the bounding box of cup {box} as [x1, y1, x2, y2], in pixels of the image.")
    assert one.boxes[1] == pytest.approx((0.25, 1.0, 0.75, 2.0))  # out of the picture, and left so
    assert tell.prompt == "Describe [100, 100, 200, 200]."
    assert talk.status == "ok"


def test_pixels_of_the_resized_picture(serve, tmp_path):
    stub = serve(lambda text, times: '[{"bbox_2d": [28, 28, 56, 84], "label": "x"}]')
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    args = {"format": "qwen2.5-vl", "base_url": stub.url, "max_pixels": "20000"}
    model = models.load("endpoint:m", model_args=args)
    sample = Sample("a", tmp_path / "a.png", 300, 200, (Question("q", "ground_one", text="x"),))
    (answer,) = model.answer([sample], Decoding(), {}, "paper")
    width, height = smart_resize(300, 200, max_pixels=20000)
    assert answer.predictions[0].boxes[0] == pytest.approx((28 / width, 28 / height, 56 / width, 84 / height))
    assert answer.predictions[0].boxes == FORMATS["qwen2.5-vl"].parse(
        answer.predictions[0].raw, Canvas(300, 200, width, height)
    ).boxes  # fmt: skip


def test_an_answer_without_a_box(serve, tmp_path):
    stub = serve(lambda text, times: "I do not see it anywhere.")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    model = models.load("endpoint:m", model_args={"format": "qwen3-vl", "base_url": stub.url})
    sample = Sample("a", tmp_path / "a.png", 8, 8, (Question("q", "ground_one", text="x"),))
    for limit, error in ((500, None), (8, "cut off at max_new_tokens=8; --gen-args max_new_tokens=N gives more")):
        (answer,) = model.answer([sample], Decoding(max_new_tokens=limit), {}, "paper")
        assert (answer.predictions[0].status, answer.predictions[0].error) == ("unparsed", error)


def test_keys(serve, bench, tmp_path, monkeypatch):
    stub = serve(_good)
    _run(stub, bench, tmp_path, cache="none")
    assert stub.keys == {"Bearer none"}  # a server of one's own
    models.registry._cache.clear()
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    _run(stub, bench, tmp_path, out="two", cache="none", api_key_env="MY_KEY")
    assert stub.keys == {"Bearer none", "Bearer sk-secret-1"}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file())
    assert b"sk-secret-1" not in stored


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("endpoint:m", {}, "declare how it writes boxes with --model-args format=NAME, one of kosmos-2, florence-2"),
        ("endpoint:m", {"format": "qwen"}, "format=qwen: is none; give one of kosmos-2"),
        ("endpoint:m", {"format": "json"}, "needs a frame: frame is one of pixels"),
        ("endpoint:m", {"format": "none", "frame": "0-1"}, "leave frame out"),
        ("endpoint:m", {"format": "qwen3-vl"}, "no key for the model: the environment variable OPENAI_API_KEY is not "
         "set (another one: --model-args api_key_env NAME"),
        ("endpoint:m", {"format": "qwen3-vl", "base_url": "ftp://x"}, "--model-args base_url ftp://x: must be like"),
        ("endpoint:m", {"format": "qwen3-vl", "concurrency": "0"}, "--model-args concurrency 0: must be at least 1"),
        ("endpoint:m", {"format": "qwen3-vl", "concurrency": "x"}, "concurrency=x: must be a whole number"),
        ("endpoint:m", {"format": "qwen3-vl", "max_pixels": "100"}, "only for a format in pixels of the resized"),
        ("endpoint:m", {"format": "qwen3-vl", "speed": "1"}, "has no --model-args 'speed'; it has format, frame"),
        ("endpoint:", {"format": "none"}, "names no model"),
    ],
)  # fmt: skip
def test_wrong_settings(name, args, message):
    with pytest.raises(HarnessError) as caught:
        models.load(name, model_args=args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices_are_not_taken():
    with pytest.raises(HarnessError, match="takes no --device"):
        models.load("endpoint:m", device="cpu", model_args={"format": "none"})


def test_a_model_without_boxes_is_not_asked_for_any(bench, tmp_path):
    args = {"format": "none", "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(HarnessError, match="cannot ground_one, which toy asks; it can: converse"):
        evaluate("endpoint:m", bench, out=tmp_path / "run", data_root=tmp_path, progress=False, model_args=args)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_cache_is_one_line(serve, bench, tmp_path):
    (tmp_path / "file").write_text("")
    stub = serve(_good)
    with pytest.raises(HarnessError, match="give another folder with --model-args cache=DIR, or none"):
        _run(stub, bench, tmp_path, cache=str(tmp_path / "file"))


def test_every_setting_is_documented():
    text = (Path(__file__).parents[2] / "docs/models.md").read_text()
    for name in (*endpoint_loading.OTHER_ARGS, *endpoint_loading.CLIENT_ARGS):
        assert f"`{name}" in text, name
    for name in FORMATS:
        assert f"`{name}`" in text, name
