"""What a checkpoint states of its training pictures, and how many of a benchmark's it saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark
from hypothesis import given
from hypothesis import strategies as st

from groma_eval import evaluate
from groma_eval.core import HarnessError, ImageIds, Sample, TrainingData
from groma_eval.jobs import read_benchmark
from groma_eval.leakage import ALL, SETS, describe, overlap, read_training_data, state_training, summarise
from groma_eval.models import load
from groma_eval.tables import build_table


def pictures(*names, folder=None):
    """Samples by image id, with a file where ``folder`` is given."""
    return [Sample(Path(n).stem, Path(folder or ".") / n if folder is not None else None, 8, 8, ()) for n in names]


def trained(complete=True, image_ids=None, **sets):
    return TrainingData(
        sets={source: frozenset(names) for source, names in sets.items()},
        image_ids={source: frozenset(ids) for source, ids in (image_ids or {}).items()},
        complete=complete,
    )


COCO = ImageIds("coco")


@pytest.mark.parametrize("name", ["COCO_train2014_000000580957.jpg", "000000580957.jpg", "train2017/000000580957.jpg"])
@pytest.mark.parametrize("folder", [None, "coco"])
def test_both_names_of_a_coco_picture_are_its_one_id(name, folder):
    for ids, seen in (({"580957"}, 1), ({"580958"}, 0)):
        found = overlap(COCO, pictures(name, folder=folder), trained(image_ids={"coco": ids}))
        assert found == {"status": "seen" if seen else "clean", "images": seen, "of": 1}


# Where a picture of each set lies in the other release, from COCO's own description: train2017 is train2014 and
# val2014 without the 5000 pictures of val2017.
@pytest.mark.parametrize(
    ("own", "stated", "status"),
    [
        ("train2014", "train2014", "seen"),
        ("train2014", "train2017", "seen"),
        ("train2014", "val2014", "clean"),
        ("train2014", "val2017", "clean"),
        ("val2014", "train2014", "clean"),
        ("val2014", "train2017", "unknown"),
        ("val2014", "val2017", "unknown"),
        ("val2017", "val2014", "seen"),
        ("val2017", "train2014", "clean"),
        ("val2017", "train2017", "clean"),
        ("train2017", "train2014", "unknown"),
        ("train2017", "val2014", "unknown"),
        ("train2017", "val2017", "clean"),
        ("test2015", "train2017", "clean"),
        ("test2014", "test2015", "unknown"),
        (None, "train2017", "unknown"),
        (None, ALL, "seen"),
        ("val2017", ALL, "seen"),
    ],
)
def test_sets_of_coco(own, stated, status):
    training = trained(coco=[stated])
    by_card = overlap(ImageIds("coco", set=own), pictures("000000000001.jpg"), training)
    assert by_card["status"] == status
    if own is None:
        return
    if own.endswith("2014"):
        by_name = overlap(COCO, pictures(f"COCO_{own}_000000000001.jpg"), training)
        assert by_name["status"] == status
    by_folder = overlap(COCO, pictures("000000000001.jpg", folder=f"data/coco/{own}"), training)
    assert by_folder["status"] == status


def test_a_file_name_knows_its_set_better_than_the_card():
    ids = ImageIds("shapes", pattern="(shapes_.+)$", set="test")
    found = overlap(ids, pictures("shapes_test_000001.png", "shapes_train_000001.png"), trained(shapes=["train"]))
    assert found == {"status": "seen", "images": 1, "of": 2}


@pytest.mark.parametrize(
    ("source", "training", "status"),
    [
        ("coco", trained(shapes=["train"]), "clean"),
        ("coco", trained(flickr30k=["train"]), "clean"),
        ("coco", trained(vg=["train"]), "unknown"),  # Visual Genome has pictures of COCO
        ("vg", trained(coco=["train2014"]), "unknown"),
        ("flickr30k", trained(mine=["a"]), "unknown"),  # nobody knows what is in "mine"
        ("mine", trained(coco=["train2014"]), "unknown"),
        ("mine", trained(mine=["a"]), "unknown"),
        ("mine", trained(shapes=["train"]), "clean"),  # drawn by program
        ("coco", trained(), "clean"),
        ("coco", trained(complete=False), "unknown"),
        ("coco", None, "unknown"),
    ],
)
def test_other_sources(source, training, status):
    assert overlap(ImageIds(source), pictures("7.jpg"), training)["status"] == status


def test_an_incomplete_statement_still_finds_what_was_seen():
    found = overlap(COCO, pictures("1.jpg", "2.jpg", "3.jpg"), trained(False, {"coco": {"2"}}))
    assert found == {"status": "seen", "images": 1, "of": 3}


def test_other_data_than_the_cards_are_never_clean():
    training = trained(image_ids={"coco": {"2"}})
    assert overlap(COCO, pictures("1.jpg"), training, own_data=False)["status"] == "unknown"
    assert overlap(COCO, pictures("1.jpg", "2.jpg"), training, own_data=False)["status"] == "seen"


def test_without_ids_nothing_is_known_and_a_picture_counts_once():
    assert overlap(None, pictures("a.jpg", "b.jpg"), trained()) == {"status": "unknown", "images": 0, "of": 2}
    twice = pictures("COCO_train2014_000000000005.jpg", "000000000005.jpg")
    assert overlap(COCO, twice, trained(image_ids={"coco": {"5"}})) == {"status": "seen", "images": 1, "of": 1}
    # A name that holds no id may be any of the listed pictures.
    assert overlap(COCO, pictures("dog.jpg"), trained(image_ids={"coco": {"5"}}))["status"] == "unknown"


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60), min_size=1))
def test_the_count_is_the_size_of_the_intersection(seen, tested):
    training = trained(image_ids={"flickr30k": {str(i) for i in seen}})
    found = overlap(ImageIds("flickr30k"), pictures(*(f"{i}.jpg" for i in tested)), training)
    assert found == {"status": "seen" if seen & tested else "clean", "images": len(seen & tested), "of": len(tested)}


def test_refcoco_val_is_of_coco_train(shared):
    """RefCOCO's val pictures are 1500 of COCO's training set: a detector trained on COCO saw them all."""
    from groma_eval.cards import select

    (card,) = select("refcoco_val")
    samples = read_benchmark(card, shared / "data")
    assert overlap(card.image_ids, samples, trained(coco=["train2017"])) == {
        "status": "seen", "images": 1500, "of": 1500,
    }  # fmt: skip
    assert overlap(card.image_ids, samples, trained(coco=["val2017"]))["status"] == "clean"


def write(folder, content):
    path = folder / "training_data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_statement_is_read(tmp_path):
    assert read_training_data(tmp_path) is None
    (tmp_path / "ids.txt").write_text("000000000005\n17\n")
    training = read_training_data(
        write(
            tmp_path,
            {"complete": False, "sets": {"coco": ["train2014"]}, "image_ids": {"vg": [3, "07"], "coco": "ids.txt"}},
        )
    )
    assert training == trained(False, {"vg": {"3", "7"}, "coco": {"5", "17"}}, coco=["train2014"])
    assert describe(training) == {
        "complete": False, "sets": {"coco": ["train2014"]}, "image_ids": {"coco": 2, "vg": 2},
    }  # fmt: skip
    assert describe(None) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1, column 2: not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "must be an object; there are complete, sets and image_ids"),
        ({"sets": {}}, "field 'complete' must be true or false"),
        ({"complete": 1}, "field 'complete' must be true or false"),
        ({"complete": True, "set": {}}, "unknown field 'set'"),
        ({"complete": True, "sets": ["coco"]}, "field 'sets' must be an object by source"),
        ({"complete": True, "sets": {"coco": "train2017"}}, "sets.coco must be a list of names, not 'train2017'"),
        ({"complete": True, "sets": {"coco": []}}, "sets.coco must be a list of names"),
        ({"complete": True, "sets": {"coco": ["train"]}}, "sets.coco: coco has no set 'train'; it has train2014"),
        ({"complete": True, "image_ids": {"coco": 5}}, "image_ids.coco must be a list of ids"),
        ({"complete": True, "image_ids": {"coco": [1.5]}}, "image_ids.coco must be a list of ids"),
        ({"complete": True, "image_ids": {"coco": "none.txt"}}, "none.txt: cannot be read (No such file"),
        ({"complete": True, "image_ids": {"coco": "../ids.txt"}}, "must be a file beside training_data.json"),
        ({"complete": True, "image_ids": {"coco": "/etc/hosts"}}, "must be a file beside training_data.json"),
    ],
)
def test_a_bad_statement_is_told_in_one_line(tmp_path, content, message):
    with pytest.raises(HarnessError) as caught:
        read_training_data(write(tmp_path, content))
    assert message in str(caught.value)
    assert "training_data.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_statement(tmp_path):
    (tmp_path / "training_data.json").write_bytes(b"\xff\xfe")
    with pytest.raises(HarnessError, match=r"training_data\.json: cannot be read"):
        read_training_data(tmp_path)


def test_the_bundled_model_states_what_it_saw():
    info = load("groma-tiny").info
    assert info.training_data == trained(shapes=["train"])
    for split in ("val", "test"):
        ids = ImageIds("shapes", pattern="(shapes_.+)$", set=split)
        assert overlap(ids, pictures("1.png"), info.training_data)["status"] == "clean"


def test_every_bundled_card_says_how_its_pictures_are_known():
    from groma_eval.cards import registry

    for card in registry().values():
        assert card.image_ids is not None, card.name
        assert card.image_ids.source in {*SETS, "llava_bench_wild"}, card.name


def test_a_run_stores_it_and_its_table_marks_it(tmp_path):
    ids = {"source": "coco", "pattern": "pic_(\\d+)$"}
    write_benchmark(tmp_path, rec_rows(), counts={"questions": 18, "images": 6}, image_ids=ids)

    def run(name, **options):
        model = Fake(truth, name=name, training_data=options.pop("training_data", None))
        card = tmp_path / "cards/card.yaml"
        evaluate(model, card, out=tmp_path / name, data_root=tmp_path, progress=False, **options)
        return json.loads((tmp_path / name / "manifest.json").read_text())

    saw = trained(image_ids={"coco": {"0", "2", "99"}})
    manifest = run("seen", training_data=saw)
    assert manifest["benchmarks"]["toy"]["leakage"] == {"status": "seen", "images": 2, "of": 6}
    assert manifest["model"]["training_data"]["image_ids"] == {"coco": 3}
    assert run("few", training_data=saw, limit=2)["benchmarks"]["toy"]["leakage"]["images"] == 1
    assert run("clean", training_data=trained(coco=["val2017"]))["benchmarks"]["toy"]["leakage"]["status"] == "unknown"
    assert run("new", training_data=trained())["benchmarks"]["toy"]["leakage"] == {
        "status": "clean", "images": 0, "of": 6,
    }  # fmt: skip
    manifest = run("silent")
    assert manifest["benchmarks"]["toy"]["leakage"]["status"] == "unknown"
    assert manifest["model"]["training_data"] is None

    (grid,) = build_table("rec", [tmp_path / name for name in ("seen", "new", "silent")]).grids
    notes = dict(grid.notes)
    marks = {row.method: [notes[mark] for mark in row.marks] for row in grid.rows}
    assert marks == {
        "seen": ["its training saw test pictures: 2 of 6"],
        "new": [],
        "silent": ["whether its training saw the test pictures is not known"],
    }


def test_a_run_stored_without_it_is_unknown():
    assert summarise({}) == ("unknown", 0, 0)
    assert summarise({"leakage": {"status": "clean", "images": 0, "of": 3}}) == ("clean", 0, 3)
    assert summarise({"leakage": {"status": "odd"}}) == ("unknown", 0, 0)


def test_a_training_states_what_it_and_its_start_saw(tmp_path):
    first, second, third, fourth = (tmp_path / name for name in "abcd")
    for folder in (first, second, third, fourth):
        folder.mkdir()
    state_training(first, {"shapes": ["train"]})
    assert read_training_data(first) == TrainingData({"shapes": frozenset({"train"})}, complete=True)
    write(first, {"complete": True, "sets": {"shapes": ["train"]}, "image_ids": {"vg": [7]}})
    state_training(second, {"coco": ["train2017"], "shapes": ["val"]}, first)
    assert read_training_data(second) == TrainingData(
        {"shapes": frozenset({"train", "val"}), "coco": frozenset({"train2017"})},
        {"vg": frozenset({"7"})},
        complete=True,
    )
    state_training(third, None, second)  # on data of one's own
    assert read_training_data(third) == replace(read_training_data(second), complete=False)
    state_training(fourth, {"shapes": ["train"]}, tmp_path)  # which states nothing
    assert read_training_data(fourth) == TrainingData({"shapes": frozenset({"train"})}, complete=False)
