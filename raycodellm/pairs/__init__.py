"""Compares pairs of given models over the same items: differences, tests, and what may be claimed of all pairs at once.

All uncertainty here is that of the evaluation's items. No training seed is behind a given model, so nothing here says
what another training by the same recipe would give.
"""

from raycodellm.pairs.differences import Gap, compare, differences, tested_metrics
from raycodellm.pairs.names import short_names
from raycodellm.pairs.words import word

__all__ = ["Gap", "compare", "differences", "short_names", "tested_metrics", "word"]
