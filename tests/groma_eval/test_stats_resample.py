"""Intervals and paired tests against slow definitions, hand calculations, scipy, and their own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stats_simulation import SCENARIOS, paired, single

from groma_eval.core import HarnessError
from groma_eval.statistics import benjamini_hochberg, detectable_difference, estimate, holm, mcnemar
from groma_eval.statistics.resample import bootstrap_weights, summarise, swap_weights, t_quantile, value_of
from groma_eval.statistics.significance import difference
from groma_eval.statistics.sums import OfSums, f1, mean, mean_of_shares, share


def _shares(seed: int = 0, images: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, images)
    return np.stack([rng.binomial(sizes, 0.7), sizes], axis=1).astype(float)


def test_weights_are_draws_with_replacement():
    drawn = np.concatenate(list(bootstrap_weights(30, 500)))
    assert drawn.shape == (500, 30)
    assert (drawn.sum(axis=1) == 30).all()
    assert drawn.var() == pytest.approx(29 / 30, rel=0.05)  # of a multinomial count
    assert (np.concatenate(list(bootstrap_weights(30, 500))) == drawn).all()
    swaps = np.concatenate(list(swap_weights(30, 500)))
    assert set(np.unique(swaps)) == {0, 1}
    assert swaps.mean() == pytest.approx(0.5, abs=0.02)


def test_chunks_change_nothing(monkeypatch):
    sums = OfSums(_shares(), share)
    whole = estimate({"x": sums}, 300)
    monkeypatch.setattr("groma_eval.statistics.resample._CHUNK", 40 * 7)
    assert sum(len(w) for w in bootstrap_weights(40, 300)) == 300
    parts = estimate({"x": sums}, 300)["x"]
    assert parts.se == pytest.approx(whole["x"].se, rel=0.2)


def test_the_interval_is_scipys_bca_but_for_its_widening(monkeypatch):
    from scipy.stats import bootstrap

    sums = _shares(3, 60)
    monkeypatch.setattr("groma_eval.statistics.resample.t_quantile", lambda freedom: 1.959964 * np.sqrt(59 / 60))
    ours = estimate({"x": OfSums(sums, share)}, 8000)["x"]
    theirs = bootstrap(
        (sums[:, 0], sums[:, 1]), lambda a, b, axis=-1: 100 * a.sum(axis=axis) / b.sum(axis=axis),
        paired=True, n_resamples=8000, method="BCa", vectorized=True, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.25)
    assert ours.se == pytest.approx(theirs.standard_error, rel=0.03)


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(2).normal(50, 10, 200)
    found = estimate({"x": OfSums(np.stack([values, np.ones(200)], axis=1), mean)})["x"]
    assert found.value == pytest.approx(values.mean())
    assert found.se == pytest.approx(values.std() / np.sqrt(200), rel=0.03)
    half = t_quantile(199) * values.std(ddof=1) / np.sqrt(200)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.12)


def test_jackknife_is_leaving_out():
    sums = _shares(1, 9)
    by_hand = [100 * np.delete(sums, i, 0)[:, 0].sum() / np.delete(sums, i, 0)[:, 1].sum() for i in range(9)]
    assert OfSums(sums, share).jackknife() == pytest.approx(np.array(by_hand))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5))
def test_the_mean_over_categories_is_the_slow_one(seed, images, categories):
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 30)
    image, category = rng.integers(0, images, count), rng.integers(0, categories, count)
    whole = rng.integers(1, 4, count)
    part = rng.binomial(whole, 0.6)
    statistic = mean_of_shares(images, image, category, part, whole)

    def slow(weights):
        shares = []
        for c in range(categories):
            own = category == c
            if (weights[image[own]] * whole[own]).sum():
                shares.append((weights[image[own]] * part[own]).sum() / (weights[image[own]] * whole[own]).sum())
        return 100 * np.mean(shares) if shares else np.nan

    weights = rng.integers(0, 3, (6, images)).astype(float)
    assert statistic.replicates(weights) == pytest.approx(np.array([slow(w) for w in weights]), nan_ok=True)
    without = 1.0 - np.eye(images)
    assert statistic.jackknife() == pytest.approx(np.array([slow(w) for w in without]), nan_ok=True)
    both = statistic.beside(statistic)
    assert both.replicates(np.hstack([weights, weights])) == pytest.approx(statistic.replicates(weights), nan_ok=True)


def test_every_image_at_the_limit_is_not_certainty():
    sums = OfSums(np.stack([np.full(20, 3.0), np.full(20, 3.0)], axis=1), share)
    found = estimate({"x": sums}, 200, limits={"x": (0, 100)})["x"]
    # Of 20 images none failed: Clopper and Pearson's bound.
    assert (found.low, found.high, found.method) == (pytest.approx(100 * 0.025 ** (1 / 20)), 100.0, "exact")
    none = OfSums(np.stack([np.zeros(20), np.full(20, 3.0)], axis=1), share)
    found = estimate({"x": none}, 200, limits={"x": (0, 100)})["x"]
    assert (found.low, found.high) == (0.0, pytest.approx(100 * (1 - 0.025 ** (1 / 20))))


def test_one_image_has_no_interval():
    found = estimate({"x": OfSums(np.array([[3.0, 4.0]]), share)}, 100)["x"]
    assert (found.value, found.se, found.low, found.high) == (75.0, None, None, None)
    compared = difference([OfSums(np.array([[3.0, 4.0]]), share)], [OfSums(np.array([[4.0, 4.0]]), share)], 100)
    assert (compared.difference, compared.p, compared.low) == (25.0, None, None)


def test_t_intervals_stay_within_the_limits():
    draws = np.array([96.0, 99.0, 100.0, 98.0, 97.0])
    found = summarise(98.0, draws, None, 6, (0, 100), "t")
    assert found.method == "t"
    assert (found.low, found.high) == (pytest.approx(98 - 2.570582 * draws.std(ddof=1), abs=1e-4), 100.0)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_the_order_of_images_changes_nothing_but_chance(seed):
    rng = np.random.default_rng(seed)
    a, b = _shares(seed, 50), _shares(seed + 1, 50)
    b[:, 1] = a[:, 1]
    b[:, 0] = np.minimum(b[:, 0], b[:, 1])
    order = rng.permutation(50)
    one = difference([OfSums(a, share)], [OfSums(b, share)], 2000)
    other = difference([OfSums(a[order], share)], [OfSums(b[order], share)], 2000)
    assert other.difference == pytest.approx(one.difference)
    assert other.se == pytest.approx(one.se, rel=0.12)
    assert other.p == pytest.approx(one.p, abs=0.05)


def test_images_seen_twice_as_one_cluster_tell_nothing_new():
    sums = _shares(5, 60)
    once, doubled = (estimate({"x": OfSums(s, share)}, 4000)["x"] for s in (sums, 2 * sums))
    assert doubled == once
    as_two = estimate({"x": OfSums(np.concatenate([sums, sums]), share)}, 4000)["x"]
    assert as_two.se == pytest.approx(once.se / np.sqrt(2), rel=0.06)


def test_sides_swapped_turn_the_difference_round():
    a, b = (OfSums(_shares(s, 40), share) for s in (0, 1))
    there, back = difference([a], [b], 1000), difference([b], [a], 1000)
    assert (there.difference, there.se) == (pytest.approx(-back.difference), pytest.approx(back.se))
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.p == pytest.approx(back.p, abs=1e-12)


def test_the_same_run_does_not_differ_from_itself():
    a = OfSums(_shares(), share)
    found = difference([a], [a], 500)
    assert (found.difference, found.se, found.low, found.high, found.p) == (0, 0, 0, 0, 1)
    assert found.detectable is None  # not 0: nothing is known of how much such images differ


def test_the_swap_test_counts_all_swaps_of_few_images():
    from itertools import product

    a, b = np.array([3.0, 1, 0, 2, 1, 0]), np.array([3.0, 2, 1, 2, 3, 1])
    ones = np.full(6, 3.0)
    found = difference([OfSums(np.stack([a, ones], 1), share)], [OfSums(np.stack([b, ones], 1), share)], 40_000)
    sums = np.array([abs((np.array(signs) * (b - a)).sum()) for signs in product((1, -1), repeat=6)])
    seen = (b - a).sum()
    assert found.p == pytest.approx((sums > seen).mean() + (sums == seen).mean() / 2, abs=0.005)


def test_scipy_gives_the_same_swap_test():
    from scipy.stats import permutation_test

    rng = np.random.default_rng(8)
    a = rng.normal(0, 1, 50)
    b = a + rng.normal(0.25, 1, 50)
    ones = np.ones(50)
    ours = difference([OfSums(np.stack([a, ones], 1), mean)], [OfSums(np.stack([b, ones], 1), mean)], 20_000)
    theirs = permutation_test(
        (a, b), lambda x, y, axis=-1: (y - x).mean(axis=axis), permutation_type="samples", n_resamples=20_000,
        vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert 0.005 < ours.p < 0.5
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.01)


def test_seeds_are_averaged_and_pooled():
    runs = [OfSums(_shares(s, 50), mean) for s in range(5)]
    sizes = runs[0].sums[:, 1]
    runs = [OfSums(np.stack([r.sums[:, 0], sizes], axis=1), share) for r in runs]
    found = difference(runs[:2], runs[2:], 3000)
    assert found.a == pytest.approx(np.mean([value_of(r) for r in runs[:2]]))
    assert found.b_runs == tuple(value_of(r) for r in runs[2:])
    # With equal sizes the mean of the runs is that of their mean sums, whose plain comparison is the same.
    left, right = (OfSums(np.mean([r.sums for r in side], axis=0), share) for side in (runs[:2], runs[2:]))
    plain = difference([left], [right], 3000)
    assert (found.se, found.low, found.high) == pytest.approx((plain.se, plain.low, plain.high))
    assert found.p == pytest.approx(plain.p, abs=1e-9)


def test_different_images_cannot_be_paired():
    with pytest.raises(HarnessError, match="paired"):
        difference([OfSums(_shares(0, 5), share)], [OfSums(_shares(0, 6), share)], 100)


def test_mcnemar_is_the_exact_binomial_test():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, 80)) < np.array([[0.7], [0.8]])
        only_a, only_b, p = mcnemar(a, b)
        assert (only_a, only_b) == ((a & ~b).sum(), (b & ~a).sum())
        assert p == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)


def test_mcnemar_and_holm_agree_with_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    a = [True] * 30 + [False] * 12 + [True] * 4
    b = [True] * 30 + [True] * 12 + [False] * 4
    assert mcnemar(a, b)[2] == pytest.approx(tables.mcnemar([[30, 4], [12, 0]], exact=True).pvalue)
    ps = np.random.default_rng(0).random(15) ** 3
    assert holm(ps) == pytest.approx(multitest.multipletests(ps, method="holm")[1])
    assert benjamini_hochberg(ps) == pytest.approx(multitest.multipletests(ps, method="fdr_bh")[1])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == benjamini_hochberg([]) == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_agree_with_scipy_and_bound_each_other(ps):
    from scipy.stats import false_discovery_control

    assert benjamini_hochberg(ps) == pytest.approx(false_discovery_control(ps))
    for raw, fdr, family in zip(ps, benjamini_hochberg(ps), holm(ps)):
        assert raw <= fdr + 1e-12
        assert fdr <= family + 1e-12
        assert family <= min(1, len(ps) * raw) + 1e-12


def test_the_detectable_difference_is_detected_four_times_in_five():
    assert detectable_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    rng = np.random.default_rng(0)
    found = rng.normal(detectable_difference(0.7), 0.7, 100_000) / 0.7
    assert (np.abs(found) > 1.959964).mean() == pytest.approx(0.8, abs=0.005)


def test_coverage_and_type_one_error_are_near_what_is_stated():
    """A quick look; the slow test and docs/statistics.md look longer."""
    assert single("f1", 60, 200, 400)["covered"] == pytest.approx(0.95, abs=0.045)
    assert paired("f1", 60, 200, 400) == pytest.approx(0.05, abs=0.045)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_coverage_and_type_one_error_at_100_images(scenario):
    """Within 1 % and three standard errors of the simulation itself (0.35 % of 4000 trials)."""
    if scenario != "unlike":
        assert single(scenario, 100, 4000, 2000)["covered"] == pytest.approx(0.95, abs=0.01 + 0.0105)
    assert paired(scenario, 100, 4000, 1000) == pytest.approx(0.05, abs=0.01 + 0.0105)


def test_f1_of_nothing_is_zero():
    assert value_of(OfSums(np.zeros((2, 3)), f1)) == 0
