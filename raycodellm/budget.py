"""A sweep's budget: how much of each limit is spent, and which limit lets no further trial begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Budget, Scaling
from raycodellm.storage_files import Spent
from raycodellm.tables import formats


@dataclass(frozen=True)
class Limit:
    """One limit of a budget, and how much of it is spent."""

    key: str
    """The limit's key in the sweep file: `budget.tokens`."""
    spent: float
    limit: float
    unit: str
    """The unit that is counted, in words; of money the currency."""

    @property
    def is_reached(self) -> bool:
        return self.spent >= self.limit

    def __str__(self) -> str:
        """`1,048,576 of 2,000,000 tokens`, `3.2 of 10 device hours`, `12.50 of 20.00 EUR`; over the limit
        `2,097,152 tokens (the limit is 2,000,000)`."""
        amount = {"budget.tokens": "{:,.0f}".format, "budget.money": "{:,.2f}".format}.get(self.key, _hours)
        spent, limit = amount(self.spent), amount(self.limit)
        if self.spent > self.limit and spent != limit:
            return f"{spent} {self.unit} (the limit is {limit})"
        return f"{spent} of {limit} {self.unit}"

    @property
    def share(self) -> str:
        """`52 % of budget.tokens`."""
        return f"{int(100 * self.spent / self.limit)} % of {self.key}"


def _hours(hours: float) -> str:
    return formats.rounded(hours, 3)


def limits(budget: Budget, spent: Spent) -> tuple[Limit, ...]:
    """The limits that the budget sets, in the order of the sweep file."""
    hours = spent.device_seconds / 3600
    money = hours * (budget.price_per_device_hour or 0.0)
    rows = (
        ("tokens", spent.tokens, budget.tokens, "tokens"),
        ("device_hours", hours, budget.device_hours, "device hours"),
        ("wall_hours", spent.wall_seconds / 3600, budget.wall_hours, "hours"),
        ("money", money, budget.money, budget.currency or "money"),
    )
    return tuple(
        Limit(f"budget.{key}", spent_amount, limit, unit)
        for key, spent_amount, limit, unit in rows
        if limit is not None
    )


def first_reached(budget_limits: Sequence[Limit]) -> Limit | None:
    """The first limit that is reached; None while a further trial may begin."""
    return next((limit for limit in budget_limits if limit.is_reached), None)


def why_stopped(budget_limits: Sequence[Limit], num_left: int) -> str:
    """A line that tells why no further trial begins, and what continuing needs; empty while one may begin, and where
    `num_left` says that no trial is left."""
    reached = first_reached(budget_limits)
    if reached is None or num_left <= 0:
        return ""
    return (
        f"{reached.key}: {reached} are spent, so no further trial begins, and those that have begun end; raise "
        f"{reached.key} in the sweep file and run it again to go on"
    )


def devices_per_slot(scaling: Scaling) -> float:
    """Devices that one worker group holds: GPUs, or CPU cores where it has no GPU."""
    return scaling.workers * (scaling.gpus_per_worker or scaling.cpus_per_worker)


def document(budget_limits: Sequence[Limit], num_left: int) -> dict[str, Any] | None:
    """The limits as plain values, as `status --json` has them; None for a sweep without a budget.

    `num_left`: trials that have not begun. `stopped_by`: the key of the limit that lets them not begin, or null.
    """
    if not budget_limits:
        return None
    reached = first_reached(budget_limits) if num_left > 0 else None
    amounts = {
        limit.key.removeprefix("budget."): {"spent": limit.spent, "limit": limit.limit, "unit": limit.unit}
        for limit in budget_limits
    }
    return {"limits": amounts, "stopped_by": None if reached is None else reached.key}
