"""Lines of text that say whether a sweep's trials fit its budget, as far as that is known before the sweep runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm import budget, search
from raycodellm.check import costs
from raycodellm.config import SweepFile
from raycodellm.stage_store import Chain, taken_steps
from raycodellm.storage_files import Spent


def lines(
    file: SweepFile, chains: Sequence[Chain], fresh: Sequence[Chain], hours: float, confirming: float, slots: int
) -> list[str]:
    """One line for each limit of the budget; none without a budget.

    `chains`: of the planned trials, in their order; `fresh`: of one fresh seed of the confirmation. `hours` and
    `confirming`: device hours of the search's training, and of the confirmation's at most. `slots`: worker groups at
    once.
    """
    sweep = file.example()
    confirm, num_trials = sweep.search.confirm, search.num_trials(file)
    tokens = sum(_new_tokens(chains)) * num_trials / len(chains)
    fresh_tokens = sum(_new_tokens(fresh)) * (confirm.seeds[-1] if confirm is not None else 0)
    at_once = costs.devices_at_once(sweep.scaling, slots)
    searched, confirmed = (
        budget.limits(sweep.budget, Spent(round(each), 3600 * device_hours, 3600 * device_hours / at_once))
        for each, device_hours in ((tokens, hours), (fresh_tokens, confirming))
    )
    found = []
    for one, more in zip(searched, confirmed, strict=True):
        begun = _num_begun(chains, num_trials, one.limit) if one.key == "budget.tokens" else None
        found.append(_line(one, more.spent, num_trials, begun))
    return ["budget:", *found] if found else []


def _new_tokens(chains: Sequence[Chain]) -> list[int]:
    """Tokens that each trial adds to those before it: equal stages counted once, without the steps that a stage takes
    over from another one of its trunk."""
    known: set[str] = set()
    added = []
    taken = taken_steps(costs.unique_jobs(chains))
    for chain in chains:
        new = [job for job in chain.stages if job.key not in known]
        added.append(sum(job.stage.num_tokens - taken.get(job.key, 0) * job.stage.batch_tokens for job in new))
        known |= {job.key for job in chain.stages}
    return added


def _num_begun(chains: Sequence[Chain], num_trials: int, limit: float) -> int:
    """Trials of the search that begin before the limit of tokens is reached, if all are as the planned ones."""
    spent = 0.0
    added = _new_tokens(chains)
    for number in range(num_trials):
        if spent >= limit:
            return number
        spent += added[number] if number < len(added) else sum(added) / len(added)
    return num_trials


def _line(one: budget.Limit, confirming: float, num_trials: int, begun: int | None) -> str:
    """`one`: the limit, and what the search spends; `confirming`: what the confirmation spends at most; `begun`: trials
    that begin, where that is known."""
    name, about = one.key.removeprefix("budget."), "" if begun is not None else "about "
    said = f"  {name}: the search's training takes {about}{one}"
    if confirming:
        in_all = budget.Limit(one.key, one.spent + confirming, one.limit, one.unit)
        said += f", with the confirmation at most {about}{in_all}"
    if begun is None:  # a trial begins if the limit is not reached before it
        begun = math.ceil(num_trials * min(1.0, one.limit / one.spent) - 1e-9) if one.spent else num_trials
    if begun < num_trials:
        lost = ", so that there is no confirmation and no verdict" if confirming else ""
        return f"{said}; it does not fit: {about}{begun} of {num_trials} trials begin{lost}"
    if confirming and one.is_reached:
        return f"{said}; the search's {num_trials} trials run, but no confirmation begins, so that there is no verdict"
    if one.spent > one.limit:
        return f"{said}; all {num_trials} trials run: the last begins within the limit, and what has begun ends"
    if one.spent + confirming > one.limit:
        return f"{said}; the search fits, and the confirmation may be stopped before its last look"
    return f"{said}; it fits"
