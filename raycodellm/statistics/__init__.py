"""Intervals over evaluation items, noise between seeds, and differences between arms: functions of plain values."""

from raycodellm.statistics.arms import ArmMeasurements, mean_of_samples, pareto_front
from raycodellm.statistics.corrections import ERROR, Corrected, holm, holm_at_look, look_errors, spent_errors
from raycodellm.statistics.differences import Difference, difference
from raycodellm.statistics.intervals import (
    UNKNOWN,
    Z95,
    Interval,
    Variance,
    correlations,
    mean_interval,
    mean_of_intervals,
    mean_variance,
    paired_difference,
    student_quantile,
    wilson_interval,
)
from raycodellm.statistics.order_agreement import OrderAgreement, order_agreement
from raycodellm.statistics.pairs import McNemar, mcnemar, paired_bootstrap
from raycodellm.statistics.power import items_to_tell, power, seeds_to_tell
from raycodellm.statistics.samples import Sample, TaskSample
from raycodellm.statistics.seed_variance import SeedScores, SeedVariance, variance_between_seeds
from raycodellm.statistics.seeds import (
    Scores,
    SeedDifference,
    SeedNoise,
    half_width,
    range_quantile,
    seed_difference,
    seed_noise,
)
from raycodellm.statistics.size_trend import FEWEST_SIZES, SizeTrend, size_trend
from raycodellm.statistics.spread import FEWEST_SEEDS, deviation, deviation_ratio
from raycodellm.statistics.trend import quadratic_band
from raycodellm.statistics.words import Word, verdict_word

__all__ = [
    "ERROR",
    "FEWEST_SEEDS",
    "FEWEST_SIZES",
    "UNKNOWN",
    "Z95",
    "ArmMeasurements",
    "Corrected",
    "Difference",
    "Interval",
    "McNemar",
    "OrderAgreement",
    "Sample",
    "Scores",
    "SeedDifference",
    "SeedNoise",
    "SeedScores",
    "SeedVariance",
    "SizeTrend",
    "TaskSample",
    "Variance",
    "Word",
    "correlations",
    "deviation",
    "deviation_ratio",
    "difference",
    "half_width",
    "holm",
    "holm_at_look",
    "items_to_tell",
    "look_errors",
    "mcnemar",
    "mean_interval",
    "mean_of_intervals",
    "mean_of_samples",
    "mean_variance",
    "order_agreement",
    "paired_bootstrap",
    "paired_difference",
    "pareto_front",
    "power",
    "quadratic_band",
    "range_quantile",
    "seed_difference",
    "seed_noise",
    "seeds_to_tell",
    "size_trend",
    "spent_errors",
    "student_quantile",
    "variance_between_seeds",
    "verdict_word",
    "wilson_interval",
]
