"""A task that is added to a sweep file is evaluated alone, on the models that there are."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, search, storage_files, sweep
from raycodellm.config import SweepFile, UserError
from raycodellm.dispatch import TrialFailed, TrialOutcome
from raycodellm.files import Folder
from raycodellm.records import TrialResult, as_json

BEGUN = ("search.trials=3", "evaluation.tasks=[boxes]", "search.objective={metric: boxes/bpb, mode: min}")
TASKS = "evaluation.tasks=[boxes, logical_deduction]"
ADDED = (*BEGUN, TASKS)
CONFIRMED = (*BEGUN, "search.trials=2", "search.reference={pretrain.code_ratio: 0.0}", "search.confirm={seeds: [2]}")

LIMITED = "search.constraints=[{metric: mean/acc, mode: max, bound: 0.2}]"
CLEANED = "sources.prose.cleaning={decontaminate: {enabled: true}}"


pytestmark = pytest.mark.usefixtures("no_rivals")


def drive(file: SweepFile, storage: Folder, cluster: Cluster, said: list[str], stop_after: int | None = None) -> int:
    """Runs the trials that are left, or the first of them; returns how many were left."""
    with (
        sweep.lock(sweep.open_run(file, storage, said.append), said.append) as run,
        pytest.MonkeyPatch.context() as patch,
    ):
        ended = sweep.tell_written_results(run, said.append)
        left = sweep.Confirmation(run).standing(run.results_at_start).num_trials - ended
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster, patch, lambda: next(now))
        for number in range(left)[:stop_after]:
            driver.end(str(number), driver.carry_out(driver.suggest(str(number))))
        return left


def results_of(file: SweepFile, storage: Folder) -> list[TrialResult]:
    run = sweep.Run(file, storage)
    return [storage_files.read_result(run.trial_folder(number)) for number in range(search.most_trials(file))]


def told(file: SweepFile, storage: Folder) -> list[tuple]:
    run = sweep.Run(file, storage)
    study = search.SweepStudy(run.journal, file)
    return [(trial.state.name, trial.values, trial.params, trial.user_attrs) for trial in study.trials()]


@pytest.mark.slow
@pytest.mark.parametrize(("is_stopped", "overrides", "num_trials"), [(False, BEGUN, 3), (True, CONFIRMED, 6)])
def test_a_task_added_to_a_finished_sweep_is_evaluated_alone_and_nothing_else_changes(
    sweep_text, tmp_path, is_stopped, overrides, num_trials
) -> None:
    storage, cluster = Folder(str(tmp_path)), Cluster()
    begun, added = (config.parse(sweep_text, overrides=found) for found in (overrides, (*overrides, TASKS)))
    assert drive(begun, storage, cluster, []) == num_trials
    before, study = results_of(begun, storage), told(begun, storage)
    trained, evaluated = Counter(cluster.num_trained), Counter(cluster.num_evaluated)
    said: list[str] = []
    if is_stopped:  # between two trials; then the file is as it was changed
        assert drive(added, storage, cluster, said, stop_after=1) == num_trials
    assert drive(added, storage, cluster, said) == num_trials - is_stopped
    ended = f"the {num_trials} trials that had ended"
    assert said == [f"evaluation: logical_deduction added; {ended} are evaluated on what they lack"]
    assert cluster.num_trained == trained
    new = {file: count for file, count in cluster.num_evaluated.items() if file not in evaluated}
    assert len(new) == num_trials and set(new.values()) == {1} and all("/logical_deduction-" in file for file in new)
    assert all(cluster.num_evaluated[file] == 1 for file in evaluated)
    after = results_of(added, storage)
    for old, now in zip(before, after, strict=True):
        assert (now.params, now.arm, now.seed, now.stages) == (old.params, old.arm, old.seed, old.stages)
        assert now.metrics["boxes/bpb"] == old.metrics["boxes/bpb"] and "logical_deduction/bpb" in now.metrics
        items = sweep.Run(added, storage).trial_folder(now.number).read_table("items.parquet")
        assert {*items.column("task").to_pylist()} == {"boxes", "logical_deduction"}
    assert told(added, storage) == study
    assert drive(added, storage, cluster, []) == 0


class Refusing(Cluster):
    """Cannot evaluate the task that is added."""

    def _run(self, number, chain, finished) -> TrialOutcome:
        outcome = super()._run(number, replace(chain, evaluation=replace(chain.evaluation, keys={})), finished)
        raise TrialFailed(replace(outcome, error="NothingFits: logical_deduction"))


def test_a_trial_that_cannot_be_evaluated_on_an_added_task_keeps_its_scores_and_the_task_may_go_again(
    sweep_text, tmp_path
) -> None:
    storage, cluster, refusing = Folder(str(tmp_path)), Cluster(), Refusing()
    begun, added = (config.parse(sweep_text, overrides=overrides) for overrides in (BEGUN, ADDED))
    drive(begun, storage, cluster, [])
    before, study = results_of(begun, storage), told(begun, storage)
    assert drive(added, storage, refusing, []) == 3
    assert results_of(added, storage) == before and told(added, storage) == study
    assert len(refusing.notes) == 3 and "keeps the scores that it had" in refusing.notes[0]
    said: list[str] = []
    assert drive(begun, storage, cluster, said) == 0 and said == [], "the task is asked for no more"
    assert (
        drive(added, storage, cluster, said) == 3
        and results_of(added, storage)[2].tasks.keys() > before[2].tasks.keys()
    )


def test_another_sweep_in_the_same_storage_evaluates_only_what_the_first_did_not(sweep_text, tmp_path) -> None:
    storage, cluster = Folder(str(tmp_path)), Cluster()
    drive(config.parse(sweep_text, overrides=BEGUN), storage, cluster, [])
    other = config.parse(sweep_text, overrides=(*ADDED, "name=other", "search.objective.metric=mean/bpb"))
    drive(other, storage, cluster, [])
    assert set(cluster.num_evaluated.values()) == set(cluster.num_trained.values()) == {1}
    assert len(cluster.num_evaluated) == 6


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (BEGUN[:2], ADDED[::3], "search.objective mean/bpb is a mean over the tasks"),
        ((*BEGUN, LIMITED), (*ADDED, LIMITED), "search.constraints mean/acc is a mean over the tasks"),
        (
            (*BEGUN, CLEANED),
            (*ADDED, CLEANED),
            "cleaning.decontaminate takes the tasks' items out of the training data",
        ),
        (ADDED, BEGUN, "logical_deduction is gone, and tasks can only be added"),
        (
            ("evaluation.suites=[offline]",),
            ("evaluation.suites=[offline]", "evaluation.leave_out=[sorting]"),
            "sorting is gone",
        ),
        ((*BEGUN, "evaluation.tasks={search: {choice: [[boxes], [boxes, logical_deduction]]}}"), BEGUN, "are searched"),
    ],
)
def test_tasks_that_would_change_what_a_score_says_are_refused_and_a_new_name_is_offered(
    sweep_text, tmp_path, before, after, why
) -> None:
    sweep.open_run(config.parse(sweep_text, overrides=before), Folder(str(tmp_path)))
    with pytest.raises(UserError, match=rf"^evaluation\..*{why}.*a new name: stages and evaluated tasks") as refused:
        sweep.open_run(config.parse(sweep_text, overrides=after), Folder(str(tmp_path)))
    assert "\n" not in str(refused.value)


def test_no_task_is_added_to_trials_whose_models_are_gone_or_that_an_older_version_evaluated(
    sweep_text, tmp_path
) -> None:
    storage, cluster = Folder(str(tmp_path)), Cluster()
    begun, added = (config.parse(sweep_text, overrides=overrides) for overrides in (BEGUN, ADDED))
    drive(begun, storage, cluster, [])
    result = results_of(begun, storage)[1]
    last = storage / "stages" / result.stages[-1]
    done = last.read_bytes("DONE")
    last.delete("DONE")
    with pytest.raises(UserError, match="trial 1 has no model in the storage any more"):
        sweep.open_run(added, storage)
    last.write_bytes("DONE", done)
    older = {**as_json(result), "tasks": {}, "evaluation": "evaluation-0"}
    sweep.Run(begun, storage).trial_folder(1).write_json("result.json", older)
    with pytest.raises(UserError, match="trial 1 was evaluated by an older version"):
        sweep.open_run(added, storage)
    said: list[str] = []
    assert drive(begun, storage, cluster, said) == 0 and said == []


def test_an_unfinished_evaluation_of_an_older_version_is_made_anew(sweep_text, tmp_path) -> None:
    """Its scores were counted otherwise; only the evaluation is done again, no stage."""
    storage, cluster = Folder(str(tmp_path)), Cluster()
    begun = config.parse(sweep_text, overrides=BEGUN)
    drive(begun, storage, cluster, [])
    result = results_of(begun, storage)[0]
    last = storage / "stages" / result.stages[-1]
    last.delete("evaluation")
    (last / "evaluation-0123456789abcdef").write_json("metrics.json", {"boxes/bpb": 1.0, "mean/bpb": 1.0})
    sweep.Run(begun, storage).trial_folder(0).delete("result.json")
    said: list[str] = []
    assert drive(begun, storage, cluster, said) == 1 and "trial 0000 is run again under its number" in said[0]
    assert set(cluster.num_trained.values()) == {1} and sorted(cluster.num_evaluated.values()) == [1, 1, 2]
    assert results_of(begun, storage)[0].metrics == result.metrics
