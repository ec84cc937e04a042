"""`raycodellm prune-storage` deletes what no kept sweep needs, and nothing that one may need, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from driver_without_ray import Cluster
from test_added_tasks import drive

from raycodellm import cli, config, finished, pruning, storage_files, sweep
from raycodellm.commands.prune import Pruning, prune
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.pruning import kinds
from raycodellm.pruning.kinds import GIVEN_MODEL, KINDS, MARKERS, STAGE, TOKEN_STORE, TOKENIZER, TRUNK
from raycodellm.pruning.listing import Listing, StoredFile, Thing
from raycodellm.records import RECIPE_VERSION, TrialResult, as_json
from raycodellm.slots.lease import Lease

pytestmark = pytest.mark.usefixtures("no_rivals")

DAYS = 86_400.0
GRID = "search.sampler=grid"
ONE_RATIO = ("pretrain.code_ratio=0.25", "search.trials=null", GRID)
"""Three trials, by the schedule."""
TASK = ("evaluation.tasks=[boxes]", "search.objective={metric: boxes/bpb, mode: min}")
CHECKPOINT = ("COMPLETE", "state.json", "shard-00000-of-00001.safetensors")
MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")


def next_month() -> float:
    return time.time() + 30 * DAYS


def named(text: str, name: str, *overrides: str) -> SweepFile:
    return config.parse(text, overrides=(f"name={name}", *ONE_RATIO, *TASK, *overrides))


Made = tuple[Path, dict[str, int]]
_MADE: dict[Any, Made] = {}
"""A storage that a sweep has run in, by the storage before it: copying is a hundred times faster than running."""


class Lab:
    """A storage in which sweeps run without Ray, each with its data."""

    def __init__(self, path: Path | str, text: str) -> None:
        self.storage, self.text, self.cluster = Folder(str(path)), text, Cluster()

    def run(self, name: str, *overrides: str, stop_after: int | None = None) -> SweepFile:
        """Runs a sweep; its stages get the files of trained ones."""
        file = named(self.text, name, *overrides)
        root = Path(self.storage.uri)
        key = (name, overrides, stop_after, *sorted(every_file(root).items()))
        if key in _MADE:
            made, trained = _MADE[key]
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(made, root)
            self.cluster.num_trained.update(trained)
            return file
        before = self.cluster.num_trained.copy()
        self.go_on(file, stop_after)
        self.give_data(file)
        made = root.parent / f"made-{len(_MADE)}"
        shutil.copytree(root, made)
        _MADE[key] = made, self.cluster.num_trained - before
        return file

    def go_on(self, file: SweepFile, stop_after: int | None = None) -> int:
        """Goes on with the sweep; returns how many trials were left."""
        left = drive(file, self.storage, self.cluster, [], stop_after)
        for stage in self.stages():
            folder = self.storage / "stages" / stage
            for name in MODEL if not folder.exists("model") else ():
                (folder / "model").write_bytes(name, b"weights")
        return left

    def give_data(self, file: SweepFile, identity: str = "00000000000000aa") -> None:
        for source in file.example().sources:
            store = self.storage / "tokens" / f"{source}-{identity}"
            store.write_bytes("tokens-00000.arrow", b"tokens")
            store.write_bytes("manifest.json", b"{}")
        (self.storage / "tokenizers" / identity).write_bytes("tokenizer.json", b"{}")
        (self.storage / "tokenizers" / identity).write_bytes("raycodellm.json", b"{}")
        data = {"tokenizer": identity, **{f"sources.{name}": identity for name in file.example().sources}}
        (self.storage / file.example().name).write_json("data.json", data)

    def stages(self) -> list[str]:
        return [name for name in (self.storage / "stages").list() if not name.startswith(".")]

    def keep_state(self, stage: str, folder: str) -> None:
        for name in CHECKPOINT:
            (self.storage / "stages" / stage / folder).write_bytes(name, b"moments")

    def prune(self, *forget: str, clock: Callable[[], float] = next_month, **options: Any) -> int:
        chosen = Pruning(**{"forget": forget, "yes": True, **options})
        return prune(self.storage.uri, chosen, print, clock=clock)

    def plan(self, *forget: str, **asked: Any) -> pruning.Plan:
        return pruning.look(self.storage, pruning.Asked(forget=forget, **asked), next_month()).plan

    def paths(self, *forget: str, **asked: Any) -> set[str]:
        return {item.path for item in self.plan(*forget, **asked).items}


@pytest.fixture
def lab(tmp_path: Path, sweep_text: str) -> Lab:
    return Lab(tmp_path / "storage", sweep_text)


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


# ---------------------------------------------------------------------------------------------------- the decision


def thing(kind: Any, name: str, *files: str, written: float = 0.0, size: int = 10) -> Thing:
    return Thing(kind, name, tuple(StoredFile(path, size, written) for path in files))


FILES = {STAGE: "DONE", TRUNK: "step-000001/COMPLETE", TOKEN_STORE: "manifest.json", TOKENIZER: "tokenizer.json"}


def random_things(chance: random.Random) -> tuple[Thing, ...]:
    found = []
    for kind, number in itertools.product(KINDS, range(6)):
        name = f"{number:016x}" if kind in (TRUNK, TOKENIZER, GIVEN_MODEL) else f"a-{number:016x}"
        files = [FILES.get(kind, "model.json"), *(["notes.txt"] if chance.random() < 0.2 else [])]
        found.append(thing(kind, name, *files, written=chance.choice([0.0, 99_000.0])))
    return tuple(found)


def random_needs(chance: random.Random, name: str) -> pruning.Needs:
    def some(prefix: str) -> frozenset[str]:
        return frozenset(f"{prefix}{chance.randrange(6):016x}" for _ in range(2))

    return pruning.Needs(
        name,
        stages=some("a-"),
        models=some(""),
        tokenizer=f"{chance.randrange(6):016x}",
        stores=some("a-"),
        undecided=frozenset("a" if chance.random() < 0.1 else ()),
        trunks=some("") if chance.random() < 0.9 else None,
        mentioned=some("a-"),
        is_finished=chance.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(40))
def test_what_a_kept_sweep_uses_what_is_young_and_what_is_unknown_is_never_in_a_plan(seed: int) -> None:
    chance = random.Random(seed)
    listing = Listing(Folder("/s"), random_things(chance), (), (), (), (), ())
    needs = [random_needs(chance, f"s{number}") for number in range(chance.randrange(3))]
    plan = pruning.decide(listing, needs, pruning.Asked(), now=100_000.0)
    doomed, young = ({item.path for item in items} for items in (plan.items, plan.young))
    for one in listing.things:
        is_used, is_strange = any(need.uses(one) for need in needs), "notes.txt" in one.paths
        is_young = one.written > 100_000.0 - 86_400.0
        assert (one.path in doomed) == (not is_used and not is_strange and not is_young), one.path
        assert (one.path in young) == (not is_used and not is_strange and is_young)
        assert (one.path in plan.left_alone) == (not is_used and is_strange)
    assert plan.kept_bytes == sum(one.num_bytes for one in listing.things if any(n.uses(one) for n in needs))


def test_a_finished_sweeps_trunks_go_only_when_its_training_state_is_to_be_dropped() -> None:
    listing = Listing(Folder("/s"), (thing(TRUNK, "0" * 16, "step-000001/COMPLETE"),), (), (), (), (), ())
    for is_finished, drop in itertools.product((True, False), repeat=2):
        needs = pruning.Needs("s", trunks=frozenset({"0" * 16}), is_finished=is_finished)
        plan = pruning.decide(listing, [needs], pruning.Asked(drop_training_state=drop), now=9e9)
        assert bool(plan.items) == (is_finished and drop)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (STAGE, "model/model-00001-of-00002.safetensors"),
        (STAGE, "model/tokenizer_config.json"),
        (STAGE, "checkpoint/step-000595/shard-00001-of-00002.safetensors"),
        (STAGE, "evaluation/boxes-c5e035a83d05d4ae.parquet"),
        (STAGE, f"evaluation/boxes-c5e035a83d05d4ae/{'a' * 32}.parquet"),
        (STAGE, "seen-edce613a3576f710.parquet"),
        (STAGE, ".model.3kz_9abc/model/config.json"),
        (STAGE, ".stage.json.3kz_9abc"),
        (TOKEN_STORE, "packing-best_fit-256.arrow"),
        (TOKENIZER, "merges.txt"),
        (GIVEN_MODEL, "evaluation/boxes-c5e035a83d05d4ae.parquet"),
    ],
)
def test_the_files_that_raycodellm_writes_are_recognised(kind, file: str) -> None:
    assert kind.strangers([file]) == []


@pytest.mark.parametrize("file", ["notes.txt", "model/model.gguf", "model/sub/config.json", "merged/config.json"])
def test_other_files_in_a_stages_folder_are_not(file: str) -> None:
    assert STAGE.strangers([file]) == [file]


def test_no_sweep_has_the_name_of_a_folder_of_things(sweep_text: str) -> None:
    for kind in KINDS:
        with pytest.raises(UserError, match=r"name: found .*, the storage's own folder for something else"):
            config.parse(sweep_text, overrides=(f"name={kind.folder}",))


def test_all_that_a_run_leaves_in_its_folder_is_recognised_and_nothing_else() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `<sweep>/.*?\|", page, re.MULTILINE)
    names = [name.removeprefix("<sweep>/") for line in told for name in re.findall(r"`([^`]*)`", line)]
    assert len(names) > 8 and kinds.strangers_in_run(name + ("x" if name.endswith("/") else "") for name in names) == []
    assert kinds.strangers_in_run(["win-rate/progress.json", "notes.md", "plots/a.png"]) == ["notes.md", "plots/a.png"]
    assert kinds.strangers_in_run(["trials/0007/result.json", "trials/x.csv"]) == ["trials/x.csv"]  # not of ours


# ------------------------------------------------------------------------------------------------------- real runs


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(1, 20))])
def test_after_any_pruning_every_kept_sweep_runs_as_if_nothing_had_happened(lab: Lab, seed: int) -> None:
    """Sweeps that share stages or not, finished or not, some of them forgotten or with their folder deleted."""
    chance = random.Random(seed)
    files = {}
    for name in ("a", "b", "c"):
        ratio = f"pretrain.code_ratio={chance.choice([0.25, 0.5])}"
        files[name] = lab.run(name, ratio, f"seed={chance.randrange(2)}", stop_after=chance.choice([1, 2, None]))
    forgotten, deleted = chance.sample(sorted(files), 2)
    shutil.rmtree(Path(lab.storage.uri) / deleted)
    kept = [name for name in files if name not in (forgotten, deleted)]
    needed = {key for name in kept for key in keys_of(lab, files[name])}
    before = dict(lab.cluster.num_trained)
    assert lab.prune(forgotten) == cli.DONE
    assert {*lab.stages()} == needed and not lab.storage.exists(forgotten)
    for name in kept:
        lab.go_on(files[name])
        assert lab.go_on(files[name]) == 0
        more = named(lab.text, name, *overrides_of(files[name]), "evaluation.tasks=[boxes, logical_deduction]")
        lab.go_on(more)
    assert all(lab.cluster.num_trained[key] == before.get(key, 0) for key in needed)


def keys_of(lab: Lab, file: SweepFile) -> set[str]:
    run = sweep.Run(file, lab.storage)
    return {key for result in run.results_at_start for key in result.stages}


def overrides_of(file: SweepFile) -> tuple[str, ...]:
    example = file.example()
    return (f"pretrain.code_ratio={example.stages[0].code_ratio}", f"seed={example.seed}")


def test_a_sweep_is_forgotten_with_all_that_only_it_needs_even_on_the_day_it_ran(lab: Lab) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    lab.give_data(named(lab.text, "b"), "00000000000000bb")
    of_b = keys_of(lab, named(lab.text, "b", "pretrain.code_ratio=0.5"))
    assert lab.prune("b", clock=time.time) == cli.DONE
    assert not of_b & {*lab.stages()} and (lab.storage / "tokens").list() == [
        f"{name}-00000000000000aa" for name in ("asks", "prose", "python")
    ]
    assert (lab.storage / "tokenizers").list() == ["00000000000000aa"] and not lab.storage.exists("b")
    assert not [name for name in every_file(Path(lab.storage.uri)) if "pruned" in name]
    assert lab.plan().items == ()


def test_a_stage_whose_run_folder_was_deleted_today_stays_for_the_grace_period(lab: Lab) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    shutil.rmtree(Path(lab.storage.uri) / "b")
    before = every_file(Path(lab.storage.uri))
    lab.prune(clock=time.time)
    assert every_file(Path(lab.storage.uri)) == before
    lab.prune(clock=time.time, grace_hours=0)
    assert {*lab.stages()} == keys_of(lab, named(lab.text, "a"))


def test_a_clock_that_runs_ahead_of_the_storages_voids_no_grace(lab: Lab, monkeypatch, capsys) -> None:
    lab.run("a")
    shutil.rmtree(Path(lab.storage.uri) / "a")
    before = every_file(Path(lab.storage.uri))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30 * DAYS)
    assert lab.prune(clock=None) == cli.DONE and every_file(Path(lab.storage.uri)) == before
    assert "this machine's clock is 720.0 h ahead of the storage's" in capsys.readouterr().out


def test_what_a_stranger_put_into_a_storage_is_never_touched(lab: Lab, tmp_path: Path) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    root = Path(lab.storage.uri)
    shutil.rmtree(root / "b")
    (root / "tokens" / "run.log").write_text("of `prepare`, and so no stranger's")
    assert lab.plan().left_alone == {} and pruning.list_storage(lab.storage).unknown == ()
    needed = keys_of(lab, named(lab.text, "a"))
    mine, linked, other = sorted({*lab.stages()} - needed)[:3]
    (root / "stages" / mine / "model" / "model.gguf").write_text("converted by hand")
    shutil.move(root / "stages" / linked, tmp_path / "elsewhere")
    (root / "stages" / linked).symlink_to(tmp_path / "elsewhere")
    (root / "stages" / other / "model" / "link").symlink_to(tmp_path / "elsewhere")
    for path in ("notes.md", "stages/README", "stages/my-model/config.json", "papers/ma.pdf", "trunks/x/y"):
        (root / path).parent.mkdir(exist_ok=True, parents=True)
        (root / path).write_text("mine")
    (root / os.fsdecode(b"caf\xe9")).write_text("a name that is no text")
    before = every_file(root), every_file(tmp_path / "elsewhere")
    lab.prune()
    after = every_file(root)
    gone = {path.split("/")[1] for path in {*before[0]} - {*after}}
    assert gone and not gone & {*needed, mine, linked, other, "my-model"}
    assert {path: before[0][path] for path in after} == after and every_file(tmp_path / "elsewhere") == before[1]
    assert lab.plan().left_alone[f"stages/{mine}"] == "model/model.gguf"


def test_a_folder_that_is_a_link_into_another_storage_is_left_alone(lab: Lab, tmp_path: Path) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    mine, theirs = Path(lab.storage.uri), tmp_path / "theirs"
    shutil.copytree(mine, theirs)
    shutil.rmtree(mine / "stages")
    (mine / "stages").symlink_to(theirs / "stages")
    before = every_file(theirs)
    lab.prune("b")
    assert every_file(theirs) == before and not (mine / "b").exists()
    disk = tmp_path / "disk"
    shutil.move(theirs / "stages", disk)
    (mine / "stages").unlink()
    (mine / "stages").symlink_to(disk)
    before = every_file(disk)
    lab.prune()
    assert every_file(disk) == before, "another storage may be linked to it too"
    lab.prune(follow_links=True)
    assert {*os.listdir(disk)} == keys_of(lab, named(lab.text, "a"))


def test_a_mounted_object_store_that_renames_no_folder_is_pruned_too(lab: Lab, monkeypatch) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")

    def rename(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "rename", rename)
    assert lab.prune("b") == cli.DONE and {*lab.stages()} == keys_of(lab, named(lab.text, "a"))


def test_a_stage_whose_model_another_sweep_starts_from_stays(lab: Lab) -> None:
    lab.run("a")
    chosen, linked, *others = lab.stages()
    link = Path(lab.storage.uri).parent / "best"
    link.symlink_to(Path(lab.storage.uri) / "stages" / linked / "model")
    for name, model in (("b", f"{lab.storage}/stages/{chosen}/model"), ("c", str(link))):
        file = named(lab.text, name, f"model={{pretrained: {model}}}")
        sweep.open_run(file, lab.storage)
        lab.give_data(file)
    assert lab.paths("a") == {"a", *(f"stages/{key}" for key in others)}


@pytest.mark.parametrize("path", ["~/best", "./best", "file://{home}/best", "{home}/copy"])
def test_a_stage_whose_model_another_sweep_starts_from_stays_however_the_path_is_written(
    lab: Lab, tmp_path: Path, monkeypatch, path: str
) -> None:
    lab.run("a")
    chosen, *others = lab.stages()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = Path(lab.storage.uri) / "stages" / chosen / "model"
    (tmp_path / "best").symlink_to(model)
    (tmp_path / "copy").mkdir()
    for one in model.iterdir():
        (tmp_path / "copy" / one.name).symlink_to(one)
    file = named(lab.text, "b", f"model={{pretrained: '{path.format(home=tmp_path)}'}}")
    sweep.open_run(file, lab.storage)
    lab.give_data(file)
    assert lab.paths("a") == {"a", *(f"stages/{key}" for key in others)}


def test_a_run_folder_on_another_disk_keeps_its_stages_and_while_that_is_away_nothing_is_deleted(
    lab: Lab, tmp_path: Path
) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    shutil.move(Path(lab.storage.uri) / "b", tmp_path / "disk")
    (Path(lab.storage.uri) / "b").symlink_to(tmp_path / "disk")
    assert lab.paths() == set()
    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"^nothing is deleted, since b is a link to .*/disk, which is not there"):
        lab.prune()


@pytest.mark.parametrize("into", ["old", "old/2025/mine"])
def test_a_run_folder_that_was_put_away_inside_the_storage_keeps_its_stages_and_can_be_forgotten(
    lab: Lab, into: str
) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    root = Path(lab.storage.uri)
    shutil.copytree(root, root / "another")  # a storage of its own, inside
    (root / into).mkdir(parents=True)
    (root / "old" / "round").symlink_to(root / "old")
    shutil.move(root / "b", root / into / "b")
    assert lab.paths() == set()
    assert lab.prune(f"{into}/b") == cli.DONE and lab.storage.list() == [
        "a",
        "another",
        "old",
        "stages",
        "tokenizers",
        "tokens",
    ]
    assert {*lab.stages()} == keys_of(lab, named(lab.text, "a")) and (root / "old").exists()


def test_a_trial_whose_result_does_not_name_its_stages_keeps_those_that_it_began_with(lab: Lab) -> None:
    """Its process died, and its driver could not read which they were at that moment."""
    lab.run("a")
    trial = lab.storage / "a" / "trials" / "0001"
    result = {**trial.read_json("result.json"), "state": "failed", "stages": [], "metrics": {}, "error": "died"}
    trial.write_json("result.json", result)
    assert lab.paths() == set()


def test_a_sweep_of_given_models_keeps_its_results(lab: Lab) -> None:
    lab.run("a")
    kept, other = "00000000000000c1", "00000000000000c2"
    for name in (kept, other):
        (lab.storage / "models" / name).write_json("model.json", {"model": "x"})
    result = as_json(TrialResult(0, "complete", arm=0, seed=0, metrics={"boxes/bpb": 1.0}, model=kept))
    (lab.storage / "a" / "trials" / "0099").write_json("result.json", result)
    assert lab.paths() == {f"models/{other}"}


def test_a_trial_that_has_lost_its_files_keeps_its_stages(lab: Lab) -> None:
    file = lab.run("a")
    run = sweep.Run(file, lab.storage)
    sweep.write_table(run, print)
    shutil.rmtree(Path(run.folder.uri) / "trials" / "0001")
    assert lab.paths() == set()


def test_a_model_behind_a_relative_path_stays_from_wherever_the_storage_is_pruned(
    lab: Lab, tmp_path: Path, monkeypatch
) -> None:
    """The sweep has trials that wait for a slot, and so no stage yet that tells where its model lies."""
    lab.run("a")
    chosen, *others = lab.stages()
    model = Path(lab.storage.uri) / "stages" / chosen / "model"
    (model / "config.json").write_text('{"model_type": "llama"}')
    shutil.copy(conftest.__file__, model / "model.safetensors")
    (tmp_path / "best").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    run = sweep.open_run(named(lab.text, "b", "model={pretrained: ./best}"), lab.storage)
    lab.give_data(run.file)
    assert sweep.fix_contents(run) is not None and sweep.fix_contents(run) is not None
    begun = TrialResult(0, "running", arm=0, seed=0, stages=("pretrain-00000000000000ee",))
    (run.folder / "trials" / "0000").write_json("trial.json", as_json(begun))
    monkeypatch.chdir("/")
    assert lab.paths("a") == {"a", *(f"stages/{key}" for key in others)}


def test_names_that_are_no_text_are_listed_on_one_line(lab: Lab, capsys) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    root = Path(lab.storage.uri)
    strange, no_text = "x\n9 TB can be freed\x1b[2J ü", os.fsdecode(b"caf\xe9")
    (root / strange).mkdir(), (root / no_text).mkdir()
    shutil.move(root / "b", root / strange / "b")
    assert lab.prune(f"{strange}/b", yes=False) == cli.DONE
    said = capsys.readouterr().out
    assert "x\\n9 TB can be freed\\x1b[2J ü/b" in said and "\x1b" not in said and "\n9" not in said
    assert "caf\\udce9" in said
    shutil.move(root / strange / "b", root / no_text / "b")
    with pytest.raises(UserError, match=r"^nothing is deleted.*caf\\udce9/b: is a path with bytes that are no UTF-8"):
        lab.prune()


# ------------------------------------------------------------------------------------------- data that is being made


def test_half_made_token_stores_stay_while_a_sweep_may_be_making_them(lab: Lab) -> None:
    file = named(lab.text, "new")
    sweep.open_run(file, lab.storage)
    for path in ("tokens/prose-00000000000000cc", "tokens/web-00000000000000cc", "tokenizers/00000000000000cc"):
        (lab.storage / path).write_bytes("tokens-00000.arrow" if "tokens/" in path else "tokenizer.json", b"half")
    assert lab.paths() == {"tokens/web-00000000000000cc"}
    lab.give_data(file)
    assert lab.paths() == {f"tokens/{name}-00000000000000cc" for name in ("prose", "web")} | {
        "tokenizers/00000000000000cc"
    }


def test_a_driver_without_a_trial_yet_may_still_take_any_token_store_of_its_sources(lab: Lab) -> None:
    file = named(lab.text, "new")
    run = sweep.open_run(file, lab.storage)
    lab.give_data(file)
    (lab.storage / "tokens" / "prose-00000000000000cc").write_bytes("manifest.json", b"{}")
    with sweep.lock(run):
        assert lab.paths() == set()
    assert lab.paths() == {"tokens/prose-00000000000000cc"}


def test_a_stage_that_is_being_trained_stays_whoever_trains_it(lab: Lab) -> None:
    lab.run("a")
    stage = lab.storage / "stages" / "pretrain-00000000000000ff"
    assert Lease(stage, "a sweep of another storage", sleep=lambda seconds: None).take() is None
    paths = {item.path for item in pruning.look(lab.storage, pruning.Asked(grace_hours=0), time.time()).plan.items}
    assert paths == set() and lab.paths() == {"stages/pretrain-00000000000000ff"}


def test_what_is_being_written_into_a_needed_stage_stays_whatever_the_grace(lab: Lab) -> None:
    """A checkpoint of a stage in training, and a result of an evaluation."""
    lab.run("a", stop_after=1)
    trained, evaluated = lab.stages()
    stage = lab.storage / "stages" / trained
    stage.delete("DONE")
    assert Lease(stage, "its slot", sleep=lambda seconds: None).take() is None
    (stage / "checkpoint" / "step-000050").write_bytes("COMPLETE", b"")
    written = (stage / "checkpoint" / ".step-000100.3kz_9abc", lab.storage / "stages" / evaluated / "evaluation")
    written[0].write_bytes("state.json", b"{}"), written[1].write_bytes(".boxes.parquet.3kz_9abc", b"")

    def paths(at: float) -> set[str]:
        return {item.path for item in pruning.look(lab.storage, pruning.Asked(grace_hours=0), at).plan.items}

    assert paths(time.time() + 1) == set()
    assert paths(time.time() + 3600) == {str(one)[len(str(lab.storage)) + 1 :] for one in written[:1]} | {
        f"stages/{evaluated}/evaluation/.boxes.parquet.3kz_9abc"
    }


# --------------------------------------------------------------------------------------------------- training state


@pytest.mark.slow
def test_optimizer_states_stay_where_a_sweep_may_start_from_them_unless_its_training_state_is_dropped(lab: Lab) -> None:
    keeping = "instruct.optimizer={state: keep}"
    file = lab.run("keeps", keeping)
    lab.run("plain", "pretrain.code_ratio=0.5")
    of_keeping, of_plain = (
        {key for key in keys_of(lab, one) if key.startswith("pretrain-")}
        for one in (file, named(lab.text, "plain", "pretrain.code_ratio=0.5"))
    )
    for key in (*of_keeping, *of_plain):
        lab.keep_state(key, "optimizer")
        lab.keep_state(key, "checkpoint/step-000004")
    states = {folder: {f"stages/{key}/{folder}" for key in of_plain} for folder in ("optimizer", "checkpoint")}
    kept = {folder: {f"stages/{key}/{folder}" for key in of_keeping} for folder in ("optimizer", "checkpoint")}
    left = kept["checkpoint"]  # the stages have ended, and have their optimizer states
    assert lab.paths() == states["optimizer"] | states["checkpoint"] | left
    everything = states["optimizer"] | states["checkpoint"] | left | kept["optimizer"]
    assert lab.paths(drop_training_state=True) == everything
    lab.prune(drop_training_state=True)
    assert lab.go_on(file) == 0, "a finished sweep has nothing to run"
    assert all(finished.finished_stage(lab.storage / "stages" / key) for key in of_keeping | of_plain)
    assert all(finished.lacks_optimizer(lab.storage / "stages" / key) for key in of_keeping)


def test_a_sweep_that_has_trials_left_keeps_its_training_state(lab: Lab) -> None:
    file = lab.run("keeps", "instruct.optimizer={state: keep}", stop_after=1)
    for key in keys_of(lab, file):
        lab.keep_state(key, "optimizer")
    pretrain = {key for key in keys_of(lab, file) if key.startswith("pretrain-")}
    assert not {f"stages/{key}/optimizer" for key in pretrain} & lab.paths(drop_training_state=True)


def test_the_checkpoints_of_an_unfinished_stage_stay(lab: Lab) -> None:
    file = lab.run("a", stop_after=1)
    (key, *_) = keys_of(lab, file)
    (lab.storage / "stages" / key).delete("DONE")
    lab.keep_state(key, "checkpoint/step-000004")
    assert lab.paths(drop_training_state=True) == set()


# ---------------------------------------------------------------------------------------------- what cannot be read


def damaged(lab: Lab, path: str, content: str) -> str:
    folder, _, name = path.rpartition("/")
    (lab.storage / folder).write_bytes(name, content.encode())
    return path


DAMAGES = {
    "a/sweep.yaml": "",
    "a/data.json": "{}",
    "a/contents.json": json.dumps({"recipe": RECIPE_VERSION + 1}),
    "b/trials/0000/trial.json": "{",
}


@pytest.mark.parametrize("path", DAMAGES)
def test_nothing_is_deleted_while_a_run_folder_cannot_be_read(lab: Lab, path: str) -> None:
    lab.run("a"), lab.run("b", stop_after=1)
    (lab.storage / "b" / "trials" / "0000").delete("result.json")
    damaged(lab, path, DAMAGES[path])
    before = every_file(Path(lab.storage.uri))
    with pytest.raises(UserError, match=rf"^nothing is deleted, since {path[0]} cannot be read: .*--forget {path[0]}$"):
        lab.prune()
    assert every_file(Path(lab.storage.uri)) == before
    assert lab.prune(path[0]) == cli.DONE and not lab.storage.exists(path[0])


def test_a_setting_of_a_newer_version_and_a_run_without_its_sweep_file_are_refused(lab: Lab) -> None:
    lab.run("a")
    text = (lab.storage / "a").read_text("sweep.yaml")
    damaged(lab, "a/sweep.yaml", f"{text}\nof_a_newer_version: true\n")
    with pytest.raises(UserError, match=r"^nothing is deleted.*of_a_newer_version: unknown key"):
        lab.prune()
    (lab.storage / "a").delete("sweep.yaml")
    with pytest.raises(UserError, match=r"^nothing is deleted.*a: is not a run folder"):
        lab.prune()
    damaged(lab, "a/sweep.yaml", text)
    lab.storage.write_bytes(".recipe", f"{RECIPE_VERSION + 1}\n".encode())
    with pytest.raises(UserError, match="newer raycodellm"):
        lab.prune()


def test_a_sweep_that_cannot_be_forgotten_is_refused(lab: Lab) -> None:
    file = lab.run("a")
    lab.run("b", stop_after=1)
    with pytest.raises(UserError, match=r"--forget: there is no run 'x' .*: a, b"):
        lab.prune("x")
    (lab.storage / "a").write_bytes("notes.md", b"mine")
    with pytest.raises(UserError, match=r"a/notes\.md was not written by raycodellm"):
        lab.prune("a")
    (lab.storage / "a").delete("notes.md")
    with sweep.lock(sweep.open_run(file, lab.storage)), pytest.raises(UserError, match="is being run by process"):
        lab.prune("a")
    assert lab.go_on(file) == 0
    warm = named(lab.text, "warm", "search.sampler=tpe", "search.trials=3", "search.warm_start=[a]")
    sweep.open_run(warm, lab.storage)
    with pytest.raises(UserError, match=r"warm starts from the trials of a \(search\.warm_start\)"):
        lab.prune("a")
    (lab.storage / "warm").write_json("warm_start.json", {"trials": []})
    assert lab.prune("a") == cli.DONE


@pytest.mark.slow
def test_a_ladder_is_forgotten_with_its_sizes_and_no_size_without_it(lab: Lab) -> None:
    lab.run("l-tiny"), lab.run("l-mini", "pretrain.code_ratio=0.5"), lab.run("other", "pretrain.code_ratio=0.75")
    facts = {"format": 1, "sweep": "l", "settings": {}}
    rungs = [{"preset": p, "sweep": f"l-{p}", "parameters": 1, "tokens": 1} for p in ("tiny", "mini", "midi")]
    (lab.storage / "l").write_json("ladder.json", {**facts, "rungs": rungs})
    with pytest.raises(UserError, match="l-mini is one size of the ladder l"):
        lab.prune("l-mini")
    assert lab.paths() == set()
    lab.prune("l")
    assert {*lab.stages()} == keys_of(lab, named(lab.text, "other", "pretrain.code_ratio=0.75"))
    assert [name for name in lab.storage.list() if name.startswith("l")] == []


def test_a_folder_that_is_no_storage_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.run("a", stop_after=1)
    with pytest.raises(UserError, match=r"is the run folder of one sweep; give its storage"):
        pruning.look(lab.storage / "a", pruning.Asked(), 0.0)
    for name in ("empty", "missing"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="holds nothing of raycodellm"):
            pruning.look(Folder(str(tmp_path / name)), pruning.Asked(), 0.0)


# ------------------------------------------------------------------------------------- while others work, and kills


def test_a_trial_that_begins_after_the_listing_keeps_the_stages_that_it_found_finished(lab: Lab, monkeypatch) -> None:
    """It has written its `trial.json`, then looked for its stages; only then their markers are deleted."""
    lab.run("a")
    file = lab.run("live", "pretrain.code_ratio=0.5", stop_after=1)
    shutil.rmtree(Path(lab.storage.uri) / "a")
    doomed = sorted({*lab.stages()} - keys_of(lab, file))
    before = {key: every_file(Path(lab.storage.uri) / "stages" / key) for key in doomed[:2]}
    real = pruning.Look.again

    def again(look: pruning.Look) -> pruning.Look:
        assert not any((lab.storage / "stages" / key).exists("DONE") for key in doomed)
        begun = TrialResult(1, "running", arm=1, seed=0, stages=tuple(doomed[:2]))
        (lab.storage / "live" / "trials" / "0001").write_json("trial.json", as_json(begun))
        return real(look)

    monkeypatch.setattr(pruning.Look, "again", again)
    lab.prune()
    assert {*lab.stages()} == {*keys_of(lab, file), *doomed[:2]}
    assert {key: every_file(Path(lab.storage.uri) / "stages" / key) for key in doomed[:2]} == before


class NetworkDisk:
    """A storage on NFS: this machine knows the names in a folder as it saw them first, until it changes the folder
    itself; by whatever name the folder goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._known: dict[str, set[str]] = {}
        self._listdir, self._scandir, self._rename, self._utime = os.listdir, os.scandir, os.rename, os.utime
        monkeypatch.setattr(os, "listdir", lambda path=".": sorted(self._names(path)))
        monkeypatch.setattr(os, "scandir", self._entries)
        monkeypatch.setattr(os, "rename", self._move)
        monkeypatch.setattr(os, "utime", self._touch)

    def _names(self, path: Any) -> set[str]:
        return self._known.setdefault(os.path.normpath(path), {*self._listdir(path)})

    def _touch(self, path: Any, *times: Any, **named: Any) -> None:
        self._utime(path, *times, **named)
        self._known.pop(os.path.normpath(path), None)

    def _move(self, old: Any, new: Any) -> None:
        self._rename(old, new)
        for path in [one for one in self._known if f"{one}/".startswith(f"{old}/")]:
            self._known[f"{new}{path.removeprefix(str(old))}"] = self._known.pop(path)
        for path in (old, new):
            self._known.pop(os.path.dirname(path), None)

    @contextlib.contextmanager
    def _entries(self, path: Any) -> Iterator[Any]:
        with self._scandir(path) as found:
            yield found if isinstance(path, int) else [one for one in found if one.name in self._names(path)]


@pytest.mark.parametrize("is_needed", [True, False])
def test_what_another_machine_does_meanwhile_is_seen_although_nfs_shows_old_names(
    lab: Lab, monkeypatch, is_needed: bool
) -> None:
    """There a trial begins that needs a stage which nobody needed, or that trains such a stage, found unfinished."""
    lab.run("a")
    file = lab.run("live", "pretrain.code_ratio=0.5", stop_after=1)
    shutil.rmtree(Path(lab.storage.uri) / "a")
    key = min({*lab.stages()} - keys_of(lab, file))
    real = pruning.Look.again
    begun = TrialResult(1, "running", arm=1, seed=0, stages=(key,))

    def again(look: pruning.Look) -> pruning.Look:
        if is_needed:
            (lab.storage / "live" / "trials" / "0001").write_json("trial.json", as_json(begun))
            return real(look)
        found, stage = real(look), lab.storage / "stages" / key
        assert "LEASE" not in stage.list(), "from now on this machine knows so"
        stage.write_json("LEASE", {"holder": "elsewhere"})
        return found

    with monkeypatch.context() as patch:
        NetworkDisk(patch)
        patch.setattr(pruning.Look, "again", again)
        assert lab.prune() == cli.DONE
    assert {*lab.stages()} == {*keys_of(lab, file), key}
    assert (lab.storage / "stages" / key).exists("DONE") == is_needed


def test_a_sweep_that_begins_while_the_question_waits_keeps_what_it_uses(lab: Lab, capsys) -> None:
    lab.run("a")
    shutil.rmtree(Path(lab.storage.uri) / "a")
    stages = lab.stages()

    def ask(question: str) -> str:
        lab.run("late")
        return "y"

    assert prune(lab.storage.uri, Pruning(), print, ask, next_month) == cli.DONE
    assert lab.stages() == stages and "deleted: 0 things" in capsys.readouterr().out
    assert lab.go_on(named(lab.text, "late")) == 0


def test_a_stage_that_is_needed_after_all_comes_back_on_a_full_disk(lab: Lab, monkeypatch) -> None:
    lab.run("a")
    root = Path(lab.storage.uri)
    shutil.move(root / "a", root.parent / "away")
    before = every_file(root)
    real = pruning.Look.again

    def full(folder: Folder, name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    def again(look: pruning.Look) -> pruning.Look:
        shutil.move(root.parent / "away", root / "a")
        monkeypatch.setattr(Folder, "write_bytes", full)
        return real(look)

    monkeypatch.setattr(pruning.Look, "again", again)
    assert lab.prune() == cli.DONE
    shutil.move(root / "a", root.parent / "away")
    assert {name: held for name, held in every_file(root).items() if name != ".pruning"} == before


@pytest.mark.parametrize("error", [UserError("damaged"), KeyboardInterrupt()])
def test_what_ends_a_deletion_in_the_last_moment_gives_everything_back(lab: Lab, monkeypatch, error) -> None:
    lab.run("a")
    shutil.rmtree(Path(lab.storage.uri) / "a")
    before = every_file(Path(lab.storage.uri))

    def again(look: pruning.Look) -> pruning.Look:
        raise error

    monkeypatch.setattr(pruning.Look, "again", again)
    with pytest.raises(type(error)):
        lab.prune()
    assert every_file(Path(lab.storage.uri)) == before


def test_ctrl_c_in_the_middle_leaves_each_thing_whole_or_gone(lab: Lab, monkeypatch) -> None:
    lab.run("a")
    shutil.rmtree(Path(lab.storage.uri) / "a")
    before = every_file(Path(lab.storage.uri))
    real, count = shutil.rmtree, itertools.count()

    def rmtree(path: Path, **named: Any) -> None:
        if not named and next(count) == 3:
            raise KeyboardInterrupt
        real(path, **named)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        lab.prune()
    after = {path: held for path, held in every_file(Path(lab.storage.uri)).items() if ".pruned-" not in path}
    left = {path.split("/")[1] for path in after}
    assert len(left) == 6 and after == {path: held for path, held in before.items() if path.split("/")[1] in left}


@pytest.mark.parametrize("last", ["DONE", ""])
def test_what_another_user_lets_nobody_delete_stays_whole_and_the_rest_goes(
    lab: Lab, monkeypatch, capsys, last: str
) -> None:
    """Neither its markers, or only not the folder that holds them."""
    lab.run("a")
    shutil.rmtree(Path(lab.storage.uri) / "a")
    theirs, *mine = lab.stages()
    before = every_file(Path(lab.storage.uri) / "stages" / theirs)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if source == Path(lab.storage.uri) / "stages" / theirs / last:
            raise PermissionError(13, "Permission denied", str(source))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert lab.prune() == cli.FAILED
    assert f"stages/{theirs}: is not deleted, or not whole" in capsys.readouterr().out
    assert lab.stages() == [theirs] and every_file(Path(lab.storage.uri) / "stages" / theirs) == before and mine


def test_nothing_is_deleted_where_another_user_lets_nobody_read_a_run_folder(lab: Lab, monkeypatch, capsys) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    before = every_file(Path(lab.storage.uri))
    real = Folder.read_bytes

    def read_bytes(folder: Folder, name: str) -> bytes:
        if folder.name == "b":
            raise PermissionError(13, "Permission denied", f"{folder}/{name}")
        return real(folder, name)

    monkeypatch.setattr(Folder, "read_bytes", read_bytes)
    assert cli.main(["prune-storage", lab.storage.uri, "--forget", "a", "--yes"]) == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith("raycodellm: nothing is deleted, since the storage cannot be read: ") and "/b/OWNER" in said
    assert every_file(Path(lab.storage.uri)) == before


def test_a_sweep_whose_run_folder_cannot_be_deleted_keeps_its_stages(lab: Lab, monkeypatch) -> None:
    lab.run("a")
    before = every_file(Path(lab.storage.uri))

    def rename(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", "a")

    monkeypatch.setattr(os, "rename", rename)
    assert lab.prune("a") == cli.FAILED
    assert every_file(Path(lab.storage.uri)) == before


def test_two_processes_do_not_delete_from_a_storage_at_once(lab: Lab) -> None:
    lab.run("a")
    with pruning.held(lab.storage, [], print), pytest.raises(UserError, match="another prune-storage deletes from it"):
        lab.prune("a")
    assert lab.prune("a") == cli.DONE and not lab.storage.exists(".pruning")


def below(files: dict[str, bytes], folder: str, is_part: bool) -> dict[str, bytes]:
    """The files below a folder; of a whole stage without its optimizer state."""
    found = {path: held for path, held in files.items() if path.startswith(f"{folder}/")}
    return {path: held for path, held in found.items() if is_part or "/optimizer/" not in path}


class Killed(BaseException):
    """A process that ends here."""


def killed_at(number: int, monkeypatch) -> Iterator[int]:
    """Kills at the deletion of this number: of a file, or a folder's renaming or removal."""
    count = itertools.count()

    def dying(real: Callable) -> Callable:
        def act(*arguments: Any, **named: Any) -> Any:
            if next(count) >= number:
                raise Killed
            return real(*arguments, **named)

        return act

    monkeypatch.setattr(Folder, "delete", dying(Folder.delete))
    monkeypatch.setattr(Folder, "write_bytes", dying(Folder.write_bytes))
    monkeypatch.setattr(os, "rename", dying(os.rename))
    monkeypatch.setattr(os, "unlink", dying(os.unlink))
    monkeypatch.setattr(os, "rmdir", dying(os.rmdir))
    yield next(count)


@pytest.mark.slow
def test_a_deletion_killed_anywhere_leaves_nothing_that_looks_finished_and_is_not(
    lab: Lab, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lab.run("a", stop_after=1)
    file = lab.run("b", "pretrain.code_ratio=0.5", stop_after=1)
    lab.give_data(file, "00000000000000bb")
    for key in lab.stages():
        lab.keep_state(key, "optimizer")
    shutil.copytree(lab.storage.uri, tmp_path / "whole")
    whole = every_file(tmp_path / "whole")
    kept = keys_of(lab, named(lab.text, "a"))
    for number in itertools.count(0, 1 if conftest.is_exhaustive(request.config) else 9):
        shutil.rmtree(lab.storage.uri)
        shutil.copytree(tmp_path / "whole", lab.storage.uri)
        with pytest.MonkeyPatch.context() as patch:
            next(killed_at(number, patch))
            try:
                lab.prune("b")
            except Killed:
                pass
            else:
                break
        for lease in (".pruning", "b/OWNER"):  # the killed process, unlike this one, would have ended
            (Path(lab.storage.uri) / lease).unlink(missing_ok=True)
        left = {path: held for path, held in every_file(Path(lab.storage.uri)).items() if ".pruned-" not in path}
        for marker in (path for path in left if path.rpartition("/")[2] in MARKERS and not path.startswith("b/")):
            folder = marker.rpartition("/")[0]
            is_part = folder.endswith("/optimizer")  # goes also from a stage that stays
            assert below(left, folder, is_part) == below(whole, folder, is_part), (number, marker)
        if number % 18 == 0:  # an interrupted deletion is gone on with
            lab.prune(*(["b"] if lab.storage.exists("b") else []))
            assert {*lab.stages()} == kept and not [
                path for path in every_file(Path(lab.storage.uri)) if "pruned" in path
            ]
    assert number > 40
    assert lab.go_on(named(lab.text, "a")) >= 0 and lab.go_on(file) > 0


# ------------------------------------------------------------------------------------------------------ the command


def test_without_a_terminal_it_lists_and_deletes_nothing_and_with_yes_it_deletes(lab: Lab, capsys) -> None:
    lab.run("a"), lab.run("b", "pretrain.code_ratio=0.5")
    root = Path(lab.storage.uri)
    before = every_file(root)
    assert cli.main(["prune-storage", str(root), "--forget", "b"]) == 0
    said = capsys.readouterr().out
    assert "there is no terminal to ask on: --yes deletes what is listed" in said and "1 sweep needs" in said
    assert every_file(root) == before
    asked: list[str] = []
    assert prune(str(root), Pruning(("b",)), print, lambda line: asked.append(line) or "n", next_month) == 0
    assert "and the run b with its scores and report? [y/N]" in asked[0]
    assert "nothing was deleted" in capsys.readouterr().out and every_file(root) == before
    assert cli.main(["prune-storage", str(root), "--forget", "b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["deleted"] is None and told["unneeded_bytes"] == sum(one["bytes"] for one in told["unneeded"]) > 0
    assert [one["name"] for one in told["sweeps"]] == ["a"] == told["kept"][0]["sweeps"]
    assert told["sweeps"][0]["bytes"] == told["sweeps"][0]["bytes_alone"] == told["kept_bytes"]
    assert cli.main(["prune-storage", str(root), "--forget", "b", "--yes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert sorted(done["deleted"]) == sorted(one["path"] for one in told["unneeded"]) and not (root / "b").exists()
    assert cli.main(["prune-storage", str(root)]) == 0
    assert "there is nothing to delete" in capsys.readouterr().out
    assert all(cli.main(["prune-storage", str(root), "--grace", hours]) == 2 for hours in ("-1", "nan", "inf"))
    assert cli.main(["prune-storage", str(root / "a")]) == 2


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(0, "0 B"), (999, "999 B"), (4_210_000, "4.21 MB"), (10**13, "10.0 TB")]
)
def test_sizes_have_three_digits(num_bytes: int, said: str) -> None:
    assert pruning.size(num_bytes) == said


def test_a_stage_record_that_was_deleted_in_part_is_trained_again(lab: Lab) -> None:
    file = lab.run("a", stop_after=1)
    key = lab.stages()[0]
    (lab.storage / "stages" / key).delete("DONE")
    assert finished.finished_stage(lab.storage / "stages" / key) is None
    assert storage_files.read_stage(lab.storage / "stages" / key).identity and lab.go_on(file) > 0


def test_a_folder_of_too_many_folders_is_refused_and_not_searched_for_hours(lab: Lab, monkeypatch) -> None:
    lab.run("a")
    for number in range(30):
        (Path(lab.storage.uri) / "corpus" / f"part-{number}").mkdir(parents=True)
    assert lab.prune() == cli.DONE
    monkeypatch.setattr("raycodellm.pruning.listing._MOST_FOLDERS", 20)
    with pytest.raises(UserError, match=r"^nothing is deleted, since corpus holds over 20 folders.*move it out"):
        lab.prune()
