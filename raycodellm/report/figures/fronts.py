"""The objectives against each other, where a sweep has several."""

from __future__ import annotations

from raycodellm.report.answer import metric_in_words
from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import GROUP_COLOURS, QUIET, Figure, plain, points, title
from raycodellm.report.records import Records


def pareto(records: Records) -> list[Figure]:
    """The first objective against each of the others. The front is that of all objectives together."""
    objectives = records.sweep.search.objectives
    found = [one for one in groups.scored(records) if None not in one.scores]
    if len(objectives) < 2 or not found:
        return []
    figures = []
    for place, other in enumerate(objectives[1:], 1):
        data = []
        for front, colour, name in ((False, QUIET, "other arms"), (True, GROUP_COLOURS[0], "Pareto front")):
            arms = sorted((one for one in found if one.pareto == front), key=lambda one: one.scores[0] or 0.0)
            data.append(
                {
                    "type": "scatter",
                    "name": name,
                    "mode": "lines+markers" if front and len(objectives) == 2 else "markers",
                    "x": plain(one.scores[0] for one in arms),
                    "y": plain(one.scores[place] for one in arms),
                    "marker": {"size": 9, "color": colour, "symbol": "circle" if front else "circle-open"},
                    "line": {"color": colour, "width": 1},
                    **points("arms", [one.arm for one in arms]),
                }
            )
        layout = {
            "xaxis": {"title": title(metric_in_words(objectives[0]))},
            "yaxis": {"title": title(metric_in_words(other))},
        }
        figures.append(Figure(f"pareto{place}", "", data, layout))
    return figures
