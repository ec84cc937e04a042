"""How the sizes of a ladder stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raycodellm import runs
from raycodellm.ladder.folder import LadderFolder, SizeFacts
from raycodellm.runs import RunStatus
from raycodellm.tables import Table, cells

FORMAT = 2
"""Raised when a key of `LadderStatus.as_json` changes its meaning or goes: 2 since `rungs` are `sizes`."""


@dataclass(frozen=True)
class LadderStatus:
    """How a ladder stands."""

    ladder: LadderFolder
    sizes: tuple[tuple[SizeFacts, RunStatus | None], ...]
    """Each size with how its run stands; None where it has not begun."""

    @classmethod
    def of(cls, ladder: LadderFolder, say: Callable[[str], Any]) -> LadderStatus:
        """`say` hears about damaged files."""
        return cls(
            ladder,
            tuple(
                (one, runs.open_run(ladder.run_folder(one).uri, say).status if ladder.has_begun(one) else None)
                for one in ladder.facts.sizes
            ),
        )

    @property
    def table(self) -> Table:
        """One row per size: its size, its trials by state, and who runs it."""
        header = ("size", "parameters", "sweep", "tokens of an arm", "trials ended", "failed", "runs")
        return Table(header, [_row(*one) for one in self.sizes], left=(0, 2, 6))

    def as_json(self) -> dict[str, Any]:
        """The same for machines: each size's own status, null where it has not begun."""
        return {
            "format": FORMAT,
            "ladder": self.ladder.name,
            "folder": self.ladder.folder.uri,
            "sizes": [
                {
                    "preset": one.preset,
                    "sweep": one.sweep,
                    "parameters": one.parameters,
                    "tokens": one.tokens,
                    "status": None if status is None else status.as_json(),
                }
                for one, status in self.sizes
            ],
        }


def _row(one: SizeFacts, status: RunStatus | None) -> tuple[str, ...]:
    named = (one.preset, cells.whole(one.parameters), one.sweep, cells.count(one.tokens))
    if status is None:
        return (*named, "not begun", "0", "")
    ended = f"{status.num_ended} of {status.num_trials}"
    return (*named, ended, str(status.states["failed"]), status.driver.name if status.driver is not None else "")
