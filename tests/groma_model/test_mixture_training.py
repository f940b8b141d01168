"""Training from a mixture: the loop's order, the command, what the checkpoint states, refusals in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import groma_model.recipes
import pytest
import torch
import yaml
from data_files import FORMS, pictures, write
from training_data import LANGUAGE, recipe_with

from groma_eval.cli.train import main
from groma_eval.leakage import read_training_data
from groma_model.configuration import preset
from groma_model.data.mixture import Mixture, check_stage, load_mixture
from groma_model.data.readers import READERS, TASKS
from groma_model.data.samples import corpus
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import TEMPLATES, GromaProcessor, train_tokenizer
from groma_model.training.loop import first_process_first, train
from groma_model.training.recipe import Recipe, load_recipe

BUNDLED = Path(groma_model.recipes.__file__).parent
ALIGN = Recipe(stage="align", steps=4, batch_size=2, lr=1e-3, trainable=LANGUAGE, warmup=1, save_every=2,
               draws="image", tasks=dict.fromkeys(TASKS, 1))  # fmt: skip
NAMES = [f"coco/train2017/{i:012d}.jpg" for i in range(1, 6)]
BOX = {"bbox": [9, 9, 40, 20], "width": 200, "height": 100}
CARD = {
    "name": "mine", "version": 1, "task": "rec", "reader": "refcoco_flat", "headline": "acc@0.5",
    "data": {"annotations": "mine.json"}, "image_ids": {"source": "coco"},
    "protocols": {"paper": {"decoding": {"max_new_tokens": 3}, "prompts": {"ground_one": "Locate {text}."}}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def every_form(folder):
    """A mixture of every reader of dialogues."""
    pictures(folder / "images")
    sets = []
    for reader, (name, content, options, _) in FORMS.items():
        if READERS[reader].task is not None:
            write(folder, name, content)
            sets.append({"reader": reader, "annotations": name, "images": "images", "options": options})
    return write(folder, "mixture.yaml", yaml.safe_dump({"sets": sets}))


def fresh(data):
    torch.manual_seed(0)
    config = preset("nano")
    processor = GromaProcessor(train_tokenizer(corpus(data, TEMPLATES["brief"]), config), config)
    return GromaForConditionalGeneration(config), processor


def go(path, out, recipe=ALIGN, **more):
    with first_process_first():
        data = Mixture(load_mixture(path), TEMPLATES["brief"], recipe.seed, path.parent / "cache")
    model, processor = fresh(data)
    train(model, processor, data, recipe, out, progress=False, **more)
    return model.state_dict()


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_workers_and_a_resume_change_nothing(tmp_path):
    path = every_form(tmp_path)
    whole = go(path, tmp_path / "whole")
    assert same(go(path, tmp_path / "workers", workers=1), whole)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    out = tmp_path / "part"
    with pytest.raises(Stop):  # after the save at step 2
        go(path, out, recipe_with(ALIGN, evaluate_every=3), evaluate=stop)
    (out / "recipe.json").write_text((tmp_path / "whole" / "recipe.json").read_text())
    assert same(go(path, out), whole)
    record = json.loads((out / "data.json").read_text())
    assert record["an_epoch"] == sum(one["an_epoch"] for one in record["sets"])
    assert {one["name"].split(":")[0] for one in record["sets"]} == set(READERS) - {"detection"}
    assert {"name": "conversations:llava.json", "samples": 1, "an_epoch": 1, "left_out": {"no_picture": 1}} in record[
        "sets"
    ]


def test_two_processes_make_the_store_once_and_see_what_one_sees(tmp_path):
    from test_training_scale import together

    path = every_form(tmp_path)
    recipe = recipe_with(ALIGN, lr=1e-5)
    one = go(path, tmp_path / "one", recipe)
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/meta.json")}
    together(lambda: go(path, tmp_path / "two", recipe))
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/meta.json")} == made
    from safetensors.torch import load_file

    two = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in two.items():
        assert (tensor - one[name]).abs().max() < 1e-5, name  # a quarter of the way that Adam goes in 4 steps


def test_the_first_process_reads_before_the_others(tmp_path):
    from test_training_scale import together

    def work():
        with first_process_first(), (tmp_path / "order").open("a") as file:
            file.write(os.environ["RANK"])

    together(work, 3)
    assert (tmp_path / "order").read_text()[0] == "0"
    assert sorted((tmp_path / "order").read_text()) == ["0", "1", "2"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_line(tmp_path, workers):
    path = every_form(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes((tmp_path / "images" / "b.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded .*: mend it, or leave it out$") as caught:
        go(path, tmp_path / "out", workers=workers)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Boxes and expressions on COCO's pictures 1 to 5; a benchmark on COCO's 2 and 9; recipes of preset nano."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROMA_BENCHMARKS", str(tmp_path / "cards"))
    monkeypatch.setenv("GROMA_DATA", str(tmp_path / "data"))
    for name in ("cards", "data", "notes"):
        (tmp_path / name).mkdir()
    pictures(tmp_path / "images", NAMES)
    write(tmp_path / "cards", "card.yaml", yaml.safe_dump(CARD))
    write(
        tmp_path / "data",
        "mine.json",
        [{"img_id": f"COCO_train2014_{i:012d}_{i}", "sents": "it", **BOX} for i in (2, 9)],
    )
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 200, "height": 100} for i in range(1, 6)]
    write(
        tmp_path / "notes", "boxes.json", {"images": images, "annotations": [{"image_id": 3, "bbox": [9, 9, 40, 20]}]}
    )
    write(
        tmp_path / "notes", "rec.json", [{"img_id": f"{i:012d}_0", "sents": f"thing {i}", **BOX} for i in range(1, 6)]
    )
    where = {"images": "images/coco/train2017"}
    write(tmp_path, "boxes.yaml", yaml.safe_dump(
        [{"reader": "detection", "annotations": "notes/boxes.json", **where, "options": {"source": s}}
         for s in ("coco", "sa1b")]))  # fmt: skip
    write(tmp_path, "rec.yaml", yaml.safe_dump([{"reader": "rec", "annotations": "notes/rec.json", **where}]))
    base = {"steps": 2, "batch_size": 2, "lr": 1e-3, "warmup": 1}
    write(tmp_path, "detect.recipe", yaml.safe_dump(
        base | {"stage": "detect", "preset": "nano", "trainable": ["proposer"],
                "loss": {"source": "coco", "attribute_weight": 1.0}}))  # fmt: skip
    write(tmp_path, "align.recipe", yaml.safe_dump(
        base | {"stage": "align", "preset": "nano", "trainable": ["projector"], "tasks": {"rec": 1}}))  # fmt: skip
    return tmp_path


def stage(name, data, *more):
    return main([name, "--recipe", f"{name}.recipe", "--data", data, "--out", f"runs/{name}", *more])


def test_two_stages_from_mixtures_state_what_they_saw(folder, capsys):
    assert stage("detect", "boxes.yaml") == 0
    said = capsys.readouterr().err
    assert "boxes.yaml: 8 samples an epoch, fingerprint " in said
    assert "2 left out as pictures of mine" in said
    stated = json.loads((folder / "runs/detect/training_data.json").read_text())
    record = json.loads((folder / "runs/detect/data.json").read_text())
    assert stated["mixtures"] == [record]
    assert [(one["name"], one["samples"], one["left_out"]["excluded"]) for one in record["sets"]] == [
        ("detection:boxes.json", 4, 1)
    ] * 2
    assert read_training_data(folder / "runs/detect").image_ids == {"coco": {"1", "3", "4", "5"}}
    assert stated["complete"] is True

    assert stage("align", "rec.yaml", "--init", "runs/detect", "--keep-overlaps") == 0
    assert "0 left out as pictures of no benchmark" in capsys.readouterr().err
    after = read_training_data(folder / "runs/align")
    assert after.image_ids == {"coco": {"1", "2", "3", "4", "5"}}
    assert after.complete
    mixtures = json.loads((folder / "runs/align/training_data.json").read_text())["mixtures"]
    assert [one["mixture"] for one in mixtures] == ["boxes.yaml", "rec.yaml"]


def test_a_run_is_not_continued_on_other_data(folder, capsys):
    assert stage("align", "rec.yaml") == 0
    first = (folder / "runs/align/model.safetensors").read_bytes()
    assert stage("align", "rec.yaml") == 0  # it is finished
    capsys.readouterr()
    assert stage("align", "rec.yaml", "--keep-overlaps") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("groma-train: error: runs/align holds a run on mixture ")
    assert error.endswith(": choose another --out or remove it")
    assert (folder / "runs/align/model.safetensors").read_bytes() == first
    # The same samples from elsewhere are the same data.
    os.rename("images", "moved")
    for name in ("rec.yaml",):
        write(folder, name, (folder / name).read_text().replace("images/coco", "moved/coco"))
    assert stage("align", "rec.yaml") == 0


@pytest.mark.parametrize(
    ("name", "data", "more", "words"),
    [
        (
            "align",
            "boxes.yaml",
            (),
            "set detection:boxes.json has no dialogues: stage align takes readers of dialogues",
        ),
        ("detect", "rec.yaml", (), "set rec:rec.json has no boxes of every object: stage detect takes the reader det"),
        ("align", "rec.yaml", ("--limit", "2"), "--limit takes the first images of a folder"),
        ("align", "rec.yaml", ("--evaluate", "nothing"), "nothing"),
        ("align", "rec.yaml", ("--evaluate", "shapes-rec-val"), "the data of shapes-rec-val is not there"),
        ("align", "rec.yaml", ("--root", "none"), "none/notes/rec.json: no such annotation file"),
        ("align", "none.yaml", (), "mixture none.yaml: cannot be read"),
    ],
)
def test_bad_calls_are_one_line_and_write_nothing(folder, capsys, name, data, more, words):
    assert stage(name, data, *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()


def test_a_task_without_a_count_is_named(tmp_path):
    mixture = load_mixture(every_form(tmp_path))
    with pytest.raises(
        ValueError, match=r"no count for 'instruct', which the set groma_instruct:groma\.json .*: add inst"
    ):
        check_stage(mixture.path, mixture.sets, "align", {t: 1 for t in TASKS if t != "instruct"})
    with pytest.raises(ValueError, match="no count for 'rec'"):
        go(tmp_path / "mixture.yaml", tmp_path / "out", recipe_with(ALIGN, tasks={"vqa": 1}))
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ what is bundled


@pytest.mark.parametrize("name", ["detect", "align", "instruct"])
def test_the_bundled_mixtures_suit_their_7b_recipes(name):
    mixture = load_mixture(BUNDLED / "mixtures" / f"{name}.yaml", "root")
    recipe = load_recipe(BUNDLED / f"{name}-7b.yaml")
    check_stage(mixture.path, mixture.sets, recipe.stage, recipe.tasks)


def test_the_bundled_mixtures_sample_as_the_paper(shared):
    import csv

    with (shared / "published" / "training.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"].startswith("datasets: ")]
    words = {
        "COCO": "coco", "Objects365": "obj365", "OpenImages": "openimages", "V3Det": "v3det", "SA1B": "sa1b",
        "ShareGPT-4V-PT": "share-captioner", "Flickr30k Entities": "flickr_entities", "Visual Genome": "vg_train",
        "RefCOCOg": "refcocog", "RefCOCO/g/+": "refcoco+", "Grit-20m": "grit", "Groma Instruct": "groma_instruct",
        "LLaVA Instruct": "llava_conversation", "ShareGPT-4V": "sharegpt4v_instruct",
    }  # fmt: skip
    for stage, name in (("1", "detect"), ("2", "align"), ("3", "instruct")):
        sets = load_mixture(BUNDLED / "mixtures" / f"{name}.yaml", "root").sets
        named = [words[w] for r in rows if r["split"].startswith(stage) for w in r["value"].split(", ")]
        assert all(any(word in str(s.annotations) for s in sets) for word in named), name
        ratios = {f"{s.reader}:{s.annotations.stem[:8]}": s.ratio for s in sets if s.ratio != 1}
        expected = {
            "detect": {}, "align": {"region_captions:vg_train": 0.2, "grit:grit_fil": 0.1},
            "instruct": {"grounding:instance": 0.5, "conversations:sharegpt": 0.23},
        }  # fmt: skip
        assert ratios == expected[name]
        assert [s.options.get("source") for s in sets if "sa1b" in str(s.annotations)] == ["sa1b"] * (name == "detect")
