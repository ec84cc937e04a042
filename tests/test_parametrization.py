"""mup: a learning rate found at one width serves others, and what is written is an ordinary transformers model."""

from __future__ import annotations

import gc
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raycodellm import engine as engines
from raycodellm import identity, model
from raycodellm.config import DeepSpeed, Model, Scaling, Stage, UserError, parse
from raycodellm.engine import Engine, World
from raycodellm.engine.optimizer import make_optimizer, set_learning_rate
from raycodellm.files import Folder
from raycodellm.identity import Contents
from raycodellm.model import Preset
from raycodellm.stage_store.contents import model_content

LENGTH, ROWS, VOCAB = 8, 4, 64
STANDARD, MUP = Model(preset="tiny"), Model(preset="tiny", parametrization="mup")
WIDE = {False: Preset(128, 2, 2, 384, 64), True: Preset(128, 2, 2, 320, 64, parallel=True)}
"""Two small shapes, of a Llama and of a Cohere model, twice as wide as the base and with heads twice as wide."""


@pytest.fixture(scope="module", autouse=True)
def _quick_close():
    """`Engine.close` collects garbage: keep it from walking all that the imports made, 0.25 s each time."""
    model.build(STANDARD, VOCAB, seed=0)
    gc.collect()
    gc.freeze()  # for good: `unfreeze` would also give back what was frozen once all tests were collected


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch):
    """Gives the preset `tiny` another shape; the base stays as it is."""
    return lambda preset: monkeypatch.setitem(model.PRESETS, "tiny", preset)


def make_stage(peak: float = 0.01, **settings) -> Stage:
    rate = {"peak": peak, "schedule": "constant", "warmup": 0.0}
    sizes = {"tokens": 20 * ROWS * LENGTH, "sequence_length": LENGTH, "batch_tokens": ROWS * LENGTH}
    return Stage.model_validate({"name": "s", **sizes, "learning_rate": rate, "weights": {"a": 1.0}, **settings})


def make_engine(settings: Model, zero: int = 0, parent: Path | None = None, **stage) -> Engine:
    engines.init_process(World())
    made = model.build(settings, VOCAB, seed=0, parent=Folder(str(parent)) if parent else None)
    scaling = Scaling(deepspeed=DeepSpeed(zero=zero))
    return Engine.create(
        made,
        make_stage(**stage),
        scaling,
        World(),
        num_sources=1,
        num_micro_batches=1,
        seed=0,
        rate_factors=model.rate_factors(settings),
    )


def make_batch(step: int = 0):
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(step))
    return SimpleNamespace(micro_batches=[{"tokens": tokens, "labels": tokens}], source=np.zeros(ROWS, np.int16))


def train(engine: Engine, start: int, stop: int) -> list[float]:
    return [float(engine.train_step(make_batch(step), step).loss_sums.sum()) for step in range(start, stop)]


# ----------------------------------------------------------------------------------------------------- the settings


def test_the_standard_parametrization_keeps_the_identities_that_were_there_before_the_setting():
    known = {"tiny": "21659fba34df1b6c", "mini": "45434ae90742efdc", "470m": "18702a03310e1f04"}
    for preset, expected in known.items():
        content = model_content(Model(preset=preset), Contents())
        assert identity.root_identity(content, "tok", 0, 4) == expected
    other = model_content(MUP, Contents())
    assert identity.root_identity(other, "tok", 0, 4) != known["tiny"]


@pytest.mark.parametrize("given", ["pretrained: somewhere", "config: {model_type: llama}"])
def test_a_model_whose_growth_with_width_is_not_known_has_no_mup(sweep_text: str, given: str):
    with pytest.raises(UserError, match=r"model.*mup is known for presets only \(tiny, .*parametrization: standard"):
        parse(sweep_text, overrides=(f"model={{{given}, parametrization: mup}}",))


def test_check_says_at_what_share_of_the_rate_matrices_learn():
    from raycodellm.check.describe import _model_line

    def line(**settings: str) -> str:
        return _model_line(SimpleNamespace(model=Model(**settings)), 4096)

    assert line(preset="nano").endswith("context 1024 tokens")
    assert line(preset="nano", parametrization="mup").endswith("mup: matrices of the blocks learn at 0.25 of the rate")
    assert "at 0.0833 to 0.0938 of the rate" in line(preset="small", parametrization="mup")


# -------------------------------------------------------------------------------------------------------- the model


def test_at_the_base_width_mup_is_the_standard_parametrization_bit_for_bit():
    engines_of = [make_engine(settings, peak=0.02) for settings in (STANDARD, MUP)]
    losses = [train(engine, 0, 3) for engine in engines_of]
    assert losses[0] == losses[1]
    for engine in engines_of:
        engine.close()


@pytest.mark.parametrize("preset", ["mini", "midi", "nano", "small", "470m", "2.8b"])
def test_matrices_of_the_blocks_start_smaller_and_learn_slower_as_their_fan_in_grows(preset: str):
    shape, base = model.PRESETS[preset], model.PRESETS["tiny"]
    scales = model.scales(Model(preset=preset, parametrization="mup"))
    assert set(scales) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert scales["k_proj"].rate == base.hidden / shape.hidden
    assert scales["down_proj"].rate == base.feed_forward / shape.feed_forward
    assert all(scale.init == pytest.approx(scale.rate**0.5) for name, scale in scales.items() if name != "q_proj")
    assert model.scales(Model(preset=preset)) == {}


@pytest.mark.parametrize("parallel", [False, True])
def test_new_weights_are_the_standard_ones_scaled(shape, parallel: bool):
    shape(WIDE[parallel])
    standard, mup = (dict(model.build(settings, VOCAB, seed=3).named_parameters()) for settings in (STANDARD, MUP))
    scales = model.scales(MUP)
    for name, weight in standard.items():
        scale = scales.get(model.layer_of(name))
        torch.testing.assert_close(mup[name], weight * (scale.init if scale else 1.0))


@pytest.mark.parametrize("parallel", [False, True])
def test_logits_and_attention_scores_are_divided_by_the_width(shape, parallel: bool):
    shape(WIDE[parallel])
    tokens = make_batch().micro_batches[0]["tokens"]
    mup, plain = (model.build(settings, VOCAB, seed=0) for settings in (MUP, STANDARD))
    plain.load_state_dict(mup.state_dict())
    query = 0.5**0.5 if parallel else 1.0  # Cohere's query matrices hold the factor
    for block in plain.base_model.layers:
        block.self_attn.q_proj.weight.data.div_(query)
        assert block.self_attn.scaling == 64**-0.5
        block.self_attn.scaling = 32**0.5 / 64
    torch.testing.assert_close(mup(tokens).logits, plain(tokens).logits / 2)


# ------------------------------------------------------------------------------------------------------ the training


@pytest.mark.parametrize(
    ("zero", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (1, "bf16")]
)
def test_each_weight_moves_by_its_own_rate_under_every_zero_stage(shape, zero: int, precision: str):
    shape(WIDE[True])
    engine = make_engine(MUP, zero, peak=1e-3, optimizer={"weight_decay": 0.0}, numerics={"precision": precision})
    before = {name: value.clone() for name, value in engine.whole_weights().items()}
    engine.train_step(make_batch(), 0)
    factors = model.rate_factors(MUP)
    for name, value in engine.whole_weights().items():
        moved = (value - before[name]).abs().max().item()  # Adam's first step moves each entry by the rate
        assert moved == pytest.approx(1e-3 * factors.get(model.layer_of(name), 1.0), rel=1e-2), name
    engine.close()


def test_each_step_takes_the_same_share_off_all_weights_that_decay(shape):
    shape(WIDE[True])
    built, settings = model.build(MUP, VOCAB, seed=0), make_stage(optimizer={"weight_decay": 0.3})
    optimizer = make_optimizer(built, settings, model.rate_factors(MUP))
    set_learning_rate(optimizer, 0.01)
    shares = [group["lr"] * group["weight_decay"] for group in optimizer.param_groups]
    assert shares[:-1] == pytest.approx([0.003] * (len(shares) - 1)) and shares[-1] == 0.0
    assert len({group["lr"] for group in optimizer.param_groups[:-1]}) == 4  # queries, others, down, embedding
    standard = make_optimizer(built, settings, {})
    assert [group["weight_decay"] for group in standard.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_written_model_is_the_live_one_and_continues_with_its_optimizer(shape, tmp_path: Path, parallel: bool):
    from transformers import AutoModelForCausalLM

    shape(WIDE[parallel])
    engine = make_engine(MUP)
    train(engine, 0, 3)
    engine.checkpoints.save_optimizer(Folder(str(tmp_path / "optimizer")))
    engine.export(tmp_path / "model", engine.whole_weights())
    expected = train(engine, 3, 6)
    engine.close()
    part = make_batch(3).micro_batches[0]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loss = loaded(input_ids=part["tokens"], labels=part["labels"]).loss.item()
    assert loss * ROWS * (LENGTH - 1) == pytest.approx(expected[0], rel=1e-6)
    child = make_engine(MUP, parent=tmp_path / "model")
    child.checkpoints.load_optimizer(Folder(str(tmp_path / "optimizer")))
    assert train(child, 3, 6) == pytest.approx(expected, rel=1e-6)
    child.close()


# ------------------------------------------------------------------------------------------------ the coordinate test


def _growth(shape, settings: Model, parallel: bool) -> dict[str, float]:
    """How each size after four steps grows from width 64 to 512: the mean absolute output of each part, and the mean
    absolute change of the logits."""
    sizes: dict[str, list[float]] = {}
    tokens = make_batch().micro_batches[0]["tokens"]
    for width in (64, 128, 256, 512):
        shape(Preset(width, 2, max(2, width // 64), 3 * width, 64, parallel))
        built = model.build(settings, VOCAB, seed=0)
        optimizer = make_optimizer(built, make_stage(), model.rate_factors(settings))
        set_learning_rate(optimizer, 0.01)
        before = built(tokens).logits
        for _ in range(4):
            built(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            after = built(input_ids=tokens, output_hidden_states=True)
        for number, hidden in enumerate(after.hidden_states):
            sizes.setdefault(f"block {number}", []).append(hidden.abs().mean().item())
        sizes.setdefault("logits", []).append((after.logits - before).abs().mean().item())
    return {name: statistics.fmean(values[2:]) / statistics.fmean(values[:2]) for name, values in sizes.items()}


@pytest.mark.parametrize("parallel", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_under_mup_nothing_grows_with_the_width_and_under_the_standard_activations_and_logits_do(shape, parallel):
    """The coordinate test of Yang et al. 2022, appendix D.1."""
    mup, standard = (_growth(shape, settings, parallel) for settings in (MUP, STANDARD))
    assert max(mup.values()) < 1.15, mup
    assert standard["block 1"] > 3 and standard["logits"] > 1.4, standard
