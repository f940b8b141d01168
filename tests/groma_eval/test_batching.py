"""Batches by tokens: what they hold, how their budget moves, and that answers do not depend on them."""

from __future__ import annotations

import json

import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark
from hypothesis import given
from hypothesis import strategies as st

from groma_eval import evaluate
from groma_eval.batching import (
    AUTO_MOST,
    AUTO_START,
    Budget,
    check_batch_size,
    cost_of,
    cut,
    estimated_cost,
    start_budget,
)
from groma_eval.core import HarnessError, Question, Sample


def _samples(counts, words=3):
    return [
        Sample(str(i), None, 8, 6, tuple(Question(f"{i}/{k}", "ground_one", text="word " * words) for k in range(n)))
        for i, n in enumerate(counts)
    ]


@given(st.lists(st.integers(0, 40), max_size=60), st.one_of(st.none(), st.integers(1, 9)))
def test_blocks_hold_every_image_once_in_order_and_are_alike(counts, size):
    samples = _samples(counts)
    blocks = cut(samples, size, estimated_cost)
    assert [sample for block in blocks for sample in block] == samples
    if size is not None:
        assert all(len(block) == size for block in blocks[:-1])
    elif samples:
        costs = [sum(map(estimated_cost, block)) for block in blocks]
        most = start_budget(samples, estimated_cost) // 4
        assert all(cost <= most or len(block) == 1 for cost, block in zip(costs, blocks))
        # Nothing is left unfilled that the next block's first image would have fitted into.
        assert all(cost + estimated_cost(nxt[0]) > most for cost, nxt in zip(costs, blocks[1:]))


def test_cost_counts_texts_and_history_and_the_adapters_own_comes_first():
    short, long = _samples([1]), _samples([1], words=40)
    assert estimated_cost(long[0]) - estimated_cost(short[0]) == 200 // 4 - 15 // 4
    told = Sample("x", None, 8, 6, (Question("x", "converse", text="a" * 40, history=(("b" * 80, "c" * 40),)),))
    assert estimated_cost(told) - estimated_cost(Sample("x", None, 8, 6, ())) == 20 + 160 // 4
    model = Fake(truth)
    assert cost_of(model) is estimated_cost
    model.cost = lambda sample: 7
    assert cost_of(model)(told) == 7


def _after(budget, rates):
    """The budgets seen while full batches of each size go at ``rates[size]`` tokens a second."""
    seen = [budget.tokens]
    for _ in range(40):
        budget.answered(budget.tokens, budget.tokens / rates(budget.tokens))
        if budget.tokens != seen[-1]:
            seen.append(budget.tokens)
    return seen


@pytest.mark.parametrize(
    ("rates", "seen"),
    [
        (lambda tokens: 100.0, [16, 32, 16]),  # doubling gained nothing
        (lambda tokens: min(tokens, 64), [16, 32, 64, 128, 64]),
        (lambda tokens: tokens, [16, 32, 64, 128, 256]),  # the most it may
        (lambda tokens: 1000 / tokens, [16, 32, 16]),
    ],
)
def test_a_budget_grows_while_it_pays(rates, seen):
    assert AUTO_MOST == 16
    assert _after(Budget(16), rates) == seen


def test_a_budget_halves_when_memory_ends_and_stays_below():
    budget = Budget(64)
    budget.out_of_memory(60)
    assert budget.tokens == 30
    assert _after(budget, lambda tokens: tokens) == [30]
    budget.out_of_memory(1)
    assert budget.tokens == 1


def test_a_batch_that_is_not_full_says_nothing():
    budget = Budget(100)
    for _ in range(10):
        budget.answered(50, 1e-9)
    assert budget.tokens == 100


def test_batch_size_is_a_number_or_auto():
    assert (check_batch_size("auto"), check_batch_size(3)) == (None, 3)
    for wrong in (0, -1, "many", 2.5):
        with pytest.raises(HarnessError, match=r"must be a whole number above 0, or auto"):
            check_batch_size(wrong)


def test_auto_fills_by_tokens_and_changes_no_answer(tmp_path):
    rows = [row for row in rec_rows(images=40, each=9) if int(row["img_id"][-1]) <= int(row["img_id"][4:7]) % 9]
    write_benchmark(tmp_path, rows, pictures=False)
    seen = []

    class Watching(Fake):
        def cost(self, sample):
            return len(sample.questions)

        def answer(self, samples, *args):
            seen.append(sum(map(self.cost, samples)))
            return super().answer(samples, *args)

    for size in ("auto", 1, 16):
        evaluate(Watching(truth), tmp_path / "cards/card.yaml", out=tmp_path / f"run{size}", batch_size=size,
                 data_root=tmp_path, progress=False)  # fmt: skip
    stored = [(tmp_path / f"run{size}/toy/samples.jsonl").read_bytes() for size in ("auto", 1, 16)]
    assert stored[0] == stored[1] == stored[2]
    mean = len(rows) / 40
    assert 0.6 * AUTO_START * mean <= seen[0] <= AUTO_START * mean
    assert json.loads((tmp_path / "runauto/metrics.json").read_text())["toy"]["metrics"]["acc@0.5"] == 100
