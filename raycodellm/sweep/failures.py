"""Failed trials: when they are too many for the sweep to go on, and which of them may be run again."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from raycodellm import retrying
from raycodellm.config import SweepFile
from raycodellm.records import CONFIRM_SEEDS, TrialResult
from raycodellm.sweep.confirmation import Confirmation
from raycodellm.sweep.folder import Run
from raycodellm.sweep.trial_files import keep_aside
from raycodellm.tables.trials import trial_name
from raycodellm.verdict import Looks

_MOST_NAMED = 10
"""Trials that a line names."""


def too_many_failed(results: Sequence[TrialResult], max_failed: int | None, num_left: int = 1) -> str:
    """A line that tells why no further trial begins; empty while at most `max_failed` trials have failed, and where
    `num_left` says that no trial is left."""
    failed = [result for result in results if result.state == "failed"]
    if max_failed is None or len(failed) <= max_failed or num_left <= 0:
        return ""
    cause, num_alike = _commonest_cause([result.error or "no cause is known" for result in failed])
    names = _trial_names([trial.number for trial in failed])
    return (
        f"search.max_failed: {max_failed}, and {len(failed)} trials failed ({names}), so no further trial begins; the "
        f"commonest cause, of {num_alike} of them: {cause}; remove it, then continue with --retry-failed"
    )


def _commonest_cause(causes: Sequence[str]) -> tuple[str, int]:
    """The first example of the commonest cause, and how many there are like it, whatever numbers they name."""
    first_lines = [(cause.strip().splitlines() or [""])[0] for cause in causes]
    alike = [re.sub(r"\b[0-9a-f]*\d[0-9a-f]*\b", "#", line) for line in first_lines]
    commonest, num_alike = Counter(alike).most_common(1)[0]
    return first_lines[alike.index(commonest)], num_alike


def _trial_names(numbers: Sequence[int]) -> str:
    num_unnamed = len(numbers) - _MOST_NAMED
    return ", ".join(map(trial_name, numbers[:_MOST_NAMED])) + (f" and {num_unnamed} more" if num_unnamed > 0 else "")


def reopen_failed(run: Run, say: Callable[[str], Any]) -> set[int]:
    """Opens the failed trials again, but those that a verdict rests on; returns their numbers.

    Their results stay in their folders as `result.failed-1.json`, `result.failed-2.json` and so on.
    """
    results = run.results_at_start
    failed = [result for result in results if result.state == "failed"]
    final: dict[int, str] = {}
    if failed and (looks := Confirmation(run).standing(results).looks) is not None:
        final = why_final(run.file, results, looks)
    reopened = [result.number for result in failed if result.number not in final]
    for number in reopened:
        _keep_as_evidence(run, number)
    for reason in dict.fromkeys(final.values()):
        numbers = [number for number in final if final[number] == reason]
        say(f"--retry-failed: {_clause(numbers, 'stay')} failed, since {reason}")
    if reopened:
        say(f"--retry-failed: {_clause(reopened, 'run')} again under the same number, from the finished stages")
        vars(run).pop("at_start", None)  # the folders have changed since they were read
    elif not failed:
        say("--retry-failed: no trial has failed")
    return set(reopened)


def why_final(file: SweepFile, results: Sequence[TrialResult], looks: Looks) -> dict[int, str]:
    """The failed trials that are not run again, with the reason. Nobody who has seen the fresh seeds that a trial would
    be compared with may choose to run it again."""
    confirm = file.example().search.confirm
    if confirm is None:
        return {}
    has_seen = any(trial.phase == "confirm" and trial.arm != looks.reference for trial in results)
    num_decided = confirm.seeds[looks.num_decided - 1] if looks.num_decided else 0
    if looks.phase == "done":
        num_decided = confirm.seeds[-1]
    first_seed = file.example().seed + CONFIRM_SEEDS
    final = {}
    for result in results:
        if result.state != "failed":
            continue
        if result.phase == "search" and has_seen and (confirm.begun is None or result.number < confirm.begun.trials):
            final[result.number] = "the arms to confirm have been chosen without them"
        elif result.phase == "confirm" and result.seed - first_seed < num_decided:
            final[result.number] = "the look that they belong to has been decided without them"
    return final


def _clause(numbers: Sequence[int], verb: str) -> str:
    """`trial 0001 is run`, `trials 0001, 0004 are run`, `trial 0001 stays`, `trials 0001, 0004 stay`."""
    is_one = len(numbers) == 1
    words = {"run": ("is run", "are run"), "stay": ("stays", "stay")}[verb]
    return f"trial{'' if is_one else 's'} {_trial_names(numbers)} {words[not is_one]}"


def _keep_as_evidence(run: Run, number: int) -> None:
    """Renames the trial's result. The copy comes first: a driver that is killed in between loses nothing."""
    folder = run.trial_folder(number)
    files = set(retrying.patiently(folder.list, "the trial's folder"))
    names = (f"result.failed-{place}.json" for place in itertools.count(1))
    keep_aside(folder, next(name for name in names if name not in files))
