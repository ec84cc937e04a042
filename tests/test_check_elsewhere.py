"""`raycodellm check` for another machine: what this one lacks, or does not reach, is said and not refused."""

from __future__ import annotations

import pytest

from raycodellm import cli

FAR = """
name: far
model: {preset: small}
tokenizer: {train: {vocab_size: 32_000}}
sources:
  prose: {kind: text, path: "hf://datasets/owner/prose", text_field: text}
  python: {kind: code, path: "hf://datasets/owner/python", text_field: content}
stages:
  - name: pretrain
    tokens: 1_000_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {choice: [0.0, 0.25]}}
cleaning: {decontaminate: {ngram: 13}}
evaluation: {suites: [ma2024]}
search: {sampler: grid, objective: {metric: mean/acc, mode: max}}
scaling: {gpus_per_worker: 1, slots: 1}
"""


def check(tmp_path, capsys, *words: str) -> tuple[int, str]:
    (tmp_path / "far.yaml").write_text(FAR)
    code = cli.main(["check", str(tmp_path / "far.yaml"), "--storage", str(tmp_path / "storage"), *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize("words", [("--device", "H100"), ("--set", "scaling.device=H100")])
def test_a_sweep_for_another_machine_is_reckoned_without_what_this_one_does_not_reach(
    no_network, tmp_path, capsys, words
):
    code, printed = check(tmp_path, capsys, "--prices", *words)
    assert code == 0
    for said in (
        "H100 hours",
        "not reached from here: prose, python",
        "ceval/ceval-exam/logic on the Hugging Face hub, n",
    ):
        assert said in printed
    tokens = {line.split()[0]: line for line in printed.splitlines() if "not known here" in line}
    assert set(tokens) == {"prose", "python"}
    assert "0 to 250,880" in tokens["python"]  # the tokens that are drawn depend on no size


def test_a_sweep_for_this_machine_is_refused_where_its_data_is_not_reached(no_network, tmp_path, capsys):
    code, printed = check(tmp_path, capsys, "--set", "scaling.gpus_per_worker=0", "--set", "cleaning=null")
    assert code == 2 and "sources.prose" in printed and "cannot be reached" in printed
    here = ("--set", 'sources={prose: {kind: text, path: "builtin:python-prose"}}', "--set", "pretrain.code_ratio=0")
    code, printed = check(tmp_path, capsys, "--set", "scaling.gpus_per_worker=0", *here)
    assert code == 2 and "evaluation.tasks: no data for ceval-valid_logic" in printed


def test_the_device_of_the_file_counts_only_where_the_sweep_uses_devices(no_network, tmp_path, capsys):
    here = ("--set", 'sources={prose: {kind: text, path: "builtin:python-prose"}}', "--set", "pretrain.code_ratio=0")
    offline = ("--set", "evaluation.suites=[offline]", "--set", "cleaning=null", "--set", "model.preset=tiny")
    code, printed = check(tmp_path, capsys, "--set", "scaling={device: H100}", *here, *offline)
    assert code == 0 and "a local Ray on this machine" in printed
