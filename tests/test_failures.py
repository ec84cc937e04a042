"""Failed trials: the sweep stops when they are too many, and runs them again when it is asked to."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, search, storage_files, sweep
from raycodellm.commands import SweepRequest, start
from raycodellm.dispatch import TrialOutcome
from raycodellm.files import Folder
from raycodellm.records import CONFIRM_SEEDS, TrialResult
from raycodellm.sweep.failures import too_many_failed, why_final
from raycodellm.verdict import Looks

pytestmark = pytest.mark.usefixtures("no_rivals")

GRID = (
    "search.sampler=grid",
    "search.trials=null",
    "pretrain.code_ratio={search: {choice: [0.1, 0.2, 0.3, 0.4, 0.5]}}",
    "pretrain.schedule=constant",
)
CAUSE = "stage instruct: the loss is nan at step "


class Failing(Cluster):
    """A cluster on which the evaluation of some trials fails."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def _run(self, number: int, chain: Any, finished: dict[str, Any]) -> TrialOutcome:
        outcome = super()._run(number, chain, finished)
        if number not in self.numbers:
            return outcome
        stages = {job.key: outcome.outcomes[job.key] for job in chain.stages}
        return TrialOutcome(stages, error=f"{CAUSE}{number}")


def drive(file: config.SweepFile, storage: Folder, cluster: Cluster, retry_failed: bool = False) -> list[str]:
    """Runs the trials that are left, one after the other; returns what is said."""
    said: list[str] = []
    with (
        sweep.lock(sweep.open_run(file, storage, said.append), said.append) as run,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("os.fsync", lambda descriptor: None)
        left = search.num_trials(file) - sweep.tell_written_results(run, said.append, retry_failed=retry_failed)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster, patch, lambda: next(now))
        for name in map(str, range(left)):
            if isinstance(settings := driver.suggest(name), dict):
                driver.end(name, driver.carry_out(settings))
        driver.results.write_table()
        return [*said, *driver.said]


def states(file: config.SweepFile, storage: Folder) -> list[str]:
    return [result.state for result in sweep.read_results(sweep.Run(file, storage))]


def test_a_sweep_stops_with_the_commonest_cause_when_more_trials_failed_than_it_allows(sweep_text, tmp_path) -> None:
    file = config.parse(sweep_text, overrides=(*GRID, "search.max_failed=1"))
    storage, cluster = Folder(str(tmp_path)), Failing(0, 2)
    said = drive(file, storage, cluster)
    assert states(file, storage) == ["failed", "complete", "failed"]
    assert len(said) == 1 and "2 trials failed (0000, 0002)" in said[0] and f"of 2 of them: {CAUSE}0" in said[0]
    printed: list[str] = []
    request = SweepRequest("small", storage_uri=str(tmp_path), tree=file.tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **options: printed.append(" ".join(map(str, words))))
        assert start.run(request, printed.append) == 1  # at once, without Ray
    assert said[0] in printed and not any("nothing to run" in line for line in printed)
    more = config.parse(sweep_text, overrides=(*GRID, "search.max_failed=2"))
    assert drive(more, storage, Cluster()) == []
    assert states(more, storage) == ["failed", "complete", "failed", "complete", "complete"]


def test_failed_trials_run_again_under_their_numbers_from_their_finished_stages(sweep_text, tmp_path) -> None:
    file, storage, cluster = config.parse(sweep_text, overrides=GRID), Folder(str(tmp_path)), Failing(1, 3)
    drive(file, storage, cluster)
    before = {number: storage_files.read_result(sweep.Run(file, storage).trial_folder(number)) for number in range(5)}
    trained = dict(cluster.num_trained)
    drive(file, storage, cluster)
    assert states(file, storage).count("failed") == 2
    cluster.numbers = (3,)
    assert any("trials 0001, 0003 are run again" in line for line in drive(file, storage, cluster, retry_failed=True))
    cluster.numbers = ()
    assert any("trial 0003 is run again" in line for line in drive(file, storage, cluster, retry_failed=True))
    assert drive(file, storage, cluster, retry_failed=True) == ["--retry-failed: no trial has failed"]
    run = sweep.Run(file, storage)
    for number, result in enumerate(sweep.read_results(run)):
        known = before[number]
        assert (result.state, result.arm, result.seed, result.params) == (
            "complete", known.arm, known.seed, known.params,
        )  # fmt: skip
    study = search.SweepStudy(run.journal, file)
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 5
    assert dict(cluster.num_trained) == trained
    kept = [run.trial_folder(3).read_json(f"result.failed-{place}.json")["error"] for place in (1, 2)]
    assert kept == [f"{CAUSE}3"] * 2 and not run.trial_folder(1).exists("result.failed-2.json")


def test_a_driver_killed_while_it_opens_failed_trials_again_leaves_the_rest_to_the_next_one(
    sweep_text, tmp_path, monkeypatch
) -> None:
    file, storage, cluster = config.parse(sweep_text, overrides=GRID), Folder(str(tmp_path)), Failing(1, 3)
    drive(file, storage, cluster)
    cluster.numbers = ()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", lambda folder, name="": (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(file, storage, cluster, retry_failed=True)
    assert states(file, storage).count("failed") == 2
    drive(file, storage, cluster, retry_failed=True)
    assert states(file, storage) == ["complete"] * 5


def test_the_commonest_cause_is_counted_whatever_numbers_it_names() -> None:
    def failed(number: int, error: str) -> TrialResult:
        return TrialResult(number, "failed", number, 0, error=error)

    causes = ["disk full", "step 12: the loss is nan", "step 7: the loss is nan\nmore"]
    line = too_many_failed([failed(number, cause) for number, cause in enumerate(causes)], 2)
    assert "of 2 of them: step 12: the loss is nan;" in line
    assert too_many_failed([failed(0, "disk full")], 1) == too_many_failed([failed(0, "disk full")], None) == ""
    assert "and 2 more" in too_many_failed([failed(number, "disk full") for number in range(12)], 0)


def test_a_failed_trial_that_a_verdict_rests_on_stays_failed(sweep_text) -> None:
    confirm = ("search.reference={pretrain.code_ratio: 0.1}", "search.confirm={best: 1, seeds: [2, 4]}")
    file = config.parse(sweep_text, overrides=(*GRID, *confirm))
    searched = [TrialResult(number, "failed" if number == 3 else "complete", number, 0) for number in range(5)]

    def fresh(number: int, arm: int, place: int, state: str = "failed") -> TrialResult:
        return TrialResult(number, state, arm, CONFIRM_SEEDS + place, phase="confirm")

    def final(looks: Looks, *results: TrialResult) -> set[int]:
        return set(why_final(file, [*searched, *results], looks))

    of_reference, first = [fresh(5, 0, 0)], [fresh(6, 1, 0), fresh(7, 1, 1, "complete")]
    assert final(Looks("search", reference=0), *of_reference) == set()
    assert final(Looks("confirm", 0, (1,), 0), *of_reference) == set()
    assert final(Looks("confirm", 0, (1,), 0), *of_reference, *first) == {3}
    decided = Looks("confirm", 1, (1,), 0, num_decided=1)
    assert final(decided, *of_reference, *first, fresh(8, 1, 2)) == {3, 5, 6}
    assert final(replace(decided, phase="search"), *of_reference, *first, fresh(8, 1, 2)) == {3, 5, 6}
    assert final(Looks("done", 1, (1,), 0), *of_reference, *first, fresh(8, 1, 2)) == {3, 5, 6, 8}
