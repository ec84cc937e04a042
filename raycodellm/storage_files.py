"""Reads the files of a storage: every record is checked here, and a damaged file is named.

A function that reads raises `DamagedFile` with one line: which file, what is wrong, what is lost, how to continue.
`attempt` is for callers that can do without the file: a table or a report says the line and shows the rest. Fields
that a newer version wrote are kept. A damaged file that exists twice is read from its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import yaml

from raycodellm import config
from raycodellm.config import SweepFile, UserError
from raycodellm.config.errors import nearest_place
from raycodellm.files import DamagedFile, Folder, cause
from raycodellm.records import StageRecord, TrialResult, from_json
from raycodellm.rungs import Rung

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

DONE = "DONE"
"""Written last into a finished stage's folder (see `finished`); holds the stage's record a second time."""
COMPLETE = "COMPLETE"
"""The marker that is written last into a checkpoint: sizes and checksums of its files."""
CHECKPOINTS = "checkpoint"
"""Folder of an unfinished stage with its checkpoints, each in a folder by its step."""
LADDER = "ladder.json"
"""In the folder of a ladder, which is no run folder: names the sweeps of its sizes, whose run folders lie beside it."""
SO_FAR = "so_far.json"
"""File of a stage's folder with its records at the rungs of early stopping, and where it was stopped."""
RUNGS = "rungs.json"
"""File of a trial's folder with its comparisons at the rungs, written before any of them has an effect."""
ITEM_TYPES = {"task": "string", "item": "int64", "correct": "bool", "bits_per_byte": "double", "chance": "double"}
"""Columns that every `items.parquet` has; see `evaluation.ITEMS_SCHEMA`."""
SCORE_COLUMNS = ("num_bytes", "not_run", "contaminated", "scores", "attributes")
"""Columns that scores are read of where the file has them; those of older versions do not."""


_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader in C, where PyYAML was built with it, is ten times as fast as the one in Python."""


@overload
def attempt(read: Callable[[], T], say: Callable[[str], Any]) -> T | None: ...


@overload
def attempt(read: Callable[[], T], say: Callable[[str], Any], instead: T) -> T: ...


def attempt(read: Callable[[], Any], say: Callable[[str], Any], instead: Any = None) -> Any:
    """The result of `read`; `instead` when its file does not exist yet, or is damaged: then `say` is told."""
    try:
        return read()
    except FileNotFoundError:
        return instead
    except (DamagedFile, OSError) as error:
        say(fault_line(error))
    return instead


def fault_line(error: DamagedFile | OSError) -> str:
    """One line about a file that a table or a report does without."""
    return str(error) if isinstance(error, DamagedFile) else f"{cause(error)}; what it holds is left out here"


# ------------------------------------------------------------------------------------------------- the run folder


def report_address(run: Folder) -> str:
    """The address of the run's report, whether it is written already or not."""
    return (run / "report" / "index.html").uri


def no_run_folder(folder: Folder) -> str:
    """The refusal of a folder that is no run folder; of a storage it names the first run folder."""
    names = folder.list() if folder.exists("stages") or folder.exists("tokens") else []
    runs = sorted(name for name in names if (folder / name).exists("sweep.yaml"))
    hint = f", such as {folder / runs[0]}" if runs else ""
    if folder.local is not None and not folder.local.exists():
        hint = f"; {nearest_place(folder.uri)}"
    return f"{folder}: is not a run folder (it has no sweep.yaml); give <storage>/<sweep name>{hint}"


def read_sweep_file(run: Folder, say: Callable[[str], Any] | None = None) -> SweepFile:
    """Reads `sweep.yaml`. Keys that only a newer version knows are refused; with `say` they are left out and said.

    Raises `UserError` when the file is missing, damaged or refused, since nothing else says what the sweep is.
    """
    if not run.exists("sweep.yaml"):
        raise UserError(no_run_folder(run))
    file = f"{run}/sweep.yaml"
    try:
        text = run.read_text("sweep.yaml")
        if not text.strip():
            raise DamagedFile(file, "is empty")
        _check_whole(text, file)
    except DamagedFile as error:
        hint = "if you have its sweep file, delete this one: `raycodellm run` writes it again"
        raise UserError(f"{error}; what the sweep is cannot be read; {hint}") from error
    return config.parse(text, origin=file) if say is None else config.parse_known(text, file, say)


def _check_whole(text: str, file: str) -> None:
    """Raises `DamagedFile` when a key is missing that every saved sweep has: then the file was cut short."""
    try:
        tree = yaml.load(text, Loader=_SAFE_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DamagedFile(file, f"is not valid YAML ({cause(error)[:80]})") from error
    missing = [key for key in ("name", "stages", "search") if not isinstance(tree, dict) or key not in tree]
    if missing:
        raise DamagedFile(file, f"holds no {', '.join(missing)}")


def read_result(trial: Folder) -> TrialResult:
    """Reads `result.json` of a trial that has ended."""
    try:
        return _trial(trial, "result.json")
    except DamagedFile as error:
        raise error.with_meaning(
            f"trial {trial.name} has lost its result; `raycodellm run` makes it again from the trial's finished stages"
        ) from error


def read_started(trial: Folder) -> TrialResult:
    """Reads `trial.json`, which a trial writes when it begins."""
    try:
        return _trial(trial, "trial.json")
    except DamagedFile as error:
        raise error.with_meaning(
            f"which arm trial {trial.name} is cannot be shown; `raycodellm run` writes it again when the trial goes on"
        ) from error


def _trial(trial: Folder, name: str) -> TrialResult:
    result = from_json(TrialResult, trial.read_json(name), f"{trial}/{name}")
    return replace(result, params={config.current_name(name): value for name, value in result.params.items()})


def read_timing(run: Folder) -> dict[str, float]:
    """Reads `timing.json`: seconds by part of the run. Other values, which a newer version wrote, are left out."""
    try:
        content = run.read_json("timing.json")
        seconds = {name: float(value) for name, value in content.items() if type(value) in (int, float)}
        if content and not seconds:
            raise DamagedFile(f"{run}/timing.json", "holds no seconds")
        return seconds
    except DamagedFile as error:
        raise error.with_meaning("where the time went until now is lost; nothing else needs it") from error


@dataclass(frozen=True)
class Spent:
    """The spending of a sweep over all its runs, as `spent.json` keeps it."""

    tokens: int = 0
    """Tokens of the stages of all trials that have begun, equal stages once, without stages of other sweeps."""
    device_seconds: float = 0.0
    """Seconds that worker groups held, times their devices."""
    wall_seconds: float = 0.0
    """Seconds that the sweep's drivers ran."""


def read_spent(run: Folder) -> Spent:
    """Reads `spent.json`: what the sweep had spent when its driver last wrote it."""
    try:
        return from_json(Spent, run.read_json("spent.json"), f"{run}/spent.json")
    except DamagedFile as error:
        raise error.with_meaning(
            "device hours and wall hours of earlier runs are lost, so that `budget` counts them anew"
        ) from error


def read_trials_table(run: Folder) -> list[dict[str, Any]]:
    """Reads the rows of `trials.parquet`."""
    try:
        table = run.read_table("trials.parquet", _TRIAL_TYPES)
    except DamagedFile as error:
        raise error.with_meaning("delete it: `raycodellm report` makes it again from the trials' folders") from error
    return table.rename_columns([_current_column(name) for name in table.column_names]).to_pylist()


def _current_column(name: str) -> str:
    group, dot, parameter = name.partition(".")
    return f"{group}{dot}{config.current_name(parameter)}" if group == "params" else name


_TRIAL_TYPES = {"number": "int64", "state": "string", "arm": "int64", "seed": "int64"}


def read_items(
    folder: Folder, instead: Callable[[], pa.Table | None] = lambda: None, more: Sequence[str] | None = None
) -> pa.Table:
    """Reads `items.parquet` of a trial: one row per item. `instead` is asked for the items when the file is damaged.
    `more`: as for `Folder.read_table`."""
    try:
        return folder.read_table("items.parquet", ITEM_TYPES, more)
    except DamagedFile as error:
        if (items := instead()) is not None:
            return items
        raise error.with_meaning("the items' scores, and what is paired over items, are left out here") from error


# ------------------------------------------------------------------------------------------- the stage store


def read_stage(folder: Folder) -> StageRecord:
    """Reads the record of a finished stage from `stage.json`, or from its copy in `DONE` when that is damaged."""
    try:
        return _stage(folder, "stage.json")
    except (DamagedFile, FileNotFoundError) as error:
        try:
            return read_done(folder)
        except DamagedFile:
            fault = error if isinstance(error, DamagedFile) else DamagedFile(f"{folder}/stage.json", "is missing")
            raise fault.with_meaning(
                "what the stage trained on is left out here; its model is untouched, and the stage is trained again by "
                "the next run that needs it"
            ) from error


def read_done(folder: Folder) -> StageRecord:
    """Reads the record of a finished stage from its copy in `DONE`. Raises `FileNotFoundError` when it is not
    finished."""
    return _stage(folder, DONE)


def _stage(folder: Folder, name: str) -> StageRecord:
    content = folder.read_json(name)
    if "record" not in content:
        raise DamagedFile(f"{folder}/{name}", "holds no record of a finished stage")
    return from_json(StageRecord, content["record"], f"{folder}/{name}")


def read_so_far(folder: Folder) -> dict[int, StageRecord]:
    """Reads a stage's records as it stood at the rungs of early stopping and where it was stopped, by trained steps."""
    try:
        return from_json(dict[int, StageRecord], folder.read_json(SO_FAR), f"{folder}/{SO_FAR}")
    except DamagedFile as error:
        raise error.with_meaning("the stage is measured again at the rungs that it has still to reach") from error


def read_rungs(trial: Folder) -> tuple[Rung, ...]:
    """Reads the comparisons that early stopping made of a trial that has not ended; none of a trial without any."""
    try:
        return from_json(_Rungs, trial.read_json(RUNGS), f"{trial}/{RUNGS}").rungs
    except FileNotFoundError:
        return ()
    except DamagedFile as error:
        raise error.with_meaning(f"trial {trial.name} is compared again at its rungs") from error


@dataclass(frozen=True)
class _Rungs:
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class _SourceStore:
    name: str
    store: str


def read_sources(folder: Folder) -> dict[str, str]:
    """Maps each source of a stage to the name of its token store's folder, from `stage.json`."""
    try:
        file = f"{folder}/stage.json"
        job = from_json(dict[str, Any], folder.read_json("stage.json").get("job") or {}, file)
        sources = from_json(tuple[_SourceStore, ...], job.get("sources", ()), file)
    except DamagedFile as error:
        raise error.with_meaning("what was left out of its sources is not shown") from error
    return {source.name: source.store.partition("?")[0].rstrip("/").rpartition("/")[2] for source in sources}


def read_curves(folder: Folder) -> dict[str, list]:
    """Reads the columns of a stage's `metrics.parquet`."""
    try:
        return folder.read_table("metrics.parquet", {"step": "int64", "tokens": "int64"}).to_pydict()
    except DamagedFile as error:
        raise error.with_meaning("the stage's curves are left out; nothing else needs them") from error


@dataclass(frozen=True)
class _StoreFacts:
    kind: str
    num_documents: int
    num_tokens: int
    source_fingerprint: str
    content_digest: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason to the number of documents that were left out for it."""


def read_manifest(store: Folder) -> dict[str, Any]:
    """Reads the manifest of a token store; checks the fields that are shown to people."""
    try:
        manifest = store.read_json("manifest.json")
        return {**manifest, **asdict(from_json(_StoreFacts, manifest, f"{store}/manifest.json"))}
    except DamagedFile as error:
        raise error.with_meaning("what was left out is not shown; a run that needs the store makes it again") from error
