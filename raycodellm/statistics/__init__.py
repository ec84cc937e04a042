"""Intervals over evaluation items, noise between seeds, and differences between arms: functions of plain values."""

from raycodellm.statistics.arms import ArmMeasurements, mean_of_samples, pareto_front
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
from raycodellm.statistics.samples import Sample, TaskSample
from raycodellm.statistics.seeds import (
    Difference,
    Scores,
    SeedNoise,
    half_width,
    range_quantile,
    seed_difference,
    seed_noise,
)
from raycodellm.statistics.trend import quadratic_band

__all__ = [
    "UNKNOWN",
    "Z95",
    "ArmMeasurements",
    "Difference",
    "Interval",
    "Sample",
    "Scores",
    "SeedNoise",
    "TaskSample",
    "Variance",
    "correlations",
    "half_width",
    "mean_interval",
    "mean_of_intervals",
    "mean_of_samples",
    "mean_variance",
    "paired_difference",
    "pareto_front",
    "quadratic_band",
    "range_quantile",
    "seed_difference",
    "seed_noise",
    "student_quantile",
    "wilson_interval",
]
