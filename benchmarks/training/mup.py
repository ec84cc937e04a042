"""Does the best learning rate of `tiny` serve wider presets? Measured under both parametrizations, by seed.

For each seed, parametrization and preset the rate is looked for on a grid of factors of two: from a start the search
goes both ways until the neighbours of the best rate are worse, of `tiny` two on each side. The rate that was best for
`tiny` with that seed is always among those tried. A parabola through the best point and its neighbours, over the
logarithm of the rate, gives the best rate between grid points. All rates of a seed see the same first weights (but
for their scale) and the same tokens. The loss is measured on held-out documents of the same corpora, prose and code
of Python's standard library.

The engine trains without Ray, one run after the other. Each run's result goes to `results.jsonl` in `--folder`; a
second call with the same settings goes on from there, and several calls with different `--seeds` may share a folder.

    nice python benchmarks/training/mup.py --folder mup                # some 25 minutes of one core a seed
    python benchmarks/training/mup.py --folder mup --only-table        # of what is there
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

PARAMETRIZATIONS = ("standard", "mup")
BASE = "tiny"
VOCAB, LENGTH, ROWS = 512, 64, 4
CHARACTERS, HELD_OUT_ROWS = 6_000_000, 256
GRID = range(-13, -1)
"""Exponents of two of the rates that may be tried."""
START = -6
"""Where the search of a seed's first preset begins."""


class Run(NamedTuple):
    preset: str
    parametrization: str
    exponent: int
    """The peak rate is two to this power."""
    seed: int


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="raycodellm-mup-") as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = Results(folder / "results.jsonl", options.steps)
        if not options.only_table:
            _measure(results, folder, options)
        _common.finish(report(results.losses, options), options.out)


def _options() -> Any:
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "mini", "midi", "nano"], help="narrowest first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=256, help=f"of {ROWS * LENGTH} tokens each")
    parser.add_argument("--only-table", action="store_true", help="train nothing")
    return parser.parse_args()


class Results:
    """Held-out loss of each run, in nats per token, kept in a file of JSON lines."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.losses: dict[Run, float] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            if row["steps"] == steps:
                self.losses[Run(*row["run"])] = row["loss"]

    def add(self, run: Run, loss: float, seconds: float) -> None:
        self.losses[run] = loss
        with self.path.open("a") as file:
            file.write(json.dumps({"run": list(run), "steps": self.steps, "loss": loss, "cpu_seconds": seconds}) + "\n")


# -------------------------------------------------------------------------------------------------------- the search


def _measure(results: Results, folder: Path, options: Any) -> None:
    import torch

    torch.set_num_threads(1)
    tokens = _tokens(folder)

    def loss_of(run: Run) -> float:
        if run not in results.losses:
            started_at = time.process_time()
            loss = train(run, tokens, options.steps)
            results.add(run, loss, time.process_time() - started_at)
            print(*run, f"{loss:.4f} after {time.process_time() - started_at:.0f} s", file=sys.stderr, flush=True)
        return results.losses[run]

    for seed in options.seeds:
        base = search(lambda exponent, seed=seed: loss_of(Run(BASE, "mup", exponent, seed)), [START], reach=2)
        for exponent in base:  # the same model under both, as a test of the package holds
            run = Run(BASE, "standard", exponent, seed)
            if run not in results.losses:
                results.add(run, base[exponent], 0.0)
        for parametrization in PARAMETRIZATIONS:
            best = _best(base)
            for preset in options.presets[1:]:

                def tried(exponent: int, key: tuple = (preset, parametrization), seed: int = seed) -> float:
                    return loss_of(Run(*key, exponent, seed))

                best = _best(search(tried, [_best(base), best]))


def search(loss_at: Any, starts: Sequence[int], reach: int = 1) -> dict[int, float]:
    """Losses by exponent, tried from the best start both ways until the best has `reach` worse neighbours on each
    side."""
    losses = {start: loss_at(start) for start in starts}
    while True:
        best = _best(losses)
        nearby = [best + sign * step for step in range(1, reach + 1) for sign in (-1, 1)]
        missing = [near for near in nearby if near not in losses and near in GRID]
        if not missing:
            return losses
        losses[missing[0]] = loss_at(missing[0])


def _best(losses: Mapping[int, float]) -> int:
    return min(losses, key=losses.__getitem__)


def vertex(losses: Mapping[int, float]) -> float | None:
    """The exponent at the bottom of the parabola through the best point and its neighbours; None without both."""
    best = _best(losses)
    low, middle, high = (losses.get(best + step, math.inf) for step in (-1, 0, 1))
    if not all(map(math.isfinite, (low, middle, high))):
        return None
    curvature = low - 2 * middle + high
    return best + (0.5 * (low - high) / curvature if curvature > 0 else 0.0)


# ------------------------------------------------------------------------------------------------------- a run


def _tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Token ids to train on, and rows held out."""
    from raycodellm.config import Tokenizer
    from raycodellm.corpora.python_library import library
    from raycodellm.files import Folder
    from raycodellm.tokens.tokenizer import build_tokenizer, open_tokenizer

    if not (folder / "tokens.npy").exists():
        rows = [row[1] for row in (*library().prose, *library().code)]
        random.Random(0).shuffle(rows)
        total = itertools.accumulate(len(row) for row in rows)
        texts = [row for row, size in zip(rows, total, strict=True) if size <= CHARACTERS]
        tokenizer_folder = Folder(str(folder / "tokenizer"))
        info = build_tokenizer(Tokenizer.model_validate({"train": {"vocab_size": VOCAB}}), texts, tokenizer_folder)
        encoded = open_tokenizer(tokenizer_folder).encode_batch(texts)
        np.save(
            folder / "tokens.npy",
            np.concatenate([[*encoding.ids, info.eos_id] for encoding in encoded]).astype(np.int64),
        )
    tokens = np.load(folder / "tokens.npy")
    held_out = HELD_OUT_ROWS * LENGTH
    return tokens[:-held_out], tokens[-held_out:].reshape(HELD_OUT_ROWS, LENGTH)


def train(run: Run, tokens: tuple[np.ndarray, np.ndarray], steps: int) -> float:
    """The held-out loss after training, in nats per token; infinite where training came to no finite loss."""
    import torch

    from raycodellm import engine as engines
    from raycodellm import model as models
    from raycodellm.config import Model, Scaling, Stage

    model = Model(preset=run.preset, parametrization=run.parametrization)
    stage = Stage.model_validate(
        {
            "name": "mup",
            "tokens": steps * ROWS * LENGTH,
            "sequence_length": LENGTH,
            "batch_tokens": ROWS * LENGTH,
            "learning_rate": {"peak": 2.0**run.exponent, "schedule": "cosine", "warmup": 0.1, "final": 0.1},
            "weights": {"python": 1.0},
        }
    )
    world = engines.World()
    engines.init_process(world)
    engine = engines.Engine.create(
        models.build(model, VOCAB, run.seed),
        *(stage, Scaling(deepspeed={"zero": 0}), world),
        num_sources=1,
        num_micro_batches=1,
        seed=run.seed,
        rate_factors=models.rate_factors(model),
    )

    def batch(rows: np.ndarray) -> Any:
        rows = torch.from_numpy(rows)
        parts = [{"tokens": part, "labels": part} for part in rows.split(32)]
        return SimpleNamespace(micro_batches=parts, source=np.zeros(len(rows), np.int16))

    training, held_out = tokens
    starts = np.random.default_rng(run.seed).integers(0, len(training) - LENGTH, (steps, ROWS))
    try:
        for step in range(steps):
            result = engine.train_step(batch(np.stack([training[s : s + LENGTH] for s in starts[step]])), step)
            if not result.finite:
                return math.inf
        sums, counts = engine.evaluate(batch(held_out))
        loss = float(sums.sum() / counts.sum())
        return loss if math.isfinite(loss) else math.inf
    finally:
        engine.close()


# ------------------------------------------------------------------------------------------------------ the table


def report(losses: Mapping[Run, float], options: Any) -> str:
    """Markdown: the loss at each rate, each preset's best rate, and what `tiny`'s best rate costs the wider ones."""
    tokens = options.steps * ROWS * LENGTH
    text = _common.header(
        "The best learning rate from `tiny` to `nano`",
        *("raycodellm", "deepspeed", "torch", "transformers"),
        notes=[
            f"{tokens:,} tokens in {options.steps} steps, sequences of {LENGTH}, vocabulary {VOCAB:,}; cosine to a "
            "tenth after 10 % warm-up; seeds " + ", ".join(map(str, options.seeds)),
        ],
    )
    exponents = sorted({run.exponent for run in losses})
    rows = [
        (
            *(parametrization, preset),
            *(_mean_cell(losses, parametrization, preset, e, options.seeds) for e in exponents),
        )
        for parametrization, preset in itertools.product(PARAMETRIZATIONS, options.presets)
    ]
    text += "\nHeld-out loss by peak learning rate, nats per token, mean over the seeds (in brackets how many seeds, "
    text += "where not all tried it):\n\n"
    text += _common.table(["parametrization", "preset", *(f"2^{e}" for e in exponents)], rows)
    text += "\nThe best rate between grid points, and the loss that `tiny`'s best rate adds to a preset's own best, "
    text += "each with a 95 % interval over the seeds (Student's t):\n\n"
    rows = [
        _best_row(losses, parametrization, preset, options.seeds)
        for parametrization, preset in itertools.product(PARAMETRIZATIONS, options.presets)
    ]
    return text + _common.table(
        ["parametrization", "preset", "best rate", f"in units of `{BASE}`'s", "added loss"], rows
    )


def _mean_cell(losses: Mapping[Run, float], parametrization: str, preset: str, exponent: int, seeds: Sequence) -> str:
    seed_losses = [losses.get(Run(preset, parametrization, exponent, seed)) for seed in seeds]
    finished_losses = [loss for loss in seed_losses if loss is not None]
    if not finished_losses:
        return ""
    return f"{np.mean(finished_losses):.3f}" + (
        "" if len(finished_losses) == len(seed_losses) else f" ({len(finished_losses)})"
    )


def _best_row(losses: Mapping[Run, float], parametrization: str, preset: str, seeds: Sequence[int]) -> tuple[str, ...]:
    best, ratios, added = [], [], []
    for seed in seeds:
        curve, of_base = (_curve(losses, name, parametrization, seed) for name in (preset, BASE))
        if curve and of_base and None not in (vertex(curve), vertex(of_base)):
            best.append(vertex(curve))
            ratios.append(vertex(curve) - vertex(of_base))
            added.append(curve[_best(of_base)] - min(curve.values()))
    is_base = preset == BASE
    return (
        *(parametrization, preset, _cell(best, lambda exponent: f"{2.0**exponent:.3g}")),
        "1" if is_base else _cell(ratios, lambda exponent: f"{2.0**exponent:.3g}"),
        "0" if is_base else _cell(added, lambda loss: f"{loss:.3f}"),
    )


def _cell(values: Sequence[float], text_of: Callable[[float], str]) -> str:
    """The mean and its interval, each as `text_of` gives it."""
    if not values:
        return ""
    mean, low, high = interval(values)
    return f"{text_of(mean)} ({text_of(low)} to {text_of(high)})" if len(values) > 1 else f"{text_of(mean)} (one seed)"


def _curve(losses: Mapping[Run, float], preset: str, parametrization: str, seed: int) -> dict[int, float]:
    curve_key = (preset, parametrization, seed)
    return {
        run.exponent: loss for run, loss in losses.items() if (run.preset, run.parametrization, run.seed) == curve_key
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with 95 % by Student's t; infinite with one value."""
    from raycodellm.statistics import student_quantile

    mean = float(np.mean(values))
    if len(values) == 1:
        return (mean, -math.inf, math.inf)
    half = student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return (mean, mean - half, mean + half)


if __name__ == "__main__":
    main()
