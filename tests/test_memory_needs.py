"""A sweep says what memory a worker needs, and what cannot fit is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raycodellm import cluster, memory_needs, model, preflight
from raycodellm.config import Model, Scaling, Stage, UserError, parse
from raycodellm.memory_needs import GIB, worker_need


def stage(sequence_length: int = 2048, sequences: int = 4, **more) -> Stage:
    sizes = {"tokens": 10**6, "sequence_length": sequence_length, "batch_tokens": sequences * sequence_length}
    return Stage.model_validate({"name": "s", **sizes, "learning_rate": {"peak": 0.1}, "weights": {"a": 1.0}, **more})


def scaling(workers: int = 1, **deepspeed) -> Scaling:
    return Scaling(workers=workers, deepspeed=deepspeed)


LARGE = model.shape(Model(preset="2.8b"), 256_000)


def test_a_model_of_3_billion_parameters_is_refused_on_24_gib_and_fits_into_80() -> None:
    need = worker_need(LARGE, stage(), scaling(micro_batch=1))
    assert need.weights + need.gradients + need.moments == 20 * LARGE.parameters  # 8 + 4 + 8 bytes each
    reason = memory_needs.reason_it_cannot_fit(need, Scaling(), [24 * GIB])
    assert "weights 21" in reason and "the largest machine has 24 GiB" in reason and "smaller model" in reason
    assert memory_needs.reason_it_cannot_fit(need, Scaling(), [80 * GIB]) is None
    assert "scaling.workers: 3" in memory_needs.reason_it_cannot_fit(need, Scaling(workers=4), [80 * GIB] * 3)


def test_what_zero_shares_and_what_is_offloaded_is_not_counted_whole() -> None:
    whole = worker_need(LARGE, stage(), scaling(4, zero=0))
    parts = [worker_need(LARGE, stage(), scaling(4, zero=zero)) for zero in (1, 2, 3)]
    assert whole.moments == 4 * parts[0].moments and whole.gradients == parts[0].gradients
    assert whole.gradients == 4 * parts[1].gradients and parts[2].weights == whole.weights / 2
    half = worker_need(LARGE, stage(numerics={"precision": "bf16"}), scaling(zero=0))
    assert half.weights == 6 * LARGE.parameters and half.gradients == 2 * LARGE.parameters
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    on_gpu = Scaling(gpus_per_worker=1)
    assert worker_need(LARGE, stage(numerics={"deepspeed_config": offload}), on_gpu).moments == 0.0
    assert (
        worker_need(LARGE, stage(numerics={"deepspeed_config": offload}), Scaling()).moments > 0.0
    )  # it is host memory all along


def test_activations_go_with_the_sequences_of_a_pass_and_checkpointing_keeps_few() -> None:
    one = worker_need(LARGE, stage(), scaling(micro_batch=1)).activations
    assert worker_need(LARGE, stage(), scaling()).activations == 4 * one
    assert worker_need(LARGE, stage(), scaling(2)).activations == 2 * one
    assert worker_need(LARGE, stage(), scaling(micro_batch="auto")).activations == one
    assert worker_need(LARGE, stage(), scaling(micro_batch=1, activation_checkpointing=True)).activations < one / 10
    reason = memory_needs.reason_it_cannot_fit(worker_need(LARGE, stage(8192, 64), scaling()), Scaling(), [80 * GIB])
    assert "micro_batch: 1" in reason


@pytest.mark.parametrize("preset", ["tiny", "mini", "midi"])
def test_what_is_said_of_activations_is_what_a_model_keeps(preset: str) -> None:
    from raycodellm.engine import micro_batch

    settings = Model(preset=preset)
    per_sequence, _ = micro_batch.bytes_kept(model.build(settings, 512, seed=0), stage(128, 1), scaling())
    said = worker_need(model.shape(settings, 512), stage(128, 1), scaling()).activations
    assert 0.9 < said / per_sequence < 1.0


def test_a_joined_cluster_is_asked_what_its_nodes_have() -> None:
    fit = preflight.MemoryFit(worker_need(LARGE, stage(), scaling(micro_batch=1)))
    small = cluster.Cluster("a:1", None, False, (cluster.Node(8, memory_bytes=16 * GIB),) * 2)
    with pytest.raises(UserError, match=r"a worker needs 6.*GiB.*the largest machine has 22\.9 GiB"):
        preflight.fit_on_cluster(fit, small, Scaling())
    large = cluster.Cluster("a:1", None, False, (cluster.Node(8, memory_bytes=70 * GIB),) * 2)
    assert "the largest of its 2 nodes has 100 GiB" in str(preflight.fit_on_cluster(fit, large, Scaling(workers=2)))
    head = cluster.Node(0, memory_bytes=500 * GIB)  # of no use to a worker: Ray may use none of its CPUs
    with pytest.raises(UserError, match=r"the largest machine has 22\.9 GiB"):
        preflight.fit_on_cluster(fit, replace(small, nodes=(head, *small.nodes)), Scaling())
    unknown = cluster.Cluster("a:1", None, False, (cluster.Node(8),))
    assert "not known" in str(preflight.fit_on_cluster(fit, unknown, Scaling()))


def test_the_most_that_a_sweep_may_try_is_what_counts(sweep_text: str) -> None:
    both = "model={search: {choice: [{preset: tiny}, {preset: nano}]}}"
    need = memory_needs.largest_need(parse(sweep_text, overrides=(both,)), 512)
    assert need.moments == 8 * model.num_parameters(Model(preset="nano"), 512)
    assert memory_needs.machine_bytes() > GIB / 4
