"""How often sweeps of real seeds without an effect claim a difference.

Takes runs of one arm each with many seeds, as `raycodellm run` leaves them. Deals an arm's seeds at random to several
pretended arms, of which the first is the reference, and asks for the verdicts as the report does. No arm differs, so
each claim is false. The same seeds are dealt anew each time: the share has the noise of these few seeds, which no
number of deals removes.

    raycodellm run sweeps/quickstart.yaml --set name=null --set pretrain.code_ratio=0.25 --set search.replicates=24 \\
        --set search.confirm=null --set search.reference=null
    python benchmarks/verdict/real_null.py ~/raycodellm/null --deals 400
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from typing import Any

from raycodellm.files import Folder
from raycodellm.report.records import Records, read_records
from raycodellm.verdict.comparison import Look, compare
from raycodellm.verdict.verdicts import family_metrics

SHAPES = ((2, 6), (2, 12), (3, 4), (3, 8), (6, 4), (12, 2))
"""Arms and seeds per arm."""


def deal_claims(records: Records, num_arms: int, num_seeds: int, draw: random.Random, *, shares_seeds: bool) -> bool:
    """Deals the seeds to arms; True if a difference is claimed. With `shares_seeds` the arms' seeds are called by the
    same numbers, as in a sweep, although nothing pairs them."""
    rows = draw.sample(records.rows, num_arms * num_seeds)
    arms = {}
    for arm in range(num_arms):
        rows_of_arm = rows[arm * num_seeds : (arm + 1) * num_seeds]
        arms[arm] = [{**row, "seed": place if shares_seeds else row["seed"]} for place, row in enumerate(rows_of_arm)]
    metrics = family_metrics(records.rows, records.sweep.search.objectives)
    comparison = compare(arms, 0, metrics, records.items, Look())
    return any(verdict.word in ("better", "worse") for verdict in comparison.verdicts)


def items_alone(records: Records, num_arms: int, draw: random.Random) -> bool:
    """True if the rule that looks at items alone claims a difference to the first arm: one seed per arm, and two scores
    differ by more than the intervals that their evaluations recorded, added in squares."""
    metric = f"metrics.{records.sweep.search.objectives[0].metric}"
    first, *others = draw.sample(records.rows, num_arms)

    def half(row: dict[str, Any]) -> float:
        return (row[f"{metric}_high"] - row[f"{metric}_low"]) / 2

    return any(
        abs(other_row[metric] - first[metric]) > math.hypot(half(other_row), half(first)) for other_row in others
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders of one arm each")
    parser.add_argument("--deals", type=int, default=400, help="random deals of each run and shape")
    arguments = parser.parse_args()
    all_records = []
    for folder in map(Folder, arguments.runs):
        records = read_records(folder, folder.parent)
        scores = [row[f"metrics.{records.sweep.search.objectives[0].metric}"] for row in records.rows]
        name = records.sweep.name
        all_records.append(records)
        mean, spread = statistics.fmean(scores), statistics.stdev(scores)
        print(f"{name}: {len(scores)} seeds, mean {mean:.3f}, standard deviation between seeds {spread:.4f}")
    print("\n| arms × seeds | deals | any false claim | the same, seeds taken as shared |\n|---|---|---|---|")
    for num_arms, num_seeds in SHAPES:
        large_enough = [run_records for run_records in all_records if len(run_records.rows) >= num_arms * num_seeds]
        counts = {
            shared: sum(
                deal_claims(run_records, num_arms, num_seeds, random.Random(deal), shares_seeds=shared)
                for run_records in large_enough
                for deal in range(arguments.deals)
            )
            for shared in (False, True)
        }
        deals = arguments.deals * len(large_enough)
        cells = [f"{counts[shared] / deals:.1%}" for shared in (False, True)] if deals else ["–", "–"]
        print(f"| {num_arms} × {num_seeds} | {deals} | {' | '.join(cells)} |", flush=True)
    for num_arms in (2, 3, 6):
        deals = arguments.deals * len(all_records)
        claims = sum(
            items_alone(run_records, num_arms, random.Random(n))
            for run_records in all_records
            for n in range(arguments.deals)
        )
        print(f"items alone, {num_arms} arms with one seed: {claims / deals:.1%} of {deals} deals claim a difference")


if __name__ == "__main__":
    main()
