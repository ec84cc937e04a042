"""Two things that could differ in result never share an identity; what cannot change a result leaves it alone."""

from __future__ import annotations

import functools
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from raycodellm import config, stage_store, tokens
from raycodellm.config import Sweep
from raycodellm.files import Folder
from raycodellm.identity.settings_table import FIRST, LEAVES

TASK = "task: own\ndataset_path: json\ndataset_kwargs: {data_files: DATA}\ndoc_to_text: !function own_words.text\n"
SWEEP = """
name: small
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512}}
sources:
  prose: {kind: text, path: HERE/prose}
  rows: {kind: text, path: HERE/rows, text_field: text}
  python: {kind: code, path: HERE/python}
  notes: {kind: code, path: HERE/notes}
  asks: {kind: instruct_text, path: HERE/asks.jsonl}
stages:
  - name: pretrain
    tokens: 8_192
    sequence_length: 64
    batch_tokens: 1_024
    learning_rate: {peak: 3.0e-3}
    code_ratio: 0.5
  - name: instruct
    tokens: 2_048
    sequence_length: 256
    batch_tokens: 1_024
    learning_rate: {peak: 1.0e-3}
    responses_only: true
    weights: {asks: 1.0}
evaluation: {tasks: [HERE/own.yaml], limit: 8}
search: {trials: 2, sampler: random}
"""
ITEMS = {"own": ["one two three four five six seven eight nine ten eleven twelve thirteen fourteen"]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, a model, a tokenizer and a task in a folder of their own."""
    folder = tmp_path_factory.mktemp("identity")
    files = {
        "prose/a.txt": "One paragraph.\n\nAnother one.",
        "asked.jsonl": json.dumps({"prompt": "Why does it rain?"}),
        "prose/b.md": "A file of another kind.",
        "python/a.py": "print(1)\n",
        "python/b.c": "int main() { return 1; }\n",
        "notes/a.ipynb": json.dumps(
            {
                "cells": [{"cell_type": "code", "source": "print(1)\n", "metadata": {}, "outputs": []}],
                "nbformat": 4,
                "nbformat_minor": 5,
                "metadata": {},
            }
        ),
        "asks.jsonl": json.dumps({"prompt": "Two and two?", "response": "Four."}) + "\n",
        "own_words.py": "def text(doc):\n    return doc['text']\n",
        "items.jsonl": '{"text": "a"}\n',
        "model/config.json": '{"model_type": "llama"}',
        "model/model.safetensors": "weights",
        "other/config.json": '{"model_type": "llama"}',
        "tokenizer/tokenizer.json": "{}",
        "far.yaml": "task: far\ndataset_path: owner/far\n",
        "copies-a/far.jsonl": '{"text": "a"}\n',
        "copies-b/owner/far/test.jsonl": '{"text": "b"}\n',
        "tasks-a/mine.yaml": "task: mine\ndataset_path: json\ndoc_to_text: a\n",
        "tasks-b/mine.yaml": "task: mine\ndataset_path: json\ndoc_to_text: b\n",
    }
    for subset in ("data", "other"):
        for split in ("train", "test"):
            files[f"rows/{subset}/{split}-00000-of-00001.jsonl"] = (
                f'{{"text": "{subset} {split}", "body": "b", "q": 1}}\n'
            )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "own.yaml").write_text(TASK.replace("DATA", str(folder / "items.jsonl")))
    return folder


@dataclass(frozen=True)
class Corpus:
    fingerprint: str
    folder: Folder
    num_tokens: int = 100_000

    def num_sequences(self, sequence_length: int, reading: tokens.Reading) -> int:
        return (self.num_tokens - reading.held_out_tokens) // sequence_length

    def held_out(self, num_tokens: int) -> int:
        return num_tokens


@functools.cache
def identities(here: Path, *overrides: str) -> dict[str, object]:
    """Each of FIRST's identities of a sweep over the sources in `here`, as a run works them out."""
    changed = tuple(override.replace("HERE", str(here)) for override in overrides)
    sweep = config.parse(SWEEP.replace("HERE", str(here)), overrides=changed).example()
    sizes = tokens.inspect(sweep, Folder(str(here / "storage")), ITEMS)
    corpora = {name: Corpus(size.fingerprint, size.folder) for name, size in sizes.items()}
    known = next(iter(sizes.values())).tokenizer_fingerprint
    contents = stage_store.contents_of([sweep])
    materials = stage_store.Materials(corpora, Folder("/t"), known, 512, Folder("/s"), contents)
    chain = stage_store.chain(sweep, sweep.seed, materials)
    stores = {name: size.fingerprint for name, size in sizes.items()}
    return dict(
        zip(FIRST, (known, stores, [job.identity for job in chain.stages], chain.evaluation.identity), strict=True)
    )


def leaves(model: type[BaseModel], path: str = "") -> typing.Iterator[str]:
    """The paths of all leaves of the settings: `*` for a source's name, a stage, a key of a free mapping."""
    for name, field in model.model_fields.items():
        yield from _inside(field.annotation, f"{path}{name}")


def _inside(kind: typing.Any, path: str) -> typing.Iterator[str]:
    arguments = [kind] if isinstance(kind, type) and not typing.get_args(kind) else _options(kind)
    models = [one for one in arguments if isinstance(one, type) and issubclass(one, BaseModel)]
    if models:
        yield from leaves(models[0], f"{path}.")
        return
    for one in arguments:
        origin, inner = typing.get_origin(one), typing.get_args(one)
        if origin is dict:
            yield from _inside(inner[1], f"{path}.*")
            return
        if origin is tuple and any(issubclass(m, BaseModel) for m in _options(inner[0]) if isinstance(m, type)):
            yield from _inside(inner[0], f"{path}.*")
            return
    yield path


def _options(kind: typing.Any) -> list[typing.Any]:
    """The types that an annotation allows, with None, Annotated and unions taken apart."""
    if typing.get_origin(kind) is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [option for one in typing.get_args(kind) if one is not type(None) for option in _options(one)]
    return [kind]


ROWS = "sources.rows"
PRETRAIN = "pretrain"
CLEANING = {
    "min_characters": "3",
    "max_characters": "300",
    "script.*": "{latin: 0.5}",
    "exact_duplicates": "true",
    "licenses": "[MIT]",
    "near_duplicates.enabled": ("{jaccard: 0.9}", "{jaccard: 0.9, enabled: false}"),
    "near_duplicates.jaccard": ("{jaccard: 0.9}", "{jaccard: 0.8}"),
    "near_duplicates.shingle": ("{shingle: 5}", "{shingle: 4}"),
    "near_duplicates.permutations": ("{permutations: 128}", "{permutations: 64}"),
    "paths.include": ("{include: ['*.py']}", "{include: ['*.c']}"),
    "paths.exclude": ("{exclude: ['*.py']}", "{exclude: ['*.c']}"),
    "decontaminate.enabled": ("{ngram: 13}", "{ngram: 13, enabled: false}"),
    "decontaminate.ngram": ("{ngram: 13}", "{ngram: 12}"),
}


def _cleaning_changes() -> typing.Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    for pattern, place in (("cleaning", "cleaning"), ("sources.*.cleaning", "sources.python.cleaning")):
        licensed = tuple(f"sources.{name}.license_field=l" for name in ("prose", "rows", "python", "notes", "asks"))
        for key, values in CLEANING.items():
            before, after = values if isinstance(values, tuple) else (None, values)
            name = f"{place}.{key.split('.')[0]}"
            yield f"{pattern}.{key}", (*licensed, *([f"{name}={before}"] if before else [])), (f"{name}={after}",)


def _of_pretrain(key: str, after: str, *base: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return f"stages.*.{key}", base, (f"{PRETRAIN}.{key}={after}",)


_WEIGHTED = ("pretrain.code_ratio=null", "pretrain.weights={prose: 0.5, python: 0.5}")
_PHASED = (
    "pretrain.code_ratio=null",
    "pretrain.phases=[{share: 0.5, weights: {prose: 1.0}}, {share: 0.5, weights: {prose: 0.5, python: 0.5}}]",
)
_TAKEN = (f"{ROWS}.score_field=q", f"{ROWS}.take=top 30 %")
_MATCHED = ("match_repetition={target_tokens: 100_000, source_tokens: {prose: 90_000}}",)
_OTHER_SPACE = "{search: {choice: [constant, increase]}}"
_CONFIRMED = ("search.confirm={best: 1}", "search.reference={}")
_GIVEN = (
    "stages=[]",
    "model.pretrained={search: {choice: [HERE/model, HERE/other]}}",
    "model.preset=null",
    "search.sampler=grid",
    "sources={prose: {kind: text, path: HERE/prose}}",
    "evaluation.texts.prose=held_out",
)
_LADDER = ("search.reference={}", "ladder={presets: [tiny, nano], learning_rate: {tiny: 1, nano: 1}}")
_COPIED = ("evaluation.tasks=[HERE/far.yaml]", "evaluation.data=HERE/copies-a")
_INCLUDED = ("evaluation.tasks=[mine]", "evaluation.include=HERE/tasks-a")
_JUDGE = "evaluation.judge"
_JUDGED = (f"{_JUDGE}.base_url=http://localhost:1/v1", f"{_JUDGE}.model=one")
_CHINESE = ("evaluation.tasks=[bpb_chinese]", "evaluation.texts.chinese=HERE/prose/a.txt")


def _of_domain(kind: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    source = f"sources.more={{kind: {kind}, path: HERE/rows, text_field: text}}"
    return f"evaluation.texts.{kind}", (source,), (f"evaluation.texts.{kind}=held_out",)


STOPPING = ("pretrain.held_out={tokens: 1_000}", "search.early_stopping={metric: bpb/prose}")
CHANGES: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    # leaf of the table, overrides before, overrides after
    ("name", (), ("name=other",)),
    ("seed", (), ("seed=1",)),
    ("model.preset", (), ("model.preset=nano",)),
    ("model.parametrization", (), ("model.parametrization=mup",)),
    ("model.config.*", ("model={config: {model_type: llama, hidden_size: 32}}",), ("model.config.hidden_size=64",)),
    ("model.pretrained", (), ("model={pretrained: HERE/model}",)),
    ("tokenizer.train.vocab_size", (), ("tokenizer.train.vocab_size=600",)),
    ("tokenizer.train.sample_bytes", (), ("tokenizer.train.sample_bytes=20_000",)),
    ("tokenizer.pretrained", (), ("tokenizer={pretrained: HERE/tokenizer}",)),
    ("sources.*.kind", (), ("sources.prose.kind=math",)),
    ("sources.*.path", (), ("sources.prose.path=HERE/prose/b.md",)),
    ("sources.*.format", (), ("sources.python.format=text",)),
    ("sources.*.languages", (), ("sources.python.languages=[c]",)),
    ("sources.*.subset", (f"{ROWS}.split=train",), (f"{ROWS}.subset=other",)),
    ("sources.*.split", (), (f"{ROWS}.split=test",)),
    ("sources.*.notebook_outputs", (), ("sources.notes.notebook_outputs=true",)),
    ("sources.*.text_field", (), (f"{ROWS}.text_field=body",)),
    ("sources.*.documents", (), ("sources.prose.documents=paragraphs",)),
    ("sources.*.limit_documents", (), ("sources.prose.limit_documents=1",)),
    ("sources.*.max_epochs", (), ("sources.prose.max_epochs=9",)),
    ("sources.*.score_field", _TAKEN, (f"{ROWS}.score_field=r",)),
    ("sources.*.take.top", _TAKEN, (f"{ROWS}.take=top 40 %",)),
    ("sources.*.take.bottom", _TAKEN, (f"{ROWS}.take=bottom 30 %",)),
    (
        "sources.*.license_field",
        (f"{ROWS}.license_field=l", f"{ROWS}.cleaning.licenses=[MIT]"),
        (f"{ROWS}.license_field=m",),
    ),
    *_cleaning_changes(),
    ("stages.*.enabled", (), ("instruct.enabled=false",)),
    ("stages.*.name", (), ("stages.0.name=first",)),
    _of_pretrain("tokens", "9_216"),
    _of_pretrain("budget", "additive"),
    _of_pretrain("sequence_length", "128"),
    _of_pretrain("batch_tokens", "2_048"),
    _of_pretrain("learning_rate.peak", "0.5"),
    _of_pretrain("learning_rate.schedule", "linear"),
    _of_pretrain("learning_rate.warmup", "0.2"),
    _of_pretrain("learning_rate.warmup_steps", "3"),
    _of_pretrain("learning_rate.final", "0.2"),
    _of_pretrain("learning_rate.decay", "0.3", "pretrain.learning_rate.schedule=wsd"),
    ("stages.*.learning_rate.boundary", (), ("instruct.learning_rate.boundary=continue",)),
    _of_pretrain("sources", "[prose, python]"),
    _of_pretrain("code_ratio", "0.25"),
    _of_pretrain("schedule", "increase"),
    ("stages.*.within.*", (), ("pretrain.within={prose: 1.0, rows: 3.0, python: 1.0, notes: 1.0}",)),
    ("stages.*.weights.*", _WEIGHTED, ("pretrain.weights={prose: 0.25, python: 0.75}",)),
    ("stages.*.phases.*.share", _PHASED, ("pretrain.phases.0.share=0.25", "pretrain.phases.1.share=0.75")),
    ("stages.*.phases.*.weights.*", _PHASED, ("pretrain.phases.0.weights={python: 1.0}",)),
    _of_pretrain("interpolation", "linear", *_PHASED),
    ("stages.*.responses_only", ("instruct.sources=[asks]",), ("instruct.responses_only=false",)),
    _of_pretrain("packing", "best_fit"),
    _of_pretrain("optimizer.gradient_clip", "2.0"),
    _of_pretrain("optimizer.weight_decay", "0.2"),
    _of_pretrain("optimizer.betas", "[0.8, 0.9]"),
    _of_pretrain("optimizer.epsilon", "1.0e-6"),
    ("stages.*.optimizer.state", (), ("instruct.optimizer.state=keep",)),
    _of_pretrain("held_out.tokens", "2_000", "pretrain.held_out={tokens: 1_000}"),
    _of_pretrain("held_out.every_tokens", "2_000", "pretrain.held_out={tokens: 1_000}"),
    _of_pretrain("faults.on_nan", "skip_batch"),
    _of_pretrain("faults.loss_limit", "0"),
    _of_pretrain("averaging.last", "3"),
    _of_pretrain("averaging.every", "0.3", "pretrain.averaging.last=3"),
    _of_pretrain("numerics.precision", "bf16"),
    _of_pretrain("numerics.attention", "eager"),
    _of_pretrain("numerics.deepspeed_config", "{communication_data_type: bf16}"),
    ("match_repetition.target_tokens", _MATCHED, ("match_repetition.target_tokens=120_000",)),
    ("match_repetition.source_tokens.*", _MATCHED, ("match_repetition.source_tokens.prose=80_000",)),
    ("evaluation.suites", (), ("evaluation.suites=[offline]",)),
    ("evaluation.tasks", (), ("evaluation.tasks=[HERE/own.yaml, boxes]",)),
    ("evaluation.leave_out", ("evaluation.suites=[offline]",), ("evaluation.leave_out=[boxes]",)),
    ("evaluation.data", _COPIED, ("evaluation.data=HERE/copies-b",)),
    ("evaluation.include", _INCLUDED, ("evaluation.include=HERE/tasks-b",)),
    ("evaluation.texts.prose", (), ("evaluation.texts.prose=held_out",)),
    ("evaluation.texts.code", (), ("evaluation.texts.code=held_out",)),
    *(_of_domain(kind) for kind in ("markup", "math", "code_adjacent", "synthetic_code")),
    ("evaluation.texts.chinese", _CHINESE, ("evaluation.texts.chinese=HERE/prose/b.md",)),
    (f"{_JUDGE}.base_url", _JUDGED, (f"{_JUDGE}.base_url=http://localhost:2/v1",)),
    (f"{_JUDGE}.model", _JUDGED, (f"{_JUDGE}.model=other",)),
    (f"{_JUDGE}.key_variable", _JUDGED, (f"{_JUDGE}.key_variable=KEY",)),
    (f"{_JUDGE}.prompts", _JUDGED, (f"{_JUDGE}.prompts=HERE/asked.jsonl",)),
    (f"{_JUDGE}.num_prompts", _JUDGED, (f"{_JUDGE}.num_prompts=7",)),
    (f"{_JUDGE}.answer_tokens", _JUDGED, (f"{_JUDGE}.answer_tokens=7",)),
    (f"{_JUDGE}.verdict_tokens", _JUDGED, (f"{_JUDGE}.verdict_tokens=7",)),
    (f"{_JUDGE}.concurrency", _JUDGED, (f"{_JUDGE}.concurrency=7",)),
    (f"{_JUDGE}.requests_per_minute", _JUDGED, (f"{_JUDGE}.requests_per_minute=7",)),
    (f"{_JUDGE}.timeout_seconds", _JUDGED, (f"{_JUDGE}.timeout_seconds=7",)),
    ("evaluation.limit", (), ("evaluation.limit=9",)),
    ("evaluation.few_shot", (), ("evaluation.few_shot=1",)),
    ("evaluation.scoring", (), ("evaluation.scoring=channel",)),
    ("evaluation.rationale", (), ("evaluation.rationale=oracle",)),
    ("evaluation.samples", (), ("evaluation.samples=5",)),
    ("evaluation.temperature", (), ("evaluation.temperature=0.5",)),
    ("evaluation.contamination", (), ("evaluation.contamination=false",)),
    ("evaluation.decoding", (), ("evaluation.decoding=constrained",)),
    ("evaluation.backend", ("scaling.gpus_per_worker=1",), ("evaluation.backend=vllm",)),
    ("evaluation.batch_size", (), ("evaluation.batch_size=8",)),
    ("search.trials", (), ("search.trials=9",)),
    ("search.sampler", (), ("search.sampler=tpe",)),
    ("search.replicates", (), ("search.replicates=2",)),
    ("search.enqueue", (f"pretrain.schedule={_OTHER_SPACE}",), ("search.enqueue=[{pretrain.schedule: increase}]",)),
    ("search.reference.*", (f"pretrain.schedule={_OTHER_SPACE}",), ("search.reference={pretrain.schedule: increase}",)),
    ("search.max_failed", (), ("search.max_failed=3",)),
    ("search.early_stopping.stage", STOPPING, ("search.early_stopping.stage=pretrain",)),
    ("search.early_stopping.metric", STOPPING, ("search.early_stopping.metric=bpb/python",)),
    ("search.early_stopping.at", STOPPING, ("search.early_stopping.at=[0.5]",)),
    ("search.early_stopping.keep", STOPPING, ("search.early_stopping.keep=0.25",)),
    ("search.confirm.best", _CONFIRMED, ("search.confirm.best=3",)),
    ("search.confirm.seeds", _CONFIRMED, ("search.confirm.seeds=[3, 5]",)),
    ("search.warm_start", (), ("search.warm_start=[another]",)),
    *(
        (f"search.constraints.*.{key}", ("search.constraints=[{metric: own/bpb, mode: min, bound: 1.0}]",), (change,))
        for key, change in (
            ("metric", "search.constraints.0.metric=mean/bpb"),
            ("mode", "search.constraints.0.mode=max"),
            ("bound", "search.constraints.0.bound=2.0"),
        )
    ),
    (
        "search.constraints.*.within",
        ("search.constraints=[{metric: own/bpb, mode: min, within: 0.1}]", "search.reference={}"),
        ("search.constraints.0.within=0.2",),
    ),
    *(
        (f"search.confirm.begun.{key}", (*_CONFIRMED, "search.confirm.begun={looks: 1, trials: 2}"), (change,))
        for key, change in (
            ("looks", "search.confirm.begun.looks=2"),
            ("trials", "search.confirm.begun.trials=1"),
            ("metrics", "search.confirm.begun.metrics=[own/bpb]"),
        )
    ),
    ("search.confirm.margin.*", _CONFIRMED, ("search.confirm.margin={bpb: 0.5}",)),
    ("search.pairs", _GIVEN, ("search.pairs=[[HERE/other, HERE/model]]",)),
    ("search.objective.metric", (), ("search.objective={metric: mean/acc, mode: min}",)),
    ("search.objective.mode", (), ("search.objective={metric: mean/bpb, mode: max}",)),
    ("ladder.presets", _LADDER, ("ladder.presets=[nano, tiny]",)),
    ("ladder.carry", (*_CONFIRMED, *_LADDER[1:]), ("ladder.carry=1",)),
    ("ladder.tokens_per_parameter", _LADDER, ("ladder.tokens_per_parameter=5",)),
    ("ladder.learning_rate.*", _LADDER, ("ladder.learning_rate={tiny: 1, nano: 2}",)),
    *(
        (f"scaling.{key}", (), (f"scaling.{key}={value}",))
        for key, value in {
            "workers": "3",
            "gpus_per_worker": "1",
            "cpus_per_worker": "2",
            "device": "H100",
            "slots": "3",
            "deepspeed.zero": "3",
            "deepspeed.micro_batch": "auto",
            "deepspeed.activation_checkpointing": "true",
            "deepspeed.deterministic": "true",
            "checkpoint_seconds": "1",
            "checkpoint_tokens": "100",
            "checkpoints_kept": "3",
            "background_checkpoints": "true",
            "peak_tflops": "3",
            "reader": "thread",
            "cache": "local",
            "cache_gib": "1",
            "cache_folder": "/c",
            "fresh_workers": "true",
            "max_failures": "0",
            "max_preemptions": "0",
        }.items()
    ),
    ("budget.tokens", (), ("budget.tokens=1_000",)),
    ("budget.device_hours", (), ("budget.device_hours=0.5",)),
    ("budget.wall_hours", (), ("budget.wall_hours=0.5",)),
    ("budget.money", ("budget.price_per_device_hour=2",), ("budget.money=5",)),
    ("budget.price_per_device_hour", (), ("budget.price_per_device_hour=2",)),
    ("budget.currency", (), ("budget.currency=EUR",)),
    ("tracking.mlflow", (), ("tracking.mlflow=http://here:5000",)),
    ("tracking.wandb", (), ("tracking.wandb=mixtures",)),
    ("tracking.tensorboard", (), ("tracking.tensorboard=true",)),
    ("scaling.deepspeed.compile", ("pretrain.numerics.precision=bf16",), ("scaling.deepspeed.compile=true",)),
]
CHANGED = [(leaf.replace("deepspeed_config", "deepspeed_config.*"), before, after) for leaf, before, after in CHANGES]


def test_every_leaf_of_the_sweep_file_has_a_place_in_the_table_and_is_changed_below() -> None:
    there = set(leaves(Sweep))
    assert there - set(LEAVES) == set(), "a new setting: give it its row in identity/settings_table.py"
    assert set(LEAVES) - there == set(), "the table has a row for a setting that does not exist; remove it"
    assert {leaf for leaf, _, _ in CHANGED} == there, "give each setting a change in CHANGES above"
    assert all(row.first in (*FIRST, "nothing") and row.why for row in LEAVES.values())


@pytest.mark.parametrize(("leaf", "before", "after"), CHANGED, ids=[leaf for leaf, _, _ in CHANGED])
def test_a_changed_leaf_changes_the_identities_that_the_table_says(here: Path, leaf, before, after) -> None:
    one, other = identities(here, *before), identities(here, *before, *after)
    changed = tuple(name for name in FIRST if one[name] != other[name])
    first = LEAVES[leaf].first
    assert changed == (() if first == "nothing" else FIRST[FIRST.index(first) :])
