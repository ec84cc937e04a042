"""Simulated sweeps through `raycodellm.verdict`: rows of trials and tables of items in, verdicts out."""

from __future__ import annotations

import numpy as np
from simulated import Shape, answers, own_effects

from raycodellm import config, verdict
from raycodellm.evaluation import Items
from raycodellm.records import CONFIRM_SEEDS, TrialResult
from raycodellm.statistics import Sample, TaskSample

SWEEP = """
name: simulated
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {uniform: [0.0, 1.0]}}
evaluation: {tasks: [boxes]}
search: {trials: ARMS, objective: {metric: boxes/bpb, mode: min}, reference: {pretrain.code_ratio: 0.0}, MORE}
"""


class SimulatedItems(Items):
    """The items of one trial."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def samples(self, metric: str) -> list[Sample]:
        return [TaskSample([("boxes", np.arange(len(self.values)))], self.values)]


def claims(shape: Shape, rng: np.random.Generator) -> bool:
    """True if the verdicts on a sweep without an effect claim a difference. The first arm is the reference.

    Without a search before, all arms get the seeds of the last look at once, as `search.replicates`.
    """
    effects, replicates = own_effects(shape, rng), 1 if shape.best is not None else shape.looks[-1]
    search_settings = f"replicates: {replicates}"
    if shape.best is not None:
        search_settings = f"confirm: {{best: {shape.best}, seeds: {list(shape.looks)}}}"
    file = config.parse(SWEEP.replace("ARMS", str(shape.arms)).replace("MORE", search_settings))
    first = answers(shape, replicates, effects, rng)[0]
    fresh = answers(shape, shape.looks[-1], effects, rng)[0]
    rows: list[dict] = []
    items: dict[int, Items] = {}

    def add(arm: int, seed: int, values: np.ndarray, phase: str) -> None:
        items[len(rows)] = SimulatedItems(values)
        metrics, params = {"boxes/bpb": float(values.mean())}, {"pretrain.code_ratio": arm / (shape.arms - 1)}
        rows.append(TrialResult(len(rows), "complete", arm, seed, params, metrics, phase=phase).row())  # type: ignore[arg-type]

    for arm in range(shape.arms):
        for replicate in range(replicates):
            add(arm, replicate, first[arm, replicate], "search")
    while pending := verdict.looks(file, rows, items).pending:
        for one in pending:
            add(one.arm, CONFIRM_SEEDS + one.place, fresh[one.arm, one.place], "confirm")
    findings = verdict.findings(file, rows, items)
    assert findings.is_over and findings.verdicts
    return any(one.word != "not known" for one in findings.verdicts)
