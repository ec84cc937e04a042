"""A sweep that a user runs, continues, disturbs and changes, through `raycodellm run` without Ray."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver
from early_stopping_cluster import EarlyStoppingCluster

from raycodellm import config, search, sweep
from raycodellm.commands import SweepRequest, start
from raycodellm.commands import run as running
from raycodellm.config import UserError
from raycodellm.dispatch import TrialOutcome
from raycodellm.files import Folder
from raycodellm.records import as_json
from raycodellm.sweep import journal_copy, ownership
from raycodellm.sweep.ownership import Owner

SILENCE_SECONDS = 60.0


class KilledError(BaseException):
    """The driver's end. No handler of errors in the driver may catch it."""


@dataclass(frozen=True)
class Session:
    """One `raycodellm run`, and what happens to it."""

    ends: str = "whole"
    """`whole`, `stopped` after some trials, `killed` at a write, `silent`: a storage that is away for a minute from a
    write on."""
    after: int = 0
    """Trials that end before it is stopped; writes before it is killed or the storage falls silent."""
    order: int = 0
    """Seed of the order in which running trials end, and of those that fail."""
    failing: float = 0.0
    """Share of the trials that fail."""
    retry_failed: bool = False


def _write(folder: Folder, name: str, data: bytes) -> None:
    (path := Path(folder.uri) / name).parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Disk:
    """The storage that a driver writes to. It may kill the driver, or be away for a minute."""

    def __init__(self, patch: pytest.MonkeyPatch, is_remote: bool) -> None:
        """`is_remote`: local folders pretend to be an object store."""
        if is_remote:
            patch.setattr(Folder, "local", property(lambda folder: None))
            patch.setattr(Folder, "write_bytes", _write)
            patch.setattr(journal_copy, "MERGE_BYTES", 4_000)
        self.num_writes, self.now, self.silent_until, self.is_dead = 0, 0.0, -1.0, False
        self.session = Session()
        self.is_asked_by_workers = False
        for name in ("write_bytes", "delete"):
            patch.setattr(Folder, name, self._watched(getattr(Folder, name)))
        for name in ("read_bytes", "list", "exists"):
            patch.setattr(Folder, name, self._answering(getattr(Folder, name)))
        patch.setattr("raycodellm.retrying.time", SimpleNamespace(sleep=self._wait))

    def begin(self, session: Session) -> None:
        self.session, self.num_writes, self.silent_until, self.is_dead = session, 0, -1.0, False

    def _wait(self, seconds: float) -> None:
        self.now += seconds

    def _watched(self, method: Any) -> Any:
        def watched_method(folder: Folder, *arguments: Any, **options: Any) -> Any:
            if not self.is_asked_by_workers:
                at_moment = self.num_writes == self.session.after
                self.is_dead = self.is_dead or (at_moment and self.session.ends == "killed")
                if at_moment and self.session.ends == "silent":
                    self.silent_until = self.now + SILENCE_SECONDS
                self.num_writes += not self.is_dead
            return self._answering(method)(folder, *arguments, **options)

        return watched_method

    def _answering(self, method: Any) -> Any:
        def answering_method(folder: Folder, *arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                raise KilledError
            if self.now < self.silent_until and not self.is_asked_by_workers:
                raise ConnectionError(f"{folder}: 503 SlowDown")
            return method(folder, *arguments, **options)

        return answering_method


class Slots(EarlyStoppingCluster):
    """Slots that train nothing, some of whose evaluations fail, with early stopping and without."""

    def __init__(self, disk: Disk) -> None:
        Cluster.__init__(self)
        self.num_measured, self.disk, self.fails = {}, disk, lambda number: False
        self.loop: Any = None

    def begin(self) -> None:
        if self.run.sweep.search.early_stopping is not None:
            super().begin()

    def end(self) -> None:
        if self.loop is not None:
            super().end()

    def begin_for(self, run: sweep.Run, fails: Callable[[int], bool]) -> None:
        self.run, self.fails = run, fails
        if run.sweep.search.early_stopping is not None:
            import asyncio

            self.loop = self.loop or asyncio.new_event_loop()
        self.begin()

    def _run(self, number: int, chain: Any, finished: dict[str, Any], *contender: Any) -> TrialOutcome:
        self.disk.is_asked_by_workers = True
        try:
            stops = self.run.sweep.search.early_stopping is not None
            run_jobs = super()._run if stops else Cluster._run.__get__(self)
            outcome = run_jobs(number, chain, finished, *(contender if stops else ()))
            if self.fails(number) and chain.evaluation.key in outcome.outcomes and not finished_all(chain, finished):
                stages = {job.key: outcome.outcomes[job.key] for job in chain.stages}
                return TrialOutcome(stages, error="EvaluationError: the task cannot be read", rungs=outcome.rungs)
            return outcome
        finally:
            self.disk.is_asked_by_workers = False


def finished_all(chain: Any, finished: dict[str, Any]) -> bool:
    return chain.evaluation.key in finished


CLAIM = Owner.claim


class World:
    """One storage with one sweep, whose sweep file changes."""

    def __init__(
        self, text: str, folder: Path, patch: pytest.MonkeyPatch, *settings: str, is_remote: bool = False
    ) -> None:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("LOCAL", "REMOTE"):
            patch.setattr(ownership, name, replace(getattr(ownership, name), settle=0.0))
        self.text, self.folder = text, folder
        self.storage = Folder(str(folder / "storage"))
        self.settings = dict(setting.split("=", 1) for setting in settings)
        self.said: list[str] = []
        self.disk = Disk(patch, is_remote)
        self.slots = Slots(self.disk)
        self.trial_facts: dict[int, tuple[Any, ...]] = {}
        """The arm, the seed and the parameters of each trial."""
        self.results: dict[int, bytes] = {}
        """How each trial ended."""
        self.num_kills = 0
        self.account: sweep.Account | None = None
        """The last account of a driver that ran a trial and was not killed; None where the trials are others since."""
        self.is_whole = True
        """False after a driver that was killed, until another one has come to its end."""
        patch.setattr(Owner, "runs_here", lambda owner, found: False)
        patch.setattr(Owner, "claim", lambda owner, say: CLAIM(owner, say) or self._claimed())
        self._has_claimed = False
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr("builtins.print", lambda *words, **_: self.said.append(" ".join(map(str, words))))
        patch.setattr(running, "_run_on_cluster", self._run_on_cluster)
        patch.setattr("raycodellm.preflight.check_before_start", lambda *_, **options: SimpleNamespace(groups=None))
        self._patch = patch

    def _claimed(self) -> None:
        self._has_claimed = True

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple(f"{key}={value}" for key, value in self.settings.items())

    @property
    def file(self) -> config.SweepFile:
        return config.parse(self.text, overrides=self.overrides)

    @property
    def run_folder(self) -> Path:
        return self.folder / "storage" / "small"

    def content(self) -> dict[str, bytes]:
        """All files of the run folder but its log."""
        paths = [path for path in self.run_folder.rglob("*") if path.is_file() and path.name != "run.log"]
        return {str(path.relative_to(self.run_folder)): path.read_bytes() for path in paths}

    def change(self, **settings: str) -> bool:
        """Changes the sweep file where the run can go on with the change; else nothing, and the run folder is as it
        was. Keys are written with `__` for a point."""
        earlier_settings, content = dict(self.settings), self.content()
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        try:
            self._session = Session()
            sweep.open_run(self.file, self.storage, self.said.append)
        except UserError as error:
            assert "\n" not in str(error)
            self.settings = earlier_settings
            assert self.content() == content
            return False
        return True

    def run(self, session: Session) -> int | None:
        """The exit code; None for a driver that was killed."""
        self._session, self._has_claimed, self.account = session, False, None
        self.disk.begin(session)
        request = SweepRequest(
            "small.yaml", storage_uri=self.storage.uri, tree=self.file.tree, retry_failed=session.retry_failed
        )
        try:
            code = start.run(request, self.said.append)
            self.is_whole = True
        except KilledError:
            self.num_kills += 1
            code, self.is_whole = None, False
        except (ConnectionError, UserError) as error:  # before anything has begun
            assert session.ends == "silent" and "503" in str(error) and not self._has_claimed, error
            code, self.is_whole = 2, False
        self.disk.begin(Session())
        return code

    def close(self) -> None:
        self.slots.end()

    def _run_on_cluster(self, task: Any, *_: Any) -> None:
        """Runs the trials that are left, as Ray Tune would."""
        session, run, order = self._session, task.run, random.Random(self._session.order)
        now = itertools.count(0.0, 10.0)
        self.slots.begin_for(run, lambda number: _chance(session.order, number) < session.failing)
        driver = Driver(run, self.slots, self._patch, lambda: next(now))
        num_left = task.num_left + search.most_confirm_trials(run.file)
        at_once = search.trials_at_once(run.file, int(self.settings.get("scaling.slots", "2")))
        running: list[tuple[str, dict[str, Any]]] = []
        num_ended = 0
        try:
            while True:
                suggestion = driver.suggest(str(num_left)) if num_left and len(running) < at_once else None
                if isinstance(suggestion, dict):
                    running.append((str(num_left), suggestion))
                    num_left -= 1
                    continue
                if not running:
                    break
                if session.ends == "stopped" and num_ended == session.after:
                    for _, settings in running:
                        _write_started(driver, settings)
                    raise KeyboardInterrupt
                name, settings = running.pop(order.randrange(len(running)))
                driver.end(name, driver.carry_out(settings))
                driver.look()
                num_ended += 1
        finally:
            if not self.disk.is_dead:
                with contextlib.suppress(OSError):  # as the watchdog does
                    driver.results.write_table()
                with contextlib.suppress(OSError):
                    driver.account.write()
                self.account = driver.account

    def forget(self) -> None:
        """Forgets begun trials whose own files are lost and that have not ended in the study either."""
        files = sweep.Run(self.file, self.storage).at_start
        kept_numbers = {number for number, trial_files in files.items() if trial_files.result or trial_files.started}
        self.trial_facts = {number: fact for number, fact in self.trial_facts.items() if number in kept_numbers}

    def note(self) -> Iterator[str]:
        """A line for each trial that is another one now, or has ended otherwise, than when last noted."""
        run = sweep.Run(self.file, self.storage)
        for number, files in run.at_start.items():
            trial = files.result or files.started
            if trial is not None:
                fact = (trial.arm, trial.seed, sorted(trial.params.items()))
                if self.trial_facts.setdefault(number, fact) != fact:
                    yield f"trial {number} was {self.trial_facts[number]} and is {fact}"


def _chance(order: int, number: int) -> float:
    return int(hashlib.sha256(f"{order} {number}".encode()).hexdigest()[:8], 16) / 16**8


def _write_started(driver: Driver, settings: dict[str, Any]) -> None:
    """As a trial does that has begun and waits for its jobs."""
    result = driver.results.of(settings["number"])
    chain = driver.context.chain(result.params, result.seed)
    keys = tuple(job.key for job in chain.stages)
    started = replace(result, stages=keys, evaluation=chain.evaluation.key)
    driver.context.run.trial_folder(result.number).write_json("trial.json", as_json(started))
