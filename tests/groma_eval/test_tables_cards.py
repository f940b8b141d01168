"""The real benchmarks' cards against their files and the tables' columns, and the documentation's examples."""

from __future__ import annotations

import fnmatch
import json
import re

import pytest
from conftest import ROOT

from groma_eval.cards import registry, select
from groma_eval.core import ImageAnswer, ModelInfo, Prediction
from groma_eval.leakage import SETS, read_training_data
from groma_eval.run import evaluate
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


@pytest.mark.parametrize(
    ("suite", "kind"), [("lvis_ground", "grounding"), ("region_caption", "caption"), ("refcoco", "rec")]
)
def test_cards_stand_in_the_papers_columns(suite, kind):
    places = {(column.family, column.split) for column in PAPER[kind].columns}
    cards = select(suite)
    assert {(card.family, card.split) for card in cards} == places
    assert {card.task for card in cards} == {kind}
    assert all(card.headline in {column.metric for column in PAPER[kind].columns} for card in cards)
    assert {card.default_protocol for card in cards} == {PAPER[kind].protocol}


def test_every_other_benchmark_stays_out_of_the_papers_columns():
    theirs = {card.name for card in select("refcoco,lvis_ground,region_caption,llava_bench_coco")}
    for card in registry().values():
        places = {(column.family, column.split) for column in PAPER[card.task].columns} if card.task in PAPER else set()
        assert ((card.family, card.split) in places) == (card.name in theirs), card.name


def examples(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Middle:
    """Answers every question by the picture's middle quarter."""

    info = ModelInfo(name="middle", capabilities=frozenset({"ground_one"}), needs_images=False)

    def answer(self, samples, decoding, prompts, protocol):
        for sample in samples:
            boxes = [(0.25, 0.25, 0.75, 0.75)]
            yield ImageAnswer(sample.image_id, [Prediction(q.id, boxes=boxes) for q in sample.questions])


def test_a_model_of_ones_own_on_a_whole_split(tmp_path, shared):
    (tmp_path / "refcoco").symlink_to(shared / "data" / "refcoco")
    evaluate(Middle(), "refcocog_val", out=tmp_path / "run", data_root=tmp_path, progress=False)
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


def test_the_page_on_protocols_has_every_cards_version_protocols_and_limits():
    text = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (\d+) \| (.*?) \| (.*?) \| .* \|$", text, re.MULTILINE)
    named, cards = {}, registry()
    for names, *cells in rows:
        for pattern in re.findall(r"`([^`]+)`", names):
            for name in fnmatch.filter(cards, pattern):
                named.setdefault(name, []).append(cells)
    assert named.keys() == cards.keys()
    for name, found in named.items():
        card = cards[name]
        ((version, protocols, tokens),) = found
        assert int(version) == card.version, name
        assert re.findall(r"`([^`]+)`", protocols) == sorted(card.protocols, key=lambda p: p != card.default_protocol)
        limits = [card.protocols[p].decoding.get("max_new_tokens") for p in re.findall(r"`([^`]+)`", protocols)]
        if " to " in tokens:
            low, high = map(int, tokens.split(" to "))
            assert all(limit is None or low <= limit <= high for limit in limits), name
        else:
            assert tokens == ", ".join(map(str, limits)), name


def test_the_documented_statement_of_training_pictures_reads(tmp_path):
    (text,) = examples("protocols.md", "json")
    (tmp_path / "training_data.json").write_text(text)
    (tmp_path / "vg_ids.txt").write_text("61\n")
    training = read_training_data(tmp_path)
    assert training.sets == {"coco": {"train2017"}}
    assert training.image_ids == {"vg": {"61"}, "flickr30k": {"36979", "65567"}}
    page = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    assert all(f"`{source}`" in page for source in SETS if source != "vg")
