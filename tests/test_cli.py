"""A user's mistake is one line and exit code 2; nothing heavy is started for it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycodellm import cli

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
        ("pretrain.code_ratio=1.4", ("code_ratio", "1.4")),
        ("evaluation.tasks=[boxs]", ("boxs", "boxes")),
        ("search.objective.metric=boxs/acc", ("search.objective.metric", "boxs/acc", "mean/bpb")),
        ("sources.prose.path=/nowhere/at/all.txt", ("sources.prose", "/nowhere/at/all.txt")),
        ("scaling.gpus_per_worker=64", ("scaling", "64", "GPU")),
        ("pretrain.sequence_length=1024", ("sequence_length", "1024", "512")),
    ],
)
def test_check_refuses_with_one_line_and_exit_code_2(capsys, tmp_path, override: str, words: tuple[str, ...]) -> None:
    code, printed = run(capsys, "check", QUICKSTART, "--storage", str(tmp_path), "--set", override)
    assert code == 2, printed
    assert printed.startswith("raycodellm: ")
    assert len(printed.splitlines()) == 1
    for word in words:
        assert word in printed


def test_run_refuses_a_bad_file_before_anything_is_started(tmp_path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "raycodellm.cli", "run", QUICKSTART, "--storage", str(tmp_path)]
    done = subprocess.run([*command, "--set", "pretrain.tokns=5"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - began < 10.0


def test_check_shows_arms_tree_tokens_cost_and_placement(capsys, tmp_path) -> None:
    settings = (
        "pretrain.code_ratio={search: {choice: [0.0, 0.5]}}",
        "pretrain.schedule={search: {choice: [constant, increase, decrease]}}",
        "instruct.code_ratio={search: {choice: [0.0, 0.5]}}",
        "search.replicates=1",
    )
    overrides = [word for setting in settings for word in ("--set", setting)]
    code, printed = run(capsys, "check", QUICKSTART, "--storage", str(tmp_path), *overrides)
    assert code == 0
    assert "8 arms × 1 seeds = 8 trials" in printed
    assert "for 2 trials" in printed
    assert "saved by shared stages" in printed
    assert "makes all 4 token stores again" in printed
    for words in (
        "parameters",
        "FLOPs",
        "CPU core hours",
        "placement:",
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
