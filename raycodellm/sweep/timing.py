"""Where the seconds of a run went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Timing:
    """The parts of a run by name, in the order in which they began."""

    seconds: dict[str, float] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Beginning and end of each part, Unix seconds."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, at = time.monotonic(), time.time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            self.spans[name] = (at, time.time())
