"""A task of which no item fits into a model's context is told before a model is trained for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycodellm import config, evaluation
from raycodellm.config import UserError
from raycodellm.evaluation.fit import BUILTIN_TOKENS
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.scoring import instances_by_item
from raycodellm.tasks import BUILTIN, training_examples

TEXTS = [prompt + answer for prompt, answer in training_examples(3, 60)]
CONTEXT = 512


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    return made


def sweep_on(folder: Path, num_words: list[int], kind: str = "loglikelihood", limit: int | None = None):
    """A sweep of the model `tiny` on a task whose items have prompts of so many words."""
    rows = [{"q": "box " * number, "a": "key"} for number in num_words]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}\n"
        f"test_split: test\noutput_type: {kind}\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: a\n"
        f"metric_list: [{{metric: {'exact_match' if kind == 'generate_until' else 'acc'}}}]\n"
    )
    (folder / "text.txt").write_text("box " * 1000)
    stage = {"name": "one", "tokens": 1024, "sequence_length": 32, "batch_tokens": 64, "learning_rate": {"peak": 1e-3}}
    stage["code_ratio"] = 0.0
    tree = {
        "name": "own",
        "model": {"preset": "tiny"},
        "tokenizer": {"train": {"vocab_size": 4000}},
        "sources": {"text": {"kind": "text", "path": str(folder / "text.txt")}},
        "stages": [stage],
        "evaluation": {"tasks": [str(folder / "own.yaml")], **({"limit": limit} if limit else {})},
        "search": {"trials": 1, "objective": {"metric": "mean/bpb", "mode": "min"}},
    }
    return config.parse(json.dumps(tree))


def unfit(file, counter) -> list:
    return evaluation.unfit_tasks(file, 4000, counter)


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_a_task_without_an_item_that_fits_is_refused_with_the_least_that_it_needs(tmp_path, tokenizer, kind):
    counter = evaluation.exact_counter(tokenizer)
    [found] = unfit(sweep_on(tmp_path, [700, 600, 800], kind), counter)
    assert (found.task, found.num_items, found.context, found.is_certain) == ("own", 3, CONTEXT, True)
    assert found.least == pytest.approx(len(counter.tok_encode("box " * 600)), abs=3)
    with pytest.raises(UserError, match=r"own: none of its 3 items fits .* context of 512 tokens: the shortest needs"):
        evaluation.require_fit([found])


def test_one_item_that_fits_is_enough_wherever_it_stands(tmp_path, tokenizer):
    numbers = [700] * 100 + [20] + [700] * 3
    counter = evaluation.exact_counter(tokenizer)
    assert unfit(sweep_on(tmp_path, numbers), counter) == []
    [found] = unfit(sweep_on(tmp_path, numbers, limit=90), counter)
    assert found.num_items == 90, "the items that the limit leaves are what is evaluated"


def test_before_the_tokenizer_is_trained_words_are_counted_and_doubt_is_said(tmp_path):
    counter = evaluation.least_counter()
    [certain] = unfit(sweep_on(tmp_path, [600]), counter)
    assert certain.is_certain and certain.least >= 600
    [perhaps] = unfit(sweep_on(tmp_path, [450]), counter)
    assert not perhaps.is_certain
    [line] = evaluation.require_fit([perhaps])
    assert "perhaps none of its item fits" in line and "`run` counts before it trains" in line
    assert unfit(sweep_on(tmp_path, [300]), counter) == []


def test_no_byte_level_tokenizer_gives_fewer_tokens_than_are_counted_before_it_is_trained(tokenizer):
    exact, least = evaluation.exact_counter(tokenizer), evaluation.least_counter()
    for text in [*TEXTS, "def f(x):\n    return  x\n\n", "  two  spaces ", "…äöü 漢字"]:
        assert 0 < len(least.tok_encode(text)) <= len(exact.tok_encode(text))


@pytest.mark.slow
def test_the_built_in_tasks_are_not_counted_since_some_of_their_first_items_are_short():
    with quiet(), own_randomness():
        for name, task in evaluation.load_tasks(tuple(BUILTIN), 0).single.items():
            items = instances_by_item(task, 16)
            shortest = min(max(len("".join(one.args[:2]).encode()) for one in instances) for instances in items)
            assert shortest <= BUILTIN_TOKENS, name
