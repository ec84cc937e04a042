"""The joint findings of a ladder in sentences that claim no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm.config import Objective
from raycodellm.ladder.effects import ArmEffects, LadderResult
from raycodellm.ladder.folder import SizeFacts
from raycodellm.statistics import ERROR, FEWEST_SIZES, Interval, OrderAgreement
from raycodellm.tables import formats

LEVEL = f"{100 * (1 - ERROR):.0f} %"
MOST_ARMS = 6
"""Arms that the answer tells of one by one."""
NO_PREDICTION = "The ladder tells of its own sizes, and predicts nothing beyond them."
WHY_NO_PREDICTION = (
    "The ladder shows how effects move between its smallest and its largest size, and predicts no effect at a larger "
    "one. In DataDecide (Magnusson et al. 2025, 25 corpora, up to 1B parameters) none of eight scaling-law methods "
    "decided better between two corpora than the ranking at a single small size, which was right for about 80 % of "
    "pairs."
)
"""Limits of a ladder's answer, with the study that measured them."""


def size_text(size: SizeFacts) -> str:
    """`tiny (476 k)`."""
    return f"{size.preset} ({formats.count(size.parameters)})"


def answer(result: LadderResult) -> str:
    """Sentences that join the sizes on the first objective: one for each arm, then those on the arms' order."""
    if not result.objectives:
        return "No size has begun."
    metric = result.objectives[0].metric
    arms = [arm for arm in result.effects if arm.objective.metric == metric]
    if not arms:
        return "There is no effect yet: no size has a score of the reference and of another arm."
    sentences = [sentence(arm) for arm in arms[:MOST_ARMS]]
    if len(arms) > MOST_ARMS:
        sentences.append(f"The table below has the other {len(arms) - MOST_ARMS} arms.")
    sentences += [
        missing_trend_sentence(result),
        *(agreement_sentence(*agreement) for agreement in _furthest_agreement(result)),
        NO_PREDICTION,
    ]
    return " ".join(filter(None, sentences))


def sentence(arm: ArmEffects) -> str:
    """A sentence on the arm's effect: whether its sign is the same at all sizes, and how it moves."""
    return f"{_sign_sentence(arm)} {_trend_sentence(arm)}".strip()


def _sign_sentence(arm_effects: ArmEffects) -> str:
    arm = f"Arm {arm_effects.number} ({formats.params(arm_effects.params)})"
    metric, effects = arm_effects.objective.metric, arm_effects.effects
    sizes_by_word = {
        word: [effect.size for effect in effects if effect.word == word] for word in ("better", "worse", "equal")
    }
    if len(effects) < 2:
        return f"{arm} has a score in {metric} at {_sizes_text([effect.size for effect in effects])} alone."
    if sizes_by_word["better"] and sizes_by_word["worse"]:
        better, worse = _sizes_text(sizes_by_word["better"]), _sizes_text(sizes_by_word["worse"])
        return (
            f"{arm} changes sign in {metric}: better at {better}, worse at {worse}; the small size does not tell the "
            "large one."
        )
    for word, phrase in (("better", "better than"), ("worse", "worse than"), ("equal", "equal to")):
        if len(sizes_by_word[word]) == len(effects):
            return f"{arm} is {phrase} the reference in {metric} at all {len(effects)} sizes."
    phrases = [f"{word} at {_sizes_text(sizes)}" for word, sizes in sizes_by_word.items() if sizes]
    if phrases:
        undecided = [effect.size for effect in effects if effect.word not in sizes_by_word]
        undecided_text = f", not known at {_sizes_text(undecided)}" if undecided else ""
        finding = f"{arm} is {' and '.join(phrases)} in {metric}{undecided_text}"
        return f"{finding}: whether its sign is the same at all is not known."
    if any(effect.evidence is None for effect in effects):
        return f"{arm}: nothing is known of the noise between seeds in {metric}; use search.replicates: 2 or more."
    return f"{arm} cannot be told from the reference in {metric} at any of the {len(effects)} sizes."


def _trend_sentence(arm: ArmEffects) -> str:
    if arm.trend is None:
        return ""
    slope = arm.trend.slope
    value = f"{slope.value:+.3f} ({LEVEL}: {formats.signed_interval(slope.low, slope.high)})"
    if not arm.trend.is_straight:
        return f"Its effects lie on no straight line over size: {value} per tenfold size is no summary of them."
    if slope.low > 0 or slope.high < 0:
        return f"Its effect moves by {value} per tenfold size, {_direction_text(arm)}."
    return f"That its effect moves with size is not known: {value} per tenfold size."


def _direction_text(arm: ArmEffects) -> str:
    """Words for the slope: whether larger models gain or lose by the arm."""
    assert arm.trend is not None
    helps = (arm.trend.slope.value < 0) == (arm.objective.mode == "min")
    return "in favour of the arm" if helps else "against the arm"


def missing_trend_sentence(result: LadderResult) -> str:
    """A sentence on what a trend still needs; empty if each arm has a trend."""
    metric = result.objectives[0].metric
    arms = [arm for arm in result.effects if arm.objective.metric == metric]
    if all(arm.trend is not None for arm in arms):
        return ""
    if len(result.sizes) < FEWEST_SIZES:
        return f"A trend over size needs {FEWEST_SIZES} sizes: add presets to the ladder."
    if any(effect.evidence is None or not effect.evidence.is_known for arm in arms for effect in arm.effects):
        return "A trend over size needs the noise between seeds at every size: search.replicates, or search.confirm."
    without_trend = [arm.number for arm in arms if arm.trend is None]
    return (
        f"Arm {', '.join(map(str, without_trend))} has no trend: it needs scores at {FEWEST_SIZES} sizes, confirmed "
        "ones with a confirmation."
    )


def _furthest_agreement(result: LadderResult) -> list[tuple[SizeFacts, SizeFacts, OrderAgreement]]:
    """The agreement of the smallest size with the largest; empty if no two sizes can be compared."""
    return max(
        ([agreement] for agreement in result.agreements),
        key=lambda agreement: agreement[0][1].parameters / agreement[0][0].parameters,
        default=[],
    )


def agreement_sentence(small: SizeFacts, large: SizeFacts, agreement: OrderAgreement) -> str:
    """How many pairs of arms two sizes order alike."""
    pairs = f"{agreement.alike} of {agreement.num_pairs} pairs of arms"
    return f"{size_text(small)} and {size_text(large)} put {pairs} into the same order: {share_text(agreement)}."


def share_text(agreement: OrderAgreement) -> str:
    """`33 % (95 %: 0 to 67 %)`."""
    value, low, high = (round(100 * end) for end in agreement.share)
    return f"{value} % ({LEVEL}: {low} to {high} %)"


def _sizes_text(sizes: Sequence[SizeFacts]) -> str:
    return ", ".join(size_text(size) for size in sizes) or "no size"


def interval_text(interval: Interval, is_signed: bool = True) -> str:
    """`-0.012 (-0.020 to -0.004)`; without the interval where that is not known."""
    value = f"{interval.value:+.3f}" if is_signed else formats.score(interval.value)
    bounds = (formats.signed_interval if is_signed else formats.interval)(interval.low, interval.high)
    return value if bounds == formats.NOTHING else f"{value} ({bounds})"


def axis_title(objective: Objective) -> str:
    """The title of the axis of effects."""
    side = "below" if objective.mode == "min" else "above"
    return f"{objective.metric}, arm minus reference ({side} 0 the arm is better)"
