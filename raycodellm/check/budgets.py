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
        budget.limits(sweep.budget, Spent(round(num_tokens), 3600 * device_hours, 3600 * device_hours / at_once))
        for num_tokens, device_hours in ((tokens, hours), (fresh_tokens, confirming))
    )
    limit_lines = []
    for limit, confirm_limit in zip(searched, confirmed, strict=True):
        num_begun = _num_begun(chains, num_trials, limit.limit) if limit.key == "budget.tokens" else None
        limit_lines.append(_line(limit, confirm_limit.spent, num_trials, num_begun))
    return ["budget:", *limit_lines] if limit_lines else []


def _new_tokens(chains: Sequence[Chain]) -> list[int]:
    """Tokens that each trial adds to those before it: equal stages counted once, without the steps that a stage takes
    over from another one of its trunk."""
    counted_keys: set[str] = set()
    new_tokens = []
    trunk_steps = taken_steps(costs.unique_jobs(chains))
    for chain in chains:
        new_jobs = [job for job in chain.stages if job.key not in counted_keys]
        new_tokens.append(
            sum(job.stage.num_tokens - trunk_steps.get(job.key, 0) * job.stage.batch_tokens for job in new_jobs)
        )
        counted_keys |= {job.key for job in chain.stages}
    return new_tokens


def _num_begun(chains: Sequence[Chain], num_trials: int, limit: float) -> int:
    """Trials of the search that begin before the limit of tokens is reached, if all are as the planned ones."""
    spent = 0.0
    new_tokens = _new_tokens(chains)
    for number in range(num_trials):
        if spent >= limit:
            return number
        spent += new_tokens[number] if number < len(new_tokens) else sum(new_tokens) / len(new_tokens)
    return num_trials


def _line(limit: budget.Limit, confirming: float, num_trials: int, num_begun: int | None) -> str:
    """A line on one limit of the budget. `limit`: with what the search spends; `confirming`: what the confirmation
    spends at most; `num_begun`: trials that begin, None if that is not known."""
    name, about = limit.key.removeprefix("budget."), "" if num_begun is not None else "about "
    sentence = f"  {name}: the search's training takes {about}{limit}"
    if confirming:
        total = budget.Limit(limit.key, limit.spent + confirming, limit.limit, limit.unit)
        sentence += f", with the confirmation at most {about}{total}"
    if num_begun is None:  # a trial begins if the limit is not reached before it
        num_begun = math.ceil(num_trials * min(1.0, limit.limit / limit.spent) - 1e-9) if limit.spent else num_trials
    if num_begun < num_trials:
        consequence = ", so that there is no confirmation and no verdict" if confirming else ""
        return f"{sentence}; it does not fit: {about}{num_begun} of {num_trials} trials begin{consequence}"
    if confirming and limit.is_reached:
        return (
            f"{sentence}; the search's {num_trials} trials run, but no confirmation begins, so that there is no verdict"
        )
    if limit.spent > limit.limit:
        return f"{sentence}; all {num_trials} trials run: the last begins within the limit, and what has begun ends"
    if limit.spent + confirming > limit.limit:
        return f"{sentence}; the search fits, and the confirmation may be stopped before its last look"
    return f"{sentence}; it fits"
