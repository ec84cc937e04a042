"""The models: presets, any transformers configuration, or a pretrained folder.

| preset | vocabulary | parameters | training FLOPs per token | at sequence length |
|---|---|---|---|---|
| tiny | 4,096 | 0.476 M | 3.25 M | 128 |
| mini | 4,096 | 1.59 M | 10.5 M | 128 |
| midi | 4,096 | 4.14 M | 29.0 M | 256 |
| nano | 4,096 | 9.57 M | 65.3 M | 256 |
| small | 50,257 | 124 M | 968 M | 2,048 |
| 470m | 256,000 | 468 M | 4.42 G | 8,192 |
| 2.8b | 256,000 | 2.82 G | 24.0 G | 8,192 |

All presets have rotary positions, SwiGLU, no biases and tied embeddings. `tiny`, `mini`, `midi`, `nano` and `small` are
Llamas: RMSNorm, and attention before feed-forward. `tiny` to `nano` are a ladder for CPUs; with the vocabulary above,
the embedding has 55, 33, 19 and 11 % of their parameters. `470m` and `2.8b` are the shape class of Aryabumi et al.
(2024, "To Code, or Not To Code"): the paper's vocabulary of 256,000, and attention and feed-forward side by side after
one LayerNorm without bias, which is transformers' Cohere architecture. The paper does not give depth, width, heads, or
the scale of the logits. The presets have usual proportions (heads of 64 and 128, as many for keys as for queries,
feed-forward 2.6 to 2.75 times the width), chosen to meet the paper's two sizes. Their context is the paper's longest
sequence, 8,192, and their logits are not scaled.

torch and transformers take seconds to import, so `check` learns all it needs of a preset by arithmetic.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import Model, UserError
from raycodellm.files import Damaged, Folder
from raycodellm.identity import hub_commits, model_files

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


MOST_BLOCKS = 20_000
"""Most blocks of a model, each expert counted apart."""


@dataclass(frozen=True)
class Preset:
    """The shape of a preset."""

    hidden: int
    """Width of the residual stream."""
    layers: int
    heads: int
    feed_forward: int
    """Width inside the SwiGLU block."""
    context: int
    """Longest sequence, in tokens."""
    parallel: bool = False
    """Attention and feed-forward are side by side, after one norm."""

    def num_parameters(self, vocab_size: int) -> int:
        """Trained parameters; the tied embedding counts once."""
        norms = self.hidden if self.parallel else 2 * self.hidden
        block = 4 * self.hidden**2 + 3 * self.hidden * self.feed_forward + norms
        return vocab_size * self.hidden + self.layers * block + self.hidden


PRESETS: dict[str, Preset] = {
    # Measured on one core, sequences of 128, vocabulary 4096: 4 x 64 trains 15,000 tokens/s, 2 x 96 and 1 x 128 13,700.
    # On another core, tokens per CPU second: tiny 20,100, mini 7,500 (with 2 heads 7,700), midi 3,200 (with 3 heads as
    # many), nano 1,470.
    "tiny": Preset(hidden=64, layers=4, heads=2, feed_forward=192, context=512),
    "mini": Preset(hidden=128, layers=5, heads=4, feed_forward=384, context=512),
    "midi": Preset(hidden=192, layers=7, heads=6, feed_forward=576, context=1024),
    "nano": Preset(hidden=256, layers=10, heads=4, feed_forward=768, context=1024),
    "small": Preset(hidden=768, layers=12, heads=12, feed_forward=2048, context=2048),
    "470m": Preset(hidden=1024, layers=16, heads=16, feed_forward=2816, context=8192, parallel=True),
    "2.8b": Preset(hidden=2560, layers=28, heads=20, feed_forward=6656, context=8192, parallel=True),
}


def model_config(model: Model, vocab_size: int, eos_id: int = 0, pad_id: int = 0) -> PretrainedConfig:
    """The transformers configuration. Raises UserError for a configuration that does not fit the tokenizer."""
    if model.pretrained is not None:
        with _loadable(model.pretrained) as (path, pin):
            return _load_config(path, pin, f"model.pretrained {model.pretrained!r}", vocab_size)
    if model.config is not None:
        return _explicit_config(model.config, vocab_size, eos_id, pad_id)
    return _preset_config(PRESETS[str(model.preset)], vocab_size, eos_id, pad_id)


def _preset_config(preset: Preset, vocab_size: int, eos_id: int, pad_id: int) -> PretrainedConfig:
    from transformers import CohereConfig, LlamaConfig

    made, only = (CohereConfig, {"logit_scale": 1.0}) if preset.parallel else (LlamaConfig, {"mlp_bias": False})
    return made(
        vocab_size=vocab_size,
        hidden_size=preset.hidden,
        intermediate_size=preset.feed_forward,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=preset.context,
        tie_word_embeddings=True,
        attention_bias=False,
        **only,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )


def build(
    model: Model,
    vocab_size: int,
    seed: int,
    parent: Folder | None = None,
    eos_id: int = 0,
    pad_id: int = 0,
    attention: str = "sdpa",
) -> torch.nn.Module:
    """A causal language model in float32 on the CPU.

    New weights depend on `seed` alone, never on the device or the number of workers. `parent` is a finished stage's
    `model/` folder and takes precedence over `model.pretrained`. Raises UserError for an `attention` that the model
    does not have, and DamagedModel for a parent whose files have changed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    origin = parent.uri if parent is not None else model.pretrained
    if origin is not None:
        with _loadable(origin) as (path, pin):
            if parent is not None:
                require_undamaged(Path(path), parent)
            _load_config(path, pin, f"the model {origin!r}", vocab_size)
            settings = {"dtype": torch.float32, "attn_implementation": attention, **pin}
            with _attention_errors_explained(attention):
                return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **settings)
    config = model_config(model, vocab_size, eos_id, pad_id)
    with torch.random.fork_rng(devices=[]), _attention_errors_explained(attention):
        torch.manual_seed(seed)
        settings = {"dtype": torch.float32, "attn_implementation": attention}
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **settings)


@contextlib.contextmanager
def _attention_errors_explained(attention: str) -> Iterator[None]:
    """Turns transformers' refusal of an attention kernel into a UserError."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if "attention" not in str(error).lower():
            raise
        raise UserError(
            f"numerics.attention: found {attention}, which transformers refuses for this model "
            f"({str(error).splitlines()[0]}); use eager for this stage"
        ) from error


@contextlib.contextmanager
def sequences_are_whole() -> Iterator[None]:
    """Tells transformers that no row holds several packed sequences. Otherwise transformers looks for packed sequences
    in every forward pass, for which the host waits for the device."""
    from transformers import masking_utils

    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original


def preload() -> None:
    """Imports all that `build` needs, by building the smallest model; takes seconds the first time."""
    build(Model(preset="tiny"), vocab_size=512, seed=0)


def quiet_transformers() -> None:
    """Turns off transformers' progress bars, which would appear for every job of a slot."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def num_parameters(model: Model, vocab_size: int) -> int:
    """Number of trained parameters, found without making weights."""
    if model.preset is not None:
        return PRESETS[model.preset].num_parameters(vocab_size)
    return sum(parameter.numel() for parameter in _on_meta(model, vocab_size).parameters())


@dataclass(frozen=True)
class Shape:
    """The numbers that the memory of training depends on."""

    parameters: int
    layers: int
    hidden: int
    """Width of the residual stream."""
    feed_forward: int
    """Width inside a feed-forward block; 0 where unknown."""
    parallel: bool = False
    """Attention and feed-forward are side by side, after one norm."""


def shape(model: Model, vocab_size: int) -> Shape:
    """The shape of any model, found without making weights."""
    if model.preset is not None:
        preset = PRESETS[model.preset]
        parameters = preset.num_parameters(vocab_size)
        return Shape(parameters, preset.layers, preset.hidden, preset.feed_forward, preset.parallel)
    settings = model_config(model, vocab_size).get_text_config()
    width = getattr(settings, "hidden_size", 0)
    inner = getattr(settings, "intermediate_size", None) or getattr(settings, "n_inner", None) or 0
    # A mixture of experts may have a list of widths. Counting 0 makes the estimate of its memory low, never high.
    inner = inner if isinstance(inner, int) else 0
    return Shape(num_parameters(model, vocab_size), getattr(settings, "num_hidden_layers", 0), width, inner)


def flops_per_token(model: Model, vocab_size: int, sequence_length: int) -> float:
    """Training FLOPs per token: 6 N + 12 layers x hidden x sequence length (Chowdhery et al. 2022, "PaLM", appendix B).

    N counts the parameters that are multiplied: all but an embedding that is only looked up. A tied embedding is also
    the head and counts.
    """
    if model.preset is not None:
        preset = PRESETS[model.preset]
        return 6.0 * preset.num_parameters(vocab_size) + 12.0 * preset.layers * preset.hidden * sequence_length
    return flops_per_token_of(_on_meta(model, vocab_size), sequence_length)


def flops_per_token_of(built: torch.nn.Module, sequence_length: int) -> float:
    """`flops_per_token` of a built model."""
    parameters = sum(parameter.numel() for parameter in built.parameters())
    looked_up, head = built.get_input_embeddings().weight, built.get_output_embeddings().weight
    if looked_up is not head:
        parameters -= looked_up.numel()
    config = built.config.get_text_config()
    return 6.0 * parameters + 12.0 * config.num_hidden_layers * config.hidden_size * sequence_length


def context_length(model: Model, vocab_size: int) -> int | None:
    """Longest sequence that the model takes, in tokens; None when its configuration sets no bound."""
    if model.preset is not None:
        return PRESETS[model.preset].context
    return context_length_of(model_config(model, vocab_size))


def context_length_of(config: PretrainedConfig) -> int | None:
    """`context_length` by a transformers configuration."""
    bound = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(bound) if bound else None


def _explicit_config(settings: dict[str, Any], vocab_size: int, eos_id: int, pad_id: int) -> PretrainedConfig:
    from transformers import AutoConfig

    settings = dict(settings)
    given = settings.setdefault("vocab_size", vocab_size)
    if given < vocab_size:
        raise UserError(
            f"model.config.vocab_size: found {given}, but the tokenizer has {vocab_size} entries; "
            f"use {vocab_size} or leave it out"
        )
    ids = {"bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    model_type = settings.pop("model_type")
    try:
        return AutoConfig.for_model(model_type, **{**ids, **settings})
    except Exception as error:  # transformers validates with a dozen exception types, all about these settings
        raise UserError(f"model.config: transformers refuses it as {model_type!r}: {error}") from error


def _load_config(path: str, pin: dict[str, str], what: str, vocab_size: int) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **pin)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{what} brings Python code of its own, which raycodellm never runs; use a model whose architecture "
                "transformers has"
            ) from error
        raise UserError(f"{what} cannot be opened ({error}); give a Hugging Face model folder or a hub id") from error
    rows = config.get_text_config().vocab_size
    if rows < vocab_size:
        raise UserError(
            f"{what} has {rows} embeddings, but the tokenizer has {vocab_size} entries; "
            "use the model's own tokenizer (tokenizer: {pretrained: ...})"
        )
    return config


def _on_meta(model: Model, vocab_size: int) -> torch.nn.Module:
    """The model on torch's meta device: shapes without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(model, vocab_size)
    _check_blocks(config)
    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        built.tie_weights()
    except Exception as error:  # a dozen types: sizes that do not fit together, or no language model
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model: transformers cannot build it: {reason[:160]}; change model.config") from error
    return built


def _check_blocks(config: PretrainedConfig) -> None:
    """Raises UserError for more than MOST_BLOCKS blocks. Each block and each expert is a module; a million would take
    minutes to build."""
    settings = config.get_text_config()
    layers = getattr(settings, "num_hidden_layers", 0)
    experts = [getattr(settings, name, 1) for name in ("num_experts", "num_local_experts", "n_routed_experts")]
    numbers = [number for number in (layers, *experts) if isinstance(number, (int, float))]
    if math.prod(max(1, number) for number in numbers) > MOST_BLOCKS:
        raise UserError(f"model: has {layers:,} blocks; a model has at most {MOST_BLOCKS:,}, experts counted apart")


@contextlib.contextmanager
def _loadable(origin: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Arguments for transformers' `from_pretrained`: a local path, or a name on the hub and its revision. A remote
    folder is downloaded for the time of the context."""
    folder = hub_commits.folder_of(origin)
    if folder is None:
        yield hub_commits.loadable(origin)
    else:
        with folder.as_local() as path:
            yield str(path), {}


class DamagedModel(Damaged):
    """A stage's model is not as it was written. The message says which file, how it differs, and what to do."""


def require_undamaged(path: Path, model: Folder) -> None:
    """Raises DamagedModel where a file of a stage's model has changed since it was written. Reads each file once per
    node.

    `model`: the stage's folder `model/`. `path`: the local folder with that folder's files.
    """
    if damage := model_files.find_damage(path):
        stage = model.uri.rsplit("/", 1)[0]
        raise DamagedModel(f"{damage}; delete the folder {stage} and run again: that stage is trained once more")
