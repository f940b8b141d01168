"""Every metric that is printed says what it is."""

from __future__ import annotations

import pytest
from groma_eval.benchmarks.shapes.prepare import prepare
from harness_fakes import truth

from groma_eval.cards import select
from groma_eval.jobs import read_benchmark
from groma_eval.metrics.about import METRICS, find
from groma_eval.metrics.captions import score_captions
from groma_eval.metrics.detection import PROTOCOLS, score_detection
from groma_eval.metrics.yesno import score_yesno
from groma_eval.tasks import TASKS, Regions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder, {"test": 6}, progress=False)
    return folder


@pytest.mark.parametrize("card", select("shapes"), ids=lambda card: card.name)
@pytest.mark.parametrize("iou", [">=", ">"])
def test_every_metric_of_the_shapes_benchmarks_has_an_entry(root, card, iou):
    samples = read_benchmark(card, root)
    predictions = {q.id: truth(q, s) for s in samples for q in s.questions}
    for prediction in predictions.values():  # confidences rank the boxes, so that AP is printed too
        prediction.confidences = [0.5] * len(prediction.boxes)
    regions = {s.image_id: Regions([(0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.8)], [0.9, 0.1]) for s in samples}
    rules = dict(card.protocol()[1].rules) | ({"iou": iou} if card.task == "rec" else {})
    result = TASKS[card.task](samples, predictions, regions, rules)
    assert result.metrics
    for name, value in result.metrics.items():
        info = find(card.task, name)
        assert info is not None, name
        low, high = info.range
        assert low <= value <= (float("inf") if high is None else high + 1e-9), name


LVIS = {
    "images": [{"id": 1, "width": 100, "height": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat", "frequency": "f"}],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_metric_of_score_detection_has_an_entry(protocol):
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 30], "score": 0.5}]
    metrics, _ = score_detection(LVIS, found, protocol)
    assert [name for name in metrics if find("score detection", name) is None] == []


def test_every_metric_of_score_yesno_has_an_entry():
    metrics, _ = score_yesno({"a": "Yes."}, {"a": "yes", "b": "no"})
    assert [name for name in metrics if find("score yesno", name) is None] == []


def test_every_metric_of_score_caption_has_an_entry():
    scores = score_captions({"a": "a cat"}, {"a": ["a cat"], "b": ["a dog sits"]}, original=True)
    assert [name for name in scores.metrics if find("score caption", name) is None] == []


def test_entries_are_complete():
    for task, metrics in METRICS.items():
        for name, info in metrics.items():
            where = f"{task}: {name}"
            assert info.definition.strip(), where
            assert not info.definition.endswith("."), where
            assert info.citation.strip(), where
            assert info.unit.strip(), where
            assert info.version >= 1, where
            assert info.range[1] is None or info.range[0] < info.range[1], where
            assert "\n" not in info.definition + info.citation + info.scale, where


def test_the_scale_in_words():
    assert find("rec", "not_proposed").scale == "%, 0 to 100, lower is better, version 1"
    assert find("vqa", "answer_words").scale == "words, 0 up, neither end is better, version 1"


@pytest.mark.parametrize(
    ("task", "metric", "entry"),
    [
        ("rec", "acc@0.5", "acc@T"),
        ("rec", "acc@0.9_strict", "acc@T_strict"),
        ("rec", "acc@0.5/attribute", "acc@T/GROUP"),
        ("grounding", "ar@0.75", "ar@T"),
        ("proposals", "ar@300", "ar@K"),
        ("caption", "attr/colour", "attr/NAME"),
        ("vqa", "accuracy/a b", "accuracy/GROUP"),
        ("vqa", "score/overall", "score/overall"),
        ("score detection", "ARs@300", "ARs@K"),
        ("score reviews", "all", "CATEGORY"),
        ("score reviews", "FILE:all/model", "CATEGORY/model"),
    ],
)
def test_names_with_parameters_are_found(task, metric, entry):
    assert find(task, metric) is METRICS[task][entry]


@pytest.mark.parametrize(
    ("task", "metric"), [("rec", "acc"), ("rec", "acc@"), ("rec", "ar"), ("nothing", "acc@0.5"), ("caption", "attr/")]
)
def test_unknown_names_are_not(task, metric):
    assert find(task, metric) is None
