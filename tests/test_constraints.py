"""Constraints: what an arm may not make worse, as the sampler, the choice of arms and the verdict take it."""

from __future__ import annotations

import math
import re

import pytest
from driver_without_ray import Cluster, Driver
from test_verdict import noisy, run_pending, search_rows, sweep_file

from raycodellm import config, evaluation, report, search, storage_files, sweep, verdict
from raycodellm.config import Constraint, UserError
from raycodellm.files import Folder
from raycodellm.report import constraints
from raycodellm.sweep import repair

pytestmark = pytest.mark.usefixtures("no_rivals")

WITHIN = "constraints: [{metric: boxes/bpb, mode: min, within: 0.01}]"
LOOKED = f"confirm: {{best: 1, seeds: [2]}}, {WITHIN}"
SMALL = (
    "search.trials=4",
    "search.reference={pretrain.code_ratio: 0.0}",
    "search.constraints=[{metric: boxes/bpb, mode: min, within: 0.0}]",
)


@pytest.mark.parametrize(
    ("constraint", "reference", "limit", "breach"),
    [
        ({"mode": "min", "within": 0.01}, 2.0, 2.02, 0.08),
        ({"mode": "max", "within": 0.05}, 2.0, 1.9, -0.2),
        ({"mode": "max", "within": 0.5}, -2.0, -3.0, -5.1),
        ({"mode": "min", "bound": 2.0}, None, 2.0, 0.1),
        ({"mode": "min", "within": 0.01}, None, None, None),
    ],
)
def test_a_limit_is_a_bound_or_a_share_of_the_references_own_value(constraint, reference, limit, breach) -> None:
    one = Constraint(metric="a/bpb", **constraint)
    assert search.limit(one, reference) == (None if limit is None else pytest.approx(limit))
    assert search.breach(one, 2.1, reference) == (None if breach is None else pytest.approx(breach))


@pytest.mark.parametrize(
    ("search_part", "why"),
    [
        ("search.constraints=[{metric: boxes/bpb, mode: min}]", "either within, a share .*, or bound"),
        ("search.constraints=[{metric: boxes/bpb, mode: min, within: 0.1, bound: 2}]", "either within"),
        ("search.constraints=[{metric: boxes/bpb, mode: min, within: 0.1}]", "there is no reference; give it"),
        (
            "search.constraints=[{metric: sorting/bpb, mode: min, bound: 1}]",
            r"constraints\.0\.metric: found 'sorting/bpb'",
        ),
        (
            "search.constraints=[{metric: boxes/bpb, mode: max, bound: 1}]",
            "is better where it is lower, .* use mode: min",
        ),
    ],
)
def test_a_constraint_that_says_nothing_is_refused_in_one_line(sweep_text, search_part, why) -> None:
    with pytest.raises(UserError, match=why) as refused:
        evaluation.check_evaluation(config.parse(sweep_text, overrides=(search_part,)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.exhaustive)])
def test_samplers_propose_more_points_that_keep_a_constraint_than_without_it(sweep_text, tmp_path, sampler) -> None:
    """The more code the better the score, and the constraint allows a fifth of the range."""
    settings = (f"search.sampler={sampler}", "search.trials=24", "pretrain.schedule=constant")

    def kept(overrides: tuple[str, ...]) -> int:
        file = config.parse(sweep_text, overrides=(*settings, *overrides))
        study, ratios = search.SweepStudy(tmp_path / f"{len(overrides)}.log", file), []
        for _ in range(24):
            one = study.suggest()
            ratios.append(one.params["pretrain.code_ratio"])
            found = search.breaches(file.example().search.constraints, {"code/bpb": ratios[-1]}, None)
            study.tell(one.number, [-ratios[-1]], found)
        return sum(ratio <= 0.16 for ratio in ratios[len(ratios) // 2 :])

    assert kept(("search.constraints=[{metric: code/bpb, mode: min, bound: 0.15}]",)) > kept(()) + 2


def test_the_study_has_each_trials_distance_to_the_limit_also_where_the_reference_ends_last(
    sweep_text, tmp_path
) -> None:
    file, storage, cluster = config.parse(sweep_text, overrides=SMALL), Folder(str(tmp_path)), Cluster()

    def breaches_of(run: sweep.Run) -> list[dict[str, float]]:
        return [trial.constraints for trial in search.SweepStudy(run.journal, file).trials()]

    with sweep.lock(sweep.open_run(file, storage)) as run, pytest.MonkeyPatch.context() as patch:
        driver = Driver(run, cluster, patch, lambda: 0.0)
        reports = [driver.carry_out(driver.suggest(str(number))) for number in range(3)]
        for number in (2, 1):
            driver.end(str(number), reports[number])
        assert [one for one in breaches_of(run) if one] == []
    with sweep.lock(sweep.open_run(file, storage)) as run, pytest.MonkeyPatch.context() as patch:
        assert sweep.tell_written_results(run) == 3, "the reference's result was written before its driver died"
        driver = Driver(run, cluster, patch, lambda: 0.0)
        driver.end("3", driver.carry_out(driver.suggest("3")))
    results = [storage_files.read_result(run.trial_folder(number)) for number in range(4)]
    scores = [one.metrics["boxes/bpb"] for one in results]
    known = breaches_of(run)
    assert [[*one.values()] for one in known] == [[pytest.approx(score - scores[0])] for score in scores]
    search.rebuild_journal(run.journal, file, (), {one.number: one for one in results}, set())
    assert breaches_of(run) == known and not repair.repair(sweep.Run(file, storage), print)


def constrained(scores: dict[int, float]) -> list[dict]:
    return [{**one, "metrics.boxes/bpb": scores[one["arm"]]} for one in search_rows()]


def test_arms_that_keep_all_constraints_are_confirmed_and_ranked_first() -> None:
    rows = constrained({0: 1.0, 1: 1.005, 2: 1.5, 3: 1.2})  # by mean/bpb arm 3 is the best, then 2, then 1
    assert verdict.looks(sweep_file("confirm: {best: 1, seeds: [2]}"), rows, {}).arms == (3,)
    assert verdict.looks(sweep_file(LOOKED), rows, {}).arms == (1,)
    assert verdict.looks(sweep_file(LOOKED.replace("best: 1", "best: 3")), rows, {}).arms == (1, 3, 2)


@pytest.mark.parametrize(
    ("noise", "certainty", "words"),
    [(0.001, "sure", r"by 0\.\d+ \(95 %: \+"), (0.1, "within the noise", "other seeds may keep it")],
)
def test_the_verdict_names_the_constraint_that_its_winner_breaks_and_whether_that_is_noise(
    noise, certainty, words
) -> None:
    file, score = sweep_file(LOOKED), noisy((0.0, 0.0, 0.0, -0.9), 0.001)
    rows = run_pending(file, search_rows(), score)
    text = noisy((1.0, 1.0, 1.0, 1.0 + (0.1 if noise < 0.01 else 2 * noise)), noise)
    rows = [
        {**one, "metrics.boxes/bpb": text(one["arm"], one["seed"]) if one["phase"] == "confirm" else 1.0}
        for one in rows
    ]
    found = verdict.findings(file, rows, {})
    broken = next(one for one in found.breaches if one.arm == 3)
    assert broken.is_broken and broken.certainty == certainty
    said = verdict.answer(file, found)
    assert "It breaks the constraint boxes/bpb <= reference + 1 %" in said
    told = next(one for one in verdict.document(file, found, said, 0)["constraints"] if one["arm"] == 3)
    assert told["is_broken"] and told["breach"] == pytest.approx(told["score"] - told["limit"])
    assert re.search(words, said)


def test_with_one_seed_per_arm_nothing_is_said_of_other_seeds() -> None:
    found = verdict.findings(sweep_file(WITHIN), constrained({0: 1.0, 1: 1.0, 2: 1.5, 3: 1.2}), {})
    assert {one.certainty for one in found.breaches if one.arm} == {"noise unknown"}
    assert all(math.isnan(one.breach.low) for one in found.breaches if one.arm)
    assert [one.arm for one in found.breaches if one.is_broken] == [2, 3]


def test_the_reference_keeps_its_own_limit_by_definition_and_shows_no_interval() -> None:
    file = sweep_file(WITHIN)
    rows = constrained({0: 1.0, 1: 1.0, 2: 1.5, 3: 1.2})
    own, *others = verdict.breaches(file, rows, {})
    assert own.arm == 0 and own.is_of_reference and not any(one.is_of_reference for one in others)
    records = report.Records(Folder("run"), Folder("storage"), file, rows, {}, {}, {})
    first = next(row for row in constraints.table(records).rows if row[0] == "0")
    assert first[5:] == ("exact: the limit is its own", "keeps it, by definition")
