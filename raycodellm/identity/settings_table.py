"""The table of identities: what is in which, what is in none, and why; one row for each leaf of the sweep file.

`tokenizer`, `token store`, `stage` and `evaluation` are where a leaf enters first; all that is made from that changes
too. `nothing`: the leaf decides where, when or how often something is done, which trials there are, or what is refused.
A test changes every leaf in turn and holds the table to it, so a new setting has no place until it is given one here.

Beside the leaves. In a tokenizer's identity: the content of its files or its commit on the hub, and the fingerprints of
the sources that it is trained on. In a token store's: the content (for large and remote files size and time) of the
source's files, the tokenizer, the texts of evaluation items that it is rid of, the format's version. In a stage's: a
pretrained model's weights by content or by commit, a preset's shape, the seed, the parent stage, and RECIPE_VERSION. In
an evaluation's: the last stage, each task's YAML files, Python modules and data by content, lm-eval's version, and
EVALUATION_VERSION. In none: workers, devices, storage, names of sweeps and trials, versions of torch, transformers and
DeepSpeed, which change rounding; a release that changes more raises RECIPE_VERSION.

What only rounds is out: sums in another order. Measured over 40 steps of a small model, as a share of the weights:

| | fp32 | bf16 |
|---|---|---|
| two micro batches instead of one | 2e-7 | 1e-2 |
| ZeRO 0 instead of 1 | 7e-8 | 4e-4 |
| activations computed again | 0 | 0 |
| `compile` | 2e-7 | 2e-2 |
| bf16 instead of fp32 | | 2e-2 |

In 16 bits `compile` keeps float32 between the operations that it fuses, and changes as much as 16 bits themselves do.
So it is out in fp32, and in where a stage's precision is another.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST = ("tokenizer", "token store", "stage", "evaluation")
"""The identities in the order in which one is made from another."""


class Row(NamedTuple):
    first: str
    """One of FIRST, or `nothing`."""
    why: str


def _rows(first: str, why: str, *paths: str) -> dict[str, Row]:
    return {path: Row(first, why) for path in paths}


LEAVES: dict[str, Row] = {
    # ---- the whole sweep
    **_rows("nothing", "names the run folder", "name"),
    **_rows("tokenizer", "draws the sample, orders every store, makes the first weights", "seed"),
    **_rows("stage", "is the model", "model.preset", "model.config.*", "model.pretrained"),
    **_rows("tokenizer", "is the tokenizer", "tokenizer.train.vocab_size", "tokenizer.train.sample_bytes"),
    **_rows("tokenizer", "by the content of its files, or its commit", "tokenizer.pretrained"),
    # ---- sources; a trained tokenizer reads all of them
    **_rows("tokenizer", "which documents are read", *(f"sources.*.{key}" for key in ("path", "format", "languages"))),
    **_rows(
        "tokenizer", "which documents are read", *(f"sources.*.{key}" for key in ("subset", "split", "text_field"))
    ),
    **_rows("tokenizer", "which documents are read", "sources.*.limit_documents", "sources.*.documents"),
    **_rows("tokenizer", "what is read of a notebook", "sources.*.notebook_outputs"),
    **_rows("token store", "is kept in the store, and decides on the loss's mask and the code ratio", "sources.*.kind"),
    **_rows("token store", "which documents stay", "sources.*.take.top", "sources.*.take.bottom"),
    **_rows("token store", "which documents stay, where take goes by it", "sources.*.score_field"),
    **_rows("token store", "which documents stay, where cleaning.licenses goes by it", "sources.*.license_field"),
    **_rows(
        "nothing", "more passes are refused; those that are allowed are in the stages' tokens", "sources.*.max_epochs"
    ),
    **{
        f"{place}.{key}": Row("token store", "which documents stay")
        for place in ("cleaning", "sources.*.cleaning")
        for key in (
            *("min_characters", "max_characters", "script.*", "exact_duplicates", "licenses"),
            *("near_duplicates.enabled", "near_duplicates.jaccard", "near_duplicates.shingle"),
            *("near_duplicates.permutations", "paths.include", "paths.exclude"),
            *("decontaminate.enabled", "decontaminate.ngram"),
        )
    },
    # ---- stages
    **_rows("nothing", "names the stage's folder; a renamed stage is the same training", "stages.*.name"),
    **_rows("stage", "enters as whole steps", "stages.*.tokens", "stages.*.budget"),
    **_rows("stage", "is how it is trained", "stages.*.sequence_length", "stages.*.batch_tokens"),
    **{
        f"stages.*.learning_rate.{key}": Row("stage", "is how it is trained")
        for key in ("peak", "schedule", "warmup", "final", "decay", "boundary")
    },
    **{
        f"stages.*.{key}": Row("stage", "enters as the compiled schedule: two spellings of a mixture are one stage")
        for key in (
            *("sources", "code_ratio", "schedule", "within.*", "weights.*", "interpolation"),
            *("phases.*.share", "phases.*.weights.*"),
        )
    },
    **{
        f"stages.*.{key}": Row("stage", "is how it is trained")
        for key in (
            *("responses_only", "packing", "faults.on_nan"),
            *(f"optimizer.{key}" for key in ("weight_decay", "betas", "epsilon", "gradient_clip", "state")),
        )
    },
    **_rows("stage", "enters as the steps that are averaged", "stages.*.averaging.last", "stages.*.averaging.every"),
    **_rows(
        "stage", "what is held out is not trained on, and what is measured is recorded", "stages.*.held_out.tokens"
    ),
    **_rows("nothing", "how often is measured; the end always is", "stages.*.held_out.every_tokens"),
    **_rows("nothing", "when a stage fails; one that did not fail has the same weights", "stages.*.faults.loss_limit"),
    **_rows(
        "stage", "changes numbers beyond rounding: bf16 has 8 bits where fp32 has 24", "stages.*.numerics.precision"
    ),
    **_rows("stage", "another computation, in bf16 beyond rounding", "stages.*.numerics.attention"),
    **_rows("stage", "all of it but what PLACEMENT_ONLY names", "stages.*.numerics.deepspeed_config.*"),
    **_rows("stage", "how much of each source is used", "match_repetition.target_tokens"),
    **_rows("stage", "how much of each source is used", "match_repetition.source_tokens.*"),
    # ---- evaluation
    **_rows("evaluation", "each task by its content", "evaluation.tasks"),
    **_rows("evaluation", "which items are asked, and how", "evaluation.limit", "evaluation.few_shot"),
    **_rows("evaluation", "how items are padded; only rounding, but a near tie may turn", "evaluation.batch_size"),
    # ---- search: which trials there are; each trial's settings are in its stages
    **_rows("nothing", "which trials there are", "search.trials", "search.sampler", "search.replicates"),
    **_rows("nothing", "which trials there are", "search.enqueue", "search.objective.metric", "search.objective.mode"),
    # ---- scaling: where it runs
    **_rows("nothing", "how many do the work; sums in another order", "scaling.workers"),
    **_rows("nothing", "where the work is done", "scaling.gpus_per_worker", "scaling.cpus_per_worker", "scaling.slots"),
    **_rows("nothing", "how state is spread over workers; sums in another order", "scaling.deepspeed.zero"),
    **_rows("nothing", "how a batch is cut, so that other hardware may go on", "scaling.deepspeed.micro_batch"),
    **_rows("nothing", "computes the same again: equal bits", "scaling.deepspeed.activation_checkpointing"),
    **_rows("stage", "in 16 bits it keeps float32 between operations; left out in fp32", "scaling.deepspeed.compile"),
    **_rows("nothing", "chooses among algorithms that differ in rounding", "scaling.deepspeed.deterministic"),
    **{
        f"scaling.{key}": Row("nothing", "when state is saved; a continued stage has the same weights")
        for key in ("checkpoint_seconds", "checkpoint_tokens", "checkpoints_kept", "background_checkpoints")
    },
    **_rows("nothing", "a number for the MFU", "scaling.peak_tflops"),
    **{
        f"scaling.{key}": Row("nothing", "who reads the same sequences, and from where")
        for key in ("reader", "cache", "cache_gib", "cache_folder")
    },
    **{
        f"scaling.{key}": Row("nothing", "what is done about deaths of workers")
        for key in ("fresh_workers", "max_failures", "max_preemptions")
    },
}
