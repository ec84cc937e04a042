"""A finished or interrupted run goes on with more trials, replicates or looks, and nothing of it is done again."""

from __future__ import annotations

import re
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
from driver_without_ray import Cluster
from test_added_tasks import drive
from test_verdict import noisy, row, run_pending, search_rows, sweep_file

from raycodellm import config, search, statistics, storage_files, sweep, verdict
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.records import CONFIRM_SEEDS, TrialResult, as_json
from raycodellm.sweep import continuing
from raycodellm.sweep.judged import compare
from raycodellm.sweep.trial_files import trial_numbers

pytestmark = pytest.mark.usefixtures("no_rivals")

BEGUN = ("search.trials=3", "evaluation.tasks=[boxes]", "search.objective={metric: boxes/bpb, mode: min}")
CONFIRMED = (*BEGUN, "search.reference={pretrain.code_ratio: 0.0}", "search.confirm={best: 1, seeds: [2]}")
LOOKED = "confirm: {best: 2, seeds: [2, 4]}"


def trials(file, storage: Folder) -> dict[int, tuple]:
    run = sweep.Run(file, storage)
    found = [storage_files.read_result(run.trial_folder(number)) for number in trial_numbers(run.folder)]
    return {one.number: (one.arm, one.seed, one.phase, one.params, one.metrics) for one in found}


def told_of(looks: verdict.Looks) -> list[tuple]:
    """The verdicts that are known. A score's interval still learns from further seeds."""
    known = [one for one in looks.verdicts if one.word != "not known"]
    return [(one.arm, one.metric, one.word, one.difference, one.p_corrected, one.look) for one in known]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "more", "added"),
    [
        (BEGUN, ("search.trials=4", "search.replicates=2"), 5),
        (BEGUN, ("search.trials=4", "evaluation.tasks=[boxes, logical_deduction]"), 1),
        (CONFIRMED, ("search.trials=5",), 2),
    ],
)
def test_more_trials_and_replicates_are_run_and_nothing_is_trained_or_evaluated_twice(
    sweep_text, tmp_path, before, more, added
) -> None:
    storage, cluster = Folder(str(tmp_path)), Cluster()
    small, large = (config.parse(sweep_text, overrides=found) for found in (before, (*before, *more)))
    drive(small, storage, cluster, [])
    old, said = trials(small, storage), []
    left = drive(large, storage, cluster, said)
    now = trials(large, storage)
    assert len(now) == len(old) + added and left - added in (0, 3), "an added task opens the three trials again"
    assert all(now[number][:4] == old[number][:4] for number in old)
    assert any(line.startswith("search.") and "what has ended stays" in line for line in said)
    assert set(cluster.num_trained.values()) == {1} == set(cluster.num_evaluated.values())
    assert [*Counter(one[:2] for one in now.values()).values()] == [1] * len(now)
    assert drive(large, storage, cluster, []) == 0
    with pytest.raises(UserError, match=r"^search\.trials: .* may have more, not fewer"):
        sweep.open_run(config.parse(sweep_text, overrides=(*before, *more, "search.trials=2")), storage)


def test_added_trials_change_neither_the_confirmed_arms_nor_a_verdict() -> None:
    file, score = sweep_file(LOOKED), noisy((0.0, 0.0, 0.0, -0.9))
    rows = run_pending(file, search_rows(), score)
    before = verdict.looks(file, rows, {})
    added = config.parse(config.write_yaml(file.tree), overrides=("search.trials=6",))
    more = continuing.with_begun(file, added, [one for one in rows if one["phase"] == "confirm"], ["search.trials"])
    assert more.example().search.confirm.begun.trials == 4
    found = [{**row(len(rows) + place, place, 7, 0.1), "arm": 4 + place} for place in range(2)]
    for ended, phase in ((1, "search"), (2, "done")):
        now = verdict.looks(more, [*rows, *found[:ended]], {})
        assert now.num_decided == before.num_decided > 0
        assert (now.phase, now.pending) == (phase, ()) and (now.arms, now.verdicts) == (before.arms, before.verdicts)
    assert verdict.looks(added, [*rows, *found], {}).arms != before.arms, "the added arms are the best in the search"


def test_a_confirmation_that_leaves_all_to_the_defaults_keeps_its_plan_too() -> None:
    file = sweep_file("confirm: {}")
    more = config.parse(config.write_yaml(file.tree), overrides=("search.replicates=2",))
    begun = continuing.with_begun(file, more, [{"state": "running"}], ["search.replicates"]).example().search.confirm
    assert begun.begun is not None and (begun.begun.looks, begun.begun.trials) == (3, search.num_trials(file))


def test_added_looks_go_on_with_open_arms_and_leave_every_earlier_verdict_as_it_was() -> None:
    file, score = sweep_file(LOOKED), noisy((0.0, 0.0, -0.005, -0.9))
    rows = run_pending(file, search_rows(), score)
    before = verdict.looks(file, rows, {})
    longer = config.parse(config.write_yaml(file.tree), overrides=("search.confirm.seeds=[2, 4, 8]",))
    fresh = [one for one in rows if one["phase"] == "confirm"]
    more = continuing.with_begun(file, longer, fresh, ["search.confirm.seeds"])
    now = verdict.looks(more, rows, {})
    known = told_of(before)
    assert known and now.phase == "confirm" and now.look == 2 and told_of(now) == known
    assert {one.arm for one in now.pending} == {0, 2} and len(now.pending) == 8
    ended = verdict.looks(more, run_pending(more, rows, score), {})
    assert ended.phase == "done" and {*known} <= {*told_of(ended)}
    told = verdict.findings(more, run_pending(more, rows, score), {})
    answer = verdict.answer(more, told)
    assert "claims one in at most 7.5 % of cases" in answer
    assert verdict.document(more, told, answer, 0)["error"] == pytest.approx(0.075)


def test_the_error_of_planned_looks_stays_and_each_added_look_spends_half_of_the_one_before() -> None:
    assert statistics.look_errors([2, 4, 8, 16], 2) == pytest.approx((0.025, 0.025, 0.025, 0.0125))
    assert statistics.look_errors([2, 4, 8]) == statistics.spent_errors([2, 4, 8])


@pytest.mark.parametrize("planned", [[2, 4], [2, 4, 8], [4]])
def test_who_adds_looks_until_the_last_claims_no_more_often_than_is_said(planned: list[int]) -> None:
    """Simulated without an effect; the worst case, in which three looks are added whatever was seen."""
    seeds = [*planned, *(planned[-1] * 2**place for place in (1, 2, 3))]
    errors, chance = statistics.look_errors(seeds, len(planned)), np.random.default_rng(0)
    sums = np.cumsum(chance.normal(size=(20_000, seeds[-1])), axis=1)
    levels = [NormalDist().inv_cdf(1 - error / 2) for error in errors]
    claims = [np.abs(sums[:, n - 1]) / n**0.5 > level for n, level in zip(seeds, levels, strict=True)]
    claimed = np.mean(np.any(claims, axis=0))
    assert 0.5 * sum(errors) < claimed <= sum(errors)


@pytest.mark.parametrize(
    ("confirm", "why"),
    [
        ("{best: 1, seeds: [2, 3]}", r"at twice its seeds, as in \[2, 4\]"),
        ("{best: 1, seeds: [4]}", "only be added behind the last"),
        ("{best: 2, seeds: [2]}", "may not choose what they are asked"),
        ("{best: 1, seeds: [2, 4], margin: 0.1}", "may not choose what they are asked"),
        ("null", "may not choose what they are asked"),
    ],
)
def test_what_cannot_be_honest_once_fresh_seeds_are_seen_is_refused_in_one_line(
    sweep_text, tmp_path, confirm, why
) -> None:
    storage = Folder(str(tmp_path))
    run = sweep.open_run(config.parse(sweep_text, overrides=CONFIRMED), storage)
    result = TrialResult(3, "complete", 0, CONFIRM_SEEDS, metrics={"boxes/bpb": 1.0}, phase="confirm")
    run.trial_folder(3).write_json("result.json", as_json(result))
    with pytest.raises(UserError, match=rf"^search\.confirm.*{why}.*a new name and another seed") as refused:
        sweep.open_run(config.parse(sweep_text, overrides=(*CONFIRMED, f"search.confirm={confirm}")), storage)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_look_added_to_a_finished_run_is_run_and_kept_by_every_later_driver_and_reader(sweep_text, tmp_path) -> None:
    storage, cluster, said = Folder(str(tmp_path)), Cluster(), []
    drive(config.parse(sweep_text, overrides=CONFIRMED), storage, cluster, [])
    longer = config.parse(sweep_text, overrides=(*CONFIRMED, "search.confirm={best: 1, seeds: [2, 4]}"))
    left = drive(longer, storage, cluster, said)
    saved = storage_files.read_sweep_file(sweep.Run(longer, storage).folder).example().search.confirm
    assert saved.begun is not None and (saved.begun.looks, saved.begun.trials) == (1, 3)
    assert any("at most 7.5 % of cases" in line for line in said)
    assert left in (0, 4) and drive(longer, storage, cluster, []) == 0
    assert set(cluster.num_trained.values()) == {1}


def test_added_tasks_get_scores_and_change_no_verdict_of_fresh_seeds() -> None:
    file, score = sweep_file(LOOKED), noisy((0.0, 0.0, 0.0, -0.9))
    rows = run_pending(file, search_rows(), score)
    before = verdict.looks(file, rows, {})
    fresh = [one for one in rows if one["phase"] == "confirm"]
    more = continuing.with_begun(file, file, fresh, ["evaluation.tasks"])
    again = [{**one, "metrics.sorting/bpb": one.get("metrics.boxes/bpb"), "metrics.sorting/items": 9.0} for one in rows]
    assert verdict.looks(more, again, {}).verdicts == before.verdicts
    assert len(verdict.looks(file, again, {}).verdicts) > len(before.verdicts)


def test_a_killed_driver_leaves_a_trial_that_was_added_to_the_search_to_the_next_one(sweep_text, tmp_path) -> None:
    """Its number follows those of the confirmation, and it has no arm yet."""
    small, large = (config.parse(sweep_text, overrides=(*CONFIRMED, f"search.trials={n}")) for n in (3, 5))
    study = search.SweepStudy(tmp_path / "optuna.log", small)
    for number in range(3):
        study.suggest()
        study.tell(number, [1.0])
    study.confirm([(0, 0), (0, 1)])
    for number in (3, 4):
        study.suggest()
        study.tell(number, [1.0])
    path, lines = tmp_path / "optuna.log", (tmp_path / "optuna.log").read_bytes()
    new = search.SweepStudy(path, large).suggest()
    begun = path.read_bytes()[len(lines) :].splitlines(keepends=True)
    for kept in range(1, len(begun)):
        path.write_bytes(lines + b"".join(begun[:kept]))
        again = search.SweepStudy(path, large).suggest()
        assert (again.number, again.arm, again.replicate) == (new.number, new.arm, new.replicate)
    assert (new.number, new.phase) == (5, "search")


def test_a_run_judged_by_other_rules_is_told_and_not_trained_on() -> None:
    file = sweep_file(LOOKED)
    written = {"phase": "done", "num_ended": 8, "looks": [2, 4], "rules": verdict.RULES}
    assert compare(file, written, 8, "confirm") == ("", False)
    older = {name: value for name, value in written.items() if name != "rules"}
    line, is_kept = compare(file, older, 8, "confirm")
    assert is_kept and re.search(r"an older version; version \d+ would ask for more fresh seeds, and none is", line)
    line, is_kept = compare(file, {**written, "rules": 0}, 8, "done")
    assert not is_kept and "given by version 0 of the rules" in line
    for other in ({"num_ended": 7}, {"phase": "confirm"}, {"looks": [2]}):
        assert compare(file, {**older, **other}, 8, "confirm") == ("", False)


# ------------------------------------------------------------------------------------------------- added points

TRIED = ("search.enqueue=[{pretrain.code_ratio: 0.1, pretrain.schedule: constant}]",)
POINTS = "[{pretrain.code_ratio: 0.1, pretrain.schedule: constant}, {pretrain.code_ratio: 0.7}, %s]"
WHOLE = "{pretrain.code_ratio: 0.2, pretrain.schedule: decrease}"


def ended(study: search.SweepStudy, number: int) -> list[search.Suggestion]:
    found = []
    for _ in range(number):
        found.append(study.suggest())
        study.tell(found[-1].number, [1.0])
    return found


def points(file, arms: list[search.Suggestion]) -> list[tuple[float, str | None]]:
    return [(one.params["pretrain.code_ratio"], one.params.get("pretrain.schedule")) for one in arms]


def test_points_added_to_a_run_are_the_next_ones_tried_whoever_kills_which_driver(sweep_text, tmp_path):
    begun = ("search.sampler=tpe", "search.trials=3", "search.replicates=2")
    small = config.parse(sweep_text, overrides=(*begun, *TRIED))
    path = tmp_path / "optuna.log"
    before = ended(search.SweepStudy(path, small), 6)
    more = (*begun, "search.trials=6", f"search.enqueue={POINTS % WHOLE}")
    large = config.parse(sweep_text, overrides=more)
    lines = path.read_bytes()
    search.SweepStudy(path, large)
    written = path.read_bytes()[len(lines) :].splitlines(keepends=True)
    for kept in range(len(written) + 1):
        path.write_bytes(lines + b"".join(written[:kept]))
        search.SweepStudy(path, large)
        now = ended(search.SweepStudy(path, large), 6)
        assert [one.params["pretrain.code_ratio"] for one in now[:2]] == [0.7, 0.2]
        assert [(one.arm, one.replicate) for one in now[:4]] == [(3, 0), (4, 0), (3, 1), (4, 1)]
        assert len({one.arm for one in (*before, *now)}) == 6 and now[-1].number == 11


def test_a_whole_point_that_an_arm_has_is_not_run_again_but_a_point_named_twice_is_one_more_seed(sweep_text, tmp_path):
    small = config.parse(sweep_text, overrides=("search.trials=3", *TRIED))
    before = ended(search.SweepStudy(tmp_path / "optuna.log", small), 3)
    ratio, schedule = points(small, before)[1]
    sampled = f"{{pretrain.code_ratio: {ratio!r}, pretrain.schedule: {schedule}}}"
    twice = "{pretrain.code_ratio: 0.1, pretrain.schedule: constant}"
    large = config.parse(sweep_text, overrides=("search.trials=5", f"search.enqueue=[{twice}, {sampled}, {twice}]"))
    now = ended(search.SweepStudy(tmp_path / "optuna.log", large), 2)
    assert (now[0].arm, now[0].replicate) == (0, 1)
    assert now[1].arm == 3 and points(large, now)[1] not in points(small, before)


def test_points_added_to_a_grid_are_tried_before_the_others_that_are_left(sweep_text, tmp_path):
    grid = ("search.sampler=grid", "search.trials=null")
    space = ("pretrain.code_ratio={search: {choice: [0.1, 0.2, 0.3]}}", "search.reference={pretrain.code_ratio: 0.1}")
    space = (*space, "pretrain.schedule=constant")
    small = config.parse(sweep_text, overrides=(*grid, *space))
    assert ended(search.SweepStudy(tmp_path / "optuna.log", small), 1)[0].params["pretrain.code_ratio"] == 0.1
    large = config.parse(sweep_text, overrides=(*grid, *space, "search.enqueue=[{pretrain.code_ratio: 0.3}]"))
    now = ended(search.SweepStudy(tmp_path / "optuna.log", large), 2)
    assert [one.params["pretrain.code_ratio"] for one in now] == [0.3, 0.2]


def test_points_are_added_while_fresh_seeds_wait_and_the_sampler_learns_from_another_sweep(sweep_text, tmp_path):
    begun = (*CONFIRMED, "search.sampler=tpe", "search.objective={metric: boxes/bpb, mode: min}")
    small = config.parse(sweep_text, overrides=begun)
    prior = [search.PriorTrial("/other", 0, {"pretrain.code_ratio": 0.4, "pretrain.schedule": "constant"}, (2.0,))]
    study = search.SweepStudy(tmp_path / "optuna.log", small, prior)
    ended(study, 3)
    study.confirm([(0, 0), (0, 1)])
    ended(study, 1)
    large = config.parse(sweep_text, overrides=(*begun, "search.trials=5", f"search.enqueue=[{WHOLE}]"))
    now = ended(search.SweepStudy(tmp_path / "optuna.log", large, prior), 3)
    assert [(one.number, one.phase) for one in now] == [(4, "confirm"), (5, "search"), (6, "search")]
    assert points(large, now)[1] == (0.2, "decrease")


@pytest.mark.slow
def test_points_that_were_suggested_are_run_in_the_same_run_and_nothing_is_done_again(sweep_text, tmp_path) -> None:
    storage, cluster, said = Folder(str(tmp_path)), Cluster(), []
    small = config.parse(sweep_text, overrides=CONFIRMED)
    drive(small, storage, cluster, [])
    old = trials(small, storage)
    added = ("search.trials=4", f"search.enqueue=[{WHOLE}]")
    large = config.parse(sweep_text, overrides=(*CONFIRMED, *added))
    drive(large, storage, cluster, said)
    now = trials(large, storage)
    (new,) = now.keys() - old.keys()
    assert now[new][3] == {"pretrain.code_ratio": 0.2, "pretrain.schedule": "decrease"} and now[new][2] == "search"
    assert all(now[number] == old[number] for number in old)
    assert any("search.enqueue: 0 points before, 1 now" in line for line in said)
    assert set(cluster.num_trained.values()) == {1} == set(cluster.num_evaluated.values())
    assert drive(large, storage, cluster, []) == 0


@pytest.mark.parametrize(
    ("added", "why"),
    [
        (("search.trials=4", "search.enqueue=[]"), "more points behind those that it has, which stay as they are"),
        (("search.trials=4", f"search.enqueue=[{WHOLE}]"), "more points behind those that it has"),
        (("search.trials=4", "search.enqueue=[{pretrain.code_ratio: 0.11}]"), "more points behind those that it has"),
        ((f"search.enqueue={POINTS % WHOLE}",), "3 trials have begun and 2 points are added: give search.trials: 5 or"),
    ],
)
def test_points_that_are_changed_or_that_no_trial_is_left_for_are_refused_in_one_line(
    sweep_text, tmp_path, added, why
) -> None:
    storage = Folder(str(tmp_path))
    run = sweep.open_run(config.parse(sweep_text, overrides=(*BEGUN, *TRIED)), storage)
    for number in range(3):
        run.trial_folder(number).write_json("result.json", as_json(TrialResult(number, "failed", number, 0)))
    with pytest.raises(UserError, match=rf"^search\.enqueue.*{why}") as refused:
        sweep.open_run(config.parse(sweep_text, overrides=(*BEGUN, *TRIED, *added)), storage)
    assert "\n" not in str(refused.value)


def test_a_grid_goes_on_whether_its_file_says_its_number_of_trials_or_not(sweep_text, tmp_path) -> None:
    grid = ("search.sampler=grid", "pretrain.code_ratio={search: {choice: [0.1, 0.2]}}")
    spoken, silent = (config.parse(sweep_text, overrides=(*grid, f"search.trials={trials}")) for trials in (6, "null"))
    for file in (spoken, silent, spoken):
        sweep.open_run(file, Folder(str(tmp_path)))
