"""How far a sweep is: the search, or the look of its confirmation that waits for trials.

The standing is stored nowhere: `verdict.looks` finds it anew from the trials that have ended, so every driver and every
reader of the run folder finds the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from raycodellm import evaluation, retrying, search, storage_files, verdict
from raycodellm.config import SweepFile
from raycodellm.evaluation import Items
from raycodellm.records import TrialResult
from raycodellm.sweep.folder import Run
from raycodellm.tables import formats
from raycodellm.tables.trials import params_of
from raycodellm.verdict import Looks

logger = logging.getLogger(__name__)


class SilentStorage(Exception):
    """The storage has not answered, and what it keeps decides which trials run."""


@dataclass(frozen=True)
class Standing:
    """The trials that a sweep has, as far as is known, and the look that it waits for."""

    num_trials: int
    """Trials of the whole sweep as far as is known: the search's, and those of the looks up to the current one."""
    most_trials: int
    """Trials that the sweep may come to; more than `num_trials` while a look may ask for further ones."""
    looks: Looks | None
    """None for a sweep without a confirmation."""

    @property
    def pending(self) -> list[tuple[int, int]]:
        """The confirmation trials that the current look needs and that have not ended: arm and place. The reference's
        come first: stages that it shares with an arm are trained once its own trial has begun."""
        if self.looks is None:
            return []
        reference = self.looks.reference
        return [
            (trial.arm, trial.place) for trial in sorted(self.looks.pending, key=lambda trial: trial.arm != reference)
        ]


class Confirmation:
    """Finds how far a sweep is, again and again; keeps the items that were read."""

    def __init__(self, run: Run, *, decides: bool = False) -> None:
        """`decides`: which trials run depends on the answer, so that a storage that does not answer raises
        `SilentStorage`; else the items that it keeps are left out."""
        self._run, self._decides = run, decides
        self._items: dict[int, Items | None] = {}

    def standing(self, results: Sequence[TrialResult]) -> Standing:
        """`results`: of all trials that have begun. Items are read only where a look has all of its trials."""
        file = self._run.file
        if self._run.sweep.search.confirm is None:
            return Standing(search.num_trials(file), search.num_trials(file), None)
        rows = [result.row() for result in results]
        looks = verdict.looks(file, rows, self._items_of)
        pending = [(trial.arm, trial.place) for trial in looks.pending]
        num_known = search.known_trials(file, rows, pending, looks.phase == "search")
        return Standing(num_known, _most_trials(file, num_known, looks), looks)

    def _items_of(self, number: int) -> Items | None:
        """A trial's items; None where they cannot be read."""
        if number not in self._items:

            def read() -> Items:
                return evaluation.scored_items(self._run.trial_folder(number), self._run.storage, self._averages)

            self._items[number] = storage_files.attempt(partial(self._patiently, read), logger.warning)
        return self._items[number]

    def _patiently(self, read: Callable[[], Items]) -> Items:
        try:
            return retrying.patiently(read, "items")
        except OSError as error:
            if self._decides and retrying.is_passing(error):
                raise SilentStorage(str(error)) from error
            raise

    @cached_property
    def _averages(self) -> Mapping[str, Sequence[str]]:
        return evaluation.asked_averages(self._run.sweep.evaluation)


def _most_trials(file: SweepFile, num_known: int, looks: Looks) -> int:
    """Trials that the sweep may come to, of which `num_known` are certain."""
    confirm = file.example().search.confirm
    if looks.phase == "done" or confirm is None:
        return num_known
    if looks.phase == "search":
        return max(num_known, search.most_trials(file))
    num_open = len({trial.arm for trial in looks.pending} | {looks.reference})
    return num_known + num_open * (confirm.seeds[-1] - confirm.seeds[looks.look])


MOST_NAMED = 3
"""Arms of a look that are told with their parameters; of more the line that the search is over tells them."""


def confirmation_news(
    file: SweepFile, looks_before: Looks | None, looks: Looks, rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Lines on the news since `looks_before`: which arms are confirmed, and the verdicts of each look.

    `looks_before` is None at a driver's first look; the news that an earlier driver told are left out. `rows`: of all
    trials that have begun.
    """
    confirm = file.example().search.confirm
    if confirm is None or looks.phase == "search":
        return []
    names = {row["arm"]: f"arm {row['arm']} ({formats.params(params_of(row))})" for row in rows}
    if looks_before is None and looks.phase == "confirm" and any(row.get("phase") == "confirm" for row in rows):
        look_name = f"look {looks.look + 1} of {len(confirm.seeds)}, at {confirm.seeds[looks.look]} fresh seeds each"
        arms = [names[arm] for arm in sorted({trial.arm for trial in looks.pending})]
        return [f"the confirmation goes on with {look_name}: {enumeration(arms)}"]
    news = []
    if confirm.begun is not None and looks_before is not None and looks_before.phase == "search" and looks_before.arms:
        arms_text = enumeration([str(arm) for arm in looks.arms])
        return [f"the added trials have ended; the confirmed arms stay {arms_text}, which were chosen before"]
    if looks_before is None or looks_before.phase == "search":
        news.append(_search_end_text(looks, confirm.seeds, names))
    decided = looks.look if looks.phase == "done" else looks.look - 1
    if looks.verdicts and decided >= 0:
        look_name = f"look {decided + 1} of {len(confirm.seeds)} ({confirm.seeds[decided]} seeds)"
        news.append(f"{look_name}: {_verdicts_text(file, looks, names)}; {_next_step(looks, confirm.seeds)}")
    return news


def _search_end_text(looks: Looks, seeds: Sequence[int], names: Mapping[int, str]) -> str:
    if not looks.arms:
        return "the search is over: no arm beside the reference has a score, so none is confirmed"
    arms = enumeration([names[arm] for arm in looks.arms])
    return (
        f"the search is over: {arms} and the reference, {names[looks.reference or 0]}, are confirmed with "
        f"{seeds[0]} fresh seeds each, at most {seeds[-1]}"
    )


def _verdicts_text(file: SweepFile, looks: Looks, names: Mapping[int, str]) -> str:
    """`mean/bpb: arm 3 (pretrain.code_ratio 0.6) better -0.050 (-0.080 to -0.020; p 0.004)`, for each objective."""
    sentences = []
    for objective in file.example().search.objectives:
        verdicts = [arm_verdict for arm_verdict in looks.verdicts if arm_verdict.metric == objective.metric]
        are_many = len(verdicts) > MOST_NAMED
        labels = {arm_verdict.arm: f"arm {arm_verdict.arm}" for arm_verdict in verdicts} if are_many else names
        phrases = [_verdict_phrase(arm_verdict, looks, labels[arm_verdict.arm]) for arm_verdict in verdicts]
        sentences.append(f"{objective.metric}: {', '.join(phrases) or 'not known'}")
    return "; ".join(sentences)


def _verdict_phrase(arm_verdict: verdict.Verdict, looks: Looks, label: str) -> str:
    """The verdict on one arm; if there is no difference to the reference, the one of the two that has no score."""
    if not math.isnan(arm_verdict.difference.value):
        return f"{label} {arm_verdict.word} {verdict.difference(arm_verdict)}"
    without_score = "it" if looks.counted.get(looks.reference or 0) else "the reference"
    return f"{label} {arm_verdict.word}, since no fresh seed of {without_score} has a score"


def _next_step(looks: Looks, seeds: Sequence[int]) -> str:
    if looks.phase == "confirm":
        num_more = seeds[looks.look] - seeds[looks.look - 1]
        arms = sorted({trial.arm for trial in looks.pending})
        return f"{num_more} more seed{'s' * (num_more > 1)} for {arms_phrase(arms)}"
    is_known = all(arm_verdict.word != "not known" for arm_verdict in looks.verdicts)
    if is_known:
        return "every verdict is known"
    return "this was the last look" if looks.look + 1 == len(seeds) else "no further look would tell"


def arms_phrase(arms: Sequence[int]) -> str:
    """`arm 3`, or `arms 3, 5 and 7`."""
    return f"arm{'s' * (len(arms) > 1)} {enumeration([str(arm) for arm in arms])}"


def enumeration(names: Sequence[str]) -> str:
    """`a`, or `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
