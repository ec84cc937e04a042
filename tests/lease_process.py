"""A driver as a process of its own, without Ray, on a pretended machine of its own, with seconds in place of minutes.

`python lease_process.py SWEEP STORAGE MACHINE`: takes the run folder, says so, and runs a trial for each line that it
reads; says `refused` with the reason where another driver has the run folder, and `lost` where one has taken it over.
Then it tries again at the next line.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, search, sweep
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.sweep import ownership

say = functools.partial(print, flush=True)
HEARTBEAT = ownership.Heartbeat(beat=0.2, stale=1.5, look=0.1, settle=0.05)


def run_trials(file: config.SweepFile, storage: Folder, may_go_on: Callable[[], object]) -> None:
    """Runs the trials that are left, each once it `may_go_on`."""
    with sweep.lock(sweep.open_run(file, storage, say), say) as run, pytest.MonkeyPatch.context() as patch:
        num_left = search.num_trials(file) - sweep.tell_written_results(run, say)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, Cluster(), patch, lambda: next(now))
        say("owns")
        for name in map(str, range(num_left)):
            may_go_on()
            if run.hold.usurper is not None:
                say(f"lost to {run.hold.usurper}")
                return
            settings = driver.suggest(name)
            driver.end(name, driver.carry_out(settings))
            say(f"ended {settings['number']}")
        driver.results.write_table()
    say("done")


def main(text: str, storage: str, machine: str) -> None:
    ownership.REMOTE = HEARTBEAT
    ownership.Owner.__init__.__defaults__ = (*ownership.Owner.__init__.__defaults__[:-1], machine)
    file = config.parse(text)
    while True:
        try:
            run_trials(file, Folder(storage), sys.stdin.readline)
        except UserError as error:
            say(f"refused: {error}")
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text(), *sys.argv[2:])
