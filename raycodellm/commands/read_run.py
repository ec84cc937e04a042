"""`raycodellm status`: what a run, or a ladder of runs, has done so far."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from raycodellm.commands.request import DONE
from raycodellm.files import Folder
from raycodellm.storage_files import LADDER


def status(path: str, complain: Callable[[str], None], show_all: bool = False, as_json: bool = False) -> int:
    """Prints how the run in the folder `path` stands, and its newest trials or all; of a ladder how each size stands.
    Returns the exit code.

    `as_json`: prints one JSON object with all trials instead.
    """
    if is_ladder(path):
        return _ladder_status(path, complain, as_json)
    from raycodellm import display, runs, verdict

    run = runs.open_run(path, complain)
    run_status = run.status
    if as_json:
        print(json.dumps(run_status.as_json(), indent=1))
        return DONE
    console = display.console(sys.stdout)
    metrics = [objective.metric for objective in run.sweep.search.objectives]
    max_rows = None if show_all else display.NEWEST
    table, num_older = display.newest_trials(run_status.results, metrics, console.width, max_rows)
    if num_older:
        print(f"{display.older_line(num_older)}; --all shows them")
    if run_status.results:
        console.print(display.rich_table(table))
    if (
        run_status.verdict is not None
        and run_status.verdict["reference"] is not None
        and run_status.verdict["verdicts"]
    ):
        console.print(display.rich_table(verdict.marks(run_status.verdict)))
        console.print(f"against arm {run_status.verdict['reference']}: {verdict.KEY}", markup=False)
    console.print(str(run_status), markup=False)
    return DONE


def is_ladder(path: str) -> bool:
    """True for the folder of a ladder, which is no run folder."""
    return Folder(path).exists(LADDER)


def _ladder_status(path: str, complain: Callable[[str], None], as_json: bool) -> int:
    from raycodellm import display, ladder

    ladder_status = ladder.LadderStatus.of(ladder.open_ladder(path), complain)
    if as_json:
        print(json.dumps(ladder_status.as_json(), indent=1))
        return DONE
    console = display.console(sys.stdout)
    console.print(display.rich_table(ladder_status.table))
    console.print(ladder.summary_text(ladder.read_result(ladder_status.ladder), console.width), markup=False)
    return DONE
