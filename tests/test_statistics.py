"""No verdict without the seeds' noise: sweeps without an effect claim one in at most 5 % of cases; real ones are seen.

The noise is that of a measured sweep in bits per byte: 0.041 between seeds, a correlation of 0.79 between arms of equal
seeds, and evaluation items that leave a difference uncertain by ±0.0076.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from raycodellm.statistics import Variance, half_width, range_quantile, seed_difference, seed_noise

SEED_SD, CORRELATION = 0.041, 0.79
ITEMS = Variance((0.0076 / 1.96) ** 2, 398)
"""Noise of a difference of two arms over the same items."""


def simulated(sweeps: int, arms: int, seeds: int, effect: float = 0.0, correlation: float = CORRELATION) -> np.ndarray:
    """Scores by sweep, arm and seed; the last arm is better than the others by `effect`."""
    noise = np.random.default_rng(0)
    common = noise.normal(0, SEED_SD * math.sqrt(correlation), (sweeps, 1, seeds))
    own = noise.normal(0, SEED_SD * math.sqrt(1 - correlation), (sweeps, arms, seeds))
    items = noise.normal(0, math.sqrt(ITEMS.value / 2), (sweeps, arms, 1))
    scores = 1.7 + common + own + items
    scores[:, -1] -= effect
    return scores


def claims(scores: dict[int, dict[int, float]], num_means: int | None = None) -> int:
    """Arms that are called worse than the best one."""
    noise = seed_noise(scores)
    best = min(scores, key=lambda arm: np.mean(list(scores[arm].values())))
    found = 0
    for arm in scores.keys() - {best}:
        gap = seed_difference(scores[arm], scores[best], noise)
        if gap.variance.degrees:
            found += abs(gap.value) > half_width([gap.variance, ITEMS], num_means or len(scores))
    return found


def share_with_a_claim(scores: np.ndarray, num_means: int | None = None) -> float:
    sweeps = [dict(enumerate(map(dict, map(enumerate, sweep)))) for sweep in scores.tolist()]
    return sum(claims(sweep, num_means) > 0 for sweep in sweeps) / len(sweeps)


SWEEPS = 2_000
MOST = 0.05 + 2 * math.sqrt(0.05 * 0.95 / SWEEPS)


@pytest.mark.parametrize(("arms", "seeds"), [(6, 1), (6, 2), (6, 3), (2, 2), (2, 3)])
def test_at_most_five_percent_of_sweeps_without_an_effect_claim_one(arms, seeds):
    share = share_with_a_claim(simulated(SWEEPS, arms, seeds))
    assert share <= MOST
    assert (share > 0) == (seeds > 1), "one seed says nothing; more say as much as they can"


def test_the_best_was_chosen_by_looking_so_that_an_interval_for_one_pair_claims_too_much():
    assert share_with_a_claim(simulated(SWEEPS, 6, 3), num_means=2) > 0.25


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_replicates_and_arms_without_common_seeds_claim_no_more(lost):
    sweeps = simulated(SWEEPS, 4, 3, correlation=CORRELATION if lost else 0.0)
    found = 0
    for sweep in sweeps.tolist():
        first = {arm: 0 if lost else 10 * arm for arm in range(4)}
        scores = {arm: {first[arm] + seed: one for seed, one in enumerate(of)} for arm, of in enumerate(sweep)}
        if lost:
            del scores[0][0], scores[1][2]
        found += claims(scores) > 0
    assert found / SWEEPS <= MOST


def test_a_large_difference_is_seen_with_two_seeds_and_a_third_of_it_with_six():
    assert share_with_a_claim(simulated(200, 6, 2, effect=0.15)) > 0.95
    assert share_with_a_claim(simulated(200, 6, 6, effect=0.05)) > 0.9
    assert share_with_a_claim(simulated(200, 2, 3, effect=0.15)) > 0.95


def test_shared_seeds_make_a_difference_twice_as_sure():
    scores = {arm: dict(enumerate(of)) for arm, of in enumerate(simulated(1, 2, 400)[0].tolist())}
    noise = seed_noise(scores)
    assert noise.single.value == pytest.approx(SEED_SD**2, rel=0.15)
    assert noise.paired.value == pytest.approx(SEED_SD**2 * (1 - CORRELATION), rel=0.15)
    assert (noise.single.degrees, noise.paired.degrees) == (399, 399)
    paired = seed_difference(scores[0], scores[1], noise)
    apart = seed_difference(scores[0], {seed + 400: one for seed, one in scores[1].items()}, noise)
    assert paired.value == pytest.approx(apart.value) and (len(paired.seeds), apart.seeds) == (400, ())
    assert half_width([paired.variance]) < 0.5 * half_width([apart.variance])


def test_an_arm_with_one_seed_is_compared_by_the_noise_of_the_others():
    scores = {0: {0: 1.0, 1: 1.1, 2: 1.2}, 1: {0: 1.5, 1: 1.61, 2: 1.69}, 2: {1: 1.9}}
    gap = seed_difference(scores[2], scores[0], seed_noise(scores))
    assert gap.value == pytest.approx(0.8) and gap.seeds == (1,) and gap.variance.degrees == 2


def test_nothing_is_known_of_the_seeds_where_no_arm_has_two():
    noise = seed_noise({0: {0: 1.0}, 1: {0: 2.0}, 2: {}})
    assert (noise.single.degrees, noise.paired.degrees) == (0, 0)
    assert seed_noise({}) == seed_noise({0: {0: 1.0}})


def test_two_seeds_that_agree_by_chance_leave_the_difference_as_unsure_as_its_items():
    exact = half_width([Variance(0.0, 1), ITEMS])
    assert exact == pytest.approx(0.0076, rel=0.01)
    assert half_width([Variance(1e-4, 1)]) == pytest.approx(0.127062, rel=1e-4)


@pytest.mark.parametrize(("means", "degrees", "table"), [(3, 10, 3.877), (6, 10, 4.912), (6, 5, 6.033), (2, 10, 3.151)])
def test_range_quantiles_are_those_of_the_tables_over_the_square_root_of_two(means, degrees, table):
    assert range_quantile(means, degrees) * math.sqrt(2) == pytest.approx(table, abs=2e-3)
