"""The report's data: text that stays text, figures by their plain definitions, joins, pictures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_runs import HEIGHT, WIDTH, answers_of, picture, rec_run, write_run

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.report.compare import differences_of, intervals_of
from groma_eval.report.escape import clean, script, tag, visible
from groma_eval.report.gallery import _pieces, build_gallery
from groma_eval.report.load import read_runs
from groma_eval.report.pictures import make_copies
from groma_eval.report.series import BINS, THRESHOLDS, calibration, recall_curve, series_of
from groma_eval.report.verdicts import area_bits, judge
from groma_eval.stats import clustered_interval

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)> ' \" \\ & \u2028\u2029 `${1}` <!-- ]]>"


# ---- escaping ----


def parsed(text: str, name: str):
    """What the page reads from a data file, by JavaScript's rules for a string in single quotes."""
    body = re.fullmatch(rf"Groma\.put\('{name}','((?:[^'\\\n\r\u2028\u2029]|\\.)*)'\);\n", text).group(1)
    return json.loads(re.sub(r"\\(x[0-9a-f]{2}|.)", lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 3 else m[1], body))


@given(st.recursive(st.text() | st.integers(-5, 5) | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_a_data_file_says_what_was_put_and_holds_no_markup(content):
    written = script("b0-list", content)
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert parsed(written, "b0-list") == json.loads(json.dumps(content))


def test_nasty_text_in_a_data_file():
    written = script("x", {"__proto__": NASTY})
    assert parsed(written, "x") == {"__proto__": NASTY}
    assert "script" not in written.replace("script\\x3e", "").replace("/script", "")
    with pytest.raises(ValueError, match="only a-z"):
        script("x'y", 1)


@given(st.text())
def test_visible_text_has_nothing_hidden_and_keeps_the_rest(text):
    import unicodedata

    shown = visible(text)
    assert visible(shown) == shown
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert all(unicodedata.category(c) not in hidden or c in "\n\t\u200c\u200d" for c in shown)
    if all(unicodedata.category(c) not in hidden for c in text):
        assert shown == text


def test_visible_names_what_it_shows():
    assert visible("a\u202eb\x1b[31m\ud800") == "a\\u{202e}b\\u{001b}[31m\\u{d800}"
    assert visible("👩\u200d🔬 naïve\n") == "👩\u200d🔬 naïve\n"


def test_clean_leaves_no_number_that_json_lacks():
    assert clean({"a": [float("nan"), float("inf"), 1.5], "b\x00": ("x",)}) == {
        "a": [None, None, 1.5],
        "b\\u{0000}": ["x"],
    }


@given(st.text())
def test_elements_escape_children_and_attributes(text):
    from html.parser import HTMLParser

    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag_, attrs):
            seen.append((tag_, dict(attrs)))

        def handle_data(self, data):
            seen.append(data)

    Reader().feed(tag("p", text, title=text))
    assert seen[0] == ("p", {"title": visible(text)})
    assert [item for item in seen if isinstance(item, tuple)] == seen[:1]
    assert "".join(item for item in seen[1:]) == visible(text)


# ---- figures ----


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    overlap = w * h
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rec")
    return rec_run(folder / "run", folder / "pictures", images=30, each=4)


def test_rec_series_by_the_plain_definitions(rec):
    answers = answers_of(rec, "toy-rec")
    series = series_of("rec", answers, {})
    rows = list(answers.rows.values())
    ious = [plain_iou(r["boxes"][0], r["target"]["boxes"][0]) if r["boxes"] else 0.0 for r in rows]
    assert series["iou"]["x"] == pytest.approx([0.3 + 0.05 * i for i in range(14)])
    for t, y in zip(series["iou"]["x"], series["iou"]["y"]):
        assert y == pytest.approx(sum(iou >= t for iou in ious) / len(ious))
    stored = json.loads((rec / "metrics.json").read_text())["toy-rec"]
    for t in (0.3, 0.5, 0.7, 0.9):
        place = list(THRESHOLDS).index(t)
        assert 100 * series["iou"]["y"][place] == pytest.approx(stored["metrics"][f"acc@{t}"], abs=1e-4)
    at = list(THRESHOLDS).index(0.5)
    low, high = stored["intervals"]["acc@0.5"]  # of ten times as many draws
    assert [100 * series["iou"][k][at] for k in ("lo", "hi")] == pytest.approx([low, high], abs=0.15 * (high - low))
    # By area: every question falls in one bin, and the bins' hits add up to the whole.
    area = series["area"]
    hits = sum(n * y for n, y in zip(area["n"], area["y"]) if n)
    assert sum(area["n"]) == len(rows)
    assert hits == pytest.approx(sum(iou >= 0.5 for iou in ious))
    target = rows[0]["target"]["boxes"][0]
    side = ((target[2] - target[0]) * WIDTH * (target[3] - target[1]) * HEIGHT) ** 0.5
    names = ["< 16²", "16²–32²", "32²–64²", "64²–96²", "96²–192²", "192²–384²", "≥ 384²"]
    assert area["x"] == names
    assert area["n"][sum(side >= edge for edge in (16, 32, 64, 96, 192, 384))] > 0
    groups = series["groups"]
    assert groups["x"] == ["attribute", "location"]
    for name, y, n in zip(groups["x"], groups["y"], groups["n"]):
        mine = [iou >= 0.5 for iou, r in zip(ious, rows) if r["group"] == name]
        assert (y, n) == (pytest.approx(np.mean(mine)), len(mine))


def test_a_strict_rule_and_the_most_confident_box(tmp_path):
    box, half = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5)  # IoU exactly 1/2
    sample = Sample("i", None, 10, 10, (Question("q", "ground_one", text="x", target={"boxes": [box]}),))
    answer = ImageAnswer("i", [Prediction("q", boxes=[(0.0, 0.0, 0.1, 0.1), half], confidences=[0.1, 0.9])])
    for rules, hit in ({"answer": "most_confident"}, 1.0), ({"answer": "most_confident", "iou": ">"}, 0.0), ({}, 0.0):
        run = write_run(tmp_path / str(len(rules)) / str(hit), {"b": ("rec", [sample], [answer])}, rules=rules)
        series = series_of("rec", answers_of(run, "b"), rules)
        assert series["iou"]["y"][list(THRESHOLDS).index(0.5)] == hit


def test_proposal_recall_by_the_plain_definition(rec):
    answers = answers_of(rec, "toy-rec")
    curve = recall_curve(answers)
    assert curve["x"] == [1, 2, 3, 5, 8]  # three moved boxes and five others
    for iou, ys in ((0.5, curve["y"]), (0.75, curve["y75"])):
        for k, y in zip(curve["x"], ys):
            found = [
                any(
                    plain_iou(p, row["target"]["boxes"][0]) >= iou
                    for p in answers.images[row["image_id"]]["proposals"][:k]
                )
                for row in answers.rows.values()
            ]
            assert y == pytest.approx(np.mean(found))


def test_grounding_recall_agrees_with_ar_micro(tmp_path):
    rng = np.random.default_rng(3)
    samples, answers = [], []
    for i in range(20):
        boxes = [(x, y, x + 0.3, y + 0.3) for x, y in rng.uniform(0, 0.7, (3, 2)).tolist()]
        moved = [tuple(v + float(rng.normal(0, 0.03)) for v in box) for box in boxes]
        target = {"boxes": boxes, "category": i % 4, "frequency": "rcf"[i % 3], "exhaustive": True}
        samples.append(
            Sample(
                str(i),
                None,
                100,
                100,
                (Question(f"q{i}", "ground_all", text=f"cat {i % 4}", target=target, group=target["frequency"]),),
            )
        )
        answers.append(
            ImageAnswer(
                str(i),
                [
                    Prediction(
                        f"q{i}", boxes=[*moved, (0.0, 0.0, 0.1, 0.1)], confidences=[*rng.uniform(size=3).tolist(), 0.99]
                    )
                ],
            )
        )
    run = write_run(tmp_path / "run", {"g": ("grounding", samples, answers)})
    series = series_of("grounding", answers_of(run, "g"), {})
    metrics = json.loads((run / "metrics.json").read_text())["g"]["metrics"]
    from_half = [y for t, y in zip(THRESHOLDS, series["iou"]["y"]) if t >= 0.5]
    assert 100 * np.mean(from_half) == pytest.approx(metrics["ar_micro"], abs=1e-4)
    # Every answered box counts once; the share of hits is the precision.
    found = series["calibration"]
    assert sum(found["n"]) == 80
    hits = sum(n * y for n, y in zip(found["n"], found["y"]) if n)
    assert 100 * hits / 80 == pytest.approx(metrics["precision@0.5"], abs=1e-4)
    gallery = build_gallery("g", {0: (read_runs([run])[0], answers_of(run, "g"))}, {})
    assert [tuple(t) for t in gallery.listing["tagNames"]][:2] == [("frequency", "rare"), ("category", "cat 0")]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_by_the_plain_definition(pairs):
    found = calibration(pairs, "c", "s")
    ece = 0.0
    for k in range(BINS):
        mine = [(c, h) for c, h in pairs if (int(c * BINS) == k or (k == BINS - 1 and c == 1.0))]
        assert found["n"][k] == len(mine)
        if mine:
            mean, right = sum(c for c, _ in mine) / len(mine), sum(h for _, h in mine) / len(mine)
            assert (found["x"][k], found["y"][k]) == (pytest.approx(mean), pytest.approx(right))
            ece += len(mine) / len(pairs) * abs(mean - right)
    assert found["ece"] == pytest.approx(ece, abs=1e-9)


def test_no_calibration_of_what_is_no_probability():
    assert calibration([(1.5, True)], "c", "s") is None
    assert calibration([], "c", "s") is None


def test_intervals_stored_and_measured(rec):
    run = read_runs([rec])[0]
    stored = run.metrics["toy-rec"]
    found = intervals_of(run, "toy-rec")
    assert found["acc@0.5"] == stored["intervals"]["acc@0.5"]
    for metric in stored["metrics"]:
        low, high = found[metric]
        assert low <= stored["metrics"][metric] <= high
    # One that is not stored: near what the plain bootstrap of the same scores gives.
    rows = answers_of(rec, "toy-rec").rows.values()
    low, high = clustered_interval([100 * r["scores"]["acc@0.7"] for r in rows], [r["image_id"] for r in rows])
    assert found["acc@0.7"] == pytest.approx([low, high], abs=0.15 * (high - low))
    # One that does not hold its figure is that of another statistic.
    stored["intervals"]["miou"] = [0.0, 1.0]
    assert intervals_of(run, "toy-rec")["miou"] != [0.0, 1.0]


def test_differences_are_second_less_first_on_the_same_questions(rec, tmp_path):
    folder = rec_run(tmp_path / "other", tmp_path / "pictures", images=30, each=4, seed=5, shift=0.01)
    a, b = read_runs([rec, folder])
    found = differences_of(a, b, "toy-rec")["acc@0.7"]
    means = [run.metrics["toy-rec"]["metrics"]["acc@0.7"] for run in (a, b)]
    assert found["delta"] == pytest.approx(means[1] - means[0], abs=1e-5)
    assert 0 < found["lo"] <= found["delta"] <= found["hi"]
    assert found["p"] < 0.01
    fewer = rec_run(tmp_path / "fewer", tmp_path / "pictures", images=29, each=4)
    assert differences_of(a, read_runs([fewer])[0], "toy-rec") == {}


# ---- verdicts and the gallery ----


@pytest.mark.parametrize(
    ("task", "scores", "value", "right", "miss"),
    [
        ("rec", {"iou": 0.6, "acc@0.5": 1.0, "not_proposed": 0.0, "not_selected": 0.0}, 0.6, True, 0),
        ("rec", {"iou": 0.2, "acc@0.5": 0.0, "not_proposed": 1.0, "not_selected": 0.0}, 0.2, False, 1),
        ("grounding", {"tp": 2, "n_pred": 2, "n_gt": 3, "not_proposed": 1, "not_selected": 1}, 0.8, False, 3),
        ("grounding", {"tp": 2, "n_pred": 2, "n_gt": 2, "not_selected": 0}, 1.0, True, 0),
        ("caption", {"rouge_l": 80.0, "attr/a": 1.0, "attr/b": 0.0}, 0.5, False, 0),
        ("caption", {"rouge_l": 80.0, "phrase_tp": 2, "phrase_n_pred": 2, "phrase_n_gt": 2}, 1.0, True, 0),
        ("caption", {"rouge_l": 80.0}, 0.8, None, 0),
        ("vqa", {"accuracy": 0.5}, 0.5, False, 0),
        ("vqa", {"words": 9, "reference": 8.0, "model": 6.0}, 0.6, None, 0),
        ("vqa", {"words": 9}, None, None, 0),
        ("proposals", {"n_gt": 4, "n_proposals": 9, "covered@0.5": 3}, 0.75, False, 0),
        ("another", {"x": 1.0}, None, None, 0),
    ],
)
def test_verdicts(task, scores, value, right, miss):
    verdict = judge(task, {"scores": scores})
    assert (verdict.value, verdict.right, verdict.miss) == (pytest.approx(value), right, miss)


def test_area_bits_are_cocos():
    def bits(*sides):
        return area_bits({"target": {"boxes": [(0, 0, s / 100, s / 100) for s in sides]}, "box": None}, 100, 100)

    assert [bits(31.9), bits(32.0), bits(95.9), bits(96.0), bits(10, 100)] == [1, 2, 2, 4, 5]
    assert area_bits({"target": {}, "box": [0, 0, 0.1, 0.1]}, 100, 100) == 1
    assert area_bits({"target": {"boxes": [[0, 0, 1, 1]], "areas": [5.0]}, "box": None}, 100, 100) == 1


@given(st.text("ab <", max_size=20), st.lists(st.text("ab <", max_size=3), max_size=4))
def test_pieces_spell_the_text(text, phrases):
    boxes = [(0.1 * i, 0.0, 1.0, 1.0) for i in range(len(phrases))]
    given_ = [{"phrase": p, "boxes": [list(b)]} for p, b in zip(phrases, boxes)]
    pieces = _pieces(text, given_, boxes)
    assert "".join(piece[0] for piece in pieces) == text
    tied = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2]
    assert all(phrases[numbers[0]] == piece for piece, numbers in tied)
    assert [n for _, (n,) in tied] == sorted(n for _, (n,) in tied)


def test_repeated_phrases_go_to_their_own_places():
    boxes = [(0, 0, 0.1, 0.1), (0, 0, 0.2, 0.2)]
    phrases = [{"phrase": "a cup", "boxes": [boxes[0]]}, {"phrase": "a cup", "boxes": [boxes[1], boxes[0]]}]
    assert _pieces("a cup and a cup.", phrases, boxes) == [["a cup", [0]], [" and "], ["a cup", [1, 0]], ["."]]


def test_runs_are_joined_by_question_and_what_differs_is_kept_apart(rec, tmp_path):
    other = rec_run(tmp_path / "other", tmp_path / "pictures", images=30, each=4, seed=5)
    file = other / "toy-rec/samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["text"] = "another question"
    rows[1]["target"]["boxes"][0][0] += 0.01
    del rows[2]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = read_runs([rec, other])
    gallery = build_gallery("toy-rec", {n: (run, answers_of(run.path, "toy-rec")) for n, run in enumerate(runs)}, {})
    listing = gallery.listing
    assert gallery.differing == {0: 0, 1: 2}
    assert len(listing["ids"]) == 120
    assert listing["runs"]["1"]["status"][:4] == [None, None, None, 0]
    assert "1" not in gallery.details[0][0]["runs"]
    assert [len(part) for part in gallery.details] == [64, 56]
    first = answers_of(rec, "toy-rec").rows[listing["ids"][0]]
    assert listing["truth"][0] == [round(v * 10000) for v in first["target"]["boxes"][0]]
    assert listing["runs"]["0"]["status"].count(1) == 1  # the unparsed one
    flat, scores, count = gallery.proposals[0][0][0]
    assert (len(flat), len(scores), count) == (32, 8, 8)


# ---- pictures ----


def test_copies_are_shared_by_content_and_absent_ones_are_none(tmp_path):
    one, same = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 1)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "wide.png")
    paths = [one, same, tmp_path / "broken.jpg", tmp_path / "gone.png", tmp_path / "folder.png", tmp_path / "wide.png"]
    asked = {str(p): ("same" if p in (one, same) else None, WIDTH, HEIGHT) for p in paths}
    numbers = make_copies(asked, tmp_path / "out", progress=False)
    assert list(numbers.values()) == [0, 0, None, None, None, 4]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000.webp", "000004.webp"]
    assert Image.open(tmp_path / "out/000004.webp").size == (640, 320)
    assert Image.open(tmp_path / "out/000000.webp").size == (WIDTH, HEIGHT)


def test_a_turned_photograph_is_shown_as_it_was_measured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "t.jpg", exif=exif)
    for size, shown in (((40, 20), (40, 20)), ((20, 40), (20, 40))):
        out = tmp_path / f"{size[0]}"
        make_copies({str(tmp_path / "t.jpg"): (None, *size)}, out, progress=False)
        assert Image.open(out / "000000.webp").size == shown


def test_many_pictures_get_smaller_copies(tmp_path, monkeypatch):
    from groma_eval.report import pictures

    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "n.png")
    asked = {str(tmp_path / "n.png"): (None, 900, 700)}
    monkeypatch.setattr(pictures, "BUDGET", 60_000)
    make_copies(asked, tmp_path / "out", progress=False)
    copy = tmp_path / "out/000000.webp"
    assert copy.stat().st_size <= 60_000
    assert max(Image.open(copy).size) in pictures.SIDES[1:]
