"""Mixtures: shares, order, resume, world sizes; stores; missing and excluded pictures."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
from collections import Counter

import pytest
import yaml
from data_files import FORMS, pictures, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import small_groma

from groma_model.data.mixture import Mixture, load_mixture, open_stores, read_exclusions
from groma_model.data.order import batch_places
from groma_model.data.readers import TASKS
from groma_model.processing import TEMPLATES

LLAVA = TEMPLATES["llava"]


def rec_set(folder, name, count, **more):
    """``count`` expressions on the three pictures, told apart by their words."""
    rows = [
        {
            "img_id": f"{'abc'[i % 3]}_{i}",
            "sents": f"{name} {i}",
            "bbox": [9, 9, 40, 20],
            "width": 200,
            "height": 100,
        }
        for i in range(count)
    ]
    write(folder, f"{name}.json", rows)
    return {"reader": "rec", "annotations": f"{name}.json", "images": "images", **more}


def mixture_file(folder, sets, **more):
    pictures(folder / "images")
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"sets": sets, **more}))
    return path


def build(path, seed=0, template=LLAVA):
    return Mixture(load_mixture(path), template, seed, path.parent / "cache")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.1, 0.23, 0.5, 0.75, 1.0])), min_size=1, max_size=3),
    seed=st.integers(0, 5),
)
def test_every_epoch_has_each_sets_share_of_distinct_samples(tmp_path_factory, sizes, seed):
    folder = tmp_path_factory.mktemp("mixture")
    sets = [rec_set(folder, f"s{i}", n, ratio=r) for i, (n, r) in enumerate(sizes)]
    mixture = build(mixture_file(folder, sets), seed)
    seen = [Counter() for _ in sizes]
    for epoch in range(4):
        places = [mixture.place(epoch, i) for i in range(len(mixture))]
        assert len(set(places)) == len(places)
        for number, (n, ratio) in enumerate(sizes):
            share = [record for s, record in places if s == number]
            assert len(share) == max(1, round(ratio * n))
            seen[number].update(share)
    for (n, _), counts in zip(sizes, seen, strict=True):
        # Nothing comes again before everything came once.
        assert max(counts.values()) - (min(counts.values()) if len(counts) == n else 0) <= 1


def test_the_order_is_the_same_for_all_world_sizes_and_after_a_resume(tmp_path):
    path = mixture_file(tmp_path, [rec_set(tmp_path, "a", 11), rec_set(tmp_path, "b", 8, ratio=0.5)])
    mixture = build(path)
    everything = [(e, i) for e in range(3) for i in range(len(mixture))]
    for processes in (1, 2, 4):
        places = [
            place
            for step in range(11)
            for process in range(processes)
            for place in batch_places(step, 4, len(mixture), process, processes)
        ]
        assert places == everything[: len(places)]
    again = build(path)
    assert [again.sample(2, i) for i in range(len(again))] == [mixture.sample(2, i) for i in range(len(mixture))]
    assert [m.sample(0, 3).dialogues for m in (build(path, 1), build(path, 1))] == [build(path, 1)[3].dialogues] * 2
    first, second = ([m.place(0, i) for i in range(len(m))] for m in (mixture, build(path, 1)))
    assert first != second
    assert first != [mixture.place(1, i) for i in range(len(mixture))]
    with pytest.raises(ValueError, match="does not divide"):
        batch_places(0, 3, 5, 0, 2)


def test_a_mixture_is_a_sequence(tmp_path):
    mixture = build(mixture_file(tmp_path, [rec_set(tmp_path, "a", 7)]))
    items = list(mixture)
    assert len(items) == len(mixture) == 7
    assert mixture[-1] == items[-1]
    assert mixture[2:4] == items[2:4]
    with pytest.raises(IndexError):
        mixture[7]
    assert mixture.tasks == ("rec",)
    said = {item.dialogues["rec"][0][0].question.split("<p>")[1].split("</p>")[0] for item in items}
    assert said == {f"a {i}" for i in range(7)}


def test_instructions_change_from_epoch_to_epoch(tmp_path):
    mixture = build(mixture_file(tmp_path, [rec_set(tmp_path, "a", 1)]))
    questions = {mixture.sample(epoch, 0).dialogues["rec"][0][0].question for epoch in range(60)}
    assert len(questions) == 6


def test_every_form_in_one_mixture(tmp_path):
    sets = []
    for reader, (name, content, options, _) in FORMS.items():
        write(tmp_path, name, content)
        sets.append({"reader": reader, "annotations": name, "images": "images", "options": options})
    mixture = build(mixture_file(tmp_path, sets))
    assert len(mixture) == sum(form[3] for form in FORMS.values())
    assert sorted(mixture.tasks) == sorted(TASKS)
    assert all(item.path.is_file() for item in mixture)


def test_the_processor_takes_every_form(tmp_path):
    groma = small_groma()
    for name, template in TEMPLATES.items():
        (tmp_path / name).mkdir()
        sets = []
        for reader, (file, content, options, _) in FORMS.items():
            write(tmp_path / name, file, content)
            sets.append({"reader": reader, "annotations": file, "images": "images", "options": options})
        for item in build(mixture_file(tmp_path / name, sets), template=template):
            for turn in (t for turns in item.dialogues.values() for t in turns[0]):
                groma.processor.question_ids(turn.question, [0] if turn.refer_box else [])
                groma.processor.answer_ids(turn.answer, list(range(len(turn.ground_boxes))))


def _first(mixture, queue):
    queue.put(mixture[0])


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_read_the_same(tmp_path, way):
    mixture = build(mixture_file(tmp_path, [rec_set(tmp_path, "a", 7)]))
    expected = mixture[0]
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    if way == "spawn":  # what spawning sends, without the seconds that a new interpreter takes
        assert pickle.loads(pickle.dumps(mixture))[0] == expected
        return
    worker = context.Process(target=_first, args=(mixture, queue))
    worker.start()
    assert queue.get(timeout=20) == expected
    worker.join()


def test_missing_pictures_are_counted_up_to_the_limit(tmp_path):
    path = mixture_file(tmp_path, [rec_set(tmp_path, "a", 9, missing=0.4)])
    (tmp_path / "images/b.jpg").unlink()
    mixture = build(path)
    assert len(mixture) == 6
    assert mixture.stores[0].counts == {"missing_picture": 3}
    strict = mixture_file(tmp_path, [rec_set(tmp_path, "a", 9)])
    (tmp_path / "images/b.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"a\.json: 3 of 9 samples \(33\.3%\) lack their picture .* such as b; .* 1\.0%"
    ):
        build(strict)
    pictures(tmp_path / "images")
    assert len(build(strict)) == 9  # pictures that came later are found


def test_excluded_pictures_are_left_out(tmp_path):
    sets = [rec_set(tmp_path, "a", 9, collection="mine")]
    path = mixture_file(tmp_path, sets, exclude="out.txt")
    (tmp_path / "out.txt").write_text("# seen in a test\nmine b\n\ncoco 5\n")
    mixture = build(path)
    assert len(mixture) == 6
    assert {item.path.name for item in mixture} == {"a.jpg", "c.jpg"}
    (tmp_path / "out.txt").write_text("mine b extra\n")
    with pytest.raises(ValueError, match="line 1: must be 'collection id'"):
        build(path)
    assert read_exclusions(write(tmp_path, "e.txt", "vg 1\n")) == {("vg", "1")}


def test_a_store_is_made_once_and_again_when_the_file_changes(tmp_path):
    path = mixture_file(tmp_path, [rec_set(tmp_path, "a", 5)])
    (store,) = open_stores(load_mixture(path), tmp_path / "cache")
    before = store.path.stat().st_mtime_ns
    assert open_stores(load_mixture(path), tmp_path / "cache")[0].path.stat().st_mtime_ns == before
    rec_set(tmp_path, "a", 6)
    assert len(open_stores(load_mixture(path), tmp_path / "cache")[0]) == 6
    assert [json.loads(json.dumps(r)) for r in store] == [store[i] for i in range(len(store))]
    # Made again in place; nothing half-written stays behind.
    open_stores(load_mixture(path), tmp_path / "cache", rebuild=True)
    assert all((folder / "meta.json").is_file() for folder in (tmp_path / "cache").iterdir())
    write(tmp_path, "a.json", "[{]")
    with pytest.raises(ValueError, match="row 0: not JSON"):
        build(path)
    assert all((folder / "meta.json").is_file() for folder in (tmp_path / "cache").iterdir())


def test_the_fingerprint_tells_orders_apart(tmp_path):
    path = mixture_file(tmp_path, [rec_set(tmp_path, "a", 5)])
    first, again, other = build(path), build(path), build(path, 1)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


GOOD = {"reader": "rec", "annotations": "a.json", "images": "images"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sets: [", "is not YAML"),
        ("3", "must hold 'sets'"),
        ("sets: []", "must hold 'sets'"),
        ({"sets": [GOOD], "exlude": "x"}, "unknown field 'exlude'"),
        ({"sets": [GOOD], "exclude": 3}, "field 'exclude' must be a file"),
        ([3], "sets[0] must be a mapping"),
        ([{**GOOD, "ration": 1}], "unknown field 'ration' (did you mean 'ratio'?)"),
        ([{"reader": "rec", "images": "x"}], "sets[0]: field 'annotations' is missing"),
        ([GOOD, {**GOOD, "reader": "recs"}], "sets[1]: reader 'recs' is none of detection, rec"),
        ([{**GOOD, "ratio": 0}], "ratio is 0"),
        ([{**GOOD, "ratio": 1.5}], "ratio is 1.5"),
        ([{**GOOD, "ratio": "1"}], "field 'ratio' is '1'"),
        ([{**GOOD, "missing": 2}], "missing is 2"),
        ([{**GOOD, "options": {"x": "y"}}], "reader rec has no option 'x'; it has none"),
        ([{**GOOD, "reader": "detection", "options": {"source": "o365"}}], "option source is 'o365'"),
        ([{**GOOD, "annotations": "none.json"}], "none.json: no such annotation file"),
        ([{**GOOD, "images": "none"}], "none: no such folder of images"),
        ({"sets": [GOOD], "exclude": "none.txt"}, "none.txt: the list of excluded pictures cannot be read"),
    ],
)
def test_a_malformed_mixture_is_one_line(tmp_path, content, words):
    pictures(tmp_path / "images")
    rec_set(tmp_path, "a", 3)
    path = write(tmp_path, "m.yaml", content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        build(path)
    assert "\n" not in str(caught.value)


def test_paths_are_relative_to_the_root_that_is_given(tmp_path):
    mixture_file(tmp_path, [rec_set(tmp_path, "a", 3)])
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere", "m.yaml", yaml.safe_dump([GOOD]))
    assert load_mixture(path, tmp_path).sets[0].annotations == tmp_path / "a.json"
    assert len(Mixture(load_mixture(path, tmp_path), LLAVA, 0, tmp_path / "cache")) == 3
