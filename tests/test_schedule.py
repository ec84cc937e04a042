"""A schedule keeps its stage's mean code ratio, and equal mixtures are one schedule however they are written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import schedule
from raycodellm.config import SHAPES, Stage, UserError

IS_CODE = {"prose": False, "books": False, "python": True}
TOKENS = {"prose": 300, "books": 100, "python": 50}


def stage(**mixture) -> Stage:
    base = dict(name="s", tokens=1000, sequence_length=10, batch_tokens=10, learning_rate={"peak": 0.1})
    return Stage.model_validate({**base, **mixture})


@given(shape=st.sampled_from(list(SHAPES)), mean=st.floats(0.0, 1.0))
def test_every_shape_keeps_the_stages_mean_code_ratio(shape: str, mean: float) -> None:
    made = schedule.compile_stage(stage(code_ratio=mean, schedule=shape), IS_CODE, TOKENS)
    total = made.integral(1.0)
    assert total[2] == pytest.approx(mean, abs=1e-9)
    assert total.sum() == pytest.approx(1.0)
    points = made.weights_at(np.linspace(0, 1, 101))
    assert points.min() >= 0.0
    assert points.max() <= 1.0 + 1e-12


def test_decrease_has_the_four_steps_of_ma_et_al() -> None:
    made = schedule.compile_stage(stage(code_ratio=0.375, schedule="decrease"), IS_CODE, TOKENS)
    assert made.weights_at(np.array([0.1, 0.3, 0.6, 0.9]))[:, 2] == pytest.approx([0.5, 0.4, 0.3, 0.3])


@pytest.mark.parametrize(
    ("shape", "start", "end"), [("linear_up", 0.0, 0.6), ("cosine_down", 0.6, 0.0), ("code_first", 1.0, 0.0)]
)
def test_ramps_begin_and_end_where_they_say(shape: str, start: float, end: float) -> None:
    made = schedule.compile_stage(stage(code_ratio=0.3, schedule=shape), IS_CODE, TOKENS)
    assert made.weights_at(0.0)[2] == pytest.approx(start)
    assert made.weights_at(1.0)[2] == pytest.approx(end)


def test_sources_share_their_side_by_tokens_or_as_the_file_says() -> None:
    by_tokens = schedule.compile_stage(stage(code_ratio=0.2), IS_CODE, TOKENS)
    assert by_tokens.weights[0] == pytest.approx((0.6, 0.2, 0.2))
    said = schedule.compile_stage(stage(code_ratio=0.2, within={"books": 1.0}), IS_CODE, TOKENS)
    assert said.weights[0] == pytest.approx((0.0, 0.8, 0.2))
    with pytest.raises(UserError, match="all 0"):
        schedule.compile_stage(stage(code_ratio=0.2, within={"books": 0.0}), IS_CODE, TOKENS)


def test_one_mixture_written_three_ways_is_one_schedule() -> None:
    weights = {"prose": 0.6, "books": 0.2, "python": 0.2}
    ratio = schedule.compile_stage(stage(code_ratio=0.2, schedule="constant"), IS_CODE, TOKENS)
    fixed = schedule.compile_stage(stage(weights=weights), IS_CODE, TOKENS)
    phases = [{"share": 0.4, "weights": weights}, {"share": 0.6, "weights": weights}]
    assert ratio == fixed == schedule.compile_stage(stage(phases=phases), IS_CODE, TOKENS)
    for shape in SHAPES:
        assert schedule.compile_stage(stage(code_ratio=0.0, schedule=shape), IS_CODE, TOKENS).weights[0][2] == 0.0


@pytest.mark.parametrize("interpolation", ["step", "linear", "cosine"])
def test_the_integral_is_the_area_under_the_weights(interpolation: str) -> None:
    phases = [
        {"share": 0.2, "weights": {"prose": 1.0}},
        {"share": 0.5, "weights": {"prose": 0.1, "python": 0.9}},
        {"share": 0.3, "weights": {"books": 1.0}},
    ]
    made = schedule.compile_stage(stage(phases=phases, interpolation=interpolation), IS_CODE, TOKENS)
    fine = (np.arange(200_000) + 0.5) / 200_000
    summed = np.cumsum(made.weights_at(fine), axis=0) / 200_000
    for share in (0.1, 0.2, 0.5, 0.99, 1.0):
        assert made.integral(share) == pytest.approx(summed[int(share * 200_000) - 1], abs=1e-5)


@given(
    start=st.integers(0, 90),
    length=st.integers(0, 90),
    kind=st.sampled_from(["step", "linear", "cosine"]),
    edges=st.lists(st.floats(0.05, 0.95), max_size=4),
)
def test_the_areas_of_a_stretch_are_those_of_its_points(start: int, length: int, kind: str, edges: list[float]) -> None:
    progress = (0.0, *sorted(edges), 1.0)
    rows = tuple((0.1 + 0.8 * (n % 2), 0.9 - 0.8 * (n % 2)) for n in range(len(progress)))
    made = schedule.Schedule(progress, rows, kind)
    stop = min(start + length, 97)
    start = min(start, stop)
    found = made.integral_between(start, stop, 97)
    assert found == pytest.approx(made.integral(np.arange(start, stop + 1) / 97).T, abs=1e-12)


def test_phases_end_where_the_file_or_the_shape_says() -> None:
    two = [{"share": 0.3, "weights": {"prose": 1.0}}, {"share": 0.7, "weights": {"python": 1.0}}]
    for interpolation in ("step", "linear"):
        written = stage(phases=two, interpolation=interpolation)
        assert schedule.phase_edges(written, schedule.compile_stage(written, IS_CODE, TOKENS)) == (0.3, 1.0)
    for shape, edges in (("decrease", (0.25, 0.5, 1.0)), ("constant", (1.0,)), ("linear_up", (1.0,))):
        written = stage(code_ratio=0.3, schedule=shape)  # the last two of decrease's four steps are equal
        assert schedule.phase_edges(written, schedule.compile_stage(written, IS_CODE, TOKENS)) == edges


@pytest.mark.parametrize(
    "mixture",
    [
        {"code_ratio": 0.2, "schedule": "linear_up"},
        {"weights": {"prose": 0.8, "python": 0.2}},
        {
            "phases": [
                {"share": 0.5, "weights": {"prose": 1.0}},
                {"share": 0.5, "weights": {"prose": 0.6, "python": 0.4}},
            ]
        },
    ],
)
def test_an_additive_budget_keeps_the_text_tokens(mixture: dict) -> None:
    written = stage(budget="additive", **mixture)
    made = schedule.budgeted(written, schedule.compile_stage(written, IS_CODE, TOKENS), list(IS_CODE.values()))
    assert made.num_tokens == 1250
    assert made.num_tokens * 0.8 == pytest.approx(written.num_tokens)
    assert made.budget == "competitive"


def test_an_additive_budget_of_code_alone_is_refused() -> None:
    written = stage(budget="additive", code_ratio=1.0)
    with pytest.raises(UserError, match=r"stages\.s\.budget.*code ratio of 1"):
        schedule.budgeted(written, schedule.compile_stage(written, IS_CODE, TOKENS), list(IS_CODE.values()))
