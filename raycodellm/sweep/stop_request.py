"""Asks the driver that owns a run folder to stop, wherever that driver runs, and waits until it has ended.

A driver of this machine gets a signal. A driver elsewhere finds the request in its owner file, which it reads now and
then anyway (`ownership`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.sweep.ownership import HEARD, STOP, Owner

SAY_SECONDS = 10.0
"""Seconds between two lines about the wait."""


def stop(
    folder: Folder,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Stops the run's driver; returns its name when it has ended, None if none runs.

    Raises `UserError` for a driver of this machine that belongs to another user.
    """
    owner = Owner(folder)
    first_content = last_content = owner.read()
    if first_content is None or owner.may_take_up(first_content):
        return None
    driver = str(first_content["holder"])
    say(f"asking {driver} to stop")
    if owner.runs_here(first_content):
        _signal(int(first_content["pid"]), driver)
    began = said_at = changed_at = clock()
    while (
        (content := owner.read()) is not None
        and content["token"] == first_content["token"]
        and not owner.may_take_up(content)
    ):
        now = clock()
        if content != last_content:
            last_content, changed_at = content, now
        if not owner.runs_here(content):
            if now - changed_at > owner.silence_seconds(content):
                say(f"{driver} has not been heard of for {now - changed_at:.0f} s, so it is gone")
                return driver
            if content.get(STOP) is None:  # at first, and where the driver's own beat was faster
                last_content = owner.ask_to_stop(content)
        if now - said_at >= SAY_SECONDS:
            said_at = now
            say(f"waiting for {driver}, {now - began:.0f} s so far: {_wait_reason(owner, content)}")
        sleep(owner.heartbeat.look)
    return driver


def _wait_reason(owner: Owner, content: Mapping[str, Any]) -> str:
    if owner.runs_here(content) or content.get(STOP) == HEARD:
        return "running stages save their checkpoints"
    return "it has not answered yet"


def _signal(pid: int, driver: str) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # it has ended meanwhile
        return
    except PermissionError as error:
        raise UserError(f"{driver} belongs to another user; only that user can stop it") from error
