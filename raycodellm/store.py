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
from raycodellm.records import RECIPE_VERSION, EvaluationJob, SourceSlice, StageJob, StageRecord, as_json
from raycodellm.stored import finished_evaluation, finished_stage

EVALUATION_VERSION = 1
"""Raised whenever a change of the evaluation code changes the score that an equal model gets."""


class Corpus(Protocol):
    """What the stage store needs to know of a token store (`tokens.TokenStore` is one)."""

    folder: Folder
    fingerprint: str

    @property
    def num_tokens(self) -> int: ...

    def num_sequences(self, sequence_length: int, packing: str = "concatenate") -> int: ...


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
    group = _group(sweep, stage, name, corpus)
    there = corpus.num_sequences(stage.sequence_length, stage.packing)
    kept_back, measured = _held_out(sweep, stage, name, corpus, there)
    there -= kept_back
    used = math.floor(there * _share_used(sweep, name, corpus) + 1e-9)
    return SourceSlice(
        name=name,
        kind=sweep.sources[name].kind,
        store=corpus.folder.uri,
        num_sequences=used // group * group,
        start=-(-drawn_tokens // stage.sequence_length),
        group=group,
        planned=planned,
        held_out_sequences=measured if stage.held_out is not None else 0,
    )


def _held_out(sweep: Sweep, stage: Stage, name: str, corpus: Corpus, there: int) -> tuple[int, int]:
    """(sequences at the store's end that this stage must not train on, those of them that may be measured).

    No stage of the sweep trains on what any of them measures. Where stages of different sequence lengths share a
    source, it is cut at a token: a sequence over the cut is neither trained on nor measured.
    """
    stages = [other for other in sweep.stages if name in sweep.drawn(other)]
    asked = max((other.held_out.tokens for other in stages if other.held_out is not None), default=0)
    if not asked:
        return 0, 0
    key, length = f"stages.{stage.name}.held_out.tokens", stage.sequence_length
    if len({(other.sequence_length, other.packing) for other in stages}) == 1:
        kept_back = measured = max(1, asked // length)
    elif sweep.sources[name].is_instruct or any(other.packing != "concatenate" for other in stages):
        raise UserError(
            f"{key}: found {asked}, but the stages pack source {name!r} in different ways, so that what one measures "
            "another would train on; give them one sequence_length and packing, or leave held_out out"
        )
    else:
        cut = corpus.num_tokens - asked
        kept_back, measured = there - cut // length, there + (-cut // length)
    if 2 * kept_back > there and there:
        raise UserError(
            f"{key}: found {asked}, over half of source {name!r} ({corpus.num_tokens:,} tokens); use at most "
            f"{corpus.num_tokens // 2}, or more data"
        )
    return kept_back, max(0, measured)


def _group(sweep: Sweep, stage: Stage, name: str, corpus: Corpus) -> int:
    """Sequences that make the least common multiple of all lengths in which the trial's stages read the source; 1 where
    examples or documents are packed whole, by each length in its own way, and where the source holds no such multiple.
    """
    if sweep.sources[name].is_instruct or stage.packing != "concatenate":
        return 1
    whole = math.lcm(*(other.sequence_length for other in sweep.stages if name in sweep.drawn(other)))
    return whole // stage.sequence_length if whole <= corpus.num_tokens else 1


def _share_used(sweep: Sweep, name: str, corpus: Corpus) -> float:
    """1, or less where the sweep repeats its data as a larger target run would (`match_repetition`).

    With U tokens of a source and a share m of T tokens a run makes m T / U passes over it: equal for any m where U
    is in proportion to T.
    """
    target = sweep.match_repetition
    if target is None or name not in target.source_tokens:
        return 1.0
    budget = sum(stage.num_tokens for stage in sweep.stages)
    wanted = target.source_tokens[name] * budget / target.target_tokens
    if wanted > corpus.num_tokens:
        raise UserError(
            f"match_repetition.source_tokens.{name}: {target.source_tokens[name]:,} of {target.target_tokens:,} tokens "
            f"are {math.ceil(wanted):,} for this sweep's {budget:,}, but the source holds {corpus.num_tokens:,}; "
            "give it more data, the stages fewer tokens, or leave the source out"
        )
    return wanted / corpus.num_tokens


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
    # When a stage fails, and how often it is measured, change no weight; what is held out is in the sources' numbers.
    for key in ("loss_limit", "held_out"):
        settings.pop(key, None)
    used = []
    for place, source in enumerate(slices):
        weights = [row[place] for row in curve.weights]
        if any(weights):  # a source that gives not one token changes nothing but its name in the ledger
            there = corpora[source.name].num_sequences(stage.sequence_length, stage.packing)
            whole = there // source.group * source.group
            cut = [] if source.num_sequences == whole else [source.num_sequences]
            group = [] if source.group == 1 else [{"group": source.group}]
            origin = [source.name, source.kind, corpora[source.name].fingerprint, drawn[source.name]]
            used.append([*origin, weights, *cut, *group])
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
    if outcome_on_disk(job) is None:
        return False
    keeps = isinstance(job, StageJob) and job.keep_optimizer
    return not keeps or Folder(job.folder).exists("optimizer/COMPLETE")


def outcome_on_disk(job: StageJob | EvaluationJob) -> StageRecord | dict[str, float] | None:
    """What a finished job left: a stage its record, an evaluation its metrics. None where it is not finished, or where
    what it left cannot be read any more."""
    folder = Folder(job.folder)
    return finished_evaluation(folder) if isinstance(job, EvaluationJob) else finished_stage(folder)


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
