"""The table of identities: which setting enters which identity, and why; one row for each leaf of the sweep file.

`tokenizer`, `token store`, `stage` and `evaluation` name the first identity that a leaf enters; the identities of all
results made from it change too. `nothing`: the leaf decides where, when or how often something is done, which trials
exist, or what is refused. A test changes every leaf in turn and compares with the table, so a new setting needs a row.

Identities hold more than leaves of the sweep file:

* a tokenizer's: the content of its files or its commit on the hub; the fingerprints of the sources it is trained on;
* a token store's: the content of the source's files (for large and remote files size and time), the tokenizer, the
  texts of the evaluation items that are removed from the source, and the format's version;
* a stage's: a pretrained model's weights by content or commit, a preset's shape, the seed, the parent stage, and
  RECIPE_VERSION;
* an evaluation's: of each task its scores' identity, which holds the last stage, the task's YAML files, Python modules
  and data by content, lm-eval's version, and EVALUATION_VERSION.

No identity holds workers, devices, storage, names of sweeps and trials, or the versions of torch, transformers and
DeepSpeed, which change rounding. A release that changes more than rounding raises RECIPE_VERSION.

Settings that only change rounding, such as the order of sums, are left out. Measured over 40 steps of a small model, as
a share of the weights:

| | fp32 | bf16 |
|---|---|---|
| two micro batches instead of one | 2e-7 | 1e-2 |
| ZeRO 0 instead of 1 | 7e-8 | 4e-4 |
| activations computed again | 0 | 0 |
| `compile` | 2e-7 | 2e-2 |
| bf16 instead of fp32 | | 2e-2 |

In 16 bits `compile` keeps float32 between the operations that it fuses, and changes as much as 16 bits themselves do.
So `compile` enters a stage's identity in 16 bits, and does not in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST = ("tokenizer", "token store", "stage", "evaluation")
"""The identities, each made from those before it."""


class Row(NamedTuple):
    first: str
    """The first identity that the leaf enters: one of FIRST, or `nothing`."""
    why: str


def _rows(first: str, why: str, place: str, keys: str) -> dict[str, Row]:
    """The rows of the leaves `keys`, with spaces between, of one place in the sweep file; empty for the whole file."""
    return {f"{place}.{key}".lstrip("."): Row(first, why) for key in keys.split()}


_CLEANING = (
    "min_characters max_characters script.* exact_duplicates licenses near_duplicates.enabled near_duplicates.jaccard "
    "near_duplicates.shingle near_duplicates.permutations paths.include paths.exclude decontaminate.enabled "
    "decontaminate.ngram"
)

LEAVES: dict[str, Row] = {
    # ---- the whole sweep
    **_rows("nothing", "names the run folder", "", "name"),
    **_rows("tokenizer", "draws the tokenizer's sample, orders every store, makes the first weights", "", "seed"),
    **_rows("stage", "is the model", "model", "preset config.* pretrained"),
    **_rows("stage", "decides first weights, learning rates and logits", "model", "parametrization"),
    **_rows("tokenizer", "is the tokenizer", "tokenizer", "train.vocab_size train.sample_bytes"),
    **_rows("tokenizer", "enters by the content of its files, or its commit", "tokenizer", "pretrained"),
    # ---- sources; a trained tokenizer reads all of them
    **_rows("tokenizer", "decides which documents are read", "sources.*", "path format languages"),
    **_rows("tokenizer", "decides which documents are read", "sources.*", "subset split text_field"),
    **_rows("tokenizer", "decides which documents are read", "sources.*", "limit_documents documents"),
    **_rows("tokenizer", "decides what is read of a notebook", "sources.*", "notebook_outputs"),
    **_rows("token store", "is stored with the tokens; decides the loss mask and the code ratio", "sources.*", "kind"),
    **_rows("token store", "decides which documents stay", "sources.*", "take.top take.bottom"),
    **_rows("token store", "decides which documents `take` keeps", "sources.*", "score_field"),
    **_rows("token store", "decides which documents `cleaning.licenses` keeps", "sources.*", "license_field"),
    **_rows("nothing", "only refuses; the epochs allowed follow from the stages' tokens", "sources.*", "max_epochs"),
    **_rows("token store", "decides which documents stay", "cleaning", _CLEANING),
    **_rows("token store", "decides which documents stay", "sources.*.cleaning", _CLEANING),
    # ---- stages
    **_rows("nothing", "names the stage's folder; a renamed stage is the same training", "stages.*", "name"),
    **_rows("stage", "a skipped stage is none of the trial's stages", "stages.*", "enabled"),
    **_rows("stage", "enters as whole steps", "stages.*", "tokens budget"),
    **_rows("stage", "is how the stage is trained", "stages.*", "sequence_length batch_tokens packing"),
    **_rows("stage", "is how the stage is trained", "stages.*", "responses_only faults.on_nan"),
    **_rows(
        "stage", "is how the stage is trained", "stages.*.learning_rate", "peak schedule warmup final decay boundary"
    ),
    **_rows("stage", "is how the stage is trained, where it is given", "stages.*.learning_rate", "warmup_steps"),
    **_rows(
        "stage", "is how the stage is trained", "stages.*.optimizer", "weight_decay betas epsilon gradient_clip state"
    ),
    **_rows(
        "stage",
        "enters as the compiled schedule: two spellings of a mixture are one stage",
        "stages.*",
        "sources code_ratio schedule within.* weights.* interpolation phases.*.share phases.*.weights.*",
    ),
    **_rows("stage", "enters as the steps that are averaged", "stages.*.averaging", "last every"),
    **_rows(
        "stage", "held-out text is not trained on, and its measurements are recorded", "stages.*", "held_out.tokens"
    ),
    **_rows("nothing", "how often is measured; the stage's end always is", "stages.*", "held_out.every_tokens"),
    **_rows(
        "nothing", "when a stage fails; a stage that did not fail has the same weights", "stages.*", "faults.loss_limit"
    ),
    **_rows("stage", "more than rounding: bf16 has 8 bits where fp32 has 24", "stages.*", "numerics.precision"),
    **_rows("stage", "another computation; in bf16 more than rounding", "stages.*", "numerics.attention"),
    **_rows("stage", "enters without the keys of PLACEMENT_ONLY", "stages.*", "numerics.deepspeed_config.*"),
    **_rows("stage", "decides how much of each source is used", "match_repetition", "target_tokens source_tokens.*"),
    # ---- evaluation
    **_rows("evaluation", "each task enters by its content", "evaluation", "suites tasks leave_out"),
    **_rows("evaluation", "enters as the content of the named tasks and of their data", "evaluation", "include data"),
    **_rows(
        "stage",
        "held-out text is not trained on; text of files enters as the task's content",
        "evaluation.texts",
        "prose code markup math code_adjacent synthetic_code",
    ),
    **_rows("evaluation", "text of files enters as the task's content", "evaluation.texts", "chinese"),
    **_rows(
        "evaluation",
        "decides which answers the model writes: enters as the content of the task open_instructions",
        "evaluation.judge",
        "prompts num_prompts answer_tokens",
    ),
    **_rows("nothing", "where, and how fast, the judge is asked", "evaluation.judge", "base_url key_variable"),
    **_rows(
        "nothing",
        "where, and how fast, the judge is asked",
        "evaluation.judge",
        "concurrency requests_per_minute timeout_seconds",
    ),
    **_rows("nothing", "enters the key of each of its judgements", "evaluation.judge", "model verdict_tokens"),
    **_rows("evaluation", "decides which items are asked, and how", "evaluation", "limit few_shot"),
    **_rows("evaluation", "decides which of a suite's tasks are asked", "evaluation", "scoring rationale decoding"),
    **_rows("evaluation", "decides which programs the model writes", "evaluation", "samples temperature"),
    **_rows("evaluation", "decides whether contaminated items are marked", "evaluation", "contamination"),
    **_rows("evaluation", "decides what writes answers: near ties and samples differ", "evaluation", "backend"),
    **_rows("nothing", "decides the padding: another rounding, as with other threads", "evaluation", "batch_size"),
    # ---- search
    **_rows("nothing", "which trials exist; a trial's settings are in its stages", "search", "trials sampler"),
    **_rows("nothing", "which trials exist; a trial's settings are in its stages", "search", "replicates enqueue"),
    **_rows("nothing", "which trials exist; a trial's settings are in its stages", "search", "reference.*"),
    **_rows("nothing", "which trials exist", "search", "warm_start"),
    **_rows("nothing", "which trials exist", "search.constraints.*", "metric mode within bound"),
    **_rows("nothing", "when a sweep stops; the trials that end are the same", "search", "max_failed"),
    **_rows("nothing", "which trials stop before their end", "search.early_stopping", "stage metric at keep"),
    **_rows("nothing", "which seeds are run, and what is said of them", "search.confirm", "best seeds margin.*"),
    **_rows("nothing", "which looks share which error", "search.confirm.begun", "looks trials metrics"),
    **_rows("nothing", "which trials exist; a trial's settings are in its stages", "search.objective", "metric mode"),
    **_rows("nothing", "which given models are compared; their scores stay", "search", "pairs"),
    # ---- ladder: the sweep file of each size has these in its model, tokens and rates, which enter there
    **_rows("nothing", "which sizes there are, each a sweep of its own", "ladder", "presets"),
    **_rows("nothing", "which arms the larger sizes have", "ladder", "carry"),
    **_rows("nothing", "enters each size as its stages' tokens", "ladder", "tokens_per_parameter"),
    **_rows("nothing", "enters each size as its stages' learning rates", "ladder", "learning_rate.*"),
    # ---- budget
    **_rows(
        "nothing",
        "when a sweep stops; the trials that end are the same",
        "budget",
        "tokens device_hours wall_hours money price_per_device_hour currency",
    ),
    # ---- scaling
    **_rows("nothing", "how many workers share the work; sums in another order", "scaling", "workers"),
    **_rows("nothing", "where the work is done", "scaling", "gpus_per_worker cpus_per_worker slots"),
    **_rows("nothing", "only what `check` reckons with; a run takes the GPUs that are there", "scaling", "device"),
    **_rows("nothing", "how state is spread over workers; sums in another order", "scaling.deepspeed", "zero"),
    **_rows("nothing", "how a batch is cut; other hardware may continue the stage", "scaling.deepspeed", "micro_batch"),
    **_rows("nothing", "computes the same again: equal bits", "scaling.deepspeed", "activation_checkpointing"),
    **_rows("stage", "in 16 bits keeps float32 between operations; left out in fp32", "scaling.deepspeed", "compile"),
    **_rows("nothing", "chooses among algorithms that differ in rounding", "scaling.deepspeed", "deterministic"),
    **_rows(
        "nothing",
        "when state is saved; a continued stage has the same weights",
        "scaling",
        "checkpoint_seconds checkpoint_tokens checkpoints_kept background_checkpoints",
    ),
    **_rows("nothing", "a number for the MFU", "scaling", "peak_tflops"),
    **_rows(
        "nothing", "who reads the same sequences, and from where", "scaling", "reader cache cache_gib cache_folder"
    ),
    **_rows("nothing", "who is told of the results", "tracking", "mlflow wandb tensorboard"),
    **_rows("nothing", "what is done about deaths of workers", "scaling", "fresh_workers max_failures max_preemptions"),
}
