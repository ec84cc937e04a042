"""Scores of a small untrained model: as lm-eval gives them, the same on any number of workers, nothing cut unsaid."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow.fs import LocalFileSystem
from worker_group import together

from raycodellm import evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import evaluate
from raycodellm.evaluation.scores import items_table as tables
from raycodellm.files import Folder
from raycodellm.statistics import (
    correlations,
    mean_interval,
    mean_of_intervals,
    mean_variance,
    student_quantile,
    wilson_interval,
)
from raycodellm.tasks import FOLDER, boxes, training_examples

BOTH = ("boxes", "logical_deduction")

# ---------------------------------------------------------------------------------------------------------- statistics


def test_wilson_intervals_are_those_of_the_textbook():
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I
    low, high = wilson_interval(0, 20)
    assert low == 0.0 and round(high, 4) == 0.1611
    low, high = wilson_interval(20, 20)
    assert high == 1.0 and round(low, 4) == 0.8389
    for wrong in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is not a share"):
            wilson_interval(*wrong)


@pytest.mark.parametrize(
    ("degrees", "exact"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (999, 1.9623)],
)
def test_student_quantiles_are_those_of_the_tables(degrees, exact):
    assert student_quantile(degrees) == pytest.approx(exact, rel=2e-3)


def test_mean_intervals():
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and high - mean == pytest.approx(3.1824 * math.sqrt(5 / 3 / 4), rel=2e-3)
    assert low == pytest.approx(5 - high)
    assert mean_interval([0.5]) == (0.5, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_the_interval_of_a_mean_of_tasks_adds_the_distances_in_squares():
    mean, low, high = mean_of_intervals([(0.5, 0.4, 0.6), (0.0, 0.0, 0.4)])
    assert (mean, low) == (0.25, 0.2) and high == pytest.approx(0.25 + math.hypot(0.1, 0.4) / 2)


def items_table(correct: list[bool | None], task: str = "boxes", hashes: str = "h") -> pa.Table:
    rows = [
        {
            "task": task,
            "item": item,
            "doc_hash": f"{hashes}{item}",
            "correct": one,
            "too_long": False,
            "attributes": "{}",
        }
        for item, one in enumerate(correct)
    ]
    return pa.Table.from_pylist(rows, schema=evaluation.ITEMS_SCHEMA)


def test_means_that_share_items_are_correlated_and_their_mean_is_less_sure():
    alone, group = {1: 0.0, 2: 1.0}, {1: 0.0, 2: 1.0, 3: 0.0, 4: 1.0}
    found = correlations([alone, group, {9: 1.0, 8: 0.0}])
    assert found[0, 1] == found[1, 0] == pytest.approx(math.sqrt(0.5)) and found[0, 2] == 0.0
    interval = mean_of_intervals([(0.0, -1.0, 1.0), (0.0, -1.0, 1.0)], found[:2, :2])
    assert interval[2] == pytest.approx(math.sqrt(2 + 2 * math.sqrt(0.5)) / 2)
    # The whole twice over is as sure as the whole once.
    assert mean_variance([group, group]).value == pytest.approx(mean_variance([group]).value)


def test_samples_are_of_the_tasks_as_they_were_named():
    rows = [*items_table([True, False]).to_pylist(), *items_table([True, None, True], task="other").to_pylist()]
    whole = tables.items_table(rows, {"group": ["boxes", "other"], "other": ["other"]})
    group, other = evaluation.samples(whole, "mean/acc")
    assert group == {("boxes", 0): 1.0, ("boxes", 1): 0.0, ("other", 0): 1.0, ("other", 2): 1.0}
    assert [other] == evaluation.samples(whole, "other/acc") and len(other) == 2
    assert evaluation.samples(whole, "boxes/acc") == [{("boxes", 0): 1.0, ("boxes", 1): 0.0}]
    assert evaluation.samples(whole, "mean/bpb") == evaluation.samples(whole, "boxes/acc_deep") == []
    untold = pa.Table.from_pylist(rows, schema=evaluation.ITEMS_SCHEMA)
    assert evaluation.named_tasks(untold) == {"boxes": ("boxes",), "other": ("other",)}


# ---------------------------------------------------------------------------------------------------------- evaluating


def write_model(folder: Path, context: int = 512, num_heads: int = 2) -> Path:
    """A Llama of about 0.1M random parameters and a tokenizer trained on some examples."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end, alphabet = "<|endoftext|>", pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([prompt + response for prompt, response in training_examples(0, 100)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": num_heads}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=700, max_position_embeddings=context, **shape, **ids))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)  # spreads the likelihoods, so that a rounding error does not decide between choices
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def result(model) -> evaluation.EvaluationResult:
    return evaluate(model, Evaluation(tasks=BOTH, limit=24))


def test_every_item_has_a_row_and_every_task_its_metrics(result):
    items = result.items
    assert items.schema == evaluation.ITEMS_SCHEMA and items.num_rows == 48
    assert items["task"].to_pylist() == ["boxes"] * 24 + ["logical_deduction"] * 24
    assert items["item"].to_pylist() == [*range(24), *range(24)]
    assert not any(items["too_long"].to_pylist()) and items["correct"].null_count == 0
    rows = items.to_pylist()
    for row, item in zip(rows[:24], boxes.TASK.evaluated_items, strict=False):
        assert row["gold"] == item.answer and row["prediction"] in item.choices
        assert row["correct"] == (row["prediction"] == item.answer) and row["chance"] == 0.2
        assert json.loads(row["attributes"]) == {"part": item.part, **item.attributes}
        assert 0 < row["bits_per_byte"] < 50 and row["num_prompt_tokens"] > 20
    assert {row["chance"] for row in rows[24:]} == {1 / 3, 1 / 4, 1 / 5, 1 / 6}
    metrics = result.metrics
    assert all(isinstance(value, float) and not math.isnan(value) for value in metrics.values())
    for task, some in (("boxes", rows[:24]), ("logical_deduction", rows[24:])):
        assert metrics[f"{task}/acc"] == pytest.approx(statistics.fmean(row["correct"] for row in some))
        assert metrics[f"{task}/bpb"] == pytest.approx(statistics.fmean(row["bits_per_byte"] for row in some))
        assert metrics[f"{task}/items"] == 24 and metrics[f"{task}/too_long"] == 0
        for metric in ("acc", "bpb"):
            assert metrics[f"{task}/{metric}_low"] < metrics[f"{task}/{metric}"] < metrics[f"{task}/{metric}_high"]
    assert metrics["boxes/chance"] == pytest.approx(0.2)
    assert metrics["logical_deduction/chance"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 4)
    for metric in ("acc", "bpb", "chance"):
        mean = statistics.fmean(metrics[f"{task}/{metric}"] for task in BOTH)
        assert metrics[f"mean/{metric}"] == pytest.approx(mean)
    assert metrics["mean/bpb_low"] < metrics["mean/bpb"] < metrics["mean/bpb_high"]


def test_items_answered_by_copying_are_reported_apart(result):
    rows = [row for row in result.items.to_pylist() if row["task"] == "boxes"]
    copied = [row["correct"] for row in rows if json.loads(row["attributes"])["num_operations"] == 0]
    tracked = [row["correct"] for row in rows if json.loads(row["attributes"])["num_operations"] > 0]
    assert result.metrics["boxes/acc_trivial"] == pytest.approx(statistics.fmean(copied))
    assert result.metrics["boxes/acc_nontrivial"] == pytest.approx(statistics.fmean(tracked))
    assert result.metrics["boxes/items_trivial"] + result.metrics["boxes/items_nontrivial"] == 24
    assert "logical_deduction/acc_3_things" in result.metrics


def test_bits_per_byte_are_the_models_own(model, result):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    for row, item in zip(result.items.to_pylist()[:4], boxes.TASK.evaluated_items, strict=False):
        prompt, whole = (tokenizer.encode(text) for text in (item.question, item.question + " " + item.answer))
        with torch.no_grad():
            logits = network(torch.tensor([whole])).logits[0].log_softmax(-1)
        answer = range(len(prompt), len(whole))
        bits = -sum(float(logits[place - 1, whole[place]]) for place in answer) / math.log(2)
        assert row["bits_per_byte"] == pytest.approx(bits / len(item.answer.encode()), rel=1e-4)
        assert row["num_prompt_tokens"] == len(prompt)


@pytest.mark.slow
@pytest.mark.parametrize("few_shot", [0, 1])
def test_scores_equal_those_of_lm_evals_own_evaluation(tmp_path, few_shot):
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = write_model(tmp_path, context=512 * (1 + few_shot))
    own = evaluate(folder, Evaluation(tasks=BOTH, limit=20, few_shot=few_shot))
    theirs = lm_eval.simple_evaluate(
        "hf",
        {"pretrained": str(folder)},
        list(BOTH),
        num_fewshot=few_shot,
        batch_size=8,
        device="cpu",
        limit=20,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
    )
    assert own.metrics["boxes/too_long"] == 0
    for task in BOTH:
        assert own.metrics[f"{task}/acc"] == pytest.approx(theirs["results"][task]["acc,none"])
        rows = own.items.filter(pc.equal(own.items["task"], task)).to_pylist()
        samples = theirs["samples"][task]
        assert [row["doc_hash"] for row in rows] == [sample["doc_hash"] for sample in samples]
        for row, sample in zip(rows, samples, strict=True):
            likelihood = sample["filtered_resps"][sample["target"]][0]
            bits = -likelihood / math.log(2) / len(row["gold"].encode())
            assert row["bits_per_byte"] == pytest.approx(bits, rel=1e-4)


def test_two_workers_return_what_one_returns(model, result, monkeypatch):
    monkeypatch.setattr("raycodellm.evaluation.scoring._BLOCK_ITEMS", 1)
    settings = Evaluation(tasks=BOTH, limit=24, batch_size=4)
    heard: list[tuple[int, int]] = []
    alone = evaluate(model, settings, on_items=lambda *told: heard.append(told))
    assert heard == [(scored, 48) for scored in range(0, 49, 4)]
    heard.clear()
    for one in together(2, lambda rank, gather: _as_worker(model, settings, rank, gather, heard)):
        assert one.metrics == alone.metrics
        assert one.items == alone.items
    assert heard == [(scored, 48) for scored in range(0, 49, 8)]
    assert alone.metrics == pytest.approx(result.metrics, rel=1e-5)


def _as_worker(model, settings, rank, gather, heard):
    on_items = (lambda *told: heard.append(told)) if rank == 0 else (lambda *told: None)
    return evaluate(model, settings, rank=rank, world_size=2, gather=gather, on_items=on_items)


def test_a_worker_without_items_still_has_the_result(model):
    settings = Evaluation(tasks=("boxes",), limit=3)
    alone = evaluate(model, settings)
    for one in together(2, lambda rank, gather: _as_worker(model, settings, rank, gather, [])):
        assert one.metrics == alone.metrics and one.items == alone.items


def test_items_longer_than_the_context_are_counted_and_not_scored(model, tmp_path):
    settings = Evaluation(tasks=("boxes",), limit=24)
    whole = evaluate(model, settings)
    needs = sorted(whole.items["num_prompt_tokens"].to_pylist())
    short = evaluate(write_model(tmp_path, context=needs[12]), settings)
    rows = short.items.to_pylist()
    assert short.metrics["boxes/too_long"] == sum(row["too_long"] for row in rows) >= 11
    assert short.metrics["boxes/items"] == 24 - short.metrics["boxes/too_long"] > 0
    for row, full in zip(rows, whole.items.to_pylist(), strict=True):
        if row["too_long"]:
            assert row["correct"] is None and row["bits_per_byte"] is None and row["prediction"] is None
            assert row["num_prompt_tokens"] == full["num_prompt_tokens"] and row["gold"] == full["gold"]
        else:
            assert row["bits_per_byte"] == pytest.approx(full["bits_per_byte"], rel=1e-4)
    scored = [row["correct"] for row in rows if not row["too_long"]]
    assert short.metrics["boxes/acc"] == pytest.approx(statistics.fmean(scored))


def test_a_task_of_which_no_item_fits_is_an_error_with_the_numbers(tmp_path):
    with pytest.raises(RuntimeError, match=r"'boxes': all 6 items .* context of 16 tokens; the shortest needs \d+"):
        evaluate(write_model(tmp_path, context=16), Evaluation(tasks=("boxes",), limit=6))


def test_a_likelihood_that_is_no_number_is_an_error_with_task_and_item(model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = AutoModelForCausalLM.from_pretrained(model)
    broken.model.norm.weight.data.fill_(math.nan)
    broken.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    with pytest.raises(FloatingPointError, match="'boxes', item 0: the model's log-likelihood is nan"):
        evaluate(tmp_path, Evaluation(tasks=("boxes",), limit=3))


OTHER_TASK = """
task: {name}
custom_dataset: !function raycodellm.tasks.boxes.dataset
output_type: {kind}
training_split: train
test_split: test
doc_to_text: {text}
doc_to_target: "{{{{choices[gold]}}}}"
metric_list: [{{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}]
"""


def write_task(folder: Path, kind: str, metric: str, aggregation="mean", extra="", text="question") -> str:
    file = folder / f"{kind}.yaml"
    yaml = OTHER_TASK.format(name=f"own_{kind}", kind=kind, metric=metric, aggregation=aggregation, text=text)
    file.write_text(yaml + extra)
    return str(file)


def test_tasks_that_generate_are_scored_by_match_and_by_the_likelihood_of_the_answer(model, result, tmp_path):
    extra = 'generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}\n'
    task = write_task(tmp_path, "generate_until", "exact_match", extra=extra)
    rows = (got := evaluate(model, Evaluation(tasks=(task,), limit=24))).items.to_pylist()
    assert got.metrics["own_generate_until/acc"] == statistics.fmean(row["correct"] for row in rows)
    assert got.metrics["mean/bpb"] == pytest.approx(result.metrics["boxes/bpb"], rel=1e-4)
    assert {row["chance"] for row in rows} == {0.0} and all(isinstance(row["prediction"], str) for row in rows)


@pytest.mark.slow
def test_an_answer_is_written_until_the_context_is_full(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = write_model(tmp_path / "model", context=192)
    endless = 'generation_kwargs: {until: ["no such word"], max_gen_toks: 600, do_sample: false}\n'
    task = write_task(tmp_path, "generate_until", "exact_match", extra=endless)
    (row,) = evaluate(model, Evaluation(tasks=(task,), limit=1)).items.to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = tokenizer(boxes.TASK.evaluated_items[0].question, return_tensors="pt")
    whole = AutoModelForCausalLM.from_pretrained(model).generate(**asked, max_length=192, do_sample=False)[0]
    assert len(whole) == 192 > asked["input_ids"].shape[1] + 50 and not row["too_long"]
    assert row["prediction"] == tokenizer.decode(whole[asked["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_task_of_which_no_item_fits_fails_or_is_left_out_with_the_reason(tmp_path):
    small = write_model(tmp_path / "small", context=24)
    fits = write_task(tmp_path, "loglikelihood", "acc", text='"So"')
    asked = Evaluation(tasks=("boxes", fits), limit=3)
    with pytest.raises(evaluation.NothingFits, match="'boxes': all 3 items are longer than the model's context of 24"):
        evaluate(small, asked)
    said: list[str] = []
    found = evaluate(small, asked, leaves_out_unfit=True, say=said.append)
    assert [line for line in said if "boxes" in line and line.endswith("left out")] == said
    assert "boxes/acc" not in found.metrics and found.metrics["own_loglikelihood/items"] > 0
    assert found.metrics["mean/bpb"] == found.metrics["own_loglikelihood/bpb"]
    with pytest.raises(evaluation.NothingFits):
        evaluate(small, Evaluation(tasks=("boxes",), limit=3), leaves_out_unfit=True)


def test_tasks_of_a_single_likelihood_and_of_whole_texts(model, result, tmp_path):
    one = write_task(tmp_path, "loglikelihood", "acc")
    text = write_task(tmp_path, "loglikelihood_rolling", "word_perplexity", "weighted_perplexity", text='""')
    got = evaluate(model, Evaluation(tasks=(one, text), limit=6))
    rows = got.items.to_pylist()
    assert [row["correct"] for row in rows[:6]] == [False] * 6 and [row["correct"] for row in rows[6:]] == [None] * 6
    assert all(row["bits_per_byte"] > 0 for row in rows)
    assert "own_loglikelihood_rolling/acc" not in got.metrics and got.metrics["own_loglikelihood_rolling/bpb"] > 0
    assert got.metrics["mean/acc"] == got.metrics["own_loglikelihood/acc"] == 0.0


def test_a_group_counts_once_in_the_mean_and_its_interval_is_of_all_its_items(model, result, tmp_path):
    (tmp_path / "group.yaml").write_text("group: group\ntask: [boxes, logical_deduction]\n")
    asked = Evaluation(tasks=("group", "boxes"), limit=24, include=str(tmp_path))
    got = evaluate(model, asked)
    assert evaluation.named_tasks(got.items) == {"group": BOTH, "boxes": ("boxes",)}
    bits = result.items["bits_per_byte"].to_numpy()
    group, boxes = mean_interval(bits.tolist()), mean_interval(bits[:24].tolist())
    assert (got.metrics["group/bpb_low"], got.metrics["group/bpb_high"]) == pytest.approx(group[1:], rel=1e-4)
    assert got.metrics["mean/bpb"] == pytest.approx((group[0] + boxes[0]) / 2, rel=1e-4)
    apart = mean_of_intervals([group, boxes])
    half = got.metrics["mean/bpb_high"] - got.metrics["mean/bpb"]
    assert half > 1.05 * (apart[2] - apart[0]), "the items that both hold make them uncertain together"


def test_a_file_that_is_no_task_is_refused_in_one_line(tmp_path):
    (tmp_path / "group.yaml").write_text("group: both\ntask: [boxes, logical_deduction]\n")
    with pytest.raises(UserError, match=r"^evaluation\.tasks: .*group\.yaml.*cannot be loaded") as refused:
        evaluation.load_tasks((str(tmp_path / "group.yaml"),), 0)
    assert "\n" not in str(refused.value)


def test_what_runs_code_of_the_model_is_refused(model, tmp_path):
    task = write_task(tmp_path, "generate_until", "exact_match", extra="unsafe_code: true\n")
    with pytest.raises(UserError, match="runs code that the model wrote"):
        evaluate(model, Evaluation(tasks=(task,), limit=2))


def test_wrong_requests_say_what_was_wrong(model, tmp_path):
    with pytest.raises(UserError, match=r"there is no model folder .*nothing"):
        evaluate(tmp_path / "nothing", Evaluation(tasks=("boxes",)))
    with pytest.raises(UserError, match="could not be loaded as a Hugging Face language model"):
        evaluate(tmp_path, Evaluation(tasks=("boxes",)))
    with pytest.raises(UserError, match=r"no file '.*tasks\.yaml'"):
        evaluate(model, Evaluation(tasks=(str(tmp_path / "tasks.yaml"),)))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        evaluate(model, Evaluation(tasks=("boxes",)), rank=2, world_size=2, gather=list)
    with pytest.raises(ValueError, match="need a gather"):
        evaluate(model, Evaluation(tasks=("boxes",)), world_size=2)


def test_an_unknown_task_names_near_ones():
    with pytest.raises(UserError, match=r"no task 'boxess'; near names: boxes, "):
        evaluation.check_tasks(["boxes", "boxess"])


def test_folders_of_the_storage_are_models_too(model, result, monkeypatch):
    settings = Evaluation(tasks=("boxes",), limit=24)
    assert evaluate(Folder(str(model)), settings).metrics["boxes/bpb"] == result.metrics["boxes/bpb"]
    monkeypatch.setattr(Folder, "local", None)  # as one on an object store
    monkeypatch.setattr(Folder, "filesystem", LocalFileSystem())
    monkeypatch.setattr(Folder, "path", str(model))
    assert evaluate(Folder("s3://bucket/model"), settings).metrics["boxes/bpb"] == result.metrics["boxes/bpb"]


def test_evaluating_prints_nothing_and_leaves_random_numbers_and_logging_alone(model, capfd):
    import logging
    import random

    import numpy as np
    import torch

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    level, before = logging.getLogger("lm_eval").level, state()
    evaluate(model, Evaluation(tasks=BOTH, limit=4))
    assert state() == before and logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_importing_is_quick_and_evaluating_leaves_the_home_folder_empty(model, tmp_path):
    code = (
        "import sys; from raycodellm import evaluation as e; from raycodellm.config import Evaluation\n"
        "assert not {'lm_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "e.preload(); e.evaluate(sys.argv[1], Evaluation(tasks=('boxes',), limit=2))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_the_lm_eval_command_gives_the_same_accuracy(model, result, tmp_path):
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model}"),
        *("--include_path", str(FOLDER), "--tasks", ",".join(BOTH), "--device", "cpu", "--limit", "24"),
        *("--output_path", str(tmp_path)),
    ]
    # Nothing else of this process's environment: libraries that other tests imported have left settings there.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]
    for task in BOTH:
        assert results[task]["acc,none"] == pytest.approx(result.metrics[f"{task}/acc"])
