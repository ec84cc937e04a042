"""Promise 1: every prefix of a stage's data is within one sequence of its schedule, for each source."""

from __future__ import annotations

import heapq
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import mixture
from raycodellm.config import code_ratio_curve
from raycodellm.mixture import order
from raycodellm.records import SourceSlice
from raycodellm.schedule import Schedule, _from_phases


def largest_deviation(made: Schedule, num_sequences: int) -> float:
    drawn_from = order.SourceOrder(made, num_sequences).sources(0, num_sequences)
    drawn = np.zeros((num_sequences + 1, len(made.weights[0])))
    drawn[1:] = np.cumsum(np.eye(drawn.shape[1])[drawn_from], axis=0)
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


@given(made=schedules(), num_sequences=st.integers(1, 800))
def test_every_prefix_is_within_one_sequence_of_its_schedule(made: Schedule, num_sequences: int) -> None:
    assert largest_deviation(made, num_sequences) <= 1.0 + 1e-6


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", ["constant", "decrease", "linear_up", "cosine_down", "code_first"])
def test_named_shapes_hold_at_every_ratio(ratio: float, shape: str) -> None:
    progress, ratios, interpolation = code_ratio_curve(shape, ratio)
    made = Schedule(tuple(progress), tuple((1 - r, r) for r in ratios), interpolation)
    assert largest_deviation(made, 5_000) <= 1.0 + 1e-6
    counts = np.bincount(order.SourceOrder(made, 5_000).sources(0, 5_000), minlength=2)
    assert counts[1] == pytest.approx(5_000 * ratio, abs=1.0)
    if ratio in (0.0, 1.0):
        assert counts[1 - int(ratio)] == 0


@given(made=schedules(), num_sequences=st.integers(1, 400), data=st.data())
def test_the_planned_code_ratio_until_a_position_is_that_of_the_sequences_before_it(made, num_sequences, data) -> None:
    is_code = data.draw(st.lists(st.booleans(), min_size=len(made.weights[0]), max_size=len(made.weights[0])))
    sources = tuple(
        SourceSlice(str(place), "code" if code else "text", "-", 50, 0) for place, code in enumerate(is_code)
    )
    plan = mixture.Plan(made, sources, num_sequences, seed=0)
    for position in {1, num_sequences // 2 or 1, num_sequences}:
        real = plan.counts(position)[np.array(is_code)].sum()
        assert real == pytest.approx(plan.code_ratio_until(position) * position, abs=len(sources) + 1e-6)
    assert plan.code_ratio_until(0) == plan.code_ratio(0)


def earliest_deadline_first(made: Schedule, num_sequences: int) -> list[int]:
    """The specification of the order of sources: earliest deadline first, one position after the other.

    Sequence k of a source may be drawn from the position where the schedule has granted more than k - 1 sequences, and
    is due where it has granted k. Among the sequences that may be drawn, the one due first is; of equals, the one of
    the first source. A last sequence that is granted in part is due after the stage, the largest part first.
    """
    granted = made.integral(np.arange(num_sequences + 1) / num_sequences) * num_sequences
    waiting, ready, drawn = [], [], []
    for source, curve in enumerate(granted.T):
        most = int(np.ceil(curve[-1] - 1e-7))
        for number in range(1, most + 1):
            release = int(np.argmax(curve > number - 1 + 1e-7))
            met = np.flatnonzero(curve >= number - 1e-7)
            deadline = (int(met[0]), 0) if len(met) else (num_sequences + 1, round((most - curve[-1]) * 1e6))
            waiting.append((max(release, 1), deadline, source))
    waiting.sort()
    for position in range(1, num_sequences + 1):
        while waiting and waiting[0][0] <= position:
            heapq.heappush(ready, waiting.pop(0)[1:])
        drawn.append(heapq.heappop(ready)[1])
    return drawn


@pytest.mark.parametrize(
    ("block", "stretch"), [(1 << 16, 1 << 18), (32, 64), pytest.param(1, 7, marks=pytest.mark.slow)]
)
@given(made=schedules(), num_sequences=st.integers(1, 1500))
def test_the_order_of_sources_is_that_of_earliest_deadline_first(
    block: int, stretch: int, made: Schedule, num_sequences: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_BLOCK", block)
        patch.setattr(order, "_STRETCH", stretch)
        found = order.SourceOrder(made, num_sequences).sources(0, num_sequences)
    assert found.tolist() == earliest_deadline_first(made, num_sequences)


@given(made=schedules(), num_sequences=st.integers(1, 900), data=st.data())
def test_counts_at_any_position_are_those_of_the_order_from_the_start(
    made: Schedule, num_sequences: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_sequences))
    drawn = order.SourceOrder(made, num_sequences).sources(0, num_sequences)[:position]
    counts = order.SourceOrder(made, num_sequences).counts(position)
    assert counts.tolist() == np.bincount(drawn, minlength=len(counts)).tolist()


def test_the_counts_of_a_constant_mixture_are_known_without_working_out_the_order() -> None:
    made = Schedule((0.0, 1.0), ((0.9, 0.1, 0.0),) * 2, "step")
    plan = order.SourceOrder(made, 90_000_007)
    assert plan.counts(90_000_007).tolist() == [81_000_006, 9_000_001, 0]
    assert min(plan._stretches) >= 90_000_000


@given(made=schedules(), num_sequences=st.integers(2, 900), data=st.data())
def test_a_plan_opened_at_any_position_with_its_counts_goes_on_as_the_whole_one(
    made: Schedule, num_sequences: int, data: st.DataObject
) -> None:
    sources = tuple(SourceSlice(f"s{n}", "text", "x", 5 + 40 * n, n) for n in range(len(made.weights[0])))
    whole = mixture.Plan(made, sources, num_sequences, 3)
    position = data.draw(st.integers(0, num_sequences))
    opened = mixture.Plan(made, sources, num_sequences, 3).starting_at(position, whole.counts(position).tolist())
    expected, found = whole.rows(position, num_sequences), opened.rows(position, num_sequences)
    for name in ("position", "source", "sequence", "epoch"):
        assert np.array_equal(getattr(expected, name), getattr(found, name))
    assert opened.counts(num_sequences).tolist() == whole.counts(num_sequences).tolist()
    assert np.array_equal(opened.rows(0, position).sequence, whole.rows(0, position).sequence)


def test_counts_that_a_plan_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[50, 200\] are not the plan's at position 250"):
        plan().starting_at(250, [50, 200])


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


@pytest.mark.parametrize("shape", ["constant", "decrease", "linear_up", "code_first"])
def test_rounded_counts_are_within_one_sequence_of_the_plan(shape: str) -> None:
    curve = code_ratio_curve(shape, 0.375)
    made = Schedule(tuple(curve.progress), tuple((1 - r, r) for r in curve.code_ratios), curve.interpolation)
    edges = (1, 250, 777, 1_000)
    planned = np.array(mixture.planned_sequences(made, 1_000, edges))
    assert np.abs(np.array(mixture.rounded_sequences(made, 1_000, edges)) - planned).max() <= 1


def test_another_seed_is_another_order() -> None:
    assert not np.array_equal(plan(seed=0).rows(0, 50).sequence, plan(seed=1).rows(0, 50).sequence)


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert np.array_equal(np.sort(mixture.permute(np.arange(size), size, key)), np.arange(size))


def test_rows_outside_the_plan_are_refused() -> None:
    with pytest.raises(ValueError, match=r"490\.\.501"):
        plan().rows(490, 501)


def test_neighbours_of_a_group_stay_together_and_each_comes_once_an_epoch() -> None:
    found = mixture.shuffled(0, 120, 120, key=9, group=4)
    assert sorted(found) == list(range(120))
    assert (found.reshape(-1, 4) == found.reshape(-1, 4)[:, :1] + np.arange(4)).all()
    assert (found.reshape(-1, 4)[:, 0] % 4 == 0).all()
    assert np.array_equal(mixture.shuffled(37, 81, 120, key=9, group=4), found[37:81])


def tokens_read(rows: mixture.PlanRows, length: int, source: int = 0) -> set[int]:
    return {int(q) * length + t for q in rows.sequence[rows.source == source] for t in range(length)}


def test_a_child_of_another_sequence_length_reads_what_its_parent_left() -> None:
    """A store of 480 tokens: the parent reads 160 of them in fours, the child the other 320 in sixteens."""
    only = Schedule((0.0, 1.0), ((1.0,), (1.0,)), "step")
    parent = mixture.Plan(only, (SourceSlice("prose", "text", "x", 120, 0, shuffle_group_size=4),), 40, 0)
    child = mixture.Plan(only, (SourceSlice("prose", "text", "x", 30, 10, shuffle_group_size=1),), 20, 0)
    first, second = tokens_read(parent.rows(0, 40), 4), tokens_read(child.rows(0, 20), 16)
    assert not first & second
    assert first | second == set(range(480))


def test_a_shuffle_has_no_preferred_places_and_no_preferred_neighbours() -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    keys = [int.from_bytes(generator.bytes(16), "little") for _ in range(2000)]
    orders = np.stack([mixture.permute(np.arange(37), 37, key) for key in keys])
    for place in range(37):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=37)).pvalue > 1e-5
    size = 200_003
    one = mixture.permute(np.arange(size), size, keys[0])
    for distance in (1, 2, 64, 4096):
        steps = np.histogram((one[distance:] - one[:-distance]) % size, bins=64)[0]
        assert stats.chisquare(steps).pvalue > 1e-5
    assert abs(np.corrcoef(np.arange(size), one)[0, 1]) < 0.01


_LARGE_PLAN = """
import pathlib, time
from raycodellm import mixture
from raycodellm.mixture import order
from raycodellm.records import SourceSlice
from raycodellm.schedule import Schedule

ends = (0.9, 0.05, 0.03, 0.015, 0.005), (0.1, 0.2, 0.3, 0.3, 0.1)
sources = tuple(SourceSlice(f"s{n}", "text", "x", 900_001, 0) for n in range(5))
made = mixture.Plan(Schedule((0.0, 1.0), ends, "linear"), sources, 10_000_000, 0)
began = time.process_time()
rows = made.rows(0, 10_000_000)
cpu_seconds = time.process_time() - began
(peak,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(cpu_seconds, int(peak.split()[1]) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.slow
def test_ten_million_sequences_over_five_sources_take_seconds_and_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _LARGE_PLAN], capture_output=True, text=True, check=True)
    cpu_seconds, mebibytes = map(float, done.stdout.split())
    assert cpu_seconds < 10.0  # 1.8 on a quiet machine of 2026; other work slows the memory and the caches
    assert mebibytes < 500
