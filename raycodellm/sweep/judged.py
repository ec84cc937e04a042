"""The verdict that a finished run was given, beside the one that this version's rules give from the same trials."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from raycodellm import storage_files, verdict
from raycodellm.config import SweepFile
from raycodellm.records import ENDED
from raycodellm.sweep.confirmation import Standing
from raycodellm.sweep.folder import Run

logger = logging.getLogger(__name__)

WRITTEN = "report/verdict.json"


class Judged(NamedTuple):
    """A finished run, as it was judged and as it would be."""

    line: str
    """The line that the user reads; empty where nothing differs."""
    is_kept: bool
    """True if the run is finished by the rules that judged it, while by those of this version it would train more:
    nothing is trained then."""


def judged(run: Run, standing: Standing) -> Judged:
    """Compares the run's written verdict with the rules of this version. To be called before trials are opened again.

    A run counts as judged if its `verdict.json` says that all is done and every trial that has ended was counted.
    """
    document = storage_files.attempt(lambda: _written(run), logger.warning) or {}
    num_ended = sum(result.state in ENDED for result in run.results_at_start)
    looks = standing.looks
    return compare(run.file, document, num_ended, looks.phase if looks is not None else "done")


def compare(file: SweepFile, written: dict[str, Any], num_ended: int, phase: str) -> Judged:
    """`written`: the content of `verdict.json`; `num_ended`: trials that have ended; `phase`: of the looks now."""
    confirm = file.example().search.confirm
    is_judged = written.get("phase") == "done" and written.get("num_ended") == num_ended
    if confirm is None or not is_judged or written.get("looks") != list(confirm.seeds):
        return Judged("", False)
    written_rules = written.get("rules")
    old_rules = "the rules of an older version" if written_rules is None else f"version {written_rules} of the rules"
    if written_rules == verdict.RULES:
        return Judged("", False)
    new_rules = f"version {verdict.RULES}"
    if phase != "confirm":
        return Judged(f"the verdict of this run was given by {old_rules}; it is worked out anew by {new_rules}", False)
    return Judged(
        f"the verdict of this finished run was given by {old_rules}; {new_rules} would ask for more fresh seeds, and "
        f"none is trained; to have them trained, delete {WRITTEN} of the run folder",
        True,
    )


def stays_judged(judgement: Judged, run: Run) -> bool:
    """True if nothing is to be trained since the run was judged. False where a trial was opened again."""
    return judgement.is_kept and all(result.state in ENDED for result in run.results_at_start)


def _written(run: Run) -> dict[str, Any]:
    return run.folder.read_json(WRITTEN) if run.folder.exists(WRITTEN) else {}
