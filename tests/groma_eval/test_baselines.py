"""Published rows: read in full, averages as printed, known bad copies kept out."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_UP, Decimal

import pytest
from conftest import ROOT

from groma_eval.baseline_rows import COLUMNS, TASKS, load_baselines, parse_baselines
from groma_eval.core import HarnessError
from groma_eval.table_columns import PAPER
from groma_eval.table_formats import FORMATS, render
from groma_eval.table_grid import average
from groma_eval.tables import build_table

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


NOT_STANDARD = {  # beginnings of names, by how their numbers were obtained
    "rec": {
        "zero-shot": ("Kosmos-2", "Grounding-DINO-T (O365+GoldG, no RefC)"),
        "fine-tuned": ("MDETR", "Grounding-DINO-L", "Grounding-DINO-T (fine-tuned)", "UNINEXT", "OFA (fine-tuned)",
                       "OFA-Huge", "ONE-PEACE", "Florence-2", "UFO-InternVL2.5-8B (fine-tuned)"),
        "average-only": ("Qwen3-VL",),
        "other-metric": ("Rex-Omni", "DeepSeek-VL2", "Qwen2.5-VL-7B (as run", "SEED1.5-VL", "GLaMM", "PaliGemma"),
    },
    "region_caption": {
        "zero-shot": ("Kosmos-2", "GLaMM (zero-shot", "ASM (zero-shot)"),
        "fine-tuned": ("GRIT", "GLaMM (re-evaluated)", "GLaMM (fine-tuned", "GLaMM (as quoted", "ASM-FT", "SLR",
                       "Alpha-CLIP"),
        "other-protocol": ("Osprey", "Groma (re-run"),
    },
    "llava_bench": {"other-judge": ("LLaVA (own paper", "LLaVA (re-run", "LLaVA-G (grounded")},
    "lvis_ground": {},
}  # fmt: skip
# Visual Genome over another set of regions than the paper's one a picture.
OTHER_REGIONS = ("ASM", "RegionGPT", "Omni-RGPT", "Groma (re-run")


@pytest.mark.parametrize("task", NOT_STANDARD)
def test_every_number_has_the_setting_it_was_obtained_in(task):
    settings = {name: setting for setting, names in NOT_STANDARD[task].items() for name in names}
    used = set()
    for row in load_baselines(task):
        names = [name for name in settings if row.method.startswith(name)]
        wanted = settings[names[0]] if names else "standard"
        if task == "region_caption" and row.benchmark == "Visual Genome" and row.method.startswith(OTHER_REGIONS):
            wanted = "other-protocol"
        assert row.setting == wanted, row
        assert row.comparable == (wanted == "standard")
        used.update(names)
    assert used == settings.keys()


@pytest.mark.parametrize(("task", "kind"), [(PAPER[kind].baselines, kind) for kind in PAPER])
@pytest.mark.parametrize("rows", ["paper", "all"])
def test_only_numbers_of_the_standard_setting_are_best_or_second(task, kind, rows):
    (grid,) = build_table(kind, (), rows).grids
    standard = {(r.method, r.size, r.benchmark, r.split, r.metric) for r in load_baselines(task) if r.comparable}
    placed = set()
    for row in grid.rows:
        for column, cell in zip(grid.columns, row.cells):
            if column.head == "Average" and task == "rec":
                assert not cell.place or row.heading == "Published"
            elif cell.place:
                assert (row.method, row.size, column.family, column.split, column.published) in standard
                placed.add((row.method, cell.place))
    assert placed
    heads = [row.heading for row in grid.rows]
    assert heads == sorted(heads, key=list(dict.fromkeys(heads)).index), "rows of one group stand together"


def test_rows_obtained_otherwise_stand_in_groups_of_their_own():
    (grid,) = build_table("rec", (), "all").grids
    head = {row.method: row.heading for row in grid.rows}
    assert list(dict.fromkeys(head.values())) == [
        "Published",
        "Published, specialists and models fine-tuned on the task",
        "Published, zero-shot or few-shot",
        "Published, of which only an average is published",
    ]
    assert head["Groma"] == head["Qwen-VL"] == "Published"
    assert head["MDETR"] == head["Florence-2-L"] == "Published, specialists and models fine-tuned on the task"
    assert head["Kosmos-2"] == "Published, zero-shot or few-shot"
    (judged,) = build_table("vqa", (), "all").grids
    assert [row.method for row in judged.rows if row.heading == "Published, by another judge"] == [
        "LLaVA (own paper, full data)", "LLaVA (re-run by LLaVA-G)", "LLaVA-G (grounded responses)",
    ]  # fmt: skip


def test_a_number_unlike_the_rest_of_its_row_is_marked():
    (grid,) = build_table("caption", (), "all").grids
    notes = dict(grid.notes)
    marked = {
        (row.method.split()[0], column.family): {notes[mark] for mark in cell.marks}
        for row in grid.rows
        for column, cell in zip(grid.columns, row.cells)
        if cell.marks
    }
    text = "unlike the rest of its row: under another protocol; not ranked with it"
    names = ("ASM", "ASM-FT", "RegionGPT", "Omni-RGPT")
    assert marked == {(name, "Visual Genome"): {text} for name in names}


def test_every_format_keeps_the_groups_apart():
    table = build_table("vqa", (), "all")
    head = "Published, by another judge"
    for fmt in FORMATS:
        text = render(table, fmt)
        assert head in text, fmt
        assert text.index("85.2") < text.index(head), fmt  # Groma stands before them


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_whole_and_unique(task):
    rows = load_baselines(task)
    assert rows
    assert all(r.source and r.method and r.benchmark and r.metric for r in rows)
    keys = [(r.method, r.size, r.year, r.benchmark, r.split, r.metric, r.notes.split(";")[0]) for r in rows]
    assert len(set(keys)) == len(keys)


# What our files call otherwise than the reference files do: {task: {(field, theirs): ours}}.
CALLED = {
    "rec": {
        ("split", "average of 8 splits"): "average",
        ("split", "RefCOCO-avg"): "average",
        ("metric", "Acc (source prints 'RefCOCO-avg' only)"): "Acc@IoU0.5",
    },
    "ablations": {("split", "average of 8 splits"): "average"},
    "lvis_ground": {("split", "LVIS val subset"): "val", ("metric", "AR (IoU 0.50:0.95)"): "AR"},
    "llava_bench": {("split", "30 images, 90 questions"): "COCO val2014", ("metric", "Average/overall"): "Overall"},
    "groma_elsewhere": {
        ("metric", "Recall (avg of 5 subsets)"): "Recall (average of 5 subsets)",
        ("metric", '"REC accuracy" in Omni-RGPT Table 6'): "REC accuracy (Omni-RGPT)",
    },
}
FILES = {task: task for task in TASKS} | {"llava_bench": "llava_bench_coco"}


def reference_rows(shared, task):
    with open(shared / f"published/{FILES[task]}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_those_of_the_reference_files(shared, task):
    """Row by row, every verified number that a source prints is here, with its digits, place and source."""
    wanted = [
        row
        for row in reference_rows(shared, task)
        if row["verified"] == "yes" and "NOT printed in source" not in row["notes"]
    ]
    found = load_baselines(task)
    assert len(found) == len(wanted)
    called = CALLED.get(task, {})
    for ours, theirs in zip(found, wanted):
        assert str(ours.value) == theirs["value"]
        for field in ("year", "benchmark", "split", "metric"):
            given = called.get((field, theirs[field]), theirs[field])
            if (ours.method, field) == ("VisionLLM-H", "split"):
                assert (given, ours.split) == ("testA", "val")  # Groma's table has it in the wrong column
            else:
                assert getattr(ours, field) == given, (ours, theirs)
        # Theirs may carry the size, or a remark that is a note here.
        short = ours.method.split(" (re-")[0]
        assert theirs["method"].startswith(short)
        assert theirs["size"].startswith(ours.size) or (ours.size == "-" and theirs["size"][:1] in ("", "("))
        size = theirs["method"].removeprefix(short).lstrip("-")
        assert not size[:1].isdigit() or size == ours.size
        printed_there = "IN GROMA TABLE" in theirs["notes"] or ("Table 3" in theirs["source"] and task == "lvis_ground")
        assert ours.in_groma_table == (printed_there or task == "ablations"), ours
        for name in re.findall(r"Tables? [\d/–-]+|\d{4}\.\d{5}|@[0-9a-f]{7}", ours.source):
            assert name in theirs["source"] or (ours.method == "VisionLLM-H" and name in theirs["notes"]), ours


def printed_averages(rows, read):
    """(method, size) -> (what the average is printed as, the exact mean of its eight cells), where both are there."""
    cells, averages = {}, {}
    for row in rows:
        method, size, split, metric, value = read(row)
        if not metric.startswith("Acc@IoU0.5"):
            continue
        if split.startswith("average"):
            averages[method, size] = Decimal(value)
        else:
            cells.setdefault((method, size), []).append(Decimal(value))
    return {key: (printed, sum(cells[key]) / 8) for key, printed in averages.items() if len(cells.get(key, ())) == 8}


def differing(found):
    return {key: pair for key, pair in found.items() if pair[1].quantize(pair[0], ROUND_HALF_UP) != pair[0]}


def listed_averages():
    """The table of differing averages in results/baselines/README.md: {(method, size): (printed, mean)}."""
    text = (ROOT / "results/baselines/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    return {(method, size): (Decimal(printed), Decimal(mean)) for method, size, printed, mean in rows}


def test_differing_averages_are_listed_with_both_numbers(shared):
    """From the reference files, not ours: every average that a source prints beside its eight cells."""
    found = {}
    for task in ("rec", "ablations"):
        rows = [row for row in reference_rows(shared, task) if "NOT printed in source" not in row["notes"]]
        found |= printed_averages(rows, lambda r: (r["method"], r["size"], r["split"], r["metric"], r["value"]))
    assert len(found) == 29
    differ = {key[0].rsplit("-", 1)[0] if key[0].endswith("-8B") else key[0]: p for key, p in differing(found).items()}
    assert differ == {method: pair for (method, _), pair in listed_averages().items()}
    # The averages of rows in one paper that another one prints; all of them are what the cells give.
    quoted = 0
    for row in reference_rows(shared, "rec"):
        for printed in re.findall(r"prints average (\d+\.\d+)", row["notes"]):
            cells = [
                r for r in reference_rows(shared, "rec") if r["method"] == row["method"] and r["size"] == row["size"]
            ]
            values = [Decimal(r["value"]) for r in cells if not r["split"].startswith("average")]
            assert (sum(values) / 8).quantize(Decimal(printed), ROUND_HALF_UP) == Decimal(printed)
            quoted += 1
    assert quoted


def test_differing_averages_of_our_files_are_those_listed_and_are_said_in_the_table():
    listed = listed_averages()
    found = {}
    for task in ("rec", "ablations"):
        found |= printed_averages(load_baselines(task), lambda r: (r.method, r.size, r.split, r.metric, str(r.value)))
    assert differing(found) == listed
    (grid,) = build_table("rec", (), "all").grids
    said = {}
    for row in grid.rows:
        for mark in row.marks:
            if match := re.search(
                r"prints the average ([\d.]+), the mean of its cells is ([\d.]+)", dict(grid.notes)[mark]
            ):
                said[row.method, row.size] = tuple(map(Decimal, match.groups()))
    in_table = {(r.method, r.size) for r in load_baselines("rec")}
    assert said == {key: pair for key, pair in listed.items() if key in in_table}
    assert said


def test_overall_is_not_the_mean_of_the_three_and_the_list_says_where_it_shows():
    text = (ROOT / "results/baselines/README.md").read_text(encoding="utf-8")
    differ = {}
    for (method, _), rows in by_method("llava_bench").items():
        *three, overall = (row.value for row in rows)
        mean = average(three)
        if mean != overall:
            differ[method] = (overall, mean)
    assert differ
    for method, (overall, mean) in differ.items():
        assert re.search(rf"{re.escape(method)} {overall} \({mean}\)", text), method


def test_digits_are_kept():
    values = {(r.method, r.metric, r.benchmark): str(r.value) for r in load_baselines("region_caption")}
    assert values["GRIT", "CIDEr", "Visual Genome"] == "142"
    assert values["Groma", "CIDEr", "Visual Genome"] == "158.4"


GOOD = "M,7B,2024,RefCOCO,val,Acc@IoU0.5,89.60,no,standard,paper Table 1,"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("89.60", "89,60"), "line 2: expected 11 fields"),
        (GOOD.replace("89.60", "n/a"), "line 2: value 'n/a' is not a number"),
        (GOOD.replace("89.60", "NaN"), "line 2: value 'NaN' is not a finite number"),
        (GOOD.replace(",no,", ",maybe,"), "line 2: in_groma_table is 'maybe'"),
        (GOOD.replace("standard", "yes"), "line 2: setting is 'yes', must be one of standard, fine-tuned, zero-shot"),
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
