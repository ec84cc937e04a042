"""A curve over a code ratio goes through arms that differ in nothing else."""

from __future__ import annotations

import random
from collections.abc import Mapping

from raycodellm.config import Domain
from raycodellm.report.figures.sets import ArmSets, arm_sets

RATIOS = Domain("choice", options=(0.0, 0.3, 0.75))
DOMAINS = {
    "pretrain.code_ratio": RATIOS,
    "instruct.code_ratio": Domain("choice", options=(0.0, 0.5)),
    "pretrain.schedule": Domain("choice", options=("constant", "increase")),
    "pretrain.learning_rate.peak": Domain("loguniform", 1e-4, 1e-2),
}


def along(axis: str, params: dict[int, dict], domains: dict[str, Domain] = DOMAINS) -> ArmSets:
    places = {arm: point[axis] for arm, point in params.items()}
    return arm_sets(params, places, domains, lambda name: name == axis)


def arm(pretrain: float, instruct: float = 0.0, schedule: str | None = None, **more) -> dict:
    given = {"pretrain.code_ratio": pretrain, "instruct.code_ratio": instruct}
    return {**given, **({"pretrain.schedule": schedule} if schedule else {}), **more}


def test_arms_that_differ_in_another_stage_are_on_curves_of_their_own():
    params = {0: arm(0.0), 1: arm(0.3), 2: arm(0.75), 3: arm(0.0, 0.5), 4: arm(0.3, 0.5)}
    found = along("pretrain.code_ratio", params)
    assert [(dict(one.settings), one.arms) for one in found.sets] == [
        ({"instruct.code_ratio": 0.0}, (0, 1, 2)),
        ({"instruct.code_ratio": 0.5}, (3, 4)),
    ]
    assert found.alone == found.noise == found.shared == ()


def test_the_members_of_a_set_are_all_arms_that_have_no_other_value():
    for seed in range(12):
        drawn = random.Random(seed)
        choices = {"instruct.code_ratio": (0.0, 0.5), "pretrain.schedule": ("constant", "increase")}
        params = {
            number: {"pretrain.code_ratio": drawn.choice((0.0, 0.3, 0.75))}
            | {name: drawn.choice(of) for name, of in choices.items() if drawn.random() < 0.6}
            for number in range(24)
        }

        def agrees(one: dict, settings: Mapping) -> bool:
            return all(settings.get(name) == value for name, value in one.items() if name != "pretrain.code_ratio")

        found = along("pretrain.code_ratio", params)
        for one in found.sets:
            assert one.arms == tuple(number for number, point in params.items() if agrees(point, one.settings))
            assert not any(other is not one and agrees(dict(one.settings), other.settings) for other in found.sets)
        assert {*params} - {*found.alone} == {number for one in found.sets for number in one.arms}


def test_an_arm_without_another_that_differs_along_the_axis_alone_is_in_no_curve():
    params = {0: arm(0.0), 1: arm(0.3), 2: arm(0.75, 0.5)}
    assert along("pretrain.code_ratio", params).alone == (2,)
    assert along("instruct.code_ratio", params).sets == ()


def test_an_arm_without_code_is_on_the_curve_of_every_schedule():
    params = {
        0: arm(0.0),
        1: arm(0.3, schedule="increase"),
        2: arm(0.3, schedule="constant"),
        3: arm(0.75, 0.5, "constant"),
    }
    found = along("pretrain.code_ratio", params)
    assert [one.arms for one in found.sets] == [(0, 2), (0, 1)]
    assert [one.settings["pretrain.schedule"] for one in found.sets] == ["constant", "increase"]
    assert found.shared == (0,) and found.alone == (3,)


def test_a_number_that_every_arm_has_for_itself_counts_as_noise_and_one_that_repeats_does_not():
    peak = "pretrain.learning_rate.peak"
    params = {place: arm(place / 10, **{peak: 1e-3 + place * 1e-5}) for place in range(6)}
    found = along("pretrain.code_ratio", params)
    assert [one.arms for one in found.sets] == [(0, 1, 2, 3, 4, 5)] and found.noise == (peak,)
    params = {place: arm(place / 10, **{peak: (1e-3, 2e-3)[place % 2]}) for place in range(6)}
    found = along("pretrain.code_ratio", params)
    assert [one.arms for one in found.sets] == [(0, 2, 4), (1, 3, 5)] and found.noise == ()
