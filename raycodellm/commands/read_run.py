"""`raycodellm status`: what a run has done so far."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from raycodellm import search, storage_files
from raycodellm.commands.request import DONE
from raycodellm.files import Folder

if TYPE_CHECKING:
    from raycodellm.sweep import Run


def status(path: str, complain: Callable[[str], None]) -> int:
    """Prints the trials of the run folder `path` as a table; returns the exit code."""
    from raycodellm import display, sweep

    run = existing_run(path, complain)
    results = sweep.read_results(run, say=complain)
    metrics = [objective.metric for objective in run.sweep.search.objectives]
    display.console(sys.stdout).print(display.trial_table(results, metrics))
    num_ended = sum(result.state in ("complete", "failed") for result in results)
    print(f"{num_ended} of {search.num_trials(run.file)} trials ended; {run.folder.uri}")
    return DONE


def existing_run(path: str, complain: Callable[[str], None]) -> Run:
    """Raises `UserError` where `path` is no run folder."""
    from raycodellm import sweep

    folder = Folder(path)
    return sweep.Run(storage_files.read_sweep_file(folder, complain), folder.parent)
