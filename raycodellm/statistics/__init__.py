"""How sure one can be: intervals over evaluation items, noise between seeds, differences between arms."""

from raycodellm.statistics.intervals import (
    UNKNOWN,
    Z95,
    Interval,
    Sample,
    Variance,
    correlations,
    mean_interval,
    mean_of_intervals,
    mean_variance,
    student_quantile,
    wilson_interval,
)
from raycodellm.statistics.seeds import (
    Difference,
    Scores,
    SeedNoise,
    half_width,
    range_quantile,
    seed_difference,
    seed_noise,
)

__all__ = [
    "UNKNOWN",
    "Z95",
    "Difference",
    "Interval",
    "Sample",
    "Scores",
    "SeedNoise",
    "Variance",
    "correlations",
    "half_width",
    "mean_interval",
    "mean_of_intervals",
    "mean_variance",
    "range_quantile",
    "seed_difference",
    "seed_noise",
    "student_quantile",
    "wilson_interval",
]
