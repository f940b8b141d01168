"""``groma-chat`` in process, with a stand-in for the model."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from groma_eval.cli import chat
from groma_eval.core import HarnessError
from groma_model.grounded_text import GroundedText, parse

BOXES = [(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0)]


class FakeScene:
    def __init__(self):
        self.asked = []

    def chat(self, question, history=None, boxes=(), max_new_tokens=None):
        self.asked.append((question, tuple(boxes), max_new_tokens))
        if question == "fail":
            raise ValueError("the dialogue is\ntoo long")
        return parse("<p>a \x1b[31mdog</p><roi><r0></roi> on <p>grass</p><roi><r1></roi>.", BOXES)


class FakeGroma:
    def __init__(self):
        self.scene = FakeScene()

    def perceive(self, image):
        assert image.mode == "RGB"
        return self.scene


@pytest.fixture
def scene(monkeypatch):
    groma = FakeGroma()
    monkeypatch.setattr(chat, "load_groma", lambda name, device=None: groma)
    return groma.scene


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "p.png"
    Image.new("RGBA", (200, 100), "blue").save(path)
    return str(path)


ANSWER = "a [31mdog [20,20,100,60] on grass [0,0,200,100]."


def test_one_answer_with_a_box_and_a_picture(scene, picture, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert chat.main([picture, "what is <box>?", "--box", "20,10,300,50", "--save", str(out)]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert scene.asked == [("what is <box>?", ((0.1, 0.1, 1.0, 0.5),), 128)]
    with Image.open(out) as saved:
        assert min(saved.size) >= 480


def test_dialogue(scene, picture, tmp_path, capsys, monkeypatch):
    lines = [
        "hello",
        "/box 0,0,9,9",
        "/box 0,0,100,50; 20, 10, 300, 50",
        "/box 1,1,1,1",
        "what is this?",
        "and now?",
        "",
        "fail",
        "/nonsense",
        "/save",
    ]
    lines += [f"/save {tmp_path / 'x.png'}", f"/save {tmp_path / 'absent' / 'x.png'}", "/quit", "unheard"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert chat.main([picture]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{ANSWER}\n" * 3
    assert [(question, boxes) for question, boxes, _ in scene.asked] == [
        ("hello", ()), ("what is this?", ((0, 0, 0.5, 0.5), (0.1, 0.1, 1.0, 0.5))), ("and now?", ()), ("fail", ()),
    ]  # fmt: skip
    messages = captured.err.splitlines()
    parts = ["is empty", "the dialogue is too long", "unknown command /nonsense", "needs a file name", "no such folder"]
    assert len(messages) == len(parts)
    assert all(part in message for part, message in zip(parts, messages))
    assert (tmp_path / "x.png").is_file()


def test_end_of_input_ends_the_dialogue(scene, picture, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert chat.main([picture]) == 0
    assert capsys.readouterr().err == ""


def test_nothing_to_save_yet(scene, picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/save {tmp_path / 'x.png'}\n"))
    assert chat.main([picture]) == 0
    assert "no answer to save" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["q", "--box", "1,2,3"], "must be four numbers"),
        (["q", "--box", "1,2,nan,4"], "must be four numbers"),
        (["q", "--box", "1,2,inf,4"], "must be four numbers"),
        (["q", "--box", "a,b,c,d"], "must be four numbers"),
        (["q", "--box", "5,5,5,9"], "is empty"),
        (["what is <box>?"], "no box was given"),
        (["<refer_box>"], "is reserved"),
        (["\udce4"], "terminal's encoding"),
        (["q", "--box", "200,0,300,50"], "lies outside the image of 200x100"),
        (["q", "--box=-9,0,0,50"], "lies outside"),
        (["q", "--max-new-tokens", "0"], "must be at least 1"),
        (["q", "--max-new-tokens", "x"], "invalid int"),
        (["q", "--save", "x.nonsense"], "no image format"),
        (["q", "--save", "absent/x.png"], "no such folder"),
        (["q", "--unknown"], "unrecognized arguments"),
        (["  "], "question is empty"),
        (["fail"], "the dialogue is too long"),
    ],
)
def test_bad_calls_are_one_line(scene, picture, extra, message, capsys):
    assert chat.main([picture, *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_broken_pictures_are_one_line(scene, picture, tmp_path, capsys):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name, message in (("cut.jpg", "truncated"), ("absent.jpg", "no such image"), (".", "cannot be read")):
        assert chat.main([str(tmp_path / name), "q"]) == 2
        captured = capsys.readouterr().err
        assert message in captured
        assert captured.count("\n") == 1
    assert chat.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_models_that_are_no_groma(picture, capsys):
    for name, message in (
        ("bound:center", "is no Groma"),
        ("groma-tyni", "did you mean"),
        ("./absent", "no such folder"),
    ):
        assert chat.main([picture, "q", "--model", name]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(HarnessError):
        chat.load_groma("bound:center")


def test_shown_puts_loose_boxes_last():
    size = (200, 100)
    assert chat.shown(GroundedText("yes", (), (BOXES[0],), (0,)), size) == "yes [20,20,100,60]"
    assert chat.shown(parse("<roi><r0></roi>", BOXES), size) == "[20,20,100,60]"
    assert chat.shown(parse("<p>dogs</p><roi><r0><r1></roi>", BOXES), size) == "dogs [20,20,100,60] [0,0,200,100]"
    assert chat.shown(GroundedText(""), size) == "(no answer)"
