"""The report's table of predictions that have been measured."""

from __future__ import annotations

from functools import partial

from raycodellm import regression, storage_files
from raycodellm.regression import Optimum, Suggested
from raycodellm.report.records import Records
from raycodellm.tables import Table, cells, formats

NOTE = (
    "Predictions of raycodellm suggest from arms that had been measured before; the measured score is the mean over "
    "the arm's complete seeds. The first point is the predicted best, and its interval allows for that choice. "
    "The best measured arm was chosen by its score, which noise makes look too good; what the other arms predict of it "
    f"is not. How sure that is: {regression.HELD}."
)


def parts(records: Records) -> list[str | Table]:
    """The predicted and the measured optimum of the run, and the suggested points that an arm of the run has measured;
    nothing without `suggested.json`."""
    suggested = storage_files.attempt(partial(regression.read_suggested, records.run), records.say)
    if suggested is None:
        return []
    shown_parts: list[str | Table] = []
    if suggested.optimum is not None and suggested.sweep == records.sweep.name:
        shown_parts += [_sentence(suggested, suggested.optimum), _optima(suggested, suggested.optimum)]
    measured = regression.predicted_beside_measured(suggested, records.rows)
    return [*shown_parts, measured] if measured.rows else shown_parts


def _sentence(suggested: Suggested, optimum: Optimum) -> str:
    """A sentence on where the predicted and the measured optimum lie, and whether the other arms foresaw the measured
    one."""
    where = "was not measured"
    if optimum.predicted_measured is not None:
        is_same = optimum.predicted_measured == optimum.score
        where = "is the best measured arm" if is_same else f"was measured {formats.score(optimum.predicted_measured)}"
    inside = "inside" if optimum.low <= optimum.score <= optimum.high else "outside"
    return (
        f"Fitted to {suggested.metric} of {suggested.num_arms} arms: the predicted optimum {where}. The score of the "
        f"best measured arm lies {inside} the interval that the other arms alone predict."
    )


def _optima(suggested: Suggested, optimum: Optimum) -> Table:
    level = f"{suggested.level:.0%} interval".replace("%", " %")
    header = ("optimum", "arm", "parameters", f"predicted {suggested.metric}", level, "measured", "seeds")
    best = optimum.predicted
    rows = [
        (
            "predicted",
            formats.NOTHING if optimum.predicted_measured != optimum.score else str(optimum.arm),
            formats.params(best.params),
            cells.score(best.predicted),
            formats.interval(best.low, best.high),
            cells.score(optimum.predicted_measured),
            formats.NOTHING,
        ),
        (
            "measured, predicted from the other arms",
            str(optimum.arm),
            formats.params(optimum.params),
            cells.score(optimum.from_others),
            formats.interval(optimum.low, optimum.high),
            cells.score(optimum.score),
            cells.whole(optimum.num_seeds),
        ),
    ]
    return Table(header, rows, left=(0, 1, 2))
