"""The study gives every trial a number, an arm and a seed, and survives its driver."""

from __future__ import annotations

import math

import pytest

from raycodellm import config, search
from raycodellm.config import UserError
from raycodellm.records import CONFIRM_SEEDS, TrialResult


def parsed(text: str, *overrides: str) -> config.SweepFile:
    return config.parse(text, overrides=overrides)


def is_relevant(file, name, params):
    return any(search.is_relevant(file, one, params) for one in file.parameters if one.name == name)


SCORED = {"mean/bpb": 1.0}
CHOICES = "pretrain.code_ratio={search: {choice: [0.0, 0.5]}}"


def test_both_budgets_without_code_are_one_arm(sweep_text: str) -> None:
    ratios, budgets = "{search: {choice: [0.0, 0.25]}}", "{search: {choice: [competitive, additive]}}"
    overrides = (f"pretrain.code_ratio={ratios}", f"pretrain.budget={budgets}", "pretrain.schedule=constant")
    file = config.parse(sweep_text, overrides=(*overrides, "search.sampler=grid", "search.trials=null"))
    assert [(arm["pretrain.code_ratio"], arm.get("pretrain.budget")) for arm in search.grid(file)] == [
        (0.0, None),
        (0.25, "competitive"),
        (0.25, "additive"),
    ]


def test_a_schedule_is_not_sampled_where_the_code_ratio_leaves_it_no_meaning(sweep_text: str) -> None:
    file = parsed(sweep_text, CHOICES)
    assert search.grid(parsed(sweep_text, CHOICES, "search.sampler=grid", "search.trials=null")) == [
        {"pretrain.code_ratio": 0.0},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "constant"},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "increase"},
        {"pretrain.code_ratio": 0.5, "pretrain.schedule": "decrease"},
    ]
    assert not is_relevant(file, "pretrain.schedule", {"pretrain.code_ratio": 0.0})
    assert not is_relevant(parsed(sweep_text, "pretrain.code_ratio=1.0"), "pretrain.schedule", {})


def rate(*options: str) -> str:
    return "pretrain.learning_rate={search: {choice: [" + ", ".join(options) + "]}}"


LOW, HIGH = "peak: {search: {loguniform: [1e-4, 1e-3]}}", "peak: {search: {loguniform: [1e-2, 1e-1]}}"
SPACES = {
    "same range": rate(f"{{schedule: cosine, {LOW}}}", f"{{schedule: linear, {LOW}}}", "{peak: 0.5}"),
    "own ranges": rate(f"{{schedule: cosine, {LOW}}}", f"{{schedule: linear, {HIGH}}}", "{peak: 0.5}"),
    "phases": "pretrain.phases={search: {choice: ["
    "[{share: 1.0, weights: {search: {choice: [{prose: 1.0}, {python: 1.0}]}}}], "
    "[{share: 0.5, weights: {search: {choice: [{prose: 1.0}, {prose: 0.5, python: 0.5}]}}}, "
    "{share: 0.5, weights: {python: 1.0}}]]}}",
    "model.config": "model.config={search: {choice: [{model_type: llama, hidden_size: {search: {choice: [64, 128]}}}, "
    "{model_type: gpt2, hidden_size: {search: {int: [32, 48]}}}]}}",
}
REMOVED = {
    "phases": ("pretrain.code_ratio=null", "pretrain.schedule=null"),
    "model.config": ("model.preset=null", "pretrain.code_ratio=0.0"),
}
SEARCHED = {"phases": "pretrain.phases.0.weights", "model.config": "model.config.hidden_size"}


def conditional(text: str, case: str, *overrides: str) -> config.SweepFile:
    return parsed(text, SPACES[case], *REMOVED.get(case, ("pretrain.code_ratio=0.0",)), *overrides)


@pytest.mark.parametrize(
    ("case", "sampler"),
    [
        ("same range", "tpe"),
        *((space, "nsga2") for space in SPACES),
        *(pytest.param(space, "tpe", marks=pytest.mark.slow) for space in [*SPACES][1:]),
        pytest.param("own ranges", "gp", marks=pytest.mark.slow),
        ("same range", "random"),
    ],
)
def test_one_name_in_several_options_is_sampled_in_each_from_its_space(sweep_text, case, sampler, tmp_path) -> None:
    file = conditional(sweep_text, case, f"search.sampler={sampler}", "search.trials=12")
    name = SEARCHED.get(case, "pretrain.learning_rate.peak")
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    seen: dict[object, set] = {}
    for number in range(6 if sampler == "gp" else 14):
        found = study.suggest()
        seen.setdefault(next(iter(found.params.values())), set()).add(found.params.get(name))
        there = [one for one in file.parameters if one.name == name and one.is_active(found.params)]
        assert [one.domain.holds(found.params[name]) for one in there] == [True] * (name in found.params)
        if name == "pretrain.learning_rate.peak":
            assert config.resolve(file, found.params).stages[0].learning_rate.peak == found.params.get(name, 0.5)
        study.tell(found.number, [float(number % 5)])
    assert len(seen) >= 2
    assert max(len(values) for values in seen.values()) > 1


def test_a_grid_has_every_point_of_every_option(sweep_text: str) -> None:
    grid = ("search.sampler=grid", "search.trials=null")
    points = search.grid(conditional(sweep_text, "phases", *grid))
    assert [list(point) for point in points] == [["pretrain.phases", "pretrain.phases.0.weights"]] * 4
    assert len({tuple(point.values()) for point in points}) == 4
    points = search.grid(conditional(sweep_text, "model.config", *grid))
    assert [point["model.config.hidden_size"] for point in points] == [64, 128, *range(32, 49)]
    first = "search.enqueue=[{model.config: {model_type: gpt2, hidden_size: 40}}]"
    ordered = search.grid(conditional(sweep_text, "model.config", *grid, first))
    assert ordered[0]["model.config.hidden_size"] == 40 and len(ordered) == len(points)


def test_an_enqueued_point_names_an_option_by_what_tells_it_from_the_others(sweep_text: str, tmp_path) -> None:
    said = "{pretrain.learning_rate: {schedule: linear, peak: 0.05}}, {pretrain.learning_rate.peak: 5e-4, "
    said += "pretrain.learning_rate: {schedule: cosine}}, {pretrain.learning_rate: {peak: 0.5}}"
    file = conditional(sweep_text, "own ranges", f"search.enqueue=[{said}]", "search.trials=4")
    assert search.preview(file, 9)[:3] == file.enqueued()
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    rates = [config.resolve(file, study.suggest().params).stages[0].learning_rate for _ in range(3)]
    assert [(one.schedule, one.peak) for one in rates] == [("linear", 0.05), ("cosine", 5e-4), ("cosine", 0.5)]
    both = conditional(sweep_text, "same range", "search.enqueue=[{pretrain.learning_rate.peak: 2e-4}]")
    assert both.enqueued() == [{"pretrain.learning_rate.peak": 2e-4}]


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("{pretrain.learning_rate: {schedule: linear, peak: 5e-4}}", ("peak", "0.0005", "[0.01, 0.1]")),
        ("{pretrain.learning_rate.peak: 5e-4}", ("some options", "say pretrain.learning_rate too")),
        ("{pretrain.learning_rate.peak: 5}", ("5", "[0.0001, 0.001] or [0.01, 0.1]")),
        ("{pretrain.learning_rate: {peak: 0.5}, pretrain.learning_rate.peak: 5e-4}", ("no meaning",)),
        ("{pretrain.learning_rate: {schedule: wsd}}", ("outside its search space",)),
        ("{pretrain.learning_rate: {peak: 0.02}}", ("outside its search space", "say more")),
        ("{pretrain.schedule: constant, pretrain.code_ratio: 0.1}", ("'pretrain.code_ratio' is not searched over",)),
        ("{pretrain.learning_rate.peak: true}", ("True",)),
    ],
)
def test_an_enqueued_point_outside_the_space_is_refused(sweep_text: str, point: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        conditional(sweep_text, "own ranges", f"search.enqueue=[{point}]")
    assert any(word in str(caught.value) for word in words), str(caught.value)


def test_a_reference_names_every_parameter_that_has_an_effect_and_keeps_no_other(sweep_text: str) -> None:
    def reference(point: str) -> dict | None:
        return search.reference_point(parsed(sweep_text, CHOICES, f"search.reference={point}"))

    assert search.reference_point(parsed(sweep_text)) is None
    assert reference("{pretrain.code_ratio: 0.0, pretrain.schedule: increase}") == {"pretrain.code_ratio": 0.0}
    with pytest.raises(UserError, match=r"search\.reference: has no value for pretrain\.schedule"):
        reference("{pretrain.code_ratio: 0.5}")
    with pytest.raises(UserError, match=r"search\.reference\.pretrain\.code_ratio: 0\.1 is outside"):
        reference("{pretrain.code_ratio: 0.1}")
    with pytest.raises(UserError, match=r"'pretrain' is part of a path; give .* whole path: pretrain\.code_ratio"):
        reference("{pretrain: {code_ratio: 0.5}}")


def test_a_confirmation_needs_a_reference_and_looks_that_grow(sweep_text: str) -> None:
    with pytest.raises(UserError, match="confirm: needs reference"):
        parsed(sweep_text, "search.confirm={best: 1}")
    with pytest.raises(UserError, match="found 2 after 4"):
        parsed(sweep_text, "search.reference={}", "search.confirm={seeds: [4, 2]}")


def test_the_reference_is_tried_first_and_once(sweep_text: str, tmp_path) -> None:
    point = "pretrain.code_ratio: 0.5, pretrain.schedule: increase"
    other = "{pretrain.code_ratio: 0.25}"
    named = (f"search.reference={{{point}}}", f"search.enqueue=[{other}, {{{point}}}]")
    expected = {"pretrain.code_ratio": 0.5, "pretrain.schedule": "increase"}
    file = parsed(sweep_text, *named, "search.trials=2")
    assert search.num_trials(file) == 2
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    first, second = study.suggest(), study.suggest()
    assert (first.arm, first.params, second.params["pretrain.code_ratio"]) == (0, expected, 0.25)
    assert search.preview(file, 9)[0] == expected
    grid = parsed(sweep_text, *named[:1], CHOICES, "search.sampler=grid", "search.trials=null")
    assert search.grid(grid)[0] == expected and search.num_trials(grid) == 4


CONFIRM = "search.confirm={best: 1, seeds: [2, 3]}"
CONFIRMED = ("search.reference={pretrain.code_ratio: 0.0}", CONFIRM, "search.trials=2")
FIRST_LOOK = [(0, 0), (1, 0), (0, 1), (1, 1)]


def searched(path, file: config.SweepFile) -> search.SweepStudy:
    """A study whose search is over."""
    study = search.SweepStudy(path, file)
    for number in range(search.num_trials(file)):
        study.tell(study.suggest().number, [float(number)])
    return study


def confirmed(study: search.SweepStudy, wanted=FIRST_LOOK) -> set[tuple]:
    """The confirmation's trials, each told as it is suggested."""
    study.confirm(wanted)
    while study.has_open:
        study.tell((one := study.suggest()).number, [1.0])
        assert one.phase == "confirm"
    return {
        (t.number, t.user_attrs["arm"], t.user_attrs["replicate"], t.user_attrs["phase"], repr(t.params))
        for t in study.trials()
        if "phase" in t.user_attrs
    }


def test_a_confirmation_repeats_its_arms_with_seeds_that_the_search_never_had(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text, *CONFIRMED)
    study = searched(tmp_path / "optuna.log", file)
    points = {t.user_attrs["arm"]: repr(t.params) for t in study.trials()}
    expected = {
        (2 + place, arm, CONFIRM_SEEDS + seed, "confirm", points[arm]) for place, (arm, seed) in enumerate(FIRST_LOOK)
    }
    assert confirmed(study) == confirmed(search.SweepStudy(tmp_path / "optuna.log", file)) == expected
    assert (search.num_trials(file), search.most_trials(file), len(study.begun())) == (2, 8, 2)
    study.confirm([(0, 2), (1, 2)])
    assert [(one.number, one.arm) for one in (study.suggest(), study.suggest())] == [(6, 0), (7, 1)]


def test_an_arm_that_the_study_cannot_have_is_told_in_a_line(sweep_text: str, tmp_path) -> None:
    study = searched(tmp_path / "optuna.log", parsed(sweep_text, *CONFIRMED))
    with pytest.raises(
        config.UserError, match="arm 5 gets fresh seeds, but its parameters do not fit the search space"
    ):
        study.confirm([(0, 0), (5, 0)])


def test_a_driver_killed_after_any_line_of_a_confirmation_leaves_it_to_the_next_one(sweep_text, tmp_path) -> None:
    file, path = parsed(sweep_text, *CONFIRMED), tmp_path / "optuna.log"
    study = searched(path, file)
    before = len(path.read_bytes().splitlines())
    expected = confirmed(study, FIRST_LOOK[:2])
    lines = path.read_bytes().splitlines(keepends=True)
    for end in range(before, len(lines)):
        path.write_bytes(b"".join(lines[:end]) + lines[end][:9])
        assert confirmed(search.SweepStudy(path, file), FIRST_LOOK[:2]) == expected, end


def test_a_confirmation_leaves_out_the_points_that_the_search_did_not_reach(sweep_text: str, tmp_path) -> None:
    same = "{pretrain.code_ratio: 0.0, pretrain.schedule: increase}"  # the reference again: one more seed of it
    file = parsed(sweep_text, *CONFIRMED, "search.replicates=2", f"search.enqueue=[{{}}, {same}]")
    study = searched(tmp_path / "optuna.log", file)
    states = [trial.state.name for trial in study.trials()]
    assert len(confirmed(study)) == 4
    assert [trial.state.name for trial in study.trials()][: len(states)] == states


def test_a_trial_that_is_lost_wholly_after_the_search_is_one_of_the_confirmation_again(sweep_text, tmp_path) -> None:
    file, path = parsed(sweep_text, *CONFIRMED), tmp_path / "optuna.log"
    expected = confirmed(searched(path, file))
    results = {
        t.number: TrialResult(t.number, "complete", t.user_attrs["arm"], t.user_attrs["replicate"], t.params, SCORED)
        for t in search.read_journal(path, file, {}).trials
    }
    del results[4]
    search.rebuild_journal(path, file, (), results, set())
    study = search.SweepStudy(path, file)
    assert study.unfinished() == [] and not study.has_open
    assert confirmed(study) == expected


def test_what_cannot_be_counted_is_refused_by_its_number(sweep_text: str) -> None:
    ratios = ", ".join(str(number / 999) for number in range(400))
    many = f"pretrain.code_ratio={{search: {{choice: [{ratios}]}}}}"
    with pytest.raises(UserError, match="over 1,000 points"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=null", many))
    with pytest.raises(UserError, match="1,000,000 trials"):
        search.num_arms(parsed(sweep_text, "search.trials=1000", "search.replicates=1000"))
    tokens = "pretrain.tokens={search: {int: [1_000, 1_000_000]}}"
    with pytest.raises(UserError, match="over 1,000 points"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=null", tokens, CHOICES))


def test_a_grid_over_a_continuous_space_is_refused(sweep_text: str) -> None:
    with pytest.raises(UserError, match=r"pretrain\.code_ratio.*uniform"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=null"))
    with pytest.raises(UserError, match="has 4 points"):
        search.num_arms(parsed(sweep_text, "search.sampler=grid", "search.trials=3", CHOICES))


def test_replicates_are_the_same_arm_with_other_seeds(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text, "search.replicates=3")
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    found = [study.suggest() for _ in range(6)]
    assert [f.arm for f in found] == [0, 0, 0, 1, 1, 1]
    assert [f.replicate for f in found] == [0, 1, 2, 0, 1, 2]
    assert found[0].params == found[2].params != found[3].params
    assert search.num_trials(file) == 6


def test_an_arm_suggested_again_becomes_a_replicate_of_itself(sweep_text: str, tmp_path) -> None:
    point = "{pretrain.code_ratio: 0.5, pretrain.schedule: constant}"
    file = parsed(sweep_text, f"search.enqueue=[{point}, {point}]")
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    assert [(f.arm, f.replicate) for f in (study.suggest() for _ in range(2))] == [(0, 0), (0, 1)]


def test_a_point_suggested_again_while_its_arms_replicates_wait_gets_a_seed_that_none_of_them_has(
    sweep_text: str, tmp_path
) -> None:
    point = "pretrain.code_ratio: 0.0"  # where the schedule means nothing
    enqueued = f"search.enqueue=[{{{point}}}, {{{point}, pretrain.schedule: increase}}]"
    file = parsed(sweep_text, "search.replicates=2", "search.trials=2", enqueued)
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    assert sorted((f.arm, f.replicate) for f in (study.suggest() for _ in range(3))) == [(0, 0), (0, 1), (0, 2)]


def test_a_killed_driver_leaves_its_trials_to_the_next_one(sweep_text: str, tmp_path) -> None:
    path = tmp_path / "optuna.log"
    file = parsed(sweep_text, "search.replicates=2")
    study = search.SweepStudy(path, file)
    study.tell(study.suggest().number, [1.0])
    interrupted = study.suggest()
    with open(path, "ab") as journal:
        journal.write(b'{"op_code": 6, "trial_')  # killed in the middle of a line
    again = search.SweepStudy(path, file)
    assert again.unfinished() == [interrupted.number]
    assert again.suggest() == interrupted
    again.tell(interrupted.number, [2.0])
    assert again.num_finished() == 2
    assert not again.unfinished()
    fresh = again.suggest()
    assert (fresh.number, fresh.arm) == (2, 1)


@pytest.mark.parametrize("num_lines", range(1, 4))
def test_a_driver_killed_while_it_enqueues_a_grid_leaves_no_point_of_it_out(sweep_text, tmp_path, num_lines) -> None:
    file, path = parsed(sweep_text, CHOICES, "search.sampler=grid", "search.trials=null"), tmp_path / "optuna.log"
    search.SweepStudy(path, file)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:num_lines]))
    study = search.SweepStudy(path, file)
    assert [study.suggest().params for _ in range(4)] == search.grid(file)


@pytest.mark.parametrize("num_lines", range(1, 7))
def test_a_driver_killed_after_any_line_of_a_suggestion_leaves_that_trial_to_the_next_one(
    sweep_text: str, tmp_path, num_lines: int
) -> None:
    file, path = parsed(sweep_text), tmp_path / "optuna.log"
    study = search.SweepStudy(path, file)
    study.tell(study.suggest().number, [1.0])
    before = path.read_bytes()
    study.suggest()
    lines = path.read_bytes()[len(before) :].splitlines(keepends=True)
    path.write_bytes(before + b"".join(lines[:num_lines]))
    next_one = search.SweepStudy(path, file).suggest()
    assert (next_one.number, next_one.arm, next_one.replicate) == (1, 1, 0)


def test_a_trial_that_was_told_is_not_suggested_again(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text)
    left = search.SweepStudy(tmp_path / "optuna.log", file).suggest()
    again = search.SweepStudy(tmp_path / "optuna.log", file)
    again.tell(left.number, [1.0])
    assert again.suggest().number == left.number + 1


def test_a_continued_study_does_not_draw_the_same_points_again(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text)
    points = []
    for _ in range(3):
        study = search.SweepStudy(tmp_path / "optuna.log", file)
        found = study.suggest()
        study.tell(found.number, [1.0])
        points.append(found.params["pretrain.code_ratio"])
    assert len(set(points)) == 3


TWELVE = (
    "pretrain.code_ratio={search: {choice: [0.25, 0.5, 0.75]}}",
    "pretrain.schedule={search: {choice: [increase, decrease]}}",
    "pretrain.learning_rate.warmup={search: {choice: [0.0, 0.05]}}",
)


def told(study: search.SweepStudy, number: int) -> list[search.Suggestion]:
    """The next trials, each told a score before the one after it is suggested."""
    found = []
    for _ in range(number):
        found.append(study.suggest())
        study.tell(found[-1].number, [found[-1].params["pretrain.code_ratio"]])
    return found


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc", pytest.param("gp", marks=pytest.mark.slow)])
def test_twelve_trials_in_a_space_of_twelve_points_are_twelve_arms(sweep_text: str, tmp_path, sampler: str) -> None:
    first = "search.enqueue=[{pretrain.code_ratio: 0.5}]"  # a part of a point, whose rest is sampled
    file = parsed(sweep_text, *TWELVE, first, f"search.sampler={sampler}", "search.trials=12")
    found = told(search.SweepStudy(tmp_path / "optuna.log", file), 12)
    assert [(one.arm, one.replicate) for one in found] == [(arm, 0) for arm in range(12)]
    assert len({repr(one.params) for one in found}) == 12 and found[0].params["pretrain.code_ratio"] == 0.5


def test_replicates_are_the_ones_asked_for_where_a_space_is_tried_whole(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text, CHOICES, "search.trials=40", "search.replicates=2")
    assert (search.num_arms(file), search.num_trials(file)) == (4, 8)
    assert "40 asked for, but the space has 4" in search.lacking_points(file)
    assert search.lacking_points(parsed(sweep_text, CHOICES, "search.trials=4")) == ""
    found = told(search.SweepStudy(tmp_path / "optuna.log", file), 8)
    assert [(one.arm, one.replicate) for one in found] == [(arm, seed) for arm in range(4) for seed in range(2)]


def test_a_killed_driver_is_followed_by_one_that_suggests_the_same(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text, "search.trials=12", *TWELVE[1:])
    whole = told(search.SweepStudy(tmp_path / "whole.log", file), 9)
    path = tmp_path / "optuna.log"
    found = [one for _ in range(3) for one in told(search.SweepStudy(path, file), 3)]
    assert found == whole


@pytest.mark.parametrize("num_lines", range(1, 7))
def test_a_driver_killed_at_any_line_leaves_its_place_of_the_sequence_to_the_next_one(
    sweep_text: str, tmp_path, num_lines: int
) -> None:
    file, path = parsed(sweep_text, "search.sampler=qmc", "search.trials=8"), tmp_path / "optuna.log"
    arms = search.preview(file, 8)
    study = search.SweepStudy(path, file)
    assert told(study, 2)[1].params == arms[1]
    before = path.read_bytes()
    study.suggest()
    lines = path.read_bytes()[len(before) :].splitlines(keepends=True)
    path.write_bytes(before + b"".join(lines[:num_lines]))
    assert [one.params for one in told(search.SweepStudy(path, file), 6)] == arms[2:]


def test_a_rebuilt_study_goes_on_along_the_sequence(sweep_text: str, tmp_path) -> None:
    file, path = parsed(sweep_text, "search.sampler=qmc", "search.trials=8"), tmp_path / "optuna.log"
    found = told(search.SweepStudy(path, file), 5)
    results = {
        one.number: TrialResult(one.number, "complete", one.arm, one.replicate, one.params, SCORED) for one in found
    }
    search.rebuild_journal(path, file, (), results, set())
    assert [one.params for one in told(search.SweepStudy(path, file), 3)] == search.preview(file, 8)[5:]


def test_a_sequence_fills_every_eighth_of_a_range_with_eight_arms(sweep_text: str, tmp_path) -> None:
    rate = "pretrain.learning_rate.peak={search: {loguniform: [1e-4, 1e-2]}}"
    file = parsed(sweep_text, rate, "search.sampler=qmc", "search.trials=8", "search.replicates=3")
    arms = search.preview(file, 8)
    assert {int(8 * arm["pretrain.code_ratio"] / 0.75) for arm in arms} == {*range(8)}
    assert {int(4 * math.log10(1e4 * arm["pretrain.learning_rate.peak"])) for arm in arms} == {*range(8)}
    found = told(search.SweepStudy(tmp_path / "optuna.log", file), 24)
    assert [one.params for one in found[::3]] == arms


def test_a_failed_trial_is_failed_in_the_study(sweep_text: str, tmp_path) -> None:
    file = parsed(sweep_text)
    study = search.SweepStudy(tmp_path / "optuna.log", file)
    number = study.suggest().number
    study.tell(number, None)
    study.tell(number, None)
    assert [t.state.name for t in study.trials()] == ["FAIL"]


def test_an_objective_that_is_missing_or_not_finite_is_an_error(sweep_text: str) -> None:
    objectives = parsed(sweep_text).example().search.objectives
    assert search.objective_values(objectives, {"mean/bpb": 2}) == [2.0]
    with pytest.raises(ValueError, match="mean/bpb"):
        search.objective_values(objectives, {"mean/acc": 2.0})
    with pytest.raises(ValueError, match="nan"):
        search.objective_values(objectives, {"mean/bpb": float("nan")})
