"""The guide "add a benchmark in ten minutes", followed literally in an empty folder."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from groma_eval.cards import _OPTIONAL, _REQUIRED, parse_card
from groma_eval.cli.evaluate import main
from groma_eval.models import registry
from groma_eval.readers import QUESTION_KINDS

GUIDE = ROOT / "docs/add_a_benchmark.md"


def blocks():
    """(language, text) of the guide's code blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def follow(folder: Path):
    """Save every file and run every command as it is written; returns the exit codes of groma-eval."""
    codes = []
    for language, text in blocks():
        if language in ("python", "yaml"):
            path = folder / re.match(r"# (\S+)\n", text).group(1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        assert language == "bash"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
            else:
                assert program == "groma-eval", line
                codes.append(main(arguments))
    return codes


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    for name in ("GROMA_BENCHMARKS", "GROMA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    registry._cache.clear()


def test_the_guide_works_as_written(fresh, capsys):
    codes = follow(fresh)
    assert codes == [0] * 4
    printed = capsys.readouterr().out
    assert printed.count("all is there") == 2
    metrics = json.loads((fresh / "runs/tiny/metrics.json").read_text())
    assert {name: metrics[name]["counts"]["questions"] for name in metrics} == {"kitchen_rec": 12, "kitchen_yesno": 18}
    # The squares are far off the middle, so the bound scores nothing and a model that sees them does.
    center = json.loads((fresh / "runs/center/metrics.json").read_text())["kitchen_rec"]["metrics"]
    assert center["acc@0.5"] == 0 < metrics["kitchen_rec"]["metrics"]["acc@0.5"]
    assert metrics["kitchen_yesno"]["metrics"]["accuracy"] > 50
    manifest = json.loads((fresh / "runs/tiny/manifest.json").read_text())
    assert {entry["leakage"]["status"] for entry in manifest["benchmarks"].values()} == {"clean"}
    table = printed[printed.index("Referring expression") :]
    assert "Kitchen yes/no" in table
    assert re.search(r"^Bounds\n +bound:center ", table, re.MULTILINE)
    # The other ways to name a card.
    card = "benchmarks/kitchen_rec/card.yaml"
    assert main(["run", "--model", "bound:center", "--benchmarks", card, "--out", "runs/again", "--no-progress"]) == 0
    assert json.loads((fresh / "runs/again/metrics.json").read_text())["kitchen_rec"]["metrics"] == center


def test_the_guides_cards_name_the_questions_their_readers_ask():
    cards = [
        card for language, text in blocks() if language == "yaml" for card in parse_card(yaml.safe_load(text), "x")
    ]
    assert [card.task for card in cards] == ["rec", "vqa"]
    for card in cards:
        for protocol in card.protocols.values():
            assert set(protocol.prompts) == {QUESTION_KINDS[card.reader]}


def test_the_guide_knows_every_field_and_reader():
    text = GUIDE.read_text(encoding="utf-8")
    shown = {key for language, block in blocks() if language == "yaml" for key in yaml.safe_load(block)}
    for field in {*_REQUIRED, *_OPTIONAL} - {"title"}:
        assert field in shown or f"`{field}`" in text, field
    for reader in QUESTION_KINDS:
        assert f"`{reader}`" in text, reader
