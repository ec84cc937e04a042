"""The stage store: what a stage is known by, where it lies, and whether it is done.

A stage's identity is made of what determines its weights: model, tokenizer, the sources' fingerprints, the stage's
settings, the seed, the parent's identity and the version of the training recipe. Never of workers, devices,
storage or the names of trials. So equal prefixes of trials are one stage, trained once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from raycodellm import mixture, schedule
from raycodellm.config import INSTRUCT_KINDS, Evaluation, Model, Stage, Sweep, UserError
from raycodellm.files import Folder, fingerprint
from raycodellm.records import RECIPE_VERSION, EvaluationJob, SourceSlice, StageJob, StageRecord, as_json, stage_record

EVALUATION_VERSION = 1
"""Raised whenever a change of the evaluation code changes the score that an equal model gets."""


class Corpus(Protocol):
    """What the stage store needs to know of a token store (`tokens.TokenStore` is one)."""

    folder: Folder
    fingerprint: str

    @property
    def num_tokens(self) -> int: ...

    def num_sequences(self, sequence_length: int) -> int: ...


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
) -> Chain:
    """The jobs of a trial with these settings and this seed. Reads no data: a pure function of its arguments."""
    jobs: list[StageJob] = []
    drawn = dict.fromkeys(sweep.sources, 0)  # tokens per source so far along the chain
    identity = fingerprint([model_identity(sweep.model), tokenizer_fingerprint, RECIPE_VERSION, seed])
    parent: Folder | None = None
    for stage in sweep.stages:
        curve = compiled_schedule(sweep, stage, {name: corpora[name].num_tokens for name in sweep.drawn(stage)})
        slices = tuple(_slice(sweep, stage, name, corpora[name], drawn[name]) for name in sweep.drawn(stage))
        identity = stage_identity(sweep, stage, curve, corpora, drawn, identity)
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
            )
        )
        for source, tokens in zip(slices, planned_tokens(curve, stage), strict=True):
            drawn[source.name] += tokens
        parent = folder
    return Chain(tuple(jobs), evaluation_job(jobs[-1], sweep.evaluation))


def compiled_schedule(sweep: Sweep, stage: Stage, num_tokens: Mapping[str, int]) -> schedule.Schedule:
    """`num_tokens`: tokens of each source that the stage draws from."""
    is_code = {name: sweep.sources[name].is_code for name in sweep.drawn(stage)}
    return schedule.compile_stage(stage, is_code, num_tokens)


def _slice(sweep: Sweep, stage: Stage, name: str, corpus: Corpus, drawn_tokens: int) -> SourceSlice:
    return SourceSlice(
        name=name,
        kind=sweep.sources[name].kind,
        store=corpus.folder.uri,
        num_sequences=corpus.num_sequences(stage.sequence_length),
        start=-(-drawn_tokens // stage.sequence_length),
    )


def schedule_of(job: StageJob) -> schedule.Schedule:
    """The compiled schedule that a job carries."""
    progress, weights = zip(*job.breakpoints, strict=True)
    return schedule.Schedule(progress, weights, job.interpolation)


def planned_tokens(curve: schedule.Schedule, stage: Stage) -> tuple[int, ...]:
    """Tokens that the whole stage draws of each of its sources."""
    return tuple(int(n) * stage.sequence_length for n in _planned_sequences(curve, stage.num_sequences))


@lru_cache(maxsize=256)
def _planned_sequences(curve: schedule.Schedule, num_sequences: int) -> tuple[int, ...]:
    return tuple(mixture.planned_sequences(curve, num_sequences))


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
    sweep: Sweep,
    stage: Stage,
    curve: schedule.Schedule,
    corpora: Mapping[str, Corpus],
    drawn: Mapping[str, int],
    parent: str,
) -> str:
    """16 hex digits. The mixture enters as its compiled schedule, so two spellings of one mixture are one stage."""
    settings = as_json(stage)
    for key in ("code_ratio", "schedule", "within", "weights", "phases", "interpolation", "sources", "tokens", "name"):
        settings.pop(key, None)
    used = [
        [name, sweep.sources[name].kind, corpora[name].fingerprint, drawn[name], [row[place] for row in curve.weights]]
        for place, name in enumerate(sweep.drawn(stage))
    ]
    return fingerprint(
        {
            "parent": parent,
            "settings": settings,
            "num_steps": stage.num_steps,
            # A source that gives not one token changes nothing but its name in the ledger.
            "sources": [entry for entry in used if any(entry[-1])],
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
    return Folder(job.folder).exists("DONE" if isinstance(job, StageJob) else "metrics.json")


def read_stage(folder: Folder) -> StageRecord:
    """The record of a finished stage."""
    return stage_record(folder.read_json("stage.json")["record"])


def check_epochs(sweep: Sweep, chains: Sequence[Chain]) -> None:
    """Every source that a stage draws from holds at least one sequence. Raises `UserError` with the numbers."""
    for job in (job for one in chains for job in one.stages):
        for place, source in enumerate(job.sources):
            drawn = any(weights[place] for _, weights in job.breakpoints)
            if drawn and not source.num_sequences:
                what = "whole sequence" if source.kind not in INSTRUCT_KINDS else "example that fits into a sequence"
                raise UserError(
                    f"sources.{source.name}: holds no {what} of {job.stage.sequence_length} tokens for stage "
                    f"{job.stage.name!r}; give it more data or the stage another sequence_length"
                )
