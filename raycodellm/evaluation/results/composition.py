"""The evaluation of a model, put together from the results of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from raycodellm.config import Evaluation
from raycodellm.evaluation.results.task_results import KeptResults, TaskResult, read_result
from raycodellm.evaluation.scores.averages import average_metrics
from raycodellm.evaluation.scores.items_table import ITEMS_SCHEMA, Items, joined, named_tasks
from raycodellm.evaluation.scores.metrics import mean_metrics, task_metrics
from raycodellm.evaluation.tasks.loading import is_path
from raycodellm.evaluation.tasks.suites import asked_averages
from raycodellm.files import Folder
from raycodellm.records import EvaluationJob


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a model, and its items."""

    metrics: dict[str, float] = field(default_factory=dict)
    """`<task>/acc`, `/acc_low`, `/acc_high`, the same of `bpb`, `bpb_corpus`, and each score that the task gives its
    items (`exact_match`, `pass@1` …) or makes of all of them (`bleu` …); `/chance`, `/items` (scored), `/too_long` and
    `/not_run` (left out); for each part of a task `/acc_<part>` and so on; and `mean/acc`, `mean/bpb`, `mean/chance`,
    unweighted means over the named tasks, in which a group counts as one task of all its members' items. A task without
    right and wrong answers has no `acc`. Averages of the asked suites, such as `reasoning/acc`, where all their tasks
    have the score."""
    items: pa.Table = field(default_factory=ITEMS_SCHEMA.empty_table)
    """One row per item, in the order of the tasks and of their items; see `items_table.ITEMS_SCHEMA`."""
    seconds: float = 0.0
    """Spent on scoring the tasks, over all attempts."""


def compose(
    settings: Evaluation, tasks_by_name: Mapping[str, Sequence[str]], results: Mapping[str, TaskResult]
) -> EvaluationResult:
    """The evaluation that the settings ask for. `tasks_by_name`: each task or group as the settings name it to the
    tasks in `results` that the name stands for."""
    task_results = [results[task] for task in dict.fromkeys(task for tasks in tasks_by_name.values() for task in tasks)]
    metrics: dict[str, float] = {}
    for result in task_results:
        metrics |= result.metrics
    items = composed_items(tasks_by_name, results)
    members_by_name = named_tasks(items)
    for name, members in members_by_name.items():
        if members != (name,):
            metrics |= task_metrics(name, items.filter(pc.field("task").isin(members)).to_pylist())
    averages = asked_averages(settings)
    samples = Items(items, averages).samples
    metrics |= mean_metrics(members_by_name, metrics, samples)
    metrics |= average_metrics(averages, metrics, samples)
    return EvaluationResult(metrics, items, sum(result.seconds for result in task_results))


def kept_evaluation(job: EvaluationJob) -> EvaluationResult | None:
    """The evaluation of the job, if each of its tasks has a result that can be read; else None."""
    results = KeptResults(Folder(job.folder), job.keys).read_all()
    return None if results is None else compose(job.evaluation, job.asked, results)


def kept_items(folder: Folder, tasks: Mapping[str, Mapping[str, str]]) -> pa.Table:
    """The items of an evaluation, from the results in the model's `folder`. `tasks`: as `TrialResult` has them. Raises
    DamagedFile or FileNotFoundError for a task that has no result any more."""
    keys = {task: key for task_keys in tasks.values() for task, key in task_keys.items()}
    results = KeptResults(folder, keys).read_all()
    if not results:
        results = {task: read_result(folder, key) for task, key in keys.items()}  # its error names the file
    return composed_items({name: tuple(task_keys) for name, task_keys in tasks.items()}, results)


def composed_items(tasks_by_name: Mapping[str, Sequence[str]], results: Mapping[str, TaskResult]) -> pa.Table:
    """The items of all tasks of `tasks_by_name`, in their order, each task once."""
    distinct_tasks = dict.fromkeys(task for tasks in tasks_by_name.values() for task in tasks)
    tables = [results[task].items.replace_schema_metadata() for task in distinct_tasks]
    members_by_name = {}
    for name, tasks in tasks_by_name.items():
        members = tuple(dict.fromkeys(member for task in tasks for member in results[task].members))
        members_by_name[members[0] if is_path(name) and len(members) == 1 else name] = members
    return joined(tables, members_by_name)
