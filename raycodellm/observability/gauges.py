"""Hands readings to Ray, whose node agents show them to Prometheus. The only user of `ray.util.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from raycodellm.observability.metrics import METRICS
from raycodellm.observability.readings import Reading

SET_ALL_SECONDS = 10.0
"""A gauge whose value stays is set again after so long, as often as Ray takes the values. 500 trials have some six
thousand series."""


class Gauges:
    """One gauge per metric, for a process that is connected to Ray."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from ray.util.metrics import Gauge

        self._gauges: dict[str, Any] = {
            metric.name: Gauge(metric.full_name, metric.description, metric.labels) for metric in METRICS
        }
        self._set: dict[Any, Reading] = {}
        """The last reading of each series."""
        self._clock, self._all_set_at = clock, -SET_ALL_SECONDS

    def show(self, readings: Sequence[Reading]) -> None:
        """Sets the gauges. A series without a reading goes to where its metric ends, or is set no more."""
        new = {reading.series: reading for reading in readings}
        for series, last in self._set.items():
            if series not in new and last.metric.ends_at is not None and last.value != last.metric.ends_at:
                new[series] = Reading(last.metric, last.metric.ends_at, last.labels)
        is_due = self._clock() - self._all_set_at >= SET_ALL_SECONDS
        if is_due:
            self._all_set_at = self._clock()
        for series, reading in new.items():
            if not is_due and series in self._set and self._set[series].value == reading.value:
                continue
            self._gauges[reading.metric.name].set(reading.value, tags=dict(reading.labels))
        self._set |= new
