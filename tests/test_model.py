from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raycodellm import model
from raycodellm.config import MODEL_PRESETS, Model, UserError
from raycodellm.files import Folder
from raycodellm.model import presets

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def test_every_preset_of_the_sweep_file_has_a_shape():
    assert set(model.PRESETS) == set(MODEL_PRESETS)


@pytest.mark.parametrize(
    ("preset", "vocab_size", "size"),
    [
        ("tiny", 4096, 0.5e6),
        ("mini", 4096, 1.6e6),
        ("midi", 4096, 4.1e6),
        ("nano", 4096, 10e6),
        ("small", 50_257, 125e6),
        ("470m", 256_000, 470e6),
        ("2.8b", 256_000, 2.8e9),
    ],
)
def test_a_preset_has_the_size_of_its_name(preset, vocab_size, size):
    assert model.num_parameters(Model(preset=preset), vocab_size) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize("preset", MODEL_PRESETS)
def test_the_arithmetic_count_of_a_preset_is_that_of_the_real_model(preset):
    settings = Model(preset=preset)
    real = sum(parameter.numel() for parameter in model.on_meta(settings, 1000).parameters())
    assert model.num_parameters(settings, 1000) == real


def test_the_table_of_presets_says_what_is_counted():
    rows = [line.strip("| ").split(" | ") for line in presets.__doc__.splitlines() if line.startswith("| ")][1:]
    assert {row[0] for row in rows} == set(MODEL_PRESETS)
    units = {"M": 1e6, "G": 1e9}
    for name, *numbers in rows:
        vocab_size, length = (int(number.replace(",", "")) for number in (numbers[0], numbers[3]))
        parameters, flops = (float(text.split()[0]) * units[text.split()[1]] for text in numbers[1:3])
        settings = Model(preset=name)
        assert model.num_parameters(settings, vocab_size) == pytest.approx(parameters, rel=5e-3)
        assert model.flops_per_token(settings, vocab_size, length) == pytest.approx(flops, rel=5e-3)
        assert model.flops_per_token_of(model.on_meta(settings, vocab_size), length) == model.flops_per_token(
            settings, vocab_size, length
        )


@pytest.mark.parametrize("preset", ["470m", "2.8b"])
def test_the_paper_s_sizes_have_parallel_blocks_without_biases(preset):
    made = model.on_meta(Model(preset=preset), 256_000)
    assert type(made).__name__ == "CohereForCausalLM" and made.logit_scale == 1.0
    block = dict(made.named_modules())["model.layers.0"]
    assert not any(name.endswith("bias") for name, _ in made.named_parameters())
    assert hasattr(block, "input_layernorm") and not hasattr(block, "post_attention_layernorm")
    assert made.get_input_embeddings().weight is made.get_output_embeddings().weight


def test_flops_per_token_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    settings, length = Model(preset="tiny"), 64
    made = model.build(settings, 512, seed=0)
    made.set_attn_implementation("eager")  # the counter does not know the CPU's attention kernel
    tokens = torch.arange(4 * length).reshape(4, length) % 512
    counter = FlopCounterMode(display=False)
    with counter:
        made(input_ids=tokens, labels=tokens).loss.backward()
    counted = counter.get_total_flops() / tokens.numel()
    assert model.flops_per_token(settings, 512, length) == pytest.approx(counted, rel=0.05)


def test_a_configuration_counts_like_the_preset_of_its_shape():
    tiny = model.PRESETS["tiny"]
    shape = {
        "model_type": "llama",
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.feed_forward,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "tie_word_embeddings": True,
    }
    tied, untied = Model(config=shape), Model(config={**shape, "tie_word_embeddings": False})
    assert model.num_parameters(tied, 300) == model.num_parameters(Model(preset="tiny"), 300)
    assert model.num_parameters(untied, 300) == model.num_parameters(tied, 300) + 300 * tiny.hidden
    for settings in (tied, untied):  # an embedding that is only looked up multiplies nothing
        assert model.flops_per_token(settings, 300, 64) == model.flops_per_token(Model(preset="tiny"), 300, 64)


def test_new_weights_depend_on_the_seed_alone():
    import torch

    torch.manual_seed(5)
    first = model.build(Model(preset="tiny"), 300, seed=1).state_dict()
    before = torch.random.get_rng_state()
    again = model.build(Model(preset="tiny"), 300, seed=1).state_dict()
    other = model.build(Model(preset="tiny"), 300, seed=2).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_parent_goes_before_the_pretrained_model(tmp_path: Path):
    import torch

    parent = model.build(Model(config=LLAMA), 300, seed=3)
    parent.save_pretrained(tmp_path / "model")
    made = model.build(Model(pretrained="nowhere"), 300, seed=1, parent=Folder(str(tmp_path / "model")))
    assert torch.equal(made.lm_head.weight, parent.lm_head.weight)
    assert model.num_parameters(Model(pretrained=str(tmp_path / "model")), 300) == parent.num_parameters()
    assert model.context_length(Model(pretrained=str(tmp_path / "model")), 300) == 64


@pytest.mark.parametrize(
    ("settings", "found", "works"),
    [
        (Model(config={**LLAMA, "vocab_size": 200}), "200", "300"),
        (Model(config={"model_type": "nosuch"}), "nosuch", "model.config"),
        (Model(pretrained="/no/such/folder"), "/no/such/folder", "Hugging Face model folder"),
    ],
)
def test_a_model_that_cannot_work_is_refused_with_what_would(settings, found, works):
    with pytest.raises(UserError, match=found) as refused:
        model.model_config(settings, 300)
    assert works in str(refused.value)


def test_a_pretrained_model_with_too_few_embeddings_is_refused(tmp_path: Path):
    model.build(Model(config=LLAMA), 100, seed=0).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"100 embeddings.*300.*own tokenizer"):
        model.build(Model(pretrained=str(tmp_path)), 300, seed=0)


def test_asking_about_a_preset_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from raycodellm import model; from raycodellm.config import Model; m = Model(preset='tiny');"
        "model.num_parameters(m, 300), model.flops_per_token(m, 300, 64), model.context_length(m, 300);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
