"""Where the seconds of a run went: measured by its driver, and kept in the run folder (`run_times`)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from raycodellm import run_times
from raycodellm.files import Folder
from raycodellm.run_times import RunTimes

logger = logging.getLogger(__name__)


@dataclass
class Timing:
    """The parts of a run by name, in the order in which they began."""

    folder: Folder
    """The run folder."""
    began: float = field(default_factory=time.time)
    """Unix seconds."""
    seconds: dict[str, float] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Beginning and end of each part, Unix seconds."""
    slot_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that worker groups were busy, by kind of job."""
    first_slot_seconds: float | None = None
    """Seconds from the dispatcher's start until the first slot asked for work; None before that."""
    jobs: dict[str, dict[str, float]] = field(default_factory=dict)
    num_ended: int = 0
    """Trials that have ended in this run."""
    state: str = run_times.RUNNING

    def __post_init__(self) -> None:
        self._number: int | None = None
        self._written = -run_times.WRITE_SECONDS
        self._open: dict[str, tuple[float, float]] = {}
        """When the parts that go on began: monotonic and Unix seconds."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._open[name] = (time.monotonic(), time.time())
        try:
            yield
        finally:
            self.seconds, self.spans = self._until_now([name])
            del self._open[name]

    def _until_now(self, names: Iterable[str]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Seconds and spans of all parts. `names`: parts that have not ended; they count until now."""
        seconds, spans = dict(self.seconds), dict(self.spans)
        for name in names:
            began, at = self._open[name]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
            spans[name] = (at, time.time())
        return seconds, spans

    def write_if_due(self) -> None:
        """Writes the run's file when it is old enough."""
        if time.monotonic() - self._written >= run_times.WRITE_SECONDS:
            self._write()

    def keep(self, state: str) -> None:
        """Writes the run's file with how the run stands. No run fails for a storage that does not answer: the log says
        that the times are not kept."""
        self.state = state
        try:
            self._write()
        except OSError as error:
            logger.warning("the run's times are not kept: %s", error)

    def _write(self) -> None:
        self._written = time.monotonic()  # also after an error, so that the next try waits
        if self._number is None:
            self._number = run_times.next_number(self.folder)
        seconds, spans = self._until_now(self._open)
        times = RunTimes(
            began=self.began,
            heard=time.time(),
            state=self.state,
            seconds=seconds,
            parts=spans,
            slot_seconds=self.slot_seconds,
            first_slot_seconds=self.first_slot_seconds,
            num_ended=self.num_ended,
            jobs=self.jobs,
        )
        run_times.write_run_times(self.folder, self._number, times)
