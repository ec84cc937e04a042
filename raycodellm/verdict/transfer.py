"""Negative transfer: tasks in which an arm goes the other way than in the first objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycodellm.config import SweepFile
from raycodellm.evaluation import MEAN, asked_averages
from raycodellm.verdict.verdicts import Verdict

_OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Transfer:
    """An arm that differs in single tasks otherwise than it does overall."""

    overall: Verdict
    """The arm's verdict in the first objective."""
    against: tuple[Verdict, ...]
    """Tasks whose verdict is the opposite; where the overall verdict is neither better nor worse, all tasks that are
    known to be better or worse, if there are both."""
    unsure: tuple[Verdict, ...] = ()
    """Tasks whose mean goes against an overall verdict, and whose interval includes 0."""

    @property
    def is_known(self) -> bool:
        """True if noise does not account for it."""
        return bool(self.against)


def transfers(file: SweepFile, verdicts: Sequence[Verdict]) -> tuple[Transfer, ...]:
    """The arms that go another way in some task, or may; in the order of the verdicts.

    All verdicts of a sweep are one family, so that these hold at once: no correction is added, and none is left out.
    Averages over tasks, as which the objective may be one, are no tasks.
    """
    settings = file.example()
    objective = settings.search.objectives[0].metric
    differing = []
    for overall in (verdict for verdict in verdicts if verdict.metric == objective):
        tasks = [verdict for verdict in verdicts if verdict.arm == overall.arm and is_task(file, verdict.metric)]
        transfer = _arm_transfer(overall, tasks)
        if transfer.against or transfer.unsure:
            differing.append(transfer)
    return tuple(differing)


def is_task(file: SweepFile, metric: str) -> bool:
    """True unless the metric is an average over tasks, or the first objective."""
    settings = file.example()
    averages = {*asked_averages(settings.evaluation), settings.search.objectives[0].metric}
    return metric not in averages and metric.partition("/")[0] != MEAN


def _arm_transfer(overall: Verdict, tasks: Sequence[Verdict]) -> Transfer:
    opposite = _OPPOSITE.get(overall.word)
    if opposite is None:
        words = {verdict.word for verdict in tasks}
        mixed = {"better", "worse"} <= words
        return Transfer(overall, tuple(verdict for verdict in tasks if mixed and verdict.word in _OPPOSITE))
    sign = overall.difference.value
    unsure = [verdict for verdict in tasks if verdict.word == "not known" and verdict.difference.value * sign < 0]
    return Transfer(overall, tuple(verdict for verdict in tasks if verdict.word == opposite), tuple(unsure))
