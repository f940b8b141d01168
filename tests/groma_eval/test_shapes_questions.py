"""The questions of the shapes world have the answers and the evidence stated, and cannot be answered blindly."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from typing import Any

import pytest
from groma_eval.benchmarks.shapes.prepare import prepare
from groma_eval.benchmarks.shapes.questions import KINDS
from groma_eval.benchmarks.shapes.world import Rng, make_scene
from shapes_world_reading import AWAY, VALUES, along, cell, corners, fitting, referred

Row = dict[str, Any]
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Row, list[Row]]]:
    """Questions, each with the objects of its picture."""
    notes = prepare(tmp_path_factory.mktemp("data"), {"test": 240}, seed=12, progress=False) / "annotations"
    content = json.loads((notes / "instances_test.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    things: dict[str, list[Row]] = defaultdict(list)
    for row in content["annotations"]:
        things[names[row["image_id"]]].append(row)
    rows = [json.loads(line) for line in (notes / "vqa_test.jsonl").read_text().splitlines()]
    return [(row, things[row["image"]]) for row in rows]


def shown(row: Row, things: list[Row]) -> Row:
    """The object whose box the user gives."""
    return next(t for t in things if all(abs(a - b) < 0.05 for a, b in zip(corners(t), row["box"])))


def subject_of(text: str, things: list[Row], row: Row, it: Row | None) -> Row:
    """The one object a question is about."""
    if re.search(r"\bit\b", text):
        assert it is not None
        return it
    if "<box>" in text:
        return shown(row, things)
    phrase = re.search(r"\bthe (.+?)(?: have\?| in detail\.|\?|$)", text)
    assert phrase, text
    meant = referred(things, "the " + phrase[1])
    assert len(meant) == 1, (text, row)
    return meant[0]


def answer_of(text: str, things: list[Row], row: Row, it: Row | None) -> tuple[str, Row | None, list[list[Row]]]:
    """(answer, what "it" is from here on, evidence) of one turn, worked out from the objects alone."""
    if counted := re.match(r"how many (.+) are there\?", text):
        found = fitting(things, counted[1])
        return COUNTS[len(found)], None, [found]
    if there := re.match(r"is there (.+)\?", text):
        found = fitting(things, there[1])
        return "yes" if found else "no", None, [found]
    for relation, direction in AWAY.items():
        if compared := re.match(rf"is (the .+) {relation} (the .+)\?", text):
            (one,), (two,) = referred(things, compared[1]), referred(things, compared[2])
            gap = along(one, direction) - along(two, direction)
            assert abs(gap) >= 16, row
            return "yes" if gap > 0 else "no", None, [[two], [one] if gap > 0 else []]
    thing = subject_of(text, things, row, it)
    evidence = [[thing]]
    for relation in AWAY:
        if f" {relation} the " in text:
            anchor = text.split(f" {relation} ")[1].split(" have?")[0].rstrip("?")
            evidence.append(referred(things, anchor))
    if text.startswith("what is this"):
        return thing["attributes"]["shape"], thing, evidence
    if text.startswith("describe"):
        return "", thing, evidence
    name = re.match(r"what (color|shape|size|pattern)", text)
    assert name, text
    return thing["attributes"][name[1].replace("color", "colour")], thing, evidence


def test_answers_and_evidence_are_those_of_the_scene(asked: list[tuple[Row, list[Row]]]) -> None:
    for row, things in asked:
        it = None
        for question, answer in row["history"]:
            told, it, _ = answer_of(question, things, row, it)
            assert answer == told or answer.split()[-1] == told, row
        told, _, evidence = answer_of(row["text"], things, row, it)
        stated = sorted(sorted([round(v) for v in box] for box in group) for group in row["evidence"])
        assert stated == sorted(sorted([round(v) for v in corners(t)] for t in group) for group in evidence), row
        said_box = "<box>" in row["text"] + "".join(q for q, _ in row["history"])
        assert said_box == (row["box"] is not None)
        if row["type"] == "description":
            facts = evidence[0][0]["attributes"]
            assert sorted(row["facts"]) == sorted([*(facts[name] for name in VALUES), cell(evidence[0][0])])
            assert all(fact in row["answer"] for fact in row["facts"])
        else:
            assert row["answer"] == told, row
            assert not row.get("facts")


def test_counts_accept_digits(asked: list[tuple[Row, list[Row]]]) -> None:
    for row, _ in asked:
        assert row["accept"] == ([str(COUNTS.index(row["answer"]))] if row["type"] == "counting" else [])


def test_no_blind_guess_reaches_half(asked: list[tuple[Row, list[Row]]]) -> None:
    """Not one answer for all, nor the commonest answer for each opening of a question."""
    answers: Counter[str] = Counter()
    openings: dict[str, Counter[str]] = defaultdict(Counter)
    for row, _ in asked:
        answers[row["answer"]] += 1
        openings[" ".join(row["text"].split()[:2])][row["answer"]] += 1
    assert max(answers.values()) / len(asked) < 0.25
    assert sum(max(c.values()) for c in openings.values()) / len(asked) < 0.5


def test_answers_are_balanced() -> None:
    """Over 1500 scenes, where a share of one half has a standard error below 0.015."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(1, 1501):
        scene, rng = make_scene(4, "train", index), Rng(4, index)
        for kind in ("existence", "counting", "relation"):
            rows = (KINDS[kind](scene, rng) for _ in range(6))
            row = next((row for row in rows if row and (kind != "relation" or row["text"].startswith("is "))), None)
            if row:
                answers[kind][row["answer"]] += 1
    for kind in ("existence", "relation"):
        assert set(answers[kind]) == {"yes", "no"}
        assert sum(answers[kind].values()) > 1000
        assert 0.45 < answers[kind]["yes"] / sum(answers[kind].values()) < 0.57, kind
    counts = answers["counting"]
    assert max(counts.values()) / sum(counts.values()) < 0.4
    assert {"zero", "one", "two", "three", "four", "five"} <= set(counts)


def test_categories_follow_the_types_and_some_are_dialogues(asked: list[tuple[Row, list[Row]]]) -> None:
    category = {"attribute": "conversation", "existence": "conversation", "description": "detail",
                "counting": "reasoning", "relation": "reasoning"}  # fmt: skip
    assert {row["type"] for row, _ in asked} == set(category)
    assert all(row["category"] == category[row["type"]] for row, _ in asked)
    talk = [row for row, _ in asked if row["category"] == "conversation"]
    assert 0.1 < sum(bool(row["history"]) for row in talk) / len(talk) < 0.5


def test_a_missing_kind_shares_an_attribute_with_what_is_there(asked: list[tuple[Row, list[Row]]]) -> None:
    for row, things in asked:
        if row["type"] == "existence" and row["answer"] == "no":
            words = row["text"].rstrip("?").split()
            assert any(word in t["attributes"].values() for word in words for t in things)
