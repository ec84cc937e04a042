"""Mixture regression on RegMix's runs: forms fitted to 512 runs of 1M parameters, held against 1M, 60M and 1B.

    python benchmarks/search/regmix.py DIR [--runs 512] [--losses pile_cc github] [--out FILE]

DIR holds the tables of sail-sg/regmix (Liu et al. 2024, arXiv 2407.01492): `train_mixture_1m.csv`,
`train_pile_loss_1m.csv`, and `test_…` for 1m, 60m and 1B. RegMix fits LightGBM; this fits the forms of
`raycodellm suggest`, and chooses among them by cross-validation on the 512 runs alone. Half a minute of one core per
loss. The last line of a loss is the posterior over all forms, which the command's predictions rest on.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))

import numpy as np
from _common import finish, header, parser, table
from scipy.stats import spearmanr

from raycodellm.regression import ALL_FORMS, Posterior, choose_form, conformal_interval

SIZES = ("1m", "60m", "1B")


def read(folder: Path, part: str, size: str, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """(mixtures of shape (runs, 17), losses of shape (runs,)) of the runs that have both."""
    mixtures, losses = (
        {row["index"]: row for row in csv.DictReader((folder / f"{part}_{kind}_{size}.csv").open(encoding="utf-8"))}
        for kind in ("mixture", "pile_loss")
    )
    keys = [key for key in mixtures if key in losses]
    x = np.array([[float(value) for name, value in mixtures[key].items() if name != "index"] for key in keys])
    y = np.array([float(losses[key][f"metric/the_pile_{loss}_val_loss"]) for key in keys])
    return x / x.sum(axis=1, keepdims=True), y


def measure(folder: Path, loss: str, num_runs: int) -> list[list]:
    """One row per form, the chosen one first."""
    started = time.process_time()
    x, y = read(folder, "train", "1m", loss)
    forms = choose_form(x[:num_runs], y[:num_runs], [True] * x.shape[1])
    tests = {size: read(folder, "test", size, loss) for size in SIZES}
    print(f"{loss}: {time.process_time() - started:.0f} s of one core", file=sys.stderr)
    rows = []
    for form in forms:
        if form.name == "constant":
            continue
        ranks = [
            float(spearmanr(form.fitted.predict(mixtures), losses).statistic) for mixtures, losses in tests.values()
        ]
        mixtures, losses = tests["1m"]
        low, high = conformal_interval(form, mixtures)
        covered = float(np.mean((low <= losses) & (losses <= high)))
        rows.append([loss, form.name, f"{form.error:.4f}", *(f"{rank:.4f}" for rank in ranks), f"{covered:.1%}"])
    started = time.process_time()
    posterior = Posterior.of(x[:num_runs], y[:num_runs], [True] * x.shape[1])
    print(f"{loss}: {time.process_time() - started:.0f} s of one core for all forms at once", file=sys.stderr)
    ranks = [float(spearmanr(posterior.mean(mixtures), losses).statistic) for mixtures, losses in tests.values()]
    mixtures, losses = tests["1m"]
    band = posterior.band(mixtures, noise_of=1)
    covered = float(np.mean((band.low <= losses) & (losses <= band.high)))
    rows.append([loss, ALL_FORMS, f"{posterior.error:.4f}", *(f"{rank:.4f}" for rank in ranks), f"{covered:.1%}"])
    return rows


def main() -> int:
    options = parser(__doc__)
    options.add_argument("tables", type=Path, metavar="DIR")
    options.add_argument("--runs", type=int, default=512)
    options.add_argument("--losses", nargs="+", default=["pile_cc"])
    arguments = options.parse_args()
    rows = [row for loss in arguments.losses for row in measure(arguments.tables, loss, arguments.runs)]
    columns = ("loss", "form", "error on held-out runs", *(f"Spearman {size}" for size in SIZES), "90 % covers, 1m")
    note = f"fitted to {arguments.runs} runs of 1M parameters; the first form of a loss is the chosen one"
    text = header("Mixture regression on RegMix", "scikit-learn", "numpy", notes=[note])
    finish(text + "\n" + table(columns, rows), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
