"""Describes what a sweep would do, without starting anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from raycodellm import cluster, model, preflight, stage_store, tokens
from raycodellm.check import tables
from raycodellm.check.plan import SizedCorpus, first_arms, items_of, planned
from raycodellm.config import Scaling, Sweep, SweepFile, UserError
from raycodellm.files import Folder

CPU_FLOPS = 3.0e10
"""FLOP/s that training reaches on one CPU core in fp32: an order of magnitude, for device hours."""
GPU_FLOPS = 4.0e14
"""FLOP/s that training reaches on one data-centre GPU in bf16: two fifths of an H100's 990 TFLOP/s."""


def describe(file: SweepFile, storage: Folder, address: str | None) -> str:
    """The arms, the stage tree, tokens and epochs, parameters, FLOPs, device hours, and whether a trial can be placed.

    Raises `UserError` for whatever `run` would refuse.
    """
    sweep = file.example()
    memory_fit = preflight.check_before_start(file, address)
    arms = first_arms(file)
    items = items_of(file)
    sizes = tokens.inspect(sweep, storage, items)
    corpora = {name: SizedCorpus(s.folder, s.num_tokens, s.fingerprint, s.store) for name, s in sizes.items()}
    tokenizer_fingerprint = next(iter(sizes.values())).tokenizer_fingerprint
    contents = stage_store.contents_of_file(file)
    chains = planned(file, arms, corpora, storage, tokenizer_fingerprint, contents)
    parts = [
        "\n".join(tables.arms(file, arms)),
        "\n".join(tables.stages(chains, {name for name, size in sizes.items() if size.is_estimate})),
        "\n".join(tables.sources(sizes, corpora, chains)),
        *_cleaning(sweep, sizes),
        *_packing(sweep, sizes),
        *tokens.warnings_of(sweep, items),
        _cost(sweep, chains, preflight.vocab_size(sweep)),
        _placement(sweep.scaling, address, memory_fit),
    ]
    return "\n\n".join(parts)


def left_out(manifest: tokens.Manifest) -> list[str]:
    """One line per reason: the records that are not in the token store and, for text, their share of the bytes."""
    num_bytes = manifest.num_bytes + sum(manifest.skipped_bytes.values())
    lines = []
    for reason, count in sorted(manifest.skipped.items(), key=lambda item: -item[1]):
        size = manifest.skipped_bytes.get(reason)
        lines.append(
            f"left out: {count:,} {reason}" + (f", {100 * size / num_bytes:.1f} % of the text" if size else "")
        )
    return lines


def _cleaning(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """The records left out of finished token stores, and the sources that are still to be cleaned."""
    lines = []
    for name, size in sizes.items():
        source = sweep.complete_source(name)
        if size.store is not None:
            lines += [f"  {name:16s} {line}" for line in left_out(size.store.manifest)]
        elif source.take or (source.cleaning and source.cleaning.active_settings()):
            lines.append(f"  {name:16s} not cleaned yet: its tokens above are those before cleaning")
    return ["\n".join(["cleaning:", *lines])] if lines else []


def _packing(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """The tokens of finished token stores that each stage's packing drops, pads and splits."""
    lines = [
        f"  {name:16s} {report}"
        for name, size in sizes.items()
        if size.store is not None
        for report in tokens.packing_reports(sweep, name, size.store)
    ]
    return ["\n".join(["packing (one epoch of the finished token stores):", *lines])] if lines else []


def _cost(sweep: Sweep, chains: Sequence[stage_store.Chain], vocab_size: int) -> str:
    jobs = {job.key: job for chain in chains for job in chain.stages}
    parameters = model.num_parameters(sweep.model, vocab_size)
    flops = sum(
        job.stage.num_tokens * model.flops_per_token(job.model, vocab_size, job.stage.sequence_length)
        for job in jobs.values()
    )
    gpu = sweep.scaling.gpus_per_worker > 0
    hours = flops / (GPU_FLOPS if gpu else CPU_FLOPS) / 3600
    device = "GPU" if gpu else "CPU core"
    speed = f"{(GPU_FLOPS if gpu else CPU_FLOPS):.0e}"
    context = model.context_length(sweep.model, vocab_size)
    return (
        f"model: {parameters:,} parameters, context {context or 'unbounded'} tokens\n"
        f"training: {flops:.2e} FLOPs, about {hours:.2g} {device} hours at {speed} FLOP/s per {device}"
    )


def _placement(scaling: Scaling, address: str | None, memory_fit: preflight.MemoryFit) -> str:
    want = f"{scaling.workers} × ({scaling.cpus_per_worker:g} CPU, {scaling.gpus_per_worker:g} GPU)"
    where, fit = "a local Ray on this machine", memory_fit.groups
    if fit is None:
        with tempfile.TemporaryDirectory() as temporary:
            found = cluster.connect(address, scaling, log_to=Path(temporary) / "ray.log")
            reason, fit = found.placement_problem(scaling), found.slots_that_fit(scaling)
            cluster.disconnect()
        where = f"the cluster at {address or os.environ.get('RAY_ADDRESS')}"
        if reason:
            raise UserError(f"scaling: {reason}")
        memory_fit = preflight.fit_on_cluster(memory_fit, found, scaling)
    return f"placement: a slot takes {want}; {where} holds {fit} at once\n{memory_fit}"
