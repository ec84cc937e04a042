"""The transformers configuration of any model of a sweep file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raycodellm.config import Model, UserError
from raycodellm.config.errors import nearest_place
from raycodellm.identity import hub_commits
from raycodellm.identity.load_errors import load_errors
from raycodellm.model.parametrization import multipliers
from raycodellm.model.presets import PRESETS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def model_config(model: Model, vocab_size: int, eos_id: int = 0, pad_id: int = 0) -> PretrainedConfig:
    """The transformers configuration. Raises UserError for a configuration that does not fit the tokenizer."""
    if model.pretrained is not None:
        with loadable(model.pretrained) as (path, pin):
            return load_config(path, pin, f"model.pretrained {model.pretrained!r}", vocab_size)
    if model.config is not None:
        return _explicit_config(model.config, vocab_size, eos_id, pad_id)
    return _preset_config(model, vocab_size, eos_id, pad_id)


def _preset_config(model: Model, vocab_size: int, eos_id: int, pad_id: int) -> PretrainedConfig:
    from transformers import CohereConfig, GraniteConfig, LlamaConfig

    preset, is_mup = PRESETS[str(model.preset)], model.parametrization == "mup"
    config_class, extra = (
        (CohereConfig, {"logit_scale": 1.0}) if preset.parallel else (LlamaConfig, {"mlp_bias": False})
    )
    if is_mup:
        config_class = CohereConfig if preset.parallel else GraniteConfig
        extra |= multipliers(preset)
    return config_class(
        vocab_size=vocab_size,
        hidden_size=preset.hidden,
        intermediate_size=preset.feed_forward,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=preset.context,
        tie_word_embeddings=True,
        attention_bias=False,
        **extra,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )


def context_length(model: Model, vocab_size: int) -> int | None:
    """Longest sequence that the model takes, in tokens; None when its configuration sets no bound."""
    if model.preset is not None:
        return PRESETS[model.preset].context
    return context_length_of(model_config(model, vocab_size))


def context_length_of(config: PretrainedConfig) -> int | None:
    """`context_length` by a transformers configuration."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(longest) if longest else None


def _explicit_config(settings: dict[str, Any], vocab_size: int, eos_id: int, pad_id: int) -> PretrainedConfig:
    from transformers import AutoConfig

    settings = dict(settings)
    num_entries = settings.setdefault("vocab_size", vocab_size)
    if num_entries < vocab_size:
        raise UserError(
            f"model.config.vocab_size: found {num_entries}, but the tokenizer has {vocab_size} entries; "
            f"use {vocab_size} or leave it out"
        )
    ids = {"bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    model_type = settings.pop("model_type")
    with load_errors("model.config", f"is refused by transformers as {model_type!r}", "change it"):
        return AutoConfig.for_model(model_type, **{**ids, **settings})


def load_config(path: str, pin: dict[str, str], label: str, vocab_size: int) -> PretrainedConfig:
    """The configuration of the model in a folder, or on the hub. `label`: how messages call it."""
    folder = hub_commits.folder_of(path)
    if folder is not None and folder.local is not None and not folder.local.is_dir():
        near = nearest_place(path)
        raise UserError(f"{label}: there is no such folder; give a Hugging Face model folder or a hub id; {near}")
    from transformers import AutoConfig

    with load_errors(label, "cannot be opened", "give a Hugging Face model folder or a hub id"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **pin)
    rows = config.get_text_config().vocab_size
    if rows < vocab_size:
        raise UserError(
            f"{label} has {rows} embeddings, but the tokenizer has {vocab_size} entries; "
            "use the model's own tokenizer (tokenizer: {pretrained: ...})"
        )
    return config


@contextlib.contextmanager
def loadable(origin: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Arguments for transformers' `from_pretrained`: a local path, or a name on the hub and its commit. A remote folder
    is downloaded for the time of the context. Raises UserError for a name whose commit nobody knows."""
    folder = hub_commits.folder_of(origin)
    if folder is None:
        name, commit = hub_commits.pinned("model.pretrained", origin)
        yield name, {"revision": commit}
    else:
        with folder.as_local() as path:
            yield str(path), {}
