"""A pruned storage trains on as one that was never pruned: real stages, in one process."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import cli, config, stage_store, sweep, tokens
from raycodellm.dispatch import TrialOutcome
from raycodellm.files import Folder
from raycodellm.finished import finished_training
from raycodellm.stage import World, train_stage
from raycodellm.sweep.provenance import fix_data

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("no_rivals")]

SWEEP = """
name: NAME
model:
  config:
    {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
     num_key_value_heads: 2, max_position_embeddings: 64}
tokenizer: {train: {vocab_size: 512, sample_bytes: 100_000}}
sources:
  prose: {kind: text, path: "builtin:python-prose", limit_documents: 100}
  python: {kind: code, path: "builtin:python-code", limit_documents: 20}
stages:
  - name: pretrain
    tokens: {search: {choice: [384, 768, 1536]}}
    sequence_length: 16
    batch_tokens: 96
    code_ratio: 0.25
    learning_rate: {peak: 0.01, schedule: constant, warmup_steps: 3}
  - name: cooldown
    tokens: 384
    sequence_length: 16
    batch_tokens: 96
    code_ratio: RATIO
    learning_rate: {peak: 0.01, schedule: linear, boundary: continue}
    optimizer: {state: keep}
evaluation: {tasks: [boxes], limit: 8}
search: {sampler: grid, replicates: REPLICATES, objective: {metric: boxes/bpb, mode: min}}
scaling: {slots: 1, checkpoint_seconds: 1}
"""


class Training(Cluster):
    """Trains each stage, as a slot does."""

    def _run(self, number: int, chain: stage_store.Chain, finished: dict[str, Any]) -> TrialOutcome:
        for job in chain.stages:
            if job.key not in finished:
                self.num_trained[job.key] += finished_training(job) is None
                record = train_stage(job, World(), on_progress=lambda seen: None, should_stop=lambda: False)
                finished = {**finished, job.key: record}
        return super()._run(number, chain, finished)


def run(storage: Folder, name: str, ratio: float, replicates: int = 1) -> Counter[str]:
    """Runs or continues the sweep; returns how often each stage was trained."""
    text = SWEEP.replace("NAME", name).replace("RATIO", str(ratio)).replace("REPLICATES", str(replicates))
    cluster, now = Training(), itertools.count(0.0, 10.0)
    opened = sweep.open_run(config.parse(text), storage, print)
    with sweep.lock(opened, print) as owned, pytest.MonkeyPatch.context() as patch:
        ended = sweep.tell_written_results(owned, print)
        left = sweep.Confirmation(owned).standing(owned.results_at_start).num_trials - ended
        if not left:
            return cluster.num_trained
        made = tokens.prepare(owned.sweep, storage)
        fix_data(owned, made.tokenizer_fingerprint, made.stores)
        contents = sweep.fix_contents(owned, left)
        assert contents is not None
        driver = Driver(owned, cluster, patch, lambda: next(now))
        of_data = (made.stores, made.tokenizer_folder, made.tokenizer_fingerprint, made.vocab_size)
        driver.context = sweep.TrialContext(owned, stage_store.Materials(*of_data, storage, contents), cluster)
        for number in range(left):
            driver.end(str(number), driver.carry_out(driver.suggest(str(number))))
    return cluster.num_trained


def models(storage: Folder) -> dict[str, bytes]:
    return {path.parts[-3]: path.read_bytes() for path in Path(storage.uri).glob("stages/*/model/model.safetensors")}


def test_a_storage_without_its_training_state_gives_the_same_models_bit_for_bit(tmp_path: Path) -> None:
    whole, pruned = Folder(str(tmp_path / "whole")), Folder(str(tmp_path / "pruned"))
    run(whole, "one", 0.6), run(whole, "two", 0.3)
    shutil.copytree(whole.uri, pruned.uri)
    before = models(whole)
    assert cli.main(["prune-storage", pruned.uri, "--grace", "0", "--yes"]) == 0
    assert models(pruned) == before and (pruned / "trunks").list() == (whole / "trunks").list() != []
    options = ["--forget", "two", "--drop-training-state", "--grace", "0", "--yes"]
    assert cli.main(["prune-storage", pruned.uri, *options]) == 0
    assert not list(Path(pruned.uri).glob("stages/*/optimizer")) and (pruned / "trunks").list() == []
    assert len(models(pruned)) == 6 and run(pruned, "one", 0.6) == Counter()
    run(whole, "one", 0.6, replicates=2), run(pruned, "one", 0.6, replicates=2)
    after = models(pruned)
    assert len(after) == 12 and {key: models(whole)[key] for key in after} == after
    run(pruned, "two", 0.3)
    assert models(pruned) == models(whole)
