"""The verdict: which trials a confirmation asks for, and what a sweep claims to know."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from raycodellm import config, verdict
from raycodellm.records import CONFIRM_SEEDS, TrialResult

SWEEP = """
name: demo
seed: 7
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {uniform: [0.0, 0.75]}}
evaluation: {tasks: [boxes, logical_deduction], limit: 120}
search: {trials: 4, reference: {pretrain.code_ratio: 0.0}, SEARCH}
"""
RATIOS = (0.0, 0.2, 0.4, 0.6)


def sweep_file(search: str = "confirm: {best: 2, seeds: [2, 4]}"):
    return config.parse(SWEEP.replace("SEARCH", search))


def row(number: int, arm: int, seed: int, score: float | None, phase: str = "search", state: str = "") -> dict:
    """A row of `trials.parquet`; a trial without a score has failed."""
    state = state or ("failed" if score is None else "complete")
    metrics = {} if score is None else {"mean/bpb": score, "boxes/bpb": score, "boxes/items": 100.0}
    params = {"pretrain.code_ratio": RATIOS[arm]}
    return TrialResult(number, state, arm, seed, params, metrics, phase=phase).row()


def search_rows(scores: tuple[float | None, ...] = (1.0, 0.9, 0.8, 0.7)) -> list[dict]:
    return [row(arm, arm, 7, score) for arm, score in enumerate(scores)]


def run_pending(file, rows: list[dict], score: Callable[[int, int], float | None]) -> list[dict]:
    """Runs trials one by one, as a driver does, until none is pending; returns all rows."""
    rows = list(rows)
    while pending := verdict.looks(file, rows, {}).pending:
        one = pending[0]
        seed = file.example().seed + CONFIRM_SEEDS + one.place
        rows.append(row(len(rows), one.arm, seed, score(one.arm, one.place), "confirm"))
    return rows


def noisy(effects: tuple[float, ...], noise: float = 0.01) -> Callable[[int, int], float]:
    """A score that depends on the arm and its seed alone."""
    return lambda arm, place: 1.0 + effects[arm] + random.Random(f"{arm} {place}").gauss(0, noise)


def test_the_best_arms_of_the_search_and_the_reference_get_fresh_seeds_once_the_search_is_over():
    file, rows = sweep_file(), search_rows()
    assert verdict.looks(file, rows[:3], {}).phase == "search"
    assert verdict.looks(file, [*rows[:3], row(3, 3, 7, None, state="running")], {}).phase == "search"
    found = verdict.looks(file, rows, {})
    assert (found.phase, found.look, found.arms, found.reference) == ("confirm", 0, (3, 2), 0)
    assert [(one.arm, one.place) for one in found.pending] == [(0, 0), (3, 0), (2, 0), (0, 1), (3, 1), (2, 1)]


def test_a_known_arm_gets_no_more_seeds_and_its_verdict_stays():
    file = sweep_file()
    score = noisy((0.0, 0.0, 0.0, -0.9))
    rows = run_pending(file, search_rows(), score)
    seeds = {arm: sum(one["arm"] == arm and one["phase"] == "confirm" for one in rows) for arm in (0, 2, 3)}
    assert seeds == {0: 4, 2: 4, 3: 2}
    found = verdict.looks(file, rows, {})
    assert found.phase == "done" and all(one.is_final for one in found.verdicts)
    words = {(one.arm, one.metric): (one.word, one.look, len(one.seeds)) for one in found.verdicts}
    assert words[3, "mean/bpb"] == ("better", 0, 2) and words[2, "mean/bpb"] == ("not known", 1, 4)


def test_a_driver_that_continues_finds_the_same_trials_pending_whatever_had_ended():
    file = sweep_file()
    score = noisy((0.0, 0.0, 0.0, -0.9))
    rows = run_pending(file, search_rows(), score)
    whole = verdict.looks(file, rows, {})
    chance = random.Random(0)
    for _ in range(12):
        kept = [one for one in rows if one["phase"] == "search" or chance.random() < 0.6]
        chance.shuffle(kept)
        again = run_pending(file, kept, score)
        after = verdict.looks(file, again, {})
        assert {(one["arm"], one["seed"]) for one in again} == {(one["arm"], one["seed"]) for one in rows}
        assert after.verdicts == whole.verdicts and after.phase == "done"


def test_no_more_seeds_are_asked_for_once_every_verdict_is_known():
    rows = run_pending(sweep_file(), search_rows(), noisy((0.0, 0.0, 0.8, -0.9)))
    assert max(one["seed"] for one in rows) == 7 + CONFIRM_SEEDS + 1


@pytest.mark.parametrize("failing", [0, 3])
def test_an_arm_whose_trials_all_fail_is_asked_for_no_more(failing):
    file = sweep_file()
    score = noisy((0.0,) * 4)
    rows = run_pending(file, search_rows(), lambda arm, place: None if arm == failing else score(arm, place))
    assert sum(one["arm"] == failing and one["phase"] == "confirm" for one in rows) == 2
    found = verdict.looks(file, rows, {})
    words = {one.arm: one.word for one in found.verdicts if one.metric == "mean/bpb"}
    assert found.phase == "done" and words[3] == "not known"
    assert failing == 0 or not any(one.seeds for one in found.verdicts if one.arm == failing)


def test_edges_of_a_search_are_confirmed_with_what_it_has():
    few = verdict.looks(sweep_file(), search_rows((1.0, None, None, 0.7)), {})
    assert few.arms == (3,) and few.reference == 0
    none = verdict.looks(sweep_file(), search_rows((1.0, None, None, None)), {})
    assert (none.phase, none.arms, none.pending) == ("done", (), ())
    without_reference = verdict.looks(sweep_file(), search_rows((None, 0.9, 0.8, 0.7)), {})
    assert without_reference.phase == "confirm" and without_reference.reference == 0
    one_look = verdict.looks(sweep_file("confirm: {seeds: [4]}"), search_rows(), {})
    assert len(one_look.pending) == 12
    unconfirmed = verdict.looks(sweep_file("replicates: 1"), search_rows(), {})
    assert (unconfirmed.phase, unconfirmed.pending) == ("done", ())


def test_rows_of_versions_without_phases_are_of_the_search():
    rows = [{name: value for name, value in one.items() if name != "phase"} for one in search_rows()]
    assert verdict.looks(sweep_file(), rows, {}).phase == "confirm"
    assert verdict.looks(sweep_file(), [{**one, "phase": None} for one in rows], {}).phase == "confirm"


def test_of_two_rows_with_the_same_seed_one_counts():
    file = sweep_file("confirm: {best: 1, seeds: [2]}")
    rows = run_pending(file, search_rows(), noisy((0.0, 0.0, 0.0, -0.9)))
    twice = {**next(one for one in rows if one["phase"] == "confirm"), "number": len(rows)}
    failed = {**twice, "number": len(rows) + 1, "state": "failed"}
    assert verdict.looks(file, [*rows, twice, failed], {}).verdicts == verdict.looks(file, rows, {}).verdicts
