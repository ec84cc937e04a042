"""The stage store: the chain of a trial's jobs, where each lies, and whether it is done.

A stage is known by what determines its weights (`identity`), never by workers, devices, storage or the names of trials.
So equal prefixes of trials are one stage, trained once.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

from raycodellm import config, identity, mixture, schedule
from raycodellm import model as models
from raycodellm.config import INSTRUCT_KINDS, Evaluation, Model, Stage, Sweep, SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.identity import Contents, model_files
from raycodellm.learning_rate import learning_rate_at, start_rate
from raycodellm.records import RECIPE_VERSION, EvaluationJob, SourceSlice, StageJob, StageRecord, as_json
from raycodellm.storage_files import finished_evaluation, finished_stage
from raycodellm.tokens import Reading

EVALUATION_VERSION = 2
"""Raised whenever a change of the evaluation code changes the score that an equal model gets."""
_RECIPE = ".recipe"
"""Holds the recipe's version when a sweep last ran in a storage. Beside `stages/`, whose entries are all stages."""
logger = logging.getLogger(__name__)


class Corpus(Protocol):
    """What the stage store needs to know of a token store (`tokens.TokenStore` is one)."""

    @property
    def folder(self) -> Folder: ...

    @property
    def fingerprint(self) -> str: ...

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
    contents: Contents | None = None,
) -> Chain:
    """The jobs of a trial with these settings and this seed. Reads no tokens, only lengths of documents.

    `kept`: names of stages that keep their optimizer state because another trial of the sweep starts from it; those
    that this trial starts from are known. `contents`: of the models and tasks that the sweep names, looked up now where
    left out.
    """
    contents = contents or contents_of([sweep])
    jobs: list[StageJob] = []
    drawn = dict.fromkeys(sweep.sources, 0)  # tokens per source so far along the chain
    known = identity.root_identity(model_content(sweep.model, contents), tokenizer_fingerprint, seed, RECIPE_VERSION)
    model = _pinned(sweep.model, contents)
    kept |= {before.name for before, after in itertools.pairwise(sweep.stages) if after.optimizer.state == "keep"}
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
        known = stage_identity(stage, curve, slices, corpora, drawn, sweep.scaling.deepspeed.compile, known)
        folder = storage / "stages" / f"{stage.name}-{known}"
        jobs.append(
            StageJob(
                identity=known,
                folder=folder.uri,
                parent=parent.uri if parent else None,
                stage=stage,
                model=model,
                tokenizer=tokenizer.uri,
                vocab_size=vocab_size,
                breakpoints=tuple(zip(curve.progress, curve.weights, strict=True)),
                interpolation=curve.interpolation,
                sources=slices,
                seed=seed,
                scaling=sweep.scaling,
                phase_ends=ends,
                start_rate=start_rate(stage.learning_rate, rate),
                keep_optimizer=stage.name in kept,
            )
        )
        rate = learning_rate_at(stage.learning_rate, stage.num_steps, stage.num_steps, jobs[-1].start_rate)
        for source in slices:
            drawn[source.name] += sum(source.planned) * stage.sequence_length
        parent = folder
    return Chain(tuple(jobs), evaluation_job(jobs[-1], sweep.evaluation, contents))


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
        num_sequences_consumed=-(-drawn_tokens // stage.sequence_length),
        shuffle_group_size=group,
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


def contents_of(sweeps: Iterable[Sweep]) -> Contents:
    """The content of every pretrained model and every evaluation task that the sweeps name.

    Raises UserError for a model or a task's file that is not there. Tasks of lm-eval's own are looked up in its index.
    """
    from raycodellm import evaluation

    sweeps = list(sweeps)
    pretrained = dict.fromkeys(sweep.model.pretrained for sweep in sweeps if sweep.model.pretrained is not None)
    tasks = dict.fromkeys(task for sweep in sweeps for task in sweep.evaluation.tasks)
    return Contents(
        models={name: identity.pretrained_content(name) for name in pretrained},
        tasks={name: evaluation.task_content(name) for name in tasks},
        lm_eval=evaluation.lm_eval_version(),
    )


def contents_of_file(file: SweepFile) -> Contents:
    """Contents of all that any trial of the sweep may name."""
    return contents_of(config.resolve(file, point) for point in file.corner_points())


def model_content(model: Model, contents: Contents) -> list[Any]:
    """The identity of a model: a preset's shape, a configuration, or the content of a pretrained one."""
    if model.pretrained is not None:
        return ["pretrained", contents.models[model.pretrained]]
    if model.preset is not None:
        return ["preset", asdict(models.PRESETS[model.preset])]
    return ["config", model.config]


def _pinned(model: Model, contents: Contents) -> Model:
    """The model as workers load it: one of the hub at the commit that the driver found."""
    kind, *found = contents.models[model.pretrained] if model.pretrained is not None else ("folder",)
    return model.model_copy(update={"pretrained": "@".join(found)}) if kind == "hub" else model


def stage_identity(
    stage: Stage,
    curve: schedule.Schedule,
    slices: Sequence[SourceSlice],
    corpora: Mapping[str, Corpus],
    drawn: Mapping[str, int],
    compiled: bool,
    parent: str,
) -> str:
    """16 hex digits."""
    used = []
    for place, source in enumerate(slices):
        weights = [row[place] for row in curve.weights]
        if any(weights):
            how = {key: value for key, value in as_json(source).items() if key not in ("store", "planned")}
            origin = (corpora[source.name].fingerprint, drawn[source.name])
            used.append(identity.UsedSource(*origin, weights, how))
    return identity.stage_identity(stage, used, curve.progress, curve.interpolation, compiled, parent)


def evaluation_job(last: StageJob, settings: Evaluation, contents: Contents) -> EvaluationJob:
    known = identity.evaluation_identity(last.identity, settings, contents.tasks, contents.lm_eval, EVALUATION_VERSION)
    folder = Folder(last.folder) / f"evaluation-{known}"
    return EvaluationJob(
        identity=known,
        folder=folder.uri,
        model=(Folder(last.folder) / "model").uri,
        evaluation=settings,
        parent=last.key,
    )


def is_done(job: StageJob | EvaluationJob) -> bool:
    """A stage whose optimizer state is asked for later than it was trained is trained once more, for that alone."""
    if outcome_on_disk(job) is None:
        return False
    if isinstance(job, EvaluationJob) or not job.keep_optimizer:
        return True
    return Folder(job.folder).exists("optimizer/COMPLETE")


def outcome_on_disk(job: StageJob | EvaluationJob) -> StageRecord | dict[str, float] | None:
    """The outcome of a finished job: a stage's record, an evaluation's metrics. None where it is not finished, or where
    its files cannot be read any more."""
    folder = Folder(job.folder)
    return finished_evaluation(folder) if isinstance(job, EvaluationJob) else finished_stage(folder)


def finished_jobs(chain: Chain) -> list[StageJob | EvaluationJob]:
    """The jobs of a chain that are done. A stage whose model is damaged, and is still to be read by the job after it,
    becomes an unfinished one: it is trained again."""
    done = [job for job in chain.jobs if is_done(job)]
    for stage, reader in reversed(list(itertools.pairwise(chain.jobs))):
        if stage in done and reader not in done and (found := model_damage(Folder(stage.folder))):
            logger.warning("%s; the stage is trained again", found)
            Folder(stage.folder).delete("DONE")
            done.remove(stage)
    return done


def model_damage(stage: Folder) -> str | None:
    """Which file of a stage's model has changed since it was written; None where none has, or where the model lies on
    object storage: there the worker that fetches it looks."""
    return model_files.find_damage(stage.local / "model") if stage.local is not None else None


def older_stages(storage: Folder) -> str | None:
    """Says, once per storage, that its stages were trained by an older recipe and that none of them is taken."""
    found = storage.read_bytes(_RECIPE).decode(errors="replace").strip() if storage.exists(_RECIPE) else None
    if found == str(RECIPE_VERSION):
        return None
    folder = storage / "stages"
    there = [name for name in folder.list() if not name.startswith(".")]
    storage.write_bytes(_RECIPE, f"{RECIPE_VERSION}\n".encode())
    if not there:
        return None
    return (
        f"{folder}: holds {len(there)} stages of an older raycodellm (recipe {found or 'under 3'}, now "
        f"{RECIPE_VERSION}); none of them is taken, what is needed is trained anew"
    )


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
            if (
                drawn
                and most is not None
                and (source.num_sequences_consumed + drawn) / source.num_sequences > most + 1e-9
            ):
                there = source.num_sequences * job.stage.sequence_length
                wanted = (source.num_sequences_consumed + drawn) * job.stage.sequence_length
                raise UserError(
                    f"sources.{source.name}: a trial draws {wanted:,} tokens of it by the end of stage "
                    f"{job.stage.name!r}, {wanted / there:.2f} epochs of its {there:,}; max_epochs is {most:g}: "
                    f"give it {math.ceil(wanted / most):,} tokens, a smaller share, or a larger max_epochs"
                )
