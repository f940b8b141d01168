"""JSON read in pieces, and orders without lists."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_model.data import json_stream
from groma_model.data.json_stream import stream_json
from groma_model.data.permutation import Permutation

scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@settings(max_examples=80, deadline=None)
@given(
    content=st.lists(values, max_size=6) | st.dictionaries(st.text(), values, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    plain=st.booleans(),
)
def test_reads_what_json_reads_whatever_the_size_of_the_pieces(tmp_path_factory, content, chunk, indent, plain):
    path = tmp_path_factory.mktemp("stream") / "x.json"
    path.write_bytes(json.dumps(content, indent=indent, ensure_ascii=not plain).encode("utf-8", "surrogatepass"))
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path.read_bytes().decode("utf-8", "surrogatepass")):
        return
    before, json_stream._CHUNK = json_stream._CHUNK, chunk
    try:
        found = list(stream_json(path))
    finally:
        json_stream._CHUNK = before
    if isinstance(content, list):
        assert found == [(None, i, value) for i, value in enumerate(content)]
        return
    lists = defaultdict(list)
    for name, index, value in found:
        if index is not None:
            assert index == len(lists[name])
            lists[name].append(value)
    assert {n: v for n, i, v in found if i is None} | lists == {k: v for k, v in content.items() if v != []}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", "", "empty"),
        ("x.json", "  \n", "empty"),
        ("x.json", '"text"', "list or object"),
        ("x.json", '[{"a": 1}, {"a": ', "row 1: not JSON"),
        ("x.json", "[1, 2", "ends after row 1"),
        ("x.json", "[1 2]", "after row 0"),
        ("x.json", '{"images": [{"id": 1}, oops]}', "images[1]: not JSON"),
        ("x.json", '{"images": [], "b" 3}', "':' should be"),
        ("x.json", '{1: 2}', "name must be text"),
        ("x.json", "[1] [2]", "follows its end"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        list(stream_json(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_bytes_that_are_no_text_and_a_file_that_is_not_there(tmp_path):
    (tmp_path / "x.json").write_bytes(b'["\xff\xfe"]')
    with pytest.raises(ValueError, match="not UTF-8"):
        list(stream_json(tmp_path / "x.json"))
    with pytest.raises(ValueError, match="no such annotation file"):
        list(stream_json(tmp_path / "y.json"))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 3000), key=st.text(max_size=8))
def test_a_permutation_is_a_bijection(length, key):
    order = Permutation(length, key)
    assert sorted(order[i] for i in range(length)) == list(range(length))


def test_a_permutation_looks_shuffled_and_depends_on_its_key():
    n = 4000
    order = [Permutation(n, "a")[i] for i in range(n)]
    # Of a uniform permutation: one fixed point on average; 1/12 of n**2 is the variance of a place, so neighbours'
    # correlation is about 0 with a standard deviation of 1/sqrt(n) = 0.016.
    mean = (n - 1) / 2
    variance = sum((v - mean) ** 2 for v in order) / n
    near = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(order)) / n / variance
    place = sum((i - mean) * (v - mean) for i, v in enumerate(order)) / n / variance
    assert abs(near) < 0.08
    assert abs(place) < 0.08
    assert sum(i == v for i, v in enumerate(order)) < 8
    assert order != [Permutation(n, "b")[i] for i in range(n)]
    with pytest.raises(IndexError):
        Permutation(n, "a")[n]
