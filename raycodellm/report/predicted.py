"""The report's table of predictions that have been measured."""

from __future__ import annotations

from functools import partial

from raycodellm import regression, storage_files
from raycodellm.report.records import Records
from raycodellm.tables import Table

NOTE = (
    "Predictions of `raycodellm suggest` from arms that had been measured before; the measured score is the mean over "
    "the arm's complete seeds. The first point is the predicted best, and its prediction is corrected for that choice."
)


def table(records: Records) -> Table:
    """Suggested points that an arm of the run has measured; no rows without `suggested.json`."""
    suggested = storage_files.attempt(partial(regression.read_suggested, records.run), records.say)
    if suggested is None:
        return Table((), [])
    return regression.predicted_beside_measured(suggested, records.rows)
