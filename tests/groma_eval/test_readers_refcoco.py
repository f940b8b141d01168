"""RefCOCO in every form against the flat rows it was written from; the wrong split, the bad file, the pickle with code.

The real counts are those of the reference files.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refcoco_forms import (
    coco_form,
    jpeg,
    jxu_rows,
    lmms_rows,
    objects_of,
    picture,
    python2_pickle,
    refer_content,
    rows_of,
    write_parquet,
    write_refer,
)

from groma_eval.core import HarnessError
from groma_eval.readers import files, locate, read, refcoco_flat, refcoco_refer
from groma_eval.readers.expressions import to_flat, to_samples
from groma_eval.readers.plain_pickle import load_plain
from groma_eval.readers.refcoco import SPLITS, expressions

VAL = {"dataset": "refcoco", "split": "val"}


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def protocol0(value):
    return pickle.dumps(value, 0)


WRITERS = {
    "flat": lambda d, rows: write_json(d / "a.json", rows),
    "COCO, names of 2017": lambda d, rows: write_json(d / "a.json", coco_form(rows)),
    "COCO, names of 2014": lambda d, rows: write_json(d / "a.json", coco_form(rows, 2014)),
    "a folder with the flat file": lambda d, rows: write_json(d / "refcoco_val.json", rows).parent,
    "REFER": lambda d, rows: write_refer(d / "refcoco", rows),
    "REFER, all data sets": lambda d, rows: write_refer(d / "refcoco", rows).parent,
    "REFER, the pickle": lambda d, rows: write_refer(d, rows) / "refs(unc).p",
    "REFER, of Python 2": lambda d, rows: write_refer(d, rows, dump=python2_pickle),
    "REFER, protocol 0": lambda d, rows: write_refer(d, rows, dump=protocol0),
    "parquet with pictures": lambda d, rows: write_parquet(d / "x.parquet", lmms_rows(rows)),
    "parquet with sizes": lambda d, rows: write_parquet(d / "x.parquet", lmms_rows(rows, sizes=True)),
    "parquet of entries": lambda d, rows: write_parquet(d / "x.parquet", jxu_rows(rows)),
    "parquet without its ending": lambda d, rows: write_parquet(d / "x", lmms_rows(rows)),
    "parquet shards": lambda d, rows: (
        write_parquet(d / "data/val-00000-of-00002.parquet", lmms_rows(rows[:12])),
        write_parquet(d / "data/val-00001-of-00002.parquet", lmms_rows(rows[12:])),
        write_parquet(d / "data/testA-00000-of-00001.parquet", lmms_rows(rows[:4])),
        d,
    )[-1],
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_is_read_to_the_same(tmp_path, form):
    if form.startswith("parquet"):
        pytest.importorskip("pyarrow")
    rows = rows_of()
    samples = read("refcoco", WRITERS[form](tmp_path, rows), None, False, **VAL)
    found = [(int(s.image_id.rsplit("_", 1)[-1]), q) for s in samples for q in s.questions]
    assert [q.id for _, q in found] == [str(i) for i in range(len(rows))]
    assert [(number, q.text) for number, q in found] == [
        (int(picture(row).rsplit("_", 1)[1]), row["sents"]) for row in rows
    ]
    for row, (_, question) in zip(rows, found, strict=True):
        x, y, w, h = row["bbox"]
        expected = (x / 80, y / 60, (x + w) / 80, (y + h) / 60)
        assert question.target["boxes"][0] == pytest.approx(expected, abs=1e-6)  # parquet may hold float32
    assert {(s.width, s.height) for s in samples} == {(80, 60)}
    assert len(samples) == 5


@pytest.mark.parametrize(
    "form", [f for f in WRITERS if f not in ("COCO, names of 2017", "a folder with the flat file")]
)
def test_back_to_the_flat_form(tmp_path, form):
    if form.startswith("parquet"):
        pytest.importorskip("pyarrow")
    rows = rows_of()
    flat = to_flat(expressions(WRITERS[form](tmp_path, rows), **VAL))
    keep = form in ("flat",) or form.startswith("REFER")
    assert [{**row, "img_id": ""} for row in flat] == [{**row, "img_id": ""} for row in rows]
    if keep:
        assert flat == rows
    else:  # objects are numbered anew, those of one object alike
        assert [picture(row) for row in flat] == [picture(row) for row in rows]
        renamed = dict(zip((row["img_id"] for row in rows), (row["img_id"] for row in flat)))
        assert [renamed[row["img_id"]] for row in rows] == [row["img_id"] for row in flat]
        assert len(set(renamed.values())) == len(renamed)


SIDE = st.integers(1, 2000)
LENGTH = st.floats(0.01, 5000)
ROW = st.fixed_dictionaries(
    {
        "img_id": st.from_regex(r"[a-z_./]{1,5}_[0-9]{1,3}", fullmatch=True),
        "sents": st.text(min_size=1).filter(lambda text: text.strip()),
        "bbox": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), LENGTH, LENGTH).map(list),
    }
)


@given(st.lists(ROW, min_size=1, max_size=8), SIDE, SIDE)
def test_flat_rows_come_back_as_they_were(rows, width, height):
    for row in rows:
        row["height"], row["width"] = height, width
    parsed = list(refcoco_flat.parse(Path("a.json"), rows))
    assert to_flat(parsed) == rows
    samples = to_samples(parsed, None, False)
    by_id = {q.id: q for s in samples for q in s.questions}
    assert len(by_id) == len(rows) == sum(len(s.questions) for s in samples)
    for index, row in enumerate(rows):
        (box,) = by_id[str(index)].target["boxes"]
        x, y, w, h = row["bbox"]
        scaled = (box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height)
        assert scaled == pytest.approx((x, y, w, h), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_the_official_totals(shared, dataset, split):
    path = shared / f"data/refcoco/{dataset}_{split}.json"
    samples = read("refcoco", path, None, False, dataset=dataset, split=split)
    rows = json.loads(path.read_text())
    assert sum(len(s.questions) for s in samples) == len(rows) == SPLITS[dataset, split][0]
    assert len(objects_of(rows)) == SPLITS[dataset, split][1]
    assert to_flat(expressions(path, dataset, split)) == rows
    # The folder of all eight is read by name.
    assert files("refcoco", path.parent, dataset=dataset, split=split) == [path]


def test_real_rows_through_every_form(shared, tmp_path):
    pytest.importorskip("pyarrow")
    rows = json.loads((shared / "data/refcoco/refcoco_testB.json").read_text())
    write_refer(tmp_path / "refcoco", rows, "testB")
    others = [
        tmp_path,
        write_json(tmp_path / "coco.json", coco_form(rows, 2014)),
        write_parquet(tmp_path / "h.parquet", lmms_rows(rows, sizes=True)),
        write_parquet(tmp_path / "j.parquet", jxu_rows(rows, "testB")),
    ]
    wanted = [(row["sents"], picture(row), row["bbox"]) for row in rows]
    for path in others:
        found = expressions(path, "refcoco", "testB")
        assert [(e.text, e.picture.removesuffix(".jpg"), list(e.box)) for e in found] == wanted


# ------------------------------------------------------------------------------------------------- the wrong split
@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        ("refcoco_testA", ("refcoco", "val"), "5657 expressions, as RefCOCO testA does; RefCOCO val has 10834"),
        ("refcoco+_val", ("refcoco", "val"), "as RefCOCO+ val does"),
        ("refcoco_val", ("refcoco+", "val"), "as RefCOCO val does; RefCOCO+ val has 10758"),
        ("refcocog_test", ("refcocog", "val"), "9602 expressions, as RefCOCOg test does; RefCOCOg val has 4896"),
        ("refcocog_val", ("refcoco+", "testB"), "4896 expressions, as RefCOCOg val does; RefCOCO+ testB has 4889"),
    ],
)
def test_another_split_is_named(shared, given, asked, message):
    path = shared / f"data/refcoco/{given}.json"
    with pytest.raises(HarnessError) as error:
        read("refcoco", path, None, False, dataset=asked[0], split=asked[1])
    assert str(error.value).startswith(f"{path}: holds ")
    assert message in str(error.value)
    assert given in str(error.value)
    assert "\n" not in str(error.value)


def many(objects):
    """One expression an object, all on one picture."""
    row = rows_of(1, 1, 1)[0]
    return [{**row, "img_id": f"{picture(row)}_{number}"} for number in range(objects)]


@pytest.mark.parametrize(
    ("dataset", "objects", "message"),
    [
        ("refcoco", 8811, "UNC's val (3811) and Google's val (5000) together, as val of lmms-lab/RefCOCO does"),
        ("refcocog", 7573, "UMD's val (2573) and Google's val (5000) together"),
        ("refcoco", 5000, "Google's val or test"),
    ],
)
def test_a_copy_that_mixes_splits_is_named(tmp_path, dataset, objects, message):
    pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "val-0.parquet", lmms_rows(many(objects), sizes=True))
    with pytest.raises(HarnessError, match="the papers'") as error:
        read("refcoco", path, None, False, dataset=dataset, split="val")
    assert message in str(error.value)


def test_a_part_of_a_split_is_read(tmp_path):
    assert read("refcoco", write_json(tmp_path / "a.json", many(100)), None, False, **VAL)


# -------------------------------------------------------------------------------------- which file a folder stands for
@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda d: write_refer(d, rows_of(), by="google"),
            VAL,
            "holds refs(google).p, but the splits in use of refcoco",
        ),
        (lambda d: write_refer(d, rows_of(), by="google") / "refs(google).p", VAL, "refcoco's in use is refs(unc).p"),
        (lambda d: write_refer(d, rows_of(), "testA"), VAL, "holds no split 'val'; there are: testA (15 references)"),
        (lambda d: d, VAL, "no expressions of refcoco val in this folder: neither refs(unc).p"),
        (lambda d: d, {}, "is a folder; the card's options 'dataset' and 'split' must say"),
        (lambda d: write_refer(d, rows_of()) / "refs(unc).p", {}, "options 'dataset' and 'split' must say"),
        (
            lambda d: d,
            {"dataset": "refcoco", "split": "test"},
            "no split refcoco test is known; there are: refcoco val,",
        ),
        (lambda d: d, {"split": "val"}, "no split None val is known"),
        (lambda d: d / "none.json", VAL, "no such annotation file"),
        (lambda d: d / "none.parquet", VAL, "no such annotation file"),
        (lambda d: d / "refs(unc).p", VAL, "no such annotation file"),
    ],
)
def test_what_a_path_may_not_be(tmp_path, make, options, message):
    if "parquet" in str(make(tmp_path)):
        pytest.importorskip("pyarrow")
    with pytest.raises(HarnessError) as error:
        read("refcoco", make(tmp_path), None, False, **options)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_given_folder(tmp_path):
    assert locate("refcoco", tmp_path, "refcoco_val.json") == tmp_path
    assert locate("lvis", tmp_path, "lvis_test.json") == tmp_path / "lvis_test.json"
    (tmp_path / "refcoco_val.json").write_text("[]")
    assert locate("refcoco", tmp_path, "refcoco_val.json") == tmp_path / "refcoco_val.json"


def test_categories_and_distractors_come_from_the_instances(tmp_path):
    rows = rows_of()
    references, instances = refer_content(rows)
    instances["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    first = instances["annotations"][0]
    first["category_id"] = 2
    more = {"image_id": first["image_id"], "bbox": [0, 0, 1, 1]}
    instances["annotations"] += [
        {"id": 1, "category_id": 2, **more}, {"id": 2, "category_id": 2, "iscrowd": 1, **more}
    ]  # fmt: skip
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(references, 2))
    write_json(tmp_path / "refcoco" / "instances.json", instances)
    found = expressions(tmp_path, **VAL)
    of_image = [a["image_id"] for a in instances["annotations"][:-2] if a["category_id"] == 1]
    for item in found:
        if item.thing == references[0]["file_name"]:
            assert (item.category, item.distractors) == ("cat", 1)  # the crowd does not count
        else:
            assert (item.category, item.distractors) == ("dog", of_image.count(int(item.picture[-16:-4])) - 1)
    # They survive the flat form, and stand in the questions' targets.
    flat = write_json(tmp_path / "flat.json", to_flat(found))
    assert [(e.category, e.distractors) for e in expressions(flat)] == [(e.category, e.distractors) for e in found]
    assert to_samples(found, None, False)[0].questions[0].target["category"] == "cat"


def test_the_references_are_read_once_for_three_splits(tmp_path):
    folder = write_refer(tmp_path, rows_of())
    first = read("refcoco", folder, None, False, **VAL)
    hits = refcoco_refer._cached.cache_info().hits
    assert read("refcoco", folder, None, False, **VAL) == first
    assert refcoco_refer._cached.cache_info().hits == hits + 2
    write_refer(tmp_path, rows_of(pictures=2))  # another file at the same place is read anew
    assert len(read("refcoco", folder, None, False, **VAL)) == 2


# ------------------------------------------------------------------------------------------------ pickles with code
class Evil:
    def __init__(self, call, *arguments):
        self.made = (call, arguments)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    attacks = [
        Evil(os.system, f"touch {marker}"),
        Evil(eval, f"open({str(marker)!r}, 'w')"),
        Evil(open, str(marker), "w"),
        OrderedDict(a=1),
        {1, 2} if protocol < 4 else Evil(set, [1]),
        3 + 4j,
        Evil,
    ]
    for attack in attacks:
        path = tmp_path / "refs(unc).p"
        path.write_bytes(pickle.dumps([{"ref_id": 1, "split": attack}], protocol))
        with pytest.raises(HarnessError, match=r"the pickle asks for .*nothing was run") as error:
            load_plain(path)
        assert "\n" not in str(error.value)
        assert not marker.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'touch MARK'\ntR.",
        b"(S'touch MARK'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch MARK'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch MARK\x85R.",
        b"Ptouch MARK\n.",
        b"\x80\x02U\x01xQ.",
    ],
)
def test_handwritten_attacks(tmp_path, raw):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(raw.replace(b"MARK", b"here"))
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(HarnessError, match="nothing was run"):
            load_plain(path)
    finally:
        os.chdir(here)
    assert [p.name for p in tmp_path.iterdir()] == ["refs(unc).p"]


def test_every_cut_of_a_pickle_is_one_line(tmp_path):
    whole = pickle.dumps(refer_content(rows_of(2, 1, 1))[0], 2)
    path = tmp_path / "refs(unc).p"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(HarnessError, match=r"cut short or damaged|is empty") as error:
            load_plain(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    path.write_bytes(whole)
    assert load_plain(path) == refer_content(rows_of(2, 1, 1))[0]


def test_text_that_is_not_utf8_is_latin1(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"\x80\x02U\x04caf\xe9.")
    assert load_plain(path) == "café"


# -------------------------------------------------------------------------------------------------- bad rows, each form
def refer_bad(change):
    def make(folder):
        references, instances = refer_content(rows_of())
        change(references, instances)
        (folder / "refs(unc).p").write_bytes(pickle.dumps(references, 2))
        (folder / "instances.json").write_text(json.dumps(instances))
        return folder

    return make


def coco_bad(change):
    def make(folder):
        content = coco_form(rows_of())
        change(content["images"], content["annotations"])
        return write_json(folder / "a.json", content)

    return make


def parquet_bad(change, rows=lmms_rows):
    def make(folder):
        pytest.importorskip("pyarrow")
        content = rows(rows_of())
        for row in content:
            change(row)
        return write_parquet(folder / "x.parquet", content)

    return make


def raw_bad(name, raw):
    def make(folder):
        (folder / name).write_bytes(raw)
        return folder / name

    return make


def flat_bad(**change):
    return lambda folder: write_json(folder / "a.json", [*rows_of(1), {**rows_of(1)[0], **change}])


NAN = float("nan")
BAD = {
    "flat, surrogate": (flat_bad(sents="a \ud800 b"), "row 6: field 'sents' is no Unicode text"),
    "flat, blank": (flat_bad(sents=" \t"), "row 6: field 'sents' is empty"),
    "flat, no number": (flat_bad(img_id="COCO"), "row 6: field 'img_id' must be an image name and '_number'"),
    "flat, group": (flat_bad(group=["a"]), "row 6: field 'group' must be text"),
    "flat, NaN": (flat_bad(bbox=[0, NAN, 5, 5]), "row 6: field 'bbox' = [0, nan, 5, 5] is not finite"),
    "flat, outside": (flat_bad(bbox=[100, 0, 5, 5]), "wholly outside the 80x60 image"),
    "flat, endless": (flat_bad(bbox=[0, 0, 10**400, 5]), "is not finite"),
    "flat, overflow": (flat_bad(bbox=[1e308, 0, 1e308, 5]), "is not finite"),
    "flat, other size": (flat_bad(width=81), "row 6: size (81, 60) differs from (80, 60)"),
    "flat, endless size": (flat_bad(width=10**400), "field 'width' must be above 0"),
    "empty": (raw_bad("a.json", b""), "the annotation file is empty"),
    "no UTF-8": (raw_bad("a.json", b'["\xff"]'), "byte 2: not UTF-8"),
    "binary": (raw_bad("a.json", b"\x80\x02]q\x00."), "byte 0: not UTF-8"),
    "deep": (raw_bad("a.json", b"[" * 200000), "nested too deeply"),
    "long number": (raw_bad("a.json", b"[" + b"9" * 5000 + b"]"), "not usable JSON"),
    "no list": (raw_bad("a.json", b'"x"'), "must hold a list"),
    "no fields": (raw_bad("a.json", b'{"a": 1}'), "field 'images' is missing"),
    "COCO, id twice": (coco_bad(lambda i, a: i[1].update(id=900)), "images[1]: image id 900 occurs twice"),
    "COCO, annotation id twice": (coco_bad(lambda i, a: a[1].update(id=40)), "annotations[1]: annotation id 40 occurs"),
    "COCO, second box": (coco_bad(lambda i, a: a.append({**a[0], "id": 1})), "a second box for images entry 900"),
    "COCO, no box": (coco_bad(lambda i, a: a.pop()), "entry 929 has no annotation"),
    "COCO, stray box": (coco_bad(lambda i, a: a[0].update(image_id=1)), "image_id 1 is not among the file's images"),
    "COCO, no caption": (coco_bad(lambda i, a: i[3].pop("caption")), "images[3]: field 'caption' is missing"),
    "COCO, other set": (coco_bad(lambda i, a: i[0].update(dataset_name="refcocog")), "not refcoco's expressions"),
    "COCO, NaN": (coco_bad(lambda i, a: a[2].update(bbox=[NAN, 1, 1, 1])), "annotations[2]: field 'bbox'"),
    "COCO, outside": (coco_bad(lambda i, a: a[2].update(bbox=[0, 60, 1, 1])), "wholly outside the 80x60 image"),
    "COCO, area": (coco_bad(lambda i, a: a[2].update(area="big")), "annotations[2]: field 'area' must be"),
    "COCO, name": (coco_bad(lambda i, a: i[0].update(file_name=7)), "images[0]: field 'file_name' must be text"),
    "COCO, size": (coco_bad(lambda i, a: i[0].update(height=-3)), "images[0]: field 'height' must be above 0"),
    "REFER, ref twice": (refer_bad(lambda r, i: r[2].update(ref_id=10)), "row 2: ref_id 10 occurs twice"),
    "REFER, sentence twice": (
        refer_bad(lambda r, i: r[1]["sentences"][1].update(sent_id=0)), "row 1: sentences[1]: sent_id 0 occurs twice",
    ),
    "REFER, no sentence": (
        refer_bad(lambda r, i: r[1]["sentences"].append("x")), "row 1: sentences[2]: must be an object",
    ),
    "REFER, no text": (refer_bad(lambda r, i: r[1]["sentences"][0].pop("sent")), "[0]: field 'sent' is missing"),
    "REFER, no annotation": (refer_bad(lambda r, i: r[4].update(ann_id=1)), "row 4: ann_id 1 is not in"),
    "REFER, no picture": (refer_bad(lambda r, i: i["images"].pop()), "image_id 11 is not in"),
    "REFER, outside": (
        refer_bad(lambda r, i: i["annotations"][0].update(bbox=[0, 90, 5, 5])), "wholly outside the 80x60 image",
    ),
    "REFER, no boxes": (refer_bad(lambda r, i: i.pop("annotations")), "instances.json: field 'annotations' is missing"),
    "REFER, file name": (refer_bad(lambda r, i: r[0].update(file_name="a.jpg")), "row 0: field 'file_name' must be"),
    "REFER, no instances": (raw_bad("refs(unc).p", pickle.dumps([{}])), "instances.json: no such annotation file"),
    "parquet, no parquet": (raw_bad("a.parquet", b"PAR1 and no more"), "not a readable parquet file"),
    "parquet, empty": (raw_bad("a.parquet", b""), "not a readable parquet file"),
    "parquet, columns": (
        parquet_bad(lambda r: r.pop("answer")), "no RefCOCO columns (file_name, answer, bbox, or file_name, sentences",
    ),
    "parquet, NaN": (parquet_bad(lambda r: r.update(bbox=[0.0, NAN, 1.0, 1.0])), "row 0: field 'bbox' = "),
    "parquet, no box": (parquet_bad(lambda r: r.update(bbox=None)), "row 0: field 'bbox' must be a list"),
    "parquet, no texts": (parquet_bad(lambda r: r.update(answer="dog")), "row 0: field 'answer' must be a list"),
    "parquet, blank": (parquet_bad(lambda r: r.update(answer=["dog", ""])), "row 0: field 'answer' is empty"),
    "parquet, picture": (
        parquet_bad(lambda r: r.update(image={"bytes": b"JPEG"})), "row 0: field 'image' holds no readable picture",
    ),
    "parquet, no picture": (parquet_bad(lambda r: r.update(image={"path": "a"})), "neither 'width' and 'height' nor"),
    "parquet, entry": (
        parquet_bad(lambda r: r.update(raw_anns="{"), jxu_rows), "row 0: field 'raw_anns': line 1, column 2: not JSON",
    ),
    "parquet, no entry": (parquet_bad(lambda r: r.update(raw_anns="[1]"), jxu_rows), "'raw_anns' must hold an object"),
    "parquet, other split": (
        parquet_bad(lambda r: r.update(split="testB"), jxu_rows), "no samples of split 'val'; there are: testB (15",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(tmp_path, case):
    make, message = BAD[case]
    if case.startswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(HarnessError) as error:
        read("refcoco", make(tmp_path), None, False, **VAL)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_every_cut_of_a_parquet_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "x.parquet", lmms_rows(rows_of(2, 1, 1), sizes=True))
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(HarnessError, match="not a readable parquet file") as error:
            read("refcoco", path, None, False, **VAL)
        assert "\n" not in str(error.value)


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HarnessError, match="reading parquet needs pyarrow"):
        read("refcoco", tmp_path / "x.parquet", None, False, **VAL)


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows_of()).encode())
    assert len(read("refcoco", path, None, False, **VAL)) == 5


def test_pictures_under_both_names(tmp_path):
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2014/COCO_train2014_000000000007.jpg").write_bytes(jpeg(80, 60))
    path = write_json(tmp_path / "a.json", coco_form(rows_of()))
    found = [s.image for s in read("refcoco", path, tmp_path, True, **VAL)]
    assert found[0] == tmp_path / "train2014/COCO_train2014_000000000007.jpg"
    assert [p.is_file() for p in found] == [True, False, False, False, False]
