from __future__ import annotations

import errno
import gc
import hashlib
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forkserver
import numpy as np
import pyarrow.parquet as pq
import pytest
from ports import free_port
from transformers import AutoModelForCausalLM

from raycodellm import mixture, storage_files
from raycodellm import model as models
from raycodellm.config import (
    Averaging,
    DeepSpeed,
    Faults,
    HeldOut,
    LearningRate,
    Model,
    Numerics,
    Optimizer,
    Scaling,
    Stage,
    UserError,
)
from raycodellm.engine import OutOfMemory, checkpoint_files, micro_batch
from raycodellm.engine.loss import TrainedModel
from raycodellm.files import Folder
from raycodellm.finished import finished_stage
from raycodellm.records import Progress, SourceSlice, StageJob, StageRecord, as_json, from_json
from raycodellm.stage import TrainingError, World, held_out, loop, metrics, order_checksum, setup, train_stage

LENGTH, ROWS, VOCAB = 16, 6, 64
SMALL = Model(
    config={
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "tie_word_embeddings": True,
    }
)


@pytest.fixture(scope="module", autouse=True)
def _quick_close():
    """`Engine.close` collects garbage: keep it from walking all that the imports made, 0.25 s each time."""
    models.build(SMALL, VOCAB, seed=0)
    gc.collect()
    gc.freeze()  # for good: `unfreeze` would also give back what was frozen once all tests were collected


class FakeStore:
    """Random tokens, the same for the same sequence; of instruct ones the first `sequence mod length` do not count."""

    def __init__(self, source: SourceSlice) -> None:
        self.key = int.from_bytes(hashlib.blake2b(source.name.encode(), digest_size=4).digest(), "little")
        self.instruct = source.kind.startswith("instruct")
        self.manifest = SimpleNamespace(eos_id=0)

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [np.random.default_rng([self.key, int(s)]).integers(1, VOCAB, sequence_length) for s in sequences]
        tokens = np.array(drawn, dtype=np.int32).reshape(-1, sequence_length)
        first = sequences % sequence_length if self.instruct else np.zeros_like(sequences)
        return tokens, np.arange(sequence_length) >= first[:, None]


def open_fakes(job: StageJob) -> list[FakeStore]:
    return [FakeStore(source) for source in job.sources]


@pytest.fixture(autouse=True)
def _fake_stores(monkeypatch):
    monkeypatch.setattr(setup, "open_stores", open_fakes)


def make_job(folder: Path, num_steps: int = 8, kinds: tuple[str, str] = ("text", "code"), **changes) -> StageJob:
    """Two sources, `words` 3/4 and `code` 1/4 of the tokens, the second one short enough for several epochs."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    settings = Stage(
        name="pretrain",
        tokens=num_steps * ROWS * LENGTH,
        sequence_length=LENGTH,
        batch_tokens=ROWS * LENGTH,
        learning_rate=LearningRate(peak=0.01),
        weights={"words": 0.75, "code": 0.25},
        responses_only=kinds[0].startswith("instruct"),
    )
    sources = (
        SourceSlice("words", kinds[0], "fake://words", 100, 0),
        SourceSlice("code", kinds[1], "fake://code", 5, 2),
    )
    job = StageJob(
        identity="0123456789abcdef",
        folder=str(folder / "stage"),
        parent=None,
        stage=settings,
        model=SMALL,
        tokenizer=str(tokenizer),
        vocab_size=VOCAB,
        breakpoints=((0.0, (0.75, 0.25)), (1.0, (0.75, 0.25))),
        interpolation="step",
        sources=sources,
        seed=7,
        scaling=Scaling(checkpoint_seconds=3600.0),
    )
    return replace(job, **changes)


def scaling(workers: int = 1, checkpoint_seconds: float = 3600.0, **deepspeed) -> Scaling:
    return Scaling(workers=workers, checkpoint_seconds=checkpoint_seconds, deepspeed=DeepSpeed(**deepspeed))


def train(job: StageJob, stop_before: int | None = None, told: list[Progress] | None = None) -> StageRecord | None:
    """Trains to the end, or until `stop_before` steps of this call were begun."""
    begun = 0

    def should_stop() -> bool:
        nonlocal begun
        begun += 1
        return begun == stop_before

    seen: list[Progress] = [] if told is None else told
    return train_stage(job, World(), on_progress=seen.append, should_stop=should_stop)


def weights(job: StageJob) -> bytes:
    return Path(job.folder, "model", "model.safetensors").read_bytes()


def table(job: StageJob, name: str):
    return pq.read_table(Path(job.folder) / name)


def checkpoints(job: StageJob) -> list[str]:
    folder = Path(job.folder, "checkpoint")
    return sorted(os.listdir(folder)) if folder.exists() else []


def told_apart(record: StageRecord) -> StageRecord:
    """The record without what may differ between two runs of one stage."""
    return replace(record, wall_seconds=0.0, device_seconds=0.0, resumed_at=())


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[StageJob, StageRecord]:
    """A stage trained in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "open_stores", open_fakes)
        job = make_job(tmp_path_factory.mktemp("straight"))
        return job, train(job)


# ------------------------------------------------------------------------------------------- what it leaves


def test_a_finished_stage_leaves_its_results_and_no_checkpoint(straight):
    job, record = straight
    assert set(os.listdir(job.folder)) == {"stage.json", "model", "ledger.parquet", "metrics.parquet", "DONE"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(Path(job.folder, "model")))
    kept = json.loads(Path(job.folder, "stage.json").read_text())
    assert kept["job"]["stage"]["learning_rate"]["peak"] == 0.01
    assert from_json(StageRecord, kept["record"], "stage.json") == record
    assert record.num_steps == 8 and record.num_tokens == 8 * ROWS * LENGTH


def test_a_finished_stage_is_read_and_not_trained_again(straight):
    job, record = straight
    before = os.stat(Path(job.folder, "DONE")).st_mtime_ns
    assert train(job) == record
    assert os.stat(Path(job.folder, "DONE")).st_mtime_ns == before


def test_the_ledger_counts_the_plan(straight):
    job, record = straight
    assert table(job, "ledger.parquet").to_pylist() == as_json(record.ledger)
    counts = mixture.make_plan(job).counts(8 * ROWS)
    for row, source, count in zip(record.ledger, job.sources, counts, strict=True):
        assert row.tokens == row.planned_tokens == count * LENGTH == row.sequences * LENGTH
        assert row.loss_tokens == count * (LENGTH - 1)
        assert row.epochs == (source.num_sequences_consumed + count) / source.num_sequences


def test_the_ledger_counts_each_phase_though_it_ends_inside_a_step_and_the_stage_is_interrupted(tmp_path):
    knots = ((0.0, (0.75, 0.25)), (0.3, (0.25, 0.75)), (1.0, (0.25, 0.75)))
    job = make_job(tmp_path, breakpoints=knots, phase_ends=(math.ceil(0.3 * 8 * ROWS), 8 * ROWS))
    assert job.phase_ends[0] % ROWS
    assert train(job, stop_before=3) is None
    ledger = train(job).ledger
    edge = mixture.make_plan(job).counts(job.phase_ends[0])
    for row, first, whole in zip(ledger, edge, mixture.make_plan(job).counts(8 * ROWS), strict=True):
        assert [phase.sequences for phase in row.phases] == [first, whole - first]
        assert [phase.difference for phase in row.phases] == [0, 0]
        assert sum(phase.tokens for phase in row.phases) == row.tokens == row.planned_tokens
    assert ledger[1].unique_tokens == 3 * LENGTH  # two of its five sequences were drawn before
    assert table(job, "ledger.parquet").to_pylist() == as_json(ledger)


def test_the_checksum_is_that_of_the_plan_s_order(straight):
    job, record = straight
    rows = mixture.make_plan(job).rows(0, 8 * ROWS)
    names = tuple(source.name for source in job.sources)
    assert record.order_checksum == f"{order_checksum(rows.position, rows.source, rows.sequence, names):016x}"


def test_the_checksum_sees_the_order_and_adds_up_over_workers():
    position, source = np.arange(10), np.arange(10) % 2
    sequence = np.arange(10) * 3
    whole = order_checksum(position, source, sequence, ("a", "b"))
    parts = [order_checksum(position[part], source[part], sequence[part], ("a", "b")) for part in np.split(position, 2)]
    assert whole == sum(parts) % 2**64
    assert whole != order_checksum(position[::-1], source, sequence, ("a", "b"))
    assert whole != order_checksum(position, source, sequence, ("b", "a"))


def test_every_row_of_metrics_is_told_when_it_is_made(tmp_path):
    job, told = make_job(tmp_path), []
    train_stage(job, World(), on_progress=lambda said: None, should_stop=lambda: False, on_metrics=told.append)
    assert {row.pop("stage") for row in told} == {job.key}
    assert told == table(job, "metrics.parquet").to_pylist()


def test_the_metrics_follow_the_stage(straight):
    job, record = straight
    found = table(job, "metrics.parquet")
    assert found["step"].to_pylist() == list(range(1, 9))
    assert found["tokens"].to_pylist() == [step * ROWS * LENGTH for step in range(1, 9)]
    named = {f"{what}/{name}" for what in ("loss", "tokens") for name in ("words", "code")}
    rest = {"grad_norm", "learning_rate", "tokens_per_second", "data_wait_seconds", "data_wait_share"}
    rest |= {"data_blocks_ready", "mfu", "memory_bytes", "skipped_steps"}
    ratios = {"code_ratio_planned", "code_ratio_real", "code_ratio_scheduled", "code_ratio_window"}
    assert set(found.column_names) == {"step", "tokens", "loss"} | named | rest | ratios
    last = found.to_pylist()[-1]
    assert last["code_ratio_planned"] == last["code_ratio_scheduled"] == 0.25
    assert last["code_ratio_real"] == record.ledger[1].tokens / record.num_tokens
    assert last["tokens/code"] == record.ledger[1].tokens
    assert record.final_loss == last["loss"] < found["loss"][0].as_py() * 1.1


def test_only_responses_count_where_the_stage_says_so(tmp_path):
    job = make_job(tmp_path, num_steps=3, kinds=("instruct_text", "instruct_code"))
    record = train(job)
    rows = mixture.make_plan(job).rows(0, 3 * ROWS)
    for index, row in enumerate(record.ledger):
        sequences = rows.sequence[rows.source == index]
        assert row.loss_tokens == sum(LENGTH - max(1, s % LENGTH) for s in sequences)


def test_the_next_stage_starts_from_the_weights_of_the_one_before(tmp_path, straight):
    parent, _ = straight
    idle = make_job(tmp_path, num_steps=1, parent=parent.folder)
    idle = replace(idle, stage=idle.stage.model_copy(update={"learning_rate": LearningRate(peak=1e-30)}))
    train(idle)
    assert weights(idle) == weights(parent)


# ------------------------------------------------------------------------------------------- continuing


@pytest.mark.parametrize("zero", [1, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 3))])
def test_a_stage_stopped_twice_ends_as_if_it_never_was(tmp_path, straight, zero):
    job = make_job(tmp_path / "again", scaling=scaling(zero=zero, micro_batch=4))
    assert train(job, stop_before=3) is None
    assert checkpoints(job) == ["step-000003"]
    assert train(job, stop_before=2) is None
    assert checkpoints(job) == ["step-000003", "step-000005"]
    record = train(job)
    assert record.resumed_at == (3, 5)
    whole = make_job(tmp_path / "whole", scaling=job.scaling)
    assert told_apart(record) == told_apart(train(whole))
    assert weights(job) == weights(whole)
    assert table(job, "metrics.parquet")["loss"] == table(whole, "metrics.parquet")["loss"]
    assert record.ledger == straight[1].ledger and record.order_checksum == straight[1].order_checksum


def test_a_stage_killed_between_checkpoints_ends_as_if_it_never_was(tmp_path, straight):
    job = make_job(tmp_path, scaling=scaling(checkpoint_seconds=1e-6))
    for killed_at in (2, 4):

        class Killed(BaseException):
            pass

        def killing(training, *arguments, at=killed_at, killed=Killed, real=loop.TrainingLoop._count):
            if training.tally.step == at:
                raise killed
            real(training, *arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop.TrainingLoop, "_count", killing)
            train(job)
    assert checkpoints(job) == ["step-000003", "step-000004"]
    record = train(job)
    assert record.resumed_at == (2, 4)
    assert told_apart(record) == told_apart(straight[1])
    assert weights(job) == weights(straight[0])


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path, straight):
    job = make_job(tmp_path)
    train(job, stop_before=2)
    train(job, stop_before=2)
    Path(job.folder, "checkpoint", "step-000004", "state.json").write_text("{}")
    told: list[Progress] = []
    record = train(job, told=told)
    assert any("step-000004" in progress.note and "the one before" in progress.note for progress in told)
    assert record.resumed_at == (2,)
    assert told_apart(record) == told_apart(straight[1])
    assert weights(job) == weights(straight[0])


def test_with_every_checkpoint_damaged_a_stage_starts_again(tmp_path, straight):
    job = make_job(tmp_path)
    train(job, stop_before=2)
    (shard,) = Path(job.folder, "checkpoint", "step-000002").glob("*.safetensors")
    shard.unlink()
    told: list[Progress] = []
    assert told_apart(train(job, told=told)) == told_apart(straight[1])
    assert any("starts again" in progress.note for progress in told)


def test_a_stage_that_ended_without_its_marker_finishes(tmp_path, straight):
    job = make_job(tmp_path)
    train(job, stop_before=7)
    Path(job.folder, "model").mkdir()  # half an export of an attempt that was killed
    Path(job.folder, "model", "config.json").write_text("{")
    assert told_apart(train(job)) == told_apart(straight[1])
    assert weights(job) == weights(straight[0])


# ----------------------------------------------------------------------------------------------- refusals


def test_a_loss_that_is_not_finite_ends_the_stage_with_what_and_where(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    real = TrainedModel.forward
    calls = 0

    def forward(model, tokens, labels):
        nonlocal calls
        calls += 1
        total, per_row = real(model, tokens, labels)
        if calls == 3:
            per_row[4] = float("nan")
            total = total * float("nan")
        return total, per_row

    monkeypatch.setattr(TrainedModel, "forward", forward)
    with pytest.raises(TrainingError) as failed:
        train(job)
    row = mixture.make_plan(job).rows(2 * ROWS + 4, 2 * ROWS + 5)
    name = job.sources[int(row.source[0])].name
    assert f"step 2: the loss is not finite at position 16 ({name} sequence {row.sequence[0]})" in str(failed.value)
    assert "learning_rate.peak" in str(failed.value)
    assert not Path(job.folder, "DONE").exists()
    monkeypatch.undo()
    monkeypatch.setattr(setup, "open_stores", open_fakes)
    assert train(make_job(tmp_path / "next", num_steps=1)) is not None  # the process goes on to the next job


def test_a_sequence_longer_than_the_model_s_context_is_refused(tmp_path):
    job = make_job(tmp_path)
    settings = job.stage.model_copy(update={"sequence_length": 64, "batch_tokens": 384})
    with pytest.raises(UserError, match=r"found 64.*at most 32"):
        train(replace(job, stage=settings))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_zero_stage_and_precision_trains_on_a_cpu(tmp_path, straight, zero, precision, monkeypatch):
    counted, count = [], models.flops_per_token_of
    monkeypatch.setattr(models, "flops_per_token_of", lambda *given: counted.append(count(*given)) or counted[-1])
    job = make_job(tmp_path, num_steps=2, scaling=scaling(zero=zero, micro_batch=4))
    job = replace(job, stage=job.stage.model_copy(update={"numerics": Numerics(precision=precision)}))
    first = table(straight[0], "metrics.parquet")["loss"][0].as_py()
    train(job)
    found = table(job, "metrics.parquet")["loss"][0].as_py()
    assert found == pytest.approx(first, rel=1e-5 if precision == "fp32" else 1e-2)
    whole = AutoModelForCausalLM.from_pretrained(Path(job.folder) / "model")
    assert counted == [count(whole, LENGTH)]  # ZeRO 3 leaves a model's own parameters empty


# ------------------------------------------------------------------------------- settings that change a stage


def changed(job: StageJob, **settings) -> StageJob:
    return replace(job, stage=job.stage.model_copy(update=settings))


def broken_at(steps: set[int], times: float = float("nan")):
    """A forward pass whose loss is not finite, or `times` what it is, on the given calls."""
    real, calls = TrainedModel.forward, iter(range(10**6))

    def forward(model, tokens, labels):
        total, per_row = real(model, tokens, labels)
        return (total * times, per_row * times) if next(calls) in steps else (total, per_row)

    return forward


def test_a_skipped_batch_is_counted_apart_and_an_interruption_changes_nothing(tmp_path, monkeypatch):
    whole = changed(make_job(tmp_path / "whole"), faults=Faults(on_nan="skip_batch"))
    monkeypatch.setattr(TrainedModel, "forward", broken_at({2, 5}))
    record = train(whole)
    monkeypatch.undo()
    monkeypatch.setattr(setup, "open_stores", open_fakes)
    assert record.skipped_steps == 2 and record.num_steps == 8
    rows = mixture.make_plan(whole).rows(0, 8 * ROWS)
    lost = np.isin(rows.position // ROWS, (2, 5))
    for index, row in enumerate(record.ledger):
        assert row.sequences == np.sum((rows.source == index) & ~lost)
        assert row.skipped_sequences == np.sum((rows.source == index) & lost)
        assert row.tokens == row.sequences * LENGTH == row.planned_tokens + row.difference
    names = tuple(source.name for source in whole.sources)
    kept = [column[~lost] for column in (rows.position, rows.source, rows.sequence)]
    assert record.order_checksum == f"{order_checksum(*kept, names):016x}"
    last = table(whole, "metrics.parquet").to_pylist()[-1]
    assert (last["skipped_steps"], last["tokens"]) == (2, record.num_tokens)

    again = replace(whole, folder=str(tmp_path / "again"))
    monkeypatch.setattr(TrainedModel, "forward", broken_at({2}))
    assert train(again, stop_before=4) is None
    monkeypatch.setattr(TrainedModel, "forward", broken_at({2}))  # the first call makes the optimizer's state
    assert told_apart(train(again)) == told_apart(record)
    assert weights(again) == weights(whole)

    untrained = replace(whole, folder=str(tmp_path / "untrained"))
    monkeypatch.setattr(TrainedModel, "forward", broken_at(set(range(8))))
    with pytest.raises(TrainingError, match="none of its 8 steps changed the weights"):
        train(untrained)


@pytest.mark.slow
def test_a_loss_that_explodes_ends_the_stage_with_the_median_it_left(tmp_path, monkeypatch):
    job = make_job(tmp_path, num_steps=30)
    monkeypatch.setattr(TrainedModel, "forward", broken_at(set(range(20, 30)), times=10.0))
    with pytest.raises(TrainingError, match=r"step 22: the loss explodes.*times the median.*loss_limit, 4 here"):
        train(job)
    monkeypatch.setattr(TrainedModel, "forward", broken_at({20, 21, 24}, times=10.0))
    assert train(make_job(tmp_path / "twice", num_steps=30)) is not None  # three steps in a row make an explosion
    monkeypatch.setattr(TrainedModel, "forward", broken_at(set(range(20, 30)), times=10.0))
    assert train(changed(make_job(tmp_path / "off", num_steps=30), faults=Faults(loss_limit=0.0))) is not None


def test_a_loss_is_no_explosion_while_it_is_better_than_guessing():
    tally = metrics.Tally.empty(1)
    assert all(tally.observe_loss(0.5, 4.0, 64) is None for _ in range(20))
    assert all(tally.observe_loss(4.0, 4.0, 64) is None for _ in range(20))  # the uniform guess costs ln 64 = 4.16
    assert tally.observe_loss(100.0, 4.0, 64) is None and tally.observe_loss(100.0, 4.0, 64) is None
    assert tally.observe_loss(100.0, 4.0, 64) == pytest.approx(2.25, abs=1.8)


@pytest.mark.slow
def test_the_model_of_a_stage_may_be_the_mean_of_its_last_weights_across_an_interruption(tmp_path):
    from safetensors.torch import load_file

    whole = changed(make_job(tmp_path / "whole"), averaging=Averaging(last=3, every=0.25))
    assert whole.stage.averaged_steps == {4, 6, 8}
    train(whole)
    again = replace(whole, folder=str(tmp_path / "again"))
    assert train(again, stop_before=5) is None
    train(again)
    assert weights(again) == weights(whole)
    ends = []
    for steps in (4, 6, 8):
        job = replace(whole, folder=str(tmp_path / f"until{steps}"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(job.stage), "averaged_steps", property(lambda _, steps=steps: frozenset({steps})))
            train(job)
        ends.append(load_file(Path(job.folder, "model", "model.safetensors")))
    found = load_file(Path(whole.folder, "model", "model.safetensors"))
    for name, value in found.items():
        np.testing.assert_allclose(value, np.mean([end[name] for end in ends], axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_stage_may_go_on_with_its_parent_s_optimizer(tmp_path):
    parent = replace(make_job(tmp_path / "parent"), keep_optimizer=True)
    train(parent)
    assert (Path(parent.folder) / "optimizer" / "COMPLETE").exists()
    jobs = {
        kept: changed(make_job(tmp_path / kept, parent=parent.folder), optimizer=Optimizer(state=kept))
        for kept in ("fresh", "keep")
    }
    for job in jobs.values():
        train(job)
    assert weights(jobs["fresh"]) != weights(jobs["keep"])
    again = replace(jobs["keep"], folder=str(tmp_path / "again"))
    train(again, stop_before=3)
    train(again)
    assert weights(again) == weights(jobs["keep"])


def test_under_mup_a_stage_and_the_next_train_each_weight_at_its_own_rate(tmp_path, monkeypatch):
    monkeypatch.setitem(models.PRESETS, "tiny", models.Preset(128, 1, 2, 384, 64))
    mup = Model(preset="tiny", parametrization="mup")
    still = Optimizer(weight_decay=0.0)
    parent = changed(make_job(tmp_path / "parent", 1, model=mup), optimizer=still)
    child = changed(make_job(tmp_path / "child", 1, model=mup, parent=parent.folder), optimizer=still)
    before = models.build(mup, VOCAB, seed=7).state_dict()
    for job in (parent, child):
        train(job)
        after = AutoModelForCausalLM.from_pretrained(Path(job.folder, "model")).state_dict()
        moved = {name: (after[name] - before[name]).abs().max().item() / 0.01 for name in before}
        assert moved["model.embed_tokens.weight"] == pytest.approx(1.0, rel=1e-3)
        for layer in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"):
            assert moved[f"model.layers.0.{layer}.weight"] == pytest.approx(0.5, rel=1e-3)
        before = after


def test_a_stage_that_is_done_without_its_optimizer_is_trained_once_more_for_that_alone(tmp_path):
    job = make_job(tmp_path)
    record = train(job)
    before = {name: os.stat(Path(job.folder, name)).st_mtime_ns for name in ("model", "stage.json", "DONE")}
    asked = replace(job, keep_optimizer=True)
    assert train(asked, stop_before=3) is None
    assert train(asked) == record
    assert {name: os.stat(Path(job.folder, name)).st_mtime_ns for name in before} == before
    straight = replace(make_job(tmp_path / "straight"), keep_optimizer=True)
    train(straight)
    shard = "optimizer/shard-00000-of-00001.safetensors"
    assert Path(job.folder, shard).read_bytes() == Path(straight.folder, shard).read_bytes()
    assert checkpoints(job) == []


def test_a_stage_without_the_optimizer_that_it_starts_from_says_what_to_do(tmp_path):
    parent = make_job(tmp_path / "parent", num_steps=1)
    train(parent)
    job = changed(make_job(tmp_path / "child", parent=parent.folder), optimizer=Optimizer(state="keep"))
    with pytest.raises(TrainingError, match=r"\{state: keep\}.*not usable.*delete .*optimizer and run again"):
        train(job)


def test_a_stage_of_one_step_trains_also_where_its_rate_ends_at_0(tmp_path):
    parent = make_job(tmp_path / "parent", num_steps=1)
    train(parent)
    rate = LearningRate(peak=0.01, final=0.0, schedule="linear")
    job = changed(make_job(tmp_path / "child", num_steps=1, parent=parent.folder), learning_rate=rate)
    train(job)
    assert weights(job) != weights(parent)
    assert table(job, "metrics.parquet")["learning_rate"].to_pylist() == [0.01]


def test_a_rate_that_continues_starts_from_the_parent_s_last(tmp_path):
    rate = LearningRate(peak=0.01, final=0.1, schedule="linear", boundary="continue")
    job = changed(make_job(tmp_path, start_rate=0.005), learning_rate=rate)
    train(job)
    found = table(job, "metrics.parquet")["learning_rate"].to_pylist()
    assert found == pytest.approx([0.005 - 0.004 * step / 8 for step in range(8)])


# ---------------------------------------------------------------------------------------------- held-out text


class HoldingStore(FakeStore):
    """Its held-out sequences have numbers of their own, from 0 on; told apart by what stands in them."""

    def __init__(self, source: SourceSlice, held: HoldingStore | None = None) -> None:
        super().__init__(source)
        self.manifest = SimpleNamespace(eos_id=0, num_bytes=300, num_tokens=100)
        self.total = 2 * source.held_out_sequences + 1 if held is None else source.num_sequences
        self.seen: set[int] = set()
        self.held = held

    def measured(self) -> HoldingStore:
        return self.held

    def num_sequences(self, sequence_length: int) -> int:
        return self.total

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        assert sequences.max(initial=0) < self.total
        self.seen |= set(sequences.tolist())
        return super().read(sequences + (self.held is None) * 1_000, sequence_length)


def holding_store(source: SourceSlice) -> HoldingStore:
    return HoldingStore(source, HoldingStore(source))


def holding(job: StageJob, every_steps: int = 3) -> StageJob:
    (Path(job.tokenizer) / "tokenizer.json").write_text(byte_level_tokenizer())
    sources = tuple(replace(source, held_out_sequences=4 + index) for index, source in enumerate(job.sources))
    measured = HeldOut(tokens=4 * LENGTH, every_tokens=every_steps * ROWS * LENGTH)
    return changed(replace(job, sources=sources), held_out=measured)


def byte_level_tokenizer() -> str:
    """Token n stands for n mod 3 + 1 bytes."""
    from tokenizers import Tokenizer, decoders, models

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
    entries = {letters[number] * (number % 3 + 1): number for number in range(VOCAB)}
    made = Tokenizer(models.WordLevel(entries, unk_token="a"))
    made.decoder = decoders.ByteLevel()
    return made.to_str()


def test_held_out_text_is_measured_in_bits_per_byte_and_never_trained_on(tmp_path, monkeypatch):
    opened: list[list[HoldingStore]] = []

    def open_holding(job: StageJob) -> list[HoldingStore]:
        opened.append([holding_store(source) for source in job.sources])
        return opened[-1]

    monkeypatch.setattr(setup, "open_stores", open_holding)
    job = holding(make_job(tmp_path / "whole"))
    record = train(job)
    found = table(job, "metrics.parquet").to_pylist()
    assert [row["step"] for row in found if np.isfinite(row["bpb/words"])] == [3, 6, 8]
    assert record.held_out_bpb == {name: found[-1][f"bpb/{name}"] for name in ("words", "code")}
    plan = mixture.make_plan(job).rows(0, 8 * ROWS)
    for index, source in enumerate(job.sources):
        drawn = set(plan.sequence[plan.source == index].tolist())
        assert max(drawn) < source.num_sequences
        held = np.arange(source.held_out_sequences) * (2 * source.held_out_sequences + 1) // source.held_out_sequences
        assert opened[0][index].seen == drawn
        assert opened[0][index].held.seen == set(held.tolist())  # spread over all of them
        tokens, _ = FakeStore(source).read(held + 1_000, LENGTH)
        assert record.held_out_bpb[source.name] == pytest.approx(bits_per_byte(job, tokens), rel=1e-5)

    # As on a GPU: a step's numbers are read when the next has begun, except where the weights are looked at.
    monkeypatch.setattr(loop, "steps_ahead", lambda world: 1)
    again = replace(job, folder=str(tmp_path / "again"))
    train(again, stop_before=4)
    assert told_apart(late := train(again)) == told_apart(record) and late.resumed_at == (5,)
    assert weights(again) == weights(job)
    plain = replace(changed(job, held_out=None), folder=str(tmp_path / "plain"))
    train(plain)
    assert weights(plain) == weights(job)


def watched(folder: Path, rungs: tuple[int, ...] = (2, 5)) -> StageJob:
    return replace(holding(make_job(folder)), rungs=rungs)


@pytest.fixture
def _holding(monkeypatch):
    monkeypatch.setattr(setup, "open_stores", lambda job: [holding_store(source) for source in job.sources])


@pytest.mark.usefixtures("_holding")
def test_a_rung_is_measured_exactly_at_its_step_whatever_is_saved_and_interrupted(tmp_path, monkeypatch):
    job, told = watched(tmp_path / "whole"), []

    def train_on(job: StageJob, stop_before: int | None = None) -> StageRecord | None:
        steps = iter(range(1, 100))
        return train_stage(
            job,
            World(),
            on_progress=lambda progress: None,
            should_stop=lambda: next(steps) == stop_before,
            on_rung=lambda step, record: told.append((step, record)) or False,
        )

    record = train_on(job)
    found = {row["step"]: row["bpb/words"] for row in table(job, "metrics.parquet").to_pylist()}
    assert [step for step, value in found.items() if np.isfinite(value)] == [2, 3, 5, 6, 8]
    assert [(step, one.held_out_bpb["words"]) for step, one in told] == [(2, found[2]), (5, found[5])]
    for step, one in told:
        assert one.num_steps == step and one.num_tokens == step * ROWS * LENGTH and math.isfinite(one.final_loss)
        assert sum(row.tokens for row in one.ledger) == one.num_tokens
        assert all(abs(row.difference) <= LENGTH for row in one.ledger)  # the plan until here, not the whole stage's
    assert storage_files.read_so_far(Folder(job.folder)) == dict(told)
    plain = replace(job, folder=str(tmp_path / "plain"), rungs=())
    assert told_apart(train(plain)) == told_apart(record) and weights(plain) == weights(job)

    # Stopped between the rungs with every step saved: the same values, and how far it was.
    often = replace(job, folder=str(tmp_path / "often"), scaling=scaling(checkpoint_seconds=1e-6))
    assert train_on(often, stop_before=4) is None
    monkeypatch.setattr(loop, "steps_ahead", lambda world: 1)
    stopped = max(storage_files.read_so_far(Folder(often.folder)))
    assert stopped == checkpoint_step(often) == 4
    assert storage_files.read_so_far(Folder(often.folder))[stopped].held_out_bpb == {}  # what was measured at 3 is old
    assert told_apart(train_on(often)) == told_apart(record)
    kept = storage_files.read_so_far(Folder(often.folder))
    assert [kept[step].held_out_bpb for step in (2, 5)] == [one.held_out_bpb for _, one in told[:2]]


def checkpoint_step(job: StageJob) -> int:
    return int(checkpoints(job)[-1].removeprefix("step-")) if checkpoints(job) else 0


@pytest.mark.usefixtures("_holding")
def test_a_stage_that_is_given_up_at_a_rung_stops_there_and_leaves_no_checkpoint(tmp_path):
    job = replace(watched(tmp_path), scaling=scaling(checkpoint_seconds=1e-6))
    told: list[Progress] = []
    ended = train_stage(
        job, World(), on_progress=told.append, should_stop=lambda: False, on_rung=lambda step, record: step == 5
    )
    assert ended is None and checkpoints(job) == [] and finished_stage(Folder(job.folder)) is None
    assert max(one.step for one in told) <= 5
    first = storage_files.read_so_far(Folder(job.folder))
    assert sorted(first) == [2, 5]
    # A trial that wants the stage whole trains it from its beginning; what was measured first stands.
    whole = train(job)
    assert whole is not None and whole.num_steps == 8 and whole.resumed_at == ()
    assert storage_files.read_so_far(Folder(job.folder)) == first


def bits_per_byte(job: StageJob, tokens: np.ndarray) -> float:
    import torch

    model = AutoModelForCausalLM.from_pretrained(Path(job.folder, "model"))
    batch = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        nats = float(model(input_ids=batch, labels=batch).loss) * (batch.numel() - len(batch))
    return nats / math.log(2) / float((tokens[:, 1:] % 3 + 1).sum())


def test_bytes_of_other_tokenizers_are_the_store_s_mean(tmp_path):
    from tokenizers import Tokenizer, models

    job = holding(make_job(tmp_path))
    (Path(job.tokenizer) / "tokenizer.json").write_text(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    stores = [holding_store(source) for source in job.sources]
    tokens = np.ones((3, LENGTH), dtype=np.int64)
    measured = held_out.HeldOut(job, stores, World(), 4)
    found = measured._bytes_of(tokens, np.ones(tokens.shape, bool), np.array([0, 0, 1]))
    assert found.tolist() == [2 * (LENGTH - 1) * 3.0, (LENGTH - 1) * 3.0]


# ----------------------------------------------------------------------------------- how it runs and is saved


def test_a_micro_batch_that_is_found_is_kept_and_computes_the_same(tmp_path, straight, monkeypatch):
    job = make_job(tmp_path, scaling=scaling(micro_batch="auto"))
    assert train(job, stop_before=3) is None
    kept = json.loads(Path(job.folder, "stage.json").read_text())["micro_batch"]
    assert kept == {"sequences": ROWS, "workers": 1, "device": "cpu"}
    # Less memory on continuing changes nothing: the cut, and so the bits, are those that were found first.
    monkeypatch.setattr(micro_batch, "_known_sizes", {})
    monkeypatch.setattr(micro_batch, "free_for_activations", lambda world: 0.0)
    train(job)
    assert weights(job) == weights(straight[0])
    assert json.loads(Path(job.folder, "stage.json").read_text())["micro_batch"] == kept


def test_a_micro_batch_is_as_small_as_memory_asks_for(tmp_path, monkeypatch):
    job = make_job(tmp_path, num_steps=2, scaling=scaling(micro_batch="auto"))
    per_row, besides = micro_batch.bytes_kept(models.build(SMALL, VOCAB, seed=0), job.stage, job.scaling)
    monkeypatch.setattr(micro_batch, "_known_sizes", {})
    monkeypatch.setattr(micro_batch, "free_for_activations", lambda world: besides + 2.5 * 1.5 * per_row)
    told: list[Progress] = []
    train(job, told=told)
    assert json.loads(Path(job.folder, "stage.json").read_text())["micro_batch"]["sequences"] == 2
    assert any("micro batches of 2 sequences" in progress.note for progress in told)
    monkeypatch.setattr(micro_batch, "_known_sizes", {})
    monkeypatch.setattr(micro_batch, "free_for_activations", lambda world: besides)
    with pytest.raises(OutOfMemory, match="activation_checkpointing"):
        train(replace(job, folder=str(tmp_path / "other")))


def test_checkpoints_come_by_tokens_and_as_many_are_kept_as_asked_for(tmp_path, straight):
    often = Scaling(checkpoint_tokens=2 * ROWS * LENGTH, checkpoints_kept=3, deepspeed=DeepSpeed())
    job = make_job(tmp_path, scaling=often)
    assert train(job, stop_before=7) is None
    assert checkpoints(job) == ["step-000004", "step-000006", "step-000007"]


def test_checkpoints_written_beside_the_training_continue_it_bit_for_bit(tmp_path, straight):
    beside = Scaling(checkpoint_tokens=2 * ROWS * LENGTH, background_checkpoints=True)
    job = make_job(tmp_path, scaling=beside)

    class Killed(BaseException):
        pass

    real = loop.TrainingLoop._count

    def killing(training, *arguments):
        if training.tally.step == 5:
            raise Killed
        real(training, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.TrainingLoop, "_count", killing)
        train(job)
    record = train(job)
    assert record.resumed_at in ((2,), (4,))
    assert told_apart(record) == told_apart(straight[1])
    assert weights(job) == weights(straight[0])


@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_that_fills_up_fails_the_stage_and_another_attempt_continues(tmp_path, straight, monkeypatch, beside):
    every_second = Scaling(checkpoint_tokens=2 * ROWS * LENGTH, background_checkpoints=beside)
    job = make_job(tmp_path, scaling=every_second)
    real, saved = checkpoint_files.save_file, []

    def filling(tensors, path):
        saved.append(path)
        if len(saved) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint_files, "save_file", filling)
    with pytest.raises(TrainingError, match=r"no space left.*run again to continue"):
        train(job)
    assert not (Path(job.folder) / "checkpoint/step-000004/COMPLETE").exists()
    record = train(job)
    assert record.resumed_at == (2,)
    assert told_apart(record) == told_apart(straight[1])
    assert weights(job) == weights(straight[0])


# ----------------------------------------------------------------------------------------- several workers


def spawn(world_size: int, work, *arguments) -> None:
    """Calls `work(world, *arguments)` in `world_size` new processes that form one group."""
    import torch.multiprocessing

    port = free_port()
    forkserver.context()
    start = torch.multiprocessing.start_processes
    start(_joined, args=(world_size, port, work, arguments), nprocs=world_size, start_method="forkserver")


def _joined(rank: int, world_size: int, port: int, work, arguments) -> None:
    import torch.distributed

    gc.freeze()  # keeps `Engine.close` from walking all that the imports made
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    setup.open_stores = open_fakes
    work(World(rank, world_size), *arguments)
    assert "torch._inductor.compile_fx" not in sys.modules, "torch's compiler, a second of each start, is not used here"
    # A process that ends with the group's threads at work is now and then aborted by them.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _train_in_turn(world: World, *jobs: tuple[StageJob, int | None]) -> None:
    """Trains one job after the other, each to its end or until its number of steps."""
    for job, stop_after in jobs:
        begun = 0

        def should_stop(stop_after=stop_after) -> bool:
            nonlocal begun
            begun += 1
            return begun == stop_after and world.rank == world.world_size - 1  # any worker may ask

        train_stage(job, world, on_progress=lambda progress: None, should_stop=should_stop)


def _fail_and_go_on(world: World, failing: StageJob, sound: StageJob) -> None:
    """The first job's loss is not finite, on the last worker only."""
    real = TrainedModel.forward
    if world.rank == world.world_size - 1:
        TrainedModel.forward = lambda model, tokens, labels: [
            part * float("nan") for part in real(model, tokens, labels)
        ]
    with pytest.raises(TrainingError, match="step 0: the loss is not finite at position 1 "):
        _train_in_turn(world, (failing, None))
    TrainedModel.forward = real
    _train_in_turn(world, (sound, None))


@pytest.mark.slow
def test_two_workers_train_the_same_order_ledger_and_loss_curve_as_one(tmp_path):
    kinds = ("instruct_text", "instruct_code")  # uneven masks: workers count different numbers of tokens
    alone = make_job(tmp_path / "alone", kinds=kinds)
    together = {
        zero: make_job(tmp_path / f"zero{zero}", kinds=kinds, scaling=scaling(workers=2, zero=zero, micro_batch=2))
        for zero in (0, 1, 2, 3)
    }
    hopping = [make_job(tmp_path / f"hopping{zero}", kinds=kinds, scaling=scaling(zero=zero)) for zero in (1, 3)]
    expected = train(alone)
    for job in hopping:
        train(job, stop_before=3)
    spawn(2, _train_in_turn, *((job, None) for job in together.values()), *((job, 2) for job in hopping))
    assert [train(job).resumed_at for job in hopping] == [(3, 5)] * 2
    curve = table(alone, "metrics.parquet")
    for job in (*together.values(), *hopping):
        found = finished_stage(Folder(job.folder))
        assert (found.order_checksum, found.ledger) == (expected.order_checksum, expected.ledger)
        assert found.final_loss == pytest.approx(expected.final_loss, rel=1e-4)
        for column in ("loss", "loss/code", "grad_norm"):
            ours = table(job, "metrics.parquet")[column].to_pylist()
            assert ours == pytest.approx(curve[column].to_pylist(), rel=1e-3)


@pytest.mark.slow
def test_more_workers_than_sequences_in_a_batch_still_train(tmp_path):
    job = make_job(tmp_path, num_steps=3)
    settings = job.stage.model_copy(update={"batch_tokens": LENGTH, "tokens": 3 * LENGTH})
    alone = replace(job, stage=settings, folder=str(tmp_path / "alone"))
    together = replace(job, stage=settings, folder=str(tmp_path / "together"), scaling=scaling(workers=2, zero=3))
    expected = train(alone)
    spawn(2, _train_in_turn, (together, None))
    found = finished_stage(Folder(together.folder))
    assert found.order_checksum == expected.order_checksum
    assert found.final_loss == pytest.approx(expected.final_loss, rel=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_worker_fails_the_job_on_all_and_leaves_them_in_step(tmp_path):
    failing, sound = (
        make_job(tmp_path / name, num_steps=2, scaling=scaling(workers=2)) for name in ("failing", "sound")
    )
    spawn(2, _fail_and_go_on, failing, sound)
    assert not Path(failing.folder, "DONE").exists()
    assert Path(sound.folder, "DONE").exists()


@pytest.mark.slow
def test_another_number_of_workers_and_zero_stage_continue_a_stage(tmp_path):
    alone = make_job(tmp_path / "alone")
    expected = train(alone)
    job = make_job(tmp_path / "job", scaling=scaling(workers=2, zero=3, micro_batch=2))
    spawn(2, _train_in_turn, (job, 3))
    record = train(replace(job, scaling=scaling(zero=1)))
    assert record.resumed_at == (3,)
    assert (record.order_checksum, record.ledger) == (expected.order_checksum, expected.ledger)
    ours, theirs = (table(one, "metrics.parquet")["loss"].to_pylist() for one in (job, alone))
    assert ours == pytest.approx(theirs, rel=1e-3)


def _measure_in_turn(world: World, *jobs: tuple[StageJob, int | None]) -> None:
    setup.open_stores = lambda job: [holding_store(source) for source in job.sources]
    _train_in_turn(world, *jobs)


def _one_disk_is_full(world: World, job: StageJob) -> None:
    """The last worker cannot write its second checkpoint; all hear of it."""
    real, saved = checkpoint_files.save_file, []

    def filling(tensors, path):
        saved.append(path)
        if len(saved) == 2 and world.rank == world.world_size - 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    checkpoint_files.save_file = filling
    with pytest.raises(TrainingError, match="no space left"):
        _train_in_turn(world, (job, None))
    checkpoint_files.save_file = real
    _train_in_turn(world, (job, None))


@pytest.mark.slow
def test_two_workers_measure_average_and_save_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "open_stores", lambda job: [holding_store(source) for source in job.sources])
    alone = replace(changed(holding(make_job(tmp_path / "alone")), averaging=Averaging(last=2)), rungs=(2,))
    expected = train(alone)
    two = scaling(workers=2, zero=3, micro_batch=2)
    together = replace(alone, folder=str(tmp_path / "together"), scaling=two)
    spawn(2, _measure_in_turn, (together, 4))
    spawn(2, _measure_in_turn, (together, None))
    found = finished_stage(Folder(together.folder))
    assert found.resumed_at == (4,)
    assert found.held_out_bpb == pytest.approx(expected.held_out_bpb, rel=1e-4)
    rungs = [storage_files.read_so_far(Folder(job.folder))[2] for job in (alone, together)]
    assert rungs[0].held_out_bpb == pytest.approx(rungs[1].held_out_bpb, rel=1e-4)
    assert rungs[0].ledger == rungs[1].ledger and rungs[0].order_checksum == rungs[1].order_checksum
    full = make_job(tmp_path / "full", scaling=two.model_copy(update={"checkpoint_tokens": 2 * ROWS * LENGTH}))
    beside = full.scaling.model_copy(update={"background_checkpoints": True})
    spawn(2, _one_disk_is_full, replace(full, scaling=beside))
    assert finished_stage(Folder(full.folder)).resumed_at == (2,)
