"""Where the data of each task comes from: the folder of `evaluation.data`, the caches of the Hugging Face hub, or the
hub; and how lm-eval is given it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raycodellm.config import Unreachable, UserError
from raycodellm.evaluation.data.lookup import DataCopy, DataFolder, WantedData
from raycodellm.evaluation.data.names import plain
from raycodellm.evaluation.data.reading import read_data
from raycodellm.evaluation.tasks.data_of_tasks import FILE_READERS, data_files, wanted_data
from raycodellm.evaluation.tasks.names import NOWHERE, Places, TaskNames
from raycodellm.identity import hub_commits

if TYPE_CHECKING:
    import datasets

ANSWER_SECONDS = 4.0
"""Longest wait for the first answer of the hub."""
_MOST_NAMED_TASKS = 4
"""Most tasks that one message names."""


@dataclass(frozen=True)
class DataSource:
    """A data set that a task reads, and where it was found."""

    data_set: WantedData
    copy: DataCopy | None
    """The files in the folder of `evaluation.data`."""
    at: Literal["folder", "cache", "hub", "address", "elsewhere"]
    commit: str | None = None
    """The commit of a data set of the hub, where it is known."""

    def __str__(self) -> str:
        if self.copy is not None:
            num_further = len(self.copy.files) - 1
            return f"{self.copy.folder}/{self.copy.files[0]}" + (f" and {num_further} more" if num_further else "")
        where = {"cache": "in the Hugging Face cache", "hub": "on the Hugging Face hub"}
        where["elsewhere"] = f"{where['hub']}, not reached from here"
        return f"{self.data_set.label} {where.get(self.at, '')}".strip()


def open_folder(places: Places) -> DataFolder | None:
    """The folder of `evaluation.data`, None without one. Raises UserError where there is no such folder, whether or not
    a task reads data."""
    folder = DataFolder(places.data) if places.data is not None else None
    if folder is not None:
        _ = folder.files
    return folder


def find_data(names: Iterable[str], places: Places = NOWHERE, *, elsewhere: bool = False) -> list[DataSource]:
    """The sources of the data of each named task, and of each member of a group.

    Raises UserError, with all places looked at, for a data set that none of them has. Waits a few seconds at most for a
    hub that does not answer. `elsewhere`: the tasks are for another machine, so that a hub that does not answer this
    one counts as having the data.
    """
    return sources_of(names, TaskNames(places.include), open_folder(places), elsewhere=elsewhere)


def sources_of(
    names: Iterable[str], task_names: TaskNames, folder: DataFolder | None, *, elsewhere: bool = False
) -> list[DataSource]:
    """`find_data` for a folder that is opened already."""
    lookups = [(data_set, _located(data_set, folder, elsewhere)) for data_set in wanted_data(names, task_names)]
    missing = {data_set: source for data_set, source in lookups if isinstance(source, str)}
    if missing:
        error_type = Unreachable if all(reason == hub_silence() for reason in missing.values()) else UserError
        raise error_type(_no_data_message([*missing], folder, next(iter(missing.values()))))
    return [source for _, source in lookups if isinstance(source, DataSource)]


def _located(data_set: WantedData, folder: DataFolder | None, elsewhere: bool) -> DataSource | str:
    """The data set's source; where no place has the data set, the reason why the hub does not give it."""
    copy = folder.find(data_set) if folder is not None else None
    if copy is not None:
        return DataSource(data_set, copy, "folder")
    if data_set.path in FILE_READERS:
        return DataSource(data_set, None, "address")
    if silence := hub_silence():
        if not _is_cached(data_set.path):
            return DataSource(data_set, None, "elsewhere") if elsewhere else silence
        commit = hub_commits.cached_commit(data_set.path, data_set.revision, hub_commits.CARDS, "dataset")
        return DataSource(data_set, None, "cache", commit)
    try:
        return DataSource(data_set, None, "hub", hub_commits.commit(data_set.hub_name, hub_commits.CARDS, "dataset"))
    except UserError as error:
        return DataSource(data_set, None, "cache") if _is_cached(data_set.path) else _hub_reason(error)


def pinned(source: DataSource, commits: Mapping[str, str]) -> DataSource:
    """A data set of the hub at the commit that `commits` (see `data_commits`) has for it. Raises UserError where this
    machine reaches no hub and its cache has another commit."""
    commit = commits.get(source.data_set.hub_name)
    if commit is None or source.at not in ("hub", "cache"):
        return source
    if source.at == "cache" and source.commit not in (None, commit):
        raise UserError(
            f"evaluation.data: the Hugging Face cache of {platform.node()} has {source.data_set.label} at commit "
            f"{str(source.commit)[:12]}, and the sweep's scores are of {commit[:12]}, which the hub cannot be asked "
            f"for ({hub_silence()}); give a copy by evaluation.data"
        )
    return replace(source, commit=commit)


def data_commits(names: Iterable[str], places: Places, *, elsewhere: bool = False) -> dict[str, str]:
    """The commit of each data set of the hub that the tasks read, by `WantedData.hub_name`; without those whose commit
    is not known. `elsewhere` as in `find_data`."""
    sources = find_data(names, places, elsewhere=elsewhere)
    return {
        source.data_set.hub_name: source.commit
        for source in sources
        if source.copy is None and source.commit is not None
    }


def _hub_reason(error: UserError) -> str:
    cause = type(error.__cause__).__name__
    reasons = {
        "RepositoryNotFoundError": "the hub has no public data set of this name",
        "GatedRepoError": "the hub gives it only on request, with HF_TOKEN",
    }
    return reasons.get(cause, f"the hub does not give it ({cause})")


def _no_data_message(missing: Sequence[WantedData], folder: DataFolder | None, reason: str) -> str:
    """One line that mostly fits into the 280 characters of a message, whose middle is cut out otherwise."""
    first, tasks = missing[0], [*dict.fromkeys(data_set.task for data_set in missing)]
    further_tasks = f" and {len(tasks) - _MOST_NAMED_TASKS} more" if len(tasks) > _MOST_NAMED_TASKS else ""
    short_names = [name[0] for name in first.names() if len(name) == 1]
    tried_names = ", ".join([*dict.fromkeys([first.label, *(name for name in short_names[-3:] if "--" not in name)])])
    folder_note = (
        f"not in {folder.folder} as {tried_names}" if folder is not None else "evaluation.data names no folder"
    )
    hub, prepared = (str(cache).replace(str(Path.home()), "~", 1) for cache in _caches())
    caches = f"{hub} or {prepared.removeprefix(os.path.commonpath([hub, prepared]) + '/')}"
    return (
        f"evaluation.tasks: no data for {', '.join(tasks[:_MOST_NAMED_TASKS])}{further_tasks}: {folder_note}; "
        f"not in {caches}; {reason}; hf download --repo-type dataset {first.path}"
    )


def _caches() -> tuple[Path, Path]:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or home / "hub"
    prepared = os.environ.get("HF_DATASETS_CACHE") or home / "datasets"
    return Path(hub).expanduser(), Path(prepared).expanduser()


def _is_cached(path: str) -> bool:
    """True if the hub's cache, or that of `datasets`, has a copy of `owner/name`."""
    hub, prepared = _caches()
    if any((hub / f"datasets--{path.replace('/', '--')}" / "snapshots").glob("*/*")):
        return True
    return prepared.is_dir() and any(plain(folder.name) == plain(path) for folder in prepared.iterdir())


@functools.cache
def hub_silence() -> str:
    """Why the hub cannot be asked; empty where it answers. One answer per process."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception:  # whatever the network, a proxy or the HTTP library says: the hub does not answer
        return f"{constants.ENDPOINT.removeprefix('https://')} does not answer"
    return ""


@contextlib.contextmanager
def given_to_lm_eval(sources: Iterable[DataSource]) -> Iterator[None]:
    """Until the `with` ends, `datasets.load_dataset`, which lm-eval calls, reads the found files in the place of the
    hub, and data of the hub at the sources' commits. So a data set whose repository holds code to load it is read too:
    no such code is run.

    Raises UserError for two tasks that read other files as the same data set.
    """
    import datasets

    sources = list(sources)
    commits = {source.data_set.hub_name: source.commit for source in sources if source.at == "hub"}
    sources_by_call: dict[tuple[str, str | None, tuple[str, ...]], list[DataSource]] = {}
    for source in sources:
        if source.copy is not None:
            data_set = source.data_set
            sources_by_call.setdefault((data_set.path, data_set.config, data_set.data_files), []).append(source)
    for first, *others in sources_by_call.values():
        if other := next((source for source in others if source.copy != first.copy), None):
            raise UserError(
                f"evaluation.data: {first.data_set.task} and {other.data_set.task} read {first.data_set.label}, but by "
                f"their names from {first} and {other}; put it at {first.data_set.path} in the folder"
            )
    loaded: dict[tuple[str, str | None, tuple[str, ...]], datasets.DatasetDict] = {}
    original: Callable[..., Any] = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        files = tuple(data_files({"dataset_kwargs": kwargs}))
        key = (path, None if name is None else str(name), files)
        if key not in sources_by_call:
            revision = kwargs.get("revision")
            commit = commits.get(path if revision is None else f"{path}@{revision}")
            return original(path, name, *args, **({**kwargs, "revision": commit} if commit else kwargs))
        if key not in loaded:  # the members of a group, such as the twenty of bAbI, may share a data set
            loaded[key] = _read_all(sources_by_call[key])
        return loaded[key]

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = original


def _read_all(sources: list[DataSource]) -> datasets.DatasetDict:
    """The splits that any of the sources' tasks names, of one set of files."""
    import datasets

    splits = datasets.DatasetDict()
    for source in {(source.copy, source.data_set.splits): source for source in sources}.values():
        assert source.copy is not None
        for name, rows in read_data(source.copy, source.data_set).items():
            if name not in splits or not len(splits[name]):
                splits[name] = rows
    return splits
