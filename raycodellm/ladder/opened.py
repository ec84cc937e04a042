"""A ladder as an object: its sizes' runs, and each effect against size."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raycodellm.files import Folder
from raycodellm.ladder.effects import read_result
from raycodellm.ladder.folder import LadderFolder, open_ladder
from raycodellm.ladder.status import LadderStatus
from raycodellm.ladder.words import answer
from raycodellm.ladder.write import summary_text, write_report
from raycodellm.runs import OpenedRun, open_run

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class OpenedLadder:
    """A ladder. Each question reads the storage anew."""

    def __init__(
        self, ladder: LadderFolder | str | os.PathLike[str], say: Callable[[str], Any] = logger.warning
    ) -> None:
        """`ladder`: its folder, `<storage>/<sweep name>`. `say` hears about damaged files."""
        self._ladder = ladder if isinstance(ladder, LadderFolder) else open_ladder(ladder)
        self._say = say

    @property
    def folder(self) -> Folder:
        return self._ladder.folder

    @property
    def name(self) -> str:
        return self._ladder.name

    @property
    def sizes(self) -> dict[str, OpenedRun]:
        """Maps the preset of each size that has begun to its run, the smallest model first."""
        begun_sizes = [size for size in self._ladder.facts.sizes if self._ladder.has_begun(size)]
        return {size.preset: open_run(self._ladder.run_folder(size).uri, self._say) for size in begun_sizes}

    @property
    def status(self) -> LadderStatus:
        """How the sizes stand."""
        return LadderStatus.of(self._ladder, self._say)

    @property
    def effects(self) -> pd.DataFrame:
        """One row per arm, metric and size: `preset`, `parameters`, `difference` to the reference with the ends of its
        interval (NaN where it is not known), and the `verdict` of that size."""
        import pandas as pd

        rows = [
            {
                "arm": arm_effects.number,
                **{f"params.{name}": value for name, value in arm_effects.params.items()},
                "metric": arm_effects.objective.metric,
                "preset": effect.size.preset,
                "parameters": effect.size.parameters,
                "difference": effect.difference.value,
                "difference_low": effect.difference.low,
                "difference_high": effect.difference.high,
                "verdict": effect.word,
            }
            for arm_effects in read_result(self._ladder).effects
            for effect in arm_effects.effects
        ]
        return pd.DataFrame(rows)

    @property
    def answer(self) -> str:
        """Sentences that join the verdicts of the sizes."""
        return answer(read_result(self._ladder))

    def summary(self) -> str:
        """The effects by size and the answer, as `raycodellm run` prints them at its end."""
        return summary_text(read_result(self._ladder))

    def write_report(self) -> Folder:
        """Writes the joint report; returns its folder."""
        write_report(self._ladder, self._say)
        return self.folder / "report"

    def __repr__(self) -> str:
        return self.summary()
