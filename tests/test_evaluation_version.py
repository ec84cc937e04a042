"""The scores of an equal model change only with EVALUATION_VERSION, so that no kept score gets another meaning.

`python tests/test_evaluation_version.py` writes the scores anew.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from raycodellm.config import Evaluation
from raycodellm.evaluation import evaluate
from raycodellm.stage_store.evaluations import EVALUATION_VERSION

KEPT = Path(__file__).with_name("evaluation_scores.json")
WHAT_TO_DO = (
    "an equal model has other scores than those in tests/evaluation_scores.json. If the change is meant, raise "
    "EVALUATION_VERSION in raycodellm/stage_store/evaluations.py, so that scores which are kept in storages are not "
    "mixed with new ones, then run `python tests/test_evaluation_version.py`. If a library changed the numbers by more "
    "than rounding, do the same. Else a fault came into the evaluation."
)
TOLERANCE = 1e-3
"""Relative, of log-likelihoods: more than machines and threads differ by, less than a change of what is scored."""

ROWS = [
    {"q": f"Box {n} holds a {thing}. Box {n + 1} holds", "choices": [" a lamp", " the key.", " nothing"], "a": n % 3}
    for n, thing in enumerate(["coin", "red leaf", "cup of tea", "shell", "map"])
]
GREEDY = {"until": ["e"], "max_gen_toks": 6, "do_sample": False}
SAMPLED = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
CHOSEN = {"doc_to_text": "{{q}}", "doc_to_target": "{{choices[a]}}"}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "choices",
        "doc_to_target": "a",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "num_fewshot": 1,
    },
    "likelihood": {"output_type": "loglikelihood", **CHOSEN, "metric_list": [{"metric": "acc"}]},
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "greedy": {"output_type": "generate_until", **CHOSEN, "generation_kwargs": GREEDY},
    "sampled": {"output_type": "generate_until", **CHOSEN, "generation_kwargs": SAMPLED},
    "bleu": {
        "output_type": "generate_until",
        **CHOSEN,
        "generation_kwargs": GREEDY,
        "metric_list": [{"metric": "bleu"}],
    },
}


def write_fixed_model(folder: Path) -> Path:
    """A Llama whose weights are sines, and a tokenizer of bytes: no random numbers, nothing trained."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    entries = [end, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(entries)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(entries), max_position_embeddings=256, **shape, **ids))
    with torch.no_grad():
        for number, weights in enumerate(model.parameters()):
            places = torch.arange(weights.numel(), dtype=torch.float64)
            weights.copy_(torch.sin(places * (0.7 + number) + number).reshape(weights.shape))
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def scores(folder: Path) -> dict[str, Any]:
    """The scores of each item, and the metrics that are no means of them."""
    model = write_fixed_model(folder)
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    paths = []
    for name, task in TASKS.items():
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{folder}/items.jsonl"}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **files, "test_split": "test", **task}))
        paths.append(str(folder / f"{name}.yaml"))
    found = evaluate(model, Evaluation(tasks=tuple(paths), few_shot=None))
    kept = ("task", "item", "gold", "prediction", "correct", "chance", "num_prompt_tokens", "num_bytes", "too_long")
    items = [
        {name: row[name] for name in kept} | {"bits_per_byte": row["bits_per_byte"], "scores": dict(row["scores"])}
        for row in found.items.to_pylist()
    ]
    return {"version": EVALUATION_VERSION, "items": items, "metrics": dict(sorted(found.metrics.items()))}


def same(one: Any, other: Any) -> bool:
    """True if the values are equal, numbers up to rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return one == other


def test_an_equal_model_has_equal_scores_while_the_version_of_evaluations_is_the_same(tmp_path):
    kept, found = json.loads(KEPT.read_text()), json.loads(json.dumps(scores(tmp_path)))
    if kept["version"] != found["version"]:
        pytest.fail(
            "EVALUATION_VERSION was raised: run `python tests/test_evaluation_version.py`, and look at the diff"
        )
    changed = [
        f"{new['task']} item {new['item']}: {old} -> {new}"
        for old, new in zip(kept["items"], found["items"], strict=True)
        if not same(old, new)
    ]
    changed += [
        f"{name}: {kept['metrics'].get(name)} -> {found['metrics'].get(name)}"
        for name in {**kept["metrics"], **found["metrics"]}
        if not same(kept["metrics"].get(name), found["metrics"].get(name))
    ]
    assert not changed, "\n".join([WHAT_TO_DO, *changed[:5]])


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        KEPT.write_text(json.dumps(scores(Path(scratch)), indent=1, ensure_ascii=False) + "\n")
