"""Judging a stored run: what is not yet reviewed is asked, each answer is kept, the run is scored again.

A review that cannot be read is asked for again, up to ``asks`` times; then its question is left out, counted, and the
run marked incomplete. So is one whose request fails for good, but a repeat asks that again.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from groma_eval.core import HarnessError
from groma_eval.judge.client import CallFailed, Client, Stopped
from groma_eval.judge.journal import Calls, Journal, read_calls
from groma_eval.judge.prompts import Messages, call_key, content_hash, review_messages
from groma_eval.judge.reviews import (
    UNREADABLE,
    Review,
    answer_of,
    judged_fields,
    parse_review,
    read_reviews,
    write_reviews,
)
from groma_eval.judge.settings import Estimate, JudgeSettings, estimate
from groma_eval.store import BenchmarkStore, predictions_of, read_store_json, write_json

_GIVE_UP = 5  # questions in a row whose requests failed for good: the endpoint is down

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class JudgeSummary:
    """``metrics`` of the judged benchmarks as in metrics.json; ``excluded``: ids of the questions without a usable
    review, by benchmark, with ``failures``: why requests failed. ``asked`` counts the answers that the judge gave now,
    ``kept`` the questions that needed none; tokens as the endpoint counts them."""

    metrics: dict[str, dict[str, Any]]
    asked: int
    kept: int
    excluded: dict[str, list[str]]
    failures: list[str]
    prompt_tokens: int
    completion_tokens: int

    @property
    def complete(self) -> bool:
        """Whether every question has a usable review."""
        return not any(self.excluded.values())


@dataclass
class _Question:
    """One question to judge; ``outcome`` is the judge's answer (a call of the journal), None while there is none."""

    id: str
    rule: str
    messages: Messages
    outcome: dict[str, Any] | None = None
    failure: str | None = None
    answered: list[dict[str, Any]] = field(default_factory=list)  # calls made now


def judged_benchmarks(run_dir: str | Path, benchmarks: Sequence[str] | None = None) -> list[str]:
    """The benchmarks of a finished run that a judge scores (``match: judge`` in their rules), all or those named.

    Raises:
        HarnessError: no such run, it is not finished, a name that it has not or that no judge scores, or none at all.
    """
    folder = Path(run_dir)
    entries = read_store_json(folder / "manifest.json")["benchmarks"]
    judged = [name for name, entry in entries.items() if entry["rules"].get("match") == "judge"]
    for name in benchmarks or ():
        if name not in judged:
            reason = "is not scored by a judge" if name in entries else "is not in it"
            raise HarnessError(f"{folder}: benchmark '{name}' {reason}; to judge: {', '.join(judged) or 'none'}")
    judged = list(dict.fromkeys(benchmarks)) if benchmarks else judged
    if not judged:
        raise HarnessError(f"{folder}: the run has no benchmark that a judge scores")
    for name in judged:
        if not BenchmarkStore(folder / name).finished():
            raise HarnessError(f"{folder / name}: the run is not finished; repeat its groma-eval run command")
    return judged


def cost_of(run_dir: str | Path, settings: JudgeSettings, benchmarks: Sequence[str] | None = None) -> Estimate:
    """What :func:`judge_run` would ask, and about what that costs; nothing is sent."""
    pending, kept = [], 0
    for name in judged_benchmarks(run_dir, benchmarks):
        folder = Path(run_dir) / name
        calls = read_calls(folder)
        for question in _questions(folder):
            if _next_attempt(question, calls, settings) is None:
                kept += 1
            else:
                pending.append(question.messages)
    return estimate(pending, kept, settings)


def judge_run(
    run_dir: str | Path,
    settings: JudgeSettings,
    progress: bool = True,
    benchmarks: Sequence[str] | None = None,
) -> JudgeSummary:
    """Judge a finished run and score it again.

    Answers are kept in RUN/BENCHMARK/judge_calls.jsonl, under a key of judge, messages, decoding settings and attempt,
    each before the next question is asked: a repeat asks only what is missing. The reviews in force stand in
    RUN/BENCHMARK/reviews.jsonl, one a question in the run's order; metrics.json and manifest.json follow them.

    Raises:
        HarnessError: bad input; no key; the endpoint refuses the calls or is down (what was answered is kept).
    """
    names = judged_benchmarks(run_dir, benchmarks)
    summaries = [_judge_benchmark(Path(run_dir) / name, settings, progress) for name in names]
    metrics = _score_again(Path(run_dir), names)
    questions = [question for asked in summaries for question in asked]
    calls = [call for question in questions for call in question.answered]
    return JudgeSummary(
        metrics,
        asked=len(calls),
        kept=sum(not question.answered and not question.failure for question in questions),
        excluded={n: [q.id for q in asked if not _usable(q)] for n, asked in zip(names, summaries)},
        failures=[f"question '{q.id}': {q.failure}" for q in questions if q.failure],
        prompt_tokens=sum(call["prompt_tokens"] for call in calls),
        completion_tokens=sum(call["completion_tokens"] for call in calls),
    )


def import_reviews(
    run_dir: str | Path, path: Path, judge: str, benchmarks: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Take the reviews of a file in LLaVA's form, written by ``judge``, for a run's answers; returns the metrics.

    The file must have one review of each question, by ``question_id``, and no others. What it is a review of cannot be
    told from it: that the run's answers are the reviewed ones is the caller's word.

    Raises:
        HarnessError: bad input; reviews of other questions; several benchmarks to judge and none named.
    """
    names = judged_benchmarks(run_dir, benchmarks)
    if len(names) > 1:
        raise HarnessError(f"{path}: which benchmark is it of? Give --benchmarks, one of: {', '.join(names)}")
    folder = Path(run_dir) / names[0]
    reviews: dict[str, Review] = {}
    for review in read_reviews(path):
        if review.question_id in reviews:
            raise HarnessError(f"{path}: question '{review.question_id}' is reviewed twice")
        reviews[review.question_id] = review
    questions = _questions(folder)
    missing = [q.id for q in questions if q.id not in reviews]
    unknown = reviews.keys() - {q.id for q in questions}
    if missing or unknown:
        which = f"has no review of question '{missing[0]}'" if missing else f"reviews question '{min(unknown)}'"
        raise HarnessError(f"{path}: {which}, unlike {names[0]}: other questions, or not all")
    for question in questions:
        if reviews[question.id].category not in (None, question.rule):
            raise HarnessError(
                f"{path}: question '{question.id}' has category '{reviews[question.id].category}', but in {names[0]} "
                f"'{question.rule}': other questions"
            )
    judged = {"model": judge, "imported": path.name}
    write_reviews(
        folder,
        [
            {**reviews[q.id].row, "question_id": q.id, "judge": judged, "content_hash": content_hash(q.messages)}
            for q in questions
        ],
    )
    return _score_again(Path(run_dir), names)


def _questions(folder: Path) -> list[_Question]:
    store = BenchmarkStore(folder)
    predictions = predictions_of(store.load().values())
    return [
        _Question(
            question.id,
            question.target.get("judge", {}).get("rule", ""),
            review_messages(question, answer_of(predictions.get(question.id))),
        )
        for sample in store.samples()
        for question in sample.questions
    ]


def _next_attempt(question: _Question, calls: Calls, settings: JudgeSettings) -> int | None:
    """The attempt (from 1) that is to be asked next, None where there is a readable review or no attempt left; sets
    ``outcome`` to the last answer there is."""
    for attempt in range(1, settings.asks + 1):
        call = calls.get(call_key(question.messages, settings.model, settings.decoding, attempt))
        if call is None:
            return attempt
        question.outcome = call
        if parse_review(call["content"]):
            return None
    return None


def _usable(question: _Question) -> bool:
    return question.outcome is not None and parse_review(question.outcome["content"]) is not None


def _judge_benchmark(folder: Path, settings: JudgeSettings, progress: bool) -> list[_Question]:
    from tqdm import tqdm

    questions = _questions(folder)
    journal = Journal(folder)
    try:
        pending = [q for q in questions if _next_attempt(q, journal.calls, settings) is not None]
        if pending:
            stop = threading.Event()
            client = Client(settings, stop)
            lost = 0
            with tqdm(
                total=len(questions),
                initial=len(questions) - len(pending),
                desc=f"{folder.name}: {settings.model}",
                unit="review",
                file=sys.stderr,
                disable=not progress,
            ) as bar:
                for question in in_threads(
                    lambda q: _review_question(q, client, journal), pending, settings.concurrency, stop
                ):
                    bar.update(1)
                    lost = lost + 1 if question.failure else 0
                    if lost == min(_GIVE_UP, len(questions)):
                        raise HarnessError(f"{question.failure}; what was answered is kept, repeat to continue")
    finally:
        journal.close()
    write_reviews(folder, [_row(number, q, settings) for number, q in enumerate(questions, 1)])
    return questions


def _review_question(question: _Question, client: Client, journal: Journal) -> _Question:
    """Ask until there is a readable review, no attempt left, or the request fails."""
    settings = client.settings
    while (attempt := _next_attempt(question, journal.calls, settings)) is not None:
        try:
            completion = client.complete(question.messages)
        except CallFailed as failure:
            question.failure = str(failure)
            break
        call = {
            "key": call_key(question.messages, settings.model, settings.decoding, attempt),
            "question_id": question.id,
            "attempt": attempt,
            "judge": settings.model,
            "served": completion.served,
            "content": completion.content,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }
        journal.add(call)
        question.answered.append(call)
    return question


def _row(number: int, question: _Question, settings: JudgeSettings) -> dict[str, Any]:
    content = question.outcome["content"] if question.outcome else ""
    scores = parse_review(content)
    return {
        "id": number,
        "question_id": question.id,
        "answer1_id": "reference",
        "answer2_id": "model",
        "category": question.rule,
        "content": content,
        "tuple": list(scores) if scores else UNREADABLE,
        "judge": {"model": settings.model, **settings.decoding},
        "content_hash": content_hash(question.messages),
    }


def _score_again(run_dir: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    from groma_eval.run import rescore

    manifest = read_store_json(run_dir / "manifest.json")
    for name in names:
        entry = manifest["benchmarks"][name]
        entry.update(judged_fields(run_dir / name, entry["key"]["deviations"], entry["rules"]))
    write_json(run_dir / "manifest.json", manifest)
    return rescore(run_dir, names)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[Result]:
    """``work(item)`` of every item, several at a time, as they finish; the first error is raised and ends it all.

    ``stop`` is set at the end, so that what waits gives up. The threads are daemons: an interrupt need not wait for
    requests that are on their way.
    """
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
    for item in items:
        todo.put(item)

    def loop() -> None:
        while not stop.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((work(item), None))
            except Stopped:
                return
            except BaseException as error:
                done.put((None, error))
                return

    for _ in range(min(threads, len(items))):
        threading.Thread(target=loop, daemon=True).start()
    try:
        for _ in items:
            result, error = done.get()
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
