"""Other sweeps' trials as prior knowledge: the sampler learns from them, and nothing else takes them for its own."""

from __future__ import annotations

import random

import optuna
import pytest
from driver_without_ray import Cluster
from test_added_tasks import drive, results_of

from raycodellm import config, search, sweep
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.search.journal_file import open_journal
from raycodellm.search.prior import quantiles, with_prior
from raycodellm.sweep.growing_table import table_of
from raycodellm.sweep.warm_start import KEPT, prior_of

pytestmark = pytest.mark.usefixtures("no_rivals")

OWN = ("search.sampler=tpe", "search.trials=6", "pretrain.schedule=constant", "search.warm_start=[first]")
NAME = "pretrain.code_ratio"


def own(text: str, *overrides: str) -> SweepFile:
    return config.parse(text, overrides=("name=second", *OWN, *overrides))


def write_run(storage: Folder, text: str, rows: list[dict], *overrides: str) -> None:
    """A run with these trials; each row is a code ratio, a score, and more columns of the table."""
    file = config.parse(text, overrides=("name=first", "pretrain.schedule=constant", *overrides))
    run = sweep.open_run(file, storage)
    columns = [
        {"number": number, "state": "complete", "arm": number, "seed": 0, f"params.{NAME}": row["ratio"]}
        | ({"metrics.mean/bpb": row["score"]} if "score" in row else {})
        | row.get("more", {})
        for number, row in enumerate(rows)
    ]
    run.folder.write_table("trials.parquet", table_of(columns))


def twenty(best: float = 0.6) -> list[dict]:
    return [{"ratio": place * 0.035, "score": 1.0 + (place * 0.035 - best) ** 2} for place in range(20)]


def test_the_sampler_learns_from_another_sweeps_trials_before_it_has_any_of_its_own(sweep_text, tmp_path) -> None:
    storage = Folder(str(tmp_path))
    write_run(storage, sweep_text, twenty())

    def distance(file: SweepFile, name: str) -> float:
        prior = sweep.read_prior(file, storage).trials
        study, found = search.SweepStudy(tmp_path / f"{name}.log", file, prior), []
        for _ in range(6):
            one = study.suggest()
            found.append(abs(one.params[NAME] - 0.6))
            study.tell(one.number, [7.0 + found[-1]])  # another scale: this sweep's models are worse
        assert [trial.number for trial in study.trials()] == [*range(6)]
        assert all("warm_start" not in trial.user_attrs for trial in study.trials())
        return sum(found)

    assert distance(own(sweep_text), "warm") < 0.6 * distance(own(sweep_text, "search.warm_start=[]"), "cold")


def test_the_first_generation_of_nsga2_are_the_other_sweeps_trials(sweep_text, tmp_path) -> None:
    searched = (
        "learning_rate.warmup={search: {uniform: [0.0, 0.5]}}",
        "learning_rate.final={search: {uniform: [0, 1]}}",
    )
    settings = ("search.sampler=nsga2", "search.trials=12", "search.warm_start=[]")
    file, chance = own(sweep_text, *settings, *(f"pretrain.{one}" for one in searched)), random.Random(0)
    best = {NAME: 0.6, "pretrain.learning_rate.warmup": 0.4, "pretrain.learning_rate.final": 0.1}

    def loss(params: dict[str, float]) -> float:
        return sum((params[name] - best[name]) ** 2 for name in best)

    points = [{name: chance.uniform(0, 0.75 if name == NAME else 0.5) for name in best} for _ in range(40)]
    known = [search.PriorTrial("first", place, one, (9.0 + loss(one),)) for place, one in enumerate(points)]

    def mean_loss(prior: list[search.PriorTrial]) -> float:
        study, losses = search.SweepStudy(tmp_path / f"{len(prior)}.log", file, prior), []
        for _ in range(12):
            one = study.suggest()
            losses.append(loss(one.params))
            study.tell(one.number, [losses[-1]])
        return sum(losses) / len(losses)

    assert mean_loss(known) < 0.6 * mean_loss([])


def test_what_cannot_be_used_is_counted_with_its_reason(sweep_text, tmp_path) -> None:
    storage = Folder(str(tmp_path))
    outside = {"ratio": 0.7, "score": 1.0}
    failed = {"ratio": 0.1, "more": {"state": "failed"}}
    other = {"ratio": 0.1, "score": 1.0, "more": {"params.instruct.learning_rate.peak": 0.5}}
    write_run(storage, sweep_text, [*twenty()[:4], outside, failed, failed, {"ratio": 0.1}, other])
    prior = sweep.read_prior(own(sweep_text, "pretrain.code_ratio={search: {uniform: [0.0, 0.5]}}"), storage)
    assert [one.number for one in prior.trials] == [0, 1, 2, 3]
    (line,) = prior.lines
    for reason in (
        "1 outside the space",
        "2 failed",
        "1 without the objective",
        "1 with another instruct.learning_rate",
    ):
        assert reason in line
    assert line.startswith(f"search.warm_start: 4 trials of {storage}/first are used; left out: ")


def test_how_far_a_trial_breaks_a_constraint_is_told_against_the_same_reference_in_its_own_run(
    sweep_text, tmp_path
) -> None:
    storage = Folder(str(tmp_path))
    rows = [
        {"ratio": ratio, "score": 1.0, "more": {"metrics.boxes/bpb": bpb}}
        for ratio, bpb in ((0.4, 9.0), (0.1, 2.0), (0.2, 2.5))
    ]
    write_run(storage, sweep_text, rows)
    limit = "search.constraints=[{metric: boxes/bpb, mode: min, within: 0.1}]"

    def breaches(reference: float) -> list[float]:
        file = own(sweep_text, limit, f"search.reference={{{NAME}: {reference}}}")
        return [
            pytest.approx(value) for one in sweep.read_prior(file, storage).trials for value in [*one.breaches.values()]
        ]

    assert breaches(0.1) == [9.0 - 2.2, 2.0 - 2.2, 2.5 - 2.2]
    assert breaches(0.3) == [], "the run has no trial there, so nothing is known of the limit"


def test_a_parameter_that_the_other_sweep_did_not_search_has_the_value_of_its_file(sweep_text, tmp_path) -> None:
    storage = Folder(str(tmp_path))
    write_run(storage, sweep_text, twenty())
    wider = own(sweep_text, "pretrain.learning_rate.peak={search: {loguniform: [1e-4, 1e-2]}}")
    prior = sweep.read_prior(wider, storage)
    assert {one.params["pretrain.learning_rate.peak"] for one in prior.trials} == {3e-3} and len(prior.trials) == 20
    elsewhere = own(sweep_text, "pretrain.optimizer.weight_decay={search: {uniform: [0.5, 0.6]}}")
    assert not sweep.read_prior(elsewhere, storage).trials


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("search.sampler=random", "has no effect with sampler: random.*use tpe or gp or nsga2"),
        ("search.warm_start=[absent]", "absent: is not a run folder"),
        ("search.warm_start=[second]", "second is this sweep itself"),
        ("search.objective={metric: sorting/bpb, mode: min}", "has no complete trial with sorting/bpb"),
    ],
)
def test_a_warm_start_that_teaches_nothing_is_refused_in_one_line(sweep_text, tmp_path, override, why) -> None:
    storage = Folder(str(tmp_path))
    write_run(storage, sweep_text, twenty()[:2])
    with pytest.raises(UserError, match=why) as refused:
        sweep.read_prior(own(sweep_text, override), storage)
    assert "\n" not in str(refused.value)


def test_a_relative_folder_is_refused_and_another_run_may_not_take_the_place_of_the_first(sweep_text, tmp_path) -> None:
    with pytest.raises(UserError, match="a relative path; give the name of a sweep in the same storage"):
        own(sweep_text, "search.warm_start=[runs/first]")
    sweep.open_run(own(sweep_text), Folder(str(tmp_path)))
    with pytest.raises(UserError, match=r"^search\.warm_start"):
        sweep.open_run(own(sweep_text, "search.warm_start=[third]"), Folder(str(tmp_path)))


def test_every_driver_starts_from_the_trials_that_the_first_one_read(sweep_text, tmp_path) -> None:
    storage, cluster = Folder(str(tmp_path)), Cluster()
    text = ("evaluation.tasks=[boxes]", "search.objective={metric: mean/bpb, mode: min}")
    write_run(storage, sweep_text, twenty(), *text)
    file = own(sweep_text, *text, "search.trials=3")
    assert drive(file, storage, cluster, [], stop_after=1) == 3
    run = sweep.Run(file, storage)
    before = prior_of(run)
    assert len(before) == 20 and run.folder.exists(KEPT)
    (storage / "first").delete()
    assert prior_of(run) == before and drive(file, storage, cluster, []) == 2
    assert [one.number for one in results_of(file, storage)] == [0, 1, 2]


def test_a_copy_has_failed_pruned_and_running_trials_under_their_numbers_and_marks_the_others(
    sweep_text, tmp_path
) -> None:
    storage, file = Folder(str(tmp_path)), own(sweep_text)
    write_run(storage, sweep_text, twenty())
    prior = sweep.read_prior(file, storage).trials
    study = search.SweepStudy(tmp_path / "optuna.log", file, prior)
    for number, told in enumerate(({"values": [3.0]}, {"values": None}, {"values": None, "is_pruned": True}, None)):
        study.suggest()
        if told is not None:
            study.tell(number, **told, steps={8: 5.0} if "is_pruned" in told else None)
    assert study.suggest().number == 4
    kept = optuna.load_study(study_name="second", storage=open_journal(tmp_path / "optuna.log"))
    copy = with_prior(kept, file, prior)
    states = [trial.state.name for trial in copy.trials]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "RUNNING", "RUNNING", *["COMPLETE"] * 20]
    assert [trial.params for trial in copy.trials[:5]] == [trial.params for trial in study.trials()]
    assert {trial.user_attrs.get("warm_start") for trial in copy.trials[5:]} == {(storage / "first").uri}
    assert copy.trials[2].intermediate_values == {8: 5.0}


def test_scores_count_by_their_rank_in_their_own_sweep() -> None:
    low, middle, high = quantiles([[10.0, 1.0], [20.0, 0.5], [1e9, 0.5]])
    assert low[0] == -high[0] and middle[0] == 0.0 and middle[1] == high[1] < low[1]
    assert quantiles([[3.0]]) == [[0.0]] and quantiles([]) == []
