"""Checks that the sources hold enough data for a sweep's chains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm.config import INSTRUCT_KINDS, Sweep, UserError
from raycodellm.records import SourceSlice, StageJob
from raycodellm.stage_store.chains import Chain


def check_epochs(sweep: Sweep, chains: Sequence[Chain]) -> None:
    """Checks that every source that a stage draws from holds at least one sequence, and that none is passed over more
    often than its `max_epochs`. Raises `UserError` with the numbers."""
    for chain in chains:
        for job in chain.stages:
            for source in job.sources:
                if sum(source.planned):
                    _check_source(job, source, sweep.sources[source.name].max_epochs)


def _check_source(job: StageJob, source: SourceSlice, max_epochs: float | None) -> None:
    length = job.stage.sequence_length
    if not source.num_sequences:
        unit = "whole sequence" if source.kind not in INSTRUCT_KINDS else "example that fits into a sequence"
        raise UserError(
            f"sources.{source.name}: holds no {unit} of {length} tokens for stage {job.stage.name!r}; "
            "give it more data or the stage another sequence_length"
        )
    drawn_sequences = source.num_sequences_consumed + sum(source.planned)
    if max_epochs is not None and drawn_sequences / source.num_sequences > max_epochs + 1e-9:
        held_tokens, drawn_tokens = source.num_sequences * length, drawn_sequences * length
        raise UserError(
            f"sources.{source.name}: a trial draws {drawn_tokens:,} tokens of it by the end of stage "
            f"{job.stage.name!r}, {drawn_tokens / held_tokens:.2f} epochs of its {held_tokens:,}; max_epochs is "
            f"{max_epochs:g}: give it {math.ceil(drawn_tokens / max_epochs):,} tokens, a smaller share, or a larger "
            "max_epochs"
        )
