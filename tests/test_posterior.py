"""The posterior of the score's surface: its intervals cover, also at the point that was chosen for its prediction."""

from __future__ import annotations

import numpy as np
import pytest

from raycodellm.regression import Posterior, SeedSpread

GRID = np.linspace(0, 1, 21)[:, None]
ENDS = np.array([[1.0, -1.0]])


def made(truth, noise: float, seed: int, num_arms: int = 12):
    """(places of shape (arms, 1), scores)"""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (num_arms, 1))
    return x, truth(x[:, 0]) + noise * rng.normal(size=num_arms)


def best_against(truth, noise: float, seed: int):
    """(band of the predicted best's difference to the first arm, true difference)"""
    x, y = made(truth, noise, seed)
    found = Posterior.of(x, y, [True])
    best = GRID[int(np.argmin(found.mean(GRID)))]
    band = found.band(np.vstack([best, x[0]]), ENDS)
    return band, float(truth(best)[0] - truth(x[0])[0])


@pytest.mark.parametrize("noise", [0.1, pytest.param(0.4, marks=pytest.mark.slow)])
def test_ninety_percent_intervals_of_the_chosen_best_cover_its_true_difference(noise):
    curves = (lambda at: (at - 0.4) ** 2 * 3, lambda at: np.exp(-2 * at), lambda at: np.sin(6 * at) / 2)
    covered = []
    for seed in range(24):
        band, truth = best_against(curves[seed % 3], noise, seed)
        covered.append(band.low[0] - 1e-9 <= truth <= band.high[0] + 1e-9)
    assert np.mean(covered) >= 0.8  # of 24; the waves turn beyond their last arm, which no arm foretells


@pytest.mark.slow
def test_where_nothing_matters_a_better_point_is_claimed_in_at_most_a_twentieth_of_sweeps():
    claims = [best_against(lambda at: 0.0 * at, 0.2, seed)[0].high[0] < 0 for seed in range(40)]
    assert np.mean(claims) <= 0.05


def test_more_seeds_per_arm_narrow_the_intervals_and_their_spread_tells_the_noise():
    x, y = made(lambda at: at, 0.02, 0)
    one = Posterior.of(x, y, [True])
    _, means = made(lambda at: at, 0.02 / 4**0.5, 0)
    many = Posterior.of(x, means, [True], np.full(12, 4.0), SeedSpread(36 * 0.02**2, 36))
    widths = [float(np.mean(found.band(GRID).high - found.band(GRID).low)) for found in (one, many)]
    assert widths[1] < widths[0]
    noisy = Posterior.of(x, y, [True], np.full(12, 4.0), SeedSpread(36 * 1.0**2, 36))
    assert noisy.noise > 10 * many.noise and noisy.noise == pytest.approx(1.0, rel=0.3)


def test_the_residual_of_an_arm_does_not_know_its_score():
    x, y = made(lambda at: at, 0.02, 0)
    before = Posterior.of(x, y, [True])
    member = before.members[0]
    y[4] += 0.005
    after = next(one for one in Posterior.of(x, y, [True]).members if one.name == member.name)
    moved = after.left_out() - member.left_out()
    assert moved[4] == pytest.approx(0.005)


def test_joint_draws_have_the_means_and_widths_of_the_bands():
    x, y = made(lambda at: (at - 0.4) ** 2, 0.05, 3)
    found = Posterior.of(x, y, [True])
    drawn = found.draws(GRID, np.eye(len(GRID)), 2000, np.random.default_rng(0))
    band = found.band(GRID)
    assert drawn.mean(axis=0) == pytest.approx(band.value, abs=0.02)
    inside = np.mean((band.low <= drawn) & (drawn <= band.high), axis=0)
    assert inside == pytest.approx(np.full(len(GRID), 0.9), abs=0.04)


def test_points_far_from_all_arms_are_less_known_than_points_between_them():
    x, y = made(lambda at: 0.5 * at, 0.02, 1)
    found = Posterior.of(x * 0.4 + 0.3, y, [True])
    width = found.band(GRID).high - found.band(GRID).low
    assert width[0] > width[10] and width[-1] > width[10]


def test_a_posterior_needs_three_arms():
    with pytest.raises(ValueError, match="found 2 arms"):
        Posterior.of(np.zeros((2, 1)), np.zeros(2), [True])
