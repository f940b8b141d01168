"""The report as a whole: the command, the folder it leaves, bad input, the tables."""

from __future__ import annotations

import json
import re

import pytest
from harness_fakes import truth
from report_runs import HEIGHT, WIDTH, picture, rec_run, write_run

from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError, ImageAnswer, Prediction, Question, Sample
from groma_eval.report import write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [rec_run(folder / name, folder / "pictures", seed=seed) for name, seed in (("one", 0), ("two", 1))]


def text_of(index):
    """A page's text without its tags."""
    import html

    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", index.read_text())).split())


def test_the_command_writes_a_folder_that_names_only_its_own_files(runs, tmp_path, capsys):
    out = tmp_path / "deep/report"
    assert main(["report", *map(str, runs), "--out", str(out), "--title", "A <b>title</b>"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(rf"wrote {out}/index.html: 12 questions, 4 pictures, \d+\.\d MB; open it in a browser\n", said)
    page = (out / "index.html").read_text()
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in page
    sources = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all((out / source).is_file() for source in sources)
    assert len(sources) >= 9
    # No address of anywhere else, no inline script, style or handler.
    for file in [*out.glob("assets/*"), out / "index.html"]:
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text()), file
    assert not re.search(r"<script(?![^>]* src=)", page)
    assert not re.search(r"<[^>]* (style|on\w+)=", page)
    assert sorted(p.name for p in out.parent.iterdir()) == ["report"]  # nothing half-written beside it


def test_our_scripts_use_no_way_from_text_to_code(runs, tmp_path):
    out = write_report(runs, tmp_path / "r", progress=False).index.parent
    for file in out.glob("assets/*.js"):
        code = file.read_text()
        banned = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|\.href\s*=|srcdoc"
        )
        assert not re.search(banned, code), file


def test_tables_hold_the_stored_figures_with_their_intervals(runs, tmp_path):
    text = text_of(write_report(runs, tmp_path / "r", progress=False).index)
    for run in runs:
        stored = json.loads((run / "metrics.json").read_text())["toy-rec"]
        for name in ("acc@0.5", "miou"):
            low, high = stored["intervals"][name]
            assert f"{stored['metrics'][name]:.1f} {low:.1f} – {high:.1f}" in text
    assert "unparsed count 1 1" in text
    assert "protocol paper, card version 1" in text
    assert "its training saw none of the 4 test pictures" in text
    assert "c0ffee" * 8 in text
    assert "machine abacus" in text
    assert "groma-eval run --model toy" in text
    a, b = (json.loads((run / "metrics.json").read_text())["toy-rec"]["metrics"]["miou"] for run in runs)
    assert f"{b - a:+.1f}".replace("-", "−") in text


def test_marks_for_leaks_departures_and_what_is_not_finished(tmp_path):
    run = rec_run(
        tmp_path / "run",
        tmp_path / "pictures",
        leakage={"status": "seen", "images": 3, "of": 4},
        deviations=["limit 4"],
    )
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["benchmarks"]["later"] = {**manifest["benchmarks"]["toy-rec"], "title": "Later", "finished": False}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = text_of(write_report([run], tmp_path / "r", progress=False).index)
    assert "training saw 3 of 4 pictures" in text
    assert "departs from the card's protocol limit 4." in text
    assert "incomplete repeat its groma-eval run command to finish it." in text
    # A run that was stopped before its first benchmark was scored.
    (run / "metrics.json").unlink()
    written = write_report([run], tmp_path / "r", progress=False)
    assert written.questions == 0
    assert "incomplete" in text_of(written.index)


def test_other_protocols_and_samples_are_told(runs, tmp_path):
    other = rec_run(tmp_path / "other", tmp_path / "pictures", images=3, version=2, protocol="released")
    text = text_of(write_report([runs[0], other], tmp_path / "r", progress=False).index)
    assert "different protocols" in text
    assert "different card versions" in text
    assert "different numbers of questions" in text
    assert "unparsed count 1 1" in text


def test_pictures_that_are_gone_are_counted_and_the_report_stands(tmp_path, capsys):
    run = rec_run(tmp_path / "run", tmp_path / "pictures")
    (tmp_path / "pictures/pic_0002.png").unlink()
    assert main(["report", str(run), "--out", str(tmp_path / "r")]) == 0
    assert "1 pictures could not be read" in capsys.readouterr().err
    assert len(list((tmp_path / "r/pictures").iterdir())) == 3


def test_no_file_is_named_by_the_run(tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    path = picture(tmp_path / "pictures" / name, 1)
    sample = Sample(
        "../../up",
        path,
        WIDTH,
        HEIGHT,
        (Question("../q", "describe", text="x", box=(0, 0, 1, 1), target={"references": ["a"]}),),
    )
    answer = ImageAnswer("../../up", [truth(q, sample) for q in sample.questions])
    run = write_run(tmp_path / "run", {"b": ("caption", [sample], [answer])})
    out = write_report([run], tmp_path / "r", progress=False).index.parent
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert {f for f in files if not f.startswith("assets/")} == {
        "index.html", "data/index.js", "data/b0-list.js", "data/b0-d0.js", "pictures/000000.webp",
    }  # fmt: skip


def test_an_earlier_report_is_replaced_and_anything_else_is_left_alone(runs, tmp_path):
    out = tmp_path / "r"
    write_report(runs, out, progress=False)
    write_report(runs[:1], out, title="Second", progress=False)
    assert "<title>Second</title>" in (out / "index.html").read_text()
    assert not list(out.glob("data/*p1*"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(HarnessError, match="holds something other than a report"):
        write_report(runs, mine, progress=False)
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


def test_the_same_answers_give_the_same_bytes(runs, tmp_path):
    a, b = (write_report(runs, tmp_path / name, progress=False).index.parent for name in "ab")
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    assert all((a / f).read_bytes() == (b / f).read_bytes() for f in files)


def _break(change):
    def broken(run):
        file = run / "toy-rec/samples.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        change(rows[1])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return broken


BAD = [
    (lambda run: (run / "manifest.json").unlink(), "manifest.json: not there"),
    (lambda run: (run / "manifest.json").write_text("{"), "manifest.json: line 1"),
    (lambda run: (run / "manifest.json").write_text("{}"), "manifest.json: model must be an object"),
    (lambda run: (run / "manifest.json").write_text('{"model": {}, "benchmarks": {"../x": {}}}'), "no benchmark"),
    (lambda run: (run / "manifest.json").write_text('{"model": {}, "benchmarks": {}}'), "holds no benchmark"),
    (lambda run: (run / "metrics.json").write_text('{"toy-rec": 3}'), "metrics.json: toy-rec must be an object"),
    (lambda run: (run / "toy-rec/samples.jsonl").write_text("nonsense\n"), "samples.jsonl: line 1: not JSON"),
    (_break(lambda row: row.pop("answer")), "samples.jsonl: line 2: field 'answer' must be text"),
    (_break(lambda row: row.update(boxes=[[1, 2]])), "line 2: field 'boxes' must be a list of boxes"),
    (_break(lambda row: row.update(status="fine")), "line 2: field 'status' must be ok"),
    (_break(lambda row: row.update(image_id="other")), "is of image 'other'"),
    (_break(lambda row: row["target"].update(boxes="x")), "field 'target' must be"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_bad_runs_are_told_in_one_line_and_leave_nothing(tmp_path, capsys, damage, message):
    run = rec_run(tmp_path / "run", tmp_path / "pictures", images=2)
    damage(run)
    assert main(["report", str(run), "--out", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "run"]


def test_bad_places_are_told(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out, message in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file/below", "cannot be written"),
        (runs[0] / "report", "inside or around a run"),
    ):
        assert main(["report", str(runs[0]), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "r")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    with pytest.raises(HarnessError, match="holds 1 to"):
        write_report([], tmp_path / "r")


def test_a_judged_benchmark_that_waits_for_its_judge(tmp_path):
    question = Question("q", "converse", text="why?", target={"answer": "so", "category": "conv"})
    sample = Sample("i", None, 10, 10, (question,))
    answer = ImageAnswer("i", [Prediction("q", raw="because", text="because")])
    run = write_run(tmp_path / "run", {"b": ("vqa", [sample], [answer])}, rules={"match": "judge"})
    text = text_of(write_report([run], tmp_path / "r", progress=False).index)
    assert "1 not judged" in text
