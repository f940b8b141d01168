"""What is said of the scenes is true of them, by a second reading of the written files."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from groma_eval.benchmarks.shapes.prepare import prepare
from shapes_world_reading import VALUES, cell, corners, fitting, kind, referred

Row = dict[str, Any]
SPLIT_SIZES = {"train": 150, "test": 150}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"), SPLIT_SIZES, seed=11, progress=False) / "annotations"


@pytest.fixture(scope="module", params=list(SPLIT_SIZES))
def split(request: pytest.FixtureRequest) -> str:
    return request.param


def objects(world: Path, split: str) -> dict[str, list[Row]]:
    """Objects by image stem."""
    content = json.loads((world / f"instances_{split}.json").read_text())
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in content["annotations"]:
        found[names[row["image_id"]]].append(row)
    return found


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def near(a: list[float], b: list[float]) -> bool:
    return all(abs(x - y) < 0.05 for x, y in zip(a, b, strict=True))


def test_every_expression_means_its_object_alone(world: Path, split: str) -> None:
    things = objects(world, split)
    rows = json.loads((world / f"rec_{split}.json").read_text())
    for row in rows:
        meant = referred(things[row["img_id"].rsplit("_", 1)[0]], row["sents"])
        assert len(meant) == 1, row
        assert near(meant[0]["bbox"], row["bbox"]), row
    shares = {group: n / len(rows) for group, n in Counter(row["group"] for row in rows).items()}
    assert 0.35 < shares["attribute"] < 0.6
    assert 0.2 < shares["location"] < 0.4
    assert 0.15 < shares["relation"] < 0.35


def test_the_second_reading_can_tell_a_wrong_expression() -> None:
    def row(shape: str, x: float) -> Row:
        return {"bbox": [x, 20, 30, 30], "attributes": {"shape": shape, "colour": "red", "size": "small"}}

    rows = [row("star", 5), row("star", 12), row("ring", 150)]
    assert len(referred(rows, "the star")) == 2
    assert len(referred(rows, "the leftmost star")) == 2  # seven pixels do not decide
    assert len(referred(rows, "the star left of the ring")) == 2
    assert referred(rows, "the ring at the top right") == [rows[2]]
    assert referred(rows, "the ring at the top") == []
    assert kind("two red crosses".removeprefix("two ")) == {"colour": "red", "shape": "cross"}


def test_region_captions_say_all_five_facts(world: Path, split: str) -> None:
    content = json.loads((world / f"region_captions_{split}.json").read_text())
    by_image = {image["id"]: image for image in content["images"]}
    assert len(by_image) == len(content["annotations"])
    things = objects(world, split)
    for row in content["annotations"]:
        image = by_image[row["image_id"]]
        here = [t for t in things[Path(image["file_name"]).stem] if near(t["bbox"], row["bbox"])]
        assert [t["attributes"] for t in here] == [row["attributes"]]
        assert row["attributes"]["location"] == cell(row)
        assert len(set(image["captions"])) == 3
        for caption in image["captions"]:
            said = re.findall("[a-z]+", caption)
            for name, values in VALUES.items():
                assert [w for w in said if w in values] == [row["attributes"][name]]
            assert f" {cell(row)}" in " " + caption
            place = [w for w in said if w in ("top", "bottom", "left", "right", "center")]
            assert place == cell(row).split()


def test_scene_captions_tie_each_phrase_to_all_its_objects(world: Path, split: str) -> None:
    things = objects(world, split)
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
    for row in lines(world / f"scene_captions_{split}.jsonl"):
        here = things[Path(row["image"]).stem]
        firsts, covered = [], 0
        assert len(row["phrases"]) <= 6
        for phrase in row["phrases"]:
            assert row["caption"][phrase["start"] : phrase["end"]] == phrase["phrase"]
            head, rest = phrase["phrase"].split(" ", 1)
            assert numbers.get(head, 1) == len(phrase["boxes"])
            fits = fitting(here, rest)
            for box in phrase["boxes"]:
                assert sum(near(corners(t), box) for t in fits) == 1
            wanted = {k: v for k, v in kind(rest).items() if k in ("colour", "shape")}
            same = [t for t in here if all(t["attributes"][k] == v for k, v in wanted.items())]
            assert len(same) == len(phrase["boxes"])
            firsts.append(min((b[0] + b[2]) / 2 for b in phrase["boxes"]))
            covered += len(phrase["boxes"])
        assert firsts == sorted(firsts)
        assert covered == len(here) or len(row["phrases"]) == 6


def test_the_vocabulary_is_small_and_closed(world: Path) -> None:
    texts: list[str] = []
    for split in SPLIT_SIZES:
        texts += [row["sents"] for row in json.loads((world / f"rec_{split}.json").read_text())]
        texts += [row["caption"] for row in lines(world / f"scene_captions_{split}.jsonl")]
        regions = json.loads((world / f"region_captions_{split}.json").read_text())
        texts += [caption for image in regions["images"] for caption in image["captions"]]
        for row in lines(world / f"vqa_{split}.jsonl"):
            texts += [row["text"], row["answer"], *(text for turn in row["history"] for text in turn)]
    found = {word for text in texts for word in re.findall(r"<box>|[^\W\d_]+|[^\w\s]", text)}
    assert len(found) < 150
    assert all(word == word.lower() for word in found)


def test_location_and_relation_are_needed():
    """Without the place or relation, at least two objects fit: the words before it are read back over the scene."""
    from groma_eval.benchmarks.shapes.language import EXPRESSIONS, RELATIONS, SUPERLATIVES, matching
    from groma_eval.benchmarks.shapes.world import COLOURS, PATTERNS, SHAPES, SIZES, Rng, make_scene

    names = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "pattern": PATTERNS}
    ends = (*(f" {r} the " for r in RELATIONS), " at the ", " on the ", " in the ")
    seen = 0
    for index in range(1, 60):
        scene, rng = make_scene(5, "val", index), Rng(5, 9, index)
        for group in ("location", "relation"):
            for thing in scene.things:
                text = EXPRESSIONS[group](scene, thing, rng)
                if text is None:
                    continue
                cut = min([text.index(e) for e in ends if e in text], default=len(text))
                words = [w for w in text[:cut].split()[1:] if w not in SUPERLATIVES]
                description = {k: w for w in words for k, values in names.items() if w in values}
                assert thing in matching(scene, description)
                assert len(matching(scene, description)) > 1, text
                seen += 1
    assert seen > 100


def test_plurals_and_articles():
    from groma_eval.benchmarks.shapes.language import noun_phrase, with_article

    assert noun_phrase({"shape": "hourglass"}, plural=True) == "hourglasses"
    assert noun_phrase({"shape": "cross", "colour": "red"}, plural=True) == "red crosses"
    assert noun_phrase({"shape": "star"}, plural=True) == "stars"
    assert [with_article(w) for w in ("hourglass", "arrow", "heart")] == ["an hourglass", "an arrow", "a heart"]
