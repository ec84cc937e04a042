"""Where the time went: the parts of all runs of a sweep, and each run for itself where there were several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from raycodellm import budget, run_times
from raycodellm.report.parts import Bars
from raycodellm.report.records import Records
from raycodellm.run_times import RunTimes
from raycodellm.tables import Cell, Table, cells, formats

NOTE = (
    "The parts of a run follow each other, by the driver's clock. Worker groups run at once, and their times are added "
    "up. A run is one call of raycodellm run; one that was killed counts until it was last heard of, at most a minute "
    "before its end."
)
_LEAST_OTHER = 1.0
"""Seconds between the parts that are worth a line."""
_LEAST_SHOWN = 0.05
_LEAST_UNTIMED = 60.0
_SLOTS = " (slot-seconds)"
"""Ending of the names, in an older version's `timing.json`, of times that are summed over worker groups."""


def parts(records: Records, now: float | None = None) -> list[str | Bars | Table]:
    """The section on the runs' times, empty where none are known. `now`: Unix seconds."""
    shown_parts: list[str | Bars | Table] = []
    runs = records.runs
    wall, slots = run_times.summed(runs)
    for name, seconds in records.timing.items():  # an older version timed its runs so
        totals, name = (slots, name.removesuffix(_SLOTS)) if name.endswith(_SLOTS) else (wall, name)
        totals[name] = totals.get(name, 0.0) + seconds
    if runs:
        shown_parts.append(sentence(records, slots))
        other = sum(run.wall_seconds - sum(run.seconds.values()) for run in runs)
        wall |= {"between the parts": other} if other >= _LEAST_OTHER else {}
    if line := _untimed(records, wall):
        shown_parts.append(line)
    busy = {f"{name}, worker groups added up": seconds for name, seconds in slots.items()}
    if bars := [
        (name, seconds, formats.seconds(seconds))
        for name, seconds in {**wall, **busy}.items()
        if seconds >= _LEAST_SHOWN
    ]:
        shown_parts.append(Bars(bars))
    if len(runs) > 1:
        shown_parts.append(_table(runs, time.time() if now is None else now))
    return shown_parts


def sentence(records: Records, slots: Mapping[str, float]) -> str:
    """A sentence on how long the sweep ran, in how many runs, and how long nothing ran between the runs."""
    runs = records.runs
    ran = formats.seconds(sum(run.wall_seconds for run in runs))
    idle = sum(gap for gap in run_times.gaps(runs) if gap)
    text = f"The sweep ran for {ran}"
    text += f" in {len(runs)} runs; between them nothing ran for {formats.seconds(idle)}." if len(runs) > 1 else "."
    held, busy = records.spent.device_seconds, sum(slots.values()) * budget.devices_per_slot(records.sweep.scaling)
    if held > 0 and not records.timing:
        text += f" Devices were held for {formats.seconds(held)}, of which {min(1.0, busy / held):.0%} trained or "
        text = text.replace("%", " %") + "evaluated."
    return text


def _untimed(records: Records, wall: Mapping[str, float]) -> str:
    """A sentence on the drivers' time that an older version did not keep, since it timed no run that was stopped; empty
    where nothing is missing."""
    if not records.timing:
        return ""
    timed = sum(run.wall_seconds for run in records.runs)
    timed += sum(seconds for name, seconds in records.timing.items() if name in ("tokens", "trials"))
    missing = records.spent.wall_seconds - timed
    if missing < max(_LEAST_UNTIMED, 0.05 * records.spent.wall_seconds):
        return ""
    return (
        f"Drivers ran for {formats.seconds(records.spent.wall_seconds)} in all. Of {formats.seconds(missing)}, in runs "
        "that were stopped, the version that ran them did not keep the parts: these are missing here."
    )


def _table(runs: Sequence[RunTimes], now: float) -> Table:
    """One row per run, and their sum."""
    wall, slots = run_times.summed(runs)
    rows = []
    for number, (run, gap) in enumerate(zip(runs, run_times.gaps(runs), strict=True)):
        began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.began))
        head = (Cell(str(number + 1), number), Cell(began, run.began), _state(run, number + 1 == len(runs), now))
        rows.append((*head, *_figures(run, gap, run.wall_seconds, wall, slots)))
    whole = RunTimes(0.0, 0.0, "", wall, {}, slots, None, sum(run.num_ended for run in runs))
    ran = sum(run.wall_seconds for run in runs)
    rows.append(
        (Cell("all"), Cell(""), Cell(""), *_figures(whole, sum(filter(None, run_times.gaps(runs))), ran, wall, slots))
    )
    header = ("run", "began", "state", "nothing ran before", "ran for", "trials ended", *wall, *slots)
    return Table(header, rows, left=(0, 1, 2))


def _figures(
    run: RunTimes, gap: float | None, ran: float, wall: Mapping[str, float], slots: Mapping[str, float]
) -> tuple[Cell, ...]:
    part_cells = (cells.seconds(run.seconds.get(name)) for name in wall)
    slot_cells = (cells.seconds(run.slot_seconds.get(name)) for name in slots)
    return cells.seconds(gap), cells.seconds(ran), cells.whole(run.num_ended), *part_cells, *slot_cells


def _state(run: RunTimes, is_last: bool, now: float) -> Cell:
    if run.state != run_times.RUNNING:
        return Cell(run.state)
    if is_last and now - run.heard < 3 * run_times.WRITE_SECONDS:
        return Cell("running")
    return Cell("killed, or still running" if is_last else "killed")
