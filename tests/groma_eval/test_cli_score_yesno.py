"""``groma-eval score yesno``: what it prints and writes, missing predictions, bad files."""

from __future__ import annotations

import json
import re

import pytest

from groma_eval.cli.evaluate import main

LABELS = [{"question_id": i, "text": "Is it?", "label": label} for i, label in enumerate(["yes", "no", "yes", "no"])]
ANSWERS = [{"question_id": i, "text": text} for i, text in enumerate(["Yes", "No.", "There is no dog", "yes"])]


def _call(folder, labels, answers, *more):
    for name, rows in (("q.jsonl", labels), ("a.jsonl", answers)):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text)
    places = ["--references", str(folder / "q.jsonl"), "--predictions", str(folder / "a.jsonl")]
    return main(["score", "yesno", *places, "--json", str(folder / "out.json"), *more])


def test_scores(tmp_path, capsys):
    assert _call(tmp_path, LABELS, ANSWERS) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    wanted = {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5}
    assert written["metrics"] == {**wanted, "questions": 4, "missing": 0}
    assert written["per_item"]["2"] == {"answer": "no", "label": "yes", "correct": 0}
    shown = capsys.readouterr().out
    assert all(re.search(rf"{name} +0\.500000", shown) for name in wanted)


def test_other_field_names_and_ids_as_text(tmp_path):
    labels = [{"question_id": str(row["question_id"]), "answer": row["label"]} for row in LABELS]
    answers = [{"question_id": row["question_id"], "answer": row["text"]} for row in ANSWERS]
    assert _call(tmp_path, labels, answers) == 0
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["accuracy"] == 0.5


def test_missing_predictions(tmp_path, capsys):
    assert _call(tmp_path, LABELS, ANSWERS[:2]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["metrics"]["accuracy"], written["metrics"]["missing"]) == (0.5, 2)
    assert "2 of 4 questions have no prediction and count as wrong" in capsys.readouterr().out
    assert _call(tmp_path, LABELS, ANSWERS[:2], "--only-predicted") == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["metrics"]["accuracy"], written["metrics"]["questions"]) == (1.0, 2)
    assert "2 of 4 are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "answers", "message"),
    [
        (
            LABELS,
            [*ANSWERS, {"question_id": 9, "text": "yes"}],
            r"question '9' is none of the 4 in .*q\.jsonl \(1 of 5",
        ),
        (LABELS, [ANSWERS[0], ANSWERS[0]], r"a\.jsonl: line 2: field 'question_id': '0' occurs twice"),
        ([LABELS[0], LABELS[0]], ANSWERS, r"q\.jsonl: line 2: field 'question_id': '0' occurs twice"),
        ([{"question_id": 0, "label": "maybe"}], ANSWERS, r"q\.jsonl: line 1: field 'label': label 'maybe' is neither"),
        ([{"question_id": 0}], ANSWERS, r"q\.jsonl: line 1: field 'label' is missing"),
        (LABELS, [{"question_id": 0}], r"a\.jsonl: line 1: field 'text' is missing"),
        (LABELS, [{"question_id": 0, "text": None}], r"a\.jsonl: line 1: field 'text' must be text"),
        (LABELS, [{"text": "yes"}], r"a\.jsonl: line 1: field 'question_id' is missing"),
        ("", ANSWERS, r"q\.jsonl: .*empty"),
        (LABELS, "{\n", r"a\.jsonl: line 1, column 2: not JSON"),
    ],
)
def test_bad_files(tmp_path, capsys, labels, answers, message):
    assert _call(tmp_path, labels, answers) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
