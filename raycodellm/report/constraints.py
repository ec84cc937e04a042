"""The table of constraints: which arm keeps which, by how much, and whether that is more than noise."""

from __future__ import annotations

from raycodellm.report.records import Records
from raycodellm.tables import Cell, Table, cells, formats

MOST_ROWS = 200
NOTE = (
    "Over is the distance to the limit in the metric's unit: above 0 the arm breaks the constraint. The interval is a "
    "95 % interval over items and seeds for this arm alone, not corrected for the number of arms; where it holds 0, "
    "other seeds may decide otherwise. A limit relative to the reference moves with that one's noise, which the "
    "interval holds. Arms that keep all constraints rank before the others."
)


def table(records: Records) -> Table:
    """Each arm with each constraint, the best arms first; no rows without constraints."""
    place = {arm_score.arm: number for number, arm_score in enumerate(records.scores)}
    rows = []
    for breach in sorted(records.findings.breaches, key=lambda breach: place.get(breach.arm, len(place)))[:MOST_ROWS]:
        word = "breaks" if breach.is_broken else "keeps"
        ends = formats.signed_interval(breach.breach.low, breach.breach.high)
        kept = f"{word} it" + ("" if breach.certainty == "sure" else f", {breach.certainty}")
        if breach.is_of_reference:
            ends, kept = "exact: the limit is its own", "keeps it, by definition"
        rows.append(
            (
                Cell(str(breach.arm), breach.arm),
                breach.constraint.name,
                cells.score(breach.value),
                cells.score(breach.limit),
                Cell(f"{breach.breach.value:+.3f}", breach.breach.value),
                Cell(ends, breach.breach.low),
                kept,
            )
        )
    header = ("arm", "constraint", "score", "limit", "over", "95 % interval", "kept")
    return Table(header, rows, left=(0, 1, 6))
