"""Items that share a text are no independent observations: intervals are those of a sample of such clusters."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from raycodellm import evaluation, pairs
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.scores.metrics import task_metrics
from raycodellm.statistics import mean_interval, paired_difference, wilson_interval


def rows(values: list[list[float]], score: str = "f1", clustered: bool = True) -> list[dict]:
    """The items of clusters; `values`: of each cluster's items."""
    found: list[dict] = []
    for cluster, of in enumerate(values):
        for value in of:
            attributes = {"cluster": cluster} if clustered else {}
            found.append(
                {"task": "boxes", "item": len(found), "doc_hash": str(len(found)), "chance": 0.2, "too_long": False}
                | {"scores": {score: value}, "attributes": json.dumps(attributes)}
            )
    return found


def draw(rng: random.Random, effect: float, num_clusters: int = 60) -> list[list[float]]:
    """Values of 1 to 7 items per cluster that lean to 1 or 0 together; their mean is 0.5 + effect."""
    found = []
    for _ in range(num_clusters):
        share = rng.choice((0.1, 0.9)) + effect
        found.append([float(rng.random() < share) for _ in range(rng.randint(1, 7))])
    return found


@pytest.mark.parametrize("score", ["acc", pytest.param("f1", marks=pytest.mark.slow)])
def test_an_interval_over_clusters_holds_the_true_mean_as_often_as_it_says(score):
    rng, held = random.Random(1), {True: 0, False: 0}
    for _ in range(150):
        values = draw(rng, 0.0)
        if score == "f1":
            values = [[value * 0.5 for value in of] for of in values]
        for clustered in held:
            found = task_metrics("boxes", rows(values, score, clustered))
            true = 0.5 if score == "acc" else 0.25
            held[clustered] += found[f"boxes/{score}_low"] <= true <= found[f"boxes/{score}_high"]
    assert held[True] / 150 > 0.92, "95 % but for the noise of 150 tries"
    assert held[False] / 150 < 0.85, "as independent items they would claim too much"


@pytest.mark.slow
def test_a_difference_of_two_models_is_paired_by_cluster():
    rng, held = random.Random(2), 0
    for _ in range(120):
        base = draw(rng, 0.0)
        other = [[value if rng.random() < 0.7 else float(rng.random() < 0.5) for value in of] for of in base]
        tables = [items_table(rows(values), {"boxes": ["boxes"]}) for values in (base, other)]
        samples = [evaluation.samples(table, "boxes/f1") for table in tables]
        assert len(samples[0][0]) == len(base)
        found = paired_difference(*samples)
        means = [statistics.fmean(value for of in values for value in of) for values in (base, other)]
        assert found.value == pytest.approx(means[1] - means[0])
        held += found.low <= 0.0 <= found.high
    assert held / 120 > 0.92


def test_clusters_of_equal_size_give_the_interval_of_their_means():
    values = [[0.2, 0.4], [0.6, 0.6], [0.1, 0.9]]
    found = task_metrics("boxes", rows(values))
    expected = mean_interval([statistics.fmean(of) for of in values])
    assert (found["boxes/f1"], found["boxes/f1_low"], found["boxes/f1_high"]) == pytest.approx(tuple(expected))


def test_a_share_without_any_variation_is_as_sure_as_its_number_of_clusters():
    found = task_metrics("boxes", rows([[0.0] * 7] * 10, "acc"))
    assert (found["boxes/acc_low"], found["boxes/acc_high"]) == wilson_interval(0, 10)


def test_clusters_of_one_item_change_nothing_but_rounding():
    values = [[value] for value in (0.3, 0.4, 0.9, 0.2)]
    alone, clustered = (task_metrics("boxes", rows(values, clustered=one)) for one in (False, True))
    assert clustered == pytest.approx(alone)


def test_parts_are_compared_over_the_clusters_that_have_items_of_them():
    tables = []
    for shift in (0.0, 1.0):
        some = rows([[0.0, shift], [0.0], [shift, 0.0]], "acc")
        for row in some:
            row["attributes"] = json.dumps({**json.loads(row["attributes"]), "part": f"{row['item'] % 2}_operations"})
        tables.append(items_table(some, {"boxes": ["boxes"]}))
    found = pairs.differences(*tables)
    gaps = {name: gap.interval.value for name, gap in found.items() if name.endswith("operations")}
    assert gaps == {"boxes/acc_0_operations": 0.0, "boxes/acc_1_operations": 1.0}
