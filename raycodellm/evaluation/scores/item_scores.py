"""The scores that a task's `process_results` gives one item: those that are averaged, and those that the task's own
aggregation takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

NOT_RUN = "not_run"
"""A task whose sandbox or machine failed on an item returns this name with a true value among the item's scores."""


def item_scores(results: Mapping[str, Any], aggregations: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """The columns `scores`, `corpus_scores` and `not_run` of an item, from what `process_results` returned.

    `aggregations`: the task's, by score. A number whose aggregation is the mean, or unknown (lm-eval takes the mean
    then), is one of `scores`; NaN is no score. What another aggregation takes is kept in `corpus_scores` as JSON.
    """
    if results.get(NOT_RUN):
        return {"scores": {}, "corpus_scores": None, "not_run": True}
    averaged = {name: value for name, value in results.items() if is_mean(aggregations.get(name)) and name != NOT_RUN}
    scores = {name: float(value) for name, value in averaged.items() if _is_number(value) and math.isfinite(value)}
    corpus_values = {name: value for name, value in results.items() if name not in averaged and name != NOT_RUN}
    corpus_json = json.dumps(corpus_values, default=_plain, ensure_ascii=False) if corpus_values else None
    return {"scores": scores, "corpus_scores": corpus_json, "not_run": False}


def with_filter(row: Mapping[str, Any], filter_name: str, filter_columns: Mapping[str, Any]) -> dict[str, Any]:
    """The column `scores` of an item with those of another filter of its task, as lm-eval names them:
    `exact_match,flexible-extract`. `filter_columns`: what `item_scores` makes of that filter's results."""
    filter_scores = {f"{score},{filter_name}": value for score, value in filter_columns["scores"].items()}
    return {"scores": {**row["scores"], **filter_scores}}


def is_mean(aggregation: Callable[..., Any] | None) -> bool:
    """True if the aggregation is lm-eval's mean over items, or none is named."""
    from lm_eval.api import metrics

    return aggregation is None or aggregation in (metrics.mean, metrics.nanmean)


def _is_number(value: Any) -> bool:
    import numpy as np

    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _plain(value: Any) -> Any:
    """A value of numpy as a value of JSON; anything else, such as a data set's own object, as text."""
    import numpy as np

    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
