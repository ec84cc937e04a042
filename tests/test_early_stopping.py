"""Trials that are behind the others stop early: what is compared, in which order, and what is refused."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import early_stopping_cluster
import pytest
from driver_without_ray import Driver
from early_stopping_cluster import EarlyStoppingCluster
from hypothesis import given
from hypothesis import strategies as st
from test_killed_drivers import Disk, KilledError

from raycodellm import config, report, search, storage_files, sweep
from raycodellm.check.early_stopping import line as check_line
from raycodellm.config import UserError
from raycodellm.dispatch import Contender, DispatchState, EarlyStopping, JobEnd
from raycodellm.display import moment
from raycodellm.files import Folder
from raycodellm.records import StageRecord, TrialResult
from raycodellm.report.pictures import picture
from raycodellm.report.sections import sections
from raycodellm.rungs import Halving, Rung, cut
from raycodellm.runs.status import RunStatus
from raycodellm.sweep.early_stopping import contender_of
from raycodellm.sweep.trial_files import BEFORE_ADDED
from raycodellm.tables import formats
from raycodellm.verdict.arms import best_of_search

VALUES = st.lists(st.floats(0.5, 8.0), min_size=1, max_size=40)
KEEP = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9])


def compared(values: list[float], keep: float = 0.5, made: tuple[Rung, ...] = ()) -> list[Rung]:
    """The comparisons at one rung of stages that reach it one after another."""
    halving, rungs = Halving(keep, made), []
    for number, value in enumerate(values):
        rungs.append(halving.compare(f"stage-{number}", 0.25, 10, value))
        halving.note(rungs[-1])
    return rungs


def test_the_first_go_on_and_then_the_best_half_of_those_that_reached_the_rung():
    rungs = compared([2.0, 3.0, 2.5, 2.6, 1.9, 2.5])
    assert [rung.cut for rung in rungs] == [None, None, 2.5, 2.5, 2.5, 2.5]
    assert [rung.goes_on for rung in rungs] == [True, True, True, False, True, True]
    assert [rung.rank for rung in rungs] == [1, 2, 2, 3, 1, 3]


@given(VALUES, KEEP)
def test_at_least_the_asked_share_goes_on_and_the_best_so_far_is_never_stopped(values, keep):
    rungs = compared(values, keep)
    for place, rung in enumerate(rungs):
        seen = values[: place + 1]
        assert rung.goes_on or min(seen) < rung.value
        is_among_first = len(seen) <= math.ceil(1 / keep - 1e-9)
        assert rung.goes_on == (is_among_first or sum(one < rung.value for one in seen) < keep * len(seen))
    assert sum(rung.goes_on for rung in compared(sorted(values, reverse=True), keep)) == len(values)


@given(VALUES, KEEP, st.randoms(use_true_random=False))
def test_a_comparison_depends_on_who_was_there_before_and_not_on_their_order(values, keep, order):
    *before, last = values
    shuffled = before.copy()
    order.shuffle(shuffled)
    one, other = compared([*before, last], keep)[-1], compared([*shuffled, last], keep)[-1]
    assert one == other
    assert cut(values, keep) == cut(sorted(values), keep)


@given(VALUES, KEEP, st.data())
def test_a_driver_that_takes_over_compares_as_the_one_before_would_have(values, keep, data):
    whole = compared(values, keep)
    point = data.draw(st.integers(0, len(values)))
    kept = whole[:point]
    random.Random(0).shuffle(kept)  # as trials' folders are read
    again = Halving(keep, kept)
    for number, value in enumerate(values):
        rung = again.compare(f"stage-{number}", 0.25, 10, value)
        assert rung == whole[number]
        again.note(rung)


def test_stages_that_two_trials_share_are_compared_once():
    halving = Halving(0.5)
    first = halving.compare("a", 0.25, 10, 2.0)
    halving.note(first)
    assert halving.compare("a", 0.25, 10, 9.0) == first
    assert halving.compare("b", 0.25, 10, 3.0).num_reached == 2
    assert halving.compare("a", 0.5, 20, 1.8).num_reached == 1  # another rung


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_compared(value):
    halving = Halving(0.5)
    with pytest.raises(ValueError, match="cannot be compared"):
        halving.compare("a", 0.25, 10, value)
    assert halving.of("a", 0.25) is None


# ------------------------------------------------------------------------------------------------- the sweep file

HELD = "stages.pretrain.held_out={tokens: 1_000}"
EARLY = "search.early_stopping={metric: bpb/prose}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((EARLY, "stages.pretrain.held_out=null"), "add stages.pretrain.held_out"),
        ((HELD, "search.early_stopping={metric: bpb/books}"), "measures bpb/prose"),
        ((HELD, "search.early_stopping={metric: mean/bpb}"), "bpb/ and the name of a source"),
        ((HELD, "search.early_stopping={metric: bpb/prose, at: [0.5, 0.25]}"), "found 0.25 after 0.5"),
        ((HELD, "search.early_stopping={metric: bpb/prose, at: [0.5, 0.99]}"), "a step apart"),
        ((HELD, "search.early_stopping={metric: bpb/prose, stage: cooldown}"), "the sweep has pretrain"),
        ((HELD, "search.early_stopping={metric: bpb/prose, keep: 1.0}"), "keep"),
        (
            (HELD, EARLY, "search.objective=[{metric: mean/bpb, mode: min}, {metric: mean/acc, mode: max}]"),
            "one objective",
        ),
        ((HELD, EARLY, "pretrain.tokens={search: {choice: [8_192, 16_384]}}"), "different stages.pretrain.tokens"),
        ((HELD, EARLY, "pretrain.batch_tokens={search: {choice: [512, 1_024]}}"), "stages.pretrain.batch_tokens"),
        ((HELD, EARLY, "pretrain.packing={search: {choice: [concatenate, best_fit]}}"), "stages.pretrain.packing"),
        (
            (HELD, EARLY, "pretrain.held_out.tokens={search: {choice: [1_000, 2_000]}}"),
            "stages.pretrain.held_out.tokens",
        ),
        ((HELD, EARLY, "pretrain.budget=additive"), "stages.pretrain.code_ratio"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_key(sweep_text: str, overrides, message: str):
    with pytest.raises(UserError) as refused:
        config.parse(sweep_text, overrides=overrides)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_stage_that_some_trials_skip_is_not_compared(sweep_text: str):
    second = (
        "{name: cool, tokens: 4096, sequence_length: 64, batch_tokens: 1024, learning_rate: {peak: 1e-3}, "
        "code_ratio: 0.5, held_out: {tokens: 1000}}"
    )
    text = sweep_text.replace("evaluation:", f"  - {second}\nevaluation:", 1)
    with pytest.raises(UserError, match=r"different stages\.cool\.enabled \(True and False\)"):
        config.parse(
            text,
            overrides=(
                HELD,
                "search.early_stopping={metric: bpb/prose, stage: cool}",
                "cool.enabled={search: {choice: [true, false]}}",
            ),
        )


# ------------------------------------------------------------------------------------------------- a whole sweep

STOPPING = (
    "pretrain.held_out={tokens: 1_000}",
    "pretrain.schedule=constant",
    "search.early_stopping={metric: bpb/prose, at: [0.25, 0.5]}",
    "search.sampler=random",
    "search.trials=8",
    "search.reference={pretrain.code_ratio: 0.5}",
    "search.confirm={best: 1, seeds: [2]}",
)


def drive(
    file: config.SweepFile,
    storage: Folder,
    monkeypatch: pytest.MonkeyPatch,
    cluster: EarlyStoppingCluster | None = None,
    order: random.Random | None = None,
) -> EarlyStoppingCluster:
    """Runs the trials that are left, three at once; any of them ends next."""
    order = order or random.Random(0)
    with sweep.lock(sweep.open_run(file, storage, lambda line: None), lambda line: None) as run:
        left = search.most_trials(file) - sweep.tell_written_results(run, lambda line: None)
        left += search.most_confirm_trials(file)
        now = itertools.count(0.0, 10.0)
        cluster = cluster or EarlyStoppingCluster(run)
        cluster.run = run
        cluster.begin()
        driver = Driver(run, cluster, monkeypatch, lambda: next(now))
        running: list[tuple[str, dict[str, Any]]] = []
        while True:
            suggested = driver.suggest(str(left)) if left and len(running) < 3 else None
            if isinstance(suggested, dict):
                running.append((str(left), suggested))
                left -= 1
            elif not running:
                return cluster
            else:
                name, settings = running.pop(order.randrange(len(running)))
                driver.end(name, driver.carry_out(settings))
                driver.look()


def require_sound(file: config.SweepFile, storage: Folder) -> list[TrialResult]:
    """Every trial has ended as its own comparisons say, and the study knows it with its steps; returns the results."""
    run = sweep.Run(file, storage)
    journal = search.read_journal(Path(storage.uri) / "small" / "optuna.log", file, {})
    results = [storage_files.read_result(run.trial_folder(number)) for number in range(len(journal.trials))]
    states = {"complete": "COMPLETE", "pruned": "PRUNED"}
    for trial, result in zip(journal.trials, results, strict=True):
        assert search.agrees(trial, result, file, run.sweep.seed)
        assert trial.state.name == states[result.state]
        assert trial.intermediate_values == {rung.step: rung.value for rung in result.rungs}
        is_reference = result.params["pretrain.code_ratio"] == 0.5
        if result.phase == "confirm" or (result.seed == run.sweep.seed and is_reference):
            assert result.state == "complete"
        if result.phase == "confirm":
            assert not result.rungs
        elif result.seed == run.sweep.seed:
            for rung in result.rungs:
                assert rung.value == early_stopping_cluster.value_of(rung.stage, rung.step)
            assert result.state == ("complete" if is_reference or all(r.goes_on for r in result.rungs) else "pruned")
    made = sorted({rung for result in results for rung in result.rungs}, key=lambda rung: rung.place)
    assert [rung.place for rung in made] == list(range(len(made)))
    replayed = Halving(0.5)
    for rung in made:  # nothing but the comparisons before it decided
        assert replayed.compare(rung.stage, rung.share, rung.step, rung.value) == rung
        replayed.note(rung)
    return results


def test_a_sweep_stops_trials_at_their_rungs_and_confirms_one_that_was_not_stopped(
    sweep_text: str, tmp_path, monkeypatch, no_rivals
):
    file, storage = config.parse(sweep_text, overrides=STOPPING), Folder(str(tmp_path))
    cluster = drive(file, storage, monkeypatch)
    results = require_sound(file, storage)
    pruned = [result for result in results if result.state == "pruned"]
    assert 2 <= len(pruned) <= 5 and len(results) == 8 + 4
    for result in pruned:
        last = result.rungs[-1]
        assert result.tokens["total"] == last.step * 1_024 < result.tokens_planned == 8_192 + 2_048
        assert result.metrics == {} and last.stage not in cluster.num_trained
    rows = [result.row() for result in results]
    assert {row["arm"] for row in rows if row["phase"] == "confirm"}.isdisjoint({one.arm for one in pruned})
    # Nothing is left to do, and nothing is done again.
    measured = dict(cluster.num_measured)
    assert set(measured.values()) == {1}
    assert drive(file, storage, monkeypatch, cluster).num_measured == measured
    assert require_sound(file, storage) == results
    # Nothing failed, so nothing is tried again; and a study that is lost is made again with its steps.
    with sweep.lock(sweep.open_run(file, storage, lambda line: None), lambda line: None) as run:
        sweep.tell_written_results(run, lambda line: None, retry_failed=True)
    assert require_sound(file, storage) == results
    (Path(storage.uri) / "small" / "optuna.log").unlink()
    assert drive(file, storage, monkeypatch, cluster).num_measured == measured
    assert require_sound(file, storage) == results


@pytest.mark.slow
def test_a_stopped_trial_is_told_of_wherever_trials_are_shown(sweep_text: str, tmp_path, monkeypatch, no_rivals):
    overrides = (*STOPPING, "search.confirm=null", "search.trials=6")
    file, storage = config.parse(sweep_text, overrides=overrides), Folder(str(tmp_path))
    cluster = drive(file, storage, monkeypatch)
    results = require_sound(file, storage)
    pruned = [result for result in results if result.state == "pruned"]
    table = sweep.write_table(cluster.run, known=results)
    records = report.read_records(storage / "small", storage)
    assert table == results and records.num_open == 0
    assert records.sharing.tokens_trained == sum(result.tokens["total"] for result in results)
    (section,) = [one for one in sections(records) if one.title == "Stopped early"]
    said, figure, stopped = section.parts
    saved = sum(result.tokens_planned - result.tokens["total"] for result in pruned)
    assert said == f"{len(pruned)} trials were stopped early: {formats.count(saved)} fewer tokens were asked for."
    assert len(figure.data) == 6 + 1 and len(figure.data[-1]["x"]) == len(stopped.rows) == len(pruned)
    assert b"stopped" in picture(figure)
    last = pruned[0].rungs[-1]
    assert stopped.rows[0][3:6] == (f"{last.share:.0%} of pretrain", str(last.step), formats.score(last.value))
    assert f"stopped early, at {last.share:.0%} of pretrain: {last.value:.3f}" in moment.trial_line(
        pruned[0], ["mean/bpb"]
    )
    status = RunStatus.of(cluster.run, results)
    assert status.as_json()["states"] == {"complete": 6 - len(pruned), "pruned": len(pruned)}
    assert f"({len(pruned)} pruned)" in status.lines()[0]
    assert {one.arm for one in records.scores if one.score is not None}.isdisjoint({one.arm for one in pruned})
    line = check_line(file.example(), [cluster.chain])
    assert line[0].startswith("early stopping: bpb/prose after 2 and 4 of 8 steps of pretrain; the first 2 trials")


def test_an_arm_is_stopped_as_a_whole_by_its_first_seed(sweep_text: str, tmp_path, monkeypatch, no_rivals):
    overrides = (*STOPPING, "search.confirm=null", "search.replicates=2", "search.trials=6")
    file, storage = config.parse(sweep_text, overrides=overrides), Folder(str(tmp_path))
    drive(file, storage, monkeypatch)
    results = require_sound(file, storage)
    by_arm: dict[int, list[TrialResult]] = {}
    for result in results:
        by_arm.setdefault(result.arm, []).append(result)
    stopped = [of_arm for of_arm in by_arm.values() if of_arm[0].state == "pruned"]
    assert stopped and len(by_arm) == 6
    for of_arm in by_arm.values():
        assert of_arm[1].rungs == ()
        if of_arm[1].state == "pruned":
            assert of_arm[1].stopped_by == of_arm[0].number and of_arm[0].state == "pruned"
        elif of_arm[0].state == "pruned":  # it had ended before
            assert of_arm[1].state == "complete"


def test_a_trial_that_is_open_again_for_added_tasks_is_not_stopped_with_its_arm(sweep_text: str, tmp_path, no_rivals):
    run = sweep.open_run(config.parse(sweep_text, overrides=STOPPING), Folder(str(tmp_path)))
    stage = SimpleNamespace(key="s", rungs=(2, 4), folder=str(tmp_path / "stage"))
    second = TrialResult(5, "running", 3, run.sweep.seed + 1, {"pretrain.code_ratio": 0.1})
    assert contender_of(run, second, SimpleNamespace(stages=[stage])).is_stopped
    run.trial_folder(5).write_json(BEFORE_ADDED, {})
    one = contender_of(run, second, SimpleNamespace(stages=[stage]))
    early = EarlyStopping(0.5, (), {3: 4})
    assert not one.is_compared and early.enter(5, one).stops == ()


def test_an_arm_that_was_stopped_is_not_confirmed_for_a_seed_that_had_ended_before():
    objective = config.Objective(metric="mean/bpb", mode="min")
    ended = [(0, 0, 2.0), (1, 0, None), (1, 1, 1.0), (2, 0, 1.9), (2, 1, 1.8)]
    rows = [
        TrialResult(
            number,
            "pruned" if score is None else "complete",
            arm,
            seed,
            {"ratio": arm},
            {} if score is None else {"mean/bpb": score},
        ).row()
        for number, (arm, seed, score) in enumerate(ended)
    ]
    assert best_of_search(rows, [objective], 0, 2) == (2,)


def test_the_tokens_that_a_stopped_stage_took_over_from_a_trunk_are_trained_and_spent_once(sweep_text: str, tmp_path):
    """Two stages share 80 steps of 100 of ten tokens; the second is stopped where it branched off."""
    record = StageRecord("0", "pretrain", 100, 1_000, 1.0, 50.0, 50.0, "0")
    branch = replace(record, num_tokens=800, device_seconds=40.0, trunk_tokens=800, trunk_seconds=40.0)
    stopped = Rung(0, "pretrain-b", 0.5, 50, 3.0, 3, 3, 2.0)
    whole = TrialResult(0, "complete", 0, 0, tokens={"total": 1_000}, stages=("pretrain-a",), device_seconds=50.0)
    counts = {"trunk_tokens": branch.trunk_tokens, "trunk_seconds": branch.trunk_seconds, "tokens_planned": 1_000}
    part = TrialResult(
        1,
        "pruned",
        1,
        0,
        tokens={"total": 800},
        stages=("pretrain-b",),
        device_seconds=40.0,
        rungs=(stopped,),
        **counts,
    )
    run = Folder(str(tmp_path))
    rows, file = [whole.row(), part.row()], config.parse(sweep_text)
    shared = report.Records(run, run, file, rows, {}, {"pretrain-a": record}, {}).sharing
    assert (shared.tokens_asked, shared.tokens_trained, shared.seconds_trained) == (1_800, 1_000, 50.0)


def test_a_value_that_is_not_finite_fails_the_trial(sweep_text: str, tmp_path, monkeypatch, no_rivals):
    overrides = (*STOPPING, "search.confirm=null", "search.trials=3")
    file, storage = config.parse(sweep_text, overrides=overrides), Folder(str(tmp_path))
    monkeypatch.setattr(early_stopping_cluster, "value_of", lambda key, step: math.nan)
    drive(file, storage, monkeypatch)
    journal = search.read_journal(Path(storage.uri) / "small" / "optuna.log", file, {})
    assert [trial.state.name for trial in journal.trials] == ["FAIL"] * 3
    result = storage_files.read_result(sweep.Run(file, storage).trial_folder(1))
    assert result.state == "failed" and "bits per byte of held-out prose after 2 steps: found nan" in str(result.error)


@pytest.mark.slow
@pytest.mark.parametrize("points", [slice(0, None, 23), pytest.param(slice(None), marks=pytest.mark.exhaustive)])
def test_a_driver_killed_at_any_write_leaves_its_comparisons_to_the_next(
    sweep_text: str, tmp_path, monkeypatch, points: slice
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    disk, file = Disk(monkeypatch), config.parse(sweep_text, overrides=STOPPING)
    drive(file, Folder(str(tmp_path / "whole")), monkeypatch)
    for point in range(disk.num_writes)[points]:
        storage = Folder(str(tmp_path / str(point)))
        disk.num_writes, disk.dies_at = 0, point
        with pytest.raises(KilledError):
            drive(file, storage, monkeypatch, order=random.Random(point))
        disk.is_dead, disk.dies_at = False, -1
        run = sweep.Run(file, storage)
        before = {rung for number in run.at_start for rung in storage_files.read_rungs(run.trial_folder(number))}
        drive(file, storage, monkeypatch, order=random.Random(-point))
        results = require_sound(file, storage)
        assert before <= {rung for result in results for rung in result.rungs}, point
        assert len(results) == 12 and any(result.state == "pruned" for result in results), point


# ------------------------------------------------------------------------------------------------- who is stopped


def job(key: str, kind: str = "stage") -> SimpleNamespace:
    return SimpleNamespace(key=key, kind=kind, stage=SimpleNamespace(name="pretrain", num_tokens=100))


def contender(arm: int, stage: str, is_compared: bool = True, is_stopped: bool = True) -> Contender:
    return Contender(arm, is_compared, is_stopped, stage, {2: 0.25, 4: 0.5}, "prose", f"/trials/{arm}")


def state_with(*trials: tuple[str, Contender]) -> DispatchState:
    """Trials by their numbers, each of a stage and an evaluation, which a slot has taken as far as it can."""
    state = DispatchState(max_deaths=1)
    state.early = EarlyStopping(0.5, [Rung(n, f"other-{n}", 0.25, 2, 1.0, 1, n + 1, None) for n in range(2)], {})
    for number, (stage, one) in enumerate(trials):
        state.stop_early(state.early.enter(number, one))
        state.add_trial(number, SimpleNamespace(jobs=(job(stage), job(f"e{number}", "evaluation"))), {})
    return state


def test_a_stage_that_another_trial_wants_whole_goes_on_and_one_that_nobody_wants_is_given_up():
    state = state_with(("s", contender(0, "s", is_stopped=False)), ("s", contender(1, "s")), ("t", contender(2, "t")))
    for slot in ("one", "two"):
        state.register(slot)
        state.take(slot)
    for stage in ("s", "t"):
        state.stop_early(state.early.reach(stage, 2, {"prose": 5.0}))
    assert state.is_wanted("s") and not state.is_wanted("t")
    assert [state.tree.should_stop(node.holder, key) for key, node in state.tree.nodes.items() if node.holder] == [
        False,
        True,
    ]
    ended = state.outcome(1)
    assert ended is not None and ended.is_pruned and [rung.goes_on for rung in ended.rungs] == [False]
    assert state.outcome(0) is None
    # The other's slot has still to give its stage back, and takes other work at once.
    assert state.outcome(2) is None
    assert state.end("two", 1, "t", JobEnd.RELEASE, None) is None
    assert state.outcome(2) is not None and state.take("two") is None


def test_the_other_seeds_of_an_arm_stop_with_its_first_also_those_that_come_later():
    state = state_with(("a", contender(5, "a")), ("b", contender(5, "b", is_compared=False)))
    state.stop_early(state.early.reach("b", 2, {"prose": 0.1}))
    assert state.outcome(1) is None  # never compared, and its arm goes on as yet
    state.stop_early(state.early.reach("a", 2, {"prose": 5.0}))
    assert [(state.outcome(n).is_pruned, state.outcome(n).stopped_by) for n in (0, 1)] == [(True, None), (True, 0)]
    state.stop_early(late := state.early.enter(9, contender(5, "c", is_compared=False)))
    assert [(stop.trial, stop.stopped_by) for stop in late.stops] == [(9, 0)]
    confirmed = state.early.enter(10, contender(5, "d", is_compared=False, is_stopped=False))
    assert confirmed.stops == ()


def test_an_arm_that_was_stopped_early_has_no_score_anywhere_also_where_one_of_its_seeds_had_ended():
    """When a seed ended is chance, and of a worse arm the lucky seeds alone would be left."""
    from test_verdict import row, sweep_file

    from raycodellm import regression, report, verdict
    from raycodellm.verdict.arms import best_of_search

    constraint = "constraints: [{metric: boxes/bpb, mode: min, bound: 0.1}]"
    objectives = "objective: [{metric: mean/bpb, mode: min}, {metric: boxes/bpb, mode: min}]"
    file = sweep_file(f"replicates: 2, {objectives}, {constraint}")
    rows = [row(2 * arm + seed, arm, 7 + seed, 1.0 - arm / 10 + seed / 100) for arm in range(4) for seed in (0, 1)]
    rows[7] = row(7, 3, 8, None, state="pruned")  # the best arm by its first seed
    ranked = report.ranking(rows, file.example().search.objectives, {})
    assert [one.arm for one in ranked] == [2, 1, 0, 3] and ranked[-1].score is None
    assert report.best_arm(rows, file.example().search.objectives).arm == 2
    assert {one.arm for one in verdict.findings(file, rows, {}).verdicts} == {1, 2}
    assert {one.arm for one in verdict.front(file, rows, {}).arms} <= {0, 1, 2}
    assert {one.arm for one in verdict.breaches(file, rows, {})} == {0, 1, 2}
    assert [one.arm for one in regression.measured_means(rows, "mean/bpb")] == [0, 1, 2]
    assert 3 not in best_of_search(rows, file.example().search.objectives, 0, 4)
    assert {one.arm for one in verdict.seed_spreads(file, rows).arms} == {0, 1, 2}
