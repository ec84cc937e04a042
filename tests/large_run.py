"""Writes the folder of a large finished run, with the package's own writers, in seconds: nothing is trained."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from raycodellm import config, search
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, StageRecord, TrialResult, as_json, job_key, summed_ledger
from raycodellm.stage.folder import StageFolder

SWEEP = """
name: large
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
  code_tasks: {kind: instruct_code, path: "builtin:python-instruct"}
  text_tasks: {kind: instruct_text, path: "builtin:tasks-instruct"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: {search: {loguniform: [1.0e-4, 1.0e-2]}}}
    code_ratio: {search: {uniform: [0.0, 0.75]}}
    schedule: {search: {choice: [constant, increase, decrease, cosine_up]}}
  - name: instruct
    tokens: 50_000
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {peak: 1.0e-3}
    code_ratio: {search: {choice: [0.0, 0.25, 0.5]}}
    responses_only: true
evaluation: {tasks: [boxes, logical_deduction], limit: 200}
search: {trials: NUM_ARMS, replicates: NUM_SEEDS, sampler: tpe, objective: {metric: mean/bpb, mode: min}}
"""
TASKS = ("boxes", "logical_deduction")
SOURCES = {
    "pretrain": {"prose": "text", "python": "code"},
    "instruct": {"text_tasks": "instruct_text", "code_tasks": "instruct_code"},
}
TOKENS = {"pretrain": 401_408, "instruct": 51_200}
NUM_ROWS = 120
"""Rows of metrics.parquet."""


def write_large_run(storage: Folder, num_arms: int = 250, num_seeds: int = 2, num_items: int = 200) -> Folder:
    """A run of `num_arms` × `num_seeds` trials: some failed, some lost workers, all with two stages of their own."""
    text = SWEEP.replace("NUM_ARMS", str(num_arms)).replace("NUM_SEEDS", str(num_seeds))
    file = config.parse(text)
    run = storage / "large"
    run.write_bytes("sweep.yaml", yaml.safe_dump(config.resolved_tree(file), sort_keys=False).encode())
    results, rng = [], random.Random(0)
    for arm, params in enumerate(search.preview(file, num_arms)):
        for seed in range(num_seeds):
            results.append(_write_trial(storage, run, len(results), arm, seed, params, rng, num_items))
    frame = pd.DataFrame([result.row() for result in results])
    run.write_table("trials.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    run.write_json("timing.json", {"imports": 3.1, "ray start": 5.6, "tokens": 7.4, "trials": 21_400.0})
    return run


def _write_trial(
    storage: Folder,
    run: Folder,
    number: int,
    arm: int,
    seed: int,
    params: dict[str, Any],
    rng: random.Random,
    num_items: int,
) -> TrialResult:
    ratios = {"pretrain": params["pretrain.code_ratio"], "instruct": params["instruct.code_ratio"]}
    quality = 0.5 - 2 * (ratios["pretrain"] - 0.35) ** 2 + 0.1 * ratios["instruct"] + rng.gauss(0, 0.02)
    stages = [_write_stage(storage, name, number, ratios[name], quality, seed) for name in SOURCES]
    table, metrics = _scored_items(quality, number, num_items)
    folder = run / "trials" / f"{number:04d}"
    is_failed = number % 71 == 70
    if not is_failed:
        folder.write_table("items.parquet", table)
    ledger = summed_ledger(stages)
    tokens = {row.source: row.tokens for row in ledger}
    result = TrialResult(
        number=number,
        state="failed" if is_failed else "complete",
        arm=arm,
        seed=seed,
        params=params,
        metrics={} if is_failed else metrics,
        tokens={**tokens, "total": sum(tokens.values())},
        ledger=ledger,
        stages=tuple(job_key(record.name, record.identity) for record in stages),
        wall_seconds=41.0 + rng.random(),
        device_seconds=40.0 + rng.random(),
        deaths=int(number % 50 == 1),
        preemptions=int(number % 40 == 1),
        error="FloatingPointError: loss is NaN at step 17 of stage pretrain; lower the learning rate"
        if is_failed
        else None,
    )
    folder.write_json("result.json", as_json(result))
    return result


def _write_stage(storage: Folder, name: str, number: int, ratio: float, quality: float, seed: int) -> StageRecord:
    identity = f"{number:08x}{seed:08x}"
    shares = dict(zip(SOURCES[name], (1 - ratio, ratio), strict=True))
    ledger = []
    for source, kind in SOURCES[name].items():
        tokens = int(TOKENS[name] * shares[source])
        ledger.append(LedgerRow(source, kind, tokens, tokens, int(tokens * 0.9), tokens // 128, 0.41, tokens))
    record = StageRecord(
        identity,
        name,
        98,
        TOKENS[name],
        5.0 - quality,
        31.0,
        31.0,
        "c0ffee",
        (40,) if number % 50 == 1 else (),
        tuple(ledger),
    )
    progress = np.arange(1, NUM_ROWS + 1) / NUM_ROWS
    noise = np.random.default_rng(number).normal(0, 0.03, (4, NUM_ROWS))
    loss = 6 * np.exp(-3 * progress) + 3 - quality + noise[0]
    columns: dict[str, Any] = {
        "step": np.arange(1, NUM_ROWS + 1),
        "tokens": (TOKENS[name] * progress).astype(int),
        "loss": loss,
        "learning_rate": 1e-3 * (1 - progress),
        "grad_norm": np.exp(noise[1]),
        "tokens_per_second": np.full(NUM_ROWS, 15_000.0),
        "mfu": np.full(NUM_ROWS, 0.31),
        "code_ratio_scheduled": ratio * np.where(progress <= 0.5, 1.2, 0.8),
        "code_ratio_window": ratio * np.where(progress <= 0.5, 1.2, 0.8) + 0.3 * noise[2] * ratio,
    }
    for index, source in enumerate(SOURCES[name]):
        columns[f"loss/{source}"] = loss + 0.4 * index if shares[source] else np.full(NUM_ROWS, math.nan)
        held_out_bpb = np.where(np.arange(NUM_ROWS) % 20 == 19, 3.2 - quality + 2 * np.exp(-3 * progress), math.nan)
        columns[f"bpb/{source}"] = held_out_bpb
    rows = [
        dict(zip(columns, values, strict=True))
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    job = {"sources": [{"name": source, "store": (storage / "tokens" / source).uri} for source in SOURCES[name]]}
    StageFolder((storage / "stages" / job_key(name, identity)).uri).leave_results(job, record, rows, {})  # type: ignore[arg-type]
    return record


def _scored_items(quality: float, number: int, num_items: int) -> tuple[pa.Table, dict[str, float]]:
    """Items whose difficulty is the same for all models, and the metrics that they give."""
    difficulty_rng, rng = np.random.default_rng(1), np.random.default_rng(number)
    parts, metrics = [], {}
    for task in TASKS:
        bits = difficulty_rng.normal(2.0, 0.8, num_items) - quality + rng.normal(0, 0.05, num_items)
        columns: dict[str, Any] = {
            "task": [task] * num_items,
            "item": np.arange(num_items),
            "doc_hash": [f"{item:064x}" for item in range(num_items)],
            "prediction": ["the box in the left corner"] * num_items,
            "gold": ["the box in the right corner"] * num_items,
            "correct": bits < 1.5,
            "chance": np.full(num_items, 0.25),
            "bits_per_byte": bits,
            "num_prompt_tokens": np.full(num_items, 81),
            "too_long": np.zeros(num_items, dtype=bool),
            "attributes": ["{}"] * num_items,
            "num_bytes": np.full(num_items, 28),
            "scores": [[("acc", float(one < 1.5)), ("acc_norm", float(one < 1.6))] for one in bits],
        }
        schema = items_table([], {one: (one,) for one in TASKS}).schema
        columns |= {name: [None] * num_items for name in schema.names if name not in columns}
        parts.append(pa.table(columns, schema=schema))
        metrics |= {f"{task}/items": float(num_items), f"{task}/too_long": 0.0, f"{task}/chance": 0.25}
        metrics |= _with_interval(f"{task}/bpb", bits) | _with_interval(f"{task}/acc", bits < 1.5)
    for name in ("bpb", "bpb_low", "bpb_high", "acc", "acc_low", "acc_high", "chance"):
        metrics[f"mean/{name}"] = float(np.mean([metrics[f"{task}/{name}"] for task in TASKS]))
    return pa.concat_tables(parts), metrics


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    mean, half = float(values.mean()), 1.97 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
