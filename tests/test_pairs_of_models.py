"""Two given models are compared over the same items, and what is claimed of all pairs and tasks holds at once."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from raycodellm import pairs
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.statistics import Interval


def answered(right: dict[str, list[bool]], boxes_of_one_state: int | None = None) -> pa.Table:
    """The items of a model, right or wrong, by task; with the number of items that share a context."""
    rows = [
        {
            "task": task,
            "item": number,
            "doc_hash": str(number),
            "correct": one,
            "bits_per_byte": 1.0,
            "too_long": False,
            "attributes": json.dumps({"cluster": number // boxes_of_one_state} if boxes_of_one_state else {}),
        }
        for task, of_task in right.items()
        for number, one in enumerate(of_task)
    ]
    return items_table(rows, {task: [task] for task in right})


def times(*numbers: int) -> list[bool]:
    """So many right, wrong, right, … answers."""
    return [place % 2 == 0 for place, number in enumerate(numbers) for _ in range(number)]


def test_the_accuracy_of_independent_items_is_tested_exactly_and_corrected_over_pairs_and_tasks() -> None:
    models = {
        "base": answered({"easy": times(0, 30), "hard": times(0, 30)}),
        "better": answered({"easy": times(9, 21), "hard": times(5, 25)}),
        "other": answered({"easy": times(2, 28), "hard": times(1, 29)}),
    }
    found = pairs.compare(models, [("base", "better"), ("base", "other")])
    tested = {
        (other, metric): gap
        for (_, other), of in found.items()
        for metric, gap in of.items()
        if gap is not None and gap.p is not None
    }
    wins = {("better", "easy/acc"): 9, ("better", "hard/acc"): 5, ("other", "easy/acc"): 2, ("other", "hard/acc"): 1}
    assert {one: gap.p for one, gap in tested.items()} == {
        one: pytest.approx(binomtest(number, number).pvalue) for one, number in wins.items()
    }
    assert {gap.test for gap in tested.values()} == {"McNemar"}
    assert all(gap.bootstrap.low < gap.interval.value < gap.bootstrap.high for gap in tested.values())
    assert tested["better", "easy/acc"].p_corrected == pytest.approx(4 * 2 * 0.5**9)
    assert tested["better", "hard/acc"].p_corrected == pytest.approx(3 * 2 * 0.5**5)
    words = {one: pairs.word(one[1], gap) for one, gap in tested.items()}
    assert words == {**dict.fromkeys(wins, "not known"), ("better", "easy/acc"): "better"}
    assert pairs.word("mean/acc", found["base", "better"]["mean/acc"]) is None, "an average is no further test"


def test_items_that_share_a_context_are_tested_as_whole_contexts() -> None:
    """Seven boxes of a state stand or fall together: 18 of them say little more than 3 states do."""
    base, other = {"boxes": times(0, 70)}, {"boxes": times(18, 52)}
    alone = pairs.differences(answered(base), answered(other))["boxes/acc"]
    together = pairs.differences(answered(base, 7), answered(other, 7))["boxes/acc"]
    assert alone is not None and together is not None and alone.p is not None and together.p is not None
    assert (alone.test, alone.items, together.test, together.items) == ("McNemar", 70, "Student", 10)
    assert alone.p < 1e-5 and together.p > 0.01


@pytest.mark.parametrize(
    ("metric", "value", "p", "said"),
    [
        ("boxes/acc", 0.1, 0.01, "better"),
        ("boxes/acc", -0.1, 0.01, "worse"),
        ("boxes/bpb", 0.1, 0.01, "worse"),
        ("boxes/bpb_corpus", -0.1, 0.01, "better"),
        ("boxes/acc", 0.1, 0.06, "not known"),
        ("boxes/acc", 0.1, None, None),
    ],
)
def test_a_model_is_better_where_the_corrected_p_says_so(metric, value, p, said) -> None:
    gap = pairs.Gap(Interval(value, value - 0.2, value + 0.2), 10, p_corrected=p)
    assert pairs.word(metric, gap) == said


def test_the_kind_of_the_objective_is_tested_where_a_task_has_it() -> None:
    names = ["a/acc", "a/bpb", "b/bpb", "c/f1", "mean/bpb"]
    assert pairs.tested_metrics(names, ["a", "b", "c"], "bpb") == ["a/bpb", "b/bpb", "c/f1"]
    assert pairs.tested_metrics(names, ["a", "b", "d"], "acc") == ["a/acc", "b/bpb"]


@pytest.mark.parametrize(
    ("sweeps", "most"),
    [pytest.param(60, 0.1, marks=pytest.mark.slow), pytest.param(1000, 0.06, marks=pytest.mark.exhaustive)],
)
def test_of_equal_models_at_most_one_sweep_in_twenty_makes_any_claim(sweeps: int, most: float) -> None:
    """Three pairs, two tasks; each item is right in a model with its own probability, the same in all models."""
    chance = np.random.default_rng(0)
    claiming = 0
    for _ in range(sweeps):
        easy = {task: chance.beta(1, 1, 40) for task in ("one", "two")}
        models = {name: answered({task: list(chance.random(40) < p) for task, p in easy.items()}) for name in "abcd"}
        found = pairs.compare(models, [("a", "b"), ("a", "c"), ("a", "d")])
        words = [pairs.word(metric, gap) for of in found.values() for metric, gap in of.items()]
        claiming += any(word in ("better", "worse") for word in words)
    assert claiming <= most * sweeps


def test_models_are_called_by_what_tells_them_apart() -> None:
    assert pairs.short_names(["s/stages/a/model", "s/stages/b/model"]) == {
        "s/stages/a/model": "a",
        "s/stages/b/model": "b",
    }
    assert pairs.short_names(["one/x", "two/x", "two/y"]) == {"one/x": "one/x", "two/x": "two/x", "two/y": "y"}
