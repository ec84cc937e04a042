"""Stages that differ in length or decay alone share a constant-rate trunk, and end with the bits of one on its own."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_stage import SMALL, VOCAB, FakeStore, byte_level_tokenizer, holding_store, told_apart, train, weights
from test_stage_store import Corpus

from raycodellm import config, pruning, report, stage_store, sweep
from raycodellm import model as models
from raycodellm.check import tables
from raycodellm.dispatch import JobTree, TrialOutcome
from raycodellm.dispatch.trunks import tokens_taken_over
from raycodellm.engine import TrainingError
from raycodellm.files import Folder
from raycodellm.learning_rate import learning_rate_at, trunk_rate
from raycodellm.mixture import endless_positions
from raycodellm.mixture.order import SourceOrder
from raycodellm.pruning.kinds import STAGE, TRUNK
from raycodellm.records import StageJob, StageRecord, TrialResult, as_json
from raycodellm.schedule import Schedule
from raycodellm.stage import World, faults, metrics, setup, train_stage
from raycodellm.sweep import early_stopping, token_count, trial
from raycodellm.tables import SharingSoFar, StageUse, formats, sharing, stage_use
from raycodellm.tables.stopped import consumed_stages

STEP = 96
"""Tokens of a step: six sequences."""
CORPORA = {"prose": Corpus("p", 3_000), "python": Corpus("c", 800)}
COOLDOWN = {
    "name": "cooldown",
    "tokens": 4 * STEP,
    "sequence_length": 16,
    "batch_tokens": STEP,
    "learning_rate": {"peak": 0.01, "schedule": "linear", "boundary": "continue"},
    "optimizer": {"state": "keep"},
    "code_ratio": 0.6,
}


@pytest.fixture(scope="module", autouse=True)
def _quick_close():
    models.build(SMALL, VOCAB, seed=0)
    gc.collect()
    gc.freeze()  # `Engine.close` collects garbage: it need not walk all that the imports made


@pytest.fixture(autouse=True)
def _fake_stores(monkeypatch):
    monkeypatch.setattr(setup, "open_stores", lambda job: [FakeStore(source) for source in job.sources])


def sweep_file(pretrain: Mapping[str, Any], *later: Mapping[str, Any], **search: Any) -> config.SweepFile:
    stage = {"name": "pretrain", "sequence_length": 16, "batch_tokens": STEP, "code_ratio": 0.25}
    tree = {
        "name": "trunk",
        "model": {"config": SMALL.config},
        "tokenizer": {"train": {"vocab_size": 512}},
        "sources": {
            "prose": {"kind": "text", "path": "builtin:python-prose"},
            "python": {"kind": "code", "path": "builtin:python-code"},
        },
        "stages": [stage | dict(pretrain), *map(dict, later)],
        "evaluation": {"suites": ["offline"]},
        "search": {"sampler": "grid", "objective": {"metric": "mean/bpb", "mode": "min"}, **search},
    }
    return config.parse(yaml.safe_dump(tree))


def lengths(*steps: int) -> dict[str, Any]:
    """A stage of one rate, searched over its length."""
    rate = {"peak": 0.01, "schedule": "constant", "warmup_steps": 3}
    return {"tokens": {"search": {"choice": [n * STEP for n in steps]}}, "learning_rate": rate}


DECAYS = {
    "tokens": 20 * STEP,
    "learning_rate": {"peak": 0.01, "schedule": "wsd", "decay": {"search": {"choice": [0.4, 0.25, 0.1]}}},
}
SHARES = (0.4, 0.25, 0.1)
MORE = pytest.mark.exhaustive


def stages(file: config.SweepFile, folder: Path, **params: Any) -> list[StageJob]:
    """The stages of the trial with these values of `pretrain`'s parameters, in a storage at `folder`."""
    point = {f"pretrain.{name.replace('__', '.')}": value for name, value in params.items()}
    return chain_at(file, folder, point)


def chain_at(file: config.SweepFile, folder: Path, point: Mapping[str, Any]) -> list[StageJob]:
    (folder / "tok").mkdir(parents=True, exist_ok=True)
    (folder / "tok" / "tokenizer.json").write_text("{}")
    return list(stage_store.trial_chain(file, point, 0, materials_at(file, folder)).stages)


def materials_at(file: config.SweepFile, folder: Path) -> stage_store.Materials:
    contents = stage_store.contents_of([file.example()])
    return stage_store.Materials(CORPORA, Folder(str(folder / "tok")), "t", VOCAB, Folder(str(folder)), contents)


def trained(jobs: list[StageJob], shared: bool = True) -> list[StageRecord]:
    return [train(job if shared else replace(job, trunk=None)) for job in jobs]


def state(job: StageJob) -> tuple[bytes, bytes | None]:
    """The stage's weights, and its optimizer's state where it is kept."""
    optimizer = Path(job.folder, "optimizer", "shard-00000-of-00001.safetensors")
    return weights(job), optimizer.read_bytes() if optimizer.exists() else None


def on_its_own(record: StageRecord) -> StageRecord:
    """The record without what tells who trained the first steps, and how long all took."""
    return replace(told_apart(record), trunk_steps=0, trunk_tokens=0, trunk_seconds=0.0, trunk_by="")


# --------------------------------------------------------------------------------------------------- equal bits


@pytest.mark.parametrize(
    ("pretrain", "params", "steps"),
    [
        (lengths(6, 12), [{"tokens": n * STEP} for n in (6, 12)], [0, 6]),
        pytest.param(lengths(6, 12, 24), [{"tokens": n * STEP} for n in (6, 12, 24)], [0, 6, 12], marks=MORE),
        pytest.param(lengths(6, 12, 24), [{"tokens": n * STEP} for n in (24, 12, 6)], [0, 10, 5], marks=MORE),
        pytest.param(DECAYS, [{"learning_rate__decay": share} for share in SHARES], [0, 13, 16], marks=MORE),
        pytest.param(
            DECAYS | {"code_ratio": 0.3, "schedule": "increase"},
            [{"learning_rate__decay": share} for share in SHARES],
            [0, 13, 16],
            marks=MORE,
        ),
        pytest.param(
            lengths(10, 20) | {"averaging": {"last": 3, "every": 0.1}},
            [{"tokens": n * STEP} for n in (10, 20)],
            [0, 10],
            marks=MORE,
        ),
    ],
    ids=["one longer", "two longer", "shorter", "decay", "decay of a mixture that moves", "averaged"],
)
def test_a_stage_that_goes_on_from_a_trunk_ends_with_the_bits_of_one_that_does_not(tmp_path, pretrain, params, steps):
    file = sweep_file(pretrain, COOLDOWN)
    taken = [train(stages(file, tmp_path / "shared", **params[0])[0]).trunk_steps]
    for point in params[1:]:
        alone, shared = (stages(file, tmp_path / name, **point) for name in ("alone", "shared"))
        assert [job.identity for job in alone] == [job.identity for job in shared]
        records, expected = trained(shared), trained(alone, shared=False)
        assert list(map(state, shared)) == list(map(state, alone))
        assert list(map(on_its_own, records)) == list(map(told_apart, expected))
        taken.append(records[0].trunk_steps)
        assert records[0].trunk_tokens == records[0].trunk_steps * STEP
        assert [record.trunk_steps for record in records[1:]] == [0]
    assert taken == steps


@pytest.mark.slow
def test_a_branch_that_is_killed_and_a_trunk_that_is_killed_change_no_bit(tmp_path):
    file = sweep_file(lengths(8, 16), COOLDOWN)
    (alone, _), (short, _), (long, _) = (
        stages(file, tmp_path / name, tokens=n * STEP) for name, n in (("alone", 16), ("shared", 8), ("shared", 16))
    )
    train(replace(alone, trunk=None))
    assert train(short, stop_before=5) is None
    train(short)
    assert train(long, stop_before=3) is None
    record = train(long)
    assert (record.trunk_steps, record.resumed_at) == (8, (11,))
    assert state(long) == state(alone)


@pytest.mark.exhaustive
def test_a_trunk_that_is_damaged_or_gone_costs_only_the_steps(tmp_path):
    file = sweep_file(lengths(8, 12, 16), COOLDOWN)
    jobs = {n: stages(file, tmp_path / "shared", tokens=n * STEP)[0] for n in (8, 12, 16)}
    alone = stages(file, tmp_path / "alone", tokens=16 * STEP)[0]
    train(replace(alone, trunk=None))
    train(jobs[8])
    train(jobs[12])
    trunk = Path(jobs[16].trunk.folder)
    shard = trunk / "step-000012" / "shard-00000-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert train(jobs[16]).trunk_steps == 8
    assert state(jobs[16]) == state(alone)
    again = replace(jobs[16], folder=str(tmp_path / "again"))
    for name in list(trunk.iterdir()):
        (name / "COMPLETE").unlink()
    assert train(again).trunk_steps == 0
    assert state(again) == state(alone)


def test_a_trial_s_model_has_the_same_bits_with_and_without_the_stage_tree(tmp_path):
    """The score follows: a model's score depends on its weights and on the evaluation's settings alone."""
    cooldown = COOLDOWN | {"code_ratio": {"search": {"choice": [0.2, 0.6]}}}
    file = sweep_file({"tokens": 4 * STEP, "learning_rate": {"peak": 0.01}}, cooldown)
    models, trainings = {}, {"together": 0, "apart": 0}
    for ratio in (0.2, 0.6):
        for name, folder in (("together", tmp_path / "storage"), ("apart", tmp_path / f"of {ratio}")):
            jobs = chain_at(file, folder, {"cooldown.code_ratio": ratio})
            trainings[name] += sum(stage_store.finished_outcome(job) is None for job in jobs)
            trained(jobs)
            models[name, ratio] = [state(job) for job in jobs], jobs[-1].identity
    assert models["together", 0.2] == models["apart", 0.2] != models["together", 0.6] == models["apart", 0.6]
    assert trainings == {"together": 3, "apart": 4}


# ----------------------------------------------------------------------------------------------------- who shares


def test_stages_share_as_many_steps_as_have_one_rate_and_one_order(tmp_path):
    file = sweep_file(lengths(10, 20, 40))
    trunks = [stages(file, tmp_path, tokens=n * STEP)[0].trunk for n in (10, 20, 40)]
    assert len({trunk.folder for trunk in trunks}) == 1
    assert [(trunk.num_steps, trunk.num_taken) for trunk in trunks] == [(10, 9), (20, 18), (40, 36)]
    assert [trunk.kept_steps for trunk in trunks] == [(10,), (9, 20), (9, 18)]


@pytest.mark.parametrize(
    ("name", "values"),
    [("peak", [0.01, 0.02]), ("warmup_steps", [2, 3]), ("final", [0.1, 0.2])],
)
def test_another_peak_or_warm_up_is_another_trunk_and_another_end_is_not(tmp_path, name, values):
    rate = {"peak": 0.01, "schedule": "wsd", "warmup_steps": 3, name: {"search": {"choice": values}}}
    file = sweep_file({"tokens": 20 * STEP, "learning_rate": rate})
    trunks = [stages(file, tmp_path, **{f"learning_rate__{name}": value})[0].trunk for value in values]
    assert all(trunk is not None for trunk in trunks) is (name == "final")


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ({}, True),
        ({"learning_rate": {"peak": 0.01, "schedule": "cosine", "warmup_steps": 3}}, False),
        ({"learning_rate": {"peak": 0.01, "schedule": "constant", "warmup": 0.1}}, False),
        ({"schedule": "increase"}, False),
        ({"tokens": {"search": {"choice": [960]}}}, False),
        ({"code_ratio": {"search": {"choice": [0.1, 0.2]}}}, True),
        ({"code_ratio": {"search": {"uniform": [0.1, 0.2]}}}, False),
    ],
)
def test_a_stage_keeps_checkpoints_only_where_other_trials_can_go_on_from_them(tmp_path, change, shares):
    sampler = {} if "uniform" not in str(change) else {"sampler": "random", "trials": 4}
    file = sweep_file(lengths(10, 20) | change, **sampler)
    assert (stages(file, tmp_path, tokens=960)[0].trunk is not None) is shares


def test_what_trunks_share_enters_no_identity(tmp_path):
    with_steps, without = lengths(10, 20), lengths(10, 20)
    del without["learning_rate"]["warmup_steps"]
    found = [stages(sweep_file(one), tmp_path, tokens=960)[0].identity for one in (with_steps, without)]
    assert found[0] != found[1]
    assert found[1] == stages(sweep_file(without | {"tokens": 960}), tmp_path)[0].identity


@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_the_rates_of_a_trunk_are_equal_bit_for_bit_in_all_its_steps_and_in_no_more(schedule):
    short, long = (
        config.LearningRate(peak=0.003, schedule=schedule, warmup_steps=7, decay=decay) for decay in (0.3, 0.1)
    )
    for steps, more in ((50, 90), (41, 1_000)):
        one, other = trunk_rate(short, steps), trunk_rate(long, more)
        assert one is not None and other is not None and one[:2] == other[:2]
        shared = min(one.num_steps, other.num_steps)
        rates = [[learning_rate_at(short, s, steps), learning_rate_at(long, s, more)] for s in range(steps)]
        assert all(mine == yours for mine, yours in rates[:shared])
        assert all(mine != yours for mine, yours in rates[shared:])


@pytest.mark.parametrize("share", [0.25, 0.3, 1 / 3, 0.123456789])
def test_a_stage_follows_the_endless_order_but_for_its_last_sequences(share):
    row = (round(share, 12), round(1 - share, 12))
    schedule = Schedule((0.0, 1.0), (row, row), "step")
    longest = SourceOrder(schedule, 5_000).sources(0, 5_000)
    for num_sequences in (7, 100, 999, 4_001):
        same = endless_positions(schedule, num_sequences)
        assert num_sequences - same <= 9
        assert (SourceOrder(schedule, num_sequences).sources(0, same) == longest[:same]).all()


# --------------------------------------------------------------------------------------------------- who waits


def tree_of(file: config.SweepFile, folder: Path, *steps: int) -> tuple[JobTree, dict[int, str]]:
    made, keys = JobTree(max_deaths=0), {}
    materials = materials_at(file, folder)
    for number, length in enumerate(steps):
        chain = stage_store.trial_chain(file, {"pretrain.tokens": length * STEP}, 0, materials)
        made.add(number, chain)
        keys[length] = chain.stages[0].key
    return made, keys


def test_a_longer_stage_waits_until_the_shorter_one_has_kept_its_end(tmp_path):
    tree, keys = tree_of(sweep_file(lengths(10, 20, 40), COOLDOWN), tmp_path, 40, 20, 10)
    assert tree.take("a").key == keys[10]
    assert tree.take("b") is None
    tree.keep("a", keys[10], 10)
    assert tree.take("b").key == keys[20]
    tree.keep("b", keys[20], 9)
    assert tree.take("c") is None
    tree.finish("b", keys[20], "record")
    assert tree.take("b").key == keys[40]


def test_a_longer_stage_trains_alone_when_the_shorter_one_fails_or_is_cancelled_or_came_too_late(tmp_path):
    file = sweep_file(lengths(10, 20))
    tree, keys = tree_of(file, tmp_path, 10, 20)
    tree.take("a")
    tree.fail("a", keys[10], "cause")
    assert tree.take("a").key == keys[20]
    tree, keys = tree_of(file, tmp_path, 10, 20)
    tree.cancel(0)
    assert tree.take("a").key == keys[20]
    tree, keys = tree_of(file, tmp_path, 20)
    tree.take("a")
    tree.add(1, stage_store.trial_chain(file, {"pretrain.tokens": 10 * STEP}, 0, materials_at(file, tmp_path)))
    tree.lose("a", "died", is_preempted=True)
    assert {tree.take("b").key, tree.take("c").key} >= {keys[20]}


# -------------------------------------------------------------------------------------------------- what is counted


def test_the_steps_of_a_trunk_count_as_trained_once_and_as_saved_for_each_stage_that_takes_them_over(tmp_path):
    file = sweep_file(lengths(10, 20, 40))
    jobs = [stages(file, tmp_path, tokens=n * STEP)[0] for n in (10, 20, 40)]
    taken = stage_store.taken_steps(jobs)
    assert [taken[job.key] for job in jobs] == [0, 10, 20]
    uses = {
        job.key: StageUse(n * STEP, n * 0.5, taken[job.key] * STEP, 1.0)
        for job, n in zip(jobs, (10, 20, 40), strict=True)
    }
    found = sharing([[job.key] for job in jobs], uses)
    assert (found.tokens_asked, found.tokens_trained) == (70 * STEP, 40 * STEP)
    assert (found.seconds_trained, found.seconds_saved) == (32.0, 3.0)
    tree, keys = tree_of(file, tmp_path, 10, 20, 40)
    assert tokens_taken_over(tree.nodes.values()) == {keys[10]: 0, keys[20]: 10 * STEP, keys[40]: 20 * STEP}


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_steps_that_a_failed_stage_trained_for_its_trunk_are_trained_and_spent_once(
    tmp_path, monkeypatch, is_killed
):
    """Two stages of 16 and 8 steps: the first fails after 12, and the second takes over the 7 that the first kept."""
    file = sweep_file(lengths(8, 16))
    (long,), (short,) = (stages(file, tmp_path, tokens=n * STEP) for n in (16, 8))

    def explodes(job: StageJob, tally: metrics.Tally, result: Any) -> None:
        if job.key == long.key and tally.step == 12:
            raise KeyboardInterrupt if is_killed else TrainingError("the loss explodes")

    monkeypatch.setattr(faults, "require_no_explosion", explodes)
    with pytest.raises(KeyboardInterrupt if is_killed else TrainingError):
        train(long)
    record = train(short)
    assert record.trunk_steps == 7
    known = 7 if is_killed else 12  # steps of the failed stage that anybody can know of
    chain, failed = SimpleNamespace(stages=[long], evaluation=SimpleNamespace(key="e")), TrialOutcome({}, error="cause")
    (part,) = early_stopping.consumed(chain, failed)
    assert (part.num_steps, part.num_tokens) == (known, known * STEP)
    result = trial._with_outcome(TrialResult(0, "running", 0, 0, stages=(long.key,)), chain, failed)
    other = TrialResult(1, "complete", 1, 0, tokens={"total": 8 * STEP}, stages=(short.key,))
    assert (result.state, result.tokens["total"]) == ("failed", known * STEP)
    run, records = Folder(str(tmp_path)), {short.key: record}
    shared = report.Records(run, run, file, [result.row(), other.row()], {}, records, {}).sharing
    assert (shared.tokens_asked, shared.tokens_trained) == ((known + 8) * STEP, (known + 1) * STEP)
    count, so_far = token_count.TokenCount(), SharingSoFar()
    count.finish(short.key, stage_use(record, file.example().name))
    for job, one in zip((long, short), (result, other), strict=True):
        planned = [token_count.PlannedStage(job.key, job.folder, job.stage.num_tokens)]
        count.put(one.number, token_count.unfinished_tokens(planned, count.finished, one))
        keys, part = consumed_stages(one.row(), one.stages, count.finished)
        so_far.put(one.number, keys, {**count.finished, **part})
    assert count.total == shared.tokens_trained == so_far.tokens_trained
    assert (so_far.tokens_asked, so_far.tokens_saved) == (shared.tokens_asked, shared.tokens_saved)


def test_check_counts_the_steps_of_a_trunk_once_in_each_fresh_seed_too(tmp_path):
    confirm = {"reference": {"pretrain.tokens": 10 * STEP}, "confirm": {"best": 1, "seeds": [2]}}
    file = sweep_file(lengths(10, 20), **confirm)
    chains = [SimpleNamespace(stages=stages(file, tmp_path, tokens=n * STEP)) for n in (10, 20)]
    (_, line) = tables.confirmation(file, chains)
    asked, trained = (formats.count(2 * steps * STEP) for steps in (30, 20))
    assert f"{asked} tokens asked for, {trained} trained" in line


@pytest.mark.slow
def test_a_stage_is_compared_at_the_rungs_that_it_took_over_from_its_trunk(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "open_stores", lambda job: [holding_store(source) for source in job.sources])
    early = {"metric": "bpb/prose", "at": [0.25, 0.5, 0.9]}
    file = sweep_file(DECAYS | {"held_out": {"tokens": 64}}, early_stopping=early)
    (first,), (second,) = (stages(file, tmp_path, learning_rate__decay=share) for share in (0.4, 0.25))
    (tmp_path / "tok" / "tokenizer.json").write_text(byte_level_tokenizer())
    told: list[tuple[int, StageRecord]] = []

    def train_on(job: StageJob) -> StageRecord | None:
        told.clear()
        on_rung = lambda step, record: told.append((step, record)) or False  # noqa: E731
        return train_stage(job, World(), on_progress=lambda progress: None, should_stop=lambda: False, on_rung=on_rung)

    train_on(first)
    alone = [record.held_out_bpb for _, record in told]
    record = train_on(second)
    assert record is not None and record.trunk_steps == 13
    assert [step for step, _ in told] == [5, 10, 18]
    assert [one.held_out_bpb for _, one in told][:2] == alone[:2]


# ------------------------------------------------------------------------------------------------- pruned storages


def test_trunks_stay_while_a_trial_of_a_kept_sweep_may_go_on_from_them(tmp_path: Path, monkeypatch, no_rivals) -> None:
    file = sweep_file(lengths(6, 12))
    storage = Folder(str(tmp_path))
    folder = storage / file.example().name
    run = sweep.open_run(file, storage)
    points = [{"pretrain.tokens": steps * STEP} for steps in (6, 12)]
    of_trial = [chain_at(file, tmp_path, point) for point in points]
    for number, (point, jobs) in enumerate(zip(points, of_trial, strict=True)):
        result = TrialResult(number, "failed", arm=number, seed=0, params=point, stages=tuple(job.key for job in jobs))
        (folder / "trials" / f"{number:04d}").write_json("result.json", as_json(result))
    folder.write_json("data.json", {"tokenizer": "t", "sources.prose": "p", "sources.python": "c"})
    assert pruning.read_needs(storage, folder.name).trunks is None, "its token stores are gone: any may be its trunk"
    monkeypatch.setattr("raycodellm.pruning.needs._materials", lambda *arguments: materials_at(file, tmp_path))
    trunks = {Folder(job.trunk.folder).name for jobs in of_trial for job in jobs}
    assert len(trunks) == 1 and pruning.read_needs(storage, folder.name).trunks == trunks
    with sweep.lock(run):
        assert pruning.read_needs(storage, folder.name).trunks is None, "its next trial may have any"
    for name in (*trunks, "00000000000000ee"):
        (storage / "trunks" / name / "step-000006").write_bytes("COMPLETE", b"{}")
    plan = pruning.look(storage, pruning.Asked(), 9e9).plan
    assert [(item.path, item.markers) for item in plan.items] == [
        ("trunks/00000000000000ee", ("trunks/00000000000000ee/step-000006/COMPLETE",))
    ]


def test_every_file_of_a_trained_stage_and_of_its_trunk_is_recognised(tmp_path: Path) -> None:
    """A new file needs its name in `pruning/kinds.py`: else its stage is never deleted."""
    short, long = (stages(sweep_file(lengths(6, 12), COOLDOWN), tmp_path, tokens=n * STEP) for n in (6, 12))
    train(short[0]), train(long[0], stop_before=8)
    for kind, folder in ((STAGE, short[0].folder), (STAGE, long[0].folder), (TRUNK, short[0].trunk.folder)):
        files = [str(one.relative_to(folder)) for one in Path(folder).rglob("*") if one.is_file()]
        assert len(files) > 2 and kind.strangers(files) == [] and kind.name.fullmatch(Path(folder).name)
