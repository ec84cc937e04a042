from __future__ import annotations

import gc
import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from raycodellm import mixture, stage
from raycodellm import model as models
from raycodellm.config import DeepSpeed, LearningRate, Model, Scaling, Stage, UserError
from raycodellm.engine.loss import TrainedModel
from raycodellm.records import Progress, SourceSlice, StageJob, StageRecord
from raycodellm.stage import TrainingError, World, order_checksum, train_stage

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
    gc.freeze()
    yield
    gc.unfreeze()


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
    monkeypatch.setattr(stage, "open_stores", open_fakes)


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
    """What may differ between two runs of one stage, left out."""
    return replace(record, wall_seconds=0.0, device_seconds=0.0, resumed_at=())


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[StageJob, StageRecord]:
    """A stage trained in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "open_stores", open_fakes)
        job = make_job(tmp_path_factory.mktemp("straight"))
        return job, train(job)


# ------------------------------------------------------------------------------------------- what it leaves


def test_a_finished_stage_leaves_its_results_and_no_checkpoint(straight):
    job, record = straight
    assert set(os.listdir(job.folder)) == {"stage.json", "model", "ledger.parquet", "metrics.parquet", "DONE"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(Path(job.folder, "model")))
    kept = json.loads(Path(job.folder, "stage.json").read_text())
    assert kept["job"]["stage"]["learning_rate"]["peak"] == 0.01
    assert stage.stage_record(kept["record"]) == record
    assert record.num_steps == 8 and record.num_tokens == 8 * ROWS * LENGTH


def test_a_finished_stage_is_read_and_not_trained_again(straight):
    job, record = straight
    before = os.stat(Path(job.folder, "DONE")).st_mtime_ns
    assert train(job) == record
    assert os.stat(Path(job.folder, "DONE")).st_mtime_ns == before


def test_the_ledger_counts_the_plan(straight):
    job, record = straight
    assert table(job, "ledger.parquet").to_pylist() == [vars(row) for row in record.ledger]
    counts = mixture.plan(job).counts(8 * ROWS)
    for row, source, count in zip(record.ledger, job.sources, counts, strict=True):
        assert row.tokens == row.planned_tokens == count * LENGTH == row.sequences * LENGTH
        assert row.loss_tokens == count * (LENGTH - 1)
        assert row.epochs == (source.start + count) / source.num_sequences


def test_the_checksum_is_that_of_the_plan_s_order(straight):
    job, record = straight
    rows = mixture.plan(job).rows(0, 8 * ROWS)
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


def test_the_metrics_follow_the_stage(straight):
    job, record = straight
    found = table(job, "metrics.parquet")
    assert found["step"].to_pylist() == list(range(1, 9))
    assert found["tokens"].to_pylist() == [step * ROWS * LENGTH for step in range(1, 9)]
    named = {f"{what}/{name}" for what in ("loss", "tokens") for name in ("words", "code")}
    rest = {"grad_norm", "learning_rate", "tokens_per_second", "data_wait_seconds", "data_wait_share"}
    ratios = {"code_ratio_planned", "code_ratio_real", "code_ratio_window"}
    assert set(found.column_names) == {"step", "tokens", "loss"} | named | rest | ratios
    last = found.to_pylist()[-1]
    assert last["code_ratio_planned"] == 0.25
    assert last["code_ratio_real"] == record.ledger[1].tokens / record.num_tokens
    assert last["tokens/code"] == record.ledger[1].tokens
    assert record.final_loss == last["loss"] < found["loss"][0].as_py() * 1.1


def test_only_responses_count_where_the_stage_says_so(tmp_path):
    job = make_job(tmp_path, num_steps=3, kinds=("instruct_text", "instruct_code"))
    record = train(job)
    rows = mixture.plan(job).rows(0, 3 * ROWS)
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


@pytest.mark.parametrize("zero", [0, 1, 3])
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

        def killing(batch, result, *rest, at=killed_at, killed=Killed, real=stage._Training._count):
            if killing.training.tally.step == at:
                raise killed
            real(killing.training, batch, result, *rest)

        real_run = stage._Training.run

        def run(training, *arguments, killing=killing, real_run=real_run):
            killing.training = training
            training._count = killing
            return real_run(training, *arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(stage._Training, "run", run)
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
    row = mixture.plan(job).rows(2 * ROWS + 4, 2 * ROWS + 5)
    name = job.sources[int(row.source[0])].name
    assert f"step 2: the loss is not finite at position 16 ({name} sequence {row.sequence[0]})" in str(failed.value)
    assert "learning_rate.peak" in str(failed.value)
    assert not Path(job.folder, "DONE").exists()
    monkeypatch.undo()
    monkeypatch.setattr(stage, "open_stores", open_fakes)
    assert train(make_job(tmp_path / "next", num_steps=1)) is not None  # the process goes on to the next job


def test_a_sequence_longer_than_the_model_s_context_is_refused(tmp_path):
    job = make_job(tmp_path)
    settings = job.stage.model_copy(update={"sequence_length": 64, "batch_tokens": 384})
    with pytest.raises(UserError, match=r"found 64.*at most 32"):
        train(replace(job, stage=settings))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_zero_stage_and_precision_trains_on_a_cpu(tmp_path, straight, zero, precision):
    job = make_job(tmp_path, num_steps=2, scaling=scaling(zero=zero, precision=precision, micro_batch=4))
    first = table(straight[0], "metrics.parquet")["loss"][0].as_py()
    train(job)
    found = table(job, "metrics.parquet")["loss"][0].as_py()
    assert found == pytest.approx(first, rel=1e-5 if precision == "fp32" else 1e-2)


# ----------------------------------------------------------------------------------------- several workers


def spawn(world_size: int, work, *arguments) -> None:
    """Calls `work(world, *arguments)` in `world_size` new processes that form one group."""
    import torch.multiprocessing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_joined, args=(world_size, port, work, arguments), nprocs=world_size)


def _joined(rank: int, world_size: int, port: int, work, arguments) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    stage.open_stores = open_fakes
    work(World(rank, world_size), *arguments)


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
        found = stage.finished_record(stage.Folder(job.folder))
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
    found = stage.finished_record(stage.Folder(together.folder))
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
