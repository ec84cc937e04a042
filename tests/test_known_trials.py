"""The trials of a sweep as its driver knows them, look after look, and their table."""

from __future__ import annotations

import random
from dataclasses import replace

from raycodellm.known_trials import TrialsSoFar, changed, num_ended, open_trials, state_counts
from raycodellm.records import ENDED, TrialResult
from raycodellm.sweep.growing_table import GrowingTable, table_of


def trial(number: int, state: str = "running", **more: object) -> TrialResult:
    scores = {"mean/bpb": 1.5 + number / 100} if state == "complete" else {}
    return replace(TrialResult(number, state, number, 0, metrics=scores), **more)  # type: ignore[arg-type]


def test_a_look_tells_the_same_of_known_trials_as_of_a_plain_list_of_them() -> None:
    draw, plain = random.Random(0), {7: trial(7, "waiting")}
    known = TrialsSoFar([plain[7]])
    before, plain_before = known.now(), [plain[7]]
    for _ in range(200):
        for _ in range(draw.randint(0, 3)):
            one = trial(draw.randint(0, 30), draw.choice((*ENDED, "running")))
            known.put(one)
            plain[one.number] = one
        now, listed = known.now(), [plain[number] for number in sorted(plain)]
        assert list(now) == listed and now is known.now() and now.of(99) is None
        assert all(now.of(number) is known.of(number) is plain[number] for number in plain)
        assert {state: number for state, number in state_counts(now).items() if number} == dict(state_counts(listed))
        assert num_ended(now) == num_ended(listed) and list(open_trials(now)) == open_trials(listed)
        told = {one.number: one for one in changed(now, before)}
        for number in {one.number for one in listed} - told.keys():
            assert plain[number] in plain_before, "a trial that has changed is told"
        assert list(told) == sorted(told) and all(plain[number] is one for number, one in told.items())
        assert changed(now, now) == [] and list(changed(listed, ())) == listed
        before, plain_before = now, listed


def test_a_table_that_grew_with_its_trials_is_the_table_of_all_of_them() -> None:
    growing, draw = GrowingTable(), random.Random(1)
    trials = {number: trial(number) for number in range(40)}
    order = random.Random(2).sample(range(40), 40)
    for place, number in enumerate(order):
        params = {"a": draw.choice((1, 0.5)), "b": None if number % 5 else "text"}
        state = ENDED[number % 7] if number % 7 < 3 else "complete"
        trials[number] = trial(number, state, params=params, stages=("one",) * (number % 3), error="why" * (number % 2))
        if place % 6 == 5 or place == 39:
            table = growing.of(list(trials.values()))
            whole = table_of([one.row() for one in trials.values()])
            assert table.select(sorted(table.column_names)) == whole.select(sorted(whole.column_names))
    trials[3] = trial(3, "failed", error="another end")
    assert growing.of(list(trials.values())).column("error").to_pylist()[3] == "another end"
    trials[4] = trial(4, "complete", params={"a": "large", "b": True})
    mixed = growing.of(list(trials.values()))
    assert (
        mixed == table_of([one.row() for one in trials.values()]) and mixed.column("params.a").to_pylist()[4] == "large"
    )
