"""Published rows: read in full, averages as printed, known bad copies kept out."""

from __future__ import annotations

import csv
from decimal import Decimal

import pytest

from groma_eval.baseline_rows import COLUMNS, TASKS, load_baselines, parse_baselines
from groma_eval.core import HarnessError
from groma_eval.tables import average

SPLITS = [
    *[("RefCOCO", s) for s in ("val", "testA", "testB")],
    *[("RefCOCO+", s) for s in ("val", "testA", "testB")],
    *[("RefCOCOg", s) for s in ("val", "test")],
]
# The Average column of Groma's Table 2, typed from the paper.
PAPER_AVERAGES = {
    "MDETR": "81.81",
    "Grounding-DINO-L": "86.60",
    "UNINEXT-L": "86.95",
    "OFA": "72.65",
    "Shikra": "82.93",
    "Ferret": "83.91",
    "MiniGPT-v2": "84.29",
    "Qwen-VL": "85.83",
    "Groma": "86.52",
}


def by_method(task):
    methods = {}
    for row in load_baselines(task):
        methods.setdefault((row.method, row.size), []).append(row)
    return methods


def eight_cells(rows):
    cells = {(r.benchmark, r.split): r.value for r in rows if r.metric == "Acc@IoU0.5"}
    return [cells[s] for s in SPLITS] if all(s in cells for s in SPLITS) else None


def test_paper_averages_follow_from_the_cells():
    found = {}
    for (method, _), rows in by_method("rec").items():
        if rows[0].in_groma_table and (cells := eight_cells(rows)):
            found[method] = str(average(cells))
    assert found == PAPER_AVERAGES


def test_every_printed_average_follows_from_its_cells():
    checked, differ = 0, {}
    for key, rows in by_method("rec").items():
        printed = [r.value for r in rows if r.split == "average"]
        if printed and (cells := eight_cells(rows)):
            checked += 1
            if average(cells) != printed[0]:
                differ[key] = (str(sum(cells) / 8), str(printed[0]))
    assert checked >= 25
    # These two lie on a half, which their source did not round up.
    assert differ == {("InternVL3", "8B"): ("89.65", "89.6"), ("PLM", "8B"): ("88.25", "88.2")}


def test_table_8_off_row_is_the_one_average_that_differs():
    rows = by_method("ablations")
    on, off = (rows[f"Groma, token merge {x}", "7B"] for x in ("ON (2x2 downsampling, default)", "OFF"))
    printed = {id(r): next(x.value for x in r if x.split == "average") for r in (on, off)}
    assert average(eight_cells(on)) == printed[id(on)] == Decimal("86.47")
    assert printed[id(off)] == Decimal("86.55")
    assert average(eight_cells(off)) == Decimal("86.56")
    assert sum(eight_cells(off)) / 8 == Decimal("86.55875")


def test_known_bad_copies_are_not_here():
    rows = load_baselines("rec")
    cells = {(r.method, r.benchmark, r.split): r.value for r in rows if r.metric == "Acc@IoU0.5"}
    assert cells["VisionLLM-H", "RefCOCO", "val"] == Decimal("86.70")
    assert ("VisionLLM-H", "RefCOCO", "testA") not in cells
    assert cells["Grounding-DINO-L", "RefCOCO+", "val"] == Decimal("82.75")
    assert [
        r.value for r in rows if (r.method, r.size, r.benchmark, r.split) == ("Qwen2.5-VL", "7B", "RefCOCO+", "val")
    ] == [Decimal("84.2")]


def test_what_may_not_be_compared_is_not_ranked():
    for row in load_baselines("rec"):
        apart = ("Kosmos-2", "Florence-2", "Qwen3-VL", "Rex-Omni", "GLaMM", "PaliGemma")
        if row.method.startswith(apart):
            assert not row.comparable, row
        if row.in_groma_table:
            assert row.comparable, row


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_whole_and_unique(task):
    rows = load_baselines(task)
    assert rows
    assert all(r.source and r.method and r.benchmark and r.metric for r in rows)
    keys = [(r.method, r.size, r.year, r.benchmark, r.split, r.metric, r.notes.split(";")[0]) for r in rows]
    assert len(set(keys)) == len(keys)


def test_values_are_those_of_the_reference_files(shared):
    """Every verified number of the sources is here with its digits, but for averages that no source prints."""
    for task in TASKS:
        name = "llava_bench_coco" if task == "llava_bench" else task
        with open(shared / f"published/{name}.csv", newline="", encoding="utf-8") as file:
            wanted = [
                r["value"]
                for r in csv.DictReader(file)
                if r["verified"] == "yes" and "NOT printed in source" not in r["notes"]
            ]
        assert [str(r.value) for r in load_baselines(task)] == wanted


def test_digits_are_kept():
    values = {(r.method, r.metric, r.benchmark): str(r.value) for r in load_baselines("region_caption")}
    assert values["GRIT", "CIDEr", "Visual Genome"] == "142"
    assert values["Groma", "CIDEr", "Visual Genome"] == "158.4"


GOOD = "M,7B,2024,RefCOCO,val,Acc@IoU0.5,89.60,no,yes,paper Table 1,"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("89.60", "89,60"), "line 2: expected 11 fields"),
        (GOOD.replace("89.60", "n/a"), "line 2: value 'n/a' is not a number"),
        (GOOD.replace("89.60", "NaN"), "line 2: value 'NaN' is not a finite number"),
        (GOOD.replace(",no,", ",maybe,"), "line 2: in_groma_table is 'maybe'"),
        (GOOD.replace("paper Table 1", ""), "line 2: a published number needs its source"),
    ],
)
def test_bad_rows_name_file_and_line(line, message):
    with pytest.raises(HarnessError, match=r"x\.csv") as error:
        parse_baselines(",".join(COLUMNS) + "\n" + line + "\n", "x.csv")
    assert message in str(error.value)


def test_good_row_and_bad_header():
    row = parse_baselines(",".join(COLUMNS) + "\n" + GOOD + "\n")[0]
    assert str(row.value) == "89.60"
    assert (row.in_groma_table, row.comparable) == (False, True)
    with pytest.raises(HarnessError, match="line 1"):
        parse_baselines("a,b\n")
    with pytest.raises(HarnessError, match="there are: rec"):
        load_baselines("nothing")
