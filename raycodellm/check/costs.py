"""Computes what a sweep costs: FLOPs, hours on a device, and money. Renders them as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from raycodellm import budget, model
from raycodellm.check.arm_ranges import in_ranges
from raycodellm.check.prices import Device, Prices
from raycodellm.config import Model, Scaling, UserError
from raycodellm.device_peaks import listed_peak_flops
from raycodellm.records import StageJob
from raycodellm.stage_store import Chain, taken_steps
from raycodellm.tables import Table, formats, table_lines

UTILISATION = 0.4
"""Share of a device's peak that training reaches: an order of magnitude; one run on an H200 reached 0.39 to 0.55."""
CPU_FLOPS = 3.0e10
"""FLOP/s that training reaches on one CPU core in fp32: an order of magnitude, for device hours."""
REFERENCE = "H100"
"""The device that hours are given for where none is named."""
CPU = "CPU"


@dataclass(frozen=True)
class Hardware:
    """The device that a sweep is reckoned for."""

    name: str | None
    """None where nothing tells it: hours are then those of `REFERENCE`, or of a CPU core."""
    on_gpus: bool
    tflops: float | None = None
    """Peak of one device in 10^12 FLOP/s; None takes it from the table of devices."""

    def flops_per_second(self, precision: str) -> float:
        """FLOP/s that training reaches. Raises `UserError` for a device whose peak is not known."""
        if not self.on_gpus:
            return CPU_FLOPS
        if self.tflops:
            return self.tflops * 1e12 * UTILISATION
        peak = listed_peak_flops((self.name or REFERENCE).upper(), precision)
        if peak is None:
            raise UserError(
                f"device {self.name}: its speed is not known; write `devices: {{{self.name}: {{tflops: PEAK, "
                "on_demand: PRICE}}` (peak in 10^12 FLOP/s) into a file and give it as --prices FILE"
            )
        return peak * UTILISATION


@dataclass(frozen=True)
class Hours:
    """Device hours of training: of each arm on its own, and of the sweep, which trains equal stages once."""

    arms: tuple[float, ...]
    """Each planned arm with all its seeds, as if nothing were shared."""
    sweep: float
    """Hours of all arms: of the planned ones, and as much for each of the others."""

    @cached_property
    def groups(self) -> list[tuple[list[int], float]]:
        """The arms that cost the same, with the hours of one of them."""
        by_hours: dict[str, tuple[list[int], float]] = {}
        for arm, hours in enumerate(self.arms):
            by_hours.setdefault(f"{hours:.4g}", ([], hours))[0].append(arm)
        return list(by_hours.values())


def job_flops(job: StageJob, vocab_size: int) -> float:
    """FLOPs that the stage's training takes."""
    per_token = _flops_per_token(job.model.model_dump_json(), vocab_size, job.stage.sequence_length)
    return job.stage.num_tokens * per_token


@lru_cache(maxsize=64)
def _flops_per_token(settings: str, vocab_size: int, sequence_length: int) -> float:
    """`settings`: the model's, as JSON. Kept, since a model given by its configuration is built each time."""
    return model.flops_per_token(Model.model_validate_json(settings), vocab_size, sequence_length)


def device_hours(
    chains: Sequence[Chain], num_seeds: int, vocab_size: int, hardware: Hardware, num_trials: int = 0
) -> Hours:
    """`chains`: of every planned arm with each of its `num_seeds` seeds, an arm's seeds together. `num_trials`: of the
    whole sweep, where that has more than are planned."""
    hours = {
        job.key: job_flops(job, vocab_size) / hardware.flops_per_second(job.stage.numerics.precision) / 3600
        for job in unique_jobs(chains)
    }
    trunk_steps = taken_steps(unique_jobs(chains))
    trained = [hours[job.key] * (1 - trunk_steps.get(job.key, 0) / job.stage.num_steps) for job in unique_jobs(chains)]
    unshared = [math.fsum(hours[job.key] for job in chain.stages) for chain in chains]
    arms = [math.fsum(unshared[start : start + num_seeds]) for start in range(0, len(unshared), num_seeds)]
    return Hours(tuple(arms), math.fsum(trained) * max(1.0, num_trials / len(chains)))


def unique_jobs(chains: Iterable[Chain]) -> list[StageJob]:
    """The stages of all trials, an equal stage once."""
    return list({job.key: job for chain in chains for job in chain.stages}.values())


def training_line(
    jobs: Sequence[StageJob], vocab_size: int, hours: Hours, hardware: Hardware, trials_per_planned: float = 1.0
) -> str:
    """One line: the FLOPs and device hours of training. `jobs`: of the planned trials; `trials_per_planned`: trials of
    the sweep for each of them, over 1 where not all are planned."""
    scale = max(1.0, trials_per_planned)
    trunk_steps = taken_steps(jobs)
    shares = {job.key: 1 - trunk_steps.get(job.key, 0) / job.stage.num_steps for job in jobs}
    flops = math.fsum(job_flops(job, vocab_size) * shares[job.key] for job in jobs) * scale
    device = (hardware.name or "GPU") if hardware.on_gpus else "CPU core"
    speeds = sorted({hardware.flops_per_second(job.stage.numerics.precision) for job in jobs})
    speed = " or ".join(f"{value:.2g}" for value in speeds)
    share = f", {UTILISATION:.0%} of its peak, which small models do not reach" if hardware.on_gpus else ""
    about = f"about {formats.rounded(hours.sweep, 2)} {device} hours"
    as_planned = ", if all trials are as the planned ones" if scale > 1 else ""
    return f"training: {flops:.2e} FLOPs, {about} at {speed} FLOP/s per {device}{share}{as_planned}"


def confirmation_line(confirming: float, hardware: Hardware) -> str:
    """One line: the device hours of the confirmation."""
    device = (hardware.name or "GPU") if hardware.on_gpus else "CPU core"
    return f"confirmation: at most about {formats.rounded(confirming, 2)} {device} hours more"


# ------------------------------------------------------------------------------------------------- money


def devices_at_once(scaling: Scaling, slots: int) -> float:
    """Devices that work at the same time."""
    return slots * budget.devices_per_slot(scaling)


def confirming(fresh: Sequence[Chain], num_seeds: int, vocab_size: int, hardware: Hardware) -> float:
    """Device hours of a confirmation in which every arm gets `num_seeds` fresh seeds. `fresh`: chains of one seed."""
    return num_seeds * device_hours(fresh, 1, vocab_size, hardware).sweep if fresh else 0.0


def money_lines(
    hours: Hours, device: Device, prices: Prices, scaling: Scaling, slots: int, confirming: float = 0.0
) -> list[str]:
    """Device hours and money per arm, of the sweep and of the head node, as lines of text.

    `slots`: worker groups at once, which decide how long the head node is needed. `confirming`: device hours of the
    confirmation at most.
    """
    rates = (device.on_demand / device.devices, None if device.spot is None else device.spot / device.devices)
    rows = [(in_ranges(arms), *_cells(arm_hours, *rates), "each" * (len(arms) > 1)) for arms, arm_hours in hours.groups]
    rows.append(("sweep, equal stages once", *_cells(hours.sweep, *rates), ""))
    if confirming:
        rows.append(("confirmation, at most", *_cells(confirming, *rates), ""))
    total_hours = hours.sweep + confirming
    if prices.head:
        at_once = devices_at_once(scaling, slots)
        head = total_hours / at_once * prices.head.on_demand
        name = f"head node, {formats.seconds(3600 * total_hours / at_once)}"
        device_word = "device" if at_once == 1 else "devices"
        rows.append((name, "", _money_text(head), _money_text(head), f"with {at_once:g} {device_word} at once"))
        rows.append((f"in all{', at most' if confirming else ''}", *_cells(total_hours, *rates, head), ""))
    header = ("arms", "device hours", f"on demand, {prices.currency}", f"spot, {prices.currency}", "")
    lines = table_lines(Table(header, rows, left=(0, 4)), indent="  ")
    return ["prices:", *lines, *(f"  {line}" for line in _notes(device, prices))]


def _notes(device: Device, prices: Prices) -> list[str]:
    day = f" ({device.date})" if device.date else ""
    spot = "spot not known" if device.spot is None else f"{device.spot:.4g} spot"
    count = f" for {device.devices} devices" if device.devices > 1 else ""
    where = f", {device.where}" if device.where else ""
    head = f"; head {prices.head.machine} {prices.head.on_demand:.4g}" if prices.head else "; no head node is counted"
    lines = [
        f"per hour: {device.machine}{where}{count} {device.on_demand:.4g} on demand, {spot}{head}{day}; prices move"
    ]
    lines.append("training alone: evaluations, starting nodes, idle minutes, disks and traffic come on top")
    return lines


def _cells(hours: float, on_demand: float, spot: float | None, head: float = 0.0) -> tuple[str, str, str]:
    """Hours and their money at each rate, with the head node's money on top."""
    amounts = (_money_text(hours * on_demand + head), _money_text(None if spot is None else hours * spot + head))
    return (formats.rounded(hours, 3), *amounts)


def _money_text(amount: float | None) -> str:
    return formats.NOTHING if amount is None else f"{amount:,.2f}" if amount >= 0.005 else "under 0.01"


def refuse_small_memory(name: str, device: Device, needed_gib: float, scaling: Scaling) -> None:
    """Raises `UserError` where a worker needs more memory than its share of the device has."""
    share = min(1.0, scaling.gpus_per_worker)
    if device.memory_gib and share and needed_gib > device.memory_gib * share:
        raise UserError(
            f"--device {name}: a worker needs {needed_gib:.3g} GiB, and its share of the device has "
            f"{device.memory_gib * share:.3g} GiB; choose a larger device, more scaling.deepspeed, or a smaller model"
        )
