"""The driver of a sweep as another process sees it: what its owner file tells, which it writes anew as it lives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raycodellm.dispatch import Snapshot
from raycodellm.files import DamagedFile, Folder
from raycodellm.records import from_json
from raycodellm.sweep.folder import Run
from raycodellm.sweep.ownership import OWNER, Owner


@dataclass(frozen=True)
class Sighting:
    """The sweep as its driver last saw it."""

    at: float
    """Unix seconds, by the driver's clock."""
    elapsed: float
    """Seconds since the driver began."""
    snapshot: Snapshot


@dataclass(frozen=True)
class Driver:
    """A driver that runs a sweep, as far as its owner file tells."""

    name: str
    """`process 123 on node`."""
    sighting: Sighting | None
    """None before its trials begin."""


def sighting(snapshot: Snapshot, at: float, elapsed: float) -> Sighting:
    """The part of a snapshot that a driver tells: little, since the file is written often.

    `at`: Unix seconds; `elapsed`: seconds since the driver began.
    """
    brief = replace(snapshot, ended={}, chains={}, notes=(), busy_seconds={})
    return Sighting(at, elapsed, brief)


def running_driver(run: Run) -> Driver | None:
    """The driver that runs the sweep; None if there is no driver, or if it is known to have ended."""
    return driver_of(run.folder)


def driver_of(folder: Folder) -> Driver | None:
    """The driver that owns the run folder; None if there is no driver, or if it is known to have ended."""
    owner = Owner(folder)
    content = owner.read()
    if content is None or owner.may_take_up(content):
        return None
    try:
        last_sighting = (
            from_json(Sighting, content["sighting"], f"{folder}/{OWNER}") if content.get("sighting") else None
        )
    except DamagedFile:  # of another version: only the trials tell how the sweep stands
        last_sighting = None
    return Driver(str(content["holder"]), last_sighting)
