"""How often `raycodellm suggest` is right: made sweeps whose truth is known.

    python benchmarks/search/suggestions.py [--fresh | --newest] [--sweeps 240] [--arms 16] [--first 0] [--rows FILE]

Each made sweep has its own truth over mixtures of four sources within bounds, from one of five families: a data-mixing
law, a quadratic with its best inside, a law with roots and saturation, a rough surface that no form has, and no effect
at all. The constants of the posterior were chosen on these. `--fresh` takes five others, which were written when the
constants stood; they showed that kinks and narrow bumps were covered too seldom, so that rough processes were added to
the posterior. `--newest` takes five that were written after that, and on which nothing was changed.

Seeds add noise of 0.25, 0.5 or 1 standard deviations of the truth over the space. Every second sweep has a reference,
the others are compared with their best measured arm. Counted: how often the 90 % interval of the predicted best's
difference covers the true difference, how often the command says to move, how often that is wrong, and the share of the
space where the 90 % band of the surface covers it. All random numbers are fixed. Half a second of one core per sweep;
`--first` and `--rows` share the work among processes, `--out` writes the table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))

import numpy as np
from _common import finish, header, parser, table

from raycodellm import config, regression
from raycodellm.regression.space_points import RandomAsker
from raycodellm.search.space import sample
from raycodellm.statistics import wilson_interval

SWEEP = """
name: made
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  web: {kind: text, path: "builtin:python-prose"}
  code: {kind: code, path: "builtin:python-code"}
  math: {kind: math, path: "builtin:tasks-instruct"}
  formal: {kind: synthetic_code, path: "builtin:formal-language"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    weights: {search: {simplex: {web: [0, 1], code: [0, 0.6], math: [0, 0.5], formal: [0, 0.5]}}}
evaluation: {tasks: [boxes]}
search: {trials: 20, sampler: random}
"""
SOURCES = tuple(f"pretrain.weights.{name}" for name in ("web", "code", "math", "formal"))
REFERENCE = dict(zip(SOURCES, (0.55, 0.2, 0.15, 0.1), strict=True))
NOISES = (0.25, 0.5, 1.0)
Truth = Callable[[np.ndarray], np.ndarray]
"""Mixtures of shape (points, 4) -> scores, lower is better."""


def law(rng: np.random.Generator) -> Truth:
    """The data-mixing law of Ye et al. 2024: c + exp(b + Σ w·x)."""
    slopes = rng.normal(0, 1.5, 4)
    return lambda x: np.exp(x @ slopes)


def quadratic(rng: np.random.Generator) -> Truth:
    """A bowl with its lowest point at a mixture of the space."""
    centre, widths = rng.dirichlet([2.0] * 4), rng.uniform(0.5, 2, 4)
    return lambda x: (x - centre) ** 2 @ widths


def saturating(rng: np.random.Generator) -> Truth:
    """Each source helps by its root, two sources together hurt."""
    gains, hurt = rng.exponential(1.0, 4), rng.uniform(0, 4)
    first, second = rng.choice(4, 2, replace=False)
    return lambda x: np.exp(-np.sqrt(x) @ gains) + hurt * x[:, first] * x[:, second]


def rough(rng: np.random.Generator) -> Truth:
    """Waves in random directions: half a period to one and a half across the space."""
    directions, phases, heights = rng.normal(0, 3.0, (4, 4)), rng.uniform(0, 6.3, 4), rng.normal(0, 1, 4)
    return lambda x: np.sin(x @ directions + phases) @ heights


def none(rng: np.random.Generator) -> Truth:
    """No effect."""
    return lambda x: np.zeros(len(x))


FAMILIES = {one.__name__: one for one in (law, quadratic, saturating, rough, none)}


def threshold(rng: np.random.Generator) -> Truth:
    """Each source helps from a certain weight on, and no further than another."""
    places, steepness, gains = rng.uniform(0.05, 0.4, 4), rng.uniform(10, 40, 4), rng.exponential(1.0, 4)
    return lambda x: -(1 / (1 + np.exp(-(x - places) * steepness))) @ gains


def balance(rng: np.random.Generator) -> Truth:
    """Logarithms of the weights: every source is dearly missed when it is nearly gone."""
    shares = rng.dirichlet([1.0] * 4)
    return lambda x: -np.log(x + 0.02) @ shares


def weakest(rng: np.random.Generator) -> Truth:
    """The worst of six tasks, each of which is linear in the weights: a surface of planes with kinks."""
    levels, slopes = rng.normal(0, 0.5, 6), rng.normal(0, 2.0, (4, 6))
    return lambda x: np.max(x @ slopes + levels, axis=1)


def valley(rng: np.random.Generator) -> Truth:
    """One direction alone matters, with its best inside and a kink there."""
    direction, centre = rng.normal(0, 1, 4), rng.dirichlet([2.0] * 4)
    return lambda x: np.abs((x - centre) @ direction)


def bumps(rng: np.random.Generator) -> Truth:
    """Three good places, each as wide as a fifth of the space."""
    centres, depths = rng.dirichlet([1.0] * 4, 3), rng.uniform(0.3, 1.0, 3)
    return lambda x: -np.exp(-((x[:, None, :] - centres) ** 2).sum(axis=2) / (2 * 0.2**2)) @ depths


FRESH = {one.__name__: one for one in (threshold, balance, weakest, valley, bumps)}


def cliff(rng: np.random.Generator) -> Truth:
    """A slope, and a step down behind a plane through the space."""
    slope, direction, place = rng.normal(0, 1, 4), rng.normal(0, 1, 4), rng.dirichlet([3.0] * 4)
    height = rng.uniform(0.5, 1.5)
    return lambda x: x @ slope - height * ((x - place) @ direction > 0)


def cones(rng: np.random.Generator) -> Truth:
    """The distance to the nearer of two mixtures, of which one is a little better."""
    centres, levels = rng.dirichlet([1.0] * 4, 2), np.array([0.0, rng.uniform(0, 0.3)])
    return lambda x: np.min(np.linalg.norm(x[:, None, :] - centres, axis=2) + levels, axis=1)


def tree(rng: np.random.Generator) -> Truth:
    """Eight levels, by three questions on one source's weight each."""
    sources, cuts, levels = rng.integers(0, 4, 7), rng.uniform(0.1, 0.4, 7), rng.normal(0, 1, 8)

    def leaves(x: np.ndarray) -> np.ndarray:
        node = np.zeros(len(x), dtype=int)
        for _ in range(3):
            node = 2 * node + 1 + (x[np.arange(len(x)), sources[node]] > cuts[node])
        return levels[node - 7]

    return leaves


def plateau(rng: np.random.Generator) -> Truth:
    """A slope in one direction that ends where nothing more is gained."""
    direction, place = rng.normal(0, 1, 4), rng.dirichlet([3.0] * 4)
    return lambda x: np.maximum((x - place) @ direction, -0.05)


def proportion(rng: np.random.Generator) -> Truth:
    """How far the proportion of two sources is from the right one, and a little of a third."""
    first, second, third = rng.choice(4, 3, replace=False)
    right, gain = rng.normal(0, 1), rng.exponential(1.0)
    return lambda x: (np.log((x[:, first] + 0.05) / (x[:, second] + 0.05)) - right) ** 2 - gain * x[:, third]


NEWEST = {one.__name__: one for one in (cliff, cones, tree, plateau, proportion)}


def made_sweep(number: int, num_arms: int, families: dict[str, Callable[[np.random.Generator], Truth]]) -> dict:
    """The command's prediction for one made sweep, beside the truth."""
    family = list(families)[number % len(families)]
    noise, has_reference = NOISES[number // 5 % 3], number // 15 % 2 == 0
    rng = np.random.default_rng([7, number])
    file = config.parse(SWEEP)
    asker = RandomAsker(rng, at_an_end=0.0)
    points = [dict(REFERENCE), *(sample(file, asker) for _ in range(num_arms - 1))]
    truth, space = families[family](rng), [sample(file, asker) for _ in range(500)]

    def true(given: list[dict]) -> np.ndarray:
        return truth(np.array([[point[name] for name in SOURCES] for point in given]))

    deviation = float(np.std(true(space))) or 1.0
    scores = true(points) / deviation + noise * rng.normal(size=num_arms)
    reference = 0 if has_reference else None
    suggestion = regression.suggestion(file, points, list(scores), "min", reference, 3, compares_forms=False)
    row = {"family": family, "noise": noise, "reference": has_reference, "predicts": suggestion.difference is not None}
    encoding = regression.Encoding.of(file, points)
    posterior = regression.Posterior.of(encoding.matrix(points), scores, encoding.is_amount)
    band, surface = posterior.band(encoding.matrix(space[:200])), true(space[:200]) / deviation
    row["surface_covers"] = float(np.mean((band.low - 1e-9 <= surface) & (surface <= band.high + 1e-9)))
    if suggestion.difference is None or suggestion.best is None:
        return {**row, "moves": False}
    stay = points[suggestion.stay_arm]
    at_best, at_stay = true([dict(suggestion.best.params), stay]) / deviation
    value, low, high = suggestion.difference
    measured_score = at_best + noise * rng.normal()
    return {
        **row,
        "moves": suggestion.moves,
        "value": value,
        "true": at_best - at_stay,
        "covers": bool(low - 1e-9 <= at_best - at_stay <= high + 1e-9),
        "width": high - low,
        "score_covers": bool(suggestion.best.low <= measured_score <= suggestion.best.high),
        "regret": at_best - float(np.min(true(space))) / deviation,
    }


def share(flags: list[bool]) -> str:
    """The share of true ones with its 95 % interval (Wilson)."""
    if not flags:
        return "–"
    low, high = wilson_interval(sum(flags), len(flags))
    return f"{sum(flags)} of {len(flags)} ({low:.0%} to {high:.0%})"


def summary(rows: list[dict]) -> list[list]:
    """One line per family, then all that have an effect."""
    groups = {
        name: [row for row in rows if row["family"] == name] for name in dict.fromkeys(row["family"] for row in rows)
    }
    groups["all with an effect"] = [row for row in rows if row["family"] != "none"]
    lines = []
    for name, of_group in groups.items():
        predicted = [row for row in of_group if row["predicts"]]
        moved = [row for row in of_group if row["moves"]]
        lines.append(
            [
                name,
                len(of_group),
                len(predicted),
                share([row["covers"] for row in predicted]),
                share([row["score_covers"] for row in predicted]),
                f"{np.mean([row['surface_covers'] for row in of_group]):.0%}" if of_group else "–",
                f"{np.median([row['width'] for row in predicted]):.2f}" if predicted else "–",
                f"{np.mean([row['value'] - row['true'] for row in predicted]):+.2f}" if predicted else "–",
                f"{np.mean([row['true'] for row in predicted]):+.2f}" if predicted else "–",
                share([row["moves"] for row in of_group]),
                share([row["true"] >= 0 for row in moved]),
            ]
        )
    return lines


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sweeps", type=int, default=240)
    options.add_argument("--fresh", action="store_true", help="families that were written when the constants stood")
    options.add_argument("--newest", action="store_true", help="families on which nothing was changed")
    options.add_argument("--arms", type=int, default=16)
    options.add_argument("--first", type=int, default=0, help="number of the first sweep")
    options.add_argument("--rows", type=Path, nargs="*", default=[], help="adds these rows; with one, keeps own there")
    arguments = options.parse_args()
    rows, families = [], NEWEST if arguments.newest else FRESH if arguments.fresh else FAMILIES
    for number in range(arguments.first, arguments.first + arguments.sweeps):
        rows.append(made_sweep(number, arguments.arms, families))
        if len(arguments.rows) == 1:
            arguments.rows[0].write_text("\n".join(map(json.dumps, rows)))
    if len(arguments.rows) > 1:
        rows += [json.loads(line) for path in arguments.rows for line in path.read_text().splitlines()]
    columns = (
        "truth",
        "sweeps",
        "with a prediction",
        "90 % interval of the difference covers",
        "90 % interval of the score covers",
        "90 % bands of the surface cover",
        "median width",
        "value less truth",
        "true difference",
        "says move",
        "moves that are no better",
    )
    note = f"{arguments.arms} arms over 4 sources; differences in standard deviations of the truth over the space"
    text = header("Suggestions beside the truth", "scikit-learn", "numpy", notes=[note])
    finish(text + "\n" + table(columns, summary(rows)), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
