"""Breakdowns against parts counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from groma_eval.breakdowns import MOST_CATEGORIES, breakdowns
from groma_eval.core import Prediction, Question, Sample
from groma_eval.statistics.stored import Item, StoredBenchmark


def _stored(*questions: Question, size: tuple[int, int] = (100, 100), each: int = 1) -> StoredBenchmark:
    """``each`` questions an image, in their order."""
    items = []
    for n, question in enumerate(questions):
        sample = Sample(f"image {n // each}", None, *size, ())
        items.append(Item(sample, question, Prediction(question.id), {}))
    return StoredBenchmark(Path("run"), "toy", {"task": "rec"}, tuple(items), {})


def _rec(key: str, text: str = "a thing", box=(0, 0, 0.5, 0.5), **more) -> Question:
    return Question(key, "ground_one", text, target={"boxes": [box], **more.pop("target", {})}, **more)


def _parts(stored: StoredBenchmark, name: str) -> dict[str, set[str]]:
    found = {cut.name: cut for cut in breakdowns(stored)}
    return {part.label: set(part.ids) for part in found[name].parts} if name in found else {}


def test_expression_length():
    stored = _stored(*(_rec(str(n), " ".join(["word"] * n)) for n in (1, 2, 3, 4, 5, 8, 9, 20)))
    assert _parts(stored, "expression length") == {
        "1-2": {"1", "2"}, "3-4": {"3", "4"}, "5-8": {"5", "8"}, "9 or more": {"9", "20"},
    }  # fmt: skip


def test_relation_words():
    stored = _stored(
        _rec("a", "the cup next to the plate"), _rec("b", "man in front of the bus"), _rec("c", "left cup"),
        _rec("d", "Second man from left"), _rec("e", "red cup"), _rec("f", "a bright leftover"),
    )  # fmt: skip
    assert _parts(stored, "relation words") == {"relation": {"a", "b"}, "place": {"c", "d"}, "neither": {"e", "f"}}


def test_area_by_pixels_where_sizes_are_known():
    boxes = {
        "small": (0, 0, 0.31, 1),
        "edge": (0, 0, 0.32, 0.32),
        "medium": (0, 0, 0.9, 0.9),
        "large": (0, 0, 0.96, 0.96),
    }
    stored = _stored(*(_rec(key, box=box) for key, box in boxes.items()), size=(100, 100))
    assert _parts(stored, "box area") == {"medium": {"small", "edge", "medium"}, "large": {"large"}}
    stored = _stored(_rec("a", target={"areas": [10.0]}), _rec("b"))
    assert _parts(stored, "box area") == {"small": {"a"}, "medium": {"b"}}


def test_area_by_thirds_where_they_are_not():
    stored = _stored(*(_rec(str(n), box=(0, 0, 1, n / 10)) for n in range(1, 10)), size=(0, 0))
    assert _parts(stored, "box area") == {
        "smallest third": {"1", "2", "3"}, "middle third": {"4", "5", "6"}, "largest third": {"7", "8", "9"},
    }  # fmt: skip
    note = next(cut.note for cut in breakdowns(stored) if cut.name == "box area")
    assert "not known" in note


def test_categories_beyond_the_commonest_stand_together():
    questions = [_rec(f"{n}-{i}", target={"category": f"kind {n:02d}"}) for n in range(14) for i in range(20 - n)]
    parts = _parts(_stored(*questions), "category")
    assert list(parts) == [*(f"kind {n:02d}" for n in range(MOST_CATEGORIES)), "others"]
    assert len(parts["others"]) == sum(20 - n for n in range(10, 14))


def test_distractors_are_other_objects_of_the_category_in_the_image():
    cup = {"category": "cup"}
    stored = _stored(
        _rec("a", box=(0, 0, 0.1, 0.1), target=cup), _rec("b", box=(0.5, 0, 0.6, 0.1), target=cup),
        _rec("c", box=(0, 0, 0.1, 0.1), target=cup),  # the first cup again, in other words
        _rec("d", box=(0, 0, 0.1, 0.1), target=cup), _rec("e", box=(0, 0, 0.1, 0.1), target={"category": "dog"}),
        _rec("f", target={"distractors": 7}),
        each=3,
    )  # fmt: skip
    assert _parts(stored, "same-class distractors") == {"none": {"d", "e"}, "1": {"a", "b", "c"}, "3 or more": {"f"}}


def test_frequency_and_group():
    stored = _stored(
        *(Question(k, "ground_all", k, target={"boxes": [], "category": 1, "frequency": k}, group=k) for k in "fcr")
    )
    assert _parts(stored, "frequency") == {"rare": {"r"}, "common": {"c"}, "frequent": {"f"}}
    assert not _parts(stored, "group")  # it is the frequency
    stored = _stored(_rec("a", group="detail/count"), _rec("b", group="detail"), _rec("c"))
    assert _parts(stored, "group") == {"count": {"a"}, "detail": {"a", "b"}}


@pytest.mark.parametrize("name", ["group", "category", "same-class distractors", "frequency"])
def test_what_the_samples_lack_is_left_out(name):
    stored = _stored(_rec("a", "red cup"), _rec("b", "a big red cup on the table"))
    assert not _parts(stored, name)
