"""One Ray cluster for the whole test run, and a sweep file small enough to train in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clusters of their own first: of two on one machine only one has the port at which jobs are submitted."""
    items.sort(key=lambda item: item.path.name != "test_cluster.py")


SWEEP = """
name: small
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512, sample_bytes: 200_000}}
sources:
  prose: {kind: text, path: PROSE}
  python: {kind: code, path: CODE}
  asks: {kind: instruct_text, path: ASKS}
stages:
  - name: pretrain
    tokens: 8_192
    sequence_length: 64
    batch_tokens: 1_024
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {uniform: [0.0, 0.75]}}
    schedule: {search: {choice: [constant, increase, decrease]}}
  - name: instruct
    tokens: 2_048
    sequence_length: 256
    batch_tokens: 1_024
    learning_rate: {peak: 1.0e-3, schedule: linear, final: 0.0}
    responses_only: true
    weights: {asks: 1.0}
evaluation: {tasks: [boxes], limit: 8}
search: {trials: 2, sampler: random}
scaling: {slots: 1, checkpoint_seconds: 1}
"""


def make_sweep_text() -> str:
    """A whole sweep file over builtin sources."""
    text = SWEEP.replace("PROSE", '"builtin:python-prose", limit_documents: 200')
    text = text.replace("CODE", '"builtin:python-code", limit_documents: 40')
    return text.replace("ASKS", '"builtin:tasks-instruct", limit_documents: 400')


@pytest.fixture(autouse=True)
def no_rank_left_behind():
    """A process that trained has its rank in the environment; a command started from it later would look for peers."""
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def sweep_text() -> str:
    return make_sweep_text()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory):
    """The `ray` module, connected to a local Ray with four logical CPUs that all tests share."""
    import ray

    from raycodellm import cluster, config

    log = tmp_path_factory.mktemp("ray") / "ray.log"
    connected = cluster.connect("local", config.Scaling(slots=2), log_to=log)
    yield ray
    cluster.disconnect(connected)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real corpora; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("RAYCODELLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RAYCODELLM_TEST_DATA")
    return folder
