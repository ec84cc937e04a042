"""The evaluation's engine: the numbers of lm-eval's own Hugging Face model, whatever is asked together."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import write_model

from raycodellm.config import UserError
from raycodellm.evaluation.engine import language_model, placement
from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.likelihoods import common_prefix, likelihoods
from raycodellm.evaluation.engine.token_trees import Limits, TokenTree, batches, common_length, trees
from raycodellm.evaluation.isolation import quiet
from raycodellm.identity import hub_commits
from raycodellm.tasks import training_examples

EXAMPLES = [*training_examples(5, 40)]
AS_TEXT = {"until": ["."], "max_gen_toks": 12}

# --------------------------------------------------------------------------------------------------------- packing

PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12, unique=True)


@given(PATHS)
@settings(max_examples=60, deadline=None)
def test_trees_hold_each_path_once_and_never_more_tokens_than_the_paths(paths):
    found = trees(paths, share=True)
    assert sorted(path for tree in found for path in tree.paths) == sorted(paths)
    assert sum(tree.length for tree in found) <= sum(map(len, paths))
    for tree in found:
        row = [*tree.paths[0][: tree.trunk], *(token for branch in tree.branches for token in branch)]
        assert len(row) == tree.length
        for number, path in enumerate(tree.paths):
            assert tuple(row[column] for column in tree.columns(number)) == path
    assert found == trees(paths[::-1], share=True), "trees do not depend on the order of what is asked"


def test_choices_of_a_question_are_one_row_and_other_questions_are_rows_of_their_own():
    questions = [tuple(range(10 * number, 10 * number + 10)) for number in range(3)]
    paths = [(*question, *choice) for question in questions for choice in ((1, 2), (1, 3), (7,))]
    assert [(len(tree.paths), tree.trunk, tree.length) for tree in trees(paths, share=True)] == [(3, 10, 15)] * 3
    assert {len(tree.paths) for tree in trees(paths, share=False)} == {1}


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 40), st.integers(1, 40))
def test_batches_hold_all_rows_in_order_and_keep_to_their_limits(lengths, tokens, positions):
    lengths = sorted(lengths, reverse=True)
    found = [*batches(lengths, lengths, Limits(tokens, positions))]
    assert [row for batch in found for row in batch] == [*range(len(lengths))]
    for batch in found:
        rows = [lengths[row] for row in batch]
        assert len(rows) == 1 or (len(rows) * max(rows) <= tokens and sum(rows) <= positions)


@given(st.lists(st.integers(0, 1), max_size=9), st.lists(st.integers(0, 1), max_size=9))
def test_common_length_is_that_of_a_plain_count(one, other):
    equal = [a == b for a, b in zip(one, other, strict=False)]
    assert common_length(one, other) == (equal.index(False) if False in equal else len(equal))


def test_a_beginning_is_computed_apart_where_many_long_prompts_have_it():
    prompts = [[*range(50), number, 7] for number in range(60, 64)]
    assert common_prefix(prompts) == 50
    assert common_prefix(prompts[:1]) == 0 and common_prefix([prompt[30:] for prompt in prompts]) == 0
    assert common_prefix([[*range(50)], [*range(60)]]) == 49, "each prompt keeps a token"


def test_settings_of_generated_answers_are_read_as_lm_eval_reads_them():
    assert Decoding.of({"until": "x"}, 256) == Decoding(256, ("x",))
    assert Decoding.of({"max_new_tokens": 5, "do_sample": False, "temperature": 0.7}, 256) == Decoding(5)
    assert Decoding.of({"temperature": 0.7, "top_p": 0.9}, 9) == Decoding(9, temperature=0.7, top_p=0.9)
    assert Decoding.of({"do_sample": True}, 9).temperature == 1.0
    with pytest.raises(UserError, match=r"generation_kwargs\.lenght: is not known here; known are until, do_sample"):
        Decoding.of({"lenght": 3}, 9)
    with pytest.raises(UserError, match="without beams"):
        Decoding.of({"num_beams": 4}, 9)


def test_a_tree_names_the_columns_of_its_paths():
    tree = TokenTree(((1, 2, 3), (1, 2, 4, 5)), 2)
    assert (tree.length, tree.branches, tree.columns(1)) == (5, ((3,), (4, 5)), [0, 1, 3, 4])


# ----------------------------------------------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lm(folder) -> language_model.AnswerLM:
    with quiet():
        return language_model.load_model(str(folder), 8, "cpu")


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", b"{}"), ("config.json", b"null"), ("config.json", b"[]"), ("model.safetensors", b"cut")],
)
def test_a_damaged_model_folder_is_refused_in_one_line(folder, tmp_path, file, content):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / file).write_bytes(content)
    with pytest.raises(UserError, match="could not be loaded as a Hugging Face language model") as refused, quiet():
        language_model.load_model(str(copy), 8, "cpu")
    assert "give a folder with config.json" in str(refused.value) and "\n" not in str(refused.value)


def _of_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _of_network() -> None:
    try:
        raise ConnectionResetError("reset by peer")
    except ConnectionResetError as error:
        raise OSError("We couldn't connect to the hub") from error


def _of_package() -> None:
    raise ImportError("Loading a GPTQ quantized model requires optimum")


def _of_program() -> None:
    hub_commits.parts_of(3)  # the regular expression takes no number


@pytest.mark.parametrize(
    ("fails", "kind", "words"),
    [
        (_of_disk, OSError, "No space left"),
        (_of_network, OSError, "^We couldn't connect to the hub"),
        (_of_program, TypeError, "expected string"),
        (_of_package, UserError, "^'model' needs a Python package that cannot be imported here: Loading a GPTQ"),
    ],
)
def test_an_error_that_the_files_of_a_model_do_not_make_is_not_told_as_their_damage(fails, kind, words):
    with pytest.raises(kind, match=words) as told, placement.model_errors("model"):
        fails()
    assert type(told.value) is kind and "give a folder" not in str(told.value)


@pytest.fixture(scope="module")
def theirs(folder):
    """lm-eval's own model of the same files."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)


def requests(kind: str, arguments: list[tuple], repeats: int = 1) -> list:
    from lm_eval.api.instance import Instance

    return [
        Instance(kind, {}, one, 0, ("task", number, repeats))
        for number, one in enumerate(arguments)
        for _ in range(repeats)
    ]


def pairs_of(lm, num: int, begin: str = "") -> list:
    """Prompts of the examples, each with its answer and with two others."""
    chosen = EXAMPLES[:num]
    answers = [answer for _, answer in chosen]
    texts = [
        (begin + prompt, answers[(number + step) % num])
        for number, (prompt, _) in enumerate(chosen)
        for step in (0, 1, 2)
    ]
    return [lm.encoder.encode_pair(*text) for text in texts]


@pytest.mark.parametrize("begin", ["", "Answer each of these questions in as few words as you can. " * 3])
def test_likelihoods_are_lm_evals_for_choices_and_single_answers(lm, theirs, begin):
    texts = [(begin + prompt, answer) for prompt, _ in EXAMPLES[:9] for answer in (" the box", " no", " 7 or 8")]
    texts += [(begin + prompt, answer) for prompt, answer in EXAMPLES[:9]] + [
        ("", "Some text"),
        ("A space ", "ends it"),
    ]
    lm.encoder.remember([], texts)
    ours = lm.likelihoods([lm.encoder.encode_pair(*text) for text in texts])
    expected = theirs.loglikelihood(requests("loglikelihood", texts), disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], rel=1e-5)
    assert [is_greedy for _, is_greedy in ours] == [is_greedy for _, is_greedy in expected]


def test_whole_texts_have_lm_evals_likelihood_also_where_they_take_several_windows(lm, theirs):
    texts = [("\n".join(prompt for prompt, _ in EXAMPLES[:number]),) for number in (1, 3, 20)] + [("x",)]
    assert max(len(lm.tok_encode(text)) for (text,) in texts) > 2 * lm.max_length
    with quiet():
        expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", texts)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "extra", [{"until": ["."]}, {"until": ["\n\n", " the", "e"]}, {"until": []}, {"repetition_penalty": 1.3}]
)
def test_generated_answers_are_lm_evals(lm, theirs, extra):
    asked = requests("generate_until", [(prompt, {"max_gen_toks": 12, **extra}) for prompt, _ in EXAMPLES[:20]])
    assert lm.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_a_common_beginning_changes_no_generated_answer(lm, theirs):
    begin = "Answer each of these questions in as few words as you can. " * 3
    asked = requests("generate_until", [(begin + prompt, dict(AS_TEXT)) for prompt, _ in EXAMPLES[:20]])
    assert common_prefix([lm.tok_encode(one.args[0]) for one in asked]) > 0
    assert lm.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize("begin", ["", "Answer each of these questions in as few words as you can. " * 3])
def test_right_answers_are_read_after_the_prompts_that_the_model_answers(lm, monkeypatch, begin):
    texts = [(begin + prompt, answer) for prompt, answer in [*EXAMPLES[:9], ("Short", "."), ("One token", " no")]]
    asked = requests("generate_until", [(prompt, dict(AS_TEXT)) for prompt, _ in texts])
    pairs = [lm.encoder.encode_pair(*text) for text in texts]
    apart = lm.generate_until(asked), lm.likelihoods(pairs)
    monkeypatch.setattr(language_model, "likelihoods", lambda *asked: pytest.fail("the prompts are read again"))
    answers, found = lm.answered(asked, pairs)
    assert answers == apart[0]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in apart[1]], rel=1e-5)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in apart[1]]


# --------------------------------------------------------------------------------- what is asked together, and how


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_another_batch_size_changes_rounding_only(lm, batch_size):
    pairs = pairs_of(lm, 12)
    other = likelihoods(lm.model, pairs, batch_size, share=True)
    same = lm.likelihoods(pairs)
    assert [value for value, _ in other] == pytest.approx([value for value, _ in same], rel=1e-5)
    assert [is_greedy for _, is_greedy in other] == [is_greedy for _, is_greedy in same]
    assert lm.likelihoods(pairs) == same, "equal calls give equal bits"


def test_a_model_that_reads_common_beginnings_in_another_way_reads_each_answer_alone(lm, folder, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    assert lm.shares_beginnings
    window = AutoConfig.for_model(
        "mistral", vocab_size=700, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=16,
    )  # fmt: skip
    with quiet():
        AutoModelForCausalLM.from_config(window).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
        windowed = language_model.load_model(str(tmp_path), 4, "cpu")
    assert not windowed.shares_beginnings
    pairs = pairs_of(windowed, 4)
    alone = [windowed.likelihoods([pair])[0][0] for pair in pairs]
    assert [value for value, _ in windowed.likelihoods(pairs)] == pytest.approx(alone, rel=1e-5)


WINDOW = {"num_key_value_heads": 1, "sliding_window": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2}
HEADS = {"num_key_value_heads": 1, "head_dim": 16}


@pytest.mark.parametrize(
    ("architecture", "extra", "shares"),
    [
        ("cohere", {}, True),
        ("gpt2", GPT2, True),
        ("mistral", WINDOW, False),
        ("mamba", {"state_size": 4}, False),
        *(
            pytest.param(*one, marks=pytest.mark.exhaustive)
            for one in [
                ("llama", {"num_key_value_heads": 1}, True),
                ("gpt_neox", {}, True),
                ("gptj", {**GPT2, "rotary_dim": 8}, True),
                ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
                ("bloom", {"n_layer": 2, "n_head": 2}, False),
                ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 2}, False),
                ("falcon", {}, True),
                ("phi", {}, True),
                ("qwen2", {"num_key_value_heads": 1}, True),
                ("qwen3", HEADS, True),
                ("gemma", HEADS, True),
                ("gemma2", {**HEADS, **WINDOW}, False),
                ("olmo2", {}, True),
                ("starcoder2", {"num_key_value_heads": 1}, True),
                ("mixtral", {"num_key_value_heads": 1, "num_local_experts": 2}, True),
                ("granite", {}, True),
                ("rwkv", {"attention_hidden_size": 32}, False),
            ]
        ),
    ],
)
def test_answers_asked_together_are_those_asked_alone_for_any_architecture(lm, architecture, extra, shares):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 700, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**shape, **ids, **extra})).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8 if weight.dim() > 1 else 1)
        other = language_model.AnswerLM(model, lm.encoder.tokenizer, 8)
    assert other.shares_beginnings is shares
    pairs = [*pairs_of(other, 4), *pairs_of(other, 3, "Answer each of these questions in a few words. " * 4)]
    alone = [likelihoods(model, [pair], 1, share=False)[0][0] for pair in pairs]
    assert [value for value, _ in other.likelihoods(pairs)] == pytest.approx(alone, rel=1e-5)
    prompts = [lm.tok_encode(prompt) for prompt, _ in EXAMPLES[:3]]
    expected = []
    for prompt in prompts:
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        asked = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        tokens = model.generate(torch.tensor([prompt]), **asked)[0][len(prompt) :]
        expected.append(lm.encoder.decode(tokens, skip_special_tokens=True))
    assert other.generate(prompts, [""] * 3, Decoding(5)) == expected


def test_equal_prompts_are_answered_once_and_greedy_samples_are_one(lm):
    read: list[int] = []
    hook = lm.model.register_forward_pre_hook(
        lambda module, inputs, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    asked = requests("generate_until", [(prompt, dict(AS_TEXT)) for prompt, _ in EXAMPLES[:2] * 3], repeats=2)
    answers = lm.generate_until(asked)
    hook.remove()
    assert max(read) == 2 and len(answers) == 12
    assert answers[0] == answers[1] == answers[4] and answers[2] == answers[6]


def test_sampled_answers_depend_on_their_item_and_place_and_on_nothing_else(lm):
    hot = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0, "top_p": 0.9}
    asked = requests("generate_until", [(prompt, dict(hot)) for prompt, _ in EXAMPLES[:9]], repeats=3)
    together = lm.generate_until(asked)
    assert len(set(together[:3])) == 3, "the samples of an item differ"
    assert [one for number in range(0, 27, 3) for one in lm.generate_until(asked[number : number + 3])] == together
    shuffled = [*range(9)]
    random.Random(1).shuffle(shuffled)
    again = lm.generate_until([asked[3 * item + place] for item in shuffled for place in range(3)])
    assert again == [together[3 * item + place] for item in shuffled for place in range(3)]


def test_a_constraint_says_which_tokens_may_follow_and_when_the_text_ends(lm, monkeypatch):
    yes, no, maybe = ([*lm.tok_encode(text)] for text in (" yes", " no", " maybe"))

    class OneOf:
        def allowed(self, generated):
            left = [one[len(generated) :] for one in (yes, no, maybe) if one[: len(generated)] == list(generated)]
            return [one[0] for one in left if one]

    monkeypatch.setattr(lm, "_constraint", lambda decoding: OneOf())
    prompts = [lm.tok_encode(prompt) for prompt, _ in EXAMPLES[:8]]
    found = lm.generate(prompts, [""] * 8, Decoding.of({"pattern": " yes| no| maybe"}, 20))
    assert set(found) <= {" yes", " no", " maybe"}


def test_texts_are_cut_into_tokens_once_for_all_models_with_the_same_tokenizer(lm, folder, monkeypatch):
    with quiet():
        other = language_model.load_model(str(folder), 4, "cpu")
    lm.encoder.remember(["A text that both encode."])
    monkeypatch.setattr(type(other.encoder), "_encoded", lambda *asked: pytest.fail("encoded again"))
    assert other.tok_encode("A text that both encode.") == lm.tok_encode("A text that both encode.")
