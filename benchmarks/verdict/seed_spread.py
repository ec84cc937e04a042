"""How often the interval of a ratio of two standard deviations between seeds holds the true ratio.

    python benchmarks/verdict/seed_spread.py [--draws 2000] [--out FILE]

Eleven arms as in `sweeps/study.yaml`: the four whose code ratio lies at an end of the range against the seven between.
Three of the four, and three of the seven, share their pre-training, so that their scores move together. The
interval of the F distribution, which takes the arms as independent, stands beside that of the product. A minute.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "data"))

import numpy as np
from _common import finish, header, parser, table
from scipy import stats

from raycodellm.statistics import deviation_ratio

ENDS, BETWEEN = (0, 0, 0, 1), (2, 3, 3, 3, 4, 5, 6)
"""The pre-training of each arm."""


class Shape(NamedTuple):
    """Standard deviations of what a seed does to all arms, to a pre-training, and to one arm."""

    name: str
    common: float
    pretraining: float
    own: float
    is_heavy: bool = False
    """True for Student's t with 5 degrees of freedom in the place of the normal distribution."""


SHAPES = (
    Shape("each arm on its own", 0.0, 0.0, 1.0),
    Shape("each arm on its own, heavy tails", 0.0, 0.0, 1.0, True),
    Shape("mostly the seed", 1.0, 0.0, 0.5),
    Shape("mostly the pre-training", 0.0, 1.0, 0.3),
    Shape("mostly the pre-training, heavy tails", 0.0, 1.0, 0.3, True),
    Shape("all alike", 0.5, 0.5, 0.5),
)
SEEDS = {"4": (4,) * 11, "8": (8,) * 11, "2 to 8, as looks leave them": (8, 2, 4, 8, 8, 8, 2, 2, 8, 4, 8)}


def drawn(shape: Shape, counts: tuple[int, ...], rng: np.random.Generator) -> tuple[list[dict], list[dict]]:
    """The scores by seed of the arms at the ends, and between."""

    def numbers(*size: int) -> np.ndarray:
        return rng.standard_t(5, size) / math.sqrt(5 / 3) if shape.is_heavy else rng.normal(size=size)

    max_seeds = max(counts)
    common, shared = shape.common * numbers(max_seeds), shape.pretraining * numbers(7, max_seeds)
    arms = [common + shared[arm] + shape.own * numbers(max_seeds) for arm in (*ENDS, *BETWEEN)]
    scores = [dict(enumerate(map(float, arm[:count]))) for arm, count in zip(arms, counts, strict=True)]
    return scores[: len(ENDS)], scores[len(ENDS) :]


def holds_by_f(group_a: list[dict], group_b: list[dict]) -> bool:
    """True if the 95 % interval of the F distribution holds 1."""
    sums = []
    for group in (group_a, group_b):
        values = [np.array(list(one.values())) for one in group]
        sums.append((sum(((one - one.mean()) ** 2).sum() for one in values), sum(len(one) - 1 for one in values)))
    (first, one), (second, other) = sums
    return bool(stats.f.ppf(0.025, one, other) <= first / one / (second / other) <= stats.f.ppf(0.975, one, other))


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--draws", type=int, default=2000, help="of each shape")
    options = arguments.parse_args()
    lines = []
    for seeds, counts in SEEDS.items():
        for shape in SHAPES:
            rng = np.random.default_rng(0)
            draws = [drawn(shape, counts, rng) for _ in range(options.draws)]
            found = [deviation_ratio(*one) for one in draws]
            strict = [deviation_ratio(*one, 0.995) for one in draws]
            alone = [deviation_ratio([one[0][3]], [*one[0][:3], *one[1]], 0.995) for one in draws]
            by_f = np.mean([holds_by_f(*one) for one in draws])
            wide = float(np.median([one.high / one.value for one in found]))
            shares = [np.mean([not (one.low > 1 or one.high < 1) for one in some]) for some in (found, strict, alone)]
            lines.append([seeds, shape.name, *(f"{100 * one:.1f} %" for one in shares), f"{wide:.2f}", f"{by_f:.1%}"])
    columns = [
        "seeds",
        "noise",
        "95 %: holds",
        "99.5 %: holds",
        "99.5 %, one arm: holds",
        "factor to its end",
        "F: 95 %",
    ]
    finish(
        header("The ratio of the noise of two groups of arms", "numpy", "scipy") + "\n" + table(columns, lines),
        options.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
