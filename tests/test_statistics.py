"""No verdict without the seeds' noise: sweeps without an effect claim one in at most 5 % of cases; real ones are seen.

The noise is that of a measured sweep in bits per byte: 0.041 between seeds, a correlation of 0.79 between arms of equal
seeds, and evaluation items that leave a difference uncertain by ±0.0076.
"""

from __future__ import annotations

import gc
import importlib
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportions_ztest

from raycodellm.statistics import (
    UNKNOWN,
    ArmMeasurements,
    Corrected,
    Difference,
    Interval,
    SeedNoise,
    Variance,
    difference,
    half_width,
    holm,
    holm_at_look,
    items_to_tell,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    pareto_front,
    power,
    range_quantile,
    seed_difference,
    seed_noise,
    seeds_to_tell,
    spent_errors,
    verdict_word,
    wilson_interval,
)

SEED_SD, CORRELATION = 0.041, 0.79
ITEMS = Variance((0.0076 / 1.96) ** 2, 398)
"""Noise of a difference of two arms over the same items."""


def drawn_sweeps(
    sweeps: int, arms: int, seeds: int, effect: float = 0.0, correlation: float = CORRELATION
) -> np.ndarray:
    """Scores by sweep, arm and seed; the last arm is better than the others by `effect`."""
    noise = np.random.default_rng(0)
    common = noise.normal(0, SEED_SD * math.sqrt(correlation), (sweeps, 1, seeds))
    own = noise.normal(0, SEED_SD * math.sqrt(1 - correlation), (sweeps, arms, seeds))
    items = noise.normal(0, math.sqrt(ITEMS.value / 2), (sweeps, arms, 1))
    scores = 1.7 + common + own + items
    scores[:, -1] -= effect
    return scores


def claims(scores: dict[int, dict[int, float]], num_means: int | None = None) -> int:
    """Arms that are called worse than the best one."""
    noise = seed_noise(scores)
    best = min(scores, key=lambda arm: np.mean(list(scores[arm].values())))
    found = 0
    for arm in scores.keys() - {best}:
        gap = seed_difference(scores[arm], scores[best], noise)
        if gap.variance.degrees:
            found += abs(gap.value) > half_width([gap.variance, ITEMS], num_means or len(scores))
    return found


def share_with_a_claim(scores: np.ndarray, num_means: int | None = None) -> float:
    sweeps = [dict(enumerate(map(dict, map(enumerate, sweep)))) for sweep in scores.tolist()]
    return sum(claims(sweep, num_means) > 0 for sweep in sweeps) / len(sweeps)


SWEEPS = 1_000
MOST = 0.05 + 2 * math.sqrt(0.05 * 0.95 / SWEEPS)


@pytest.mark.parametrize(
    ("arms", "seeds"), [(6, 1), (6, 2), pytest.param(6, 3, marks=pytest.mark.slow), (2, 2), (2, 3)]
)
def test_at_most_five_percent_of_sweeps_without_an_effect_claim_one(arms, seeds):
    share = share_with_a_claim(drawn_sweeps(SWEEPS, arms, seeds))
    assert share <= MOST
    assert (share > 0) == (seeds > 1), "one seed says nothing; more say as much as they can"


def test_the_best_was_chosen_by_looking_so_that_an_interval_for_one_pair_claims_too_much():
    assert share_with_a_claim(drawn_sweeps(SWEEPS, 6, 3), num_means=2) > 0.25


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_replicates_and_arms_without_common_seeds_claim_no_more(lost):
    sweeps = drawn_sweeps(SWEEPS, 4, 3, correlation=CORRELATION if lost else 0.0)
    found = 0
    for sweep in sweeps.tolist():
        first = {arm: 0 if lost else 10 * arm for arm in range(4)}
        scores = {arm: {first[arm] + seed: one for seed, one in enumerate(of)} for arm, of in enumerate(sweep)}
        if lost:
            del scores[0][0], scores[1][2]
        found += claims(scores) > 0
    assert found / SWEEPS <= MOST


def test_a_large_difference_is_seen_with_two_seeds_and_a_third_of_it_with_six():
    assert share_with_a_claim(drawn_sweeps(200, 6, 2, effect=0.15)) > 0.95
    assert share_with_a_claim(drawn_sweeps(200, 6, 6, effect=0.05)) > 0.9
    assert share_with_a_claim(drawn_sweeps(200, 2, 3, effect=0.15)) > 0.95


def test_shared_seeds_make_a_difference_twice_as_sure():
    scores = {arm: dict(enumerate(of)) for arm, of in enumerate(drawn_sweeps(1, 2, 400)[0].tolist())}
    noise = seed_noise(scores)
    assert noise.single.value == pytest.approx(SEED_SD**2, rel=0.15)
    assert noise.paired.value == pytest.approx(SEED_SD**2 * (1 - CORRELATION), rel=0.15)
    assert (noise.single.degrees, noise.paired.degrees) == (399, 399)
    paired = seed_difference(scores[0], scores[1], noise)
    apart = seed_difference(scores[0], {seed + 400: one for seed, one in scores[1].items()}, noise)
    assert paired.value == pytest.approx(apart.value) and (len(paired.seeds), apart.seeds) == (400, ())
    assert half_width([paired.variance]) < 0.5 * half_width([apart.variance])


def test_an_arm_with_one_seed_is_compared_by_the_noise_of_the_others():
    scores = {0: {0: 1.0, 1: 1.1, 2: 1.2}, 1: {0: 1.5, 1: 1.61, 2: 1.69}, 2: {1: 1.9}}
    gap = seed_difference(scores[2], scores[0], seed_noise(scores))
    assert gap.value == pytest.approx(0.8) and gap.seeds == (1,) and gap.variance.degrees == 2


def test_nothing_is_known_of_the_seeds_where_no_arm_has_two():
    noise = seed_noise({0: {0: 1.0}, 1: {0: 2.0}, 2: {}})
    assert (noise.single.degrees, noise.paired.degrees) == (0, 0)
    assert seed_noise({}) == seed_noise({0: {0: 1.0}})


def test_two_seeds_that_agree_by_chance_leave_the_difference_as_unsure_as_its_items():
    exact = half_width([Variance(0.0, 1), ITEMS])
    assert exact == pytest.approx(0.0076, rel=0.01)
    assert half_width([Variance(1e-4, 1)]) == pytest.approx(0.127062, rel=1e-4)


@pytest.mark.parametrize(("means", "degrees", "table"), [(3, 10, 3.877), (6, 10, 4.912), (6, 5, 6.033), (2, 10, 3.151)])
def test_range_quantiles_are_those_of_the_tables_over_the_square_root_of_two(means, degrees, table):
    assert range_quantile(means, degrees) * math.sqrt(2) == pytest.approx(table, abs=2e-3)


# ------------------------------------------------------------------------------------------------- against scipy


def drawn(seed: int, n: int = 40) -> dict[int, float]:
    return dict(enumerate(np.random.default_rng(seed).normal(2.0, 0.5, n).tolist()))


def test_intervals_of_means_and_shares_are_those_of_scipy():
    values = list(drawn(1).values())
    theirs = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *theirs), rel=1e-12)
    share = stats.binomtest(17, 60).proportion_ci(0.95, "wilson")
    assert wilson_interval(17, 60) == pytest.approx((share.low, share.high), rel=1e-12)


def test_equal_answers_to_every_item_do_not_show_that_two_accuracies_are_exactly_equal():
    answers = {item: float(item % 3 == 0) for item in range(100)}
    found = paired_difference([answers], [answers])
    assert found.value == 0.0 and found.high == -found.low == pytest.approx(0.037, abs=0.001)  # Tango 1998, n = 100
    assert paired_difference([{0: 2.5, 1: 3.5}], [{0: 2.5, 1: 3.5}]) == (0.0, 0.0, 0.0), "no shares"


def test_a_paired_difference_is_that_of_scipys_paired_t_test_over_the_common_items():
    base, other = drawn(1), drawn(2)
    common = range(5, 35)
    found = paired_difference([base], [{item: other[item] for item in common}])
    test = stats.ttest_rel([other[item] for item in common], [base[item] for item in common])
    theirs = test.confidence_interval(0.95)
    assert found[1:] == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert paired_difference([base], [{-1: 1.0}]) is None and paired_difference([base], []) is None


def test_an_arm_without_known_seed_noise_has_the_interval_of_its_items_and_no_known_difference():
    unknown = SeedNoise(UNKNOWN, UNKNOWN)
    arms = [ArmMeasurements({0: float(np.mean(list(one.values())))}, {0: [one]}, None) for one in (drawn(1), drawn(2))]
    assert arms[0].interval(unknown) == pytest.approx(mean_interval([*drawn(1).values()]), rel=1e-12)
    assert math.isnan(arms[0].minus(arms[1], unknown, 2).low)
    recorded = Interval(0.5, 0.4, 0.7)
    assert ArmMeasurements({0: 0.5}, {0: []}, recorded).interval(unknown) == recorded


def test_a_difference_adds_the_half_widths_of_paired_items_and_paired_seeds_in_squares():
    items = [drawn(seed) for seed in range(6)]
    arms = [
        ArmMeasurements(
            {seed: float(np.mean(list(items[3 * arm + seed].values()))) for seed in range(3)},
            {seed: [items[3 * arm + seed]] for seed in range(3)},
            None,
        )
        for arm in range(2)
    ]
    noise = seed_noise({number: arm.scores for number, arm in enumerate(arms)})
    found = arms[0].minus(arms[1], noise, 2)
    seeds = stats.ttest_rel(list(arms[0].scores.values()), list(arms[1].scores.values())).confidence_interval(0.95)
    means = [np.mean([[*items[3 * arm + seed].values()] for seed in range(3)], axis=0) for arm in range(2)]
    over_items = stats.ttest_rel(*means).confidence_interval(0.95)
    half = math.hypot((seeds.high - seeds.low) / 2, (over_items.high - over_items.low) / 2)
    assert found.high - found.value == pytest.approx(half, rel=1e-9)


def test_the_pareto_front_holds_each_arm_that_no_other_beats():
    points = {0: (1.0, 5.0), 1: (2.0, 6.0), 2: (3.0, 4.0), 3: (1.0, 5.0), 4: (0.5, 6.0)}
    assert pareto_front(points, [True, False]) == {4}
    assert pareto_front(points, [True, True]) == {0, 2, 3, 4}


# ---------------------------------------------------------------------------------------- verdicts against a reference


def measured(
    scores: list[float], items: list[np.ndarray] | None = None, first_seed: int = 0, place: float | None = None
):
    seeds = range(first_seed, first_seed + len(scores))
    samples = {seed: [dict(enumerate(of))] for seed, of in zip(seeds, items or [], strict=False)}
    return ArmMeasurements(dict(zip(seeds, scores, strict=True)), samples or dict.fromkeys(seeds, ()), None, place)


def test_over_seeds_alone_a_paired_difference_is_that_of_scipys_paired_t_test():
    mine, theirs = [1.0, 1.4, 1.3, 1.1], [0.9, 1.5, 1.1, 0.8]
    found, test = difference(measured(mine), measured(theirs)), stats.ttest_rel(mine, theirs)
    assert found.paired and found.num_seeds == 4
    assert found.p_value() == pytest.approx(test.pvalue, rel=1e-9)
    assert found.interval(0.05)[1:] == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-9)


def test_over_other_seeds_a_difference_is_that_of_scipys_pooled_t_test():
    mine, theirs = [1.0, 1.4, 1.3, 1.1], [0.9, 1.5, 1.1, 0.8]
    found = difference(measured(mine, place=0.5), measured(theirs, first_seed=9, place=0.5))
    test = stats.ttest_ind(mine, theirs)
    assert not found.paired
    assert found.p_value() == pytest.approx(test.pvalue, rel=1e-9)


def test_arms_of_one_place_pool_their_noise_as_the_linear_model_of_arms_and_seeds_does():
    arms = [measured(list(scores), place=0.5) for scores in np.random.default_rng(3).normal(size=(5, 4))]
    noise = seed_noise({number: arm.scores for number, arm in enumerate(arms)})
    found, own = difference(arms[3], arms[0], arms), difference(arms[3], arms[0])
    assert own.seeds.value < found.seeds.value, "else the two arms' own seeds count"
    assert tuple(found.seeds) == pytest.approx(tuple(noise.paired.times(2 / 4)))


LOUD, QUIET = [1.0, 1.9, 0.2, 1.1], [1.0, 1.01, 0.99, 1.0]


def own_variance(mine: list[float], theirs: list[float], is_paired: bool) -> float:
    """Variance of the difference of two means of four seeds, by these seeds alone."""
    return (np.var(np.subtract(mine, theirs), ddof=1) if is_paired else np.var([mine, theirs], 1, ddof=1).sum()) / 4


@pytest.mark.parametrize("place", [None, 0.5])
@pytest.mark.parametrize("first_seed", [0, 9])
def test_quiet_arms_never_make_a_difference_surer_than_the_two_arms_own_seeds_do(place, first_seed):
    quiet = [measured(QUIET, place=place) for _ in range(8)]
    loud = measured(LOUD, None, first_seed, place)
    found = difference(loud, quiet[0], [loud, *quiet]).seeds
    assert found.value == pytest.approx(own_variance(LOUD, QUIET, not first_seed)) and found.degrees > 3


@pytest.mark.parametrize("first_seed", [0, 9])
def test_where_no_place_says_which_arms_are_alike_the_reference_alone_tells_its_noise(first_seed):
    loud, *quiet = measured(LOUD, None, first_seed), *(measured(QUIET) for _ in range(8))
    found = difference(quiet[0], loud, [loud, *quiet]).seeds
    assert found.value >= 0.999 * own_variance(QUIET, LOUD, not first_seed) and found.degrees < 9, "of 24 for 9 arms"


def test_an_arm_far_away_in_code_ratio_says_less_of_the_noise_than_one_that_is_near():
    quiet, loud = [1.0, 1.1, 1.05], [1.0, 2.0, 0.2]
    near = [measured(quiet, place=0.0), measured(quiet[::-1], place=0.1)]
    found = [difference(*near, [*near, measured(loud, place=place)]).standard_error for place in (0.05, 1.0)]
    assert found[1] < 0.2 * found[0]


def test_holm_is_that_of_statsmodels_and_its_levels_agree_with_its_verdicts(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels asks for it each time, 0.6 s after thousands of tests
    for seed in range(3):
        drawn_p = dict(enumerate(np.random.default_rng(seed).beta(0.3, 3, 6).tolist()))
        found = holm(drawn_p, 0.05)
        rejected, corrected, *_ = multipletests(list(drawn_p.values()), 0.05, "holm")
        assert [one.p for one in found.values()] == pytest.approx(corrected.tolist())
        assert [one.rejected for one in found.values()] == rejected.tolist()
        assert all((p <= found[one].level) == found[one].rejected for one, p in drawn_p.items())


def test_all_looks_together_spend_the_error_once():
    assert spent_errors([2, 4, 8]) == pytest.approx((0.0125, 0.0125, 0.025))
    assert sum(spent_errors([2, 3, 9], shape=-2.0)) == pytest.approx(0.05)
    assert holm_at_look({"a": 0.002, "b": 0.5}, [2, 4, 8], 0)["a"].p == pytest.approx(0.002 * 2 * 4)
    with pytest.raises(ValueError, match="strictly increasing"):
        spent_errors([4, 4])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.2, 0.4, "worse"),
        (-0.4, -0.2, "better"),
        (-0.05, 0.09, "equal"),
        (-0.2, 0.05, "not known"),
        (math.nan,) * 2 + ("not known",),
        (0.0, 0.0, "not known"),  # few items that came out alike in few seeds
        (0.2, 0.2, "not known"),
    ],
)
def test_a_verdict_is_the_word_that_its_interval_deserves(low, high, word):
    assert verdict_word(Interval((low + high) / 2, low, high), "min", 0.1) == word
    flipped = {"better": "worse", "worse": "better"}
    assert verdict_word(Interval((low + high) / 2, low, high), "max", 0.1) == flipped.get(word, word)


def test_without_a_margin_no_arm_is_ever_equal():
    assert verdict_word(Interval(0.0, -1e-9, 1e-9), "min") == "not known"


def test_seeds_that_would_tell_are_those_of_statsmodels_power_of_a_paired_t_test():
    found = Difference(0.3, Variance(0.5**2 / 4, 3), UNKNOWN, num_seeds=4, paired=True)
    theirs = TTestPower().solve_power(effect_size=0.3 / 0.5, alpha=0.05, power=0.8)
    assert seeds_to_tell(found) == math.ceil(theirs)
    assert power(found) == pytest.approx(TTestPower().power(0.3 / 0.5, 4, 0.025, alternative="larger"), rel=1e-6)


def test_no_number_of_seeds_tells_what_the_items_hide_and_no_number_of_items_what_the_seeds_hide():
    by_items = Difference(0.01, Variance(1e-6, 3), Variance(1e-3, 99), num_seeds=4, num_items=100)
    assert seeds_to_tell(by_items) is None and 3_000 < items_to_tell(by_items) < 10_000
    by_seeds = Difference(0.01, Variance(1e-3, 3), Variance(1e-6, 99), num_seeds=4, num_items=100)
    assert items_to_tell(by_seeds) is None and 250 < seeds_to_tell(by_seeds) < 400


# ------------------------------------------------------------------------------------------------- pairs of two models


def answered(right: np.ndarray) -> dict[int, float]:
    return dict(enumerate(right.astype(float).tolist()))


def test_mcnemars_exact_test_is_that_of_statsmodels():
    rng = np.random.default_rng(5)
    base, other = (answered(rng.random(60) < share) for share in (0.4, 0.6))
    table = [[sum((base[i], other[i]) == (a, b) for i in base) for b in (1, 0)] for a in (1, 0)]
    found = mcnemar(base, other)
    assert found.p == pytest.approx(their_mcnemar(table, exact=True).pvalue)
    assert (found.only_base, found.only_other) == (table[0][1], table[1][0])
    assert mcnemar(base, base).p == 1.0
    assert mcnemar({0: 0.5}, {0: 1.0}) is None and mcnemar({0: 1.0}, {1: 1.0}) is None


def test_a_bootstrap_over_many_items_is_as_wide_as_students_interval():
    rng = np.random.default_rng(6)
    base, other = (answered(rng.random(200) < share) for share in (0.3, 0.5))
    halves = [{item: one[item] for item in range(100)} for one in (base, other)], [dict(one) for one in (base, other)]
    for pair in ([[base], [other]], [list(one) for one in zip(*halves, strict=True)]):  # shared items in the second
        plain, found = paired_difference(*pair), paired_bootstrap(*pair)
        assert found == pytest.approx(plain, abs=0.015) and found.low > 0
    assert paired_bootstrap([base], [base]) == paired_difference([base], [base])


# --------------------------------------------------------------------------- replays of published figures: one run each


def published(percent: float, items: int, first_item: int) -> ArmMeasurements:
    """A model of which only its share right is known: no seed but one, and no item that another model shares."""
    right = round(percent / 100 * items)
    values = {first_item + item: float(item < right) for item in range(items)}
    return ArmMeasurements({0: right / items}, {0: [values]}, None)


def unpaired(base: float, other: float, items: int) -> Difference:
    return difference(published(other, items, items), published(base, items, 0))


def as_if_seeds_had_no_noise(found: Difference) -> Difference:
    return replace(found, seeds=Variance(0.0, math.inf))


MA_TABLE_2 = {
    "Logic": (22, 36.36, 40.90, 0.76),
    "JEC-QA": (1000, 27.00, 28.70, 0.40),
    "ScienceQA": (3172, 45.93, 46.06, 0.92),
    "E-KAR": (335, 32.24, 36.12, 0.29),
    "CosQA": (604, 47.01, 50.50, 0.22),
}
"""Ma et al. 2024, NL 2.6B and CODE 2.6B: items, accuracies in %, and the p-value of two independent shares."""


def test_ma_et_al_have_no_significant_difference_at_equal_size():
    found = {task: unpaired(nl, code, items) for task, (items, nl, code, _) in MA_TABLE_2.items()}
    assert not any(one.is_known for one in found.values()), "one run per arm"
    p_values = {task: as_if_seeds_had_no_noise(one).p_value() for task, one in found.items()}
    for task, (items, nl, code, p) in MA_TABLE_2.items():
        right = [round(share / 100 * items) for share in (nl, code)]
        theirs = proportions_ztest(right, [items, items])[1]
        assert p_values[task] == pytest.approx(p, abs=0.01) == pytest.approx(theirs, abs=0.01)
    corrected = holm(p_values)
    assert not any(one.rejected for one in corrected.values())
    words = [verdict_word(as_if_seeds_had_no_noise(found[one]).interval(corrected[one].level), "max") for one in found]
    assert words == ["not known"] * 5


def test_on_cosqa_the_constant_answer_beats_the_models_without_and_with_code():
    tasks = yaml.safe_load((files("raycodellm") / "tasks/suites/ma2024.yaml").read_text(encoding="utf-8"))["tasks"]
    cosqa = next(one for one in tasks if one["task"] == "cosqa")
    items, nl, code, _ = MA_TABLE_2["CosQA"]
    constant = published(100 * cosqa["majority"], items, 0)
    assert round(constant.score * items) == 313 and cosqa["items"] == items
    assert max(nl, code) / 100 < constant.score
    low, high = wilson_interval(round(code / 100 * items), items)
    assert low < constant.score < high, "and none of them is known to differ from it"


KIM = [
    (5.77, 11.24, 1.26),
    (17.90, 40.42, 2.00),
    (49.17, 59.37, 2.26),
    (6.47, 38.39, 1.75),
    (24.00, 30.20, 2.02),
    (11.24, 16.36, 1.57),
    (45.46, 47.85, 2.27),
    (38.39, 41.46, 2.23),
    (27.99, 19.74, 1.93),
    (4.34, 5.85, 1.00),
]
"""Kim et al. 2024, boxes with at least one operation (3,709 items): accuracies in %, and the half-width in points."""


@pytest.mark.parametrize(("base", "other", "half"), KIM)
def test_half_widths_of_differences_of_published_boxes_scores_are_reproduced(base, other, half):
    found = as_if_seeds_had_no_noise(unpaired(base, other, 3_709))
    assert 100 * found.half_width(0.05) == pytest.approx(half, abs=0.006)
    assert found.num_items == 0 and not found.paired


# ---------------------------------------------------------------------------- a slice of benchmarks/verdict/calibration


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks" / "verdict")
    return importlib.import_module("simulated")


SLICE = {
    "4 seeds": {"arms": 6, "looks": (4,)},
    "looks": {"arms": 6, "looks": (2, 4, 8), "best": 2, "noise": 3.0},
    "unequal": {"arms": 6, "looks": (4,), "noise": 3.0, "spread": 3.0, "reference_last": True},
    "tasks": {"arms": 3, "looks": (4,), "tasks": 4},
}


def is_contradicted(simulated, settings: dict, sweeps: int) -> bool:
    """True if so many simulated sweeps show that more than 5 % of those without an effect claim one."""
    rng, shape = np.random.default_rng(1), simulated.Shape(**settings)
    false = sum(bool(simulated.outcome(shape, rng).words) for _ in range(sweeps))
    return wilson_interval(false, sweeps)[0] > 0.05


@pytest.mark.parametrize(
    "name", ["looks", "tasks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("4 seeds", "unequal"))]
)
def test_a_verdict_claims_a_difference_in_at_most_five_percent_of_sweeps_without_one(simulated, name):
    assert not is_contradicted(simulated, SLICE[name], 80)


@pytest.mark.parametrize("name", [pytest.param("4 seeds", marks=pytest.mark.slow), "tasks"])
def test_verdicts_without_a_correction_would_be_caught(simulated, monkeypatch, name):
    def uncorrected(p_values, seeds, look):
        return {one: Corrected(p, 0.05, p <= 0.05) for one, p in p_values.items()}

    monkeypatch.setattr(simulated, "holm_at_look", uncorrected)
    assert is_contradicted(simulated, SLICE[name], 80)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_every_shape_of_the_calibration_keeps_the_promise(simulated):
    calibration = importlib.import_module("calibration")
    false = {one: calibration.num_false(one, calibration.sweeps_of(one, 1000)) for one in calibration.cases()}
    kept = {one.name: calibration.is_kept(number, calibration.sweeps_of(one, 1000)) for one, number in false.items()}
    assert all(kept[one.name] for one in false if one.is_promised), kept
