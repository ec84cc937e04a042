"""Optuna's samplers, by the name that the sweep file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raycodellm.config import Search
from raycodellm.files import fingerprint
from raycodellm.search.journal_file import quiet_optuna

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def make_sampler(search: Search, seed: int, num_arms: int, num_asked: int) -> BaseSampler:
    """The sampler of the sweep file.

    `num_asked`: trials that the study holds already, enqueued ones among them. It enters the seed, so that a continued
    study does not draw the same points again.
    """
    from optuna import samplers

    quiet_optuna()
    drawn = int(fingerprint([seed, num_asked])[:8], 16)
    # Random arms before the model takes over. Optuna's default of 10 would be all of a small sweep.
    startup = min(10, max(2, num_arms // 3))
    if search.sampler == "tpe":
        return samplers.TPESampler(
            seed=drawn, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if search.sampler == "gp":
        return samplers.GPSampler(seed=drawn, n_startup_trials=startup)
    if search.sampler == "nsga2":
        return samplers.NSGAIISampler(seed=drawn, population_size=max(4, min(50, num_arms // 3)))
    return samplers.RandomSampler(seed=drawn)  # random, and what a grid leaves: its points are enqueued
