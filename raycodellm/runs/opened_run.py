"""A run as an object: its trials, items, ledgers, curves, ranking and models."""

from __future__ import annotations

import html
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm import evaluation, finished, model, report, storage_files, sweep
from raycodellm.config import Sweep, UserError
from raycodellm.files import Folder, cache_folder, fingerprint
from raycodellm.identity import hub_commits
from raycodellm.records import GIVEN_MODELS, StageRecord, TrialResult
from raycodellm.runs.status import RunStatus
from raycodellm.tables import trials_table
from raycodellm.tables.trials import trial_name

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_HTML_TRIALS = 10
"""Newest trials that a notebook shows of a run."""


def open_run(folder: str | os.PathLike[str], say: Callable[[str], Any] = logger.warning) -> OpenedRun:
    """Opens the run folder at a path or URI, `<storage>/<sweep name>`, of a finished run or of one that goes on.

    `say` hears about damaged files. Raises `UserError` where there is no run folder.
    """
    run_folder = Folder(os.fspath(folder))
    if run_folder.exists(storage_files.LADDER):
        raise UserError(f"{folder}: is a ladder, not a run; give the run folder of one of its sizes, beside it")
    return OpenedRun(sweep.Run(storage_files.read_sweep_file(run_folder, say), run_folder.parent), say)


class OpenedRun:
    """A run. Each question reads the storage anew, so that a run that goes on shows what it has reached."""

    def __init__(self, run: sweep.Run, say: Callable[[str], Any] = logger.warning) -> None:
        self.run, self._say = run, say
        self._ended = sweep.EndedTrials()

    # ------------------------------------------------------------------------------------------ the run

    @property
    def folder(self) -> Folder:
        """The run folder."""
        return self.run.folder

    @property
    def name(self) -> str:
        return self.run.sweep.name

    @property
    def sweep(self) -> Sweep:
        """The sweep's settings, with the first value of each search space."""
        return self.run.sweep

    @property
    def results(self) -> list[TrialResult]:
        """One record per trial that has begun, in the order of their numbers."""
        self._ended.forget_if_continued(self.folder)
        return sweep.read_results(self.run, self._ended.results, self._say)

    @property
    def status(self) -> RunStatus:
        """How the run stands: trials by state, the best arm, who runs it."""
        return RunStatus.of(self.run, self.results)

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial that has begun, indexed by its number, with the columns of `trials.parquet`: `state`,
        `arm`, `seed`, `params.…`, `metrics.…`, `tokens.…`, `wall_seconds`, `device_seconds` and more."""
        import pandas as pd

        rows = [result.row() for result in self.results]
        columns = None if rows else ["number", "state", "arm", "seed"]
        return pd.DataFrame(rows, columns=columns).set_index("number")

    def summary(self) -> str:
        """The best arms and the answer with its uncertainty, as `raycodellm run` prints them at its end."""
        return report.summary_text(self.folder, self.run.storage)

    def write_report(self, pictures: str | None = None) -> Folder:
        """Writes `report/index.html` and `report/report.md`; returns the report's folder. `pictures`: svg or png, to
        draw the figures as files too and show them in `report.md`."""
        sweep.write_table(self.run, self._say)
        return report.write_report(self.folder, self.run.storage, self._say, pictures)

    def ranking(self) -> pd.DataFrame:
        """One row per arm, the best first: its parameters, score and 95 % interval, and the difference to the best.

        Ends of intervals are NaN where they are not known; see `report.ArmScore` for each column.
        """
        import pandas as pd

        rows = []
        records = report.read_records(self.folder, self.run.storage)
        for score in records.scores:
            row = {f"params.{name}": value for name, value in score.params.items()}
            row |= {name: value for name, value in asdict(score).items() if name not in ("params", "difference")}
            gap = score.difference
            without_gap = 0.0 if score.arm == records.findings.compared_with else None
            value, low, high = gap if gap is not None else (without_gap, None, None)
            rows.append({"arm": score.arm, **row, "difference": value, "difference_low": low, "difference_high": high})
        return pd.DataFrame(rows, columns=None if rows else ["arm", "score", "low", "high"]).set_index("arm")

    def pareto_front(self) -> pd.DataFrame:
        """One row per arm with a score in each objective, those on the Pareto front first: its parameters, the
        objectives with their 95 % intervals (`<metric>`, `<metric>_low`, `<metric>_high`), `is_on_front`, `is_known`
        and `rivals`, which `verdict.FrontArm` explains. Raises `UserError` of a sweep with one objective."""
        import pandas as pd

        records = report.read_records(self.folder, self.run.storage)
        if records.front is None:
            raise UserError(f"{self.name}: has one objective, so there is no front; see ranking()")
        params = {score.arm: score.params for score in records.scores}
        rows = []
        for arm in records.front.arms:
            row: dict[str, Any] = {f"params.{name}": value for name, value in params[arm.arm].items()}
            for metric, (value, low, high) in zip(records.front.objectives, arm.scores, strict=True):
                row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            standing = {"is_on_front": arm.is_on_front, "is_known": arm.is_known, "rivals": list(arm.rivals)}
            rows.append({"arm": arm.arm, **row, **standing})
        return pd.DataFrame(rows, columns=None if rows else ["arm", "is_on_front"]).set_index("arm")

    # ------------------------------------------------------------------------------------------ one trial

    def result(self, trial: int) -> TrialResult:
        """The record of the trial with this number. Raises `UserError` naming the trials that there are."""
        results = self.results
        match = next((candidate for candidate in results if candidate.number == trial), None)
        if match is None:
            raise UserError(f"{self.name}: there is no trial {trial!r}; {_numbers(results)}")
        return match

    def items(self, trial: int) -> pd.DataFrame:
        """One row per evaluated item of a complete trial: `task`, `item`, `correct`, `bits_per_byte` and more."""
        result = self.result(trial)
        folder = self.run.trial_folder(trial)
        if not folder.exists("items.parquet"):
            complete = [other for other in self.results if other.state == "complete"]
            raise UserError(
                f"{self.name}: trial {trial} has no items, since it is {result.state}; complete: {_numbers(complete)}"
            )
        # Arrow's threads would make the objects, and a script that ends in that moment aborts.
        return evaluation.read_trial_items(folder, self.run.storage).to_pandas(use_threads=False)

    def stages(self, trial: int) -> dict[str, StageRecord]:
        """The records of the trial's finished stages by their keys, in order."""
        result = self.result(trial)
        records = {key: finished.finished_stage(self._stage(key)) for key in result.stages}
        return {key: record for key, record in records.items() if record is not None}

    def ledger(self, trial: int) -> pd.DataFrame:
        """One row per finished stage of the trial and source: tokens planned and trained on, and epochs."""
        import pandas as pd

        rows = []
        for key, record in self.stages(trial).items():
            for row in record.ledger:
                rows.append({"stage": record.name, "key": key, **asdict(row)})
        if not rows:
            raise UserError(f"{self.name}: trial {trial} has finished no stage yet; it is {self.result(trial).state}")
        return pd.DataFrame(rows).drop(columns="phases")

    def metrics(self, stage: str, trial: int | None = None) -> pd.DataFrame:
        """The curves of a finished stage, one row per recorded step: `step`, `tokens`, `loss`, `code_ratio_window`, ….

        `stage`: a stage's key (`pretrain-3e80a8…`) or the beginning of one, or with a `trial` the stage's name.
        """
        import pandas as pd

        key = self._key(stage, trial)
        folder = self._stage(key)
        if not folder.exists("metrics.parquet"):
            raise UserError(f"{self.name}: stage {key} is not finished, so it has no metrics yet")
        return pd.DataFrame(storage_files.read_curves(folder))

    def model(self, trial: int, stage: str | None = None) -> Path:
        """A local path that `transformers` loads: the model after the trial's last stage, or after the stage named.

        A model on an object store is fetched into this machine's cache, once. Of a trial without stages it is the given
        model, if that is a folder.
        """
        if stage is None and (identity := self.result(trial).model):
            return self._given_model(identity)
        stages = self.stages(trial)
        key = self._key(stage, trial) if stage is not None else next(reversed(self.result(trial).stages), "")
        if key not in stages:
            state = self.result(trial).state
            stage_names = ", ".join(record.name for record in stages.values()) or "none"
            raise UserError(
                f"{self.name}: trial {trial} is {state} and has no model of {stage or 'its last stage'}; "
                f"finished stages: {stage_names}"
            )
        remote = self._stage(key) / "model"
        local = remote.local or _local_copy(remote)
        model.require_undamaged(local, remote)
        return local

    def _given_model(self, identity: str) -> Path:
        address = str((self.run.storage / GIVEN_MODELS / identity).read_json("model.json")["model"])
        folder = hub_commits.folder_of(address)
        if folder is None:
            raise UserError(f"{self.name}: the model is {address} of the Hugging Face hub; load it by that name")
        return folder.local or _local_copy(folder)

    def _stage(self, key: str) -> Folder:
        return self.run.storage / "stages" / key

    def _key(self, stage: str, trial: int | None) -> str:
        """The key of the stage that `stage` names or begins. Raises `UserError` with the keys that it could be."""
        results = self.results if trial is None else [self.result(trial)]
        keys = list(dict.fromkeys(key for result in results for key in result.stages))
        if trial is not None:
            named_keys = [key for key, record in self.stages(trial).items() if record.name == stage]
            if named_keys:
                return named_keys[0]
        matches = [key for key in keys if key.startswith(stage)]
        if len(matches) != 1:
            problem = f"{len(matches)} stages begin with {stage!r}" if matches else f"there is no stage {stage!r}"
            listed = ", ".join((matches or keys)[:6]) + (" …" if len(matches or keys) > 6 else "")
            raise UserError(f"{self.name}: {problem}; give a key or a name and a trial; known: {listed or 'none'}")
        return matches[0]

    # ------------------------------------------------------------------------------------------ display

    def __repr__(self) -> str:
        return str(self.status)

    def _repr_html_(self) -> str:
        results = self.results
        metrics = [objective.metric for objective in self.sweep.search.objectives]
        table = trials_table([result.row() for result in results[-_HTML_TRIALS:]], metrics)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
        lines = "<br>".join(html.escape(line) for line in str(RunStatus.of(self.run, results)).splitlines())
        older = f"<p>… {len(results) - _HTML_TRIALS} more</p>" if len(results) > _HTML_TRIALS else ""
        return f"<p>{lines}</p>{older}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _numbers(results: list[TrialResult]) -> str:
    """`trials 0000 to 0005`, or the numbers where some are missing."""
    numbers = [result.number for result in results]
    if not numbers:
        return "no trial yet"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"trials {trial_name(numbers[0])} to {trial_name(numbers[-1])}"
    numbers_text = ", ".join(map(trial_name, numbers[:12]))
    return f"trial{'s' if len(numbers) > 1 else ''} {numbers_text}{' …' if len(numbers) > 12 else ''}"


def _local_copy(remote: Folder) -> Path:
    """A copy of the folder in this machine's cache. It is renamed into place whole, so a half copy is never used."""
    target = cache_folder() / "models" / fingerprint(remote.uri)
    if not target.exists():
        part = target.with_name(f"{target.name}.part-{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        remote.download(part)
        try:
            part.rename(target)
        except OSError:  # another process was faster
            if not target.exists():
                raise
            shutil.rmtree(part, ignore_errors=True)
    return target
