"""The study gives every trial a number, an arm and a seed, and survives its driver."""

from __future__ import annotations

import pytest

from raycodellm import config, search
from raycodellm.config import UserError


def parsed(text: str, *overrides: str) -> config.SweepFile:
    return config.parse(text, overrides=overrides)


def ask(study, file, replicates=1):
    trial = study.ask()
    search.Space(file)(trial)
    return trial, search.identify(study, trial, replicates)


CHOICES = "pretrain.code_ratio={search: {choice: [0.0, 0.5]}}"


def test_a_schedule_is_not_sampled_where_the_code_ratio_leaves_it_no_meaning(sweep_text: str) -> None:
    file = parsed(sweep_text, CHOICES)
    assert search.grid(parsed(sweep_text, CHOICES, "search.sampler=grid", "search.trials=null")) == [
        {"pretrain.code_ratio": 0.0},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "constant"},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "increase"},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "decrease"},
    ]
    assert not search.is_relevant(file, "pretrain.schedule", {"pretrain.code_ratio": 0.0})
    fixed = parsed(sweep_text, "pretrain.code_ratio=1.0")
    assert not search.is_relevant(fixed, "pretrain.schedule", {})


def test_a_parameter_of_another_option_is_not_sampled(sweep_text: str) -> None:
    space = "{search: {choice: [{peak: {search: {uniform: [0.1, 0.2]}}}, {peak: 0.5}]}}"
    file = parsed(sweep_text, f"pretrain.learning_rate={space}", "pretrain.code_ratio=0.0")
    first, second = file.domains["pretrain.learning_rate"].options
    assert search.is_relevant(file, "pretrain.learning_rate.peak", {"pretrain.learning_rate": first})
    assert not search.is_relevant(file, "pretrain.learning_rate.peak", {"pretrain.learning_rate": second})


def test_a_grid_over_a_continuous_space_is_refused(sweep_text: str) -> None:
    with pytest.raises(UserError, match=r"pretrain\.code_ratio.*uniform"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=null"))
    with pytest.raises(UserError, match="has 4 points"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=3", CHOICES))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_every_sampler_suggests_points_inside_the_space(sweep_text: str, sampler: str, tmp_path) -> None:
    if sampler == "gp":
        pytest.importorskip("torch")
    file = parsed(sweep_text, f"search.sampler={sampler}", "search.trials=9")
    study = search.open_study(tmp_path / "optuna.log", file)
    for _ in range(5):
        trial, found = ask(study, file)
        assert 0.0 <= found.params["pretrain.code_ratio"] <= 0.75
        search.tell(study, trial, [found.params["pretrain.code_ratio"]])


def test_replicates_are_the_same_arm_with_other_seeds(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text, "search.replicates=3")
    study = search.open_study(tmp_path / "optuna.log", file)
    found = [ask(study, file, replicates=3)[1] for _ in range(6)]
    assert [f.arm for f in found] == [0, 0, 0, 1, 1, 1]
    assert [f.replicate for f in found] == [0, 1, 2, 0, 1, 2]
    assert found[0].params == found[2].params != found[3].params
    assert search.num_trials(file) == 6


def test_an_arm_suggested_again_becomes_a_replicate_of_itself(sweep_text: str, tmp_path) -> None:
    point = "{pretrain.code_ratio: 0.5, pretrain.schedule: constant}"
    file = parsed(sweep_text, f"search.enqueue=[{point}, {point}]")
    study = search.open_study(tmp_path / "optuna.log", file)
    assert [(f.arm, f.replicate) for f in (ask(study, file)[1] for _ in range(2))] == [(0, 0), (0, 1)]


def test_a_killed_driver_leaves_its_trials_to_the_next_one(sweep_text: str, tmp_path) -> None:
    path = tmp_path / "optuna.log"
    file = parsed(sweep_text, "search.replicates=2")
    study = search.open_study(path, file)
    done, _ = ask(study, file, 2)
    search.tell(study, done, [1.0])
    _, interrupted = ask(study, file, 2)
    with open(path, "ab") as journal:
        journal.write(b'{"op_code": 6, "trial_')  # killed in the middle of a line
    again = search.open_study(path, file)
    (left,) = search.running(again)
    search.Space(file)(left)
    assert search.identify(again, left, 2) == interrupted
    search.tell(again, left, [2.0])
    assert search.num_finished(again) == 2
    assert not search.running(again)
    fresh, found = ask(again, file, 2)
    assert (fresh.number, found.arm) == (2, 1)


def test_a_continued_study_does_not_draw_the_same_points_again(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text)
    points = []
    for _ in range(3):
        study = search.open_study(tmp_path / "optuna.log", file)
        trial, found = ask(study, file)
        search.tell(study, trial, [1.0])
        points.append(found.params["pretrain.code_ratio"])
    assert len(set(points)) == 3


def test_a_failed_trial_is_failed_in_the_study(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text)
    study = search.open_study(tmp_path / "optuna.log", file)
    trial, _ = ask(study, file)
    search.tell(study, trial, None)
    search.tell(study, trial, None)
    assert [t.state.name for t in study.get_trials()] == ["FAIL"]


def test_an_objective_that_is_missing_or_not_finite_is_an_error(sweep_text: str) -> None:
    objectives = parsed(sweep_text).example().search.objectives
    assert search.objective_values(objectives, {"mean/bpb": 2}) == [2.0]
    with pytest.raises(ValueError, match="mean/bpb"):
        search.objective_values(objectives, {"mean/acc": 2.0})
    with pytest.raises(ValueError, match="nan"):
        search.objective_values(objectives, {"mean/bpb": float("nan")})
