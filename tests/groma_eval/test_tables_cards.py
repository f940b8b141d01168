"""The real benchmarks' cards against their files and the tables' columns, and the documentation's examples."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from conftest import ROOT

from groma_eval.cards import parse_card, select
from groma_eval.table_columns import PAPER

OFFICIAL = {
    "refcoco_val": (10834, 1500),
    "refcoco_testA": (5657, 750),
    "refcoco_testB": (5095, 750),
    "refcoco+_val": (10758, 1500),
    "refcoco+_testA": (5726, 750),
    "refcoco+_testB": (4889, 750),
    "refcocog_val": (4896, 1300),
    "refcocog_test": (9602, 2600),
}


def test_refcoco_cards_have_the_official_counts():
    cards = select("refcoco")
    assert {c.name: (c.counts["questions"], c.counts["images"]) for c in cards} == OFFICIAL
    assert sum(questions for questions, _ in OFFICIAL.values()) == 57457
    assert [(c.family, c.split) for c in cards] == [(c.family, c.split) for c in PAPER["rec"].columns]


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_files_have_the_cards_counts(shared, name):
    rows = json.loads((shared / "data" / select(name)[0].data["annotations"]).read_text())
    assert (len(rows), len({re.sub(r"_\d+$", "", row["img_id"]) for row in rows})) == OFFICIAL[name]


def test_both_readings_of_a_hit():
    for card in select("refcoco"):
        assert card.default_protocol == "paper"
        assert card.protocols["paper"].rules["iou"] == ">="
        assert card.protocols["released"].rules["iou"] == ">"
        assert card.protocols["released"].decoding["max_new_tokens"] == 3


@pytest.mark.parametrize(("suite", "kind"), [("lvis_ground", "grounding"), ("region_caption", "caption")])
def test_cards_stand_in_the_papers_columns(suite, kind):
    places = {(column.family, column.split) for column in PAPER[kind].columns}
    cards = select(suite)
    assert {(card.family, card.split) for card in cards} == places
    assert {card.task for card in cards} == {kind}
    assert all(card.headline in {column.metric for column in PAPER[kind].columns} for card in cards)


def examples(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_documented_card_is_valid():
    (text,) = examples("add_a_benchmark.md", "yaml")
    (card,) = parse_card(yaml.safe_load(text), "docs")
    assert card.name == "kitchen_test"


def test_the_documented_model_runs(tmp_path, shared):
    (tmp_path / "refcoco").symlink_to(shared / "data" / "refcoco")
    model, call = examples("add_a_model.md", "python")
    names = {}
    exec(model, names)
    call = call.replace('"runs/middle"', repr(str(tmp_path / "run"))).replace('"DATA"', repr(str(tmp_path)))
    exec(call, names)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["refcocog_val"]
    rows = json.loads((shared / "data/refcoco/refcocog_val.json").read_text())
    hits = 0
    for row in rows:  # IoU with the middle quarter, in pixels
        x, y, w, h = row["bbox"]
        across = max(0, min(x + w, 0.75 * row["width"]) - max(x, 0.25 * row["width"]))
        down = max(0, min(y + h, 0.75 * row["height"]) - max(y, 0.25 * row["height"]))
        both = across * down
        hits += both / (w * h + row["width"] * row["height"] / 4 - both) >= 0.5
    assert metrics["metrics"]["acc@0.5"] == pytest.approx(100 * hits / len(rows), abs=1e-3)
    assert metrics["counts"]["questions"] == 4896
