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
                (size, runs.open_run(ladder.run_folder(size).uri, say).status if ladder.has_begun(size) else None)
                for size in ladder.facts.sizes
            ),
        )

    @property
    def table(self) -> Table:
        """One row per size: its size, its trials by state, and who runs it."""
        header = ("size", "parameters", "sweep", "tokens of an arm", "trials ended", "failed", "runs")
        return Table(header, [_row(*entry) for entry in self.sizes], left=(0, 2, 6))

    def as_json(self) -> dict[str, Any]:
        """The ladder's status for machines: each size's own status, null where the size has not begun."""
        return {
            "format": FORMAT,
            "ladder": self.ladder.name,
            "folder": self.ladder.folder.uri,
            "sizes": [
                {
                    "preset": size.preset,
                    "sweep": size.sweep,
                    "parameters": size.parameters,
                    "tokens": size.tokens,
                    "status": None if status is None else status.as_json(),
                }
                for size, status in self.sizes
            ],
        }


def _row(size: SizeFacts, status: RunStatus | None) -> tuple[str, ...]:
    size_cells = (size.preset, cells.whole(size.parameters), size.sweep, cells.count(size.tokens))
    if status is None:
        return (*size_cells, "not begun", "0", "")
    ended_text = f"{status.num_ended} of {status.num_trials}"
    driver_name = status.driver.name if status.driver is not None else ""
    return (*size_cells, ended_text, str(status.states["failed"]), driver_name)
