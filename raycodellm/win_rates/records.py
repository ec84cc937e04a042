"""The files of a run's win rates, in its folder `win-rate`.

verdicts/*.parquet    what the judge said to each question; written as it answers, and never again
judgements.parquet    a row per arm, seed and instruction
progress.json         how far the judge was asked; written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raycodellm import storage_files
from raycodellm.files import Folder
from raycodellm.records import as_json, from_json
from raycodellm.win_rates.plan import LeftOut

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "win-rate"
VERDICTS, JUDGEMENTS, PROGRESS = "verdicts", "judgements.parquet", "progress.json"
_TYPES = {
    "arm": "int64",
    "seed": "int64",
    "trial": "int64",
    "reference_trial": "int64",
    "item": "int64",
    "reference_first": "string",
    "arm_first": "string",
    "score": "double",
    "is_judged": "bool",
    "characters": "int64",
    "reference_characters": "int64",
    "reference_first_key": "string",
    "arm_first_key": "string",
}
"""Columns of `judgements.parquet`; docs/evaluation.md says what they mean."""

Judgements = Sequence[dict[str, Any]]
"""Rows of `judgements.parquet`."""


@dataclass(frozen=True)
class Progress:
    """The state of the questions to the judge of a sweep."""

    judge: str
    """Name of the judge's model."""
    verdict_tokens: int
    reference: int
    """Number of the reference arm."""
    phase: Literal["search", "confirm"]
    num_questions: int
    """Different questions about the answers of all pairs of trials."""
    num_answered: int
    num_too_long: int
    """Instructions, summed over pairs of trials, that one of the models has no room for."""
    why: str = ""
    """Why the judge was given up; empty where each question was asked."""
    left_out: LeftOut = LeftOut()  # noqa: RUF009  # frozen
    models: tuple[str, ...] = ()
    """Names by which the endpoint called the models that answered; one, if it is one judge."""

    @property
    def num_missing(self) -> int:
        return self.num_questions - self.num_answered


@dataclass(frozen=True)
class WinRates:
    """The win rates that a run's files tell."""

    progress: Progress
    judgements: Judgements


def table_of(rows: Judgements) -> pa.Table:
    import pyarrow as pa

    names = {"int64": pa.int64(), "string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    return pa.Table.from_pylist(list(rows), pa.schema([(name, names[kind]) for name, kind in _TYPES.items()]))


def write_win_rates(run: Folder, rates: WinRates) -> None:
    """Writes the judgements, then the progress that speaks of them."""
    folder = run / FOLDER
    folder.write_table(JUDGEMENTS, table_of(rates.judgements))
    folder.write_json(PROGRESS, as_json(rates.progress))


def read_win_rates(run: Folder, say: Callable[[str], Any]) -> WinRates | None:
    """The win rates of a run; None where it has none. `say` hears of a damaged file."""
    folder = run / FOLDER

    def read() -> WinRates:
        progress = from_json(Progress, folder.read_json(PROGRESS), f"{folder}/{PROGRESS}")
        return WinRates(progress, folder.read_table(JUDGEMENTS, _TYPES).to_pylist())

    return storage_files.attempt(read, say)
