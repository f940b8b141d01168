"""The doctor: wrong declarations are told, right ones are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark

from groma_eval import evaluate
from groma_eval.box_formats import FORMATS, Canvas, box_format, to_unit
from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError, ModelInfo, Prediction, Question, Sample
from groma_eval.doctor import ENOUGH, diagnose, diagnose_run, fit_warnings
from groma_eval.frames import FORMS, FRAMES, Frame

WIDTH, HEIGHT = 640, 480


def world(count=60, seed=0, size=(WIDTH, HEIGHT)):
    """REC samples, and answers that overlap their targets well but not wholly."""
    rng = np.random.default_rng(seed)
    samples, answers = [], {}
    for number in range(count):
        x, y = rng.uniform(0, 0.7, 2)
        w, h = rng.uniform(0.1, 0.3, 2)
        box = (float(x), float(y), float(x + w), float(y + h))
        key = str(number)
        samples.append(Sample(key, None, *size, (Question(key, "ground_one", text="t", target={"boxes": [box]}),)))
        answers[key] = tuple(np.clip(np.array(box) + rng.normal(0, 0.01, 4), 0, 1).tolist())
    return samples, answers


def spoken(samples, answers, numbers_of, declared):
    """Predictions whose numbers are written by ``numbers_of(box, canvas)`` and read as ``declared`` says."""
    found = {}
    for sample in samples:
        canvas = Canvas(sample.width, sample.height)
        numbers = numbers_of(answers[sample.image_id], canvas)
        found[sample.image_id] = Prediction(sample.image_id, boxes=[declared(numbers, canvas)])
    return found


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("form", FORMS)
def test_right_declarations_are_not_flagged(frame, form):
    samples, answers = world()
    true = Frame(frame, form)
    predictions = spoken(
        samples, answers, lambda b, c: true.from_unit(b, c.width, c.height),
        lambda n, c: true.to_unit(n, c.width, c.height),
    )  # fmt: skip
    diagnosis = diagnose(samples, predictions, form, frame)
    assert (diagnosis.notes, diagnosis.boxes) == ([], 60)


@pytest.mark.parametrize("declared", [f for f in FRAMES if f != "0-999"])
@pytest.mark.parametrize("true", [f for f in FRAMES if f != "0-999"])
@pytest.mark.parametrize("forms", [("xyxy", "xyxy"), ("xywh", "xyxy"), ("xyxy", "xywh"), ("cxcywh", "xyxy")])
def test_wrong_declarations_name_the_right_one(true, declared, forms):
    if (true, forms[0]) == (declared, forms[1]):
        return
    samples, answers = world()
    truth_, claim = Frame(true, forms[0]), Frame(declared, forms[1])
    predictions = spoken(
        samples, answers, lambda b, c: truth_.from_unit(b, c.width, c.height),
        lambda n, c: claim.to_unit(n, c.width, c.height),
    )  # fmt: skip
    notes = diagnose(samples, predictions, forms[1], declared).notes
    assert any(f"read as {true}, {forms[0]}," in note for note in notes), notes


def test_the_kinds_of_misfit_are_told_apart():
    samples, answers = world()

    def notes(true, claim):
        predictions = spoken(
            samples, answers, lambda b, c: true.from_unit(b, c.width, c.height),
            lambda n, c: claim.to_unit(n, c.width, c.height),
        )  # fmt: skip
        return " ".join(diagnose(samples, predictions, claim.form, claim.name).notes)

    assert "far outside" in notes(Frame("0-1000"), Frame("0-1"))
    assert "top left 0.096 % of" in notes(Frame("0-1"), Frame("0-1000"))
    assert "end before they begin" in notes(Frame("pixels", "xywh"), Frame("pixels"))
    assert "60 of 60 (100 %)" in notes(Frame("pixels"), Frame("0-1"))


@pytest.mark.parametrize("written", ["pixels", "0-1"])
def test_text_answers_are_read_again_from_their_text(written):
    """A model declared as Qwen3-VL (0-1000) that writes another frame."""
    samples, answers = world()
    form = box_format("json", written)
    predictions = {}
    for sample in samples:
        canvas = Canvas(WIDTH, HEIGHT)
        raw = '[{"bbox_2d": ' + form.format(answers[sample.image_id], canvas) + "}]"
        boxes = FORMATS["qwen3-vl"].parse(raw, canvas).boxes
        predictions[sample.image_id] = Prediction(sample.image_id, raw=raw, boxes=boxes)
    (note,) = [n for n in diagnose(samples, predictions, "qwen3-vl", "0-1000").notes if n.startswith("read as")]
    assert note.startswith(f"read as {written}, xyxy,")


def test_y_before_x_is_noticed():
    samples, answers = world()
    predictions = {}
    for sample in samples:
        x1, y1, x2, y2 = answers[sample.image_id]
        raw = box_format("json", "0-1").format((y1, x1, y2, x2), Canvas(WIDTH, HEIGHT))
        boxes = FORMATS["shikra"].parse(raw, Canvas(WIDTH, HEIGHT)).boxes
        predictions[sample.image_id] = Prediction(sample.image_id, raw=raw, boxes=boxes)
    assert any("read as 0-1, yxyx" in note for note in diagnose(samples, predictions, "shikra", "0-1").notes)


def test_a_detector_whose_square_is_forgotten():
    samples, answers = world(size=(640, 320))
    plain = Frame("0-1", "cxcywh")

    def read_as_padded(numbers, canvas):
        return to_unit("padded-square", plain.to_unit(numbers, 0, 0), canvas)

    predictions = spoken(samples, answers, lambda b, c: plain.from_unit(b, 0, 0), read_as_padded)
    notes = diagnose(samples, predictions, "cxcywh", "padded-square").notes
    assert any("read as 0-1, cxcywh" in note for note in notes), notes


def test_a_bad_model_is_not_a_wrong_frame():
    samples, answers = world(400)
    rng = np.random.default_rng(1)
    guesses = {key: answers[str(index)] for key, index in zip(answers, rng.permutation(400))}
    for frame in FRAMES:
        predictions = spoken(
            samples, guesses, lambda b, c, f=frame: Frame(f).from_unit(b, c.width, c.height),
            lambda n, c, f=frame: Frame(f).to_unit(n, c.width, c.height),
        )  # fmt: skip
        assert diagnose(samples, predictions, "xyxy", frame).notes == []
    middle = {key: Prediction(key, boxes=[(0.3, 0.3, 0.6, 0.6)]) for key in answers}
    assert diagnose(samples, middle, "xyxy", "0-1").notes == []


def test_few_boxes_tell_little():
    samples, answers = world(ENOUGH - 1)
    predictions = {key: Prediction(key, boxes=[tuple(v / 1000 for v in box)]) for key, box in answers.items()}
    assert diagnose(samples, predictions, "xyxy", "0-1000").notes == []
    assert diagnose(samples, {}, "xyxy", "0-1").boxes == 0
    failed = {key: Prediction(key, boxes=[box], status="failed") for key, box in answers.items()}
    assert diagnose(samples, failed, "xyxy", "0-1").boxes == 0


def test_what_a_run_says_at_its_end():
    samples, answers = world()
    info = ModelInfo("m", frozenset({"ground_one"}), frame="pixels")
    right = {key: Prediction(key, boxes=[box]) for key, box in answers.items()}
    assert fit_warnings("toy", samples, right, info) == []
    wrong = {key: Prediction(key, boxes=[tuple(v * 1000 for v in box)]) for key, box in answers.items()}
    wrong["0"] = Prediction("0", status="unparsed", error="cut off at max_new_tokens=3; more")
    outside, *_, cut = fit_warnings("toy", samples, wrong, info)
    assert outside == "toy: 59 of 59 (100 %) of the boxes reach far outside their picture (declared: xyxy (pixels))"
    assert cut == "toy: 1 answers ended at the limit of tokens before they held a box"


def _run(tmp_path, scale, out="run", frame="0-1000"):
    card = write_benchmark(tmp_path, rec_rows(12, 3))

    def reply(question, sample):
        answer = truth(question, sample)
        answer.boxes = [tuple(value * scale for value in box) for box in answer.boxes]
        return answer

    evaluate(Fake(reply, frame=frame, box_format="xyxy"), card, out=tmp_path / out, data_root=tmp_path, progress=False)
    return tmp_path / out


def test_the_command(tmp_path, capsys):
    good, bad = _run(tmp_path, 1.0), _run(tmp_path, 0.001, "bad")
    assert main(["doctor", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: toy: 36 boxes fit the declared xyxy (0-1000)\n"
    before = (bad / "metrics.json").read_bytes()
    assert main(["doctor", str(good), str(bad)]) == 1
    printed = capsys.readouterr().out
    assert f"{bad}: toy: 36 boxes do not fit the declared xyxy (0-1000)\n    all boxes lie in the top left" in printed
    assert "read as 0-1, xyxy" in printed
    assert "docs/models.md" in printed
    assert (bad / "metrics.json").read_bytes() == before
    assert main(["doctor", str(bad), "--benchmarks", "toy"]) == 1


def test_wrong_calls(tmp_path, capsys):
    run = _run(tmp_path, 1.0)
    with pytest.raises(HarnessError, match="has no benchmark 'tay'; it has: toy"):
        diagnose_run(run, ["tay"])
    assert main(["doctor", str(tmp_path / "nothing")]) == 2
    assert "is no finished run" in capsys.readouterr().err
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "toy/samples.jsonl").unlink()
    assert diagnose_run(run) == {}
    with pytest.raises(HarnessError, match="is not finished"):
        diagnose_run(run, list(manifest["benchmarks"]))
    assert main(["doctor", str(run)]) == 0
    assert "no finished benchmark has answers with boxes" in capsys.readouterr().out


@pytest.mark.parametrize("declared", ["pixels", "0-1000"])
def test_real_expressions_at_real_scale(shared, declared):
    """Perfect answers in pixels on COCO-sized pictures, declared right, and as 0-1000 (which every number fits)."""
    from groma_eval.readers import read

    samples = read("refcoco", shared / "data/refcoco/refcoco_testB.json", None, False, dataset="refcoco", split="testB")
    predictions = {}
    for sample in samples:
        canvas = Canvas(sample.width, sample.height)
        for question in sample.questions:
            raw = box_format("json", "pixels").format(question.target["boxes"][0], canvas)
            boxes = box_format("json", declared).parse(raw, canvas).boxes
            predictions[question.id] = Prediction(question.id, raw=raw, boxes=boxes)
    diagnosis = diagnose(samples, predictions, "json", declared)
    assert diagnosis.boxes == 5095
    assert [note[:20] for note in diagnosis.notes] == {
        "pixels": [], "0-1000": ["all boxes lie in the", "read as pixels, xyxy"],
    }[declared]  # fmt: skip
