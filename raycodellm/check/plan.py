"""The jobs that a sweep would run, worked out before its token stores exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycodellm import config, preflight, search, stage_store, tokens
from raycodellm.check import costs
from raycodellm.config import Sweep, SweepFile, Unreachable
from raycodellm.files import Folder
from raycodellm.identity import Contents
from raycodellm.records import CONFIRM_SEEDS

MOST_TRIALS = 200
"""Trials that are planned; of a larger sweep the first ones."""


@dataclass(frozen=True)
class SizedCorpus:
    """A token store that exists or is to be made, as `stage_store.chain` needs it."""

    folder: Folder
    num_tokens: int
    fingerprint: str
    store: tokens.TokenStore | None = None
    """None until the token store is finished."""
    is_known: bool = True
    """False where the number of tokens is not known."""
    is_instruct: bool = False
    """True for examples, which stay whole: the rest of their last sequence is padding."""

    def num_sequences(self, sequence_length: int, reading: tokens.Reading) -> int:
        """Sequences that a stage can read; an estimate without a finished store."""
        if self.store is not None:
            return self.store.num_sequences(sequence_length, reading)
        held_out_tokens = reading.held_out_tokens
        num_tokens = held_out_tokens if reading.measured else max(0, self.num_tokens - held_out_tokens)
        is_padded = self.is_instruct or reading.packing == "best_fit"
        return -(-num_tokens // sequence_length) if is_padded else num_tokens // sequence_length

    def held_out(self, num_tokens: int) -> int:
        """Tokens of the held-out documents; without a finished store, about as many as the stage asks for."""
        return num_tokens if self.store is None else self.store.held_out(num_tokens)


def first_arms(file: SweepFile) -> list[dict[str, object]]:
    """The arms of the first `MOST_TRIALS` trials."""
    return search.preview(file, max(1, MOST_TRIALS // file.example().search.replicates))


def planned(
    file: SweepFile,
    arms: Sequence[Mapping[str, object]],
    corpora: Mapping[str, SizedCorpus],
    storage: Folder,
    tokenizer_fingerprint: str,
    contents: Contents,
) -> list[stage_store.Chain]:
    """The jobs of every arm with each of its seeds, of the first `MOST_TRIALS` seeds.

    Raises `UserError` where a source has too few tokens, at any end of the search space.
    """
    sweep = file.example()
    materials = _materials(sweep, corpora, storage, tokenizer_fingerprint, contents)
    seeds = range(sweep.seed, sweep.seed + min(sweep.search.replicates, MOST_TRIALS))

    siblings: stage_store.Siblings = {}

    def chain(params: Mapping[str, object], seed: int) -> stage_store.Chain:
        return stage_store.trial_chain(file, params, seed, materials, siblings)

    chains = [chain(arm, seed) for arm in arms for seed in seeds]
    probe_sweeps = (config.resolve(file, point) for point in file.probe_points())
    probe_chains = (stage_store.chain(probe_sweep, sweep.seed, materials) for probe_sweep in probe_sweeps)
    stage_store.check_epochs(sweep, [*chains, *probe_chains])
    return chains


def sized(sizes: Mapping[str, tokens.SourceSize]) -> dict[str, SizedCorpus]:
    """The token stores of these sizes, as `planned` needs them."""
    return {
        name: SizedCorpus(size.folder, size.num_tokens, size.fingerprint, size.store, size.is_known, size.is_instruct)
        for name, size in sizes.items()
    }


def require_enough_tokens(file: SweepFile, storage: Folder) -> None:
    """Raises `UserError` where a trial would pass over a source more often than it may; exact once the token stores are
    there. Starts no Ray."""
    sizes = tokens.inspect(file.example(), storage, items_of(file))
    fingerprint = next(iter(sizes.values())).tokenizer_fingerprint
    planned(file, first_arms(file)[:1], sized(sizes), storage, fingerprint, stage_store.contents_of_file(file))


def fresh_seed(
    file: SweepFile,
    arms: Sequence[Mapping[str, object]],
    searched: Sequence[stage_store.Chain],
    corpora: Mapping[str, SizedCorpus],
    storage: Folder,
    tokenizer_fingerprint: str,
    contents: Contents,
) -> list[stage_store.Chain]:
    """The jobs of one fresh seed of the confirmation: of the reference, which is the first of `arms`, and of the arms
    that train most. Every further fresh seed has as many. Empty without a confirmation.

    `searched`: from `planned`.
    """
    num_confirmed = search.num_confirmed(file)
    if not num_confirmed:
        return []
    sweep, num_seeds = file.example(), len(searched) // len(arms)
    materials = _materials(sweep, corpora, storage, tokenizer_fingerprint, contents)

    def training_flops(arm: int) -> float:
        return sum(costs.job_flops(job, materials.vocab_size) for job in searched[arm * num_seeds].stages)

    largest_arms = sorted(range(1, len(arms)), key=training_flops, reverse=True)[: num_confirmed - 1]
    seed = sweep.seed + CONFIRM_SEEDS
    return [stage_store.trial_chain(file, arms[arm], seed, materials) for arm in (0, *sorted(largest_arms))]


def _materials(
    sweep: Sweep,
    corpora: Mapping[str, SizedCorpus],
    storage: Folder,
    tokenizer_fingerprint: str,
    contents: Contents,
) -> stage_store.Materials:
    return stage_store.Materials(
        corpora=corpora,
        tokenizer=Folder("tokenizer"),  # its address is no part of an identity
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocab_size=preflight.vocab_size(sweep),
        storage=storage,
        contents=contents,
        exact=all(corpus.is_known for corpus in corpora.values()),
    )


def items_of(file: SweepFile, *, elsewhere: bool = False) -> dict[str, list[str]] | None:
    """The texts of the evaluation's items; None where no source is cleaned of them. Loading them imports lm-eval.

    `elsewhere`: the sweep is for another machine; items that this machine does not reach are then left out.
    """
    if not tokens.asks_for_items(file.example()):
        return None
    from raycodellm import evaluation

    try:
        return evaluation.items_of_sweep(file)
    except Unreachable:
        if not elsewhere:
            raise
        return {}
