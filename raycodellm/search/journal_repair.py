"""A damaged Optuna journal made right again: its good lines, and what the trials themselves wrote down.

The journal is a file of entries, one a line, that are replayed in their order. A trial's number is the place, among its
like, of the entry that creates the trial. So a line that is lost may shift every number after it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import SweepFile
from raycodellm.records import TrialResult
from raycodellm.search import space as search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_CREATE_STUDY, _CREATE_TRIAL = 0, 4
"""Optuna's codes of these entries."""
_MOST_GUESSED = 6
"""Bad lines for which every guess of what they were is tried; of more, only two."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """The file's content."""

    trials: tuple[FrozenTrial, ...]
    bad_lines: tuple[int, ...]
    """Numbers, from 1, of the lines that Optuna cannot replay."""


def read(path: Path, file: SweepFile, results: Mapping[int, TrialResult]) -> Journal:
    """The trials that the good lines tell of. A bad line may have created a trial or not: of these readings the one
    that agrees with more of `results`, by their numbers, is taken."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    if lines:
        lines.pop()  # what follows the last line's end: nothing, or half a line of a process that was killed
    entries = [_entry(line) for line in lines]
    trials, refused = _replay([entry for entry in entries if entry is not None])
    if refused:
        good = [place for place, entry in enumerate(entries) if entry is not None]
        for count in refused:
            entries[good[count]] = None
    bad = tuple(place for place, entry in enumerate(entries) if entry is None)
    if bad:
        guesses = (dict(zip(bad, made, strict=True)) for made in _guesses(bad))
        readings = (_replay(list(_filled(entries, guess, file)))[0] for guess in guesses)
        trials = max(readings, key=lambda found: _agreement(found, results, file, file.example().seed))
    return Journal(trials, tuple(place + 1 for place in bad))


def _entry(line: bytes) -> Entry | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("op_code"), int) else None


def _guesses(bad: Sequence[int]) -> Iterable[tuple[bool, ...]]:
    """For each bad line, whether it created a trial; that none did comes first."""
    if len(bad) <= _MOST_GUESSED:
        return itertools.product((False, True), repeat=len(bad))
    return ((made,) * len(bad) for made in (False, True))


def _filled(entries: Sequence[Entry | None], creates_trial: Mapping[int, bool], file: SweepFile) -> Iterable[Entry]:
    sweep = file.example()
    if not any(entry and entry["op_code"] == _CREATE_STUDY for entry in entries[:1]):
        directions = [1 if objective.mode == "min" else 2 for objective in sweep.search.objectives]
        yield {"op_code": _CREATE_STUDY, "worker_id": "", "study_name": sweep.name, "directions": directions}
    for place, entry in enumerate(entries):
        if entry is not None:
            yield entry
        elif creates_trial[place]:
            yield {"op_code": _CREATE_TRIAL, "worker_id": "", "study_id": 0, "datetime_start": "2000-01-01T00:00:00"}


def _replay(entries: Sequence[Entry]) -> tuple[tuple[FrozenTrial, ...], set[int]]:
    """The first study's trials as Optuna understands the entries, and the places of those that it refuses."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Lines(BaseJournalBackend):
        """The entries up to `end`, as a journal that is only read."""

        end = 0

        def read_logs(self, log_number_from: int) -> list[Entry]:
            return list(entries[log_number_from : self.end])

        def append_logs(self, logs: list[Entry]) -> None:
            raise PermissionError("a damaged journal is not written to")

    search.quiet()
    backend = Lines()
    storage, refused = JournalStorage(backend), set()
    for place in range(len(entries)):  # one by one: Optuna goes on behind an entry that it could not replay
        backend.end = place + 1
        try:
            storage.get_all_studies()
        except Exception:  # an entry of the wrong shape may raise anything in there
            refused.add(place)
    studies = storage.get_all_studies()
    return (
        tuple(storage.get_all_trials(storage.get_study_id_from_name(studies[0].study_name))) if studies else ()
    ), refused


def _agreement(trials: Sequence[FrozenTrial], results: Mapping[int, TrialResult], file: SweepFile, seed: int) -> int:
    places = dict(enumerate(trials))
    return sum(1 if agrees(places.get(number), result, file, seed) else -1 for number, result in results.items())


def agrees(trial: FrozenTrial | None, result: TrialResult, file: SweepFile, first_seed: int) -> bool:
    """True if the study's trial of the result's number is the trial that the result tells of.

    `first_seed`: the sweep's, which its arms' first replicates have.
    """
    if trial is None:
        return False
    attrs = {"arm": result.arm, "replicate": result.seed - first_seed}
    params = search.named(file, trial.params)
    return result.arm < 0 or (params == result.params and attrs.items() <= trial.user_attrs.items())


def rebuild(
    path: Path, file: SweepFile, trials: Sequence[FrozenTrial], results: Mapping[int, TrialResult], again: set[int]
) -> None:
    """Writes the journal anew, each trial as its result tells of it, else as in `trials`. Those in `again` are open, so
    that the run takes them up under their numbers. The old file stays beside it, as `optuna.log.damaged`."""
    import optuna

    sweep = file.example()
    made = path.with_name(f"{path.name}.making")
    made.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=search.journal(made),
        study_name=sweep.name,
        directions=["minimize" if objective.mode == "min" else "maximize" for objective in sweep.search.objectives],
    )
    for number in range(max([len(trials), *(n + 1 for n in (*results, *again))])):
        there = trials[number] if number < len(trials) else None
        study.add_trial(_trial(file, there, results.get(number), number in again))
    search.enqueue_first_points(study, file)
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    os.replace(made, path)


def _trial(file: SweepFile, there: FrozenTrial | None, result: TrialResult | None, again: bool) -> FrozenTrial:
    """`result` decides where it is given and fits into the search space. A trial of which nothing is known waits."""
    from optuna.trial import TrialState, create_trial

    sweep = file.example()
    fitting = (
        None if result is None or agrees(there, result, file, sweep.seed) else search.distributions(file, result.params)
    )
    if result is not None and fitting is not None:
        attrs: dict[str, Any] = {"arm": result.arm, "replicate": result.seed - sweep.seed}
        known = {"params": search.keyed(file, result.params), "distributions": fitting, "user_attrs": attrs}
    elif there is not None:
        known = {"params": there.params, "distributions": there.distributions, "user_attrs": there.user_attrs}
        known["system_attrs"] = there.system_attrs
    else:
        return create_trial(state=TrialState.WAITING)
    if result is not None and result.state == "complete" and not again:
        values = search.objective_values(sweep.search.objectives, result.metrics)
        return create_trial(state=TrialState.COMPLETE, values=values, **known)
    if result is not None and result.state == "failed" and not again:
        return create_trial(state=TrialState.FAIL, **known)
    if there is not None and there.state.is_finished() and not again:  # an end that this version does not know
        return create_trial(state=there.state, values=there.values, **known)
    waits = result is None and not again and there is not None and there.state == TrialState.WAITING
    return create_trial(state=TrialState.WAITING if waits else TrialState.RUNNING, **known)
