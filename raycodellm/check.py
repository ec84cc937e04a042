"""`raycodellm check`: what a sweep would do, worked out without starting anything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm import cluster, config, model, preflight, search, stage_store, tokens
from raycodellm.config import Scaling, Sweep, SweepFile, UserError
from raycodellm.files import Folder

# FLOP/s that training reaches, for device hours: one CPU core in fp32, and one data-centre GPU in bf16 at
# two fifths of the 990 TFLOP/s that an H100's matrix units offer. An order of magnitude, which is what a plan needs.
CPU_FLOPS = 3.0e10
GPU_FLOPS = 4.0e14
MOST_TRIALS = 200
"""Trials that are planned, and whose arms are shown; of a larger sweep these are the first."""


@dataclass(frozen=True)
class SizedCorpus:
    """A token store that is there, or will be, as `stage_store.chain` needs it."""

    folder: Folder
    num_tokens: int
    fingerprint: str
    store: tokens.TokenStore | None = None
    """Where it is there."""

    def num_sequences(self, sequence_length: int, reading: tokens.Reading) -> int:
        if self.store is not None:
            return self.store.num_sequences(sequence_length, reading)
        held = reading.held_out_tokens
        return (held if reading.measured else max(0, self.num_tokens - held)) // sequence_length

    def held_out(self, num_tokens: int) -> int:
        """Tokens of the documents that are held out; about as many as are asked for where there is no store yet."""
        return num_tokens if self.store is None else self.store.held_out(num_tokens)


def describe(file: SweepFile, storage: Folder, address: str | None) -> str:
    """The arms, the stage tree, tokens and epochs, parameters, FLOPs, device hours, and whether a trial can be placed.

    Raises `UserError` for what `run` would refuse as well.
    """
    sweep = file.example()
    memory_fit = preflight.check_before_start(file, address)
    arms = first_arms(file)
    items = items_of(file)
    sizes = tokens.inspect(sweep, storage, items)
    corpora = {name: SizedCorpus(s.folder, s.num_tokens, s.fingerprint, s.store) for name, s in sizes.items()}
    tokenizer_print = next(iter(sizes.values())).tokenizer_fingerprint
    contents = stage_store.contents_of_file(file)
    chains = planned(file, arms, corpora, storage, tokenizer_print, contents)
    parts = [
        _arms(file, arms),
        _stage_tree(chains, {name for name, size in sizes.items() if size.is_estimate}),
        _sources(sizes, corpora, chains),
        *_cleaning(sweep, sizes),
        *_packing(sweep, sizes),
        *tokens.warnings_of(sweep, items),
        _cost(sweep, chains, preflight.vocab_size(sweep)),
        _placement(sweep.scaling, address, memory_fit),
    ]
    return "\n\n".join(parts)


def first_arms(file: SweepFile) -> list[dict[str, object]]:
    """The arms of as many trials as are planned."""
    return search.preview(file, max(1, MOST_TRIALS // file.example().search.replicates))


def planned(
    file: SweepFile,
    arms: Sequence[Mapping[str, object]],
    corpora: Mapping[str, SizedCorpus],
    storage: Folder,
    tokenizer_print: str,
    contents: Any,
) -> list[stage_store.Chain]:
    """The jobs of every arm with its first seeds. Raises `UserError` where a source cannot give what is asked of it,
    at any end of any search space.

    `tokenizer_print`: the tokenizer's fingerprint; `contents`: an `identity.Contents`.
    """
    sweep = file.example()
    vocab_size = preflight.vocab_size(sweep)
    seeds = range(sweep.seed, sweep.seed + min(sweep.search.replicates, MOST_TRIALS))

    def chain(params: Mapping[str, object], seed: int) -> stage_store.Chain:
        made_of = (corpora, Folder("tokenizer"), tokenizer_print, vocab_size, storage)
        return stage_store.chain(config.resolve(file, params), seed, *made_of, contents=contents)

    chains = [chain(arm, seed) for arm in arms for seed in seeds]
    stage_store.check_epochs(sweep, [*chains, *(chain(point, sweep.seed) for point in file.corner_points())])
    return chains


def _arms(file: SweepFile, arms: Sequence[Mapping[str, object]]) -> str:
    sweep = file.example()
    objective = ", ".join(f"{o.metric} ({o.mode})" for o in sweep.search.objectives)
    count = f"{search.num_arms(file)} arms × {sweep.search.replicates} seeds = {search.num_trials(file)} trials"
    lines = [f"{sweep.name}: {count}, sampler {sweep.search.sampler}, objective {objective}"]
    lines.append("arms:" if sweep.search.sampler == "grid" else "arms, for example (the sampler chooses as it learns):")
    lines += [f"  {number:3d}  {search.pairs(arm) or '(nothing is searched over)'}" for number, arm in enumerate(arms)]
    if len(arms) < search.num_arms(file):
        lines.append(f"  … and {search.num_arms(file) - len(arms):,} more; what follows is of the {len(arms)} above")
    return "\n".join(lines)


def _stage_tree(chains: Sequence[stage_store.Chain], estimated: Collection[str]) -> str:
    """The stages as a tree with how many trials share each, and the tokens that sharing saves.

    A stage shows the beginning of its identity, that of its folder, once the token stores of its sources are there:
    before, their sizes are estimates, and the identity is not known.
    """
    users = Counter(job.key for chain in chains for job in chain.stages)
    jobs = {job.key: (depth, job) for chain in chains for depth, job in enumerate(chain.stages)}
    lines, unknown = ["stage tree:"], set()
    for key, (depth, job) in jobs.items():
        known = not estimated.intersection(source.name for source in job.sources) and job.parent not in unknown
        if not known:
            unknown.add(job.folder)
        name = f"{'  ' * depth}{job.stage.name} {job.identity[:6] if known else ''}"
        shared = f"  for {users[key]} trials" if users[key] > 1 else ""
        lines.append(f"  {name:32s} {job.stage.num_tokens:>16,} tokens{shared}")
    asked = sum(job.stage.num_tokens for chain in chains for job in chain.stages)
    trained = sum(job.stage.num_tokens for _, job in jobs.values())
    lines.append(f"  {asked:,} tokens asked for, {trained:,} trained, {asked - trained:,} saved by shared stages")
    return "\n".join(lines)


def _sources(
    sizes: Mapping[str, tokens.SourceSize], corpora: Mapping[str, SizedCorpus], chains: Sequence[stage_store.Chain]
) -> str:
    slices = [source for chain in chains for job in chain.stages for source in job.sources]
    asked = {source.name: source.held_out_tokens for source in slices}
    drawn: dict[str, list[int]] = {name: [] for name in sizes}
    for chain in chains:
        total: Counter[str] = Counter()
        for job in chain.stages:
            total.update({source.name: sum(source.planned) * job.stage.sequence_length for source in job.sources})
        for name in drawn:
            drawn[name].append(total[name])
    lines = ["sources (tokens there; tokens and epochs that a trial draws):"]
    for name, size in sizes.items():
        low, high = min(drawn[name]), max(drawn[name])
        held = corpora[name].held_out(asked[name]) if asked.get(name) else 0
        about = "about " if size.is_estimate else ""
        trained = max(1, size.num_tokens - held)
        epochs = " to ".join(f"{tokens_ / trained:.2f}" for tokens_ in dict.fromkeys((low, high)))
        draws = " to ".join(f"{tokens_:,}" for tokens_ in dict.fromkeys((low, high)))
        lines.append(f"  {name:16s} {about + format(size.num_tokens, ','):>20s}  {draws} tokens, {epochs} epochs")
        lines[-1] += f", {held:,} tokens held out" if held else ""
    return "\n".join(lines)


def items_of(file: SweepFile) -> dict[str, list[str]] | None:
    """The texts of the evaluation's items, where a source is to be rid of them: loading them imports lm-eval."""
    if not tokens.asks_for_items(file.example()):
        return None
    from raycodellm import evaluation

    return evaluation.item_texts(evaluation.evaluated_tasks(file))


def left_out(manifest: tokens.Manifest) -> list[str]:
    """What of a source is not in its token store: records and, where text was left out, its share of the bytes."""
    there = manifest.num_bytes + sum(manifest.skipped_bytes.values())
    lines = []
    for reason, count in sorted(manifest.skipped.items(), key=lambda item: -item[1]):
        size = manifest.skipped_bytes.get(reason)
        lines.append(f"left out: {count:,} {reason}" + (f", {100 * size / there:.1f} % of the text" if size else ""))
    return lines


def _cleaning(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """What cleaning and reading left out of the stores that are there, and which sources are still to be cleaned."""
    lines = []
    for name, size in sizes.items():
        source = sweep.cleaned(name)
        if size.store is not None:
            lines += [f"  {name:16s} {line}" for line in left_out(size.store.manifest)]
        elif source.take or (source.cleaning and source.cleaning.active()):
            lines.append(f"  {name:16s} not cleaned yet: its tokens above are those before cleaning")
    return ["\n".join(["cleaning:", *lines])] if lines else []


def _packing(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """What each stage's packing drops, pads and splits of the token stores that are there; nothing where none is."""
    lines = [
        f"  {name:16s} {report}"
        for name, size in sizes.items()
        if size.store is not None
        for report in tokens.packing_reports(sweep, name, size.store)
    ]
    return ["\n".join(["packing (one epoch of what is prepared):", *lines])] if lines else []


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
        f"training: {flops:.2e} FLOPs, about {hours:.2g} {device} hours at {speed} FLOP/s each"
    )


def _placement(scaling: Scaling, address: str | None, memory_fit: preflight.MemoryFit) -> str:
    want = f"{scaling.workers} × ({scaling.cpus_per_worker:g} CPU, {scaling.gpus_per_worker:g} GPU)"
    where, fit = "a local Ray on this machine", memory_fit.groups
    if fit is None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as temporary:
            found = cluster.connect(address, scaling, log_to=Path(temporary) / "ray.log")
            reason, fit = found.placement_problem(scaling), found.slots_that_fit(scaling)
            cluster.disconnect()
        where = f"the cluster at {address or os.environ.get('RAY_ADDRESS')}"
        if reason:
            raise UserError(f"scaling: {reason}")
        memory_fit = preflight.fit_on_cluster(memory_fit, found, scaling)
    return f"placement: a slot takes {want}; {where} holds {fit} at once\n{memory_fit}"
