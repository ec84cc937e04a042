"""The trials that early stopping ended: why, in words, and as a table; and what trials that ended early consumed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from raycodellm.rungs import Rung
from raycodellm.tables import cells, formats
from raycodellm.tables.sharing import StageUse
from raycodellm.tables.table import Cell, Table
from raycodellm.tables.trials import Row, is_present, params_of, trial_name


def why_stopped(rungs: Sequence[Rung], stopped_by: int | None) -> str:
    """The last comparison: `at 25% of pretrain: 2.310 bits per byte, the cut is 2.100 (rank 5 of 6)`."""
    if stopped_by is not None:
        return f"with trial {trial_name(stopped_by)}, the first seed of its arm"
    if not rungs:
        return "its comparison is not recorded"
    last = rungs[-1]
    return (
        f"at {last.share:.0%} of {stage_name(last.stage)}: {formats.score(last.value)} bits per byte, the cut is "
        f"{formats.score(last.cut)} (rank {last.rank} of {last.num_reached})"
    )


def stage_name(key: str) -> str:
    """The stage's name in the key of its job."""
    return key.rpartition("-")[0]


def tokens_not_trained(row: Row) -> int:
    """Tokens of its stages that a trial which was stopped early did not consume; 0 for any other."""
    planned = row.get("stopped.tokens_planned")
    if row["state"] != "pruned" or not is_present(planned):
        return 0
    total = row.get("tokens.total")
    return int(planned or 0) - int(total if total is not None and is_present(total) else 0)


def consumed_stages(
    row: Row, keys: Sequence[str], finished: Mapping[str, StageUse]
) -> tuple[list[str], dict[str, StageUse]]:
    """The stages that a trial consumed, by key; and the part of the one that it was stopped early or failed in, where
    that stage is not finished. One that others finish is left out: it is trained for them.
    """
    if row["state"] not in ("pruned", "failed"):
        return list(keys), {}
    whole_stages = [
        key for key in itertools.takewhile(lambda key: key != row.get("stopped.stage"), keys) if key in finished
    ]
    last = next((key for key in keys if key not in whole_stages), None)
    tokens = int(row.get("tokens.total") or 0) - sum(finished[key].tokens for key in whole_stages)
    if last is None or last in finished or tokens <= 0:
        return whole_stages, {}
    seconds = float(row.get("device_seconds") or 0.0) - sum(finished[key].seconds for key in whole_stages)
    return [*whole_stages, last], {last: StageUse(tokens, seconds, *_trunk_part(row))}


def _trunk_part(row: Row) -> tuple[int, float]:
    """Tokens and device-seconds among those of the stage that a trial ended in which that stage took over from another
    one."""
    tokens, seconds = (row.get(f"stopped.{name}") for name in ("trunk_tokens", "trunk_seconds"))
    are_present = tokens is not None and seconds is not None and is_present(tokens) and is_present(seconds)
    return (int(tokens or 0), float(seconds or 0.0)) if are_present else (0, 0.0)


def stopped_sentence(rows: Sequence[Row]) -> str:
    """The number of trials that were stopped early, and the tokens that they ask for no more; empty where none was. As
    in the tokens that all trials ask for, a stage counts once per trial: fewer tokens would have been trained, where
    trials share stages."""
    number, saved = sum(row["state"] == "pruned" for row in rows), sum(map(tokens_not_trained, rows))
    trials = "1 trial was" if number == 1 else f"{number} trials were"
    return f"{trials} stopped early: {formats.count(saved)} fewer tokens were asked for" if number else ""


def stopped_table(rows: Sequence[Row]) -> Table:
    """The trials that were stopped early, with their last comparison."""
    header = ("trial", "arm", "parameters", "stopped", "step", "bits per byte", "cut", "rank", "tokens not trained")
    return Table(header, [_cells(row) for row in rows if row["state"] == "pruned"], left=(0, 2, 3))


def _cells(row: Row) -> tuple[str, ...]:
    stopped_by = row.get("stopped.by")
    stopped: Mapping[str, object] = {key: row.get(f"stopped.{key}") for key in ("step", "rank", "num_reached")}
    step, rank, reached = (int(str(value)) if is_present(value) else None for value in stopped.values())
    share, stage = row.get("stopped.share"), row.get("stopped.stage")
    where = f"{share:.0%} of {stage_name(str(stage))}" if share is not None and is_present(share) else formats.NOTHING
    if stopped_by is not None and is_present(stopped_by):
        where = f"with trial {trial_name(int(stopped_by))}"
    return (
        trial_name(row["number"]),
        Cell(str(row["arm"]), row["arm"]),
        formats.params(params_of(row)),
        where,
        cells.whole(step) if step is not None else formats.NOTHING,
        cells.score(row.get("stopped.value")),
        cells.score(row.get("stopped.cut")),
        f"{rank} of {reached}" if rank is not None else formats.NOTHING,
        cells.count(tokens_not_trained(row)),
    )
