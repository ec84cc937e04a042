"""Stages that wait until another stage has trained the steps that both share (see `stage_store.trunks`).

A stage waits only for one that runs or could run at once, and that comes before it in an order without ties. So no two
stages wait for each other, and a stage whose forerunner fails or is cancelled trains all of its steps itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raycodellm.dispatch.nodes import JobNode, JobState
from raycodellm.records import StageJob, Trunk
from raycodellm.stage_store import branch_step, taken_steps


def trunk_of(node: JobNode) -> Trunk | None:
    return node.job.trunk if isinstance(node.job, StageJob) else None


def waits_for_trunk(node: JobNode, relatives: Iterable[JobNode]) -> bool:
    """True if the stage should not be taken yet: a stage that comes before it will keep a later step than any that is
    kept now.

    Waiting costs no time while the other stage runs: it has trained steps that this one would train again.
    `relatives`: the stages of its trunk, in any state.
    """
    trunk = trunk_of(node)
    if trunk is None or node.has_begun:
        return False
    others = [
        (other, other_trunk)
        for other in relatives
        if other is not node and (other_trunk := trunk_of(other)) is not None
    ]
    kept_step = branch_step(trunk, (_kept_trunk(other_trunk, other) for other, other_trunk in others))
    coming_step = branch_step(
        trunk,
        (
            other_trunk
            for other, other_trunk in others
            if other.state in (JobState.WAITING, JobState.RUNNING) and _order(other, other_trunk) < _order(node, trunk)
        ),
    )
    return coming_step > kept_step


def _kept_trunk(trunk: Trunk, node: JobNode) -> Trunk:
    """The trunk with the steps that the stage has kept already."""
    if node.state == JobState.DONE:
        return trunk
    return replace(trunk, kept_steps=tuple(step for step in trunk.kept_steps if step <= node.kept_step))


def _order(node: JobNode, trunk: Trunk) -> tuple[int, str]:
    """The shorter trunk comes first."""
    return trunk.num_steps, node.job.key


def tokens_taken_over(nodes: Iterable[JobNode]) -> dict[str, int]:
    """Tokens that each stage of a trunk takes over from another one, by key, when all goes well."""
    jobs = {node.job.key: node.job for node in nodes if isinstance(node.job, StageJob)}
    return {key: steps * jobs[key].stage.batch_tokens for key, steps in taken_steps(jobs.values()).items()}
