"""Promise 1: every prefix of a stage's data is within one sequence of its schedule, for each source."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycodellm import mixture
from raycodellm.records import SourceSlice
from raycodellm.schedule import Schedule, _from_phases, code_ratio_curve


def largest_deviation(made: Schedule, num_sequences: int) -> float:
    order = mixture.source_order(made, num_sequences)
    drawn = np.zeros((num_sequences + 1, len(made.weights[0])))
    drawn[1:] = np.cumsum(np.eye(drawn.shape[1])[order], axis=0)
    granted = made.integral(np.arange(num_sequences + 1) / num_sequences) * num_sequences
    return float(np.abs(drawn - granted).max())


@st.composite
def schedules(draw) -> Schedule:
    num_sources = draw(st.integers(1, 6))
    row = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.3, 1.0, 7.0]), min_size=num_sources, max_size=num_sources)
    rows = draw(st.lists(row.filter(any), min_size=1, max_size=5))
    shares = draw(st.lists(st.floats(0.01, 1.0), min_size=len(rows), max_size=len(rows)))
    whole = [tuple(w / sum(r) for w in r) for r in rows]
    kind = draw(st.sampled_from(["step", "linear", "cosine"]))
    return _from_phases([share / sum(shares) for share in shares], whole, kind)


@settings(max_examples=200, deadline=None)
@given(made=schedules(), num_sequences=st.integers(1, 800))
def test_every_prefix_is_within_one_sequence_of_its_schedule(made: Schedule, num_sequences: int) -> None:
    assert largest_deviation(made, num_sequences) <= 1.0 + 1e-6


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", ["constant", "decrease", "linear_up", "cosine_down", "code_first"])
def test_named_shapes_hold_at_every_ratio(ratio: float, shape: str) -> None:
    progress, ratios, interpolation = code_ratio_curve(shape, ratio)
    made = Schedule(tuple(progress), tuple((1 - r, r) for r in ratios), interpolation)
    assert largest_deviation(made, 5_000) <= 1.0 + 1e-6
    counts = np.bincount(mixture.source_order(made, 5_000), minlength=2)
    assert counts[1] == pytest.approx(5_000 * ratio, abs=1.0)
    if ratio in (0.0, 1.0):
        assert counts[1 - int(ratio)] == 0


def plan(num_sequences: int = 500, start: int = 0, seed: int = 0, stored: int = 90) -> mixture.Plan:
    made = Schedule((0.0, 1.0), ((0.9, 0.1), (0.3, 0.7)), "linear")
    sources = (SourceSlice("prose", "text", "x", stored, start), SourceSlice("python", "code", "y", 40, 0))
    return mixture.Plan(made, sources, num_sequences, seed)


@given(cuts=st.lists(st.integers(0, 500), max_size=6))
def test_a_plan_is_the_same_however_it_is_cut_into_blocks(cuts: list[int]) -> None:
    whole = plan().rows(0, 500)
    edges = [0, *sorted(cuts), 500]
    parts = [plan().rows(a, b) for a, b in itertools.pairwise(edges)]
    for name in ("position", "source", "sequence", "epoch"):
        assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))


def test_an_epoch_shows_every_sequence_once_and_the_next_in_another_order() -> None:
    rows = plan(num_sequences=600).rows(0, 600)
    prose = rows.sequence[rows.source == 0]
    epochs = rows.epoch[rows.source == 0]
    assert sorted(prose[:90]) == sorted(prose[90:180]) == list(range(90))
    assert not np.array_equal(prose[:90], prose[90:180])
    assert list(epochs[:90]) == [0] * 90
    assert epochs[90] == 1


def test_a_child_stage_goes_on_where_its_parent_stopped() -> None:
    parent = plan(num_sequences=60)
    drawn = parent.counts(60)[0]
    first = parent.rows(0, 60)
    seen = set(first.sequence[first.source == 0].tolist())
    child = plan(num_sequences=60, start=int(drawn)).rows(0, 60)
    fresh = child.sequence[(child.source == 0) & (child.epoch == 0)]
    assert not seen & set(fresh.tolist())


def test_another_seed_is_another_order() -> None:
    assert not np.array_equal(plan(seed=0).rows(0, 50).sequence, plan(seed=1).rows(0, 50).sequence)


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert np.array_equal(np.sort(mixture.permute(np.arange(size), size, key)), np.arange(size))


def test_rows_outside_the_plan_are_refused() -> None:
    with pytest.raises(ValueError, match=r"490\.\.501"):
        plan().rows(490, 501)


def test_a_plan_of_a_hundred_thousand_sequences_takes_well_under_a_second() -> None:
    began = time.perf_counter()
    plan(num_sequences=100_000).rows(99_000, 100_000)
    assert time.perf_counter() - began < 1.0
