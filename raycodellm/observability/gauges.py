"""Hands readings to Ray, whose node agents show them to Prometheus. The only user of `ray.util.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycodellm.observability.metrics import METRICS
from raycodellm.observability.readings import Reading


class Gauges:
    """One gauge per metric, for a process that is connected to Ray."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges: dict[str, Any] = {
            metric.name: Gauge(metric.full_name, metric.description, metric.labels) for metric in METRICS
        }
        self._set: dict[Any, Reading] = {}
        """The last reading of each series."""

    def show(self, readings: Sequence[Reading]) -> None:
        """Sets the gauges. A series without a reading keeps its value, or goes to where its metric ends."""
        new = {reading.series: reading for reading in readings}
        for series, last in self._set.items():
            if series not in new and last.metric.ends_at is not None and last.value != last.metric.ends_at:
                new[series] = Reading(last.metric, last.metric.ends_at, last.labels)
        for reading in new.values():
            self._gauges[reading.metric.name].set(reading.value, tags=dict(reading.labels))
        self._set |= new
