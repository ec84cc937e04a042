"""The searched parameters' importance for the score."""

from __future__ import annotations

from raycodellm import search
from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import GROUP_COLOURS, Figure, as_markup, plain, title
from raycodellm.report.records import Records


def importance(records: Records) -> list[Figure]:
    """Bars of Optuna's shares of importance; no figure with fewer than `search.FEWEST_POINTS` arms."""
    arms = groups.scored(records)
    objective = records.sweep.search.objectives[0]
    shares = search.importances(
        records.file, [arm.params for arm in arms], [arm.score or 0.0 for arm in arms], objective.mode
    )
    if not shares:
        return []
    names = list(next(iter(shares.values())))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": evaluator,
            "y": [as_markup(name) for name in names],
            "x": plain(by_parameter.get(name) for name in names),
            "marker": {"color": GROUP_COLOURS[place]},
            "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
        }
        for place, (evaluator, by_parameter) in enumerate(shares.items())
    ]
    layout = {
        "xaxis": {"title": title("share of importance"), "range": [0, 1], "tickformat": ".0%"},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "barmode": "group",
        "showlegend": True,
    }
    return [Figure("importance", "", data, layout, height=130 + 54 * len(names))]
