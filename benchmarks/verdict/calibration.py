"""The verdict on simulated sweeps: how often it claims a difference where none is, and sees one that is there.

    python benchmarks/verdict/calibration.py [--sweeps 1000] [--seed 0] [--processes 1] [--out FILE]

All verdicts come from the functions of `raycodellm.statistics` that the product calls; some sweeps go the whole way
from rows of trials through `raycodellm.verdict`. `simulated.py` says how a sweep is drawn. Exits with 1 if the verdict
claims more than 5 % falsely in a shape, beyond the noise of the simulation. Some minutes on one core.
"""

from __future__ import annotations

import statistics
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "data"))

import numpy as np
import whole_path
from _common import finish, header, parser, table
from simulated import Shape, old_rules, outcome

from raycodellm.statistics import wilson_interval

ALPHA = 0.05
LOOKS = (2, 4, 8)


class Case(NamedTuple):
    """One line of the table of false claims."""

    name: str
    shape: Shape
    whole_path: bool = False


def cases() -> list[Case]:
    """All shapes in which a claim is false."""
    grid_cases = [
        Case(f"{arms} arms × {seeds} seeds, noise {noise:g}", Shape(arms, (seeds,), noise=noise))
        for arms in (2, 6, 12)
        for seeds in (2, 4, 8)
        for noise in (0.3, 3.0)
    ]
    six, looks = Shape(6, (4,)), Shape(6, LOOKS)
    return [
        *grid_cases,
        Case("6 arms, looks at 2, 4, 8 seeds", looks),
        Case("6 arms, looks at 2, 4, 8 seeds, noise 3", replace(looks, noise=3.0)),
        Case("best 2 of 6 arms, looks at 2, 4, 8", replace(looks, best=2)),
        Case("best 2 of 6 arms, looks at 2, 4, 8, noise 3", replace(looks, best=2, noise=3.0)),
        Case("best 3 of 12 arms, looks at 2, 4, 8", Shape(12, LOOKS, best=3)),
        Case("best 2 of 6 arms, looks at 2, 4, 8, 9 tasks", replace(looks, best=2, tasks=9)),
        Case("6 arms × 4 seeds, 9 tasks", replace(six, tasks=9)),
        Case("6 arms × 4 seeds, no correlation of arms", replace(six, correlation=0.0)),
        Case("6 arms × 4 seeds, no correlation, noise 3", replace(six, correlation=0.0, noise=3.0)),
        Case("6 arms × 4 seeds of their own", replace(six, has_shared_seeds=False)),
        Case("6 arms × 4 seeds, right or wrong, 100 items", replace(six, right_or_wrong=True, items=100)),
        Case("6 arms × 4 seeds, right or wrong, 22 items", replace(six, right_or_wrong=True, items=22)),
        *_unequal(),
        *_at_the_margin(),
        Case("best 2 of 6, looks at 2, 4, 8: `verdict.looks`", replace(looks, best=2), whole_path=True),
        Case("6 arms × 4 replicates: `verdict.findings`", six, whole_path=True),
    ]


def _unequal() -> list[Case]:
    """Arms whose noise differs: the last one's is three times the first one's."""
    unequal_cases = []
    for arms, seeds in ((6, 4), (12, 4)):
        quiet = Shape(arms, (seeds,), noise=3.0, spread=3.0)
        name = f"{arms} arms × {seeds} seeds, noise 3 to 9"
        unequal_cases.append(Case(f"{name}, reference quiet", quiet))
        unequal_cases.append(Case(f"{name}, reference noisy", replace(quiet, reference_last=True)))
    unshared = Shape(6, (4,), noise=3.0, spread=3.0, has_shared_seeds=False)
    unequal_cases.append(
        Case("6 arms × 4 seeds of their own, noise 3 to 9, reference noisy", replace(unshared, reference_last=True))
    )
    unequal_cases += [
        Case(case.name + ", code ratios unknown", replace(case.shape, has_places=False))
        for case in unequal_cases
        if case.shape.has_shared_seeds
    ]
    looks = Shape(6, LOOKS, noise=3.0, spread=3.0, has_places=False)
    for is_last, name in ((False, "quiet"), (True, "noisy")):
        name = f"6 arms, looks at 2, 4, 8, noise 3 to 9, reference {name}, code ratios unknown"
        unequal_cases.append(Case(name, replace(looks, reference_last=is_last)))
    return unequal_cases


def _at_the_margin() -> list[Case]:
    """Arms that all differ from the reference by just the margin, so that "equal" is a false claim, and "worse"."""
    margin_cases = []
    for name, shape in (
        ("6 arms × 8 seeds", Shape(6, (8,))),
        ("6 arms, looks at 2, 4, 8", Shape(6, LOOKS)),
        ("2 arms, looks at 2, 4, 8", Shape(2, LOOKS)),
    ):
        for factor in (0.5, 2.0):
            margin = factor * shape.sd_of_difference
            margin_cases.append(Case(f"{name}, differing by the margin, {factor:g} SD", replace(shape, margin=margin)))
    return margin_cases


def num_false(case: Case, sweeps: int, seed: int = 0) -> int:
    """Sweeps of so many that claim something false; each case draws its own random numbers."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), seed])
    if case.whole_path:
        return sum(whole_path.claims(case.shape, rng) for _ in range(sweeps))
    true = {"better"} if case.shape.margin is not None else set()
    return sum(bool({*outcome(case.shape, rng).words.values()} - true) for _ in range(sweeps))


def sweeps_of(case: Case, sweeps: int) -> int:
    return max(1, sweeps // 4) if case.whole_path else sweeps


def is_kept(number: int, sweeps: int) -> bool:
    """True unless so many false claims contradict that they are at most 5 %."""
    return wilson_interval(number, sweeps)[0] <= ALPHA


class Power(NamedTuple):
    """One line of the table of power: a shape, and its effect in standard deviations of a difference over seeds."""

    name: str
    shape: Shape
    effects: Sequence[float]


def power_lines() -> list[Power]:
    effects = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    base_shape = Shape(2, (2,), noise=10.0)  # the seeds are nearly all the noise
    shapes = {
        "2 arms × 2 seeds": base_shape,
        "2 arms × 4 seeds": replace(base_shape, looks=(4,)),
        "2 arms × 8 seeds": replace(base_shape, looks=(8,)),
        "6 arms × 2 seeds": replace(base_shape, arms=6),
        "6 arms × 4 seeds": replace(base_shape, arms=6, looks=(4,)),
        "6 arms × 8 seeds": replace(base_shape, arms=6, looks=(8,)),
        "6 arms × 2 seeds, code ratios unknown": replace(base_shape, arms=6, has_places=False),
        "6 arms × 4 seeds, code ratios unknown": replace(base_shape, arms=6, looks=(4,), has_places=False),
        "6 arms × 8 seeds, code ratios unknown": replace(base_shape, arms=6, looks=(8,), has_places=False),
        "2 arms, looks at 2, 4, 8": replace(base_shape, looks=LOOKS),
        "3 arms, looks at 2, 4, 8": replace(base_shape, arms=3, looks=LOOKS),
    }
    return [Power(name, shape, effects) for name, shape in shapes.items()]


def power_of(shape: Shape, sweeps: int, seed: int = 1) -> tuple[float, float]:
    """Share of sweeps that call the second arm better, and the mean number of seeds that it took."""
    rng = np.random.default_rng(seed)
    outcomes = [outcome(shape, rng) for _ in range(sweeps)]
    share = statistics.fmean(simulated.words.get((1, 0)) == "better" for simulated in outcomes)
    return share, statistics.fmean(simulated.seeds[1] for simulated in outcomes)


def _false_line(task: tuple[Case, int, int]) -> tuple[str, int, int]:
    case, sweeps, seed = task
    number = num_false(case, sweeps_of(case, sweeps), seed)
    print(f"{case.name}: {number} of {sweeps_of(case, sweeps)}", file=sys.stderr, flush=True)
    return case.name, number, sweeps_of(case, sweeps)


def _power_line(task: tuple[Power, int]) -> list[str]:
    line, sweeps = task
    shares_and_seeds = [
        power_of(replace(line.shape, effect=effect * line.shape.sd_of_difference), sweeps) for effect in line.effects
    ]
    return [line.name, *(f"{100 * share:.0f} % ({seeds:.1f})" for share, seeds in shares_and_seeds)]


def _old_line(task: tuple[Shape, int]) -> list[str]:
    shape, sweeps = task
    rng = np.random.default_rng(2)
    claims = [old_rules(shape, rng) for _ in range(sweeps)]
    num_new = sum(bool(outcome(shape, rng).words) for _ in range(sweeps))
    shares = [sum(claims_by_rule[rule] for claims_by_rule in claims) for rule in claims[0]]
    name = f"{shape.arms} arms × {shape.looks[-1]} seeds, noise {shape.noise:g}"
    return [name, *(f"{100 * share / sweeps:.1f} %" for share in (*shares, num_new))]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--sweeps", type=int, default=1000, help="of each shape")
    arguments.add_argument("--seed", type=int, default=0, help="another one draws other sweeps without an effect")
    arguments.add_argument("--processes", type=int, default=1)
    options = arguments.parse_args()
    sweeps = options.sweeps
    text = header("Verdicts on simulated sweeps", "numpy", "scipy")
    with ProcessPoolExecutor(options.processes) as pool:
        false = list(pool.map(_false_line, [(case, sweeps, options.seed) for case in cases()]))
        old_shapes = [Shape(6, (seeds,), noise=noise) for noise in (0.3, 3.0) for seeds in (2, 4)]
        old_lines = list(pool.map(_old_line, [(shape, max(1, sweeps // 2)) for shape in old_shapes]))
        power = list(pool.map(_power_line, [(line, max(1, sweeps // 5)) for line in power_lines()]))
    lines = []
    for name, count, num_sweeps in false:
        low, high = (100 * end for end in wilson_interval(count, num_sweeps))
        lines.append([name, num_sweeps, f"{100 * count / num_sweeps:.1f} %", f"{low:.1f} to {high:.1f} %"])
    text += "\n" + table(["no effect: shape", "sweeps", "claim falsely", "95 %"], lines)
    rules = ["items alone, one seed", "5 % each, no correction", "Tukey, all to the best", "verdict"]
    text += "\n" + table(["no effect: claims by rule", *rules], old_lines)
    columns = ["power (seeds) at an effect of", *(f"{effect:g}" for effect in power_lines()[0].effects)]
    text += "\n" + table(columns, power)
    finish(text, options.out)
    broken = [name for name, count, num_sweeps in false if not is_kept(count, num_sweeps)]
    if broken:
        print(f"more than 5 % of false claims: {'; '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
