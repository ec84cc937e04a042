"""Texts held to a pattern: every token that is allowed keeps to it, and whatever matches can be written."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import regex
import yaml
from test_evaluation import write_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raycodellm import evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.engine.constrained import TextPattern
from raycodellm.evaluation.tasks.suites import suite
from raycodellm.tasks import FOLDER
from raycodellm.tasks.kim2024.dataset import items

END = "</s>"
STATEMENT = " " + ", ".join(f"Box {number} contains( [A-Za-z]+)*" for number in range(7)) + "[.]"
TEXTS = [f"Box {number} contains the cup and the rope, nothing." for number in range(10)]


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Bytes as GPT-2 cuts them, or words with a mark for the space and single bytes for what is rare, as Llama 2."""
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet, extra = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet, extra = [], ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[END, *extra], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    tree = json.loads(made.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(tree))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


@pytest.mark.parametrize("kind", ["bytes", "marked"])
def test_whatever_is_chosen_the_text_matches_the_pattern(kind):
    cut = tokenizer(kind)
    pattern = TextPattern(STATEMENT, cut, len(cut) + 24)  # models round their vocabulary up
    rng = random.Random(0)
    for _ in range(5):
        tokens: list[int] = []
        while len(allowed := pattern.allowed(tokens)) and len(tokens) < 400:
            assert allowed.max() < len(cut) and END not in cut.convert_ids_to_tokens(allowed.tolist())
            # Mostly what goes on with the next box, so that the text ends.
            going_on = [token for token in allowed.tolist() if set(cut.decode([token])) & set(",.")]
            tokens.append(rng.choice(going_on if going_on and rng.random() < 0.6 else allowed.tolist()))
            assert regex.fullmatch(STATEMENT, cut.decode(tokens), partial=True), cut.decode(tokens)
        assert regex.fullmatch(STATEMENT, cut.decode(tokens))


@pytest.mark.parametrize("kind", ["bytes", "marked"])
def test_every_text_that_matches_can_be_written_as_the_tokenizer_cuts_it(kind):
    cut = tokenizer(kind)
    pattern = TextPattern(STATEMENT, cut, len(cut))
    for item in itertools.islice(items(), 0, 70, 7):
        tokens = cut.encode(" " + item["statement"], add_special_tokens=False)
        for place, token in enumerate(tokens):
            assert token in pattern.allowed(tokens[:place])
        assert len(pattern.allowed(tokens)) == 0, "the text is over"


def test_texts_are_followed_side_by_side():
    cut = tokenizer("bytes")
    pattern = TextPattern("(ab|ac)d*", cut, len(cut))
    texts = [cut.encode(text, add_special_tokens=False) for text in ("abdd", "acd")]
    assert [len(pattern.allowed(text)) > 0 for text in (texts[0], texts[1], texts[0][:1], [])] == [True] * 4
    with pytest.raises(ValueError, match="leaves the pattern"):
        pattern.allowed(cut.encode("b", add_special_tokens=False))


@pytest.mark.parametrize("name", ["kim2024", "kim2024-variants"])
def test_the_constrained_tasks_have_patterns_that_their_own_statements_match(name):
    found = [one.task for one in suite(name).tasks if one.task.endswith("_constrained")]
    assert len(found) == {"kim2024": 1, "kim2024-variants": 5}[name]
    for task in found:
        tree = yaml.safe_load((FOLDER / "kim2024" / f"{task}.yaml").read_text())
        variant = task.removeprefix("kim2024_boxes").removesuffix("_constrained").strip("_") or "base"
        assert tree["include"] == f"{task.removesuffix('_constrained')}.yaml"
        for item in itertools.islice(items(variant), 0, 70, 7):
            assert regex.fullmatch(tree["generation_kwargs"]["pattern"], " " + item["statement"])


@pytest.mark.slow
def test_a_model_held_to_the_pattern_states_boxes_where_a_free_one_writes_anything(tmp_path):
    folder = write_model(tmp_path, context=2048)
    settings = Evaluation(tasks=("kim2024_boxes", "kim2024_boxes_constrained"), limit=8)
    result = evaluation.evaluate(folder, settings)
    rows = result.items.to_pylist()
    free, held = ([row for row in rows if row["task"] == task] for task in settings.tasks)
    for of_task in (free, held):
        assert [len({row["prediction"] for row in some}) for some in (of_task[:7], of_task)] == [1, 2], (
            "one text per state"
        )
    assert all(regex.fullmatch(STATEMENT, row["prediction"], partial=True) for row in held)
    assert not any(regex.fullmatch(STATEMENT, row["prediction"], partial=True) for row in free)
    assert result.metrics["kim2024_boxes/missing"] == 1.0 > result.metrics["kim2024_boxes_constrained/missing"]
    by_rule = [json.loads(row["attributes"])["chance"] for row in free]
    assert [row["chance"] for row in free] == by_rule and len(set(by_rule)) > 2
    assert result.metrics["kim2024_boxes/chance"] == pytest.approx(sum(by_rule) / 8)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(UserError, match=r"generation_kwargs.pattern: 'a\(\('.*unclosed group"):
        TextPattern("a((", tokenizer("bytes"), 600)
