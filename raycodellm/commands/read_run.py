"""`raycodellm status`: what a run has done so far."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from raycodellm.commands.request import DONE


def status(path: str, complain: Callable[[str], None], show_all: bool = False, as_json: bool = False) -> int:
    """Prints how the run in the folder `path` stands, and its newest trials or all; returns the exit code.

    `as_json`: prints one JSON object with all trials instead.
    """
    from raycodellm import display, runs, verdict

    run = runs.open_run(path, complain)
    found = run.status
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
        return DONE
    console = display.console(sys.stdout)
    metrics = [objective.metric for objective in run.sweep.search.objectives]
    most = None if show_all else display.NEWEST
    table, num_older = display.newest_trials(found.results, metrics, console.width, most)
    if num_older:
        print(f"{display.older_line(num_older)}; --all shows them")
    if found.results:
        console.print(display.rich_table(table))
    if found.verdict is not None and found.verdict["reference"] is not None and found.verdict["verdicts"]:
        console.print(display.rich_table(verdict.marks(found.verdict)))
        console.print(f"against arm {found.verdict['reference']}: {verdict.KEY}", markup=False)
    console.print(str(found), markup=False)
    return DONE
