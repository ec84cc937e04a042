from __future__ import annotations

import gc
import os
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy

from raycodellm import engine as engines
from raycodellm import model as models
from raycodellm.config import DeepSpeed, LearningRate, Model, Scaling, Stage, UserError
from raycodellm.engine import (
    DamagedCheckpoint,
    Engine,
    TrainingError,
    World,
    checkpoints,
    deepspeed_config,
    learning_rate_at,
    loss,
)
from raycodellm.files import Folder

LENGTH, ROWS, VOCAB = 12, 6, 64
SMALL = Model(
    config={
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
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


def make_stage(**changes) -> Stage:
    settings = {
        "name": "s",
        "tokens": 20 * ROWS * LENGTH,
        "sequence_length": LENGTH,
        "batch_tokens": ROWS * LENGTH,
        "learning_rate": LearningRate(peak=0.01),
        "weights": {"a": 1.0},
    }
    return Stage(**{**settings, **changes})


def make_engine(zero=1, precision="fp32", micro_batch=None, model=SMALL, **stage) -> Engine:
    engines.init_process(World())
    scaling = Scaling(deepspeed=DeepSpeed(zero=zero, precision=precision, micro_batch=micro_batch))
    per_step = -(-ROWS // (micro_batch or ROWS))
    made = models.build(model, VOCAB, seed=0)
    return Engine.create(made, make_stage(**stage), scaling, World(), num_sources=2, num_micro_batches=per_step, seed=0)


def make_batch(step: int, micro_batch: int = ROWS):
    """Rows whose counted parts are of very different lengths, two sources."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=generator)
    labels = tokens.clone()
    for row in range(ROWS):
        labels[row, : 2 * row] = -100
    parts = [slice(start, start + micro_batch) for start in range(0, ROWS, micro_batch)]
    return SimpleNamespace(
        micro_batches=[{"tokens": tokens[part], "labels": labels[part]} for part in parts],
        source=np.arange(ROWS, dtype=np.int16) % 2,
    )


def train(engine: Engine, start: int, stop: int, micro_batch: int = ROWS) -> list[float]:
    results = [engine.train_step(make_batch(step, micro_batch), step) for step in range(start, stop)]
    return [float(result.loss_sums.sum() / result.loss_tokens.sum()) for result in results]


# -------------------------------------------------------------------------------------------- learning rates


def rates(num_steps: int, **settings) -> list[float]:
    return [learning_rate_at(LearningRate(peak=2.0, **settings), step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_rate_rises_to_the_peak_and_ends_at_its_final_share(schedule):
    found = rates(100, schedule=schedule, warmup=0.1, final=0.1)
    assert found[:10] == pytest.approx([2.0 * step / 10 for step in range(1, 11)])
    assert found[-1] == pytest.approx(0.2)
    assert max(found) == 2.0
    assert all(left >= right for left, right in pairwise(found[9:]))


def test_wsd_holds_the_peak_until_its_decay():
    found = rates(100, schedule="wsd", warmup=0.1, decay=0.2, final=0.0)
    assert set(found[9:80]) == {2.0}
    assert found[80:] == pytest.approx([2.0 * (19 - step) / 20 for step in range(20)])


def test_cosine_is_half_way_in_the_middle():
    assert rates(100, schedule="cosine", warmup=0.0, final=0.0)[49] == pytest.approx(1.0)


def test_constant_stays_at_the_peak():
    assert set(rates(20, schedule="constant", warmup=0.0)) == {2.0}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_the_shortest_stages_have_rates_too(schedule, warmup, num_steps):
    decay = 0.0 if warmup == 1.0 else 0.2
    assert all(0.0 <= rate <= 2.0 for rate in rates(num_steps, schedule=schedule, warmup=warmup, decay=decay))


# ----------------------------------------------------------------------------------- DeepSpeed's configuration


def refused(**settings) -> str:
    with pytest.raises(UserError) as error:
        deepspeed_config(make_stage(), Scaling(deepspeed=DeepSpeed(**settings)), World(), 1)
    return str(error.value)


def test_a_deepspeed_setting_that_the_sweep_file_decides_is_refused():
    assert "micro_batch" in refused(config={"train_micro_batch_size_per_gpu": 3})
    assert "learning_rate" in refused(config={"scheduler": {"type": "WarmupLR"}})
    assert "weight_decay" in refused(config={"optimizer": {"type": "Adam"}})
    message = refused(config={"zero_optimization": {"stage": 3}})
    assert "zero_optimization.stage" in message and "found 3" in message and "scaling.deepspeed.zero" in message


def test_fp16_on_a_cpu_is_refused():
    assert "bf16" in refused(precision="fp16")


def test_other_deepspeed_settings_pass_through():
    zero = {"stage": 1, "reduce_bucket_size": 1000}
    given = {"zero_optimization": zero, "train_batch_size": "auto", "dump_state": True}
    made = deepspeed_config(make_stage(), Scaling(deepspeed=DeepSpeed(config=given)), World(), 1)
    assert made["zero_optimization"] == zero
    assert made["train_batch_size"] == ROWS and made["dump_state"] is True


# -------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradient_are_those_of_torch(dtype, monkeypatch):
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 16 * VOCAB)  # three blocks, the last one short
    torch.manual_seed(0)
    hidden = torch.randn(40, 16, dtype=dtype, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(VOCAB, 16, dtype=dtype))
    labels = torch.randint(0, VOCAB, (40,))
    total, losses = loss.LossHead(weight)(hidden, labels)
    (total * 0.25).backward()
    found = [hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None
    expected = cross_entropy((hidden @ weight.T).float(), labels, reduction="none")
    (expected.sum() * 0.25).backward()
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(found[0], hidden.grad, **close)
    torch.testing.assert_close(found[1], weight.grad, **close)


def test_only_counted_tokens_are_in_the_loss_and_each_sequence_s_first_never_is():
    model = models.build(SMALL, VOCAB, seed=0)
    part = make_batch(0).micro_batches[0]
    logits = model(input_ids=part["tokens"]).logits.detach()
    expected = cross_entropy(logits[:, :-1].transpose(1, 2), part["labels"][:, 1:], reduction="none").sum(dim=1)
    total, per_row = loss.TrainedModel(model)(**part)
    torch.testing.assert_close(per_row.float(), expected)
    torch.testing.assert_close(total, expected.sum())


def test_a_model_whose_head_scales_its_logits_has_the_loss_that_transformers_gives_it():
    config = {**SMALL.config, "model_type": "cohere", "logit_scale": 0.5, "pad_token_id": 0}
    model = models.build(Model(config=config), VOCAB, seed=0)
    part = make_batch(0).micro_batches[0]
    mean = model(input_ids=part["tokens"], labels=part["labels"]).loss
    trained = loss.TrainedModel(model)
    total, per_row = trained(**part)
    assert not trained.plain_head
    counted = (part["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(total / counted, mean)
    torch.testing.assert_close(per_row.sum().float(), total)


# ------------------------------------------------------------------------------------------------- training


def test_micro_batches_change_only_rounding():
    whole, cut = make_engine(), make_engine(micro_batch=2)
    assert train(cut, 0, 4, micro_batch=2) == pytest.approx(train(whole, 0, 4), rel=1e-5)
    whole.close()
    cut.close()


def test_the_first_gradient_is_that_of_the_mean_over_counted_tokens():
    model = models.build(SMALL, VOCAB, seed=0)
    part = make_batch(0).micro_batches[0]
    model(input_ids=part["tokens"], labels=part["labels"]).loss.backward()
    expected = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    for zero in (0, 1, 2, 3):
        engine = make_engine(zero=zero, micro_batch=4)
        result = engine.train_step(make_batch(0, 4), 0)
        assert result.grad_norm == pytest.approx(float(expected), rel=1e-4)
        assert result.loss_tokens.tolist() == [11 + 8 + 4, 10 + 6 + 2]
        engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_zero_stages_train_alike(precision):
    curves = []
    for zero in (0, 1, 2, 3):
        engine = make_engine(zero=zero, precision=precision, micro_batch=2)
        curves.append(train(engine, 0, 6, micro_batch=2))
        engine.close()
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5 if precision == "fp32" else 5e-3)


def test_a_loss_that_is_not_finite_is_told_with_its_rows():
    engine = make_engine()
    engine._hf.get_input_embeddings().weight.data[7] = float("nan")
    batch = make_batch(0)
    batch.micro_batches[0]["tokens"].fill_(1)
    batch.micro_batches[0]["tokens"][4, 9] = 7
    engine._hf.get_output_embeddings().weight = torch.nn.Parameter(torch.zeros(VOCAB, 16))  # untied: only row 4 sees it
    result = engine.train_step(batch, 0)
    assert (result.finite, result.applied, result.bad_rows) == (False, False, (4,))
    engine.close()


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_restored_engine_goes_on_bit_for_bit(tmp_path):
    engine = make_engine()
    train(engine, 0, 3)
    engine.save(Folder(str(tmp_path)), {"step": 3})
    expected = train(engine, 3, 6)
    engine.close()
    again = make_engine()
    train(again, 0, 1)  # whatever it did before is gone
    assert again.restore(Folder(str(tmp_path))) == {"step": 3}
    assert train(again, 3, 6) == expected
    again.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_zero_stage_continues_a_checkpoint(tmp_path, precision):
    stages = (0, 3, 2, 1, 0)
    engine = make_engine(zero=stages[0], precision=precision)
    found = train(engine, 0, 2)
    for hop, zero in enumerate(stages[1:], start=1):
        engine.save(Folder(str(tmp_path / str(hop))), {})
        weights = {name: engine._full(parameter).clone() for name, parameter in engine._parameters()}
        engine.close()
        engine = make_engine(zero=zero, precision=precision)
        engine.restore(Folder(str(tmp_path / str(hop))))
        assert all(torch.equal(engine._full(parameter), weights[name]) for name, parameter in engine._parameters())
        found += train(engine, 2 * hop, 2 * hop + 2)
    engine.close()
    straight = make_engine(zero=1, precision=precision)
    expected = train(straight, 0, 2 * len(stages))
    straight.close()
    assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 5e-3)


def test_making_the_optimizer_s_state_changes_no_weight():
    for zero in (0, 1, 3):
        engine = make_engine(zero=zero)
        before = {name: engine._full(parameter).clone() for name, parameter in engine._parameters()}
        engine._make_moments()
        assert all(torch.equal(engine._full(parameter), before[name]) for name, parameter in engine._parameters())
        engine.close()


def test_a_damaged_checkpoint_is_refused_before_anything_changes(tmp_path):
    folder = Folder(str(tmp_path))
    engine = make_engine()
    train(engine, 0, 2)
    engine.save(folder, {})
    (shard,) = [name for name in folder.list() if name.endswith(".safetensors")]
    data = bytearray((tmp_path / shard).read_bytes())
    data[-5] ^= 1
    (tmp_path / shard).write_bytes(data)
    other, straight = make_engine(), make_engine()
    with pytest.raises(DamagedCheckpoint, match=r"shard-00000.*marker"):
        other.restore(folder)
    assert train(other, 0, 2) == train(straight, 0, 2)
    for made in (engine, other, straight):
        made.close()


def test_a_full_disk_is_said_and_leaves_the_checkpoint_incomplete(tmp_path, monkeypatch):
    engine = make_engine()
    train(engine, 0, 1)
    engine.save(Folder(str(tmp_path / "before")), {"step": 1})

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", full)
        with pytest.raises(TrainingError, match=r"no space left.*before it stay usable"):
            engine.save(Folder(str(tmp_path / "now")), {"step": 2})
    assert not (tmp_path / "now" / engines.COMPLETE).exists()
    assert engine.restore(Folder(str(tmp_path / "before"))) == {"step": 1}
    engine.close()


def test_an_exported_model_loads_and_has_the_same_loss(tmp_path):
    from transformers import AutoModelForCausalLM

    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    for zero, precision in ((1, "fp32"), (3, "fp32"), (2, "bf16")):
        engine = make_engine(zero=zero, precision=precision)
        train(engine, 0, 3)
        directory = tmp_path / f"{zero}{precision}"
        engine.export(directory, Folder(str(tokenizer)))
        part = make_batch(9).micro_batches[0]
        result = engine.train_step(make_batch(9), 9)
        engine.close()
        loaded = AutoModelForCausalLM.from_pretrained(directory)
        assert loaded.dtype == torch.float32
        found = loaded(input_ids=part["tokens"], labels=part["labels"]).loss.item()
        expected = result.loss_sums.sum() / result.loss_tokens.sum()
        assert found == pytest.approx(expected, rel=1e-6 if precision == "fp32" else 5e-3)
        files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
        assert files <= set(os.listdir(directory))


def test_engines_one_after_the_other_do_not_pile_up():
    def alive() -> int:
        gc.collect()
        return sum(isinstance(found, loss.TrainedModel) for found in gc.get_objects())

    before = alive()
    for zero in (1, 3, 1):
        engine = make_engine(zero=zero)
        train(engine, 0, 1)
        engine.close()
    assert alive() <= before
