"""A search over a mixture: its weights add up to 1, hold their bounds, are evenly spread and survive the driver."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import config, search
from raycodellm.config import UserError
from raycodellm.config.simplex import WHOLE, Simplex, read_simplex
from raycodellm.records import TrialResult
from raycodellm.tables import formats

NAME = "pretrain.weights"
MIXED = "pretrain.weights={search: {simplex: {prose: [0, 1], python: [0.0, 0.6], story: [0.1, 0.5]}}}"
STORY = "sources.story={kind: text, path: story.txt}"
NO_RATIO = ("pretrain.code_ratio=null", "pretrain.schedule=null")


def mixed(text: str, *overrides: str, weights: str = MIXED) -> config.SweepFile:
    return config.parse(text, overrides=(STORY, weights, *NO_RATIO, *overrides))


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Simplex, list[float]]:
    """A simplex of two to eight sources, and units."""
    shares = draw(st.lists(st.integers(0, 100), min_size=2, max_size=8).filter(lambda found: sum(found) > 0))
    inside = [share / sum(shares) for share in shares]  # a mixture within the bounds, so that there is one
    bounds = {
        f"s{place}": [
            round(share * draw(st.floats(0.0, 1.0)), 3),
            min(1.0, round(share + draw(st.floats(0.001, 1.0)), 3)),
        ]
        for place, share in enumerate(inside)
    }
    simplex = read_simplex(NAME, bounds)
    units = st.floats(0.0, 1.0)
    return simplex, draw(st.lists(units, min_size=len(simplex.with_unit), max_size=len(simplex.with_unit)))


@given(spaces())
def test_weights_add_up_to_one_within_their_bounds_and_give_back_their_units(case) -> None:
    simplex, units = case
    weights = simplex.weights(units)
    assert sum(round(weight * WHOLE) for weight in weights) == WHOLE
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    for weight, low, high in zip(weights, simplex.lows, simplex.highs, strict=True):
        assert low <= round(weight * WHOLE) <= high
    assert simplex.weights(simplex.units(weights)) == pytest.approx(weights, abs=2e-6)
    again = simplex.as_sampled(weights)
    assert simplex.as_sampled(again) == again


@given(spaces(), st.floats(0.0, 1.0))
def test_a_mixture_is_completed_within_its_bounds(case, weight) -> None:
    simplex, _ = case
    found = simplex.completed({simplex.sources[-1]: weight})
    assert [*found] == [*simplex.sources]
    simplex.units(list(found.values()))  # refuses what is outside
    assert simplex.units(list(simplex.completed({}).values()))


@pytest.mark.parametrize(
    "bounds",
    [
        {"a": [0, 1], "b": [0, 1], "c": [0, 1], "d": [0, 1]},
        {"a": [0, 1], "b": [0, 0.6], "c": [0.1, 0.2], "d": [0, 0.15]},
        {"a": [0, 0.4], "b": [0.2, 0.2], "c": [0, 0.4], "d": [0, 0.3]},
    ],
)
def test_uniform_units_give_mixtures_that_are_uniform_within_the_bounds(bounds) -> None:
    simplex, chance, number = read_simplex(NAME, bounds), random.Random(0), 1_500
    drawn = [simplex.weights([chance.random() for _ in simplex.with_unit]) for _ in range(number)]
    fixed = [source for source, (low, high) in bounds.items() if low == high]
    room = 1.0 - sum(bounds[source][0] for source in fixed)
    accepted: list[list[float]] = []
    while len(accepted) < number:  # uniform on the free sources' simplex; those outside the bounds are thrown away
        parts = [0.0 if source in fixed else chance.expovariate(1.0) for source in bounds]
        weights = [room * part / sum(parts) for part in parts]
        point = dict(zip(bounds, weights, strict=True)) | {source: bounds[source][0] for source in fixed}
        if all(low <= point[source] <= high for source, (low, high) in bounds.items()):
            accepted.append([point[source] for source in bounds])
    for place in range(len(bounds)):
        ours, theirs = [one[place] for one in drawn], [one[place] for one in accepted]
        error = 4 * statistics.pstdev(theirs) * (2 / number) ** 0.5 + 1e-6
        assert statistics.mean(ours) == pytest.approx(statistics.mean(theirs), abs=error)
        assert statistics.pstdev(ours) == pytest.approx(statistics.pstdev(theirs), rel=0.1, abs=1e-6)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "qmc", pytest.param("gp", marks=pytest.mark.exhaustive)])
def test_every_trial_has_a_whole_mixture_by_the_names_of_its_sources(sweep_text, tmp_path, sampler) -> None:
    file = mixed(sweep_text, f"search.sampler={sampler}", "search.trials=6")
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    for number in range(6):
        found = study.suggest()
        names = [f"{NAME}.prose", f"{NAME}.python", f"{NAME}.story"]
        assert [*found.params] == names
        stage = config.resolve(file, found.params).stages[0]
        assert stage.weights == dict(zip(["prose", "python", "story"], found.params.values(), strict=True))
        assert all(file.domains[name].holds(value) for name, value in found.params.items())
        study.tell(found.number, [found.params[f"{NAME}.python"] + number])


def test_a_study_is_rebuilt_from_the_trials_own_results_with_every_mixture(sweep_text, tmp_path) -> None:
    file = mixed(sweep_text, "search.sampler=random", "search.trials=8")
    results = {}
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    for _ in range(8):
        found = study.suggest()
        results[found.number] = TrialResult(
            number=found.number, state="complete", arm=found.arm, seed=0, params=found.params, metrics={"mean/bpb": 1.0}
        )
        study.tell(found.number, [1.0])
    search.rebuild_journal(tmp_path / "optuna.log", file, [], results, set())
    trials = search.SweepStudy(tmp_path / "optuna.log", file).trials()
    assert [search.agrees(trial, results[trial.number], file, 0) for trial in trials] == [True] * 8
    assert len(trials) == 8


def test_a_continued_study_keeps_the_mixture_of_an_unfinished_trial(sweep_text, tmp_path) -> None:
    file = mixed(sweep_text, "search.trials=4")
    params = search.SweepStudy(tmp_path / "optuna.log", file).suggest().params
    again = search.SweepStudy(tmp_path / "optuna.log", file).suggest()
    assert (again.number, again.params) == (0, params)


POINT = {f"{NAME}.prose": 0.7, f"{NAME}.python": 0.2, f"{NAME}.story": 0.1}


@pytest.mark.parametrize(
    "point", ["{pretrain.weights: {prose: 0.7, python: 0.2, story: 0.1}}", str({**POINT}).replace("'", "")]
)
def test_a_mixture_is_enqueued_as_a_whole_or_source_by_source(sweep_text, tmp_path, point) -> None:
    file = mixed(sweep_text, "search.trials=4", f"search.enqueue=[{point}]", f"search.reference={point}")
    assert file.enqueued() == [POINT] and file.reference() == POINT
    assert search.reference_point(file) == POINT
    assert search.SweepStudy(tmp_path / "optuna.log", file).suggest().params == POINT


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("{pretrain.weights.prose: 0.7}", "has pretrain.weights.prose, but not pretrain.weights.python"),
        ("{pretrain.weights: {prose: 0.7, python: 0.1, story: 0.1}}", "add up to 0.9; make them add up to 1"),
        ("{pretrain.weights: {prose: 0.3, python: 0.6, story: 0.1, pyton: 0}}", "'pyton' is no source"),
        ("{pretrain.weights: {prose: 0.1, python: 0.8, story: 0.1}}", "0.8 is outside its search space [0.0, 0.6]"),
        ("{pretrain.weights: {prose: 0.4, python: 0.6}}", "0.0 is outside its search space [0.1, 0.5]"),
        ("{pretrain.weights: 0.5}", "found 0.5; give each source its weight"),
    ],
)
@pytest.mark.parametrize("key", ["enqueue", "reference"])
def test_a_point_that_is_no_mixture_of_the_space_is_refused(sweep_text, point, said, key) -> None:
    value = f"[{point}]" if key == "enqueue" else point
    with pytest.raises(UserError) as error:
        mixed(sweep_text, f"search.{key}={value}")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("simplex: {prose: [0.7, 1], python: [0.6, 1]}", "lower bounds add up to 1.3; make them add up to at most 1"),
        ("simplex: {prose: [0, 0.3], python: [0, 0.6]}", "upper bounds add up to 0.9; make them add up to at least 1"),
        ("simplex: {prose: [0, 0.4], python: [0, 0.6]}", "leave one mixture only"),
        ("simplex: {prose: [0, 1]}", "names 1 of the sources; give at least two"),
        ("simplex: {}", "names 0 of the sources"),
        ("simplex: [prose, python]", "give each source its bounds"),
        ("simplex: {prose: [0, 1], python: 0.5}", "simplex.python holds 0.5; give two numbers from 0 to 1"),
        ("simplex: {prose: [0, 1], python: [0.5, 0.1]}", "the lower first"),
        ("simplex: {prose: [0, 1], python: [0, 40]}", "two numbers from 0 to 1"),
        ("simplex: {prose: [0, 1], pyton: [0, 1]}", "source 'pyton' is not under sources; did you mean 'python'"),
    ],
)
def test_a_simplex_that_holds_no_mixtures_is_refused_in_one_line(sweep_text, override, said) -> None:
    with pytest.raises(UserError) as error:
        mixed(sweep_text, weights=f"pretrain.weights={{search: {{{override}}}}}")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_simplex_is_for_weights_only_and_no_grid_lists_it(sweep_text) -> None:
    with pytest.raises(UserError, match="simplex searches a mixture; use it for the weights of a stage"):
        config.parse(
            sweep_text, overrides=("pretrain.code_ratio={search: {simplex: {prose: [0, 1], python: [0, 1]}}}",)
        )
    file = mixed(sweep_text, "search.sampler=grid", "search.trials=null")
    with pytest.raises(UserError, match=r"grid cannot list pretrain\.weights, which is a simplex"):
        search.num_arms(file)


def test_a_simplex_in_a_phase_and_in_an_option_is_sampled_where_it_is_chosen(sweep_text, tmp_path) -> None:
    phases = (
        "pretrain.phases={search: {choice: ["
        "[{share: 1.0, weights: {search: {simplex: {prose: [0, 1], python: [0, 1], story: [0, 1]}}}}], "
        "[{share: 0.5, weights: {prose: 1.0}}, "
        "{share: 0.5, weights: {search: {simplex: {prose: [0, 1], python: [0, 1]}}}}]]}}"
    )
    file = mixed(sweep_text, "search.trials=12", "search.sampler=random", weights=phases)
    study, seen = search.SweepStudy(tmp_path / "optuna.log", file), set()
    for _ in range(12):
        found = study.suggest()
        stage = config.resolve(file, found.params).stages[0]
        assert sum(stage.phases[-1].weights.values()) == pytest.approx(1.0)
        seen.add(len(found.params))
        assert search.distributions(file, found.params) is not None
    assert seen == {3, 4}


def test_a_sentence_names_the_mixture_once_and_then_its_sources() -> None:
    point = {
        "pretrain.weights.web": 0.7,
        "pretrain.weights.code": 0.3,
        "pretrain.schedule": "wsd",
        "instruct.tokens": 9,
    }
    told = "pretrain.weights.web 0.7, code 0.3, pretrain.schedule wsd, instruct.tokens 9"
    assert formats.params(point) == told
    assert formats.params({}) == "no searched parameter"
