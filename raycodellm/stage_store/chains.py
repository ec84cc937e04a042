"""The chain of a trial's jobs: its stages in order, then the evaluation of the last stage's model.

The chain of a trial without stages is the evaluation of its given model alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from raycodellm import identity, mixture, schedule
from raycodellm.config import Model, Stage, Sweep, UserError
from raycodellm.files import Folder
from raycodellm.identity import Contents
from raycodellm.learning_rate import learning_rate_at, start_rate
from raycodellm.records import RECIPE_VERSION, EvaluationJob, SourceSlice, StageJob, as_json, job_key
from raycodellm.stage_store.contents import model_content, pinned_model
from raycodellm.stage_store.evaluations import evaluation_of_given, evaluation_of_stage
from raycodellm.stage_store.slices import Corpus, held_out_sources, slice_sources
from raycodellm.stage_store.trunks import find_trunk


@dataclass(frozen=True)
class Chain:
    """The jobs of one trial."""

    stages: tuple[StageJob, ...]
    evaluation: EvaluationJob

    @property
    def jobs(self) -> tuple[StageJob | EvaluationJob, ...]:
        return (*self.stages, self.evaluation)


@dataclass(frozen=True)
class Materials:
    """The data, tokenizer and contents from which all trials of a sweep are made."""

    corpora: Mapping[str, Corpus]
    """The token store of each source."""
    tokenizer: Folder
    """Folder of the tokenizer. `tokenizer`, `tokenizer_fingerprint` and `vocab_size` mean nothing in a sweep without
    sources."""
    tokenizer_fingerprint: str
    vocab_size: int
    storage: Folder
    contents: Contents
    """Contents of the models and tasks that the sweep names."""
    exact: bool = True
    """False rounds the planned sequences, for a look at a chain that is not run: a plan of 10^11 tokens takes a minute
    to work out."""


@dataclass(frozen=True)
class _PlannedStage:
    """A stage of the sweep file, worked out for the sources at hand."""

    stage: Stage
    curve: schedule.Schedule
    phase_ends: tuple[int, ...]
    """Position at which each phase ends, in sequences."""
    slices: tuple[SourceSlice, ...]


def chain(
    sweep: Sweep,
    seed: int,
    materials: Materials,
    keeping_optimizer: frozenset[str] = frozenset(),
    with_trunks: frozenset[str] = frozenset(),
) -> Chain:
    """The jobs of a trial with these settings and this seed. Reads no tokens, only lengths of documents.

    `keeping_optimizer`: names of stages that keep their optimizer state because another trial of the sweep starts from
    it. Stages that keep it for this trial itself need not be named. `with_trunks`: names of stages whose trunk is
    worked out.
    """
    held_out = held_out_sources(sweep, materials.corpora, materials.tokenizer)
    if not sweep.stages:
        evaluation_of_model = evaluation_of_given(
            sweep.model, materials.storage, sweep.evaluation, materials.contents, held_out
        )
        return Chain((), evaluation_of_model)
    jobs = stage_jobs(sweep, seed, materials, keeping_optimizer, with_trunks)
    return Chain(tuple(jobs), evaluation_of_stage(jobs[-1], sweep.evaluation, materials.contents, held_out))


def stage_jobs(
    sweep: Sweep,
    seed: int,
    materials: Materials,
    keeping_optimizer: frozenset[str],
    with_trunks: frozenset[str],
    last: str | None = None,
) -> list[StageJob]:
    """The stages of `chain`, up to the one of the name `last`."""
    keeping_optimizer |= {
        stage.name for stage, child in itertools.pairwise(sweep.trained_stages) if child.optimizer.state == "keep"
    }
    drawn_tokens = dict.fromkeys(sweep.sources, 0)
    """Tokens drawn from each source so far along the chain."""
    model = pinned_model(sweep.model, materials.contents)
    own_identity = identity.root_identity(
        model_content(sweep.model, materials.contents), materials.tokenizer_fingerprint, seed, RECIPE_VERSION
    )
    jobs: list[StageJob] = []
    rate: float | None = None
    for settings in sweep.trained_stages:
        planned_stage = _plan_stage(sweep, settings, materials, drawn_tokens)
        stage, parent_identity = planned_stage.stage, own_identity
        used_sources = _used_sources(planned_stage, materials.corpora, drawn_tokens)
        compiled = sweep.scaling.deepspeed.compile
        own_identity = identity.stage_identity(
            stage,
            used_sources,
            planned_stage.curve.progress,
            planned_stage.curve.interpolation,
            compiled,
            parent_identity,
        )
        rate = start_rate(stage.learning_rate, rate)
        parent = jobs[-1].folder if jobs else None
        job = _stage_job(
            sweep, seed, materials, model, planned_stage, own_identity, parent, rate, stage.name in keeping_optimizer
        )
        if stage.name in with_trunks:
            trunk = find_trunk(job, planned_stage.curve, used_sources, compiled, parent_identity, materials.storage)
            job = replace(job, trunk=trunk)
        jobs.append(job)
        rate = learning_rate_at(stage.learning_rate, stage.num_steps, stage.num_steps, rate)
        for source in planned_stage.slices:
            drawn_tokens[source.name] += sum(source.planned) * stage.sequence_length
        if stage.name == last:
            break
    return jobs


def compiled_schedule(sweep: Sweep, stage: Stage, num_tokens: Mapping[str, int]) -> schedule.Schedule:
    """The stage's schedule over the sources that it draws from. `num_tokens`: tokens of each of them."""
    is_code = {name: sweep.sources[name].is_code for name in sweep.drawn_sources(stage)}
    return schedule.compile_stage(stage, is_code, num_tokens)


def _plan_stage(sweep: Sweep, settings: Stage, materials: Materials, drawn_tokens: Mapping[str, int]) -> _PlannedStage:
    corpora = materials.corpora
    names = sweep.drawn_sources(settings)
    curve = compiled_schedule(sweep, settings, {name: corpora[name].num_tokens for name in names})
    stage = schedule.budgeted(settings, curve, [sweep.sources[name].is_code for name in names])
    ends = tuple(math.ceil(edge * stage.num_sequences - 1e-6) for edge in schedule.phase_edges(stage, curve))
    sequences = _planned_sequences(curve, stage.num_sequences, ends, materials.exact)
    return _PlannedStage(stage, curve, ends, slice_sources(sweep, stage, corpora, drawn_tokens, sequences))


@lru_cache(maxsize=256)
def _planned_sequences(
    curve: schedule.Schedule, num_sequences: int, phase_ends: tuple[int, ...], exact: bool
) -> tuple[tuple[int, ...], ...]:
    """Sequences of each source, phase by phase."""
    count_sequences = mixture.planned_sequences if exact else mixture.rounded_sequences
    totals = count_sequences(curve, num_sequences, phase_ends)
    """Sequences of each source until the end of each phase."""
    edges = itertools.pairwise([[0] * len(totals[0]), *totals])
    return tuple(tuple(after - before for before, after in zip(start, end, strict=True)) for start, end in edges)


def _used_sources(
    planned_stage: _PlannedStage, corpora: Mapping[str, Corpus], drawn_tokens: Mapping[str, int]
) -> list[identity.UsedSource]:
    """The sources as they enter the stage's identity; one whose weight is 0 throughout the stage does not."""
    used_sources, curve = [], planned_stage.curve
    for index, source in enumerate(planned_stage.slices):
        weights = [row[index] for row in curve.weights]
        if any(weights):
            slice_settings = {key: value for key, value in as_json(source).items() if key not in ("store", "planned")}
            origin = (corpora[source.name].fingerprint, drawn_tokens[source.name])
            used_sources.append(identity.UsedSource(*origin, weights, slice_settings))
    return used_sources


def _stage_job(
    sweep: Sweep,
    seed: int,
    materials: Materials,
    model: Model,
    planned_stage: _PlannedStage,
    own_identity: str,
    parent: str | None,
    initial_rate: float | None,
    keep_optimizer: bool,
) -> StageJob:
    """The stage as a job. `own_identity`: the stage's identity; `parent`: URI of the parent stage's folder;
    `initial_rate`: the learning rate that the stage starts with, where it continues from its parent's."""
    curve = planned_stage.curve
    return StageJob(
        identity=own_identity,
        folder=(materials.storage / "stages" / job_key(planned_stage.stage.name, own_identity)).uri,
        parent=parent,
        stage=planned_stage.stage,
        model=model,
        tokenizer=materials.tokenizer.uri,
        vocab_size=materials.vocab_size,
        breakpoints=tuple(zip(curve.progress, curve.weights, strict=True)),
        interpolation=curve.interpolation,
        sources=planned_stage.slices,
        seed=seed,
        scaling=sweep.scaling,
        phase_ends=planned_stage.phase_ends,
        start_rate=initial_rate,
        keep_optimizer=keep_optimizer,
        sweep=sweep.name,
        rungs=_rungs(sweep, planned_stage),
    )


def _rungs(sweep: Sweep, planned_stage: _PlannedStage) -> tuple[int, ...]:
    """Trained steps at which early stopping compares the stage; none of another stage than the one that it names."""
    early = sweep.search.early_stopping
    compared_stage = early.stage_of(sweep) if early is not None else None
    if early is None or compared_stage is None or compared_stage.name != planned_stage.stage.name:
        return ()
    if not any(source.name == early.source and source.held_out_sequences for source in planned_stage.slices):
        raise UserError(
            f"search.early_stopping.metric: found {early.metric}, but source {early.source!r} has no whole sequence of "
            f"{compared_stage.sequence_length} tokens of held-out text; hold out more tokens, or measure another source"
        )
    return early.steps(planned_stage.stage.num_steps)
