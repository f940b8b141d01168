"""Every way an annotation or a results file can be wrong is told in one line that says where."""

from __future__ import annotations

import copy
import json

import pytest

from groma_eval.core import HarnessError
from groma_eval.metrics.detection import score_detection

NAN = float("nan")


@pytest.fixture
def files():
    truth = {
        "images": [{"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 5, "name": "cat", "frequency": "r"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "area": 81},
            {"id": 2, "image_id": 1, "category_id": 5, "bbox": [9, 9, 9, 9], "area": 81},
        ],
    }
    return truth, [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "score": 0.5}]


def _changed(content, where, value):
    content = copy.deepcopy(content)
    place = content
    for key in where[:-1]:
        place = place[key]
    if value is KeyError:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    return content


def _refused(truth, found, protocol, *words):
    with pytest.raises(HarnessError) as error:
        score_detection(truth, found, protocol)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 300
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("protocol", ["coco", "lvis", "as-many"])
@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("images",), KeyError, "'images' is missing"),
        (("images",), {}, "images"),
        (("images", 0), 7, "images"),
        (("images", 0, "id"), KeyError, "images[0]"),
        (("images", 0, "id"), 1.5, "images[0]"),
        (("categories",), [], "categories"),
        (("categories", 0, "id"), None, "categories[0]"),
        (("annotations",), KeyError, "'annotations' is missing"),
        (("annotations",), "text", "annotations"),
        (("annotations", 1, "id"), KeyError, "annotations[1]"),
        (("annotations", 1, "id"), 1, "annotations[1]: annotation id 1 occurs twice"),
        (("annotations", 1, "image_id"), 99, "annotations[1]: image_id 99"),
        (("annotations", 1, "image_id"), [1], "annotations[1]"),
        (("annotations", 1, "category_id"), 99, "annotations[1]: category_id 99"),
        (("annotations", 1, "category_id"), True, "annotations[1]"),
        (("annotations", 1, "bbox"), KeyError, "annotations[1]: field 'bbox'"),
        (("annotations", 1, "bbox"), [1, 2, 3], "'bbox'"),
        (("annotations", 1, "bbox"), [1, 2, 3, NAN], "'bbox'"),
        (("annotations", 1, "bbox"), [1, 2, 3, 10**400], "'bbox'"),
        (("annotations", 1, "bbox"), [1, 2, -3, 4], "negative size"),
        (("annotations", 1, "bbox"), {"x": 1}, "'bbox'"),
        (("annotations", 1, "area"), NAN, "'area'"),
        (("annotations", 1, "area"), -4, "'area'"),
        (("annotations", 1, "area"), "4", "'area'"),
        (("annotations", 1, "iscrowd"), 2, "'iscrowd'"),
        (("annotations", 1, "iscrowd"), ["é\n"], "'iscrowd'"),
    ],
)
def test_wrong_annotations(files, protocol, where, value, words):
    truth, found = files
    _refused(_changed(truth, where, value), found, protocol, words)


@pytest.mark.parametrize("protocol", ["coco", "lvis", "as-many"])
@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ((0,), [1, 2], "detections[0]"),
        ((0, "image_id"), KeyError, "detections[0]: field 'image_id'"),
        ((0, "image_id"), 2, "detections[0]: image_id 2 is not in the ground truth"),
        ((0, "image_id"), "1", "image_id '1' is not in the ground truth"),
        ((0, "category_id"), 6, "category_id 6 is not in the ground truth"),
        ((0, "category_id"), NAN, "detections[0]"),
        ((0, "score"), KeyError, "'score'"),
        ((0, "score"), NAN, "'score'"),
        ((0, "score"), float("inf"), "'score'"),
        ((0, "score"), "0.5", "'score'"),
        ((0, "score"), True, "'score'"),
        ((0, "bbox"), KeyError, "'bbox'"),
        ((0, "bbox"), [0, 0, NAN, 9], "'bbox'"),
        ((0, "bbox"), [0, 0, 9, -1], "negative size"),
        ((0, "bbox"), [0, 0, 9, "9"], "'bbox'"),
        ((0, "bbox"), [0, 0, 9, 9, 9], "'bbox'"),
        ((0, "bbox"), "0 0 9 9", "'bbox'"),
    ],
)
def test_wrong_detections(files, protocol, where, value, words):
    truth, found = files
    _refused(truth, _changed(found, where, value), protocol, words)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("images", 0, "neg_category_ids"), KeyError, "no LVIS file"),
        (("images", 0, "not_exhaustive_category_ids"), KeyError, "no LVIS file"),
        (("images", 0, "neg_category_ids"), 5, "neg_category_ids"),
        (("images", 0, "neg_category_ids"), [[5]], "neg_category_ids"),
        (("categories", 0, "frequency"), KeyError, "'frequency'"),
        (("categories", 0, "frequency"), "rc", "'frequency'"),
        (("categories", 0, "frequency"), ["r"], "'frequency'"),
        (("annotations", 1, "ignore"), 1, "'ignore'"),
    ],
)
def test_what_lvis_needs_beyond_coco(files, where, value, words):
    truth, found = files
    changed = _changed(truth, where, value)
    _refused(changed, found, "lvis", words)
    score_detection(changed, found, "coco")
    score_detection(changed, found, "as-many")


@pytest.mark.parametrize(
    ("ids", "words"), [([1, 2, 1], "images: id 1 occurs twice"), (["é", "é"], "images: id 'é' occurs twice")]
)
def test_ids_that_occur_twice(files, ids, words):
    truth, found = files
    images = [{**truth["images"][0], "id": key} for key in ids]
    _refused({**truth, "images": images}, found, "coco", words)
    _refused({**truth, "categories": truth["categories"] * 2}, found, "coco", "categories: id 5 occurs twice")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("{", "line 1"),
        ('{"image_id": 1}', "list of detections"),
        ('"text"', "list of detections"),
        ("[1]", "detections[0]"),
        ('[{"image_id": 1, "category_id": 5, "bbox": [0, 0, NaN, 1], "score": 1}]', "detections[0]: field 'bbox'"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_wrong_results_files(files, tmp_path, text, words):
    path = tmp_path / "résults.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for protocol in ("coco", "lvis", "as-many"):
        _refused(files[0], path, protocol, "résults.json", words)


def test_wrong_annotation_files(files, tmp_path):
    path = tmp_path / "truth.json"
    _refused(path, files[1], "coco", "truth.json", "no such file")
    path.write_text("[]")
    _refused(path, files[1], "coco", "truth.json", "'images' is missing")
    path.write_text(json.dumps(files[0] | {"annotations": []}))
    _refused(path, files[1], "coco", "truth.json", "'annotations'", "empty")
    path.write_text(json.dumps(files[0]))
    assert score_detection(str(path), files[1], "coco")[0]["AR100"] == 0.5
