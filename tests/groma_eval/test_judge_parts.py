"""What judging is made of: prompts, first lines of reviews, review files, settings, waiting times."""

from __future__ import annotations

import email.utils
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.core import HarnessError, Question
from groma_eval.judge.client import retry_after
from groma_eval.judge.prompts import call_key, content_hash, review_messages
from groma_eval.judge.reviews import judged_fields, parse_review, read_reviews, summarise, write_reviews
from groma_eval.judge.settings import JudgeSettings, count_tokens, estimate

JUDGE = {"rule": "llava_bench_conv", "role": "Assistant", "prompt": "Rate both."}
TARGET = {"context": "a hill", "answer": "Diamond Head.", "judge": JUDGE}


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 9\nfine", (8, 9)),
        ("8 9", (8, 9)),
        ("7.5,9\n", (7.5, 9)),
        ("7.5, 9", (7.5, 9)),
        ("  7\t9 \nx", (7, 9)),
        ("0 10", (0, 10)),
        ("", None),
        ("\n8 9", None),
        ("8", None),
        ("8 9 10", None),
        ("8/10 9/10", None),
        ("Assistant 1: 8\nAssistant 2: 9", None),
        ("eight nine", None),
        ("-1 -1", None),
        ("80 95", None),
        ("nan 5", None),
        ("5 inf", None),
    ],
)
def test_first_lines(text, scores):
    assert parse_review(text) == scores


@given(st.text())
def test_no_text_upsets_the_parser(text):
    parse_review(text)


@given(st.floats(0, 10), st.floats(0, 10), st.sampled_from((" ", ",", ", ", "  ")), st.text())
def test_two_numbers_are_read_whatever_follows(first, second, between, rest):
    assert parse_review(f"{first}{between}{second}\n{rest}") == (first, second)


def test_published_reviews_read_as_their_authors_read_them(shared):
    folder = shared / "data/llava_bench/reviews_in_the_wild"
    for number, wanted in ((1, 72.8), (2, 72.7), (3, 72.1)):
        reviews = read_reviews(folder / f"llava-v1.5-13b-eval{number}.jsonl")
        assert [parse_review(review.row["content"]) for review in reviews] == [review.scores for review in reviews]
        summary = {line.category: line for line in summarise(reviews)}
        assert (summary["all"].score, summary["all"].used, summary["all"].excluded) == (wanted, 60, 0)
        assert list(summary) == ["all", "llava_bench_complex", "llava_bench_conv", "llava_bench_detail"]


def test_summary_by_hand(tmp_path):
    rows = [
        {"question_id": 0, "category": "conv", "tuple": [8, 6]},
        {"question_id": 1, "category": "conv", "tuple": [9.0, 9.0]},
        {"question_id": 2, "category": "detail", "tuple": [10, 5]},
        {"question_id": 3, "category": "detail", "tuple": [-1, -1]},
        {"question_id": 4, "category": "detail"},
        {"question_id": 5, "category": "complex", "tuple": None},
        {"question_id": 6, "score": [3, 4]},
    ]
    lines = {line.category: line for line in summarise(read_reviews(_file(tmp_path, rows)))}
    # Means over four reviews: 30 / 4 and 24 / 4.
    assert (lines["all"].score, lines["all"].reference, lines["all"].model) == (80.0, 75.0, 60.0)
    assert (lines["all"].used, lines["all"].excluded) == (4, 3)
    assert (lines["conv"].score, lines["detail"].score) == (88.2, 50.0)  # 7.5 / 8.5
    assert (lines["complex"].score, lines["complex"].reference, lines["complex"].excluded) == (None, None, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{}\n", r"line 1: field 'question_id' is missing"),
        ('{"question_id": 1, "tuple": [8, 9]}\nnope\n', "line 2, column 1: not JSON"),
        ('{"question_id": 1, "tuple": [8, 9, 10]}\n', "line 1: field 'tuple' must be two numbers"),
        ('{"question_id": 1, "tuple": "8 9"}\n', "line 1: field 'tuple' must be two numbers"),
        ('{"question_id": 1, "tuple": [8, NaN]}\n', "line 1: field 'tuple' must be two numbers"),
        ('{"question_id": 1, "tuple": [8, -1]}\n', "line 1: field 'tuple' must be two numbers"),
        ('{"question_id": 1, "tuple": [true, 8]}\n', "line 1: field 'tuple' must be two numbers"),
        ('{"question_id": 1, "score": [8]}\n', "line 1: field 'score' must be two numbers"),
        ('{"question_id": 1, "category": 4, "tuple": [8, 9]}\n', "line 1: field 'category' must be text"),
        ('{"question_id": [1], "tuple": [8, 9]}\n', "line 1: field 'question_id' must be"),
        ("[1]\n", "line 1: must be an object"),
    ],
)
def test_bad_review_files(tmp_path, content, message):
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(HarnessError, match=message) as error:
        read_reviews(path)
    assert "r.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_review_file(tmp_path):
    with pytest.raises(HarnessError, match="no such review file"):
        read_reviews(tmp_path / "none.jsonl")


def _file(tmp_path, rows):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_prompt_to_the_letter():
    system, user = review_messages(Question("0", "converse", text="What is it?", target=TARGET), "A hill.")
    assert system["role"] == "system"
    assert user == {
        "role": "user",
        "content": "[Context]\na hill\n\n[Question]\nWhat is it?\n\n"
        "[Assistant 1]\nDiamond Head.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA hill.\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n",
    }


@pytest.mark.parametrize("field", ["context", "answer", "judge"])
def test_a_question_without_what_it_is_judged_by(field):
    target = {key: value for key, value in TARGET.items() if key != field}
    with pytest.raises(HarnessError, match=f"question '7' has no '{field}'"):
        review_messages(Question("7", "converse", text="?", target=target), "x")


def test_keys_follow_everything_that_an_answer_depends_on():
    question = Question("0", "converse", text="What is it?", target=TARGET)
    messages, other = review_messages(question, "A hill."), review_messages(question, "A hil.")
    decoding = {"temperature": 0.2, "max_tokens": 1024}
    key = call_key(messages, "gpt-4-0613", decoding, 1)
    assert key == call_key(review_messages(question, "A hill."), "gpt-4-0613", dict(reversed(decoding.items())), 1)
    changed = [
        call_key(other, "gpt-4-0613", decoding, 1),
        call_key(messages, "gpt-4-0314", decoding, 1),
        call_key(messages, "gpt-4-0613", {**decoding, "temperature": 0.0}, 1),
        call_key(messages, "gpt-4-0613", decoding, 2),
    ]
    assert len({key, *changed}) == 5
    assert content_hash(messages) != content_hash(other)
    assert JudgeSettings(temperature=0).decoding == JudgeSettings(temperature=0.0).decoding
    assert json.dumps(JudgeSettings(temperature=0).decoding) == json.dumps(JudgeSettings(temperature=0.0).decoding)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "api.example/v1"}, r"--base-url api\.example/v1: must be like"),
        ({"base_url": "ftp://host/v1"}, "must be like"),
        ({"base_url": "http://"}, "must be like"),
        ({"base_url": "http://host:port/v1"}, "must be like"),
        ({"base_url": "http://[::1/v1"}, "must be like"),
        ({"base_url": "http://ho st/v1"}, "must be like"),
        ({"base_url": "https://user:sk-secret@host/v1"}, "a key belongs in an environment variable"),
        ({"base_url": "https://host/v1?key=sk-secret"}, "a key belongs in an environment variable"),
        ({"model": " "}, "--judge: the name"),
        ({"concurrency": 0}, "--concurrency 0: must be at least 1"),
        ({"asks": 0}, "--asks 0: must be at least 1"),
        ({"max_tokens": 0}, "--max-tokens 0: must be at least 1"),
        ({"retries": -1}, "--retries -1: must be at least 0"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"timeout_s": float("nan")}, "--timeout"),
        ({"temperature": -0.1}, "--temperature"),
        ({"price": (1.0, float("nan"))}, "--price"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(HarnessError, match=message) as error:
        JudgeSettings(**given)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", None), ("", None), ("nan", None), ("inf", None)],
)
def test_retry_after(value, seconds):
    assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_a_date():
    assert retry_after({}) is None
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < retry_after({"Retry-After": later}) <= 31
    assert retry_after({"Retry-After": email.utils.formatdate(0, usegmt=True)}) == 0


def test_the_estimate_by_hand():
    assert count_tokens("a cup, [0.25]\n") == 2 + 2 + 5  # a cup / 0 25 / , [ . ] newline
    assert count_tokens("antidisestablishmentarianism 12345") == 4 + 2
    pending = [[{"role": "user", "content": "one two three"}]] * 10
    cost = estimate(pending, 5, JudgeSettings(price=(10.0, 20.0), max_tokens=200))
    assert (cost.questions, cost.kept, cost.prompt_tokens) == (10, 5, 70)
    assert cost.cost == pytest.approx((700 + 10 * 120 * 20) / 1e6)
    assert cost.limit == pytest.approx((700 + 10 * 200 * 20) / 1e6)
    assert re.search(r"10 questions to judge \(5 more are there\), about 70 prompt tokens; about \$0.02", str(cost))
    assert "price is not known" in str(estimate(pending, 0, JudgeSettings(model="mine")))
    assert str(estimate([], 5, JudgeSettings())) == "nothing to ask: 5 reviews are there"
    assert (
        estimate(pending, 0, JudgeSettings(max_tokens=20)).cost
        == estimate(pending, 0, JudgeSettings(max_tokens=20)).limit
    )


def test_reviews_of_several_judges_are_no_run(tmp_path):
    rows = [{"question_id": i, "tuple": [8, 6], "judge": {"model": f"judge {i}"}} for i in range(2)]
    write_reviews(tmp_path, rows)
    with pytest.raises(HarnessError, match="field 'judge' is not the same in all lines"):
        judged_fields(tmp_path, [], {"match": "judge"})
    assert judged_fields(tmp_path, ["limit=2"], {"match": "short"}) == {"deviations": ["limit=2"]}
    write_reviews(tmp_path, rows[:1])
    assert judged_fields(tmp_path, ["limit=2"], {"match": "judge"}) == {
        "deviations": ["limit=2"],
        "judge": {"model": "judge 0"},
    }
    assert judged_fields(tmp_path, [], {"match": "judge", "judge": "judge 1"})["deviations"] == ["judge=judge 0"]
