"""Each score that a task gives its items is a metric with its interval; what could not be run is in no mean."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from test_evaluation import write_model

from raycodellm import compare, evaluation, pairs
from raycodellm.config import Evaluation, Objective, UserError
from raycodellm.evaluation.isolation import quiet
from raycodellm.evaluation.scores import objectives
from raycodellm.evaluation.scores.averages import average_metrics
from raycodellm.evaluation.scores.corpus_metrics import corpus_metrics, jackknife_interval
from raycodellm.evaluation.scores.item_scores import item_scores
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.scores.metrics import task_metrics
from raycodellm.evaluation.scoring import judge
from raycodellm.evaluation.tasks.names import TaskNames
from raycodellm.statistics import mean_interval, wilson_interval


def item(number: int, task: str = "code", **columns: object) -> dict:
    row = {"task": task, "item": number, "doc_hash": str(number), "chance": 0.0, "too_long": False, "attributes": "{}"}
    return row | columns


def test_each_score_of_the_items_is_a_metric_with_its_interval():
    rows = [item(0, scores={"pass@1": 1.0, "f1": 0.5}), item(1, scores={"pass@1": 0.0, "f1": 0.7})]
    found = task_metrics("code", rows)
    assert (found["code/pass@1"], found["code/f1"]) == (0.5, pytest.approx(0.6))
    assert (found["code/pass@1_low"], found["code/pass@1_high"]) == wilson_interval(1, 2)
    assert found["code/f1_high"] == mean_interval([0.5, 0.7]).high
    assert "code/pass@1_items" not in found, "every item has one"


def test_a_score_that_only_some_items_have_is_the_mean_over_these():
    rows = [item(0, scores={"acc_moved": 1.0}), item(1, scores={}), item(2, scores={"acc_moved": 0.0})]
    found = task_metrics("code", rows)
    assert (found["code/acc_moved"], found["code/acc_moved_items"], found["code/items"]) == (0.5, 2.0, 3.0)


def test_an_item_that_was_not_run_is_counted_and_in_no_mean():
    rows = [
        item(0, **item_scores({"pass@1": 1.0}, {}), bits_per_byte=1.0, num_bytes=2),
        item(1, **item_scores({"pass@1": 0.0, "not_run": True}, {}), bits_per_byte=9.0, num_bytes=2),
        item(2, too_long=True),
    ]
    judge(rows)
    found = task_metrics("code", rows)
    assert (found["code/items"], found["code/not_run"], found["code/too_long"]) == (1.0, 1.0, 1.0)
    assert found["code/pass@1"] == found["code/acc"] == found["code/bpb"] == 1.0
    assert [row.get("correct") for row in rows] == [True, None, None]
    table = items_table(rows, {"code": ["code"]})
    for name in ("code/pass@1", "code/acc", "code/bpb", "mean/acc"):
        assert [len(sample) for sample in evaluation.samples(table, name)] == [1], name


def test_a_task_of_which_nothing_could_be_run_has_no_score():
    rows = [item(0, **item_scores({"not_run": 1}, {}))]
    judge(rows)
    assert task_metrics("code", rows) == {"code/items": 0.0, "code/too_long": 0.0, "code/not_run": 1.0}


def test_accuracy_over_clean_items_leaves_out_those_of_the_training_data():
    rows = [item(n, correct=n < 3, contaminated=n < 2) for n in range(4)]
    found = task_metrics("code", rows)
    assert (found["code/contaminated"], found["code/acc"], found["code/acc_clean"]) == (2.0, 0.75, 0.5)
    assert "code/contaminated" not in task_metrics("code", [item(0, correct=True)]), "not looked for"
    (sample,) = evaluation.samples(items_table(rows, {"code": ["code"]}), "code/acc_clean")
    assert sample == {("code", 2): 1.0, ("code", 3): 0.0}


def test_samples_of_an_own_score_and_of_a_part_are_those_that_the_metric_is_the_mean_of():
    easy, hard = (json.dumps({"part": part}) for part in ("easy", ["hard", "very_hard"]))
    rows = [
        item(0, scores={"f1": 0.5}, attributes=easy, correct=True),
        item(1, scores={"f1": 1.0}, attributes=hard, correct=False),
        item(0, task="other", scores={"f1": 0.0}, attributes=hard),
    ]
    table = items_table(rows, {"both": ["code", "other"]})
    metrics = task_metrics("both", rows)
    for name, size in (("both/f1", 3), ("both/f1_hard", 2), ("both/f1_very_hard", 2), ("both/acc_easy", 1)):
        (sample,) = evaluation.samples(table, name)
        assert len(sample) == size and np.mean([*sample.values()]) == pytest.approx(metrics[name]), name
    assert evaluation.samples(table, "code/f1") == [{("code", 0): 0.5, ("code", 1): 1.0}]
    for none in ("both/f1_low", "both/f2", "both/acc_unknown", "mean/f1"):
        assert evaluation.samples(table, none) == [], none


def test_pairs_compare_every_score_and_the_accuracy_of_every_part():
    part = json.dumps({"part": "3_steps"})
    tables = [
        items_table([item(n, scores={"em": 0.25 * (n + more)}, correct=True, attributes=part) for n in range(3)], {})
        for more in (0, 1)
    ]
    named = [one.replace_schema_metadata(None) for one in tables]
    lines = compare.difference_lines(pairs.differences(*named))
    assert lines == [
        "code/acc: +0.0000 (-0.5615 to +0.5615), p 1.00, corrected 1.00 (McNemar)",  # three equal answers
        "code/em: +0.2500 (+0.2500 to +0.2500)",
        "code/acc_3_steps: +0.0000 (-0.5615 to +0.5615)",
    ]


def test_pairs_compare_clusters_over_the_items_that_both_models_were_scored_on():
    def table(*of_items: dict) -> pa.Table:
        cluster = json.dumps({"cluster": 0})
        rows = [item(n, attributes=cluster, num_bytes=10 * n + 1, **one) for n, one in enumerate(of_items)]
        return items_table(rows, {"code": ["code"]})

    right, wrong = ({"correct": one, "bits_per_byte": 2.0 - one} for one in (True, False))
    for left_out in ({"too_long": True}, {"not_run": True}):
        found = pairs.differences(table(right, wrong), table(right, left_out))
        assert [found[f"code/{name}"].interval.value for name in ("acc", "bpb", "bpb_corpus")] == [0.0, 0.0, 0.0]
        assert pairs.differences(table(left_out, wrong), table(wrong, left_out))["code/acc"] is None


def test_tables_of_older_versions_are_read():
    new = items_table([item(0, correct=True, bits_per_byte=2.0), item(1, correct=False, bits_per_byte=1.0)], {})
    old = new.drop_columns(["num_bytes", "not_run", "contaminated", "scores", "corpus_scores"])
    old = old.replace_schema_metadata(None)
    assert evaluation.samples(old, "code/acc") == [{("code", 0): 1.0, ("code", 1): 0.0}]
    assert [len(one) for one in evaluation.samples(old, "mean/bpb")] == [2]
    assert evaluation.samples(old, "code/bpb_corpus") == evaluation.samples(old, "code/pass@1") == []
    assert pairs.differences(old, new.replace_schema_metadata(None))["code/acc"].interval.value == 0.0


def test_bits_per_byte_of_all_items_are_their_bits_over_their_bytes():
    bits, num_bytes = np.array([10.0, 4.0, 30.0, 7.0]), np.array([5, 4, 10, 7])
    rows = [
        item(n, bits_per_byte=one / size, num_bytes=int(size))
        for n, (one, size) in enumerate(zip(bits, num_bytes, strict=True))
    ]
    found = task_metrics("code", rows)
    ratio = bits.sum() / num_bytes.sum()
    assert found["code/bpb_corpus"] == pytest.approx(ratio)
    assert found["code/bpb"] == pytest.approx((bits / num_bytes).mean()) != ratio
    # The linearised error of a ratio estimate (Cochran 1977, equation 2.46), with Student's t of 3 degrees.
    error = math.sqrt(((bits - ratio * num_bytes) ** 2).sum() / 3 / 4) / num_bytes.mean()
    assert found["code/bpb_corpus_high"] - ratio == pytest.approx(3.1824 * error, rel=1e-3)
    (sample,) = evaluation.samples(items_table(rows, {}), "code/bpb_corpus")
    assert np.mean([*sample.values()]) == pytest.approx(ratio)


def test_the_tables_columns_survive_a_file(tmp_path):
    import pyarrow.parquet as pq

    rows = [item(0, scores={"pass@1": 1.0}, not_run=False, contaminated=None, num_bytes=3)]
    pq.write_table(items_table(rows, {"code": ["code"]}), tmp_path / "items.parquet")
    (row,) = pq.read_table(tmp_path / "items.parquet").to_pylist()
    assert dict(row["scores"]) == {"pass@1": 1.0}
    assert (row["not_run"], row["contaminated"], row["num_bytes"]) == (False, None, 3)
    assert task_metrics("code", [row])["code/pass@1"] == 1.0


def test_a_tasks_further_filters_give_scores_of_their_own(tmp_path):
    text = (
        "task: own\ncustom_dataset: !function raycodellm.tasks.boxes.dataset\noutput_type: generate_until\n"
        "test_split: test\ndoc_to_text: question\ndoc_to_target: '{{choices[gold]}}'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4, do_sample: false}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        "filter_list:\n"
        "  - {name: as-it-is, filter: [{function: take_first}]}\n"
        "  - {name: gold, filter: [{function: custom, filter_fn: !function helper.gold}, {function: take_first}]}\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "helper.py").write_text(
        "def gold(answers, docs):\n    return [[doc['choices'][doc['gold']]] for doc in docs]\n"
    )
    settings = Evaluation(tasks=(str(tmp_path / "own.yaml"),), limit=4)
    found = evaluation.evaluate(write_model(tmp_path / "model"), settings)
    assert (found.metrics["own/exact_match"], found.metrics["own/exact_match,gold"]) == (0.0, 1.0)
    assert found.metrics["own/acc"] == 0.0, "the first filter counts"
    assert len(evaluation.samples(found.items, "own/exact_match,gold")[0]) == 4


# ------------------------------------------------------------------------------------------- aggregations of a corpus


def test_a_tasks_own_aggregation_is_a_metric_and_its_inputs_are_no_scores():
    from lm_eval.api import metrics as theirs

    chance = np.random.default_rng(0)
    pairs = [(int(gold), np.int64(gold if chance.random() < 0.8 else 1 - gold)) for gold in chance.integers(0, 2, 100)]
    logs = chance.normal(-2, 0.3, 100)
    aggregations = {"mcc": theirs.matthews_corrcoef, "perplexity": theirs.perplexity, "acc": theirs.mean}
    rows = [
        item(n, **item_scores({"acc": 1, "mcc": pair, "perplexity": log, "nothing": math.nan}, aggregations))
        for n, (pair, log) in enumerate(zip(pairs, logs, strict=True))
    ]
    assert rows[0]["scores"] == {"acc": 1.0}
    found = corpus_metrics("code", aggregations, pa.Table.from_pylist(rows).to_pylist())
    assert found["code/mcc"] == pytest.approx(theirs.matthews_corrcoef(pairs))
    assert found["code/perplexity"] == pytest.approx(math.exp(-logs.mean()))
    half = found["code/perplexity_high"] - found["code/perplexity"]
    by_delta = 2.093 * found["code/perplexity"] * logs.std(ddof=1) / 10
    assert 0.6 < half / by_delta < 1.5, "the jackknife agrees with the delta method"
    assert "code/perplexity" not in task_metrics("code", rows) and "code/acc" not in found


def test_the_jackknife_of_a_mean_is_right_in_95_of_100_cases():
    chance = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = jackknife_interval(lambda values: sum(values) / len(values), chance.exponential(1.0, 100).tolist())
        hits += found.low <= 1.0 <= found.high
    assert 0.90 < hits / 200 < 0.98


def test_items_of_a_cluster_are_left_out_together():
    """Ten copies of each item say no more than the item does."""
    numbers = np.random.default_rng(2).normal(size=60)

    def mean(values):
        return sum(values) / len(values)

    alone = jackknife_interval(mean, numbers.tolist())
    copied = jackknife_interval(mean, np.repeat(numbers, 10).tolist(), np.repeat(np.arange(60), 10).tolist())
    assert copied == pytest.approx(alone)


def test_items_of_a_cluster_count_as_one_beside_items_that_stand_alone():
    """A long document in ten pieces among 49 short ones: sixty numbers say as much as fifty."""
    numbers = np.random.default_rng(3).normal(size=50).tolist()
    rows = [item(n, bits_per_byte=one, num_bytes=100) for n, one in enumerate(numbers)]
    pieces = [item(50 + n, bits_per_byte=9.0, num_bytes=10, attributes=json.dumps({"cluster": 0})) for n in range(10)]
    whole = [item(50, bits_per_byte=9.0, num_bytes=100)]
    cut, uncut = task_metrics("code", rows + pieces), task_metrics("code", rows + whole)
    for end in ("", "_low", "_high"):
        assert cut[f"code/bpb_corpus{end}"] == pytest.approx(uncut[f"code/bpb_corpus{end}"])
    (sample,) = evaluation.samples(items_table(rows + pieces, {"code": ["code"]}), "code/bpb_corpus")
    (other,) = evaluation.samples(items_table(rows + whole, {"code": ["code"]}), "code/bpb_corpus")
    assert sorted(sample.values()) == pytest.approx(sorted(other.values()))

    def mean(values):
        return sum(values) / len(values)

    doubled, rest = [numbers[0], *numbers], range(1, 50)
    assert jackknife_interval(mean, doubled, [0, 0, *[None] * 49]) == jackknife_interval(mean, doubled, [0, 0, *rest])


@pytest.mark.parametrize(
    ("weak", "strong", "accuracy"),
    [
        ({"f1": 0.0, "em": 0.0}, {"f1": 0.5, "em": 2 / 3}, "em"),  # QuAC, of several references
        ({"pass@1": 0.0, "pass@10": 0.0}, {"pass@1": 0.3, "pass@10": 1.0}, "pass@1"),
        ({"acc": 0.0, "exact_match": 0.0}, {"acc": 0.5, "exact_match": 1.0}, "acc"),
    ],
)
def test_the_accuracy_of_a_task_is_the_same_score_for_every_model(weak, strong, accuracy):
    for scores in (weak, strong):
        rows = [item(n, **item_scores(scores, {})) for n in range(3)]
        judge(rows)
        found = task_metrics("code", rows)
        assert found["code/acc"] == pytest.approx(scores[accuracy]) and found["code/chance"] == 0.0


def test_a_score_between_0_and_1_is_no_accuracy_because_a_weak_model_has_0():
    rows = [item(n, **item_scores({"f1": 0.0}, {})) for n in range(3)]
    judge(rows)
    assert not {"code/acc", "code/chance"} & task_metrics("code", rows).keys()


def test_too_few_items_and_undefined_aggregates_have_no_interval():
    assert math.isnan(jackknife_interval(max, [1.0] * 39).low)
    assert jackknife_interval(lambda values: math.nan, [1.0] * 40) is None
    assert jackknife_interval(lambda values: {"a": 1}, [1.0] * 40) is None
    rows = [item(0, **item_scores({"longest": 3.0}, {"longest": max}))]
    assert corpus_metrics("code", {"longest": max}, rows) == {"code/longest": 3.0}


def test_an_aggregation_that_fails_says_which_task_it_is_of():
    def broken(values):
        raise ZeroDivisionError("no pairs")

    with pytest.raises(UserError, match=r"'code': the aggregation of its metric 'odd' fails .*ZeroDivisionError: no p"):
        corpus_metrics("code", {"odd": broken}, [item(0, **item_scores({"odd": 1.0}, {"odd": broken}))])


@pytest.mark.parametrize(
    "target, metrics, said",
    [
        ("many", "bleu", "metric_list names bleu, .*several right answers"),
        ("many", "acc", "metric_list names acc, .*any answer has 1; its items have several right answers"),
        ("text", "acc", "metric_list names acc, .*gives no number"),
        ("text", "f1", "metric_list names f1, .*ValueError"),
        # looked for on the hub by `evaluate`, three times half a second apart
        pytest.param("text", "nosuch", "metric_list names a metric of no known aggregation", marks=pytest.mark.slow),
        ("text", "bleu", None),
        ("many", "exact_match", None),
    ],
)
def test_a_metric_that_cannot_be_made_of_generated_answers_is_refused_when_the_task_is_loaded(
    tmp_path, target, metrics, said
):
    rows = [{"q": "Say:", "text": f"word {n}", "many": [f"word {n}", "none"]} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}}}\n"
        f"test_split: test\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: {target}\n"
        f"metric_list: [{{metric: {metrics}}}]\n"
    )
    with quiet(), contextlib.nullcontext() if said is None else pytest.raises(UserError, match=said):
        evaluation.load_tasks((str(tmp_path / "own.yaml"),), 0)


# --------------------------------------------------------------------------------------------------- suites' averages


AVERAGES = {"reasoning/acc": ("one", "two"), "knowledge/em": ("one", "two"), "code/bleu": ("one", "two")}


def two_tasks() -> tuple[dict[str, float], pa.Table]:
    rows = [item(n, task="one", correct=n < 3, scores={"exact_match": n / 4}, chance=0.25) for n in range(4)]
    rows += [item(n, task="two", correct=n < 1, scores={"em": 1.0}, chance=0.5) for n in range(2)]
    metrics = task_metrics("one", rows[:4]) | task_metrics("two", rows[4:])
    return metrics, items_table(rows, {"one": ["one"], "two": ["two"]})


def test_an_average_of_a_suite_is_the_unweighted_mean_of_its_tasks_with_an_interval():
    metrics, table = two_tasks()
    known = evaluation.Items(table, AVERAGES)
    found = average_metrics(AVERAGES, metrics, known.samples)
    assert (found["reasoning/acc"], found["reasoning/chance"]) == ((0.75 + 0.5) / 2, 0.375)
    halves = [metrics[f"{task}/acc"] - metrics[f"{task}/acc_low"] for task in ("one", "two")]
    assert found["reasoning/acc"] - found["reasoning/acc_low"] == pytest.approx(math.hypot(*halves) / 2)
    assert found["knowledge/em"] == (0.375 + 1.0) / 2, "lm-eval calls it exact_match"
    assert "code/bleu" not in found and "knowledge/chance" not in found
    samples = known.samples("reasoning/acc")
    assert [len(sample) for sample in samples] == [4, 2] and evaluation.samples(table, "reasoning/acc") == []
    gaps = pairs.differences(table, table, AVERAGES)
    assert gaps["reasoning/acc"].interval.value == 0.0 and "code/bleu" not in gaps


def test_an_average_of_aggregates_without_intervals_has_none():
    assert average_metrics(AVERAGES, {"one/bleu": 3.0, "two/bleu": 5.0}, lambda name: []) == {"code/bleu": 4.0}


def test_an_average_that_lacks_a_task_has_no_value_but_a_reason():
    metrics = task_metrics("one", [item(0, task="one", correct=True)])
    metrics |= task_metrics("two", [item(0, task="two", not_run=True)])
    averages = {**AVERAGES, "reasoning/f1": ("one", "three")}
    assert average_metrics(averages, metrics, lambda name: []) == {}
    assert evaluation.missing_averages(averages, metrics) == {
        "reasoning/acc": "no item of two was scored (1 not run, 0 too long)",
        "knowledge/em": "one has no score 'em'; no item of two was scored (1 not run, 0 too long)",
        "code/bleu": "one has no score 'bleu'; no item of two was scored (1 not run, 0 too long)",
        "reasoning/f1": "one has no score 'f1'; three was not evaluated",
    }


def test_the_average_of_a_suite_is_an_objective():
    for metric in ("reasoning/acc", "reasoning/acc_low"):
        objective = Objective(metric=metric, mode="max")
        objectives.check_objective(objective, ("boxes",), TaskNames(), {"reasoning/acc": ("boxes",)})
        with pytest.raises(UserError, match=r"'reasoning/acc.*use for example boxes/bpb"):
            objectives.check_objective(objective, ("boxes",), TaskNames(), {})
