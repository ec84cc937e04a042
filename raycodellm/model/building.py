"""Builds a model: with new weights, from a pretrained one, or from a finished stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.config import Model, UserError
from raycodellm.files import Damaged, Folder
from raycodellm.identity import model_files
from raycodellm.model.configuration import load_config, loadable, model_config
from raycodellm.model.parametrization import scale_new_weights

if TYPE_CHECKING:
    import torch


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
        with loadable(origin) as (path, pin):
            if parent is not None:
                require_undamaged(Path(path), parent)
            load_config(path, pin, f"the model {origin!r}", vocab_size)
            settings = {"dtype": torch.float32, "attn_implementation": attention, **pin}
            with _attention_errors_explained(attention):
                return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **settings)
    config = model_config(model, vocab_size, eos_id, pad_id)
    with torch.random.fork_rng(devices=[]), _attention_errors_explained(attention):
        torch.manual_seed(seed)
        settings = {"dtype": torch.float32, "attn_implementation": attention}
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **settings)
    scale_new_weights(built, model)
    return built


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
