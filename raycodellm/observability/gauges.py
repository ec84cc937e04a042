"""Hands readings to Ray, whose node agents show them to Prometheus. The only user of `ray.util.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycodellm.observability.metrics import METRICS
from raycodellm.observability.readings import Reading

SET_ALL_SECONDS = 10.0
"""A gauge whose value stays is set again after so long, as often as Ray takes the values: there are thousands of
series."""


class Gauges:
    """One gauge per metric, for a process that is connected to Ray."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from ray.util.metrics import Gauge

        self._gauges: dict[str, Any] = {
            metric.name: Gauge(metric.full_name, metric.description, metric.labels) for metric in METRICS
        }
        self._last_readings: dict[Any, Reading] = {}
        """The last reading of each series that is not over."""
        self._settled: Mapping[int, Sequence[Reading]] = {}
        """The readings that stay, as they were last shown."""
        self._clock, self._all_set_at = clock, -SET_ALL_SECONDS

    def show(self, readings: Sequence[Reading], settled: Mapping[int, Sequence[Reading]] | None = None) -> None:
        """Sets the gauges. A series without a reading goes to where its metric ends, or is set no more.

        `settled`: readings that stay, by the number of their trial. No other reading has one of their series.
        """
        settled = settled or {}
        is_due = self._clock() - self._all_set_at >= SET_ALL_SECONDS
        if is_due:
            self._all_set_at = self._clock()
        new_readings = {reading.series: reading for reading in readings}
        appearing = [
            reading
            for number, trial_readings in settled.items()
            if is_due or number not in self._settled
            for reading in trial_readings
        ]
        vanished = [
            reading
            for number, trial_readings in self._settled.items()
            if number not in settled
            for reading in trial_readings
        ]
        ends = [
            (last, last.metric.ends_at)
            for last in (*self._last_readings.values(), *vanished)
            if last.series not in new_readings
        ]
        over = [(last, end) for last, end in ends if end is not None and end != last.value]
        appearing_series = {reading.series for reading in appearing} if over else set()
        for last, end in over:
            if last.series not in appearing_series:
                new_readings[last.series] = Reading(last.metric, end, last.labels)
        for series, reading in new_readings.items():
            if is_due or series not in self._last_readings or self._last_readings[series].value != reading.value:
                self._set_gauge(reading)
        for reading in appearing:
            self._set_gauge(reading)
        self._last_readings, self._settled = new_readings, settled

    def _set_gauge(self, reading: Reading) -> None:
        self._gauges[reading.metric.name].set(reading.value, tags=reading.labels)
