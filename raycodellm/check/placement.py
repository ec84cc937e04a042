"""Finds out where a sweep's slots would run: on this machine, on a joined cluster, or elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from raycodellm import cluster, preflight
from raycodellm.config import Scaling, UserError


@dataclass(frozen=True)
class Placement:
    """The place where slots run, and how many at once."""

    text: str
    slots: int
    """Worker groups at once."""
    device: str | None = None
    """Name of the devices; None where it is not known."""


def find(scaling: Scaling, address: str | None, fit: preflight.MemoryFit, device: str | None) -> Placement:
    """Where the slots run. `address` and `device`: as on the command line; with a `device` alone, it is elsewhere.

    Raises `UserError` where no slot fits.
    """
    if cluster_address := joins(address):
        return _on_cluster(scaling, cluster_address, fit, device)
    if fit.groups is None:
        slots = scaling.slots if isinstance(scaling.slots, int) else 1
        where = f"on {device}, wherever that is: this machine was not looked at"
        return Placement(f"placement: a slot takes {_slot_text(scaling)} {where}\n{fit}", slots, device)
    return Placement(
        _placement_text(scaling, "a local Ray on this machine", fit.groups, fit),
        _num_slots(scaling, fit.groups),
        device,
    )


def joins(address: str | None) -> str | None:
    """Address of the cluster that would be joined; None where one would be started on this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def _on_cluster(scaling: Scaling, address: str, fit: preflight.MemoryFit, device: str | None) -> Placement:
    with tempfile.TemporaryDirectory() as temporary:
        connected = cluster.connect(address, scaling, log_to=Path(temporary) / "ray.log")
        reason, groups = connected.placement_problem(scaling), connected.slots_that_fit(scaling)
        cluster.disconnect()
    if reason:
        raise UserError(f"scaling: {reason}")
    fit = preflight.fit_on_cluster(fit, connected, scaling)
    devices = Counter(node.device for node in (*connected.nodes, *connected.autoscaled) if node.gpus and node.device)
    device = device or next((name for name, _ in devices.most_common(1)), None)
    return Placement(
        _placement_text(scaling, f"the cluster at {address}", groups, fit), _num_slots(scaling, groups), device
    )


def _placement_text(scaling: Scaling, where: str, groups: int, fit: preflight.MemoryFit) -> str:
    return f"placement: a slot takes {_slot_text(scaling)}; {where} holds {groups} at once\n{fit}"


def _slot_text(scaling: Scaling) -> str:
    return f"{scaling.workers} × ({scaling.cpus_per_worker:g} CPU, {scaling.gpus_per_worker:g} GPU)"


def _num_slots(scaling: Scaling, groups: int) -> int:
    return max(1, min(scaling.slots, groups) if isinstance(scaling.slots, int) else groups)
