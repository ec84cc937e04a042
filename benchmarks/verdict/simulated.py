"""Simulated sweeps: scores of arms by seed, with the items that they are means of, and what is claimed of them.

A score is the mean over items of answers: answer = item + the arm's own effect on the item + the seed's effect on all
arms + the seed's effect on the arm + noise of the single answer. Over all possible items the true means are equal, but
for the arm that has an effect. The unit of scores is the standard error of a score over its items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from raycodellm.statistics import (
    ArmMeasurements,
    Difference,
    TaskSample,
    Word,
    difference,
    holm_at_look,
    mean_variance,
    seed_noise,
    student_quantile,
    verdict_word,
)

ANSWER_NOISE = 0.5
"""Standard error of a score by the noise of its single answers, which are other ones at each seed."""
ITEM_SPREAD = 2.0
"""How much harder some items are than others, for all arms alike."""


@dataclass(frozen=True)
class Shape:
    """A sweep without an effect, unless `effect` is one."""

    arms: int
    """The reference included."""
    looks: tuple[int, ...]
    """Fresh seeds per arm at each look."""
    best: int | None = None
    """Arms that a search with one seed chooses for the confirmation; None: all arms, without a search before."""
    items: int = 50
    """Items of each task."""
    tasks: int = 1
    """Two tasks' effects of seeds have a correlation of 0.5."""
    noise: float = 1.0
    """Standard deviation between seeds, of the quietest arm, over the standard error over items."""
    correlation: float = 0.8
    """Correlation of two arms' effects over shared seeds."""
    spread: float = 1.0
    """Standard deviation between seeds of the last arm over that of the first, in equal steps of their logarithm."""
    has_places: bool = True
    """True if the arms' code ratios are known, from 0 to 1, which tell whose noise is alike."""
    reference_last: bool = False
    """True if the last arm, the noisiest one, is the reference."""
    has_shared_seeds: bool = True
    """False if each arm has its own seeds."""
    right_or_wrong: bool = False
    """True if an answer is right (1) or wrong (0)."""
    effect: float = 0.0
    """Difference by which the second arm is better."""
    margin: float | None = None
    """Every arm but the reference is better by just so much, and arms are equal within it; None for no margin."""

    @property
    def reference(self) -> int:
        return self.arms - 1 if self.reference_last else 0

    @property
    def sd_of_difference(self) -> float:
        """Standard deviation, from seed to seed, of the difference of the quietest arms over shared seeds."""
        return math.sqrt(2 * (self.noise**2 * (1 - self.correlation) + ANSWER_NOISE**2))


def own_effects(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Each task's, arm's and item's effect, the same for all seeds."""
    root = math.sqrt(shape.items)
    shared = rng.normal(0, ITEM_SPREAD * root, (shape.tasks, 1, shape.items))
    return shared + rng.normal(0, root, (shape.tasks, shape.arms, shape.items))


def answers(shape: Shape, seeds: int, effects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Answers by task, arm, seed and item, of fresh seeds."""
    size = (shape.tasks, shape.arms, seeds)
    scale = shape.noise * shape.spread ** np.linspace(0, 1, shape.arms)[None, :, None]
    shared = _effects(rng, (shape.tasks, 1, seeds)) * math.sqrt(shape.correlation if shape.has_shared_seeds else 0.0)
    single = _effects(rng, size) * math.sqrt(1 - shape.correlation if shape.has_shared_seeds else 1.0)
    noise = rng.normal(0, ANSWER_NOISE * math.sqrt(shape.items), (*size, shape.items))
    values = effects[:, :, None, :] + (scale * (shared + single))[..., None] + noise
    values[:, 1] += shape.effect
    values[:, [arm for arm in range(shape.arms) if arm != shape.reference]] += shape.margin or 0.0
    return (values > 0).astype(float) if shape.right_or_wrong else values


def _effects(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers with a correlation of 0.5 between tasks."""
    return (rng.normal(size=(1, *size[1:])) + rng.normal(size=size)) / math.sqrt(2)


@cache
def _numbers(items: int) -> np.ndarray:
    return np.arange(items)


def measured(shape: Shape, values: np.ndarray, arm: int, task: int = 0, first_seed: int = 0) -> ArmMeasurements:
    """The measurements of an arm, of answers by task, arm, seed and item."""
    first = first_seed if shape.has_shared_seeds else first_seed + 1_000 * arm
    rows = dict(enumerate(values[task, arm], start=first))
    return ArmMeasurements(
        {seed: float(row.mean()) for seed, row in rows.items()},
        {seed: [TaskSample([("task", _numbers(shape.items))], row)] for seed, row in rows.items()},
        None,
        place=arm / (shape.arms - 1) if shape.has_places else None,
    )


@dataclass(frozen=True)
class Outcome:
    """Claims on one simulated sweep."""

    words: Mapping[tuple[int, int], Word]
    """Maps (arm, task) to the verdict, where one is known."""
    seeds: Mapping[int, int]
    """Maps each arm that was compared with the reference to its number of fresh seeds."""


def outcome(shape: Shape, rng: np.random.Generator) -> Outcome:
    """Search, confirmation and verdicts of one sweep, look after look."""
    effects = own_effects(shape, rng)
    candidates = tuple(arm for arm in range(shape.arms) if arm != shape.reference)
    if shape.best is not None:
        searched = answers(shape, 1, effects, rng)[0].mean(axis=(1, 2))
        candidates = tuple(sorted(candidates, key=lambda arm: -searched[arm])[: shape.best])
    fresh = answers(shape, shape.looks[-1], effects, rng)
    words: dict[tuple[int, int], Word] = {}
    latest: dict[tuple[int, int], ArmMeasurements] = {}
    seeds_taken: dict[int, int] = {}
    for look, seeds in enumerate(shape.looks):
        open_arms = [arm for arm in candidates if any((arm, task) not in words for task in range(shape.tasks))]
        seeds_taken |= dict.fromkeys(open_arms, seeds)
        for task in range(shape.tasks):
            for arm in (shape.reference, *open_arms) if open_arms else ():
                latest[arm, task] = measured(shape, fresh[:, :, :seeds], arm, task)
        words |= _of_look(shape, look, latest, [(a, t) for a in open_arms for t in range(shape.tasks)], words)
    return Outcome(words, seeds_taken)


def _of_look(
    shape: Shape,
    look: int,
    latest: Mapping[tuple[int, int], ArmMeasurements],
    pairs: list[tuple[int, int]],
    known_words: Mapping[tuple[int, int], Word],
) -> dict[tuple[int, int], Word]:
    differences: dict[tuple[int, int], Difference] = {}
    for arm, task in pairs:
        if (arm, task) not in known_words:
            pool = [measurements for (_, other), measurements in latest.items() if other == task]
            differences[arm, task] = difference(latest[arm, task], latest[shape.reference, task], pool)
    corrected = holm_at_look(
        {pair: pair_difference.p_value() for pair, pair_difference in differences.items()}, shape.looks, look
    )
    words = {
        pair: verdict_word(pair_difference.interval(corrected[pair].level), "max", shape.margin)
        for pair, pair_difference in differences.items()
    }
    return {pair: word for pair, word in words.items() if word != "not known"}


def old_rules(shape: Shape, rng: np.random.Generator) -> dict[str, bool]:
    """Maps each of the rules that the verdict replaces to whether it claims something of one sweep."""
    values = answers(shape, shape.looks[-1], own_effects(shape, rng), rng)
    arms = [measured(shape, values, arm) for arm in range(shape.arms)]
    best = max(arms, key=lambda one: one.score)
    noise = seed_noise({number: one.scores for number, one in enumerate(arms)})
    each = [one.minus(arms[0], noise, 2) for one in arms[1:]]
    to_best = [one.minus(best, noise, len(arms)) for one in arms if one is not best]
    first = values[0, :, 0]
    by_items = [_differs_over_items(row - first[0]) for row in first[1:]]
    return {
        "items alone, one seed": any(by_items),
        "each arm at 5 %, no correction": any(one.low > 0 or one.high < 0 for one in each),
        "Tukey's range, all against the best": any(one.high < 0 for one in to_best),
    }


def _differs_over_items(gaps: np.ndarray) -> bool:
    variance = mean_variance([dict(enumerate(gaps.tolist()))])
    return bool(abs(gaps.mean()) > student_quantile(variance.degrees) * math.sqrt(variance.value))
