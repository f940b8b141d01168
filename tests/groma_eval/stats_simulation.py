"""Simulated benchmarks whose true metrics are known: do intervals cover, do tests keep their level?

An image has a few questions and a difficulty that they share; the more questions, the harder the image, so that sizes
and scores hang together.

    python tests/groma_eval/stats_simulation.py [TRIALS]

prints the table of docs/statistics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, lru_cache, partial

import numpy as np

from groma_eval import statistics
from groma_eval.statistics import estimate, significance
from groma_eval.statistics.significance import difference
from groma_eval.statistics.sums import OfSums, f1, mean_of_shares, share

#: Scenario: (log-odds of a right answer, formula). ``uneven``: image sizes with a long tail; ``unlike``: the second
#: model answers whole images right or wrong, so that the two are equal on the mean alone.
SCENARIOS: dict[str, tuple[float, Callable]] = {
    "middle": (0.3, share),
    "high": (2.6, share),
    "very high": (4.2, share),
    "uneven": (1.5, share),
    "f1": (1.2, f1),
    "unlike": (1.2, share),
}
_TRUTH_IMAGES = 3_000_000
_DRAWS = 20  # different sets of resamples: :func:`main` keeps them, as drawing is most of the work


def _images(rng: np.random.Generator, scenario: str, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions of each image (n,) and the chance of a right answer (n,)."""
    sizes = rng.geometric(0.15, images) if scenario == "uneven" else 1 + rng.poisson(2.8, images)
    logit = SCENARIOS[scenario][0] + rng.normal(0, 1, images) - 0.1 * (sizes - 4)
    return sizes, 1 / (1 + np.exp(-logit))


def _answers(rng: np.random.Generator, scenario: str, sizes: np.ndarray, chance: np.ndarray) -> np.ndarray:
    right = rng.binomial(sizes, chance)
    columns = [right, right + rng.poisson(0.5 * sizes), sizes] if scenario == "f1" else [right, sizes]
    return np.stack(columns, axis=1).astype(float)


@cache
def _truth(scenario: str) -> float:
    rng = np.random.default_rng(123)
    totals = _answers(rng, scenario, *_images(rng, scenario, _TRUTH_IMAGES)).sum(axis=0)
    return float(SCENARIOS[scenario][1](totals))


def single(scenario: str, images: int, trials: int, resamples: int) -> dict[str, float]:
    """Shares of trials in which the 95 % interval covers the truth (``covered``), lies ``above`` or ``below`` it."""
    truth, formula = _truth(scenario), SCENARIOS[scenario][1]
    rng = np.random.default_rng(7)
    sides = np.zeros(2)
    for trial in range(trials):
        sums = OfSums(_answers(rng, scenario, *_images(rng, scenario, images)), formula)
        found = estimate({"x": sums}, resamples, trial % _DRAWS, {"x": (0, 100)})["x"]
        sides += found.low > truth, found.high < truth
    above, below = sides / trials
    return {"covered": 1 - above - below, "above": above, "below": below}


def paired(scenario: str, images: int, trials: int, resamples: int) -> float:
    """The share of trials in which two equal models get a p of at most 5 %."""
    formula = SCENARIOS[scenario][1]
    rng = np.random.default_rng(11)
    rejected = 0
    for trial in range(trials):
        sizes, chance = _images(rng, scenario, images)
        first = OfSums(_answers(rng, scenario, sizes, chance), formula)
        second = _answers(rng, scenario, sizes, chance)
        if scenario == "unlike":
            second[:, 0] = np.where(rng.random(images) < chance, sizes, 0)
        found = difference([first], [OfSums(second, formula)], resamples, trial % _DRAWS)
        rejected += found.p <= 0.05
    return rejected / trials


def categories(images: int, trials: int, most: int | None = None) -> float:
    """Coverage for a mean over categories of their recall: 40 of Zipf frequency, or 300 of at most ``most`` images."""
    rng = np.random.default_rng(3)
    kinds = 40 if most is None else 300
    odds = np.log(1 / rng.uniform(0.05, 0.6, kinds) - 1)
    hard = rng.normal(0, 0.7, 100_000)
    truth = 100 * np.mean([(1 / (1 + np.exp(-(o + hard)))).mean() for o in odds])
    frequency = 1 / np.arange(1, kinds + 1)
    covered = 0
    for trial in range(trials):
        if most is None:
            image = np.repeat(np.arange(images), 1 + rng.poisson(2.5, images))
            category = rng.choice(kinds, len(image), p=frequency / frequency.sum())
        else:
            category = np.repeat(np.arange(kinds), np.minimum(most, 1 + rng.poisson(2, kinds)))
            image = rng.integers(0, images, len(category))
        whole = 1 + rng.poisson(0.7, len(image))
        chance = 1 / (1 + np.exp(-(odds[category] + rng.normal(0, 0.7, images)[image])))
        statistic = mean_of_shares(images, image, category, rng.binomial(whole, chance), whole)
        found = estimate({"x": statistic}, 1000, trial, {"x": (0, 100)})["x"]
        covered += found.low <= truth <= found.high
    return covered / trials


def _keep_draws() -> None:
    """From here on the same resamples are not drawn twice."""
    bootstrap, swap = (
        lru_cache(2 * _DRAWS)(partial(_all, draw))
        for draw in (significance.bootstrap_weights, significance.swap_weights)
    )
    statistics.bootstrap_weights = significance.bootstrap_weights = bootstrap
    significance.swap_weights = swap


def _all(draw: Callable, *key: int) -> list[np.ndarray]:
    return list(draw(*key))


def main(trials: int) -> None:
    _keep_draws()
    print("| metric | images | covered | above | below | type I error |")
    print("|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        for images in (30, 100, 1500):
            count = trials if images < 1000 else trials // 2
            cells = ["–"] * 3
            if scenario != "unlike":
                found = single(scenario, images, count, 1000)
                cells = [f"{100 * found[key]:.1f}" for key in ("covered", "above", "below")]
            level = f"{100 * paired(scenario, images, count, 1000):.1f}"
            print(f"| {scenario} | {images} | {' | '.join(cells)} | {level} |", flush=True)
    for images, most in ((30, None), (100, None), (400, None), (400, 5)):
        cells = f"{100 * categories(images, trials // 2, most):.1f} | – | – | – |"
        print(f"| {'300 categories' if most else '40 categories'} | {images} | {cells}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
