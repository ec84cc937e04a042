"""Per-item results of each output type: to the bit with any number of workers, within rounding with any batch size."""

from __future__ import annotations

import pytest
from test_evaluation import write_model, write_task
from worker_group import together

from raycodellm.config import Evaluation
from raycodellm.evaluation import evaluate

GREEDY = 'generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}\n'
SAMPLED = "generation_kwargs: {until: [], max_gen_toks: 6, do_sample: true, temperature: 1.0}\n"
TASKS = {
    "multiple_choice": ("multiple_choice", "acc", {"extra": "doc_to_choice: choices\n"}),
    "loglikelihood": ("loglikelihood", "acc", {}),
    "loglikelihood_rolling": ("loglikelihood_rolling", "word_perplexity", {"text": '""'}),
    "generate_until": ("generate_until", "exact_match", {"extra": GREEDY}),
    "generate_until, sampled": ("generate_until", "exact_match", {"extra": SAMPLED}),
}
NUM_ITEMS = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[*TASKS])
def task(request, tmp_path) -> str:
    kind, metric, options = TASKS[request.param]
    options = {"aggregation": "weighted_perplexity", **options} if "rolling" in kind else options
    return write_task(tmp_path, kind, metric, **options)


@pytest.mark.slow
def test_workers_change_no_bit_and_batch_sizes_only_rounding(model, task):
    settings = Evaluation(tasks=(task,), limit=NUM_ITEMS, batch_size=4)
    alone = evaluate(model, settings)
    assert alone.items.num_rows == NUM_ITEMS
    for one in together(2, lambda rank, gather: evaluate(model, settings, rank=rank, world_size=2, gather=gather)):
        assert one.items == alone.items and one.metrics == alone.metrics
    rows = alone.items.to_pylist()
    for batch_size in (1, 64):
        other = evaluate(model, settings.model_copy(update={"batch_size": batch_size})).items.to_pylist()
        for one, same in zip(other, rows, strict=True):
            assert one["bits_per_byte"] == pytest.approx(same["bits_per_byte"], rel=1e-5)
            kept = one.keys() - {"bits_per_byte", "scores", "corpus_scores"}  # the last two may hold likelihoods too
            assert {name: one[name] for name in kept} == {name: same[name] for name in kept}
