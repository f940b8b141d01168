"""``groma-eval data``: what it lists, what a check finds, what a preparation writes, one line for a bad call."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys

import pytest
import yaml
from harness_fakes import card, rec_rows, write_benchmark, write_pictures
from refcoco_forms import coco_form, rows_of, write_refer

from groma_eval.cli import data
from groma_eval.core import HarnessError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROMA_DATA", raising=False)
    monkeypatch.delenv("GROMA_BENCHMARKS", raising=False)
    write_benchmark(tmp_path, rec_rows(), counts={"questions": 18, "images": 6})
    return tmp_path


def run(*arguments):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(arguments))


def check(*more, name="toy"):
    return run("check", name, "--benchmarks-dir", "cards", "--data-root", ".", *more)


def test_a_sound_benchmark(root, capsys):
    assert check() == 0
    shown = capsys.readouterr().out
    found = hashlib.sha256((root / "toy.json").read_bytes()).hexdigest()
    assert f"toy.json: sha256 {found}\n" in shown
    assert "questions 18 (the card says 18)" in shown
    assert "images 6 (the card says 6)" in shown
    assert "pictures 6 of 6 found in images" in shown
    assert "all is there" in shown


def test_missing_pictures_are_counted_and_named(root, capsys):
    for number in (0, 1, 3, 5):
        (root / f"images/pic_00{number}.png").unlink()
    assert check() == 1
    shown = capsys.readouterr().out
    assert "pictures 2 of 6 found in images" in shown
    assert "wrong: 4 pictures are missing: pic_000.jpg, pic_001.jpg, pic_003.jpg and 1 more" in shown
    assert "1 of 1 benchmarks lack something: toy" in shown


def test_pictures_of_2017_are_found_for_names_of_2014(root, capsys):
    (root / "toy.json").write_text(json.dumps(rows_of(3)))
    write_pictures(root / "images/train2017", ["000000000007.jpg", "000000000008.jpg"])
    assert check() == 1
    shown = capsys.readouterr().out
    assert "pictures 2 of 3 found" in shown
    assert "1 pictures are missing: COCO_train2014_000000000009.jpg" in shown


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "toy.json").unlink(), "the data of toy is not there"),
        (lambda root: (root / "toy.json").write_text("["), "toy.json: line 1, column 2: not JSON"),
        (lambda root: (root / "toy.json").write_text(json.dumps(rec_rows(6, 2))), "12 questions, the card says 18"),
        (lambda root: (root / "toy.json").write_text(json.dumps(rec_rows(5, 3))), "5 images, the card says 6"),
        (lambda root: (root / "images").rename(root / "elsewhere"), "images: no such folder of images"),
    ],
)
def test_what_a_check_finds(root, capsys, spoil, message):
    spoil(root)
    assert check() == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "wrong: " in line]
    assert any(message in line for line in lines)


def test_duplicate_ids_are_found(root, capsys):
    entry = {"id": 1, "file_name": "pic_000.png", "width": 80, "height": 60, "captions": ["a cup"]}
    (root / "toy.json").write_text(json.dumps({"images": [entry, entry], "annotations": []}))
    fields = card(task="caption", reader="region_captions")
    (root / "cards/card.yaml").write_text(yaml.safe_dump(fields))
    assert check() == 1
    assert "wrong: toy.json: images[1]: image id 1 occurs twice" in capsys.readouterr().out


def test_other_files_in_place_of_the_cards(root):
    (root / "there").mkdir()
    (root / "toy.json").rename(root / "there/toy.json")
    (root / "images").rename(root / "pictures")
    assert check("--annotations", "there", "--images", "pictures") == 0
    assert check("--annotations", "there/toy.json", "--images", "pictures") == 0
    with pytest.raises(HarnessError, match="nowhere: no such folder of images"):
        check("--annotations", "there", "--images", "nowhere")


def test_checksums_beside_the_card(root, capsys):
    found = hashlib.sha256((root / "toy.json").read_bytes()).hexdigest()
    (root / "cards/sha256sums.txt").write_text(f"{found}  toy.json\n")
    assert check() == 0
    assert f"sha256 {found}, as stated" in capsys.readouterr().out
    (root / "cards/sha256sums.txt").write_text(f"{'0' * 64} *toy.json\n")
    assert check() == 0  # another form or edition may hold the same
    assert f"; stated is {'0' * 64}, of another form" in capsys.readouterr().out


def test_stated_checksums_of_the_real_files(shared, capsys):
    from groma_eval.cards import select

    for benchmark in select("refcoco"):
        lines, problems = data.check_card(benchmark, shared / "data")
        assert lines[0].endswith(", as stated")
        assert problems == [f"{shared / 'data/coco'}: no such folder of images"]


def test_the_list_says_what_is_where(root, capsys):
    write_benchmark(root, rec_rows(), name="toy")
    (root / "cards/card.yaml").write_text(
        yaml.safe_dump(
            [
                card("here"),
                card("blind", data={"annotations": "toy.json", "images": "nowhere"}),
                card("gone", data={"annotations": "gone.json", "images": "images"}),
            ]
        )
    )
    assert run("list", "--benchmarks-dir", "cards", "--data-root", ".") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "looked for below ." in lines["looked"]
    assert lines["here"].split()[1:] == ["present", "annotations", "toy.json,", "images", "images"]
    assert "no pictures  annotations toy.json, images nowhere (missing)" in lines["blind"]
    assert "missing      annotations gone.json (missing), images images" in lines["gone"]
    assert "refcoco_val" in lines
    assert lines["refcoco_val"].endswith("; groma-eval data prepare refcoco_val")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "tyo", "--benchmarks-dir", "cards"], "unknown benchmark 'tyo'; nearest names: toy"),
        (["check", "toy,toy2", "--benchmarks-dir", "cards", "--annotations", "toy.json"], "is one file but several"),
        (["check", "toy", "--benchmarks-dir", "none"], "no such folder of benchmark cards"),
        (["prepare", "shape"], "shape is no benchmark; there is one for: flickr30k, lvis_ground, refcoco,"),
        (["prepare", "toy", "--benchmarks-dir", "cards"], "toy has no data preparation"),
        (["prepare", "shapes", "--source", "."], "--source is not for shapes"),
        (["prepare", "shapes", "--splits", "test=some"], "--splits test=some: must be NAME=N"),
        (["prepare", "refcoco_val", "--splits", "val=3"], "--splits is not for refcoco"),
        (["prepare", "refcoco_val", "--source", "nowhere"], "--source nowhere: no such file or folder"),
        (["prepare", "vg_caption_all"], "nothing to download; give the folder of region_descriptions.json"),
        (["prepare", "region_caption", "--source", "."], "name one benchmark: refcocog_caption_val, vg_caption_test,"),
    ],
)
def test_bad_calls(root, arguments, message):
    (root / "cards/card.yaml").write_text(yaml.safe_dump([card("toy"), card("toy2")]))
    with pytest.raises(HarnessError) as error:
        run(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------- the hub
def test_without_a_connection_there_is_one_line(root, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(repository, name, repo_type):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand no cached file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(HarnessError) as error:
        run("prepare", "refcoco_val", "--data-root", "d")
    message = str(error.value)
    assert message.startswith("refcoco_val.json cannot be downloaded from the data set FoundationVision/groma_data (")
    assert "no connection and no cached file" in message
    assert "give it with --source" in message
    assert "\n" not in message
    assert not (root / "d").exists()


def test_a_process_of_its_own_without_a_connection(root):
    pytest.importorskip("huggingface_hub")
    command = [sys.executable, "-m", "groma_eval.cli.evaluate", "data", "prepare", "lvis_ground", "--data-root", "d"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hub")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("groma-eval: error: lvis_test.json cannot be downloaded from the data set ")
    assert done.stderr.count("\n") == 1
    assert not (root / "d").exists()


def test_a_download_is_checked_before_it_is_kept(root, monkeypatch, shared):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(repository, name, repo_type):
        asked.append((repository, name, repo_type))
        return str(root / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    rows = json.loads((shared / "data/refcoco/refcoco+_testB.json").read_text())
    (root / "refcoco+_testB.json").write_text(json.dumps(coco_form(rows, dataset="refcoco+")))
    assert run("prepare", "refcoco+_testB", "--data-root", "d") == 0
    assert asked == [("FoundationVision/groma_data", "refcoco+_testB.json", "dataset")]
    written = json.loads((root / "d/refcoco/refcoco+_testB.json").read_text())
    assert [(r["sents"], r["bbox"]) for r in written] == [(r["sents"], r["bbox"]) for r in rows]
    (root / "refcoco_testB.json").write_text(json.dumps(coco_form(rows)))
    with pytest.raises(HarnessError, match=r"4889 expressions, as RefCOCO\+ testB does"):
        run("prepare", "refcoco_testB", "--data-root", "d")
    assert not (root / "d/refcoco/refcoco_testB.json").exists()


def test_without_huggingface_hub(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HarnessError, match=r"downloading lvis_test\.json needs huggingface_hub"):
        run("prepare", "lvis_ground")


def test_a_prepared_file_says_its_checksum(root, shared, capsys):
    source = shared / "data/refcoco/refcocog_val.json"
    assert run("prepare", "refcocog_caption_val", "--source", str(source), "--data-root", "d") == 0
    path = root / "d/region_caption/refcocog_cap_val.json"
    shown = capsys.readouterr().out
    assert f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in shown
    assert not list((root / "d").rglob("*.new"))


def test_a_folder_that_cannot_be_written(root, shared):
    (root / "d").write_text("a file")
    source = str(shared / "data/refcoco/refcocog_val.json")
    with pytest.raises(HarnessError, match="cannot be written"):
        run("prepare", "refcocog_caption_val", "--source", source, "--data-root", "d")


def test_a_refer_folder_is_checked_and_run_as_it_is(root, shared, capsys):
    rows = json.loads((shared / "data/refcoco/refcoco_testB.json").read_text())
    write_refer(root / "refer/refcoco", rows, "testB")
    (root / "coco").mkdir()
    assert run("check", "refcoco_testB", "--data-root", ".", "--annotations", "refer") == 1
    shown = capsys.readouterr().out
    assert "refs(unc).p: sha256 " in shown
    assert "instances.json: sha256 " in shown
    assert "questions 5095 (the card says 5095)" in shown
    assert "wrong: 750 pictures are missing: " in shown
    from groma_eval import evaluate

    result = evaluate("bound:center", "refcoco_testB", out="run", annotations="refer", progress=False)
    assert result.metrics["refcoco_testB"]["counts"]["questions"] == 5095
    assert json.loads((root / "run/manifest.json").read_text())["benchmarks"]["refcoco_testB"]["deviations"] == []
    flat = evaluate("bound:center", "refcoco_testB", out="flat", data_root=shared / "data", progress=False)
    assert flat.metrics == result.metrics
