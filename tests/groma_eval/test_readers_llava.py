"""LLaVA-style questions with answers, contexts and judge rules: the shared files, and every malformed kind."""

from __future__ import annotations

import json

import pytest
from harness_fakes import Fake

from groma_eval import evaluate
from groma_eval.cards import registry
from groma_eval.core import HarnessError, Prediction
from groma_eval.jobs import read_benchmark
from groma_eval.readers import read

QUESTION = {"question_id": 1, "image": "a.jpg", "text": "What is it?", "category": "conv"}
CONTEXT = {
    "image": "a.jpg",
    "captions": ["one", "two"],
    "instances": [{"category": "cup", "bbox": [0, 0.25, 1.0, 0.5]}],
}
RULE = {"conv": {"role": "Assistant", "prompt": "Rate."}}
ANSWER = {"question_id": 1, "text": "a cup"}


def _write(path, content):
    rows = [content] if isinstance(content, dict) else content
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(folder, question=QUESTION, context=CONTEXT, rules=RULE, answer=ANSWER, **options):
    return read(
        "llava_jsonl",
        _write(folder / "q.jsonl", question),
        None,
        False,
        answers=_write(folder / "a.jsonl", answer),
        context=_write(folder / "c.jsonl", context),
        judge_rules=_write(folder / "rule.json", rules),
        **options,
    )


def test_llava_bench_by_its_card(shared, tmp_path):
    (tmp_path / "llava_bench").symlink_to(shared / "data/llava_bench")
    samples = read_benchmark(registry()["llava_bench_coco"], tmp_path)
    questions = {q.id: (s, q) for s in samples for q in s.questions}
    assert (len(samples), len(questions)) == (30, 90)
    folder = shared / "data/llava_bench"
    contexts = {
        row["image"]: row
        for row in map(json.loads, (folder / "caps_boxes_coco2014_val_80.jsonl").read_text().splitlines())
    }
    rules = json.loads((folder / "rule.json").read_text())
    for line in (folder / "qa90_questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        _, question = questions[str(row["question_id"])]
        assert question.text == row["text"]
        assert question.target["judge"] == {"rule": row["category"], **rules[row["category"]]}
        captions, boxes = question.target["context"].split("\n\n")
        assert captions.split("\n") == [c for c in contexts[row["image"]]["captions"]]
        assert len(boxes.split("\n")) == len(contexts[row["image"]]["instances"])
    assert (
        questions["0"][1]
        .target["context"]
        .endswith("\n\nsuitcase: [0.167, 0.025, 0.989, 0.445]\nsuitcase: [0.002, 0.31, 0.994, 0.996]")
    )


@pytest.mark.parametrize("caption", ["a hill", ["a hill"], ["a hill", "and a beach"]])
def test_llava_bench_in_the_wild_by_its_card(tmp_path, caption):
    folder = tmp_path / "llava_bench/llava-bench-in-the-wild"
    folder.mkdir(parents=True)
    _write(folder / "questions.jsonl", QUESTION)
    _write(folder / "context.jsonl", {"id": "001", "image": "a.jpg", "caption": caption})
    _write(folder / "answers_gpt4.jsonl", {**ANSWER, "answer_id": "x", "model_id": "gpt-4"})
    rules = {**RULE, "llava_bench_conv": {"role": "Assistant", "prompt": "Rate a few."}}
    (tmp_path / "llava_bench/rule.json").write_text(json.dumps(rules))
    (sample,) = read_benchmark(registry()["llava_bench_wild"], tmp_path)
    target = sample.questions[0].target
    assert target["context"] == (caption if isinstance(caption, str) else "\n".join(caption))
    assert target["judge"] == {"rule": "llava_bench_conv", "role": "Assistant", "prompt": "Rate a few."}
    assert target["answer"] == "a cup"


def test_pope_needs_a_card_alone(tmp_path):
    (tmp_path / "pope").mkdir()
    rows = [
        {"question_id": i, "image": f"COCO_val2014_{i // 6:012d}.jpg", "text": f"Is there a {i}?", "label": label}
        for i, label in enumerate(["yes", "no"] * 1500)
    ]
    _write(tmp_path / "pope/coco_pope_popular.json", rows)
    model = Fake(lambda question, sample: Prediction(question.id, text="Yes" if int(question.id) % 4 else "No."))
    result = evaluate(model, "pope_popular", out=tmp_path / "run", data_root=tmp_path, progress=False)
    entry = result.metrics["pope_popular"]
    assert entry["counts"]["questions"] == 3000
    # Of four rows (yes, no, yes, no) the answers are no, yes, yes, yes.
    assert entry["metrics"] == {
        "accuracy": 25, "precision": 33.333333, "recall": 50, "f1": 40, "yes_ratio": 75,
    }  # fmt: skip
    _write(tmp_path / "pope/coco_pope_random.json", rows[:12])
    with pytest.raises(HarnessError, match="the annotations hold 2 images, the card says 500"):
        evaluate(model, "pope_random", out=tmp_path / "run", data_root=tmp_path, progress=False)


def test_the_answer_field_is_a_general_option(tmp_path):
    rows = [{**QUESTION, "solution": "cup"}, {**QUESTION, "question_id": 2, "solution": 5}]
    (sample,) = read("llava_jsonl", _write(tmp_path / "q.jsonl", rows[0]), None, False, answer_field="solution")
    assert sample.questions[0].target["answer"] == "cup"
    with pytest.raises(HarnessError, match=r"q\.jsonl: line 2: field 'solution' must be text"):
        read("llava_jsonl", _write(tmp_path / "q.jsonl", rows), None, False, answer_field="solution")
    with pytest.raises(HarnessError, match=r"q\.jsonl: line 1: field 'label' is missing"):
        read("llava_jsonl", _write(tmp_path / "q.jsonl", rows), None, False, answer_field="label")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": {**ANSWER, "question_id": 2}}, r"q\.jsonl: line 1: question '1' has no answer in .*a\.jsonl"),
        ({"answer": [ANSWER, ANSWER]}, r"a\.jsonl: line 2: field 'question_id': '1' occurs twice"),
        ({"answer": {"question_id": 1}}, r"a\.jsonl: line 1: field 'text' is missing"),
        ({"answer": "\n"}, r"a\.jsonl: .*empty"),
        ({"context": {**CONTEXT, "image": "b.jpg"}}, r"q\.jsonl: line 1: image 'a\.jpg' has no context in .*c\.jsonl"),
        ({"context": [CONTEXT, CONTEXT]}, r"c\.jsonl: line 2: field 'image': 'a\.jpg' occurs twice"),
        ({"context": {"image": "a.jpg"}}, r"c\.jsonl: line 1: field 'caption' is missing"),
        ({"context": {"image": "a.jpg", "caption": 5}}, r"c\.jsonl: line 1: field 'caption' must be"),
        ({"context": {"image": "a.jpg", "caption": []}}, r"c\.jsonl: line 1: field 'caption' must be a list of texts"),
        ({"context": {**CONTEXT, "captions": [5]}}, r"c\.jsonl: line 1: field 'captions' must be a list of texts"),
        ({"context": {**CONTEXT, "captions": "one"}}, r"c\.jsonl: line 1: field 'captions' must be a list"),
        ({"context": {"image": "a.jpg", "captions": ["x"]}}, r"c\.jsonl: line 1: field 'instances' is missing"),
        ({"context": {**CONTEXT, "instances": [5]}}, r"c\.jsonl: line 1: instances\[0\]: must be an object"),
        (
            {"context": {**CONTEXT, "instances": [{"category": "cup", "bbox": [0, 0, 1]}]}},
            r"c\.jsonl: line 1: instances\[0\]: field 'bbox' must be four numbers",
        ),
        (
            {"context": {**CONTEXT, "instances": [{"bbox": [0, 0, 1, 1]}]}},
            r"c\.jsonl: line 1: instances\[0\]: field 'category' is missing",
        ),
        ({"context": "nope\n"}, r"c\.jsonl: line 1, column 1: not JSON"),
        (
            {"rules": {"detail": RULE["conv"]}},
            r"line 1: field 'category': .*rule\.json has no rule 'conv'; it has: det",
        ),
        ({"rules": RULE, "rule_prefix": "llava_bench_"}, r"has no rule 'llava_bench_conv'"),
        ({"rules": {"conv": {"role": "Assistant"}}}, r"rule\.json: rule 'conv': field 'prompt' is missing"),
        ({"rules": {"conv": "Rate."}}, r"rule\.json: rule 'conv': must be an object"),
        ({"rules": "[1]"}, r"rule\.json: must hold an object of rules"),
        ({"rules": "{}"}, r"rule\.json: must hold an object of rules"),
        ({"rules": "{"}, r"rule\.json: line 1, column 2: not JSON"),
        ({"question": {**QUESTION, "category": 5}}, r"q\.jsonl: line 1: field 'category' must be text"),
        ({"question": {k: v for k, v in QUESTION.items() if k != "category"}}, "field 'category' is missing"),
    ],
)
def test_malformed_files(tmp_path, changed, message):
    with pytest.raises(HarnessError, match=message) as error:
        _read(tmp_path, **changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "c.jsonl", "rule.json"])
def test_absent_files(tmp_path, name):
    _read(tmp_path)
    (tmp_path / name).unlink()
    extra = {"answers": "a.jsonl", "context": "c.jsonl", "judge_rules": "rule.json"}
    with pytest.raises(HarnessError, match=name):
        read("llava_jsonl", tmp_path / "q.jsonl", None, False, **{k: tmp_path / v for k, v in extra.items()})
