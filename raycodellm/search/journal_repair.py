"""Repairs a damaged Optuna journal from its good lines and from the results that the trials wrote.

The journal is a file of entries, one a line, which Optuna replays in order. Optuna numbers the trials by the order of
the entries that create them. So one lost line may shift the number of every later trial.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import Sweep, SweepFile
from raycodellm.records import TrialResult
from raycodellm.search.constraints import REFERENCE_TRIAL, breaches
from raycodellm.search.enqueued import enqueue_first_points, restore_enqueued_points
from raycodellm.search.journal_file import open_journal, quiet_optuna
from raycodellm.search.objectives import objective_values, rung_values
from raycodellm.search.space import by_key, by_name, distributions
from raycodellm.search.study import attributes, create_study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_CREATE_STUDY, _CREATE_TRIAL = 0, 4
"""Optuna's codes of these entries."""
_MAX_GUESSED_LINES = 6
"""Up to so many bad lines, every combination of guesses is tried; beyond, only two: all or none created a trial."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """The content of a journal file."""

    trials: tuple[FrozenTrial, ...]
    bad_lines: tuple[int, ...]
    """Numbers, from 1, of the lines that Optuna cannot replay."""


def read_journal(path: Path, file: SweepFile, results: Mapping[int, TrialResult]) -> Journal:
    """The trials that the journal's good lines tell of.

    A bad line may have created a trial or not. The guess is taken under which most trials agree with `results`, the
    trials' own results by their numbers.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    if lines:
        lines.pop()  # empty, or the half line of a process that was killed while it wrote
    entries = [_parsed_entry(line) for line in lines]
    trials, refused = _replay([entry for entry in entries if entry is not None])
    if refused:
        good = [index for index, entry in enumerate(entries) if entry is not None]
        for count in refused:
            entries[good[count]] = None
    bad = tuple(index for index, entry in enumerate(entries) if entry is None)
    if bad:
        guesses = (dict(zip(bad, creates_trial, strict=True)) for creates_trial in _guesses(bad))
        readings = (_replay(list(_with_guessed_trials(entries, guess, file)))[0] for guess in guesses)
        trials = max(readings, key=lambda reading: _agreement(reading, results, file, file.example().seed))
    return Journal(trials, tuple(index + 1 for index in bad))


def _parsed_entry(line: bytes) -> Entry | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("op_code"), int) else None


def _guesses(bad: Sequence[int]) -> Iterable[tuple[bool, ...]]:
    """For each bad line, whether it created a trial. The guess that no line did comes first."""
    if len(bad) <= _MAX_GUESSED_LINES:
        return itertools.product((False, True), repeat=len(bad))
    return ((creates_trial,) * len(bad) for creates_trial in (False, True))


def _with_guessed_trials(
    entries: Sequence[Entry | None], creates_trial: Mapping[int, bool], file: SweepFile
) -> Iterable[Entry]:
    """The good entries, with an empty trial for each bad line that is guessed to have created one."""
    sweep = file.example()
    if not any(entry and entry["op_code"] == _CREATE_STUDY for entry in entries[:1]):
        directions = [1 if objective.mode == "min" else 2 for objective in sweep.search.objectives]
        yield {"op_code": _CREATE_STUDY, "worker_id": "", "study_name": sweep.name, "directions": directions}
    for index, entry in enumerate(entries):
        if entry is not None:
            yield entry
        elif creates_trial[index]:
            yield {"op_code": _CREATE_TRIAL, "worker_id": "", "study_id": 0, "datetime_start": "2000-01-01T00:00:00"}


def _replay(entries: Sequence[Entry]) -> tuple[tuple[FrozenTrial, ...], set[int]]:
    """The first study's trials as Optuna understands the entries, and the places of the entries that it refuses."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Lines(BaseJournalBackend):
        """A read-only journal of the first `end` entries."""

        end = 0
        place = 0
        """Place of the entry that Optuna replays."""

        def read_logs(self, log_number_from: int) -> Iterator[Entry]:
            for index in range(log_number_from, self.end):
                self.index = index
                yield entries[index]

        def append_logs(self, logs: list[Entry]) -> None:
            raise PermissionError("a damaged journal is not written to")

    quiet_optuna()
    backend = Lines()
    storage, refused = JournalStorage(backend), set()
    backend.end, is_replayed = len(entries), False
    while not is_replayed:  # Optuna stops at an entry that it cannot replay, and then continues behind it
        try:
            storage.get_all_studies()
            is_replayed = True
        except Exception:  # inside Optuna an entry of the wrong shape may raise anything
            refused.add(backend.index)
    names = [study.study_name for study in storage.get_all_studies()]
    trials = storage.get_all_trials(storage.get_study_id_from_name(names[0])) if names else ()
    return tuple(trials), refused


def _agreement(trials: Sequence[FrozenTrial], results: Mapping[int, TrialResult], file: SweepFile, seed: int) -> int:
    """How many results agree with the trials, less how many do not."""
    by_number = dict(enumerate(trials))
    return sum(1 if agrees(by_number.get(number), result, file, seed) else -1 for number, result in results.items())


def agrees(trial: FrozenTrial | None, result: TrialResult, file: SweepFile, first_seed: int) -> bool:
    """True if the study's trial of the result's number has the result's arm, seed and parameters.

    `first_seed`: the sweep's seed, which is also the seed of each arm's first replicate.
    """
    if trial is None:
        return False
    attrs = {"arm": result.arm, "replicate": result.seed - first_seed}
    params = by_name(file, trial.params)
    # Near a corner, a mixture's units may give another millionth.
    round_trip = by_name(file, by_key(file, result.params))
    return result.arm < 0 or (params in (result.params, round_trip) and attrs.items() <= trial.user_attrs.items())


def rebuild_journal(
    path: Path, file: SweepFile, trials: Sequence[FrozenTrial], results: Mapping[int, TrialResult], reopened: set[int]
) -> None:
    """Writes the journal anew: each trial as its result tells, or as in `trials` where it has no result.

    Trials in `reopened` are left unfinished, so that the run continues them under their numbers. The old file is kept
    as `optuna.log.damaged`.
    """
    new_path = path.with_name(f"{path.name}.making")
    new_path.unlink(missing_ok=True)
    study, sweep = create_study(open_journal(new_path), file), file.example()
    breached = _known_breaches(sweep, {number: results[number] for number in results if number not in reopened})
    repaired = []
    for number in range(max([len(trials), *(n + 1 for n in (*results, *reopened))])):
        damaged = trials[number] if number < len(trials) else None
        trial = _repaired_trial(file, sweep, damaged, results.get(number), number in reopened)
        for name in breached.get(number, {}).keys() - trial.constraints.keys():
            trial.set_constraint(name, breached[number][name])
        repaired.append(trial)
    restore_enqueued_points(file, repaired)
    study.add_trials(repaired)
    enqueue_first_points(study, file)
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    os.replace(new_path, path)


def _known_breaches(sweep: Sweep, results: Mapping[int, TrialResult]) -> dict[int, dict[str, float]]:
    """How far each complete trial is beyond each constraint; empty if this is not known of all of them."""
    complete = {number: result for number, result in results.items() if result.state == "complete"}
    reference = complete.get(REFERENCE_TRIAL)
    by_trial = {
        number: breaches(sweep.search.constraints, result.metrics, reference.metrics if reference else None)
        for number, result in complete.items()
    }
    is_known = all(len(trial_breaches) == len(sweep.search.constraints) for trial_breaches in by_trial.values())
    return by_trial if is_known else {}


def _repaired_trial(
    file: SweepFile, sweep: Sweep, damaged: FrozenTrial | None, result: TrialResult | None, is_reopened: bool
) -> FrozenTrial:
    """The trial to write. `result` decides if it fits into the search space, else `damaged`, the trial of the damaged
    journal. Without either, an empty trial waits."""
    from optuna.trial import TrialState, create_trial

    fitting = None
    if result is not None and not agrees(damaged, result, file, sweep.seed):
        fitting = distributions(file, result.params)
    if result is not None and fitting is not None:
        attrs = attributes(result.arm, result.seed - sweep.seed)
        content = {"params": by_key(file, result.params), "distributions": fitting, "user_attrs": attrs}
    elif damaged is not None:
        content = {"params": damaged.params, "distributions": damaged.distributions, "user_attrs": damaged.user_attrs}
        content["system_attrs"] = damaged.system_attrs
    else:
        return create_trial(state=TrialState.WAITING)
    if result is not None and result.state == "complete" and not is_reopened:
        values = objective_values(sweep.search.objectives, result.metrics)
        steps = rung_values(file, result.rungs)
        return create_trial(state=TrialState.COMPLETE, values=values, intermediate_values=steps, **content)
    if result is not None and result.state == "pruned" and not is_reopened:
        steps = rung_values(file, result.rungs)
        last = [steps[max(steps)]] if steps else None  # as Optuna itself ends a pruned trial
        return create_trial(state=TrialState.PRUNED, values=last, intermediate_values=steps, **content)
    if result is not None and result.state == "failed" and not is_reopened:
        steps = rung_values(file, result.rungs)
        return create_trial(state=TrialState.FAIL, intermediate_values=steps, **content)
    # The trial may have an end that this version does not know.
    if damaged is not None and damaged.state.is_finished() and not is_reopened:
        steps = damaged.intermediate_values
        return create_trial(state=damaged.state, values=damaged.values, intermediate_values=steps, **content)
    waits = result is None and not is_reopened and damaged is not None and damaged.state == TrialState.WAITING
    return create_trial(state=TrialState.WAITING if waits else TrialState.RUNNING, **content)
