"""Swarm designs: points to run before anything is known."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from test_regression import SWEEP, WEIGHTS, sweep_file

from raycodellm import cli, regression
from raycodellm.regression.space_points import RandomAsker
from raycodellm.search.space import sample

SOURCES = tuple(f"{WEIGHTS}.{name}" for name in ("web", "code", "math"))


def weights_of(points) -> np.ndarray:
    return np.array([[point[name] for name in SOURCES] for point in points])


@pytest.mark.slow
def test_a_d_optimal_design_leaves_less_unknown_of_a_quadratic_form_than_random_points_do():
    file, rng = sweep_file(), np.random.default_rng(0)
    made = regression.design(file, "d-optimal", 14, 1.0, 0)
    by_chance = [[sample(file, RandomAsker(rng, at_an_end=0.0)) for _ in range(14)] for _ in range(3)]
    assert regression.information(file, made) > max(regression.information(file, one) for one in by_chance) + 5


@pytest.mark.parametrize("kind", regression.KINDS)
def test_designs_hold_mixtures_within_their_bounds_and_are_the_same_each_time(kind):
    file = sweep_file()
    made = regression.design(file, kind, 12, 0.7, 3)
    weights = weights_of(made)
    assert np.allclose(weights.sum(axis=1), 1) and weights[:, 1].max() <= 0.6 and weights[:, 2].max() <= 0.5
    assert made == regression.design(file, kind, 12, 0.7, 3) != regression.design(file, kind, 12, 0.7, 4)


def test_a_low_concentration_draws_mixtures_of_few_sources_and_a_high_one_even_mixtures():
    few, even = (weights_of(regression.design(sweep_file(), "dirichlet", 40, one, 0)) for one in (0.2, 20.0))
    assert np.mean(few.max(axis=1)) > np.mean(even.max(axis=1)) + 0.2
    assert even.std() < 0.5 * few.std()


def test_the_command_writes_points_that_the_sweep_takes(tmp_path, capsys):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("NAME", "demo").replace("SEARCH", "sampler: random"))
    into = tmp_path / "made" / "points.yaml"
    assert cli.main(["design", str(path), "--points", "5", "--storage", str(tmp_path), "--into", str(into)]) == 0
    enqueue = yaml.safe_load(into.read_text())["search"]["enqueue"]
    assert len(sweep_file("demo", f"sampler: random, enqueue: {enqueue}").enqueued()) == 5
    capsys.readouterr()
    assert cli.main(["design", str(path), "--points", "0", "--storage", str(tmp_path)]) == 2
    assert "--points: found 0" in capsys.readouterr().err
