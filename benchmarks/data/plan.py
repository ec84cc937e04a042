"""The plan of a stage: seconds, memory and largest deviation, against drawing each position's source at random.

    python benchmarks/data/plan.py [--sequences 10000000] [--sources 5] [--out FILE]

Drawing at random (numpy) is what interleaving loaders do; one heap operation per position is the textbook's earliest
deadline first. Each side runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from _common import finish, header, in_processes, parser, table

from raycodellm import mixture
from raycodellm.mixture.order import SourceOrder
from raycodellm.records import SourceSlice
from raycodellm.schedule import Schedule

CHUNK = 1 << 20


def ramp(num_sources: int) -> Schedule:
    """The first source falls from 90 % to 10 %, the others share the rest unequally."""
    others = np.arange(1, num_sources) / np.arange(1, num_sources).sum()
    ends = [tuple(float(w) for w in (first, *((1 - first) * others))) for first in (0.9, 0.1)]
    return Schedule((0.0, 1.0), tuple(ends), "linear")


def largest_deviation(order: np.ndarray, schedule: Schedule) -> float:
    """In sequences, over all prefixes and sources."""
    worst, counts = 0.0, np.zeros(len(schedule.weights[0]))
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        granted = schedule.integral_between(start, start + len(part), len(order)) * len(order)
        for source in range(len(counts)):
            num_drawn = counts[source] + np.cumsum(part == source)
            worst = max(worst, float(np.abs(num_drawn - granted[source, 1:]).max()))
            counts[source] = num_drawn[-1]
    return worst


def at_random(schedule: Schedule, num_sequences: int) -> np.ndarray:
    """Each position's source by its weights there."""
    order = np.empty(num_sequences, dtype=np.int16)
    generator = np.random.default_rng(0)
    for start in range(0, num_sequences, CHUNK):
        stop = min(start + CHUNK, num_sequences)
        edges = np.cumsum(schedule.weights_at((np.arange(start, stop) + 0.5) / num_sequences), axis=1)
        order[start:stop] = (generator.random((stop - start, 1)) > edges[:, :-1]).sum(axis=1)
    return order


def measure(side: str, num_sequences: int, num_sources: int) -> dict[str, float]:
    schedule = ramp(num_sources)
    sources = tuple(SourceSlice(f"source{n}", "text", "", max(1, num_sequences // 7), 0) for n in range(num_sources))
    plan = mixture.Plan(schedule, sources, num_sequences, 0)
    started_at = time.perf_counter()
    if side == "rows":
        order = plan.rows(0, num_sequences).source
    else:
        in_order = SourceOrder(schedule, num_sequences)
        order = in_order.sources(0, num_sequences) if side == "order" else at_random(schedule, num_sequences)
    seconds = time.perf_counter() - started_at
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    figures = {"seconds": seconds, "mebibytes": peak / 1024}
    figures["deviation"] = largest_deviation(order, schedule)
    if side == "rows":
        position = num_sequences * 9 // 10
        counts = plan.counts(position).tolist()
        started_at = time.perf_counter()
        mixture.Plan(schedule, sources, num_sequences, 0).starting_at(position, counts).rows(position, position + 1024)
        figures["resume_seconds"] = time.perf_counter() - started_at
        started_at = time.perf_counter()
        mixture.Plan(schedule, sources, num_sequences, 0).rows(0, 1024)
        figures["first_seconds"] = time.perf_counter() - started_at
    return figures


SIDES = {
    "rows": "plan: source, sequence and epoch of every position",
    "order": "plan: the source of every position",
    "random": "at random: the source of every position",
}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--sequences", type=int, default=10_000_000)
    options.add_argument("--sources", type=int, default=5)
    options.add_argument("--side", choices=SIDES, help="measure one side, here, and print it as JSON")
    arguments = options.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.sequences, arguments.sources)))
        return
    sizes = ["--sequences", str(arguments.sequences), "--sources", str(arguments.sources)]
    figures = {side: in_processes([([__file__, "--side", side, *sizes], {})])[0] for side in SIDES}
    rows = [
        (name, figures[side]["seconds"], round(figures[side]["mebibytes"]), round(figures[side]["deviation"], 3))
        for side, name in SIDES.items()
    ]
    title = f"Plan of {arguments.sequences:,} sequences over {arguments.sources} sources, on a linear ramp"
    text = header(title, "numpy") + "\n"
    text += table(("what", "seconds, one core", "memory of the process, MiB", "largest deviation, sequences"), rows)
    text += (
        f"\nFirst 1,024 positions: {figures['rows']['first_seconds'] * 1e3:.0f} ms from the beginning, "
        f"{figures['rows']['resume_seconds'] * 1e3:.0f} ms from 90 % of the stage with a checkpoint's counts.\n"
    )
    finish(text, arguments.out)


if __name__ == "__main__":
    main()
