"""Every step of a stage trains, at the rate that its schedule says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from raycodellm import config
from raycodellm.config import LearningRate, UserError
from raycodellm.learning_rate import learning_rate_at

DECAYS = ("cosine", "linear", "wsd")


def rates(num_steps: int, start: float | None = None, **settings) -> list[float]:
    """The rate of every step, and the rate that the stage ended with."""
    made = LearningRate(peak=2.0, **settings)
    return [learning_rate_at(made, step, num_steps, start) for step in range(num_steps + 1)]


@pytest.mark.parametrize("schedule", DECAYS)
def test_a_rate_rises_to_the_peak_and_has_its_final_share_when_the_stage_has_ended(schedule):
    found = rates(100, schedule=schedule, warmup=0.1, final=0.1)
    assert found[:10] == pytest.approx([2.0 * step / 10 for step in range(1, 11)])
    assert found[-1] == pytest.approx(0.2) and found[-2] > found[-1]
    assert max(found) == 2.0
    assert all(left >= right for left, right in pairwise(found[9:]))


@pytest.mark.parametrize("schedule", [*DECAYS, "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 1000, 10**9])
def test_every_step_trains_also_where_the_rate_ends_at_0(schedule, warmup, num_steps):
    decay = 0.0 if warmup == 1.0 else 0.2
    made = LearningRate(peak=2.0, schedule=schedule, warmup=warmup, decay=decay, final=0.0)
    for step in (0, 1, num_steps // 2, num_steps - 2, num_steps - 1):
        assert not 0 <= step < num_steps or 0.0 < learning_rate_at(made, step, num_steps) <= 2.0
    assert (learning_rate_at(made, num_steps, num_steps) == 0.0) == made.ends_at_zero


def test_a_decay_is_that_of_transformers_step_by_step():
    linear = rates(10, schedule="linear", warmup=0.2, final=0.0)
    assert linear[2:] == pytest.approx([left / 4 for left in range(8, -1, -1)])
    cosine = rates(10, schedule="cosine", warmup=0.2, final=0.0)
    assert cosine[3:10] == pytest.approx([1.9239, 1.7071, 1.3827, 1.0, 0.6173, 0.2929, 0.0761], abs=1e-4)
    wsd = rates(10, schedule="wsd", warmup=0.2, decay=0.4, final=0.0)
    assert wsd == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates(1, schedule="linear", final=0.0) == [2.0, 0.0]
    assert rates(2, schedule="linear", warmup=0.0, final=0.0) == [2.0, 1.0, 0.0]
    assert set(rates(20, schedule="constant", warmup=0.0)) == {2.0}


@pytest.mark.parametrize("schedule", DECAYS)
def test_a_rate_that_continues_falls_from_the_parent_s_last_to_its_final_share_of_the_peak(schedule):
    found = rates(100, 0.5, schedule=schedule, warmup=0.3, final=0.1, boundary="continue")
    assert all(left >= right for left, right in pairwise(found))
    assert found[0] == 0.5 and found[-1] == pytest.approx(0.2)


def test_a_rate_that_continues_never_rises_and_a_constant_one_stays():
    assert set(rates(10, 0.25, final=0.5, boundary="continue")) == {0.25}
    assert set(rates(10, 0.25, schedule="constant", boundary="continue")) == {0.25}


def test_a_warmup_and_a_decay_that_overlap_are_refused_by_the_warmup_that_counts(sweep_text):
    def parse(rate: str, stage: str = "pretrain") -> None:
        ten_steps = ("pretrain.tokens=10240", "pretrain.batch_tokens=1024")
        settings = f"{stage}.learning_rate={{peak: 0.1, schedule: wsd, {rate}}}"
        config.parse(sweep_text, overrides=(*ten_steps, settings))

    for fits in ("warmup_steps: 0, decay: 1.0", "warmup_steps: 9, decay: 0.1", "warmup: 0.2, decay: 0.8"):
        parse(fits)
    parse("boundary: continue, decay: 1.0", stage="instruct")
    assert rates(4, 2.0, schedule="wsd", decay=1.0, final=0.0, boundary="continue") == [2.0, 1.5, 1.0, 0.5, 0.0]
    for overlap, said in (
        ("warmup: 0.3, decay: 0.8", "over 1"),
        ("warmup_steps: 9, decay: 0.2", "use at most 8, or a"),
    ):
        with pytest.raises(UserError, match=said):
            parse(overlap)


def test_a_stage_that_would_go_on_at_a_rate_of_0_is_refused(sweep_text):
    go_on = "instruct.learning_rate.boundary=continue"
    for zero in ("pretrain.learning_rate.final=0", "pretrain.learning_rate.final={search: {choice: [0.1, 0.0]}}"):
        with pytest.raises(UserError, match=r"instruct.*continue.*'pretrain' ends, which is 0.*restart"):
            config.parse(sweep_text, overrides=(zero, go_on))
    for change in ("schedule=constant", "warmup=1.0", "final=0.01"):
        changed = f"pretrain.learning_rate.{change}"
        config.parse(sweep_text, overrides=("pretrain.learning_rate.final=0", changed, go_on))
