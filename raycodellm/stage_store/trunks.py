"""The constant-rate trunk of a stage: stages that differ only in their tokens, or in where their decay begins, train
their first steps alike, so that one goes on from a checkpoint of another.

Warm up, stay, decay: Hu et al. 2024 (MiniCPM, arXiv 2404.06395); branches from one run: Hägele et al. 2024 (arXiv
2405.18392).

Each stage is compared with the trunk, which has no end, and not with another stage: as many steps of it are the trunk's
as have the trunk's rate and the trunk's order of data. So the state after step k of a trunk has one meaning, whoever
trained it. A stage's identity does not hold its trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from raycodellm import identity, mixture, schedule
from raycodellm.files import Folder
from raycodellm.learning_rate import trunk_rate
from raycodellm.records import StageJob, Trunk

TRUNKS = "trunks"
"""Folder of a storage for the checkpoints of trunks, each trunk under its identity."""


def find_trunk(
    job: StageJob,
    curve: schedule.Schedule,
    used_sources: Sequence[identity.UsedSource],
    compiled: bool,
    parent: str,
    storage: Folder,
) -> Trunk | None:
    """The trunk of a stage, without the steps that it keeps; None where no step of it could be another stage's.

    `used_sources` and `parent`: as they enter the stage's identity.
    """
    stage = job.stage
    rate = trunk_rate(stage.learning_rate, stage.num_steps, job.start_rate)
    if rate is None:
        return None
    is_constant = len(curve.weights) == 2 and len(job.phase_ends) == 1 and curve.interpolation == "step"
    num_same_order = _endless_positions(curve, stage.num_sequences) if is_constant else stage.num_sequences
    num_steps = min(rate.num_steps, num_same_order // stage.batch_sequences)
    # A finished stage says the loss of its last tenth; a branch counts all of these steps itself.
    num_taken = min(num_steps, stage.num_steps - -(-stage.num_steps // 10))
    if stage.averaged_steps:
        num_taken = min(num_taken, min(stage.averaged_steps) - 1)
    if num_taken < 1:
        return None
    names = [source.name for source in job.sources]
    order: Any = [vars(source) for source in used_sources]
    if is_constant:
        order = [{**source, "weights": source["weights"][0]} for source in order]
    else:  # the mixture is a function of the stage's progress: only stages of equal length have equal order
        order = [order, list(curve.progress), curve.interpolation, list(job.phase_ends), stage.num_sequences]
    own_identity = identity.trunk_identity(stage, (rate.peak, rate.warm), order, names, compiled, parent)
    return Trunk((storage / TRUNKS / own_identity).uri, num_steps, num_taken)


@lru_cache(maxsize=256)
def _endless_positions(curve: schedule.Schedule, num_sequences: int) -> int:
    return mixture.endless_positions(curve, num_sequences)


def with_kept_steps(job: StageJob, others: Sequence[StageJob]) -> StageJob:
    """The job with the steps after which it keeps a checkpoint for `others`, stages that other trials of the sweep may
    have in its place; without a trunk where none of them shares any."""
    trunk = job.trunk
    sharing = [
        other.trunk
        for other in others
        if trunk is not None and other.trunk is not None and other.trunk.folder == trunk.folder and other.key != job.key
    ]
    if trunk is None or not sharing:
        return replace(job, trunk=None)
    kept_steps = sorted({min(trunk.num_steps, other.num_taken) for other in sharing})
    return replace(job, trunk=replace(trunk, kept_steps=tuple(kept_steps)))


def branch_step(trunk: Trunk | None, others: Iterable[Trunk]) -> int:
    """Steps that a stage of this trunk need not train once `others`, the trunks of other stages, are trained: the last
    one that it may take among those that they keep."""
    if trunk is None:
        return 0
    kept_steps = (step for other in others if other.folder == trunk.folder for step in other.kept_steps)
    return max((step for step in kept_steps if step <= trunk.num_taken), default=0)


def taken_steps(jobs: Iterable[StageJob]) -> dict[str, int]:
    """Steps of each of these stages, by key, that it takes over from another one, if each waits for those of a shorter
    trunk."""
    steps_by_key: dict[str, int] = {}
    earlier: dict[str, list[Trunk]] = {}
    with_trunk = ((job.trunk.num_steps, job.key, job.trunk) for job in jobs if job.trunk is not None)
    for _, key, trunk in sorted(with_trunk, key=lambda entry: entry[:2]):
        shorter_trunks = earlier.setdefault(trunk.folder, [])
        steps_by_key[key] = branch_step(trunk, shorter_trunks)
        shorter_trunks.append(trunk)
    return steps_by_key
