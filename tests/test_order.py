"""Slots seldom wait: a grid is tried in an order in which trials beside each other do not need the same stage."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from raycodellm import config, search
from raycodellm.dispatch import JobTree
from raycodellm.search.arms import finite_points

COSTS = (80.0, 15.0, 5.0, 1.0)
"""Seconds of each of a trial's three stages, and of its evaluation."""
NAMES = ("pretrain", "cooldown", "instruct")


@dataclass(frozen=True)
class Work:
    key: str
    cost: float
    kind: str = "evaluation"


def sweep_file(*searched: int, sampler: str = "grid", **of_pretrain: Any) -> config.SweepFile:
    """A sweep over so many weight decays of each stage."""
    rate = {"peak": 0.01, "schedule": "constant", "warmup_steps": 1}
    stages = [
        {
            "name": name,
            "tokens": 1_024,
            "sequence_length": 16,
            "batch_tokens": 128,
            "learning_rate": rate,
            "code_ratio": 0.5,
            "optimizer": {"weight_decay": {"search": {"choice": [0.1 * place for place in range(count)]}}},
        }
        for name, count in zip(NAMES, searched, strict=True)
    ]
    stages[0] |= of_pretrain
    tree = {
        "name": "order",
        "model": {"preset": "tiny"},
        "tokenizer": {"train": {"vocab_size": 512}},
        "sources": {
            "prose": {"kind": "text", "path": "builtin:python-prose"},
            "python": {"kind": "code", "path": "builtin:python-code"},
        },
        "stages": stages,
        "evaluation": {"suites": ["offline"]},
        "search": {"sampler": sampler, **({} if sampler == "grid" else {"trials": 5})},
    }
    return config.parse(yaml.safe_dump(tree))


def chain_of(point: dict[str, Any]) -> SimpleNamespace:
    prefixes = [repr(list(point.items())[: place + 1]) for place in range(len(NAMES))]
    jobs = [Work(f"{place}{key}", cost) for place, (key, cost) in enumerate(zip(prefixes, COSTS, strict=False))]
    return SimpleNamespace(jobs=(*jobs, Work(f"evaluation{prefixes[-1]}", COSTS[-1])))


def seconds_needed(points: Sequence[dict[str, Any]], num_slots: int, num_open: int) -> tuple[float, float]:
    """(seconds until all trials have ended, share of the slots' time in which they had no job), by the dispatcher's own
    choice of jobs, with `num_open` trials at once."""
    tree, waiting, open_ = JobTree(max_deaths=0), list(enumerate(points)), set()
    running: list[tuple[float, str, str]] = []
    free, now, busy = [f"slot {place}" for place in range(num_slots)], 0.0, 0.0
    costs: dict[str, float] = {}
    while waiting or running:
        while waiting and len(open_) < num_open:
            number, point = waiting.pop(0)
            chain = chain_of(point)
            costs |= {job.key: job.cost for job in chain.jobs}
            tree.add(number, chain)
            open_.add(number)
        while free and (job := tree.take(free[0])) is not None:
            heapq.heappush(running, (now + costs[job.key], free.pop(0), job.key))
            busy += costs[job.key]
        now, slot, key = heapq.heappop(running)
        tree.finish(slot, key, "done")
        free.append(slot)
        open_ = {number for number in open_ if tree.outcome(number) is None}
    return now, 1 - busy / (num_slots * now)


@pytest.mark.parametrize(
    ("counts", "num_slots", "before", "after"),
    [((3, 3, 3), 2, 0.38, 0.01), ((3, 3, 3), 4, 0.60, 0.14), ((8, 2, 2), 4, 0.67, 0.01), ((2, 4, 4), 3, 0.53, 0.15)],
)
def test_slots_wait_little_for_a_grid_over_stages_that_trials_share(counts, num_slots, before, after):
    file = sweep_file(*counts)
    as_written = finite_points(file, 1_000)
    assert as_written is not None
    at_once = search.trials_at_once(file, num_slots)
    assert seconds_needed(as_written, num_slots, num_slots)[1] == pytest.approx(before, abs=0.01)
    assert seconds_needed(search.grid(file), num_slots, at_once)[1] == pytest.approx(after, abs=0.01)


def test_the_order_of_a_grid_has_each_point_once_and_its_reference_first():
    file = sweep_file(3, 2, 2)
    points = search.grid(file)
    assert sorted(map(repr, points)) == sorted(map(repr, finite_points(file, 1_000) or []))
    assert [point["pretrain.optimizer.weight_decay"] for point in points[:4]] == [0.0, 0.1, 0.2, 0.0]
    again = config.parse(yaml.safe_dump(file.tree | {"search": {"sampler": "grid", "reference": points[7]}}))
    assert search.grid(again)[0] == points[7]


def test_lengths_of_one_trunk_come_one_after_the_other_and_other_stages_between():
    file = sweep_file(2, 1, 1, tokens={"search": {"choice": [1_024, 2_048]}})
    found = [tuple(point.values()) for point in search.grid(file)]
    assert [(one[0], one[1]) for one in found] == [(0.0, 1_024), (0.1, 1_024), (0.0, 2_048), (0.1, 2_048)]


@pytest.mark.parametrize(
    ("sampler", "num_slots", "at_once"),
    [("grid", 2, 3), ("random", 4, 5), ("qmc", 2, 3), ("tpe", 4, 4), ("grid", 1, 1)],
)
def test_a_sampler_that_learns_is_asked_as_late_as_possible_and_others_one_trial_ahead(sampler, num_slots, at_once):
    assert search.trials_at_once(sweep_file(3, 3, 3, sampler=sampler), num_slots) == at_once
