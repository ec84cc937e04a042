"""A user's mistake is one line and exit code 2; nothing heavy is started for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raycodellm import cli, memory_needs

QUICKSTART = str(Path(__file__).parents[1] / "sweeps" / "quickstart.yaml")


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    code = cli.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.tokns=5", ("stages.pretrain.tokns", "'tokens'")),
        ("pretrain.tokens=-4", ("stages.pretrain.tokens", "-4")),
        ("instruct.within={pyton: 1.0}", ("within", "pyton", "python")),
        ("pretrain.tokens={search: {uniform: [1000, 2000]}}", ("pretrain.tokens", "whole number", "int")),
        ("pretrain.learning_rate.peak=true", ("learning_rate.peak", "True")),
        ("instruct.learning_rate={search: {choice: [{peak: {search: {unifrm: [1, 2]}}}]}}", ("unifrm", "uniform")),
        ("evaluation.tasks=[boxs]", ("boxs", "boxes")),
        ("evaluation.suites=[ofline]", ("evaluation.suites", "'ofline'", "offline")),
        ("evaluation.include=nowhere", ("evaluation.include", "'nowhere'", "lm-eval YAML files")),
        ("search.objective.metric=boxs/acc", ("search.objective.metric", "boxs/acc", "mean/bpb")),
        ("search.objective.metric=boxes/nothing", ("search.objective.metric", "boxes/nothing", "boxes/bpb")),
        ("scaling.gpus_per_worker=64", ("scaling", "64", "GPU")),
        ("scaling.workers=1_000", ("1000 ×", "workers fit", "cores")),
        ("model.preset=2.8b", ("GiB", "weights", "gradients", "moments", "activations", "has")),
        ("pretrain.sequence_length=1024", ("sequence_length", "1024", "512")),
        (
            "pretrain.numerics.deepspeed_config={gradient_clipping: 0.5}",
            ("deepspeed_config.gradient_clipping", "0.5", "1.0"),
        ),
        ("pretrain.numerics.precision=fp16", ("stages.pretrain.numerics.precision", "fp16", "bf16")),
    ],
)
def test_check_and_run_refuse_with_one_line_before_anything_is_started(
    capsys, tmp_path, monkeypatch, override: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(memory_needs, "machine_bytes", lambda: 24 * 2.0**30)
    for command in ("check", "run"):
        code, printed = run(capsys, command, QUICKSTART, "--storage", str(tmp_path), "--set", override)
        assert code == 2, printed
        assert printed.startswith("raycodellm: ") and len(printed) < 300
        assert len(printed.splitlines()) == 1
        assert all(word in printed for word in words), printed
    assert not list(tmp_path.iterdir())


def test_check_refuses_a_source_that_is_not_there(capsys, tmp_path) -> None:
    override = "sources.prose.path=/nowhere/at/all.txt"
    code, printed = run(capsys, "check", QUICKSTART, "--storage", str(tmp_path), "--set", override)
    assert code == 2 and len(printed.splitlines()) == 1
    assert "sources.prose" in printed and "/nowhere/at/all.txt" in printed


def test_a_bad_file_is_refused_in_seconds_without_a_traceback(tmp_path) -> None:
    slow = {"deepspeed", "lm_eval", "optuna", "pandas", "ray", "scipy", "tokenizers", "torch", "transformers"}
    code = f"import sys; from raycodellm.cli import main; code = main(); print(*{slow} & {{*sys.modules}}); exit(code)"
    command = [sys.executable, "-c", code, "run", QUICKSTART, "--storage", str(tmp_path)]
    before = os.times()
    done = subprocess.run([*command, "--set", "pretrain.tokns=5"], capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 2
    assert "did you mean 'tokens'" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.split() == [], "what takes seconds to import"
    # 1.1 s on a machine of 2026: enough for one that is much slower, and too little to read a corpus.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5.0


def test_check_shows_arms_tree_tokens_cost_and_placement(capsys, tmp_path) -> None:
    settings = (
        "pretrain.code_ratio={search: {choice: [0.0, 0.5]}}",
        "pretrain.schedule={search: {choice: [constant, increase, decrease]}}",
        "sources.code_tasks={kind: instruct_code, path: 'builtin:python-instruct'}",
        "instruct.code_ratio={search: {choice: [0.0, 0.5]}}",
        "search.replicates=1",
        "search.reference={pretrain.code_ratio: 0.0, instruct.code_ratio: 0.0}",
        "search.confirm={best: 2, seeds: [2, 4]}",
    )
    overrides = [word for setting in settings for word in ("--set", setting)]
    code, printed = run(capsys, "check", QUICKSTART, "--storage", str(tmp_path), *overrides)
    assert code == 0
    assert "8 arms × 1 seed = 8 trials, then at most (2 + 1) × 4 = 12 confirmation trials" in printed
    assert "confirmation, with looks after 2 and 4 fresh seeds" in printed
    assert "for 2 trials" in printed
    assert "saved by shared stages" in printed
    assert "makes all 4 token stores again" in printed
    for words in (
        "parameters",
        "FLOPs",
        "CPU core hours",
        "CPU core hours more",
        "placement:",
        "a worker needs",
        "epochs",
        "prose",
        "about ",
        "token stores again",
    ):
        assert words in printed


@pytest.mark.parametrize("name", ["status", "report"])
def test_a_folder_that_is_no_run_is_refused(capsys, tmp_path, name: str) -> None:
    code, printed = run(capsys, name, str(tmp_path))
    assert code == 2
    assert "not a run folder" in printed


def test_eval_refuses_a_model_that_is_not_there_and_a_pair_that_names_another(capsys, tmp_path) -> None:
    code, printed = run(capsys, "eval", "nothing-here", "--tasks", "boxes")
    assert code == 2
    assert "nothing-here" in printed
    code, printed = run(capsys, "eval", str(tmp_path), "--tasks", "boxes", "--pairs", "a=b")
    assert code == 2
    assert "BASE=OTHER" in printed


@pytest.mark.parametrize("option", [("--limit", "-5"), ("--limit", "0"), ("--few-shot", "-1")])
def test_eval_refuses_a_number_by_its_option(capsys, option: tuple[str, str]) -> None:
    code, printed = run(capsys, "eval", "owner/name", "--tasks", "boxes", *option)
    assert code == 2
    assert printed.startswith(f"raycodellm: {option[0]}: found {option[1]}; must be greater than or equal to")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("command", ["check", "run", "prepare"])
@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("FILE", "--storage"),
        ("xyz://a/b", "no storage"),
        ("s3://", "no bucket"),
        ("s3:/b/x", "no folder and no address"),
        ("", "is empty"),
        ("s3://bucket//runs/", "use s3://bucket/runs/"),
    ],
)
def test_a_storage_that_cannot_be_one_is_refused_at_once(capsys, tmp_path, command, storage, words) -> None:
    (tmp_path / "file").write_text("")
    code, printed = run(capsys, command, QUICKSTART, "--storage", storage.replace("FILE", str(tmp_path / "file")))
    assert code == 2, printed
    assert words in printed and len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


KEYED = "s3://AKIAKEY:SECRETWORD@bucket/x"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", QUICKSTART, "--storage", KEYED),
        ("run", QUICKSTART, "--storage", KEYED),
        ("run", QUICKSTART, "--set", f"sources.prose.path={KEYED}"),
        ("run", QUICKSTART, "--set", KEYED),
        ("submit", QUICKSTART, "--storage", KEYED, "--address", "http://127.0.0.1:1"),
        ("status", KEYED),
        ("report", KEYED),
        ("eval", KEYED, "--tasks", "boxes"),
        ("eval", "owner/name", "--tasks", "boxes", "--output", KEYED),
        ("run", KEYED),
    ],
)
def test_a_key_in_an_address_is_refused_unprinted_and_the_variables_named(capsys, arguments) -> None:
    code, printed = run(capsys, *arguments)
    assert code == 2, printed
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in printed and "s3://***@bucket/x" in printed
    assert "SECRETWORD" not in printed and "AKIAKEY" not in printed and len(printed.splitlines()) == 1


def test_a_mistyped_option_does_not_print_the_key_behind_it(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", QUICKSTART, "--strage", KEYED])
    printed = capsys.readouterr().err
    assert "s3://***@bucket/x" in printed and "SECRETWORD" not in printed
    assert "raycodellm run: error: unrecognized arguments: --strage" in printed and "did you mean --storage?" in printed


@pytest.mark.parametrize(
    ("arguments", "meant"), [(("chekc", QUICKSTART), "check"), (("report", ".", "--pictures", "svgg"), "svg")]
)
def test_a_mistyped_command_or_choice_is_answered_with_the_one_that_was_meant(capsys, arguments, meant) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2 and capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")


@pytest.mark.slow
def test_a_command_that_starts_no_slot_imports_none_at_its_end_and_leaves_without_taking_python_apart() -> None:
    code = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from raycodellm import cli
from raycodellm.slots.threads import threads_left

print(threads_left(), "torch" in sys.modules)
atexit.register(print, "exit")

class Held:
    def __del__(self):
        print("taken apart")

held, pool = Held(), ThreadPoolExecutor(1)
pool.submit(time.sleep, 0)  # its thread ends with Python only
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
cli.main = lambda: 5
cli.entry()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["False", "False", "thread", "exit"] and ended.returncode == 5, ended.stderr
