"""The terminal shows what matters; everything that libraries write goes to the log."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

from raycodellm import display
from raycodellm.dispatch import Snapshot
from raycodellm.records import Progress, TrialResult
from raycodellm.tokens import SourceProgress


def test_output_of_this_process_and_its_children_goes_to_the_log(tmp_path, capfd) -> None:
    log = tmp_path / "run.log"
    with display.quiet(log) as real:
        os.write(1, b"printed")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'from a child')"], check=True)
        logging.getLogger("library").warning("warned")
        real.write("shown\n")
    print("again")
    shown = capfd.readouterr().out
    assert shown.splitlines() == ["shown", "again"]
    written = log.read_text()
    assert all(word in written for word in ("printed", "from a child", "warned"))


def test_without_a_terminal_each_event_is_one_line() -> None:
    output = io.StringIO()
    shown = display.Display(output, ["mean/bpb"], 2)
    progress = Progress("pretrain-0123456789abcdef", 5, 10, 5_000, 1_234.5, 3.21, 0.5, 0.48)
    snapshot = Snapshot(running={progress.job: progress}, slots=1, notes=("a worker died",))
    results = [
        TrialResult(0, "complete", 0, 0, {"pretrain.code_ratio": 0.25}, {"mean/bpb": 1.5}),
        TrialResult(1, "failed", 1, 0, error="TrainingError: loss is nan"),
    ]
    for _ in range(2):
        shown.training(snapshot, results)
        snapshot = Snapshot(running=snapshot.running, slots=1)
    lines = output.getvalue().splitlines()
    assert lines == [
        "a worker died",
        "trial 0000 pretrain.code_ratio 0.25: mean/bpb 1.500",
        "trial 0001 failed: TrainingError: loss is nan",
        "pretrain 012345  50 % 5,000 tokens  1,234/s  loss 3.210  code 0.480 (plan 0.500)",
    ]


def test_waiting_says_for_what_and_for_how_long(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    output = io.StringIO()
    shown = display.Display(output, ["mean/bpb"], 2)
    shown.preparing(SourceProgress("tokenizer", "running"))
    starting = Progress("pretrain-0123456789abcdef", note="starting")
    begun = Progress("pretrain-0123456789abcdef", 1, 10, 500, 1_000.0, 3.0, 0.5, 0.5)
    for seconds, snapshot in (
        (0, Snapshot()),
        (11, Snapshot()),
        (5, Snapshot(slots=1)),  # too early for another line
        (6, Snapshot({starting.job: starting}, slots=1)),
        (9, Snapshot({begun.job: begun}, slots=1)),
        (0, Snapshot(slots=1)),
        (12, Snapshot(slots=1)),
    ):
        now[0] += seconds
        shown.training(snapshot, [])
    assert output.getvalue().splitlines() == [
        "tokenizer: running",
        "waiting for the first worker group, 11 s so far",
        "waiting for pretrain 012345 (starting), 22 s so far",
        "pretrain 012345  10 % 500 tokens  1,000/s  loss 3.000  code 0.500 (plan 0.500)",
        "waiting for the next job, 12 s so far",
    ]


def test_a_trial_table_has_a_row_per_trial_and_no_score_for_a_failed_one() -> None:
    output = io.StringIO()
    results = [TrialResult(7, "failed", 1, 3, {"a.b": "x"}, {}), TrialResult(8, "running", 2, 3, {"a.c": 0.5})]
    display.console(output).print(display.trial_table(results, ["mean/bpb"]))
    head, first, second = output.getvalue().splitlines()
    names = ["trial", "state", "arm", "seed", "a.b", "a.c", "mean/bpb", "tokens", "wall", "time", "device", "time"]
    assert head.split() == names
    assert first.split() == ["0007", "failed", "1", "3", "x", "–", "–", "–", "–", "–"]
    assert second.split() == ["0008", "running", "2", "3", "–", "0.5", "–", "–", "–", "–"]


def test_a_terminal_that_was_closed_ends_no_run() -> None:
    ours, terminal = os.openpty()
    with os.fdopen(terminal, "w", buffering=1) as output:
        shown = display.Display(output, ["mean/bpb"], 1)
        shown.say("first")
        os.close(ours)
        for _ in range(3):
            shown.say("nobody sees this")
