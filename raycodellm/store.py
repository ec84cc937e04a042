"""The stage store: what a stage is known by, where it lies, and whether it is done.

A stage's identity is made of what determines its weights: model, tokenizer, the sources' fingerprints, the stage's
settings, the seed, the parent's identity and the version of the training recipe. Never of workers, devices,
storage or the names of trials. So equal prefixes of trials are one stage, trained once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from raycodellm import mixture, rates, schedule
from raycodellm.config import INSTRUCT_KINDS, Evaluation, Model, Stage, Sweep, UserError
from raycodellm.files import Folder, fingerprint
from raycodellm.records import RECIPE_VERSION, EvaluationJob, SourceSlice, StageJob, StageRecord, as_json, stage_record
from raycodellm.tokens import Reading

EVALUATION_VERSION = 1
"""Raised whenever a change of the evaluation code changes the score that an equal model gets."""


class Corpus(Protocol):
    """What the stage store needs to know of a token store (`tokens.TokenStore` is one)."""

    folder: Folder
    fingerprint: str

    @property
    def num_tokens(self) -> int: ...

    def num_sequences(self, sequence_length: int, reading: Reading) -> int: ...

    def held_out(self, num_tokens: int) -> int: ...


@dataclass(frozen=True)
class Chain:
    """The jobs of one trial: its stages in order, then the evaluation of the last one's model."""

    stages: tuple[StageJob, ...]
    evaluation: EvaluationJob

    @property
    def jobs(self) -> tuple[StageJob | EvaluationJob, ...]:
        return (*self.stages, self.evaluation)


def chain(
    sweep: Sweep,
    seed: int,
    corpora: Mapping[str, Corpus],
    tokenizer: Folder,
    tokenizer_fingerprint: str,
    vocab_size: int,
    storage: Folder,
    kept: frozenset[str] = frozenset(),
) -> Chain:
    """The jobs of a trial with these settings and this seed. Reads no data: a pure function of its arguments.

    `kept`: names of stages that keep their optimizer state because another trial of the sweep starts from it; those
    that this trial starts from are known.
    """
    jobs: list[StageJob] = []
    drawn = dict.fromkeys(sweep.sources, 0)  # tokens per source so far along the chain
    identity = fingerprint([model_identity(sweep.model), tokenizer_fingerprint, RECIPE_VERSION, seed])
    kept |= {before.name for before, after in itertools.pairwise(sweep.stages) if after.optimizer_state == "keep"}
    parent: Folder | None = None
    rate: float | None = None
    for written in sweep.stages:
        curve = compiled_schedule(sweep, written, {name: corpora[name].num_tokens for name in sweep.drawn(written)})
        stage = schedule.budgeted(written, curve, [sweep.sources[name].is_code for name in sweep.drawn(written)])
        ends = tuple(math.ceil(edge * stage.num_sequences - 1e-6) for edge in schedule.phase_edges(stage, curve))
        planned = zip(*_planned_sequences(curve, stage.num_sequences, ends), strict=True)
        slices = tuple(
            _slice(sweep, stage, name, corpora[name], drawn[name], sequences)
            for name, sequences in zip(sweep.drawn(stage), planned, strict=True)
        )
        identity = stage_identity(stage, curve, slices, corpora, drawn, identity)
        folder = storage / "stages" / f"{stage.name}-{identity}"
        jobs.append(
            StageJob(
                identity=identity,
                folder=folder.uri,
                parent=parent.uri if parent else None,
                stage=stage,
                model=sweep.model,
                tokenizer=tokenizer.uri,
                vocab_size=vocab_size,
                breakpoints=tuple(zip(curve.progress, curve.weights, strict=True)),
                interpolation=curve.interpolation,
                sources=slices,
                seed=seed,
                scaling=sweep.scaling,
                phase_ends=ends,
                start_rate=rates.start_rate(stage.learning_rate, rate),
                keep_optimizer=stage.name in kept,
            )
        )
        rate = rates.learning_rate_at(stage.learning_rate, stage.num_steps - 1, stage.num_steps, jobs[-1].start_rate)
        for source in slices:
            drawn[source.name] += sum(source.planned) * stage.sequence_length
        parent = folder
    return Chain(tuple(jobs), evaluation_job(jobs[-1], sweep.evaluation))


def compiled_schedule(sweep: Sweep, stage: Stage, num_tokens: Mapping[str, int]) -> schedule.Schedule:
    """`num_tokens`: tokens of each source that the stage draws from."""
    is_code = {name: sweep.sources[name].is_code for name in sweep.drawn(stage)}
    return schedule.compile_stage(stage, is_code, num_tokens)


def _slice(
    sweep: Sweep, stage: Stage, name: str, corpus: Corpus, drawn_tokens: int, planned: tuple[int, ...]
) -> SourceSlice:
    asked, trained = _held_out(sweep, name, corpus)
    group = _group(sweep, stage, name, trained)
    reading = Reading(stage.packing, asked)
    there, measured = corpus.num_sequences(stage.sequence_length, reading), 0
    if stage.held_out is not None:
        most = corpus.num_sequences(stage.sequence_length, reading._replace(measured=True))
        measured = min(most, max(1, stage.held_out.tokens // stage.sequence_length))
    used = math.floor(there * _share_used(sweep, name, trained) + 1e-9)
    return SourceSlice(
        name=name,
        kind=sweep.sources[name].kind,
        store=corpus.folder.uri,
        num_sequences=used // group * group,
        start=-(-drawn_tokens // stage.sequence_length),
        group=group,
        planned=planned,
        held_out_sequences=measured,
        held_out_tokens=asked,
    )


def _held_out(sweep: Sweep, name: str, corpus: Corpus) -> tuple[int, int]:
    """(tokens asked for in held-out documents, tokens left to train on) of a source.

    Documents are held out of all stages of the sweep alike: no stage trains on what any of them measures.
    """
    asking = [stage for stage in sweep.stages if stage.held_out is not None and name in sweep.drawn(stage)]
    asked = max((max(stage.held_out.tokens, stage.sequence_length) for stage in asking), default=0)
    held = corpus.held_out(asked) if asked else 0
    if 2 * held > corpus.num_tokens > 0:
        first = max(asking, key=lambda stage: stage.held_out.tokens)
        raise UserError(
            f"stages.{first.name}.held_out.tokens: found {first.held_out.tokens}, but whole documents of so many hold "
            f"{held:,} of source {name!r}'s {corpus.num_tokens:,} tokens, over half; use at most "
            f"{corpus.num_tokens // 2}, shorter documents, or more data"
        )
    return asked, corpus.num_tokens - held


def _group(sweep: Sweep, stage: Stage, name: str, num_tokens: int) -> int:
    """Sequences that make the least common multiple of all lengths in which the trial's stages read the source; 1 where
    examples or documents are packed whole, by each length in its own way, and where the source holds no such multiple.
    """
    if sweep.sources[name].is_instruct or stage.packing != "concatenate":
        return 1
    whole = math.lcm(*(other.sequence_length for other in sweep.stages if name in sweep.drawn(other)))
    return whole // stage.sequence_length if whole <= num_tokens else 1


def _share_used(sweep: Sweep, name: str, num_tokens: int) -> float:
    """1, or less where the sweep repeats its data as a larger target run would (`match_repetition`).

    With U tokens of a source and a share m of T tokens a run makes m T / U passes over it: equal for any m where U
    is in proportion to T.
    """
    target = sweep.match_repetition
    if target is None or name not in target.source_tokens:
        return 1.0
    budget = sum(stage.num_tokens for stage in sweep.stages)
    wanted = target.source_tokens[name] * budget / target.target_tokens
    if wanted > num_tokens:
        raise UserError(
            f"match_repetition.source_tokens.{name}: {target.source_tokens[name]:,} of {target.target_tokens:,} tokens "
            f"are {math.ceil(wanted):,} for this sweep's {budget:,}, but the source holds {num_tokens:,}; "
            "give it more data, the stages fewer tokens, or leave the source out"
        )
    return wanted / num_tokens


@lru_cache(maxsize=256)
def _planned_sequences(
    curve: schedule.Schedule, num_sequences: int, phase_ends: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Per phase: sequences of each source."""
    edges = mixture.planned_sequences(curve, num_sequences, phase_ends)
    before = [[0] * len(edges[0]), *edges]
    return tuple(tuple(b - a for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(before))


def model_identity(model: Model) -> object:
    """A model to continue from is known by its files, where they lie on a local disk; by its name otherwise."""
    if model.pretrained is None:
        return as_json(model)
    folder = Folder(model.pretrained)
    if folder.local is None or not folder.local.is_dir():
        return as_json(model)
    files = [path for path in sorted(folder.local.iterdir()) if path.suffix in (".json", ".safetensors", ".bin")]
    sizes = [[path.name, path.stat().st_size] for path in files]
    return ["pretrained", sizes, fingerprint(folder.read_json("config.json"))]


def stage_identity(
    stage: Stage,
    curve: schedule.Schedule,
    slices: Sequence[SourceSlice],
    corpora: Mapping[str, Corpus],
    drawn: Mapping[str, int],
    parent: str,
) -> str:
    """16 hex digits. The mixture enters as its compiled schedule, so two spellings of one mixture are one stage, and
    settings that have their default value do not enter, so that a new setting leaves the stages there are.
    """
    settings = stage.model_dump(mode="json", exclude_defaults=True)
    for key in ("code_ratio", "schedule", "within", "weights", "phases", "interpolation", "sources", "tokens", "name"):
        settings.pop(key, None)
    # When a stage fails, and how often it is measured, change no weight; what is held out is said for each source.
    for key in ("loss_limit", "held_out"):
        settings.pop(key, None)
    used = []
    for place, source in enumerate(slices):
        weights = [row[place] for row in curve.weights]
        if any(weights):  # a source that gives not one token changes nothing but its name in the ledger
            reading = Reading(stage.packing, source.held_out_tokens)
            there = corpora[source.name].num_sequences(stage.sequence_length, reading)
            whole = there // source.group * source.group
            cut = [] if source.num_sequences == whole else [source.num_sequences]
            group = [] if source.group == 1 else [{"group": source.group}]
            held = [{"held_out": source.held_out_tokens}] if source.held_out_tokens else []
            origin = [source.name, source.kind, corpora[source.name].fingerprint, drawn[source.name]]
            used.append([*origin, weights, *cut, *group, *held])
    return fingerprint(
        {
            "parent": parent,
            "settings": settings,
            "num_steps": stage.num_steps,
            "sources": used,
            "progress": curve.progress,
            "interpolation": curve.interpolation,
        }
    )


def evaluation_job(last: StageJob, evaluation: Evaluation) -> EvaluationJob:
    identity = fingerprint([last.identity, as_json(evaluation), EVALUATION_VERSION])
    folder = Folder(last.folder) / f"evaluation-{identity}"
    return EvaluationJob(
        identity=identity,
        folder=folder.uri,
        model=(Folder(last.folder) / "model").uri,
        evaluation=evaluation,
        parent=last.key,
    )


def is_done(job: StageJob | EvaluationJob) -> bool:
    """A stage whose optimizer state is asked for later than it was trained is trained once more, for that alone."""
    folder = Folder(job.folder)
    if isinstance(job, EvaluationJob):
        return folder.exists("metrics.json")
    return folder.exists("DONE") and (not job.keep_optimizer or folder.exists("optimizer/COMPLETE"))


def read_stage(folder: Folder) -> StageRecord:
    """The record of a finished stage."""
    return stage_record(folder.read_json("stage.json")["record"])


def check_epochs(sweep: Sweep, chains: Sequence[Chain]) -> None:
    """Every source that a stage draws from holds at least one sequence, and none is passed over more often than its
    `max_epochs`. Raises `UserError` with the numbers."""
    for job in (job for one in chains for job in one.stages):
        for source in job.sources:
            drawn = sum(source.planned)
            if drawn and not source.num_sequences:
                what = "whole sequence" if source.kind not in INSTRUCT_KINDS else "example that fits into a sequence"
                raise UserError(
                    f"sources.{source.name}: holds no {what} of {job.stage.sequence_length} tokens for stage "
                    f"{job.stage.name!r}; give it more data or the stage another sequence_length"
                )
            most = sweep.sources[source.name].max_epochs
            if drawn and most is not None and (source.start + drawn) / source.num_sequences > most + 1e-9:
                there = source.num_sequences * job.stage.sequence_length
                wanted = (source.start + drawn) * job.stage.sequence_length
                raise UserError(
                    f"sources.{source.name}: a trial draws {wanted:,} tokens of it by the end of stage "
                    f"{job.stage.name!r}, {wanted / there:.2f} epochs of its {there:,}; max_epochs is {most:g}: "
                    f"give it {math.ceil(wanted / most):,} tokens, a smaller share, or a larger max_epochs"
                )
