"""The judge's part of `raycodellm run`: after the trials, the win rates of their arms over the reference arm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm import evaluation, retrying, win_rates
from raycodellm.config import Judge, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from raycodellm.sweep import Run

Say = Callable[[str], object]
_TELL_SECONDS = 10.0
"""Between two lines about how many questions are answered."""


def missing_key(judge: Judge | None) -> str:
    """A line where the judge's key is missing on this machine; empty where it is not."""
    if judge is None:
        return ""
    try:
        evaluation.key_of(judge)
    except UserError as error:
        return f"evaluation.judge: {error}, or no win rate is known when the trials have ended"
    return ""


@dataclass(frozen=True)
class Judged:
    """How far the judge of a sweep has come."""

    is_complete: bool = True
    """False where the judge was given up: win rates are missing, and the trials are as they were."""
    is_new: bool = False
    """True if a win rate or a reason is known now that was not known before."""


def judge(run: Run, say: Say, waits_for: Say, should_stop: Callable[[], bool]) -> Judged:
    """Asks the judge of the sweep, if it has one, for the win rates that are missing.

    Raises `evaluation.Stopped` when told to stop; the judge's answers until then are kept.
    """
    settings = run.sweep.evaluation.judge
    if settings is None:
        return Judged()
    from raycodellm import sweep

    waits_for("the trials that the judge compares")
    results = retrying.patiently(lambda: sweep.read_results(run), "the trials' folders")
    known_rates = win_rates.read_win_rates(run.folder, say)
    told_at = -_TELL_SECONDS

    def items_of(number: int) -> pa.Table:
        return evaluation.read_trial_items(run.trial_folder(number), run.storage)

    def on_questions(num_answered: int, num_questions: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_SECONDS:
            told_at = time.monotonic()
            waits_for(
                f"the judge {settings.model}: {num_answered:,} of {num_questions:,} questions about an arm are answered"
            )

    waits_for(f"the judge {settings.model}")
    rows = [result.row() for result in results]
    new_rates = win_rates.judge_trials(run.file, rows, run.folder, items_of, known_rates, on_questions, should_stop)
    if new_rates is None:
        say("win rates: no arm has a complete trial with a seed of the reference arm, so nothing is judged")
        return Judged()
    return Judged(not new_rates.progress.why, new_rates != known_rates)
