"""A sweep file is plain YAML of a bounded size; whatever else is in it is refused in one short line."""

from __future__ import annotations

import time

import pytest

from raycodellm import config
from raycodellm.config import UserError, read_yaml, write_yaml
from raycodellm.config.errors import suggest

BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]" for before, one in zip("abcdefgh", "bcdefghi", strict=True)]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!int abc", ("'abc' is no !!int", "line 1")),
        ("a: !!float x", ("'x' is no !!float",)),
        ("a: !!timestamp 2020-13-45", ("tag '!!timestamp'",)),
        ("a: !!python/object/apply:os.system [ls]", ("tag '!!python",)),
        ("a: !mine x", ("tag '!mine'",)),
        ("a: !!map [1]", ("no mapping",)),
        (f"a: 1{'0' * 400}", ("too large",)),
        (f"a: {'9' * 5000}", ("too large",)),
        ("a: 1e400", ("too large",)),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", ("'c' stands twice", "line 2")),
        ("1: a\n1: b", ("1 stands twice",)),
        ("on: a", ("True is not text", "quotes")),
        ("? [a]\n: b", ("not text",)),
        ("? {a: b}\n: c", ("not text",)),
        ("1.5: b", ("not text",)),
        ("a: " + "[" * 400, ("40 deep",)),
        ("a: " + "{a: " * 400, ("40 deep",)),
        ("a: &a [*a]", ("*a", "inside")),
        ("a: *b", ("alias",)),
        (BOMB, ("over 20,000 values",)),
        (BOMB.replace("[*", "{<<: [*").replace("]\n", "]}\n"), ()),
        ("x" * 2_000_001, ("2,000,000",)),
        ('a: "\\0"', ("text",)),
        ('a: "\\ud800"', ("Unicode",)),
        ("a: \x07", ("character",)),
        ("<<: 5", ("merging",)),
        ("--- a\n--- b", ("single document",)),
        ("a: [", ("not valid YAML",)),
    ],
)
def test_what_is_not_plain_yaml_is_refused_at_once(text: str, words: tuple[str, ...]) -> None:
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        read_yaml(text, "file")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 280 and "\n" not in message
    assert time.process_time() - began < 5.0


def test_numbers_are_those_of_yaml_1_2_and_dates_are_text() -> None:
    text = "[5e-1, 1e-3, 1E5, +.5, 5., 1_000, 010, 0x1F, 0o17, -3, .inf, 1:30, 2020-13-45, 2020-01-01, 1e, e5, =]"
    inf = float("inf")
    found = [0.5, 0.001, 1e5, 0.5, 5.0, 1000, 10, 31, 15, -3, inf, "1:30", "2020-13-45", "2020-01-01", "1e", "e5", "="]
    assert read_yaml(text, "file") == found
    words = [str(one) for one in found] + ["yes", "~", "", "a: b", "é\n"]
    assert read_yaml(write_yaml({"words": words, "numbers": found}), "file") == {"words": words, "numbers": found}


def test_an_alias_is_a_copy_that_an_override_may_change_alone(sweep_text: str) -> None:
    text = sweep_text.replace("{peak: 3.0e-3}", "&rate {peak: 3e-3}")
    text = text.replace("{peak: 1.0e-3, schedule: linear, final: 0.0}", "*rate")
    stages = config.parse(text, overrides=("pretrain.learning_rate.peak=5e-1",)).example().stages
    assert [stage.learning_rate.peak for stage in stages] == [0.5, 0.003]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.tokens=on", ("pretrain.tokens", "found True", "number")),
        ("pretrain.learning_rate.peak=yes", ("peak", "found True")),
        ("pretrain.code_ratio='0.5'", ("code_ratio", "'0.5'", "without quotes")),
        ("pretrain.tokens=1.5e0", ("tokens", "1.5", "whole number")),
        ("pretrain.tokens=130000.5", ("found 130000.5; must be a whole number",)),
        ("pretrain.tokens=130k", ("found '130k'; must be a number; write 130_000",)),
        ("pretrain.tokens='130,000'", ("write 130_000",)),
        ("pretrain.code_ratio=50%", ("write 0.5",)),
        ("pretrain.tokens=1.5K", ("write 1_500",)),
        ("evaluation.judge={base_url: 'http://h/v1', model: ''}", ("judge.model: found ''",)),
        ("pretrain.code_ratio={serch: {choice: [0, 0.5]}}", ("did you mean 'search'?",)),
        ("name=no", ("name: found False; must be text; put it in quotes",)),
        ("name=my sweep", ("name: found 'my sweep'; use letters, digits, - and _ alone",)),
        ("sources={a b: {kind: text, path: x}}", ("sources.a b: found 'a b'; use letters",)),
        ("scaling.slots=many", ("slots: found 'many'; must be a number or 'auto'",)),
        ("scaling.slots='2'", ("slots: found '2'; must be a number or 'auto'; write it without quotes",)),
        ("pretrain.tokens=1e17", ("tokens", "at most")),
        ("pretrain.tokens=1e15", ("15,625,000,000,000 sequences", "at most 100,000,000")),
        ("pretrain.code_ratio=.nan", ("code_ratio", "finite")),
        ("pretrain.faults.loss_limit=.inf", ("loss_limit", "finite")),
        ("scaling.deepspeed.zero=true", ("scaling.deepspeed.zero", "True")),
        ("search.replicates=true", ("search.replicates", "True")),
        ("pretrain.optimizer.betas=[0.9, 1.0]", ("optimizer.betas", "less than 1")),
        ("pretrain.code_ratio={search: {uniform: [0, .inf]}}", ("uniform", "inf", "two numbers")),
        ("pretrain.code_ratio={search: {uniform: [true, 2]}}", ("uniform", "True", "two numbers")),
        ("pretrain.code_ratio={search: {uniform: [0, 1, 2]}}", ("uniform", "two numbers")),
        ("pretrain.code_ratio={search: {search: {uniform: [0, 1]}}}", ("pretrain.code_ratio", "search", "uniform")),
        ("pretrain.code_ratio={search: {choice: [0, {search: {uniform: [0, 1]}}]}}", ("itself a search",)),
        ("pretrain.code_ratio={search: {uniform: [0, 1]}, other: 1}", ("'other'", "beside search")),
        ("pretrain.batch_tokens={search: {int: [1024, 4096]}}", ("1025", "multiple", "use a choice")),
        ("pretrain.sequence_length={search: {uniform: [32, 64]}}", ("whole number", "use int")),
        ("stages={search: {choice: [[], []]}}", ("stages cannot be searched",)),
        ("instruct.name={search: {choice: [a, b]}}", ("name cannot be searched",)),
        ("a.²=1", ("a",)),
    ],
)
def test_a_value_of_another_kind_is_refused(sweep_text: str, override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(sweep_text, overrides=(override,))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_hint_of_no_known_name_says_so() -> None:
    assert suggest("x", []) == "known: none" and suggest("x", ["y"]) == "known: y"


def test_minutes_are_not_taken_for_millions(sweep_text: str) -> None:
    with pytest.raises(UserError, match=r"checkpoint_seconds: found '2m'; must be a number$"):
        config.parse(sweep_text, overrides=("scaling.checkpoint_seconds=2m",))


def test_a_message_is_one_line_whatever_the_file_held() -> None:
    message = str(UserError("key: found '" + "x\n\x1b[31m" * 500 + "'; use for example tokens: 5"))
    assert len(message) <= 280 and message.isprintable() and message.endswith("use for example tokens: 5")
