"""The part of a source that a stage draws from: how many sequences, and which documents are held out of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from raycodellm.config import Stage, Sweep, UserError
from raycodellm.config.text_domains import is_held_out, measured_domains, sources_of
from raycodellm.files import Folder
from raycodellm.records import HeldOutSource, SourceSlice
from raycodellm.tokens import Reading

EVALUATED_TOKENS = 20_000
"""Tokens held out of each source that the evaluation measures, where no stage holds out more."""
EVALUATED_SHARE = 20
"""A smaller source holds out one part in so many."""


class Corpus(Protocol):
    """The part of a `tokens.TokenStore` that the stage store needs."""

    @property
    def folder(self) -> Folder: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def num_tokens(self) -> int: ...

    def num_sequences(self, sequence_length: int, reading: Reading) -> int: ...

    def held_out(self, num_tokens: int) -> int: ...


def slice_sources(
    sweep: Sweep,
    stage: Stage,
    corpora: Mapping[str, Corpus],
    drawn_tokens: Mapping[str, int],
    planned: tuple[tuple[int, ...], ...],
) -> tuple[SourceSlice, ...]:
    """The slice of each source that the stage draws from, in the order of `sweep.drawn_sources(stage)`.

    `drawn_tokens`: tokens that the stages before this one draw from each source. `planned`: per phase of the stage, the
    sequences planned of each source.
    """
    per_source = zip(*planned, strict=True)
    return tuple(
        _slice(sweep, stage, name, corpora[name], drawn_tokens[name], sequences)
        for name, sequences in zip(sweep.drawn_sources(stage), per_source, strict=True)
    )


def _slice(
    sweep: Sweep, stage: Stage, name: str, corpus: Corpus, drawn_tokens: int, planned: tuple[int, ...]
) -> SourceSlice:
    held_out_tokens, held_tokens = held_out_of(sweep, name, corpus)
    trained_tokens = corpus.num_tokens - held_tokens
    group_size = _shuffle_group_size(sweep, stage, name, trained_tokens)
    reading = Reading(stage.packing, held_out_tokens)
    num_sequences, num_measured = corpus.num_sequences(stage.sequence_length, reading), 0
    if stage.held_out is not None:
        max_measured = corpus.num_sequences(stage.sequence_length, reading._replace(measured=True))
        num_measured = min(max_measured, max(1, stage.held_out.tokens // stage.sequence_length))
    used_sequences = math.floor(num_sequences * _share_used(sweep, name, trained_tokens) + 1e-9)
    return SourceSlice(
        name=name,
        kind=sweep.sources[name].kind,
        store=corpus.folder.uri,
        num_sequences=used_sequences // group_size * group_size,
        num_sequences_consumed=-(-drawn_tokens // stage.sequence_length),
        shuffle_group_size=group_size,
        planned=planned,
        held_out_sequences=num_measured,
        held_out_tokens=held_out_tokens,
    )


def held_out_of(sweep: Sweep, name: str, corpus: Corpus) -> tuple[int, int]:
    """(tokens asked for in held-out documents, tokens that these documents have) of a source.

    The same documents are held out of all stages of the sweep, so no stage trains on what another one, or the
    evaluation, measures.
    """
    requests = [
        (stage.held_out.tokens, stage)
        for stage in sweep.stages
        if stage.held_out is not None and name in sweep.drawn_sources(stage)
    ]
    requested_tokens = max((max(num_tokens, stage.sequence_length) for num_tokens, stage in requests), default=0)
    if is_held_out(sweep, name):
        requested_tokens = max(requested_tokens, min(EVALUATED_TOKENS, corpus.num_tokens // EVALUATED_SHARE))
    held_tokens = corpus.held_out(requested_tokens) if requested_tokens else 0
    if requests and 2 * held_tokens > corpus.num_tokens > 0:
        num_tokens, largest_stage = max(requests, key=lambda request: request[0])
        raise UserError(
            f"stages.{largest_stage.name}.held_out.tokens: found {num_tokens}, but whole documents of so many hold "
            f"{held_tokens:,} of source {name!r}'s {corpus.num_tokens:,} tokens, over half; use at most "
            f"{corpus.num_tokens // 2}, shorter documents, or more data"
        )
    return requested_tokens, held_tokens


def held_out_sources(sweep: Sweep, corpora: Mapping[str, Corpus], tokenizer: Folder) -> tuple[HeldOutSource, ...]:
    """The held-out documents that the sweep's evaluation measures, by domain and source."""
    return tuple(
        HeldOutSource(
            source=name,
            domain=domain,
            store=corpora[name].folder.uri,
            fingerprint=corpora[name].fingerprint,
            tokenizer=tokenizer.uri,
            num_tokens=held_out_of(sweep, name, corpora[name])[0],
        )
        for domain in measured_domains(sweep)
        for name in sources_of(sweep, domain)
    )


def _shuffle_group_size(sweep: Sweep, stage: Stage, name: str, num_tokens: int) -> int:
    """Sequences of this stage that make the least common multiple of the lengths in which the trial's stages read the
    source. 1 where the source holds no such multiple, and where examples or documents are packed whole, since each
    length packs them in its own way."""
    if sweep.sources[name].is_instruct or stage.packing != "concatenate":
        return 1
    common_length = math.lcm(*(other.sequence_length for other in sweep.stages if name in sweep.drawn_sources(other)))
    return common_length // stage.sequence_length if common_length <= num_tokens else 1


def _share_used(sweep: Sweep, name: str, num_tokens: int) -> float:
    """Share of the source's `num_tokens` that is used: below 1 where `match_repetition` asks the sweep to repeat its
    data as often as a larger target run would.

    A run over U tokens of a source, with a share m of T tokens, makes m T / U passes over it. That number is equal for
    any m when U is proportional to T.
    """
    target = sweep.match_repetition
    if target is None or name not in target.source_tokens:
        return 1.0
    budget = sum(stage.num_tokens for stage in sweep.stages)
    needed_tokens = target.source_tokens[name] * budget / target.target_tokens
    if needed_tokens > num_tokens:
        raise UserError(
            f"match_repetition.source_tokens.{name}: {target.source_tokens[name]:,} of {target.target_tokens:,} tokens "
            f"are {math.ceil(needed_tokens):,} for this sweep's {budget:,}, but the source holds {num_tokens:,}; "
            "give it more data, the stages fewer tokens, or leave the source out"
        )
    return needed_tokens / num_tokens
