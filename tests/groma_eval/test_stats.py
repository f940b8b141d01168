"""Bootstrap intervals against slow resampling, known variances and their own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.core import HarnessError
from groma_eval.stats import clustered_interval, paired_bootstrap


def test_the_interval_is_deterministic_and_seeded():
    rng = np.random.default_rng(0)
    values, clusters = rng.uniform(size=300), rng.integers(0, 60, 300)
    assert clustered_interval(values, clusters) == clustered_interval(values, clusters)
    assert clustered_interval(values, clusters) != clustered_interval(values, clusters, seed=1)


@pytest.mark.parametrize("more", [0, 100], ids=["even", "uneven"])
def test_the_interval_equals_slow_resampling(more):
    rng = np.random.default_rng(5)
    clusters = [f"image {n % 40}" for n in range(200)] + [f"image {n % 5}" for n in range(more)]
    values = rng.integers(0, 2, 200 + more).astype(float)
    groups = [values[[c == f"image {n}" for c in clusters]] for n in range(40)]
    means = []
    for _ in range(4000):
        drawn = np.concatenate([groups[i] for i in rng.integers(0, 40, 40)])
        means.append(drawn.mean())
    low, high = clustered_interval(values, clusters, resamples=4000)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.012)


def test_clusters_that_answer_alike_widen_the_interval():
    rng = np.random.default_rng(2)
    of_image = rng.integers(0, 2, 100).astype(float)
    values = np.repeat(of_image, 7)
    images = np.repeat(np.arange(100), 7)
    clustered = np.subtract(*clustered_interval(values, images)[::-1])
    independent = np.subtract(*clustered_interval(values, np.arange(700))[::-1])
    assert clustered / independent == pytest.approx(np.sqrt(7), rel=0.12)
    # The normal approximation for 100 independent images.
    assert clustered == pytest.approx(2 * 1.96 * of_image.std() / 10, rel=0.1)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_interval_stays_within_the_values(pairs):
    values, clusters = zip(*pairs)
    low, high = clustered_interval(values, clusters, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_one_image_has_no_spread():
    assert clustered_interval([1.0, 0.0, 0.0, 1.0], ["a"] * 4) == (0.5, 0.5)


def test_bad_calls_are_named():
    with pytest.raises(HarnessError, match="no values"):
        clustered_interval([], [])
    with pytest.raises(HarnessError, match="cluster"):
        clustered_interval([1.0, 0.0], ["a"])
    with pytest.raises(HarnessError, match="cluster"):
        paired_bootstrap([1.0], [1.0, 0.0], ["a"])


def test_equal_models_do_not_differ():
    values = np.random.default_rng(1).integers(0, 2, 50)
    assert paired_bootstrap(values, values, range(50)) == {"delta": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0}


def test_a_clear_difference_has_a_small_p_and_pairing_helps():
    rng = np.random.default_rng(4)
    difficulty = rng.uniform(size=400)
    a, b = difficulty + 0.02 + rng.normal(0, 0.02, 400), difficulty + rng.normal(0, 0.02, 400)
    found = paired_bootstrap(a, b, range(400))
    assert found["delta"] == pytest.approx(0.02, abs=0.005)
    assert 0 < found["lo"] < found["delta"] < found["hi"]
    assert found["p"] == pytest.approx(1 / 1001)
    swapped = paired_bootstrap(b, a, range(400))
    assert swapped["delta"] == -found["delta"]
    assert swapped["lo"] == pytest.approx(-found["hi"], abs=1e-12)
    unpaired = np.subtract(*clustered_interval(a, range(400))[::-1])
    assert found["hi"] - found["lo"] < unpaired / 5


def test_p_is_uniform_under_no_difference():
    rng = np.random.default_rng(9)
    ps = []
    for _ in range(200):
        a, b = rng.normal(size=(2, 60))
        ps.append(paired_bootstrap(a, b, range(60), resamples=200)["p"])
    assert np.mean(np.array(ps) < 0.1) == pytest.approx(0.1, abs=0.07)
