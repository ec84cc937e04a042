"""Arms of a sweep to show before it runs."""

from __future__ import annotations

from typing import Any

from raycodellm.config import SweepFile
from raycodellm.search.arms import first_points, grid, num_arms
from raycodellm.search.journal_file import quiet_optuna
from raycodellm.search.space import by_name, keyed_points, point_text, sample


def preview(file: SweepFile, limit: int) -> list[dict[str, Any]]:
    """The first `limit` arms. With `grid` and `qmc` they are arms that will run; with any other sampler the points that
    are tried first, then random points as an example."""
    search = file.example().search
    if search.sampler == "grid":
        return grid(file)[:limit]
    import optuna

    from raycodellm.search.distinct import DistinctSampler

    quiet_optuna()
    first = keyed_points(file, first_points(file))
    shown = {point_text(point) for point in first}
    sampler = DistinctSampler(file, num_arms(file), lambda point: point_text(point) in shown, without_model=True)
    study = optuna.create_study(sampler=sampler)
    for point in first:
        study.enqueue_trial(point)
    arms: list[dict[str, Any]] = []
    for _ in range(min(limit, num_arms(file))):
        trial = study.ask()
        sample(file, trial)
        shown.add(point_text(trial.params))
        arms.append(by_name(file, trial.params))
    return arms
