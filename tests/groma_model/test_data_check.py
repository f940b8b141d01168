"""``groma-train data check``: counts, overlaps with benchmarks, the list of exclusions, the statement."""

from __future__ import annotations

import argparse
import json

import pytest
import yaml
from data_files import pictures, write

from groma_eval.cli import train_data
from groma_eval.core import HarnessError
from groma_eval.leakage import read_training_data

CARD = {
    "name": "mine", "version": 1, "task": "rec", "reader": "refcoco_flat", "headline": "acc@0.5",
    "data": {"annotations": "mine.json"}, "image_ids": {"source": "coco"},
    "protocols": {"paper": {"decoding": {"max_new_tokens": 3}, "prompts": {"ground_one": "Locate {text}."}}},
}  # fmt: skip
COCO_NAMES = [f"coco/train2017/{i:012d}.jpg" for i in (1, 2, 3)]
VG_NAMES = ["vg/VG_100K/71.jpg", "vg/VG_100K_2/72.jpg"]


@pytest.fixture
def folder(tmp_path):
    """A mixture with COCO's pictures 1 to 3 and Visual Genome's 71 and 72; a benchmark on COCO's 2 and 9."""
    pictures(tmp_path / "images", [*COCO_NAMES, *VG_NAMES, "odd.jpg"])
    box = {"bbox": [9, 9, 40, 20], "width": 200, "height": 100, "sents": "it"}
    write(tmp_path, "coco.json", [{"img_id": f"COCO_train2014_{i:012d}_{i}", **box} for i in (1, 2, 3)])
    write(tmp_path, "vg.json", [{"img_id": f"{i}_{i}", **box} for i in (71, 72)])
    write(tmp_path, "odd.json", [{"img_id": "odd_1", **box}])
    write(tmp_path, "mixture.yaml", yaml.safe_dump({"exclude": "out.txt", "sets": [
        {"reader": "rec", "annotations": "coco.json", "images": "images/coco/train2017", "ratio": 0.5},
        {"reader": "rec", "annotations": "vg.json", "images": "images/vg"},
    ]}))  # fmt: skip
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "mine.json", [{"img_id": f"COCO_train2014_{i:012d}_{i}", **box} for i in (2, 9)])
    (tmp_path / "cards").mkdir()
    write(tmp_path / "cards", "card.yaml", yaml.safe_dump(CARD))
    write(tmp_path, "image_data.json", [{"image_id": 72, "coco_id": 9, "flickr_id": None}, {"image_id": 71}])
    return tmp_path


def run(folder, *more):
    parser = argparse.ArgumentParser()
    train_data.add_arguments(parser)
    given = ["check", str(folder / "mixture.yaml"), "--data-root", str(folder / "data"),
             "--benchmarks-dir", str(folder / "cards"), *map(str, more)]  # fmt: skip
    return train_data.run(parser.parse_args(given))


def test_counts_overlaps_and_the_list_that_a_mixture_honours(folder, capsys):
    out = folder / "out.txt"
    assert run(folder, "--exclude", out, "--vg-image-data", folder / "image_data.json") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "rec:coco.json: 3 samples, 2 an epoch, 3 pictures (coco)",
        "rec:vg.json: 2 samples, 2 an epoch, 2 pictures (vg)",
        "together: 4 samples an epoch",
    ]
    assert "mine: 2 of 2 pictures are in the mixture" in said
    assert out.read_text() == "coco 2\nvg 72\n"
    # Again, with the list in force: nothing is shared any more, and the list keeps what it had.
    assert run(folder, "--exclude", out, "--vg-image-data", folder / "image_data.json") == 0
    said = capsys.readouterr().out
    assert "2 samples, 1 an epoch, 2 pictures (coco), excluded 1" in said
    assert "mine: 0 of 2 pictures are in the mixture" in said
    assert out.read_text() == "coco 2\nvg 72\n"


def test_without_visual_genomes_table_only_cocos_own_pictures_are_found(folder, capsys):
    assert run(folder, "--exclude", folder / "out.txt", "--benchmarks", "mine") == 0
    assert (folder / "out.txt").read_text() == "coco 2\n"
    assert "mine: 1 of 2" in capsys.readouterr().out


def test_the_statement_adds_to_what_a_checkpoint_states(folder):
    write(folder, "out.txt", "coco 1\n")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    run(folder, "--statement", checkpoint)
    stated = read_training_data(checkpoint)
    assert stated.image_ids == {"coco": {"2", "3"}, "vg": {"71", "72"}}
    assert not stated.complete  # nobody said what the checkpoint started from
    (checkpoint / "training_data.json").write_text(
        json.dumps({"complete": True, "sets": {"shapes": ["train"]}, "image_ids": {"coco": [8]}})
    )
    run(folder, "--statement", checkpoint)
    stated = read_training_data(checkpoint)
    assert stated.complete
    assert stated.sets == {"shapes": {"train"}}
    assert stated.image_ids["coco"] == {"2", "3", "8"}
    content = yaml.safe_load((folder / "mixture.yaml").read_text())
    content["sets"].append({"reader": "rec", "annotations": "odd.json", "images": "images"})
    write(folder, "mixture.yaml", yaml.safe_dump(content))
    run(folder, "--statement", checkpoint)
    assert not read_training_data(checkpoint).complete  # a picture of nobody knows where
    content["sets"][-1]["collection"] = "openimages"
    write(folder, "mixture.yaml", yaml.safe_dump(content))
    run(folder, "--statement", checkpoint)
    assert read_training_data(checkpoint).sets["openimages"] == {"all"}


def test_too_many_missing_pictures_are_said_and_fail(folder, capsys):
    write(folder, "out.txt", "")
    (folder / "images" / COCO_NAMES[0]).unlink()
    assert run(folder) == 1
    said = capsys.readouterr().out
    assert "rec:coco.json: 2 samples, 1 an epoch, 2 pictures (coco), missing picture 1" in said
    assert "wrong: " in said.splitlines()[-1]
    assert "1 of 3 samples (33.3%) lack their picture" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({}, (), "out.txt: the list of excluded pictures"),
        ({"exclude": None, "sets": []}, (), "must hold 'sets'"),
        ({"exclude": None}, ("--benchmarks", "refcoco_val"), "benchmark refcoco_val: its pictures' ids"),
        ({"exclude": None}, ("--statement", "nowhere"), "--statement nowhere: no such folder"),
        ({"exclude": None}, ("--vg-image-data", "nowhere.json"), "nowhere.json: no such annotation file"),
        ({"exclude": None}, ("--exclude", "nowhere/out.txt"), "nowhere/out.txt: cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(folder, change, more, words):
    content = {**yaml.safe_load((folder / "mixture.yaml").read_text()), **change}
    write(folder, "mixture.yaml", yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(HarnessError, match=words) as caught:
        run(folder, *more)
    assert "\n" not in str(caught.value)
