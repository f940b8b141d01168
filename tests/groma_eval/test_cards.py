"""Cards: validation names file and field, splits expand, unknown names get their nearest ones."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import yaml
from harness_fakes import Fake, card, rec_rows, truth, write_benchmark

from groma_eval import evaluate
from groma_eval.cards import QUESTION_KINDS, load_cards, parse_card, registry, select
from groma_eval.core import Decoding, HarnessError, ImageIds, Setup
from groma_eval.readers import READERS


def test_every_reader_has_a_question_kind():
    assert set(QUESTION_KINDS) == set(READERS)


def test_splits_expand_and_share():
    found = parse_card(
        card(
            data={"images": "pics"},
            splits=[
                {"name": "a", "split": "val", "data": {"annotations": "a.json"}, "counts": {"questions": 3}},
                {"name": "b", "split": "test", "data": {"annotations": "b.json"}},
            ],
        ),
        "x",
    )
    assert [(c.name, c.split, dict(c.data)) for c in found] == [
        ("a", "val", {"images": "pics", "annotations": "a.json"}),
        ("b", "test", {"images": "pics", "annotations": "b.json"}),
    ]
    assert found[0].counts == {"questions": 3}
    assert found[1].counts == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": None}, "field 'task' must be text"),
        ({"task": "recc"}, "field 'task' is 'recc'"),
        ({"reader": "pickle"}, "field 'reader' is 'pickle'"),
        ({"version": "1"}, "field 'version' must be a whole number"),
        ({"version": True}, "field 'version' must be a whole number"),
        ({"headlin": "x"}, "unknown field 'headlin' \\(did you mean 'headline'"),
        ({"data": {"images": "x"}}, "names no 'annotations'"),
        ({"counts": {"rows": 3}}, "counts may hold"),
        ({"protocols": {}}, "field 'protocols' is empty"),
        ({"protocols": {"p": {"decoding": {"max_tokens": 3}}}}, "protocols.p: decoding has no setting 'max_tokens'"),
        ({"protocols": {"p": {"prompts": {"ground": "x"}}}}, "no question kind 'ground'"),
        ({"default_protocol": "q"}, "default_protocol 'q'"),
        ({"protocols": {"p": {"setups": {}}}}, "protocols.p: unknown field 'setups' \\(did you mean 'setup'"),
        ({"protocols": {"p": {"setup": {"nms": 1}}}}, "protocols.p.setup: unknown field 'nms'"),
        ({"protocols": {"p": {"setup": {"preprocessing": "tf"}}}}, "preprocessing is 'tf'; it is one of pil, cv2"),
        ({"protocols": {"p": {"setup": {"score_threshold": "x"}}}}, "'score_threshold' must be a number"),
        ({"protocols": {"p": {"setup": {"score_threshold": 1.5}}}}, "score_threshold is 1.5; it must be from 0 to 1"),
        ({"protocols": {"p": {"setup": {"instructions": {"locate": "x"}}}}}, "instructions names no question kind"),
        ({"protocols": {"p": {"setup": {"instructions": {"describe": 1}}}}}, "instructions.describe must be text"),
        ({"protocols": {"p": {"decoding": {"setup": {}}}}}, "decoding has no setting 'setup'"),
        ({"image_ids": "coco"}, "field 'image_ids' must be a mapping"),
        ({"image_ids": {}}, "image_ids: field 'source' is missing"),
        ({"image_ids": {"source": 3}}, "image_ids: field 'source' must be text"),
        ({"image_ids": {"source": "coco", "sets": "a"}}, "image_ids: unknown field 'sets' \\(did you mean 'set'"),
        ({"image_ids": {"source": "coco", "set": "train"}}, "image_ids: coco has no set 'train'; it has train2014"),
        ({"image_ids": {"source": "coco", "pattern": "("}}, "image_ids: pattern '\\(' is no regular expression"),
        ({"image_ids": {"source": "coco", "pattern": "x"}}, "pattern 'x' has 0 groups; the id must be its one group"),
    ],
)
def test_a_bad_field_is_named(change, message):
    with pytest.raises(HarnessError, match=message) as error:
        parse_card({**card(), **change}, "card.yaml")
    assert str(error.value).startswith("card.yaml")
    assert "\n" not in str(error.value)


def test_how_pictures_are_known():
    assert parse_card(card(), "x")[0].image_ids is None
    (plain,) = parse_card(card(image_ids={"source": "coco"}), "x")
    assert plain.image_ids == ImageIds("coco", r"(\d+)$", None)
    found = parse_card(
        card(
            image_ids={"source": "mine", "pattern": "pic_(.+)"},
            splits=[{"name": name, "image_ids": {"set": name}} for name in ("val", "test")],
        ),
        "x",
    )
    assert [c.image_ids for c in found] == [ImageIds("mine", "pic_(.+)", name) for name in ("val", "test")]


def test_missing_field_and_broken_yaml(tmp_path):
    path = tmp_path / "card.yaml"
    raw = card()
    del raw["reader"]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(HarnessError, match=r"card\.yaml: field 'reader' is missing"):
        load_cards(path)
    path.write_text("name: a\ntask: [rec\n")
    with pytest.raises(HarnessError, match=r"card\.yaml: line 3, column 1: not YAML"):
        load_cards(path)


def test_user_folder_and_nearest_names(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.yaml").write_text(yaml.safe_dump([card("mine-a"), card("mine-b", suites=["mine"])]))
    assert {"mine-a", "mine-b"} <= set(registry(tmp_path))
    assert [c.name for c in select("mine", tmp_path)] == ["mine-b"]
    monkeypatch.setenv("GROMA_BENCHMARKS", str(tmp_path))
    assert [c.name for c in select("mine-b,mine-a,mine")] == ["mine-b", "mine-a"]
    with pytest.raises(HarnessError, match="unknown benchmark 'mine-c'; nearest names: mine"):
        select("mine-c")
    with pytest.raises(HarnessError, match="no such folder"):
        registry(tmp_path / "none")


def test_built_in_cards_load_and_know_the_official_totals():
    cards = registry()
    totals = {
        "refcoco_val": 10834, "refcoco_testA": 5657, "refcoco_testB": 5095, "refcoco+_val": 10758,
        "refcoco+_testA": 5726, "refcoco+_testB": 4889, "refcocog_val": 4896, "refcocog_test": 9602,
    }  # fmt: skip
    assert {name: cards[name].counts["questions"] for name in totals} == totals


def test_a_setup_stands_beside_the_decoding_limits():
    raw = {"decoding": {"max_new_tokens": 3}, "setup": {"preprocessing": "cv2", "score_threshold": 0}}
    (found,) = parse_card(card(protocols={"p": raw, "q": {}}), "x")
    limits = Decoding(**found.protocols["p"].decoding)
    assert limits == Decoding(max_new_tokens=3, setup=Setup(preprocessing="cv2", score_threshold=0))
    assert asdict(limits)["setup"] == {"preprocessing": "cv2", "score_threshold": 0, "instructions": {}}
    assert Decoding(**found.protocols["q"].decoding).setup == Setup()


def test_a_setup_reaches_the_model_and_the_manifest(tmp_path):
    seen = []

    class Keeping(Fake):
        def answer(self, samples, decoding, *args):
            seen.append(decoding.setup)
            return super().answer(samples, decoding, *args)

    def run(**changed):
        raw = {"decoding": {"max_new_tokens": 3}, "setup": {"score_threshold": 0.15, **changed}}
        path = write_benchmark(tmp_path, rec_rows(), protocols={"released": raw})
        evaluate(Keeping(truth), path, out=tmp_path / "run", data_root=tmp_path, progress=False)

    run(preprocessing="cv2")
    assert set(map(str, seen)) == {str(Setup(preprocessing="cv2", score_threshold=0.15))}
    entry = json.loads((tmp_path / "run/manifest.json").read_text())["benchmarks"]["toy"]
    assert entry["decoding"]["setup"] == {"preprocessing": "cv2", "score_threshold": 0.15, "instructions": {}}
    with pytest.raises(HarnessError, match="another toy"):
        run(preprocessing="pil")


def test_the_released_protocols_ask_as_the_scripts_do():
    cards = registry()
    asked = {
        "refcoco_val": (3, 0.15, "Locate <p>{text}</p> in the image.", {"iou": ">", "answer": "first"}),
        "lvis_ground": (
            10, 0.15, "Locate all <p>{text:lower}</p> in this image.", {"metric": "lvis", "rank": "emission"},
        ),
        "refcocog_caption_val": (
            100, None, "Can you provide me with a detailed description of {box}?", {"text": "released"},
        ),
        "vg_caption_test": (100, None, "What is {box}?", {"text": "released"}),
    }  # fmt: skip
    for name, (tokens, threshold, instruction, rules) in asked.items():
        protocol = cards[name].protocols["released"]
        limits = Decoding(**protocol.decoding)
        kind = QUESTION_KINDS[cards[name].reader]
        assert limits.max_new_tokens == tokens
        assert limits.setup == Setup(preprocessing="cv2", score_threshold=threshold, instructions={kind: instruction})
        assert protocol.rules == rules
        assert cards[name].default_protocol != "released"
        assert cards[name].protocol()[1].decoding.keys() == {"max_new_tokens"}


def test_an_unknown_protocol_names_the_known_ones():
    (found,) = parse_card(card(), "x")
    with pytest.raises(HarnessError, match="no protocol 'released'; it has: paper"):
        found.protocol("released")
