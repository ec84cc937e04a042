"""Optuna's samplers, by the name that the sweep file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raycodellm.search.journal_file import quiet_optuna

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def make_sampler(name: str, seed: int, num_arms: int) -> BaseSampler:
    """Optuna's sampler of that name; for `grid` and `qmc`, whose points are known before, a random one."""
    from optuna import samplers

    quiet_optuna()
    # Random arms before the model takes over. Optuna's default of 10 would be all of a small sweep.
    startup = min(10, max(2, num_arms // 3))
    if name == "tpe":
        return samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=startup)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, num_arms // 3)))
    return samplers.RandomSampler(seed=seed)
