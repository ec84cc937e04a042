"""Reads the needs of each kept sweep of a storage from the files that its driver and its trials wrote.

A trial writes the keys of its stages before it looks for them in the stage store, and a driver the identities of its
data before its first trial. So these files name everything that a sweep has used; nothing is worked out twice. Trunks,
which no file names, are worked out by the code that trials use.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raycodellm import config, stage_store, storage_files, sweep, tokens
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Damaged, Folder
from raycodellm.identity import Contents
from raycodellm.pruning.kinds import GIVEN_MODEL, STAGE, TOKEN_STORE, TOKENIZER, TRUNK
from raycodellm.pruning.listing import Thing
from raycodellm.records import ENDED, GIVEN_MODELS, RECIPE_VERSION, TrialResult
from raycodellm.sweep import warm_start
from raycodellm.sweep.provenance import ADDRESSES, CONTENTS, FixedData, fixed_data
from raycodellm.sweep.trial_files import read_trials, trial_folder

Trials = Mapping[int, TrialResult]
"""Maps a trial's number to its result, or for one that has not ended to what it wrote when it began."""


@dataclass(frozen=True)
class Needs:
    """The things that one sweep has used, or may use when it goes on."""

    sweep: str
    trials: Trials = field(default_factory=dict, repr=False)
    stages: frozenset[str] = frozenset()
    """Keys of its trials' stages, which are the names of their folders."""
    optimizers: frozenset[str] = frozenset()
    """Keys of the stages whose optimizer state a later stage may start from."""
    models: frozenset[str] = frozenset()
    """Identities of the given models that it evaluates."""
    tokenizer: str = ""
    stores: frozenset[str] = frozenset()
    """Names of its token stores' folders."""
    undecided: frozenset[str] = frozenset()
    """Sources of which nothing says which token store is theirs: all of the source's name may be."""
    trunks: frozenset[str] | None = frozenset()
    """Identities of the trunks that its trials may go on from; None where any trunk may be among them."""
    mentioned: frozenset[str] = frozenset()
    """Names of folders that its settings mention: of a stage whose model it starts from, say."""
    reads: frozenset[str] = frozenset()
    """Names in its `search.warm_start` whose trials it has still to read."""
    driver: str | None = None
    """The process that runs the sweep now, as far as is known."""
    is_given: bool = False
    """True for a sweep that trains nothing."""
    is_finished: bool = False
    """True if each of its trials has ended and no more are to come, as far as its sweep file says."""

    def uses(self, thing: Thing) -> bool:
        name = thing.name
        if name in self.mentioned:
            return True
        if thing.kind is STAGE:
            return name in self.stages
        if thing.kind is TRUNK:
            return self.trunks is None or name in self.trunks
        if thing.kind is TOKEN_STORE:
            return name in self.stores or any(name.startswith(f"{source}-") for source in self.undecided)
        if thing.kind is TOKENIZER:
            return name == self.tokenizer or bool(self.undecided)
        assert thing.kind is GIVEN_MODEL
        return name in self.models or (self.is_given and self.driver is not None)


def read_needs(storage: Folder, name: str, earlier_needs: Needs | None = None, *, asks_finished: bool = False) -> Needs:
    """The needs of the sweep with the run folder `name`.

    `earlier_needs`: the needs that were read of the same run moments ago. Their trials are not read again, but for one
    that named no stage: it may have been begun again. `asks_finished`: whether `is_finished` is found out, which may
    read the trials' items.

    Raises `UserError` where a file of the run folder cannot be read, since nothing tells then what is needed.
    """
    try:
        trials = earlier_needs.trials.items() if earlier_needs is not None else ()
        known_trials = {number: result for number, result in trials if result.stages or result.model}
        return _read_needs(storage, name, known_trials, asks_finished)
    except (UserError, Damaged) as error:
        raise UserError(
            f"nothing is deleted, since {name} cannot be read: {error}; mend it, use the raycodellm that wrote it, or "
            f"give it up with --forget {name}"
        ) from error


def _read_needs(storage: Folder, name: str, known_trials: dict[int, TrialResult], asks_finished: bool) -> Needs:
    folder = storage / name
    driver = sweep.driver_of(folder)  # first: whoever takes the folder now writes everything else later
    file = storage_files.read_sweep_file(folder)
    example = file.example()
    contents = _contents(folder)
    data = fixed_data(folder)
    trials = {**known_trials, **_trials(folder, file, known_trials)}
    sources = example.sources
    has_ended = any(result.state in ENDED for result in trials.values())  # since then the data cannot change
    is_decided = data is not None and {*sources} <= {*data.stores} and (driver is None or has_ended)
    stores = data.stores if data is not None else {}
    return Needs(
        name,
        trials,
        stages=frozenset(key for result in trials.values() for key in result.stages) | _stages_in_table(folder),
        optimizers=frozenset(_stages_keeping_optimizer(file, trials)),
        models=frozenset(result.model for result in trials.values() if result.model),
        tokenizer=data.tokenizer if data is not None else "",
        stores=frozenset(
            tokens.store_folder(storage, source, store_identity).name for source, store_identity in stores.items()
        ),
        undecided=frozenset(() if is_decided else sources),
        trunks=_trunks(storage, file, data, contents, trials, is_run=driver is not None),
        mentioned=frozenset(_mentioned_names([config.resolved_tree(file), contents.get(ADDRESSES)]))
        | _names_of_models(storage, file, trials),
        reads=frozenset(() if folder.exists(warm_start.KEPT) else example.search.warm_start),
        driver=None if driver is None else driver.name,
        is_given=not example.stages,
        is_finished=asks_finished and driver is None and _is_finished(storage, folder, file, trials),
    )


def mentions(tree: Any) -> frozenset[str]:
    """Names of things of a storage that stand in any path of a tree of settings, or to which such a path leads."""
    return frozenset(_mentioned_names(tree))


def _contents(folder: Folder) -> dict[str, Any]:
    """The content of `contents.json`. Raises `UserError` for one of a newer recipe, whose needs are not known here."""
    contents: dict[str, Any] = folder.read_json(CONTENTS) if folder.exists(CONTENTS) else {}
    recipe = contents.get("recipe")
    if isinstance(recipe, int) and recipe > RECIPE_VERSION:
        raise UserError(f"{folder}: was run by a newer raycodellm (recipe {recipe}, here {RECIPE_VERSION})")
    return contents


def _trials(folder: Folder, file: SweepFile, known_trials: Mapping[int, TrialResult]) -> dict[int, TrialResult]:
    trials = {}
    for number, files in read_trials(folder, file.example().search.objectives, known_trials).items():
        trial = files.result or files.started
        if files.result is not None and not (files.result.stages or files.result.model):
            trial = _as_begun(folder, files.result)  # it died, and its driver could not read what it had begun
        for fault in files.faults:
            if isinstance(fault, OSError):
                raise fault
            if trial is None or not (trial.stages or trial.model):
                raise UserError(str(fault))
        if trial is not None:
            trials[number] = trial
    return trials


def _as_begun(folder: Folder, result: TrialResult) -> TrialResult:
    """The result with what the trial wrote of its stages when it began. Raises `DamagedFile`."""
    try:
        started = storage_files.read_started(trial_folder(folder, result.number))
    except FileNotFoundError:
        return result
    return replace(result, stages=started.stages, model=started.model, params=started.params, seed=started.seed)


def _stages_in_table(folder: Folder) -> frozenset[str]:
    """Keys of the stages in the table of trials: a trial that has lost its files is run again from its stages."""
    try:
        column = folder.read_table("trials.parquet", more=["stages"]).column("stages")
    except (FileNotFoundError, Damaged, KeyError):  # the table is made of the trials' files, and says no more than they
        return frozenset()
    return frozenset(key for keys in column.to_pylist() for key in keys or ())


def _stages_keeping_optimizer(file: SweepFile, trials: Trials) -> Iterator[str]:
    names = config.stages_keeping_optimizer(file)
    for result in trials.values() if names else ():
        stage_names = [stage.name for stage in config.resolve(file, result.params).trained_stages]
        is_known = len(stage_names) == len(result.stages)
        for index, key in enumerate(result.stages):
            if not is_known or stage_names[index] in names:
                yield key


def _trunks(
    storage: Folder,
    file: SweepFile,
    data: FixedData | None,
    contents: Mapping[str, Any],
    trials: Trials,
    *,
    is_run: bool,
) -> frozenset[str] | None:
    """Identities of the trunks of the trials' stages. A sweep that is being run may go on from any, with its next
    trial."""
    if not stage_store.has_trunks(file):
        return frozenset()
    if is_run or data is None:
        return None
    try:
        materials = _materials(storage, data, contents)
        folders_by_trial = (
            stage_store.trunk_folders(file, result.params, result.seed, materials)
            for result in trials.values()
            if result.params or not file.parameters
        )
        return frozenset(Folder(uri).name for uris in folders_by_trial for uri in uris)
    except (UserError, Damaged, FileNotFoundError, KeyError):  # a token store is gone, say
        return None


def _materials(storage: Folder, data: FixedData, contents: Mapping[str, Any]) -> stage_store.Materials:
    folder = tokens.tokenizer_folder(storage, data.tokenizer)
    tokenizer = tokens.finished_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder}: no finished tokenizer")
    return stage_store.Materials(
        corpora={
            source: tokens.TokenStore.open(tokens.store_folder(storage, source, store_identity))
            for source, store_identity in data.stores.items()
        },
        tokenizer=folder,
        tokenizer_fingerprint=data.tokenizer,
        vocab_size=tokenizer.vocab_size,
        storage=storage,
        contents=Contents(models=contents.get("models", {})),
    )


def _is_finished(storage: Folder, folder: Folder, file: SweepFile, trials: Trials) -> bool:
    run = sweep.Run(file, storage)
    if run.folder != folder or any(result.state not in ENDED for result in trials.values()):
        return False
    results = [trials[number] for number in sorted(trials)]
    return len(results) >= sweep.Confirmation(run).standing(results).num_trials


def _mentioned_names(tree: Any) -> Iterator[str]:
    for text in _texts(tree):
        paths = {text, *_link_targets(text)}
        yield from (part for path in paths for part in re.split(r"[/\\]", path) if _IDENTIFIED.fullmatch(part))


def _link_targets(text: str) -> Iterator[str]:
    """The real path of a text that is a path on this machine, and the targets of the links that lie right in that
    folder, such as the files of a stage's model."""
    path = os.path.expanduser(text.removeprefix("file://"))
    if not os.path.lexists(path):
        return
    yield os.path.realpath(path)
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # a file, or a folder of another user
        yield from (os.path.realpath(entry.path) for entry in entries if entry.is_symlink())


_IDENTIFIED = re.compile(r"(.+-)?[0-9a-f]{16}")


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from (*_texts(key), *_texts(value))
    elif isinstance(tree, Sequence):
        for value in tree:
            yield from _texts(value)


def _names_of_models(storage: Folder, file: SweepFile, trials: Trials) -> frozenset[str]:
    """Names of things whose files are a model that the sweep starts from or evaluates, by the address that its first
    stages, or the model's results, keep: that address is whole where the sweep file's is not."""
    if not any(model.pretrained for model in _models(file)):
        return frozenset()
    names: set[str] = set()
    for key in {result.stages[0] for result in trials.values() if result.stages}:
        record = _read_or_empty(storage / STAGE.folder / key, "stage.json")
        names |= mentions((record.get("job") or {}).get("model"))
    for identity in {result.model for result in trials.values() if result.model}:
        names |= mentions(_read_or_empty(storage / GIVEN_MODELS / identity, "model.json"))
    return frozenset(names)


def _models(file: SweepFile) -> Iterator[config.Model]:
    yield file.example().model
    if any(parameter.name.startswith("model") for parameter in file.parameters):
        yield from (config.resolve(file, point).model for point in file.probe_points())


def _read_or_empty(folder: Folder, name: str) -> dict[str, Any]:
    """The content of the JSON file; empty where the file is missing or damaged."""
    try:
        return folder.read_json(name)
    except (FileNotFoundError, Damaged):
        return {}
