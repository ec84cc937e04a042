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


def is_ladder(path: str) -> bool:
    """True for the folder of a ladder, which is no run folder."""
    return Folder(path).exists(LADDER)


def _ladder_status(path: str, complain: Callable[[str], None], as_json: bool) -> int:
    from raycodellm import display, ladder

    found = ladder.LadderStatus.of(ladder.open_ladder(path), complain)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
        return DONE
    console = display.console(sys.stdout)
    console.print(display.rich_table(found.table))
    console.print(ladder.summary_text(ladder.read_result(found.ladder), console.width), markup=False)
    return DONE
