from __future__ import annotations

import gc
import os
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
    checkpoint_files,
    deepspeed_config,
    devices,
    loss,
    micro_batch,
)
from raycodellm.engine.deepspeed_settings import clips_in_optimizer, require_execution
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
    make_engine().close()  # imports DeepSpeed
    gc.collect()
    gc.freeze()  # for good: `unfreeze` would also give back what was frozen once all tests were collected


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
    scaling = Scaling(deepspeed=DeepSpeed(zero=zero, micro_batch=micro_batch))
    per_step = -(-ROWS // (micro_batch or ROWS))
    made, settings = models.build(model, VOCAB, seed=0), make_stage(precision=precision, **stage)
    return Engine.create(made, settings, scaling, World(), num_sources=2, num_micro_batches=per_step, seed=0)


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


# ----------------------------------------------------------------------------------- DeepSpeed's configuration


def refused(**settings) -> str:
    with pytest.raises(UserError) as error:
        deepspeed_config(make_stage(**settings), Scaling(), World(), 1)
    return str(error.value)


def test_a_deepspeed_setting_that_the_sweep_file_decides_is_refused():
    assert "micro_batch" in refused(deepspeed_config={"train_micro_batch_size_per_gpu": 3})
    assert "learning_rate" in refused(deepspeed_config={"scheduler": {"type": "WarmupLR"}})
    assert "learning_rate and optimizer" in refused(deepspeed_config={"optimizer": {"type": "Adam"}})
    message = refused(deepspeed_config={"zero_optimization": {"stage": 3}})
    assert "zero_optimization.stage" in message and "found 3" in message and "scaling.deepspeed.zero" in message


def test_fp16_on_a_cpu_is_refused():
    assert "bf16" in refused(precision="fp16")


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_the_gradient_s_clip_may_be_said_again_and_not_otherwise_whoever_clips(zero):
    scaling = Scaling(deepspeed=DeepSpeed(zero=zero))
    same = make_stage(deepspeed_config={"gradient_clipping": make_stage().optimizer.gradient_clip})
    made = deepspeed_config(same, scaling, World(), 1)
    assert made["gradient_clipping"] == (0.0 if zero < 3 else same.optimizer.gradient_clip)
    other = make_stage(deepspeed_config={"gradient_clipping": 0.0})
    with pytest.raises(UserError, match=r"gradient_clipping: found 0\.0"):
        deepspeed_config(other, scaling, World(), 1)


def test_deepspeed_clips_where_its_own_optimizer_does_more():
    assert clips_in_optimizer(make_stage(), Scaling())
    for given in ({"zero_optimization": {"cpu_offload": True}}, {"torch_autocast": {"enabled": True}}):
        assert not clips_in_optimizer(make_stage(deepspeed_config=given), Scaling())
    blind = make_stage(deepspeed_config={"zero_optimization": {"compute_grad_norm": False}})
    with pytest.raises(UserError, match="compute_grad_norm: found false"):
        deepspeed_config(blind, Scaling(), World(), 1)


def test_other_deepspeed_settings_pass_through():
    zero = {"stage": 1, "reduce_bucket_size": 1000}
    given = {"zero_optimization": zero, "train_batch_size": "auto", "dump_state": True}
    made = deepspeed_config(make_stage(deepspeed_config=given), Scaling(), World(), 1)
    assert made["zero_optimization"] == zero
    assert made["train_batch_size"] == ROWS and made["dump_state"] is True


# -------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("slope_of", [loss._slope_in_place, loss._slope_to_fuse])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradient_are_those_of_torch(dtype, slope_of, monkeypatch):
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 16 * VOCAB)  # three blocks, the last one short
    torch.manual_seed(0)
    hidden = torch.randn(40, 16, dtype=dtype, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(VOCAB, 16, dtype=dtype))
    labels = torch.randint(0, VOCAB, (40,))
    head = loss.LossHead(weight)
    head.slope_of = slope_of
    total, losses = head(hidden, labels)
    (total * 0.25).backward()
    found = [hidden.grad.clone(), weight.grad.clone()]
    hidden.grad = weight.grad = None
    expected = cross_entropy((hidden @ weight.T).float(), labels, reduction="none")
    (expected.sum() * 0.25).backward()
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(found[0], hidden.grad, **close)
    torch.testing.assert_close(found[1], weight.grad, **close)


def test_a_model_is_not_asked_about_packed_sequences_and_gives_the_same_loss(monkeypatch):
    from transformers import masking_utils

    model = models.build(SMALL, VOCAB, seed=0)
    tokens = torch.randint(0, VOCAB, (3, LENGTH))
    logits = model(input_ids=tokens).logits[:, :-1]
    expected = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    asked = []
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", asked.append)
    total, _ = loss.TrainedModel(model)(tokens, tokens)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5) and asked == []
    assert masking_utils.find_packed_sequence_indices == asked.append


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
    assert trained.plain_head
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


@pytest.mark.slow
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
    engine.adapter.hf_model.get_input_embeddings().weight.data[7] = float("nan")
    batch = make_batch(0)
    batch.micro_batches[0]["tokens"].fill_(1)
    batch.micro_batches[0]["tokens"][4, 9] = 7
    engine.adapter.hf_model.get_output_embeddings().weight = torch.nn.Parameter(
        torch.zeros(VOCAB, 16)
    )  # untied: only row 4 sees it
    result = engine.train_step(batch, 0)
    assert (result.finite, result.applied, result.bad_rows) == (False, False, (4,))
    engine.close()


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_restored_engine_goes_on_bit_for_bit(tmp_path):
    engine = make_engine()
    train(engine, 0, 3)
    engine.checkpoints.save(Folder(str(tmp_path)), {"step": 3})
    expected = train(engine, 3, 6)
    engine.close()
    again = make_engine()
    train(again, 0, 1)  # whatever it did before is gone
    assert again.checkpoints.restore(Folder(str(tmp_path))) == {"step": 3}
    assert train(again, 3, 6) == expected
    again.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_zero_stage_continues_a_checkpoint(tmp_path, precision):
    stages = (0, 3, 2, 1, 0)
    engine = make_engine(zero=stages[0], precision=precision)
    found = train(engine, 0, 2)
    for hop, zero in enumerate(stages[1:], start=1):
        engine.checkpoints.save(Folder(str(tmp_path / str(hop))), {})
        weights = {name: engine.adapter.get_whole(parameter).clone() for name, parameter in engine.adapter.parameters()}
        engine.close()
        engine = make_engine(zero=zero, precision=precision)
        engine.checkpoints.restore(Folder(str(tmp_path / str(hop))))
        assert all(
            torch.equal(engine.adapter.get_whole(parameter), weights[name])
            for name, parameter in engine.adapter.parameters()
        )
        found += train(engine, 2 * hop, 2 * hop + 2)
    engine.close()
    straight = make_engine(zero=1, precision=precision)
    expected = train(straight, 0, 2 * len(stages))
    straight.close()
    assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 5e-3)


def test_making_the_optimizer_s_state_changes_no_weight():
    for zero in (0, 1, 3):
        engine = make_engine(zero=zero)
        before = {name: engine.adapter.get_whole(parameter).clone() for name, parameter in engine.adapter.parameters()}
        engine.adapter._create_moments()
        assert all(
            torch.equal(engine.adapter.get_whole(parameter), before[name])
            for name, parameter in engine.adapter.parameters()
        )
        engine.close()


def test_a_damaged_checkpoint_is_refused_before_anything_changes(tmp_path):
    folder = Folder(str(tmp_path))
    engine = make_engine()
    train(engine, 0, 2)
    engine.checkpoints.save(folder, {})
    (shard,) = [name for name in folder.list() if name.endswith(".safetensors")]
    data = bytearray((tmp_path / shard).read_bytes())
    data[-5] ^= 1
    (tmp_path / shard).write_bytes(data)
    other, straight = make_engine(), make_engine()
    with pytest.raises(DamagedCheckpoint, match=r"shard-00000.*marker"):
        other.checkpoints.restore(folder)
    assert train(other, 0, 2) == train(straight, 0, 2)
    for made in (engine, other, straight):
        made.close()


def test_a_full_disk_is_said_and_leaves_the_checkpoint_incomplete(tmp_path, monkeypatch):
    engine = make_engine()
    train(engine, 0, 1)
    engine.checkpoints.save(Folder(str(tmp_path / "before")), {"step": 1})

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_files, "save_file", full)
        with pytest.raises(TrainingError, match=r"no space left.*before it stay usable"):
            engine.checkpoints.save(Folder(str(tmp_path / "now")), {"step": 2})
    assert not (tmp_path / "now" / engines.COMPLETE).exists()
    assert engine.checkpoints.restore(Folder(str(tmp_path / "before"))) == {"step": 1}
    engine.close()


@pytest.mark.parametrize(
    ("zero", "precision"),
    [(1, "fp32"), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((3, "fp32"), (2, "bf16")))],
)
def test_an_exported_model_loads_and_has_the_same_loss(tmp_path, zero, precision):
    from transformers import AutoModelForCausalLM

    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    engine = make_engine(zero=zero, precision=precision)
    train(engine, 0, 3)
    directory = tmp_path / f"{zero}{precision}"
    engine.export(directory, engine.whole_weights(), Folder(str(tokenizer)))
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


# ------------------------------------------------------------------------------------- steps that change nothing


def nan_batch(step: int, micro_batch: int = ROWS):
    """A batch whose last micro batch has a token without a weight."""
    batch = make_batch(step, micro_batch)
    for part in batch.micro_batches[:-1]:
        part["tokens"].clamp_(max=VOCAB - 2)
    batch.micro_batches[-1]["tokens"][-1, -1] = VOCAB - 1
    return batch


def state_of(engine: Engine) -> dict[str, torch.Tensor]:
    engine.adapter.prepare_moments()
    kinds = ("weight", "exp_avg", "exp_avg_sq")
    return {
        f"{kind}/{name}": engine.adapter.get_whole(parameter, kind).clone()
        for name, parameter in engine.adapter.parameters()
        for kind in kinds
    }


@pytest.mark.parametrize(
    ("zero", "precision"),
    [
        (1, "fp32"),
        *(
            pytest.param(zero, precision, marks=pytest.mark.slow)
            for zero, precision in (
                *((0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (2, "bf16"), (3, "fp32"), (3, "bf16")),
            )
        ),
    ],
)
def test_a_step_whose_loss_is_not_finite_changes_neither_weights_nor_moments(zero, precision, monkeypatch):
    engine, other = (make_engine(zero=zero, precision=precision, micro_batch=2) for _ in range(2))
    train(engine, 0, 2, micro_batch=2)
    train(other, 0, 2, micro_batch=2)
    before = state_of(engine)
    real = loss.TrainedModel.forward

    def broken(model, tokens, labels):
        total, per_row = real(model, tokens, labels)
        return (total * float("nan"), per_row * float("nan")) if tokens[-1, -1] == VOCAB - 1 else (total, per_row)

    monkeypatch.setattr(loss.TrainedModel, "forward", broken)
    result = engine.train_step(nan_batch(2, 2), 2)
    monkeypatch.undo()
    assert (result.applied, result.finite) == (False, False)
    assert all(torch.equal(before[name], value) for name, value in state_of(engine).items())
    assert train(engine, 2, 5, micro_batch=2) == train(other, 2, 5, micro_batch=2)
    engine.close()
    other.close()


@pytest.mark.parametrize("zero", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_measuring_a_batch_gives_its_loss_and_changes_nothing(zero):
    engine, other = make_engine(zero=zero), make_engine(zero=zero)
    sums, counts = engine.evaluate(make_batch(0))
    result = engine.train_step(make_batch(0), 0)
    other.train_step(make_batch(0), 0)
    assert sums == pytest.approx(result.loss_sums, rel=1e-6)
    assert counts.tolist() == result.loss_tokens.tolist()
    engine.evaluate(make_batch(7))
    assert train(engine, 1, 4) == train(other, 1, 4)
    engine.close()
    other.close()


# ------------------------------------------------------------------------------------------------- how it runs


def engine_with(zero=1, stage=None, **deepspeed) -> Engine:
    engines.init_process(World())
    scaling = Scaling(deepspeed=DeepSpeed(zero=zero, **deepspeed))
    settings = stage or make_stage()
    model = models.build(SMALL, VOCAB, seed=0, attention=settings.numerics.attention)
    return Engine.create(model, settings, scaling, World(), num_sources=2, num_micro_batches=1, seed=0)


@pytest.mark.parametrize("zero", [1, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 2, 3))])
def test_activations_computed_again_give_the_same_bits(zero):
    plain, again = engine_with(zero), engine_with(zero, activation_checkpointing=True)
    assert again.adapter.hf_model.base_model.layers[0].gradient_checkpointing
    assert train(again, 0, 4) == train(plain, 0, 4)
    plain.close()
    again.close()


@pytest.mark.parametrize(
    ("zero", "offload"),
    [
        (1, "offload_optimizer"),
        *(
            pytest.param(zero, offload, marks=pytest.mark.slow)
            for zero, offload in ((2, "offload_optimizer"), (3, "offload_optimizer"), (3, "offload_param"))
        ),
    ],
)
def test_what_is_kept_in_host_memory_trains_and_is_saved_alike(tmp_path, zero, offload):
    settings = {"zero_optimization": {"stage": zero, offload: {"device": "cpu"}}}
    engine, plain = engine_with(zero, make_stage(deepspeed_config=settings)), engine_with(zero)
    assert train(engine, 0, 3) == pytest.approx(train(plain, 0, 3), rel=1e-5)
    engine.checkpoints.save(Folder(str(tmp_path)), {})
    expected = train(engine, 3, 5)
    engine.close()
    plain.checkpoints.restore(Folder(str(tmp_path)))
    assert train(plain, 3, 5) == pytest.approx(expected, rel=1e-5)
    plain.close()


@pytest.mark.parametrize("attention", [pytest.param("eager", marks=pytest.mark.slow), "sdpa"])
def test_attention_is_what_was_asked_for_and_gives_the_same_loss(attention):
    engine, plain = engine_with(stage=make_stage(attention=attention)), engine_with()
    assert engine.adapter.hf_model.config._attn_implementation == attention
    assert train(engine, 0, 3) == pytest.approx(train(plain, 0, 3), rel=1e-5)
    engine.close()
    plain.close()


@pytest.mark.parametrize(
    ("stage", "settings", "found"),
    [
        ({"attention": "flash_attention_2", "precision": "bf16"}, {}, "needs a GPU, or use sdpa"),
        ({}, {"compile": True, "zero": 3}, "zero 2"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_with_what_it_can(stage, settings, found):
    with pytest.raises(UserError, match=found):
        require_execution(make_stage(**stage), Scaling(deepspeed=DeepSpeed(**settings)), World())


def test_flash_attention_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flash-attn cannot be imported"):
        require_execution(
            make_stage(attention="flash_attention_2", precision="bf16"), Scaling(), World(device="cuda:0")
        )
    with pytest.raises(UserError, match=r"no fp32"):
        require_execution(make_stage(attention="flash_attention_2"), Scaling(), World(device="cuda:0"))


@pytest.mark.slow
def test_compiled_blocks_train_alike(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no processes that would import torch again
    monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", True)  # no programs that try the compiler
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    engine, plain = engine_with(compile=True), engine_with()
    assert train(engine, 0, 4) == pytest.approx(train(plain, 0, 4), rel=1e-4)
    num_compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert num_compiled == 2, "the loss, and the first block, whose code the second one takes"
    engine.close()
    plain.close()


def test_determinism_is_switched_for_each_stage():
    engine_with(deterministic=True).close()
    assert torch.are_deterministic_algorithms_enabled()
    engine_with().close()
    assert not torch.are_deterministic_algorithms_enabled()


# ---------------------------------------------------------------------------------------- devices and memory


def test_the_peak_of_a_known_device_is_from_the_table_and_any_other_is_measured():
    assert devices.listed_peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert devices.listed_peak_flops("NVIDIA H100 PCIe", "fp16") == 756e12
    assert devices.listed_peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert devices.listed_peak_flops("NVIDIA L40S", "bf16") == 362e12
    assert devices.listed_peak_flops("A device of next year", "bf16") is None
    assert 1e8 < engines.peak_flops("cpu", "fp32") < 1e14


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
def test_the_largest_size_that_fits_is_found_in_few_tries(most):
    for limit in range(most + 3):
        asked: list[int] = []

        def fits(rows: int, limit=limit, asked=asked) -> bool:
            asked.append(rows)
            return rows <= limit

        assert micro_batch.largest_that_fits(fits, most) == min(limit, most)
        assert len(asked) == len(set(asked)) <= 2 * most.bit_length() + 1 and max(asked) <= most


def test_workers_that_share_a_gpu_share_its_memory():
    shares = [devices.device_share(gpus) for gpus in (0, 0.25, 1, 2)]
    assert shares == [1.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(("rows", "most", "even"), [(28, 32, 16), (32, 32, 32), (1, 7, 1), (3, 7, 3), (5, 16, 4)])
def test_passes_are_made_even(rows, most, even):
    assert micro_batch.even_passes(rows, most) == even and -(-most // even) == -(-most // rows)


def test_what_a_forward_pass_keeps_grows_with_its_rows_and_is_less_when_computed_again():
    def kept(**settings):
        model = models.build(SMALL, VOCAB, seed=0)
        return micro_batch.bytes_kept(model, make_stage(), Scaling(deepspeed=DeepSpeed(**settings)))

    per_row, besides = kept()
    assert LENGTH * 16 * 4 < per_row < LENGTH * 16 * 4 * 200
    assert besides > 16 * sum(p.numel() for p in models.build(SMALL, VOCAB, seed=0).parameters())
    assert kept(activation_checkpointing=True)[0] < per_row


def test_trials_on_a_device_leave_off_where_memory_would_overflow(monkeypatch):
    """The arithmetic of the tries, with a device that is made up: 10 bytes, and 7 more per row, of 100."""
    tried: list[int] = []

    class Tried:
        def try_rows(self, rows: int) -> None:
            tried.append(rows)
            if 10 + 7 * rows > 100:
                raise devices.OutOfMemory("CUDA out of memory")

        def close(self) -> None:
            pass

    monkeypatch.setattr(micro_batch.Engine, "create", lambda *_, **__: Tried())
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 10 + 7 * tried[-1])
    trials = micro_batch._Trials(lambda: None, make_stage(), Scaling(), World())
    trials.total = 100
    assert micro_batch.largest_that_fits(trials.fits, 64) == 11  # 87 of the 92 that may be filled
    assert max(tried) == 11  # more was foreseen, and not tried


def test_a_gpu_without_memory_is_told_what_would_help(monkeypatch):
    with pytest.raises(engines.OutOfMemory) as told, devices.explained_out_of_memory(World(device="cuda:0"), 8):
        raise torch.OutOfMemoryError("Tried to allocate 20 GiB")
    for part in ("CUDA out of memory", "micro_batch: 4", "activation_checkpointing", "offload", "20 GiB"):
        assert part in str(told.value)


# --------------------------------------------------------------------- saving beside the training, means, moments


def test_a_checkpoint_written_beside_the_training_is_of_the_step_it_was_asked_at(tmp_path):
    engine = make_engine()
    train(engine, 0, 2)
    engine.checkpoints.save(Folder(str(tmp_path / "here")), {"step": 2})
    engine.checkpoints.save(Folder(str(tmp_path / "beside")), {"step": 2}, in_background=True)
    train(engine, 2, 4)
    assert not (tmp_path / "beside" / engines.COMPLETE).exists()
    assert engine.checkpoints.finish() == Folder(str(tmp_path / "beside"))
    for name in os.listdir(tmp_path / "here"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "beside" / name).read_bytes()
    assert engine.checkpoints.finish() is None
    engine.close()


def test_a_write_that_fails_beside_the_training_is_raised_where_it_is_finished(tmp_path, monkeypatch):
    engine = make_engine()
    train(engine, 0, 1)

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_files, "save_file", full)
    engine.checkpoints.save(Folder(str(tmp_path)), {}, in_background=True)
    with pytest.raises(TrainingError, match=r"no space left.*before it stay usable"):
        engine.checkpoints.finish()
    assert not (tmp_path / engines.COMPLETE).exists()
    engine.close()


@pytest.mark.parametrize("zero", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_the_exported_model_is_the_mean_of_the_weights_taken_across_a_restart(tmp_path, zero):
    from safetensors.torch import load_file

    engine, taken = make_engine(zero=zero), []
    for step in range(4):
        train(engine, step, step + 1)
        engine.average.add()
        taken.append(
            {name: engine.adapter.get_whole(parameter).clone() for name, parameter in engine.adapter.parameters()}
        )
        if step == 1:
            engine.checkpoints.save(Folder(str(tmp_path / "checkpoint")), {})
            engine.close()
            engine = make_engine(zero=zero)
            engine.checkpoints.restore(Folder(str(tmp_path / "checkpoint")))
    engine.export(tmp_path / "model", engine.whole_weights())
    engine.close()
    found = load_file(tmp_path / "model" / "model.safetensors")
    for name in taken[0]:
        if name in found:
            torch.testing.assert_close(found[name], torch.stack([weights[name] for weights in taken]).mean(dim=0))


@pytest.mark.parametrize("zero", [1, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 3))])
def test_a_stage_that_takes_over_the_optimizer_goes_on_as_if_it_were_the_same_stage(tmp_path, zero):
    engine = make_engine(zero=zero)
    train(engine, 0, 3)
    engine.checkpoints.save_optimizer(Folder(str(tmp_path / "optimizer")))
    engine.export(tmp_path / "model", engine.whole_weights())
    expected = train(engine, 3, 6)
    engine.close()
    child, fresh = (make_engine(zero=zero, model=Model(pretrained=str(tmp_path / "model"))) for _ in range(2))
    child.checkpoints.load_optimizer(Folder(str(tmp_path / "optimizer")))
    assert train(child, 3, 6) == pytest.approx(expected, rel=1e-6)
    assert train(fresh, 3, 6) != pytest.approx(expected, rel=1e-6)
    child.close()
    fresh.close()
