"""Judging end to end, over HTTP: what is sent, what comes of it, and that nothing is asked twice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness_fakes import Fake
from judge_stub import CATEGORIES, KEY, Stub, answers, fair, make_run, scores, write_bench

from groma_eval import evaluate
from groma_eval.core import HarnessError, Prediction
from groma_eval.judge import JudgeSettings, judge_run
from groma_eval.judge.journal import Journal
from groma_eval.judge.judging import cost_of, import_reviews
from groma_eval.judge.reviews import read_reviews, summarise
from groma_eval.run import rescore
from groma_eval.tables import build_table

NAMES = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_bench(tmp_path)
    return tmp_path


@pytest.fixture
def serve():
    stubs = []

    def start(reply=None) -> Stub:
        stubs.append(Stub(reply))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()


def settings(stub: Stub, **more) -> JudgeSettings:
    return JudgeSettings(base_url=stub.url, **{"backoff_s": 0.01, "timeout_s": 5.0, **more})


def judge(folder: Path, stub: Stub, **more):
    return judge_run(folder, settings(stub, **more), progress=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["benchmarks"]["bench"]


def files(folder: Path) -> dict[str, bytes]:
    names = ("metrics.json", "manifest.json", "bench/reviews.jsonl", "bench/samples.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def number(content: str) -> int:
    """The question's id, from its reference answer."""
    return int(content.split("[Assistant 1]\nreference ")[1].split("\n")[0])


def test_an_unjudged_run_has_answers_and_no_score(root):
    folder = make_run(root)
    entry = rescore(folder)["bench"]
    assert entry["metrics"] == {
        "score/overall": None,
        "score/conversation": None,
        "score/detail": None,
        "score/reasoning": None,
        "answer_words": 2,
    }
    assert (entry["counts"]["ok"], entry["counts"]["judged"], entry["counts"]["unjudged"]) == (12, 0, 12)
    assert "judge" not in manifest(folder)


def test_scores_are_ratios_of_means_over_all_questions(root, serve):
    stub, folder = serve(), make_run(root)
    summary = judge(folder, stub)
    assert (summary.asked, summary.kept, summary.complete) == (12, 0, True)
    assert (summary.prompt_tokens, summary.completion_tokens) == (1200, 120)
    pairs = {number(content): scores(content) for content in stub.asked}
    metrics = summary.metrics["bench"]["metrics"]
    groups = {"overall": range(12)} | {NAMES[c]: range(i, 12, 3) for i, c in enumerate(CATEGORIES)}
    for name, ids in groups.items():
        wanted = 100 * sum(pairs[i][1] for i in ids) / sum(pairs[i][0] for i in ids)
        assert metrics[f"score/{name}"] == pytest.approx(wanted, abs=1e-6), name
        low, high = summary.metrics["bench"]["intervals"][f"score/{name}"]
        assert low <= metrics[f"score/{name}"] <= high
    assert metrics["reference_mean"] == pytest.approx(10 * sum(p[0] for p in pairs.values()) / 12, abs=1e-6)
    assert metrics["model_mean"] == pytest.approx(10 * sum(p[1] for p in pairs.values()) / 12, abs=1e-6)
    assert summary.metrics["bench"]["counts"]["judged"] == 12
    stored = lines(folder / "bench/samples.jsonl")
    assert stored[4]["scores"] == {"words": 2, "reference": pairs[4][0], "model": pairs[4][1]}
    assert manifest(folder)["judge"] == {"model": "gpt-4-0613", "temperature": 0.2, "max_tokens": 1024}
    assert manifest(folder)["deviations"] == []
    # The run's reviews are a file in LLaVA's form.
    found = {line.category: line for line in summarise(read_reviews(folder / "bench/reviews.jsonl"))}
    assert found["all"].score == pytest.approx(metrics["score/overall"], abs=0.06)
    assert found["conv"].score == pytest.approx(metrics["score/conversation"], abs=0.06)


def test_what_is_sent(root, serve):
    stub, folder = serve(), make_run(root)
    judge(folder, stub)
    assert stub.keys == {f"Bearer {KEY}"}
    assert stub.paths == {"/v1/chat/completions"}
    (body,) = (body for body in stub.bodies if number(body["messages"][-1]["content"]) == 4)
    assert body == {
        "model": "gpt-4-0613",
        "temperature": 0.2,
        "max_tokens": 1024,
        "messages": [
            {
                "role": "system",
                "content": "You are a helpful and precise assistant for checking the quality of the answer.",
            },
            {
                "role": "user",
                "content": "[Context]\npicture 1\nseen\n\ncup: [0.1, 0.25, 0.5, 0.4]\n\n"
                "[Question]\nWhat about detail in 1?\n\n"
                "[Assistant 1]\nreference 4\n\n[End of Assistant 1]\n\n"
                "[Assistant 2]\nanswer 4\n\n[End of Assistant 2]\n\n"
                "[System]\nJudge detail.\nTwo scores, please.\n\n",
            },
        ],
    }


def test_the_key_is_kept_nowhere(root, serve):
    stub, folder = serve(), make_run(root)
    judge(folder, stub)
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_scoring_or_repeating_the_run_keeps_the_judged_numbers(root, serve):
    stub, folder = serve(), make_run(root)
    judge(folder, stub)
    before = files(folder)
    rescore(folder)
    assert files(folder) == before
    model = Fake(answers)
    evaluate(model, root / "card.yaml", out=folder, data_root=root, progress=False)
    assert model.asked == []
    after = files(folder)
    for name in ("metrics.json", "bench/reviews.jsonl", "bench/samples.jsonl"):
        assert after[name] == before[name]
    assert manifest(folder)["judge"]["model"] == "gpt-4-0613"
    again = judge(folder, stub)
    assert (again.asked, again.kept) == (0, 12)
    assert max(stub.asked.values()) == 1
    assert files(folder)["bench/reviews.jsonl"] == before["bench/reviews.jsonl"]


FLAKY = [
    (429, {"Retry-After": "0"}, '{"error": {"message": "slow down"}}'),
    (500, {}, "oops"),
    (503, {"Retry-After": "soon"}, ""),
    (200, {}, "<html>not JSON</html>"),
    (200, {}, '{"choices": []}'),
    (200, {}, '{"choices": [{"message": {"content": 7}}]}'),
    (200, {}, "[" * 100_000),
    (200, {"Content-Length": 999}, "short"),
    4.0,  # silence, longer than the client waits
    0,  # the connection is closed without an answer
    b"this is no HTTP\r\n\r\n",
]


def test_a_bad_connection_changes_nothing_but_the_number_of_requests(root, serve):
    steady, clean = serve(), make_run(root, out="clean")
    judge(clean, steady)

    def moody(content: str, times: int):
        troubles = (number(content), number(content) + 6)  # two in a row, each trouble to some question
        return FLAKY[troubles[times] % len(FLAKY)] if times < 2 else fair(content)

    stub, folder = serve(moody), make_run(root)
    summary = judge(folder, stub, timeout_s=1.5, concurrency=12)
    assert summary.complete
    assert set(stub.asked.values()) == {3}
    assert set(stub.reviewed.values()) == {1}
    for name in ("metrics.json", "bench/reviews.jsonl", "bench/samples.jsonl"):
        assert files(folder)[name] == files(clean)[name]


@pytest.mark.parametrize(("asked", "backoff", "least", "most"), [("0", 60.0, 0.0, 10.0), ("0.4", 0.0, 0.4, 10.0)])
def test_the_endpoint_says_how_long_to_wait(root, serve, asked, backoff, least, most):
    stub = serve(lambda content, times: fair(content) if times else (429, {"Retry-After": asked}, "{}"))
    folder = make_run(root)
    start = time.monotonic()
    assert judge(folder, stub, backoff_s=backoff, concurrency=12).complete
    assert least <= time.monotonic() - start < most


def test_concurrency_changes_nothing(root, serve):
    found = []
    for threads in (1, 8):
        stub = serve(lambda content, times: (time.sleep(0.03), fair(content))[1])
        folder = make_run(root, out=f"run{threads}")
        judge(folder, stub, concurrency=threads)
        assert (stub.most_at_once > 1) == (threads > 1)
        assert stub.most_at_once <= threads
        found.append({name: content for name, content in files(folder).items() if name != "manifest.json"})
    assert found[0] == found[1]


def test_an_unreadable_review_is_asked_for_again(root, serve):
    stub = serve(lambda content, times: fair(content) if times else "Both did well.\n8 9")
    folder = make_run(root)
    summary = judge(folder, stub)
    assert (summary.complete, summary.asked) == (True, 24)
    assert summary.metrics["bench"]["counts"]["excluded"] == 0


def test_what_stays_unreadable_is_left_out_and_marked(root, serve):
    stub = serve(lambda content, times: "No scores." if number(content) in (3, 7) else fair(content))
    folder = make_run(root)
    summary = judge(folder, stub, asks=2)
    assert (summary.complete, summary.excluded, summary.asked) == (False, {"bench": ["3", "7"]}, 14)
    pairs = [scores(c) for c in stub.asked if number(c) not in (3, 7)]
    wanted = 100 * sum(p[1] for p in pairs) / sum(p[0] for p in pairs)
    assert summary.metrics["bench"]["metrics"]["score/overall"] == pytest.approx(wanted, abs=1e-6)
    counts = summary.metrics["bench"]["counts"]
    assert (counts["judged"], counts["excluded"], counts["unjudged"]) == (10, 2, 0)
    assert manifest(folder)["deviations"] == ["incomplete: 2 of 12 questions have no usable review"]
    assert [r["tuple"] for r in lines(folder / "bench/reviews.jsonl") if r["question_id"] == "7"] == [[-1, -1]]
    judge(folder, stub, asks=2)  # asked often enough
    assert stub.asked.total() == 14
    stub.reply = lambda content, times: fair(content)
    assert judge(folder, stub, asks=3).asked == 2
    assert manifest(folder)["deviations"] == []


def test_nothing_readable_is_no_score(root, serve):
    folder = make_run(root)
    summary = judge(folder, serve(lambda content, times: ""), asks=1)
    assert summary.metrics["bench"]["metrics"]["score/overall"] is None
    assert "reference_mean" not in summary.metrics["bench"]["metrics"]
    assert summary.metrics["bench"]["counts"]["excluded"] == 12


def test_a_request_refused_for_its_content_leaves_the_others_standing(root, serve):
    refusal = (400, {}, '{"error": {"message": "flagged", "code": "content_filter"}}')
    stub = serve(lambda content, times: refusal if number(content) in (0, 1, 2) else fair(content))
    folder = make_run(root)
    summary = judge(folder, stub, concurrency=1)
    assert summary.excluded == {"bench": ["0", "1", "2"]}
    assert summary.failures[0].endswith("HTTP 400: flagged")
    stub.reply = lambda content, times: fair(content)
    assert judge(folder, stub).asked == 3  # a failed request is no answer
    assert manifest(folder)["deviations"] == []


def test_an_endpoint_that_is_down_ends_it(root, serve):
    stub = serve(lambda content, times: fair(content) if number(content) < 2 else (500, {}, ""))
    folder = make_run(root)
    with pytest.raises(HarnessError, match=r"HTTP 500 \(2 tries\); what was answered is kept") as error:
        judge(folder, stub, retries=1, concurrency=1)
    assert "\n" not in str(error.value)
    assert 2 + 2 * 5 <= stub.asked.total() <= 2 + 2 * 6  # the thread may have begun another
    assert not (folder / "bench/reviews.jsonl").exists()
    stub.reply = lambda content, times: fair(content)
    assert judge(folder, stub).asked == 10


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ((401, {}, '{"error": {"message": "Incorrect API key provided: KEY"}}'), "refuses the key"),
        ((403, {}, "{}"), "refuses the key"),
        ((404, {}, '{"error": {"message": "The model does not exist"}}'), "no such address or model"),
        ((429, {}, '{"error": {"message": "pay", "code": "insufficient_quota"}}'), "no credit left"),
        ((307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, ""), "redirects"),
        ((302, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, ""), "redirects"),
    ],
)
def test_what_no_retry_can_mend_ends_it_at_once(root, serve, action, message):
    stub = serve(lambda content, times: (*action[:2], action[2].replace("KEY", KEY)))
    folder = make_run(root)
    with pytest.raises(HarnessError, match=message) as error:
        judge(folder, stub, concurrency=1)
    assert stub.asked.total() == 1
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_address_and_a_missing_key(root, serve, monkeypatch):
    folder = make_run(root)
    stub = Stub()
    stub.close()
    start = time.monotonic()
    with pytest.raises(HarnessError, match=r"connection refused.*check --base-url"):
        judge(folder, stub)
    assert time.monotonic() - start < 5
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(HarnessError, match="OPENAI_API_KEY is not set"):
        judge(folder, serve())
    monkeypatch.setenv("OTHER", "sk-a\nb")
    with pytest.raises(HarnessError, match="OTHER holds no key") as error:
        judge(folder, serve(), api_key_env="OTHER")
    assert "sk-a" not in str(error.value)
    monkeypatch.setenv("OTHER", " sk-other\n")
    stub = serve()
    assert judge(folder, stub, api_key_env="OTHER").complete
    assert stub.keys == {"Bearer sk-other"}


KILLED = """
import os, sys
from groma_eval.judge import JudgeSettings, judge_run
judge_run("run", JudgeSettings(base_url=sys.argv[1], concurrency=3, timeout_s=60), progress=False)
"""


def test_killed_and_continued_asks_nothing_twice(root, serve):
    folder = make_run(root)
    allowed, tickets = 4, itertools.count(1)  # a count hands each number out once, whichever thread asks
    waiting = []

    def reply(content: str, times: int):
        if next(tickets) <= allowed:
            return fair(content)
        waiting.append(content)
        return 60

    stub = serve(reply)
    calls = folder / "bench/judge_calls.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for kill in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, stub.url], cwd=root, env=environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            # Each of the three threads waits for an answer that will not come.
            if len(waiting) == 3 * kill and calls.read_bytes().count(b"\n") >= allowed:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert calls.read_bytes().count(b"\n") == allowed == stub.reviewed.total()
        assert not (folder / "bench/reviews.jsonl").exists()
        allowed, tickets = (8, itertools.count(5)) if kill == 1 else (100, itertools.count(1))
    with calls.open("ab") as file:
        file.write(b'{"key": "cut off whi')  # as a kill while writing leaves it
    summary = judge(folder, stub)
    assert (summary.asked, summary.kept) == (4, 8)
    assert judge(folder, stub).kept == 12
    assert len(stub.reviewed) == 12
    assert set(stub.reviewed.values()) == {1}
    clean = make_run(root, out="clean")
    judge(clean, serve())
    assert files(folder)["bench/reviews.jsonl"] == files(clean)["bench/reviews.jsonl"]
    assert files(folder)["metrics.json"] == files(clean)["metrics.json"]


def test_a_changed_answer_needs_a_new_review(root, serve):
    def failing(question, sample):
        if question.id == "5":
            return Prediction(question.id, status="failed", error="out of luck")
        return answers(question, sample)

    stub, folder = serve(), make_run(root, failing)
    judge(folder, stub)
    assert stub.asked[next(c for c in stub.asked if number(c) == 5)] == 1
    assert "[Assistant 2]\n\n\n[End of Assistant 2]" in next(c for c in stub.asked if number(c) == 5)
    make_run(root)  # answers what failed
    entry = json.loads((folder / "metrics.json").read_text())["bench"]
    assert entry["metrics"]["score/overall"] is None
    assert (entry["counts"]["judged"], entry["counts"]["unjudged"]) == (11, 1)
    assert judge(folder, stub).asked == 1
    assert json.loads((folder / "metrics.json").read_text())["bench"]["metrics"]["score/overall"] > 0


def test_another_judge_is_a_departure_that_tables_mark(root, serve):
    stub, folder = serve(), make_run(root)
    judge(folder, stub)
    other = make_run(root, out="other", name="other")
    judge(other, stub, model="my-judge", temperature=0.0)
    assert manifest(other)["deviations"] == ["judge=my-judge", "judge temperature=0.0"]
    (grid,) = build_table("vqa", [folder, other], "none").grids
    marked = {row.method: row.marks + [m for cell in row.cells for m in cell.marks] for row in grid.rows}
    notes = {mark: text for mark, text in grid.notes if "my-judge" in text}
    assert notes
    assert not set(notes) & set(marked["fake"])
    assert set(notes) <= set(marked["other"])
    before = stub.asked.total()
    judge(folder, stub, model="my-judge")
    judge(folder, stub)  # the first judge's reviews are still there
    assert stub.asked.total() == before + 12
    assert manifest(folder)["deviations"] == []


def test_the_estimate_counts_what_is_left(root, serve):
    stub, folder = serve(), make_run(root)
    whole = cost_of(folder, settings(stub))
    assert (whole.questions, whole.kept) == (12, 0)
    assert whole.limit == pytest.approx((30 * whole.prompt_tokens + 60 * 12 * 1024) / 1e6)
    assert whole.cost == pytest.approx((30 * whole.prompt_tokens + 60 * 12 * 120) / 1e6)
    assert cost_of(folder, settings(stub, model="unheard-of")).cost is None
    assert cost_of(folder, settings(stub, model="unheard-of", price=(1.0, 0.0))).cost == pytest.approx(
        whole.prompt_tokens / 1e6
    )
    stub.reply = lambda content, times: fair(content) if number(content) < 6 else "?"
    judge(folder, stub, asks=1)
    rest = cost_of(folder, settings(stub, asks=2))
    assert (rest.questions, rest.kept) == (6, 6)
    assert 0.4 < rest.prompt_tokens / whole.prompt_tokens < 0.6
    assert stub.asked.total() == 12  # an estimate asks nothing


def test_two_cannot_judge_one_run_at_once(root, serve):
    folder = make_run(root)
    journal = Journal(folder / "bench")
    with pytest.raises(HarnessError, match="another process is judging"):
        judge(folder, serve())
    journal.close()
    assert judge(folder, serve()).complete


@pytest.mark.parametrize("line", ["nope", "[1]", '{"key": "a"}', '{"key": 1, "content": "x"}', '{"content": "x"}'])
def test_a_broken_journal_is_named(root, serve, line):
    folder = make_run(root)
    (folder / "bench/judge_calls.jsonl").write_text(line + "\n")
    with pytest.raises(HarnessError, match=r"judge_calls\.jsonl: line 1: no answer of a judge"):
        judge(folder, serve())


def test_what_cannot_be_judged(root, serve, tmp_path):
    folder = make_run(root)
    with pytest.raises(HarnessError, match=r"'nope' is not in it; to judge: bench"):
        judge_run(folder, settings(serve()), False, ["nope"])
    with pytest.raises(HarnessError, match="no finished run"):
        judge(tmp_path / "nowhere", serve())
    (folder / "bench/parts").mkdir()
    with pytest.raises(HarnessError, match="not finished"):
        judge(folder, serve())


def _reviews(folder: Path, change=None) -> list[dict]:
    rows = [
        {"id": i + 1, "question_id": i, "category": CATEGORIES[i % 3], "content": "8 6\nfine", "tuple": [8.0, 6.0]}
        for i in range(12)
    ]
    return (change or (lambda r: r))(rows)


def _write(path: Path, rows) -> Path:
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reviews_can_be_imported(root, serve):
    folder = make_run(root)
    rows = _reviews(folder)
    rows[3]["tuple"] = [-1, -1]
    rows.reverse()
    metrics = import_reviews(folder, _write(root / "reviews.jsonl", rows), "gpt-4-0613")["bench"]
    assert metrics["metrics"]["score/overall"] == 75
    assert metrics["counts"]["excluded"] == 1
    assert manifest(folder)["judge"] == {"model": "gpt-4-0613", "imported": "reviews.jsonl"}
    assert manifest(folder)["deviations"] == ["incomplete: 1 of 12 questions have no usable review"]
    assert rescore(folder)["bench"] == metrics
    import_reviews(folder, _write(root / "reviews.jsonl", _reviews(folder)), "gpt-4-0314")
    assert manifest(folder)["deviations"] == ["judge=gpt-4-0314"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "has no review of question '11'"),
        (lambda rows: [*rows, {**rows[0], "question_id": 99}], "reviews question '99'"),
        (lambda rows: [*rows, rows[0]], "question '0' is reviewed twice"),
        (lambda rows: [{**rows[0], "category": "math"}, *rows[1:]], "question '0' has category 'math'"),
        (lambda rows: [{**rows[0], "tuple": [8]}, *rows[1:]], r"line 1: field 'tuple' must be two numbers"),
        (lambda rows: "", "is empty"),
    ],
)
def test_reviews_of_something_else_are_refused(root, change, message):
    folder = make_run(root)
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(HarnessError, match=message) as error:
        import_reviews(folder, _write(root / "reviews.jsonl", _reviews(folder, change)), "gpt-4-0613")
    assert "\n" not in str(error.value)
    assert (folder / "metrics.json").read_bytes() == before
    assert not (folder / "bench/reviews.jsonl").exists()


def test_llava_bench_coco_whole(tmp_path, shared, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "llava_bench").symlink_to(shared / "data/llava_bench")
    model = Fake(lambda question, sample: Prediction(question.id, text=f"{question.text} Indeed."))
    evaluate(model, "llava_bench_coco", out=tmp_path / "run", data_root=tmp_path, progress=False)
    stub = serve()
    summary = judge(tmp_path / "run", stub, concurrency=8)
    assert (summary.asked, summary.complete) == (90, True)
    entry = summary.metrics["llava_bench_coco"]
    pairs = [scores(content) for content in stub.asked]
    wanted = 100 * sum(p[1] for p in pairs) / sum(p[0] for p in pairs)
    assert entry["metrics"]["score/overall"] == pytest.approx(wanted, abs=1e-6)
    three = [entry["metrics"][f"score/{name}"] for name in ("conversation", "detail", "reasoning")]
    assert entry["metrics"]["score/overall"] != pytest.approx(sum(three) / 3, abs=1e-6)
    assert entry["counts"]["judged"] == 90
