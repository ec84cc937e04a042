"""One trial: its chain of jobs, asked for and waited for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raycodellm import config, retrying, search, stage_store, storage_files
from raycodellm.files import Folder
from raycodellm.identity import Contents
from raycodellm.records import StageRecord, TrialResult, as_json, summed_ledger
from raycodellm.sweep.folder import Run


@dataclass(frozen=True)
class Context:
    """What every trial of a sweep needs; it travels to the trials' processes."""

    run: Run
    corpora: Mapping[str, Any]
    tokenizer: Folder
    tokenizer_fingerprint: str
    vocab_size: int
    dispatcher: Any
    contents: Contents
    """Contents of the models and tasks that the sweep names, as the driver found them when it started."""

    def chain(self, params: Mapping[str, Any], seed: int) -> stage_store.Chain:
        sweep = config.resolve(self.run.file, params)
        return stage_store.chain(
            sweep,
            seed,
            self.corpora,
            self.tokenizer,
            self.tokenizer_fingerprint,
            self.vocab_size,
            self.run.storage,
            config.stages_kept(self.run.file),
            self.contents,
        )


def run_trial(settings: dict[str, Any], context: Context) -> None:
    """The function that Ray Tune runs for one trial. It holds no device: it asks for its jobs and reports the result.

    A job that failed is reported, not raised: it is a result of the sweep, and Tune retries only what raised.
    """
    from ray import tune

    result = TrialResult(
        number=settings["number"],
        state="running",
        arm=settings["arm"],
        seed=settings["seed"],
        params=settings["params"],
    )
    folder = context.run.trial_folder(result.number)
    written = retrying.patiently(
        lambda: storage_files.read_result(folder) if folder.exists("result.json") else None, "result.json"
    )
    result = _carry_out(result, folder, context) if written is None else written
    tune.report({**result.metrics, "state": result.state, "number": result.number})


def _carry_out(result: TrialResult, folder: Folder, context: Context) -> TrialResult:
    import ray

    try:
        chain = retrying.patiently(lambda: context.chain(result.params, result.seed), "the token stores")
        result = replace(result, stages=tuple(job.key for job in chain.stages), evaluation=chain.evaluation.key)
        begun = as_json(result)
        retrying.patiently(lambda: folder.write_json("trial.json", begun), "trial.json")
        finished = retrying.patiently(lambda: _finished_jobs(chain), "the stage store")
        outcome = ray.get(context.dispatcher.run_trial.remote(result.number, chain, finished))
        if outcome is None:
            return replace(result, state="stopped")
        result = replace(result, deaths=outcome.deaths, preemptions=outcome.preemptions)
        result = _completed(result, chain, outcome.outcomes, outcome.error)
        if outcome.error is None:
            result = replace(result, metrics=_scores(outcome.outcomes[chain.evaluation.key]))
            search.objective_values(context.run.sweep.search.objectives, result.metrics)
            retrying.patiently(lambda: _copy_items(chain, folder), "items.parquet")
    except ray.exceptions.RayError:
        raise  # the cluster's trouble, not the trial's: Tune tries it again, and where all is lost it stays open
    except Exception as error:
        if retrying.is_passing(error):  # the storage's trouble: as above
            raise
        if retrying.is_full(error):  # every trial would end like this, and none of them has failed
            ray.get(context.dispatcher.abandon.remote(str(error)))
            return replace(result, state="stopped")
        result = replace(result, state="failed", error=f"{type(error).__name__}: {error}", metrics={})
    ended = as_json(result)
    retrying.patiently(lambda: folder.write_json("result.json", ended), "result.json")
    return result


def _copy_items(chain: stage_store.Chain, folder: Folder) -> None:
    folder.write_bytes("items.parquet", Folder(chain.evaluation.folder).read_bytes("items.parquet"))


def _finished_jobs(chain: stage_store.Chain) -> dict[str, Any]:
    """Outcomes of the jobs that the stage store has already."""
    found = {job.key: stage_store.outcome_on_disk(job) for job in stage_store.finished_jobs(chain)}
    # Another trial may have found a damaged model meanwhile, and made its stage an unfinished one.
    return {key: outcome for key, outcome in found.items() if outcome is not None}


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "seconds"}


def _completed(
    result: TrialResult, chain: stage_store.Chain, outcomes: Mapping[str, Any], error: str | None
) -> TrialResult:
    """The result with what the chain's finished jobs consumed, whoever trained them."""
    stages: list[StageRecord] = [outcomes[job.key] for job in chain.stages if job.key in outcomes]
    ledger = summed_ledger(stages)
    tokens = {row.source: row.tokens for row in ledger}
    seconds = float(outcomes.get(chain.evaluation.key, {}).get("seconds", 0.0))
    return replace(
        result,
        state="failed" if error else "complete",
        error=error,
        tokens={**tokens, "total": sum(tokens.values())},
        ledger=ledger,
        wall_seconds=sum(record.wall_seconds for record in stages) + seconds,
        device_seconds=sum(record.device_seconds for record in stages) + seconds,
    )
