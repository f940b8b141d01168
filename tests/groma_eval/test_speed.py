"""The speed bench: its workload, what it fixes, what it counts, and that both ways answer alike."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError
from groma_eval.speed.reference import answer_alone
from groma_eval.speed.stages import Stages, count_flops
from groma_eval.speed.subject import endless, fix_regions, random_model, recorded
from groma_eval.speed.workload import BUNDLED, Workload, evenly, picture, read_workload
from groma_model.generation import Query

ASKED = Workload("test", (("left man", "the red cup on the table"), ("dog",)))


@pytest.fixture(scope="module")
def nano():
    groma = random_model("nano", "cpu", torch.float32, ASKED)
    groma.model.requires_grad_(False)
    fix_regions(groma)
    return groma


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["speed", *map(str, arguments)])
    return code, *capsys.readouterr()


# ------------------------------------------------------------------ workload
def test_bundled_lengths_are_those_of_the_annotations(shared):
    by_picture: dict[str, list[int]] = {}
    for row in json.loads((shared / "data/refcoco/refcoco_val.json").read_text()):
        name = row["img_id"].rpartition("_")[0]
        by_picture.setdefault(name, []).append(len(row["sents"].split()))
    assert json.loads(BUNDLED.read_text())["images"] == list(by_picture.values())


def test_bundled_counts_are_the_split_s():
    lengths = json.loads(BUNDLED.read_text())["images"]
    assert len(lengths) == 1500
    assert sum(map(len, lengths)) == 10834


def test_the_same_workload_is_drawn_again_and_has_the_lengths_of_the_file(tmp_path):
    file = tmp_path / "lengths.json"
    file.write_text(json.dumps({"name": "mine", "images": [[1, 2], [3], [4, 5, 6]]}))
    everything = read_workload(file, 3)
    assert everything == read_workload(file, 3)
    assert [[len(text.split()) for text in asked] for asked in everything.images] == [[1, 2], [3], [4, 5, 6]]
    assert (everything.source, everything.expressions) == ("mine", 6)
    assert read_workload(None, 50).images != read_workload(None, 50, seed=1).images


def test_annotations_are_asked_as_they_are(tmp_path):
    file = tmp_path / "val.json"
    row = {"bbox": [1, 2, 30, 40], "width": 100, "height": 80}
    names = [("COCO_1_0", "red cup"), ("COCO_2_0", "dog"), ("COCO_1_1", "blue cup")]
    file.write_text(json.dumps([row | {"img_id": name, "sents": text} for name, text in names]))
    assert read_workload(file, 2).images == (("red cup", "blue cup"), ("dog",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "lengths.json"),
        ('{"images": 3}', "'images' is a list"),
        ('{"images": [[1], []]}', r"images\[1\]"),
        ('{"images": [[0]]}', r"images\[0\]"),
        ('{"images": [[true]]}', r"images\[0\]"),
        ('{"images": [[1]]}', "has 1 pictures"),
        ('[{"img_id": "a_1"}]', "sents"),
    ],
)
def test_a_malformed_workload_is_refused_in_one_line(tmp_path, content, said):
    file = tmp_path / "lengths.json"
    file.write_text(content)
    with pytest.raises(HarnessError, match=said) as error:
        read_workload(file, 2)
    assert "\n" not in str(error.value)


def test_pictures_differ_and_repeat():
    first, other = picture(0), picture(1)
    assert first.size == (640, 480)
    assert first.tobytes() == picture(0).tobytes() != other.tobytes()


@pytest.mark.parametrize(("total", "wanted"), [(7, 3), (100, 10), (5, 5), (5, 9), (9, None), (1000, 999)])
def test_evenly_drawn_places_are_distinct_and_even(total, wanted):
    places = evenly(total, wanted)
    assert len(set(places)) == len(places) == min(total, wanted or total)
    assert all(0 <= place < total for place in places)
    gaps = {b - a for a, b in itertools.pairwise(places)}
    assert max(gaps) - min(gaps) <= 1


# ------------------------------------------------------------------ what is fixed
def test_every_picture_keeps_the_best_proposals(nano):
    scene = nano.perceive(picture(0))
    count = fix_regions(nano)
    assert count == len(scene.boxes) == 30
    assert torch.equal(scene.objectness, scene.proposal_scores[:count])


@pytest.mark.parametrize("new_tokens", [1, 3, 5])
def test_answers_have_exactly_the_length_asked_for(nano, new_tokens, monkeypatch):
    weight = nano.model.llm.lm_head.weight.clone()
    scene = nano.perceive(picture(0))
    queries = [[Query("ground_one", text) for text in ASKED.images[0]]]
    hidden = {}
    plain = nano.model.logits

    def keep(states, *rest):
        hidden.setdefault("first", states)
        return plain(states, *rest)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(nano.model, "logits", keep)
        nano.answer([scene], queries, 1)
        nano.model.llm.lm_head.weight[nano.processor.eos_id] = 100 * hidden["first"][0]  # a model that ends at once
    try:
        with recorded(nano) as found:
            nano.answer([scene], queries, new_tokens)
        assert found[0] == []
        with endless(nano), recorded(nano) as found:
            nano.answer([scene], queries, new_tokens)
        assert [len(ids) for ids in found] == [new_tokens] * 2
    finally:
        nano.model.llm.lm_head.weight.copy_(weight)
    assert "logits" not in nano.model.__dict__
    assert "_decode" not in nano.__dict__


# ------------------------------------------------------------------ the reference way
def test_both_ways_answer_alike(nano):
    pictures = [picture(0), picture(1)]
    with endless(nano), recorded(nano) as found:
        nano.answer(nano.perceive_batch(pictures), [[Query("ground_one", t) for t in a] for a in ASKED.images], 4)
        alone = [answer_alone(nano, pictures[i], text, 4) for i, asked in enumerate(ASKED.images) for text in asked]
    assert [answer.ids for answer in alone] == found
    assert all(a.image_seconds + a.question_seconds == pytest.approx(a.perception + a.prompt) for a in alone)


# ------------------------------------------------------------------ what is counted
def test_a_stage_within_another_counts_alone():
    marks = iter([0, 1, 4, 10, 20, 23])
    stages = Stages(lambda: next(marks))
    with stages("outer"), stages("inner"):
        pass
    with stages("inner"):
        pass
    assert stages.totals() == {"outer": 7, "inner": 6}


def test_counted_flops_are_those_of_the_layers(nano):
    """The image encoder's products and attention, and the prefix's in the language model, by hand."""
    groma = nano
    counted = count_flops(groma, lambda: groma.answer(groma.perceive_batch([picture(0)]), [[Query("ground_one")]], 3))
    vision, llm = groma.config.vision_config, groma.config.llm_config
    tokens, width = groma.config.grid_size**2, vision.hidden_size
    patches = 2 * tokens * width * 3 * vision.patch_size**2
    layer = 2 * (tokens + 1) * width * width * (4 + 2 * vision.mlp_ratio) + 4 * (tokens + 1) ** 2 * width
    merged, side = tokens // 4, llm.hidden_size
    projector = 2 * merged * (4 * width * side + side * side)
    assert counted["image encoder"] == patches + vision.num_hidden_layers * layer + projector
    length = len(groma.processor.prefix_ids(merged, 30))
    block = 2 * length * (4 * side * side + 3 * side * llm.intermediate_size) + 4 * length**2 * side
    feedback = 2 * length * side * side
    keys = 2 * 30 * side * groma.config.pointer_dim * 2
    assert counted["prefix prefill"] == llm.num_hidden_layers * block + feedback + keys


# ------------------------------------------------------------------ the command
def test_the_command_prints_and_writes_consistent_figures(capsys, tmp_path):
    file = tmp_path / "speed.json"
    options = ("--preset", "nano", "--images", 3, "--batch-size", 2, "--device", "cpu", "--json", file)
    code, out, _ = run(capsys, *options, "--reference", "--reference-expressions", 4)
    assert code == 0
    assert "4 of 4" in out
    assert "4 expressions evenly drawn" in out
    found = json.loads(file.read_text())
    work, other = found["workload"], found["reference"]
    assert work["images"] == 3
    assert work["regions_per_image"] == 30
    assert work["new_tokens_per_expression"] == 3
    assert found["expressions_per_second"] == pytest.approx(work["expressions"] / found["seconds"])
    assert sum(stage["seconds"] for stage in found["stages"].values()) == pytest.approx(found["seconds"])
    assert all(stage["seconds"] > 0 for stage in found["stages"].values())
    both = other["seconds_per_image"] + other["seconds_per_question"]
    assert found["ratio"] == pytest.approx(found["expressions_per_second"] * both)
    ideal = work["expressions"] * both / (work["images"] * other["seconds_per_image"])
    assert found["ideal_ratio"] == pytest.approx(ideal)
    assert found["share_of_ideal"] == pytest.approx(found["ratio"] / ideal)
    assert {"date", "hardware", "versions", "command"} <= found.keys()
    assert list(tmp_path.iterdir()) == [file]
    for name, stage in found["stages"].items():
        below_half = 0 < stage["seconds_at_matmul_rate"] < stage["seconds"] / 2
        assert ("below_half_because" in stage) == below_half
        assert (f"{name}: below half of what FLOPs allow" in out) == below_half


def test_records_in_a_folder_are_named_for_what_was_measured_and_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, *_ = run(capsys, "--preset", "nano", "--images", 1, "--device", "cpu", "--json", tmp_path)
    assert code == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"nano-cpu-float32-\d{4}-\d{2}-\d{2}\.json", file.name)
    out = tmp_path / "speed.png"
    script = Path(__file__).parents[2] / "bench" / "speed_plot.py"
    done = subprocess.run([sys.executable, script, file, "--out", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_difference_of_answers_is_an_exit_code(capsys, monkeypatch):
    from dataclasses import replace

    from groma_eval.speed import bench

    def another(*arguments):
        return replace(answer_alone(*arguments), ids=[0, 0, 0])

    monkeypatch.setattr(bench, "answer_alone", another)
    code, out, _ = run(capsys, "--preset", "nano", "--images", 1, "--device", "cpu", "--reference")
    assert code == 1
    assert "0 of 4" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--images", 0), "above 0"),
        (("--images", 1501), "has 1500 pictures"),
        (("--preset", "8b"), "invalid choice"),
        (("--preset", "nano", "--model", "groma-tiny"), "not allowed with"),
        (("--reference-expressions", 3), "give both"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--preset", "nano", "--device", "toaster"), "toaster"),
        (("--workload", "absent.json"), "absent.json"),
        (("--json", "absent/speed.json"), "no such folder"),
    ],
)
def test_a_bad_call_is_one_line(capsys, options, said):
    try:
        code = main(["speed", *map(str, options)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not out


def test_it_runs_without_the_harness_s_data_packages(tmp_path):
    script = """
import sys
for name in ("pandas", "pycocotools", "lvis", "datasets", "tabulate", "faster_coco_eval", "matplotlib", "pyarrow"):
    sys.modules[name] = None
from groma_eval.cli.evaluate import main
sys.exit(main(["speed", "--preset", "nano", "--images", "1", "--device", "cpu", "--reference"]))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "share of ideal" in done.stdout
