"""Models larger than a device: sharded over a node's GPUs for all workers, or refused with what would work."""

from __future__ import annotations

import pytest
from test_evaluation import write_model
from worker_group import together

from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import evaluate
from raycodellm.evaluation.engine import language_model
from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.placement import Memory, sharded_over, weight_bytes
from raycodellm.evaluation.isolation import quiet
from raycodellm.memory_needs import GIB
from raycodellm.tasks import training_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def gpus(*free: float, own: int = 0, node: str = "a") -> Memory:
    return Memory(node, free[own] * GIB, tuple(one * GIB for one in free))


def test_a_model_that_every_workers_device_holds_is_on_each():
    assert sharded_over(10 * GIB, [gpus(80, 80), gpus(80, 80, own=1)]) is None
    assert sharded_over(10 * GIB, [Memory("a", 24 * GIB)]) is None


def test_a_model_that_one_device_cannot_hold_is_sharded_over_the_nodes_gpus_by_the_first_worker():
    limits = sharded_over(100 * GIB, [gpus(80, 60), gpus(80, 60, own=1)])
    assert limits == {0: pytest.approx(72 * GIB), 1: pytest.approx(54 * GIB)}


@pytest.mark.parametrize(
    ("weights", "workers", "said"),
    [
        (100, [Memory("a", 24 * GIB)], r"take 100 GiB, and the machine has 24 GiB of memory; .*GPUs hold the model"),
        (130, [gpus(80, 60)], r"take 130 GiB, and the node's 2 visible GPUs have 126 GiB for weights; .* larger GPUs"),
        (100, [gpus(80), gpus(80, node="b")], r"worker's GPU has 80 GiB free; .*workers are on 2 nodes: .*raycodellm"),
    ],
)
def test_a_model_that_fits_nowhere_is_refused_with_the_memory_and_what_would_work(weights, workers, said):
    with pytest.raises(UserError, match=said):
        sharded_over(weights * GIB, workers)


def test_the_weights_bytes_are_those_of_the_parameters(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder)
    bytes_of = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert weight_bytes(str(folder)) == pytest.approx(bytes_of, rel=0.02)
    model.config.save_pretrained(tmp_path)  # as a name on the hub, of which nothing is here yet
    assert weight_bytes(str(tmp_path)) == bytes_of


def test_a_model_whose_layers_lie_apart_gives_the_same_numbers(folder, tmp_path):
    with quiet():
        whole = language_model.load_model(str(folder), 8, "cpu")
        limits = {"cpu": int(weight_bytes(str(folder)) * 0.7)}
        apart = language_model.load_model(str(folder), 8, "cpu", limits, str(tmp_path))
    assert set(apart.model.hf_device_map.values()) >= {"cpu", "disk"}
    assert apart.shares_beginnings
    texts = [*training_examples(5, 6)]
    pairs = [whole.encoder.encode_pair(prompt, answer) for prompt, _ in texts for _, answer in texts[:3]]
    expected = [value for value, _ in whole.likelihoods(pairs)]
    assert [value for value, _ in apart.likelihoods(pairs)] == pytest.approx(expected, rel=1e-6)
    prompts, seeds = [whole.tok_encode(prompt) for prompt, _ in texts], [""] * 6
    assert apart.generate(prompts, seeds, Decoding(8)) == whole.generate(prompts, seeds, Decoding(8))


def test_the_first_worker_scores_for_all_where_it_alone_holds_the_model(folder, monkeypatch):
    settings = Evaluation(tasks=("logical_deduction",), limit=24, batch_size=8)
    alone = evaluate(folder, settings)
    monkeypatch.setattr(language_model, "sharded_over", lambda weights, workers: {0: weights})
    monkeypatch.setattr(language_model, "whole_bytes", lambda limits: {"cpu": 2**30})  # no GPU is here

    def work(rank, gather):
        return evaluate(folder, settings, rank=rank, world_size=2, gather=gather)

    first, second = together(2, work)
    assert first.metrics == second.metrics == alone.metrics and first.items == alone.items
