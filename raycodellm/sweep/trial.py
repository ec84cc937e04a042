"""One trial: asks the dispatcher for its chain of jobs, waits for them, and writes its result."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raycodellm import evaluation, retrying, search, stage_store
from raycodellm.dispatch import TrialFailed, TrialOutcome, trial_call
from raycodellm.files import Damaged, Folder
from raycodellm.finished import Outcome
from raycodellm.observability import trial_labels
from raycodellm.records import EvaluationJob, StageRecord, TrialResult, as_json, from_json, summed_ledger
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.stage_store import Chain, Materials
from raycodellm.sweep import early_stopping
from raycodellm.sweep.folder import Run
from raycodellm.sweep.tracking import curves, is_tracked
from raycodellm.sweep.trial_files import BEFORE_ADDED, read_result, result_before_added
from raycodellm.tables import StageUse, stage_use

logger = logging.getLogger(__name__)

_RECORD, _USES = "record", "uses"
"""Keys of what a trial reports to Ray Tune: the result, and its finished stages as the sweep used them."""


@dataclass(frozen=True)
class TrialContext:
    """The context that all trials of a sweep share. Ray sends it to the trials' processes."""

    run: Run
    materials: Materials
    dispatcher: DispatcherHandle

    def chain(self, params: Mapping[str, Any], seed: int) -> Chain:
        """The chain of the trial with these parameters (by name) and this seed."""
        return stage_store.trial_chain(self.run.file, params, seed, self.materials)


def run_trial(settings: dict[str, Any], context: TrialContext) -> None:
    """The function that Ray Tune runs for one trial. It holds no device: it asks for its jobs and reports the result.

    A failed job is reported, not raised: it is a result of the sweep, and Ray Tune repeats only what raised.
    """
    from ray import tune

    result = TrialResult(
        number=settings["number"],
        state="running",
        arm=settings["arm"],
        seed=settings["seed"],
        params=settings["params"],
        phase=settings["phase"],
    )
    folder, stages = context.run.trial_folder(result.number), dict[str, StageRecord]()
    try:
        result = retrying.patiently(lambda: read_result(folder, context.run.sweep.search.objectives), "result.json")
    except FileNotFoundError:
        result, stages = _carry_out(result, folder, context)
    sweep, tracked = context.run.sweep, is_tracked(context.run.sweep.tracking)
    if result.state == "complete" and tracked:
        try:
            for row in curves(context.chain(result.params, result.seed)):
                tune.report(row)
        except (OSError, Damaged):  # else Ray Tune would repeat a trial that has its result
            logger.warning("tracking: curves of trial %d are left out", result.number, exc_info=True)
    record = json.dumps(as_json(result))  # as text: Ray Tune looks into every mapping of a report
    # Ray Tune keeps its own statistics of each number of a report, and an evaluation has hundreds of metrics.
    objectives = {objective.metric for objective in sweep.search.objectives}
    reported_metrics = {name: value for name, value in result.metrics.items() if tracked or name in objectives}
    uses = {key: as_json(stage_use(stage, sweep.name)) for key, stage in stages.items()}
    fields = {"state": result.state, "number": result.number, _RECORD: record, _USES: json.dumps(uses)}
    tune.report({**reported_metrics, **fields})


def reported_result(report: Mapping[str, Any] | None) -> TrialResult | None:
    """The trial's result in what `run_trial` reported; None when the trial reported nothing."""
    record = (report or {}).get(_RECORD)
    return None if record is None else from_json(TrialResult, json.loads(record), "a trial's report")


def reported_uses(report: Mapping[str, Any] | None) -> dict[str, StageUse]:
    """The trial's finished stages, by key, in what `run_trial` reported; empty where it waited for none."""
    uses = json.loads((report or {}).get(_USES, "{}"))
    return {key: from_json(StageUse, use, "a trial's report") for key, use in uses.items()}


def _carry_out(
    result: TrialResult, folder: Folder, context: TrialContext
) -> tuple[TrialResult, dict[str, StageRecord]]:
    """Runs the trial and writes `result.json`; returns the result and the trial's finished stages. A trial that was
    stopped writes none, so that it stays open."""
    import ray

    stages: dict[str, StageRecord] = {}
    try:
        chain = retrying.patiently(lambda: context.chain(result.params, result.seed), "the token stores")
        result = replace(result, stages=tuple(job.key for job in chain.stages), evaluation=chain.evaluation.key)
        result = replace(result, tasks=_task_keys(chain.evaluation))
        if not chain.stages:
            result = replace(result, model=_write_model_file(chain.evaluation))
        trial_record = as_json(result)
        retrying.patiently(lambda: folder.write_json("trial.json", trial_record), "trial.json")
        finished = retrying.patiently(lambda: stage_store.finished_outcomes(chain), "the stage store")
        outcome = _wait_for_jobs(result, chain, finished, context)
        if outcome is None:
            return replace(result, state="stopped"), {}
        stages = {job.key: outcome.outcomes[job.key] for job in chain.stages if job.key in outcome.outcomes}
        result = _with_outcome(result, chain, outcome)
        if result.state == "complete":
            search.objective_values(context.run.sweep.search.objectives, result.metrics)
            search.require_metrics(context.run.sweep.search.constraints, result.metrics)
            evaluated = Folder(chain.evaluation.folder)
            items = retrying.patiently(lambda: evaluation.kept_items(evaluated, result.tasks), "the tasks' results")
            retrying.patiently(lambda: folder.write_table("items.parquet", items), "items.parquet")
    except ray.exceptions.RayError:
        raise  # the cluster's fault, not the trial's: Ray Tune repeats the trial, or it stays open when all is lost
    except Exception as error:
        if retrying.is_passing(error):  # the storage's fault: as above
            raise
        if retrying.is_full(error):  # every trial would end like this, and none of them has failed
            ray.get(context.dispatcher.abandon.remote(str(error)))
            return replace(result, state="stopped"), {}
        result = replace(result, state="failed", error=f"{type(error).__name__}: {error}", metrics={})
    if result.state == "failed":
        result = _as_before_added(result, folder, context)
    result_record = as_json(result)
    retrying.patiently(lambda: folder.write_json("result.json", result_record), "result.json")
    return result, stages


def _as_before_added(failed_result: TrialResult, folder: Folder, context: TrialContext) -> TrialResult:
    """The result that the trial had before tasks were added on which its model cannot be evaluated; `failed_result` for
    any other trial."""
    import ray

    objectives = context.run.sweep.search.objectives
    before = retrying.patiently(lambda: result_before_added(folder, objectives), BEFORE_ADDED)
    if before is None:
        return failed_result
    ray.get(
        context.dispatcher.note.remote(
            f"trial {failed_result.number:04d} keeps the scores that it had, since its evaluation on added tasks "
            f"failed: {failed_result.error}"
        )
    )
    return before


def _write_model_file(job: EvaluationJob) -> str:
    """Writes the name of the given model into the model's folder of the storage. Returns the model's identity."""
    folder = Folder(job.folder).parent
    retrying.patiently(lambda: folder.write_json("model.json", {"model": job.model}), "model.json")
    return folder.name


def _task_keys(job: EvaluationJob) -> dict[str, dict[str, str]]:
    return {name: {task: job.keys[task] for task in tasks} for name, tasks in job.asked.items()}


def _wait_for_jobs(
    result: TrialResult, chain: Chain, finished: Mapping[str, Outcome], context: TrialContext
) -> TrialOutcome | None:
    """The outcome of the trial's jobs; None when the sweep was stopped before they had ended."""
    import ray

    call = context.dispatcher.trial.options(name=_call_name(result, context))
    contender = retrying.patiently(lambda: early_stopping.contender_of(context.run, result, chain), "the rungs")
    try:
        return ray.get(call.remote(result.number, chain, finished, *([contender] if contender else ())))
    except TrialFailed as failed:
        return failed.outcome


def _call_name(result: TrialResult, context: TrialContext) -> str:
    """Name of the trial's call in the dashboard's table of tasks: `trial 0003 · arm 3 · code_ratio 0.396 constant`, and
    the sweep's name."""
    labels = trial_labels(context.run.file, result.number, result.arm, result.params)
    return trial_call(result.number, result.arm, labels.settings, labels.sweep)


def _with_outcome(result: TrialResult, chain: Chain, outcome: TrialOutcome) -> TrialResult:
    """The result with the outcome's score, and with the tokens and seconds of the chain's finished jobs, also of jobs
    that another trial or an earlier run trained."""
    stages: list[StageRecord] = retrying.patiently(lambda: early_stopping.consumed(chain, outcome), "the stages")
    metrics = dict(outcome.outcomes.get(chain.evaluation.key, {}))
    evaluation_seconds = float(metrics.pop("seconds", 0.0))
    ledger = summed_ledger(stages)
    tokens = {row.source: row.tokens for row in ledger}
    last_stage = stages[-1] if stages and (outcome.is_pruned or outcome.error) else None
    return replace(
        result,
        state="failed" if outcome.error else "pruned" if outcome.is_pruned else "complete",
        error=outcome.error,
        metrics={} if outcome.error or outcome.is_pruned else metrics,
        tokens={**tokens, "total": sum(tokens.values())},
        ledger=ledger,
        wall_seconds=sum(record.wall_seconds for record in stages) + evaluation_seconds,
        device_seconds=sum(record.device_seconds for record in stages) + evaluation_seconds,
        deaths=outcome.deaths,
        preemptions=outcome.preemptions,
        rungs=outcome.rungs,
        stopped_by=outcome.stopped_by,
        tokens_planned=sum(job.stage.num_tokens for job in chain.stages) if outcome.is_pruned else 0,
        trunk_tokens=last_stage.trunk_tokens if last_stage is not None else 0,
        trunk_seconds=last_stage.trunk_seconds if last_stage is not None else 0.0,
    )
