"""The four identities, each a hash of the settings that `settings_table` lists for it. Pure functions of plain values.

    tokenizer ──▶ token store ──▶ stage ──▶ the next stage ──▶ evaluation

Each identity contains the identities to its left, so a change reaches everything made from the changed part. Settings
enter with their default values too: a default that changes in a later release gives new identities, and no existing
result gets another meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Evaluation, Stage, TrainTokenizer
from raycodellm.files import fingerprint

NOT_AS_WRITTEN: Any = {
    "name": True,
    "enabled": True,  # a stage that is skipped has no identity
    # The mixture enters as its compiled schedule, so that two spellings of one mixture are one stage.
    **dict.fromkeys(("code_ratio", "schedule", "within", "weights", "phases", "interpolation", "sources"), True),
    # These two enter as numbers of steps.
    "tokens": True,
    "averaging": True,
    "held_out": True,  # enters as the sequences that are left out and measured
    "learning_rate": {"warmup_steps"},  # enters only where it is given, so that stages without it keep their identities
    "numerics": {"deepspeed_config"},  # enters without the keys that only place or time the computation
    "faults": {"loss_limit"},  # decides whether a stage fails; a stage that did not fail has the same weights
}
"""Settings of a stage that do not enter its identity as they are written."""

BY_CONTENT = {"suites", "tasks", "leave_out", "include", "data", "texts", "judge"}
"""Settings of an evaluation that say which tasks are asked and where they lie: they enter as the tasks' contents."""
OF_CODE_TASKS = {"samples", "temperature"}
"""Settings of an evaluation that enter with the content of the tasks that run the model's code."""
SELECTING = {"scoring", "rationale", "decoding"}
"""Settings of an evaluation that choose among a suite's tasks: the chosen tasks enter by content."""
ROUNDING_ONLY = {"batch_size"}
"""Settings of an evaluation that change log-likelihoods by rounding alone, as the number of threads does."""

NOT_AS_SETTINGS = BY_CONTENT | SELECTING | OF_CODE_TASKS | ROUNDING_ONLY
"""Settings that a task's identity does not hold as they are written."""

_ZERO_PLACEMENT = (
    *("stage", "offload_param", "offload_optimizer", "cpu_offload", "sub_group_size", "reduce_scatter"),
    *("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size", "allgather_partitions"),
    *("overlap_comm", "contiguous_gradients", "round_robin_gradients", "stage3_param_persistence_threshold"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save"),
)
PLACEMENT_ONLY = frozenset(
    (
        *("steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "flops_profiler"),
        *("comms_logger", "tensorboard", "wandb", "comet", "csv_monitor", "monitor_config", "aio", "checkpoint"),
        *("activation_checkpointing", "zero_force_ds_cpu_optimizer", "zero_allow_untested_optimizer"),
        # A sweep file may repeat these four, but only with the value that the stage's own settings give.
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        *(f"zero_optimization.{key}" for key in _ZERO_PLACEMENT),
    )
)
"""Keys of DeepSpeed's configuration that decide where, when or in what pieces something is computed and kept:
offloading, buckets, overlap, profiles. Like ZeRO's stage they change sums by rounding alone. All other keys enter a
stage's identity, unknown keys included."""


@dataclass(frozen=True)
class UsedSource:
    """One source as it enters a stage's identity."""

    token_store: str
    """Identity of its token store."""
    drawn_tokens: int
    """Tokens that the stages before drew from the source."""
    weights: Sequence[float]
    """Weight at each of the schedule's knots."""
    drawn: Mapping[str, Any]
    """How the stage draws from the source: name, kind, sequences in an epoch, held-out tokens, and so on; not its
    location."""


def tokenizer_identity(
    train: TrainTokenizer | None, content: Any, sources: Iterable[str], seed: int, version: int
) -> str:
    """Hashes, for a trained tokenizer, its settings, all sources' fingerprints, the seed and the trainer's version; for
    a pretrained one its `content`."""
    if train is not None:
        return fingerprint([version, train.model_dump(mode="json"), sorted(sources), seed])
    return fingerprint(["pretrained", content])


def token_store_identity(
    kind: str, source: str, tokenizer: str, seed: int, cleaning: Any, versions: Sequence[int]
) -> str:
    """`source`: fingerprint of the source's files and of how they are read. `cleaning`: None for no cleaning.
    `versions`: of the formats and steps that make a store."""
    parts = [*versions, kind, source, tokenizer, seed]
    return fingerprint(parts if cleaning is None else [*parts, cleaning])


def root_identity(model: Any, tokenizer: str, seed: int, recipe: int) -> str:
    """The parent of a first stage. `model`: a preset's shape, a configuration, or a pretrained model's content."""
    return fingerprint([model, tokenizer, recipe, seed])


def stage_identity(
    stage: Stage,
    sources: Sequence[UsedSource],
    progress: Sequence[float],
    interpolation: str,
    compiled: bool,
    parent: str,
) -> str:
    """Hash of all that determines a stage's weights and measurements. `sources`: those that give tokens; a source
    that gives none only adds its name to the ledger.
    `progress`, `interpolation`: the knots of the schedule and how weights move between them. `compiled`: whether
    `torch.compile` fuses the stage's operations, which in fp32 changes rounding alone. `parent`: identity of the parent
    stage, or the root identity."""
    settings = stage.model_dump(mode="json", exclude=NOT_AS_WRITTEN)
    if stage.learning_rate.warmup_steps is not None:
        settings["learning_rate"]["warmup_steps"] = stage.learning_rate.warmup_steps
    return fingerprint(
        {
            "parent": parent,
            "settings": settings,
            "num_steps": stage.num_steps,
            "averaged_steps": sorted(stage.averaged_steps),
            "deepspeed_config": numeric_settings(stage.numerics.deepspeed_config),
            "sources": [vars(source) for source in sources],
            "progress": list(progress),
            "interpolation": interpolation,
            "compiled": compiled_numbers(stage, compiled),
        }
    )


def trunk_identity(
    stage: Stage, rate: tuple[float, float], mixture: Any, names: Sequence[str], compiled: bool, parent: str
) -> str:
    """Identity of the constant-rate trunk that the stage's first steps are part of: all that determines its state after
    one of these steps, and what it measures until then.

    `rate`: the peak and the steps of the warm-up. `mixture`: the sources that give tokens, with the weights, and all
    else on which the order of sequences depends. `names`: of all sources of the stage, in their order, by which it
    counts. The rest as for `stage_identity`, which does not contain this identity.
    """
    settings = stage.model_dump(mode="json", exclude={**NOT_AS_WRITTEN, "learning_rate": True})
    return fingerprint(
        {
            "trunk_of": parent,
            "settings": settings,
            "rate": list(rate),
            "mixture": mixture,
            "names": list(names),
            "held_out": None if stage.held_out is None else stage.held_out.model_dump(mode="json"),
            "loss_limit": stage.faults.loss_limit,
            "deepspeed_config": numeric_settings(stage.numerics.deepspeed_config),
            "compiled": compiled_numbers(stage, compiled),
        }
    )


def compiled_numbers(stage: Stage, compiled: bool) -> bool:
    """True if compiling the stage changes its numbers by more than rounding."""
    return compiled and stage.numerics.precision != "fp32"


def given_model_identity(content: Any) -> str:
    """Identity of a model that a sweep without stages evaluates as it is, by its `content`, tokenizer included."""
    return fingerprint(["given", content])


def task_identity(model: Any, evaluation: Evaluation, content: Any, lm_eval: str, version: int) -> str:
    """Identity of one task's scores. `model`: identity of the evaluated model's stage, or a model's content. `content`:
    of the task. `lm_eval`: its version. A setting at its default is left out, so that a setting that a later version
    adds leaves the scores that are there as they are."""
    settings = evaluation.model_dump(mode="json", exclude=NOT_AS_SETTINGS, exclude_defaults=True)
    return fingerprint([model, settings, content, lm_eval, version])


def evaluation_identity(evaluation: Evaluation, tasks: Mapping[str, Sequence[str]]) -> str:
    """`tasks`: each task or group that the settings ask for, in their order -> the identities of the tasks that it
    stands for."""
    settings = evaluation.model_dump(mode="json", exclude=BY_CONTENT | ROUNDING_ONLY)
    return fingerprint([settings, [[name, *identities] for name, identities in tasks.items()]])


def numeric_settings(deepspeed_config: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """DeepSpeed's configuration without the keys of PLACEMENT_ONLY. `place`: dotted path of this part, with a dot
    at its end."""
    numeric = {}
    for key, value in deepspeed_config.items():
        if f"{place}{key}" in PLACEMENT_ONLY:
            continue
        value = numeric_settings(value, f"{place}{key}.") if isinstance(value, Mapping) else value
        if value != {}:
            numeric[str(key)] = value
    return numeric
