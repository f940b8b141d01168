"""The caption sets of the reference files: texts, and what pycocoevalcap 1.2 with Java makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAKECAP, TEST_A = "expected_fakecap.json", "expected_refcoco_testA.json"
Texts = tuple[dict[str, str], dict[str, list[str]]]


def expected(shared: Path, name: str) -> dict[str, Any]:
    """``{"corpus": {metric: value}, "per_item": {id: {"hyp_tok", "refs_tok", metric: value}}}``."""
    return json.loads((shared / "data" / "captions" / name).read_text())


def tokenised(shared: Path, name: str) -> Texts:
    """Candidates and references as the reference tool's tokenizer left them."""
    items = expected(shared, name)["per_item"]
    return {k: v["hyp_tok"] for k, v in items.items()}, {k: v["refs_tok"] for k, v in items.items()}


def texts(shared: Path, name: str) -> Texts:
    """Candidates and references as they were written."""
    return {FAKECAP: _fakecap, TEST_A: _test_a}[name](shared / "data")


def _fakecap(data: Path) -> Texts:
    references: dict[str, list[str]] = {}
    for row in json.loads((data / "captions" / "en_captions_val2014.json").read_text())["annotations"]:
        references.setdefault(str(row["image_id"]), []).append(row["caption"])
    rows = json.loads((data / "captions" / "en_captions_val2014_fakecap_results.json").read_text())
    return {str(row["image_id"]): row["caption"] for row in rows}, references


def _test_a(data: Path) -> Texts:
    """Objects in file order are the referring expressions' ids in ascending order; of two answers the later counts."""
    references: dict[str, list[str]] = {}
    for row in json.loads((data / "refcoco" / "refcoco_testA.json").read_text()):
        references.setdefault(row["img_id"], []).append(row["sents"])
    rows = json.loads((data / "captions" / "refcoco_testA_generated_expressions.json").read_text())["predictions"]
    said = {row["ref_id"]: row["sent"] for row in rows}
    return dict(zip(references, (said[key] for key in sorted(said)), strict=True)), references
