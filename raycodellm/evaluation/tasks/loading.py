"""Checks the names of evaluation tasks, and loads the tasks with their data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place
from raycodellm.evaluation.data.sources import DataSource, given_to_lm_eval, open_folder, pinned, sources_of
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.tasks.index import task_manager, with_members
from raycodellm.evaluation.tasks.metric_check import check_metrics, described
from raycodellm.evaluation.tasks.names import NOWHERE, Places, TaskNames, is_path
from raycodellm.evaluation.tasks.near_files import near_files
from raycodellm.evaluation.tasks.sampling import GREEDY, Sampling, set_sampling
from raycodellm.evaluation.texts.held_out import measured_files, texts_given
from raycodellm.evaluation.win_rate.open_instructions import Asking, asked_are, asked_files, set_answer_length
from raycodellm.files import Folder
from raycodellm.tasks import BUILTIN

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


Stamps = tuple[tuple[int, int] | None, ...]
"""(size in bytes, time of the last change in ns) of files."""


def preload() -> None:
    """Imports what `evaluate` needs and generates the built-in tasks' items: some seconds, once per process."""
    import transformers.models.llama.modeling_llama  # noqa: F401  # the architecture of the presets

    with quiet(), own_randomness():
        load_tasks(BUILTIN, 0)


def check_tasks(names: Iterable[str], places: Places = NOWHERE) -> None:
    """Raises UserError for a task that does not exist, with the nearest names. Reads lm-eval's names in half a second,
    and nothing where all tasks are the package's or files."""
    task_names = TaskNames(places.include)
    _ = task_names.included  # raises for a wrong folder even if none of its tasks is named
    for name in names:
        if is_path(name):
            if not Path(name).expanduser().is_file():
                hint = nearest_place(name)
                raise UserError(f"evaluation.tasks: there is no file {name!r} with an lm-eval task; {hint}")
        elif task_names.find(name) is None:
            near_names = difflib.get_close_matches(name, [*task_names.all()], n=5, cutoff=0.5) or BUILTIN
            raise UserError(f"evaluation.tasks: there is no task {name!r}; near names: {', '.join(near_names)}")


@dataclass(frozen=True)
class LoadedTasks:
    by_name: dict[str, dict[str, Task]]
    """Maps each name that was asked for to its task, or to the members of the lm-eval group or tag, by their names."""

    @property
    def single(self) -> dict[str, Task]:
        """Maps each task's own name to the task."""
        return {name: task for tasks in self.by_name.values() for name, task in tasks.items()}


_LOADED: dict[tuple[str, Stamps, int | None, Places, Sampling], dict[str, Task]] = {}
"""The tasks that this process has loaded, for its next evaluations, by when their files and data last changed."""


def load_tasks(
    names: tuple[str, ...], few_shot: int | None, places: Places = NOWHERE, sampling: Sampling = GREEDY
) -> LoadedTasks:
    """Loads the tasks with their data, and keeps them for the next evaluation in this process. `few_shot`: examples per
    prompt; None for each task's own number. `sampling`: of tasks that run code. Raises UserError for a task that does
    not exist, cannot be loaded, or cannot be evaluated here."""
    check_tasks(names, places)
    task_names, folder = TaskNames(places.include), open_folder(places)
    commits = dict(places.commits)
    sources = {name: [pinned(source, commits) for source in sources_of([name], task_names, folder)] for name in names}
    stamps = {name: _stamps(name, task_names, sources[name], places) for name in names}
    keys = {name: (name, stamps[name], few_shot, places, sampling) for name in names}
    missing = [name for name, key in keys.items() if key not in _LOADED]
    if missing:
        manager = task_manager(tuple(name for name in missing if not is_path(name)), places.include)
        with texts_given(places.texts), asked_are(places.asking):
            for name in missing:
                is_users = is_path(name) or name in task_names.included
                _LOADED[keys[name]] = _load(name, is_users, few_shot, sources[name], sampling, places.asking, manager)
    return LoadedTasks({name: _LOADED[key] for name, key in keys.items()})


def _stamps(name: str, task_names: TaskNames, sources: Sequence[DataSource], places: Places) -> Stamps:
    """Sizes and times of the last changes of a user's own task files, of the files that these name, of copies of data,
    and of the files whose text the task measures."""
    own_files = [Path(name).expanduser()] if is_path(name) else []
    for member in with_members([name], task_names.find):
        if member in task_names.included and (file := task_names.included[member].file) is not None:
            own_files.append(file)
    text_files = [*measured_files(name, places.texts), *asked_files(name, places.asking)]
    files = [near_file for file in own_files for near_file in near_files(file)] + text_files
    file_stamps = [Folder(str(file.parent)).stamp(file.name) for file in dict.fromkeys(files)]
    copies = [source.copy for source in sources if source.copy is not None]
    return (*file_stamps, *(copy.folder.stamp(file) for copy in copies for file in copy.files))


def _load(
    name: str,
    is_users: bool,
    few_shot: int | None,
    sources: Sequence[DataSource],
    sampling: Sampling,
    asking: Asking,
    manager: TaskManager,
) -> dict[str, Task]:
    """`is_users`: the task is a user's own file, or of a user's folder, so that the user can mend it."""
    try:
        with given_to_lm_eval(sources):
            tasks = manager.load([name])["tasks"]
    except UserError:
        raise
    except Exception as error:
        if is_users:
            message = described(error)
            if isinstance(error, KeyError) and error.args == (None,):  # how lm-eval tells of such a metric
                message = "metric_list names a metric of no known aggregation"
            raise UserError(
                f"evaluation.tasks: {name!r} cannot be loaded as an lm-eval task ({message}); "
                "a file holds one task, a group goes by its name"
            ) from error
        if "scripts are no longer supported" in str(error):
            raise UserError(
                f"evaluation.tasks: the hub's copy of the data of {name!r} comes as code, which is never run here; "
                "give a copy as parquet, jsonl or arrow files by evaluation.data"
            ) from error
        error.add_note(f"raised while loading the evaluation task {name!r}")
        raise
    for task_name, task in tasks.items():
        _check_supported(task_name, task)
        check_metrics(task_name, task)
        # As in lm-eval: a task whose file asks for no examples gets none.
        if task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", task.get_config("num_fewshot") or 0 if few_shot is None else few_shot)
        _check_examples(task_name, task)
        set_sampling(task, sampling)
        set_answer_length(task_name, task, asking)
    return tasks


def _check_examples(name: str, task: Task) -> None:
    """Raises UserError where the task shows examples and its data, a copy of the evaluated split, has none."""
    num_examples = task.get_config("num_fewshot") or 0
    if num_examples and (docs := task.fewshot_docs()) is not None and not len(list(docs)):
        raise UserError(
            f"evaluation.data: {name} shows {num_examples} solved examples, and its data has no file of the split that "
            "they come from; add that file, or set evaluation.few_shot: 0"
        )


def _check_supported(name: str, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"evaluation.tasks: {name!r} runs code that the model wrote outside a sandbox; humaneval, mbpp and "
            "mbpp_sanitized of this package run it inside"
        )
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"evaluation.tasks: {name!r} shows pictures or sound; only tasks of text can be evaluated")
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"):
        raise UserError(f"evaluation.tasks: {name!r} has the output type {task.OUTPUT_TYPE!r}, which is not supported")
