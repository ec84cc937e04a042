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
    place = {one.arm: number for number, one in enumerate(records.scores)}
    rows = []
    for one in sorted(records.known.breaches, key=lambda one: place.get(one.arm, len(place)))[:MOST_ROWS]:
        word = "breaks" if one.is_broken else "keeps"
        ends = formats.signed_interval(one.breach.low, one.breach.high)
        known = f"{word} it" + ("" if one.certainty == "sure" else f", {one.certainty}")
        if one.is_of_reference:
            ends, known = "exact: the limit is its own", "keeps it, by definition"
        rows.append(
            (
                Cell(str(one.arm), one.arm),
                one.constraint.name,
                cells.score(one.value),
                cells.score(one.limit),
                Cell(f"{one.breach.value:+.3f}", one.breach.value),
                Cell(ends, one.breach.low),
                known,
            )
        )
    header = ("arm", "constraint", "score", "limit", "over", "95 % interval", "kept")
    return Table(header, rows, left=(0, 1, 6))
