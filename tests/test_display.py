"""The terminal shows what matters; everything that libraries write goes to the log."""

from __future__ import annotations

import io
import logging
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from raycodellm import display
from raycodellm.dispatch import DispatchState, JobEnd, RemainingWork, SlotActivity, SlotView, Snapshot, seconds_left
from raycodellm.display import Moment, Shown, moment
from raycodellm.records import Progress, TrialResult
from raycodellm.tables import Table, fitted
from raycodellm.tokens import SourceProgress

KEY = "pretrain-0123456789abcdef"
EVALUATION = "evaluation-fedcba9876543210"
BEGUN = Progress(KEY, 5, 10, 5_000, 1_234.5, 3.21, 0.5, 0.48)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(shown: Shown | None = None) -> tuple[display.LineDisplay, io.StringIO, Clock]:
    """A display in lines whose clock stands; without the thread that keeps the waits current."""
    output, clock = io.StringIO(), Clock()
    return display.LineDisplay(output, shown or Shown("small", ("mean/bpb",), 2), clock=clock), output, clock


def trial(number: int, state: str = "complete", **more) -> TrialResult:
    metrics = {"mean/bpb": 1.5 + number / 1000} if state == "complete" else {}
    return TrialResult(number, state, number, 0, {"pretrain.code_ratio": 0.25}, metrics, **more)


def drawn(region, columns: int) -> list[str]:
    """The lines of a region on a terminal without colours."""
    output = io.StringIO()
    Console(file=output, width=columns, force_terminal=False, no_color=True, highlight=False).print(region)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_output_of_this_process_and_its_children_goes_to_the_log(tmp_path, capfd) -> None:
    log = tmp_path / "run.log"
    with display.quiet(log) as real:
        os.write(1, b"printed")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'from a child')"], check=True)
        logging.getLogger("library").warning("warned")
        print("by Python")
        real.write("shown\n")
    print("again")
    shown = capfd.readouterr().out
    assert shown.splitlines() == ["shown", "again"]
    written = log.read_text()
    assert all(word in written for word in ("printed", "from a child", "warned", "by Python"))


# ------------------------------------------------------------------------------------------------- in lines


def test_without_a_terminal_each_event_is_one_line() -> None:
    shown, output, _ = lines_of()
    snapshot = Snapshot(running={KEY: BEGUN}, slots=1, notes=("a worker died",))
    results = [trial(0), trial(1, "failed", error="TrainingError: loss is nan")]
    for _ in range(2):
        shown.training(snapshot, results)
        snapshot = Snapshot(running=snapshot.running, slots=1)
    assert output.getvalue().splitlines() == [
        "a worker died",
        "trial 0000 pretrain.code_ratio 0.25: mean/bpb 1.500",
        "trial 0001 failed: TrainingError: loss is nan",
        "pretrain 012345   50 %  5.00 k tokens  1.23 k/s  loss 3.210  code 0.480 (plan 0.500)",
    ]


def test_waiting_says_for_what_and_for_how_long() -> None:
    shown, output, clock = lines_of()
    shown.preparing(SourceProgress("tokenizer", "running"))
    shown.preparing(SourceProgress("tokenizer", "done", seconds=2.5))
    starting = Progress(KEY, note="starting")
    begun = Progress(KEY, 1, 10, 500, 1_000.0, 3.0, 0.5, 0.5)
    slot = SlotView("slot 1", SlotActivity.STARTING, None, 11.0)
    for seconds, snapshot in (
        (0, Snapshot()),
        (11, Snapshot(slot_views=(slot,))),
        (5, Snapshot(slots=1)),  # too early for another line
        (6, Snapshot({KEY: starting}, slots=1)),
        (9, Snapshot({KEY: begun}, slots=1)),
        (0, Snapshot(slots=1)),
        (12, Snapshot(slots=1)),
    ):
        clock.now += seconds
        shown.training(snapshot, [])
    assert output.getvalue().splitlines() == [
        "tokenizer: running, 0 s",
        "tokenizer: done, 2.5 s",
        "waiting for slot 1 to start, 11 s so far",
        "waiting for pretrain 012345 (starting), 22 s so far",
        "pretrain 012345   10 %  500 tokens  1.00 k/s  loss 3.000  code 0.500 (plan 0.500)",
        "waiting for the next job, 12 s so far",
    ]


def test_no_wait_is_silent_in_lines() -> None:
    """Not Ray's start, nor a tokenizer that tells nothing, nor a cluster that does not answer."""
    shown, output, clock = lines_of()

    def seconds_pass(seconds: int) -> list[str]:
        before = len(output.getvalue())
        for _ in range(seconds):
            clock.now += 1
            shown._refresh()  # as the display's own thread does once a second
        return output.getvalue()[before:].splitlines()

    shown.waits_for("Ray to start")
    assert seconds_pass(25) == ["waiting for Ray to start, 10 s so far", "waiting for Ray to start, 20 s so far"]
    shown.preparing(SourceProgress("tokenizer", "running"))
    assert seconds_pass(12) == ["tokenizer: running, 10 s"]
    shown.training(Snapshot({KEY: BEGUN}, slots=1), [])
    assert seconds_pass(11) == ["waiting for the cluster's answer, 10 s so far"]
    shown.training(Snapshot({KEY: BEGUN}, slots=1), [])
    assert seconds_pass(4) == []
    shown.waits_for("the worker groups to end")
    assert seconds_pass(10) == ["waiting for the worker groups to end, 10 s so far"]


def test_an_evaluation_outside_a_sweep_shows_its_items() -> None:
    shown, output, clock = lines_of()
    for scored, seconds in ((0, 0), (16, 11), (32, 1), (64, 20)):
        clock.now += seconds
        shown.evaluating("owner/model", scored, 64)
    assert output.getvalue().splitlines() == ["owner/model: 16 of 64 items, 11 s"]
    live = display.LiveDisplay(io.StringIO(), Shown(), clock=clock)
    live.evaluations = {"a/folder/with/a/very/long/name/of/a/model": (16, 64, clock.now - 7)}
    assert "16 of 64 items, 7 s" in "\n".join(drawn(live.region(), 60))


def test_the_display_keeps_its_waits_current_by_itself(monkeypatch) -> None:
    monkeypatch.setattr("raycodellm.display.base.TICK_SECONDS", 0.01)
    shown, output, clock = lines_of()
    with shown:
        shown.waits_for("Ray to start")
        clock.now += 10
        until = time.monotonic() + 120
        while not output.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    assert output.getvalue() == "waiting for Ray to start, 10 s so far\n"


def test_many_jobs_are_one_line_and_the_trials_come_as_a_table_now_and_then() -> None:
    shown, output, clock = lines_of(Shown("small", ("mean/bpb",), 40, best=lambda results: f"arm {len(results) - 1}"))
    running = {f"pretrain-{n:016x}": Progress(f"pretrain-{n:016x}", 5, 10, 5_000, 1_000.0, 3.0) for n in range(12)}
    shown.training(Snapshot(running, slots=12), [])
    clock.now += 61
    results = [trial(number) for number in range(15)]
    shown.training(Snapshot(running, slots=12), results)
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("12 jobs, 12.0 k tokens/s: pretrain 000000 50 %") and lines[0].endswith(" and 4 more")
    assert lines[16] == lines[0]
    assert lines[17:19] == ["15 of 40 trials done, 1 min 1 s elapsed", "best so far: arm 14"]
    table = lines[19:]
    assert table[0] == "  … 5 more" and table[1].split()[:2] == ["trial", "state"]
    assert [line.split()[0] for line in table[2:]] == [f"{number:04d}" for number in range(5, 15)]
    before = len(lines)
    clock.now += 61
    shown.training(Snapshot(running, slots=12), results)  # no trial has ended since: no table
    assert output.getvalue().splitlines()[before + 1 :] == ["15 of 40 trials done, 2 min 2 s elapsed"]


def test_a_best_arm_that_cannot_be_worked_out_ends_no_run() -> None:
    def fails(results) -> str:
        raise ValueError("0 of 0 is no share")

    shown, output, _ = lines_of(Shown("small", ("mean/bpb",), 2, best=fails))
    shown.training(Snapshot(slots=1), [trial(0)])
    assert output.getvalue() == "trial 0000 pretrain.code_ratio 0.25: mean/bpb 1.500\n"


def test_the_reason_why_no_slot_can_start_is_a_line() -> None:
    shown, output, clock = lines_of()
    slot = SlotView("slot 1", SlotActivity.STARTING, None, 62.0)
    reason = "no node has 2 CPUs free; it starts when trial 0001 ends"
    waits = Snapshot(slot_views=(slot,), waiting_reason=reason, num_nodes=3)
    for _ in range(12):
        shown.training(waits, [])
        clock.now += 1
    assert output.getvalue().splitlines() == [f"waiting for slot 1 to start ({reason}), 10 s so far"]
    for second in range(20):
        shown.training(replace(waits, running={KEY: BEGUN}, waiting_reason=f"{reason}, {second}"), [])
        clock.now += 1
    lines = [line for line in output.getvalue().splitlines()[1:] if not line.startswith("pretrain")]
    assert lines == [f"slots: 1 starting (1 min 2 s), on 3 nodes; {reason}, 0"]


# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(KEY), ""),
        (Progress(KEY, note="starting"), "starting"),
        # As a stage reports that it continues from a checkpoint: no loss and no speed yet.
        (Progress(KEY, 40, 100, 40_000, note="continues at step 40"), "40.0 k tokens"),
        (Progress(KEY, 40, 100, 40_000, math.inf, -math.inf, math.nan, 0.25), "40.0 k tokens  code 0.250"),
        (Progress(EVALUATION, note="evaluating", items=16, num_items=1_200), "16 of 1,200 items"),
        (Progress(EVALUATION, note="loading the model and the tasks"), "loading the model and the tasks"),
    ],
)
def test_a_number_that_is_not_known_yet_is_not_shown(progress: Progress, said: str) -> None:
    assert "  ".join(moment.job_facts(progress)) == said


def test_a_score_that_is_not_finite_is_shown_as_missing() -> None:
    result = TrialResult(3, "complete", 0, 0, {}, {"mean/bpb": math.inf, "mean/acc": math.nan})
    line = moment.trial_line(result, ("mean/bpb", "mean/acc", "boxes/acc"))
    assert line == "trial 0003 no searched parameter: mean/bpb –, mean/acc –, boxes/acc –"


# ------------------------------------------------------------------------------------------------- on a terminal


def full_moment(**more) -> Moment:
    views = (
        SlotView("slot 1", SlotActivity.WORKING, KEY, 12.0),
        SlotView("slot 2", SlotActivity.WORKING, EVALUATION, 4.0),
        SlotView("slot 3", SlotActivity.STARTING, None, 35.0),
    )
    running = {KEY: BEGUN, EVALUATION: Progress(EVALUATION, note="evaluating", items=62, num_items=200)}
    work = RemainingWork(job_seconds=100.0, longest_seconds=60.0, trial_seconds=40.0, num_trials=2)
    snapshot = Snapshot(running, slots=2, slot_views=views, num_nodes=3, remaining=work)
    results = [trial(number) for number in range(195)] + [trial(195, "failed"), trial(196, "running")]
    best = "arm 1 (pretrain.code_ratio 0.25) with mean/bpb 1.501 (95 %: 1.401 to 1.601 over items alone; one seed)"
    return Moment(snapshot, results, num_trials=200, elapsed=192.0, best=best, now=0.0, **more)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_how_the_sweep_stands_what_runs_and_the_newest_trials(columns: int) -> None:
    shown = Shown("small", ("mean/bpb",), 200)
    lines = drawn(display.run_region(full_moment(), shown, columns), columns)
    assert max(map(len, lines)) <= columns
    assert lines[0] == "small: 196 of 200 trials done (1 failed), 3 min 12 s elapsed, about 2 min left"
    text = "\n".join(lines)
    assert "slots: 2 working, 1 starting (35 s), on 3 nodes" in text
    assert "best so far: arm 1 (pretrain.code_ratio 0.25)" in text and "items alone; one seed" in " ".join(text.split())
    assert any(line.startswith("evaluation fedcba") and "31 %" in line and "62 of 200 items" in line for line in lines)
    assert any(line.startswith("pretrain 012345") and "50 %" in line and "loss 3.210" in line for line in lines)
    assert "… 187 more" in lines
    assert [line.split()[0] for line in lines[-10:]] == [f"{number:04d}" for number in range(187, 197)]
    assert ("device time" in text) == (columns == 200)
    assert "mean/bpb" in text and "pretrain.code_ratio" in text


def test_a_trial_table_has_a_row_per_trial_and_no_score_for_a_failed_one() -> None:
    results = [TrialResult(7, "failed", 1, 3, {"a.b": "x"}, {}), TrialResult(8, "running", 2, 3, {"a.c": 0.5})]
    table, num_older = display.newest_trials(results, ["mean/bpb"], 200)
    assert num_older == 0
    head, first, second = drawn(display.rich_table(table), 200)
    names = ["trial", "state", "arm", "seed", "a.b", "a.c", "mean/bpb", "tokens", "wall", "time", "device", "time"]
    assert head.split() == names
    assert first.split() == ["0007", "failed", "1", "3", "x", "–", "–", "–", "–", "–"]
    assert second.split() == ["0008", "running", "2", "3", "–", "0.5", "–", "–", "–", "–"]


def test_a_table_loses_its_least_important_columns_until_it_fits() -> None:
    table = Table(("arm", "score", "seeds", "chance"), [("0", "1.500", "3", "0.250")], left=(0, 3))
    for columns, header in (
        (30, "arm score seeds chance"),
        (24, "arm score chance"),
        (16, "arm score"),
        (3, "arm score"),
    ):
        found = fitted(table, columns, ("seeds", "chance"))
        assert " ".join(found.header) == header and len(found.rows[0]) == len(found.header)
    assert fitted(table, 24, ("seeds",)).left == (0, 2)


def test_a_notebook_shows_text_as_text() -> None:
    shown = Shown("<script>alert(1)</script>", ("mean/bpb",), 2)
    html = display.region_html(display.run_region(full_moment(), shown, 110), 110)
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_terminal_that_was_closed_ends_no_run() -> None:
    ours, terminal = os.openpty()
    with os.fdopen(terminal, "w", buffering=1) as output, display.display_on(output, Shown("small", (), 1)) as shown:
        assert isinstance(shown, display.LiveDisplay)
        shown.say("first")
        os.close(ours)
        for _ in range(3):
            shown.say("nobody sees this")
            shown.training(Snapshot({KEY: BEGUN}), [])


def test_a_sweep_that_a_confirmation_may_prolong_says_how_many_trials_are_known_and_how_many_it_may_come_to() -> None:
    shown, _, _ = lines_of(Shown("small", ("mean/bpb",), 6, 12))
    shown.training(Snapshot(), [trial(0)])
    assert moment.state_line(shown.moment).startswith("1 of 6 trials done, at most 12, ")
    shown.expects(10, 10)
    shown.training(Snapshot(), [trial(0)])
    assert moment.state_line(shown.moment).startswith("1 of 10 trials done, 0 s elapsed")


# ------------------------------------------------------------------------------------------------- the expected end


def test_the_expected_end_is_said_as_roughly_as_it_is_known() -> None:
    def said(num_trials: int = 10, num_slots: int = 2, num_ended: int = 4, **work) -> str:
        known = RemainingWork(**{"num_trials": 2, **work})
        snapshot = Snapshot(slots=num_slots, remaining=known)
        return moment.expected_end(Moment(snapshot, [], num_trials, 0.0, now=0.0), num_ended)

    # Two trials that have begun and four that have not, on two slots.
    assert said(job_seconds=100.0, longest_seconds=60.0, trial_seconds=40.0) == "about 3 min left"
    assert said(job_seconds=100.0, trial_seconds=40.0, is_upper_bound=True) == "at most 3 min left"
    assert said(job_seconds=30.0, longest_seconds=30.0, num_trials=6) == "about 30 s left"  # the longest trial counts
    assert said(job_seconds=1.0, longest_seconds=1.0, num_trials=6, is_upper_bound=True) == "about 10 s left"
    without = said(job_seconds=7200.0, trial_seconds=3600.0, covers_evaluations=False)
    assert without.startswith("about 3 h 00 min left without the evaluations, until ")
    assert said(job_seconds=100.0, num_slots=0) == ""
    assert moment.expected_end(Moment(Snapshot(slots=2), [], 10, 0.0), 4) == ""


def make_chain(number: int) -> SimpleNamespace:
    """A stage that all trials share, a stage of the trial's own, and an evaluation."""

    def stage(name: str, key: str, num_tokens: int) -> SimpleNamespace:
        return SimpleNamespace(kind="stage", key=key, stage=SimpleNamespace(name=name, num_tokens=num_tokens))

    evaluation = SimpleNamespace(kind="evaluation", key=f"evaluation-{number}")
    return SimpleNamespace(
        jobs=(stage("pretrain", "pretrain-0", 8_000), stage("own", f"own-{number}", 2_000), evaluation)
    )


def test_what_is_left_counts_shared_stages_once_and_says_nothing_while_the_speed_is_unknown() -> None:
    clock = Clock()
    state = DispatchState(3, clock=clock)
    chains = [make_chain(number) for number in range(3)]
    shared, own, evaluation = chains[0].jobs
    tokens, own_tokens = 8_000, 2_000
    for number, chain in enumerate(chains):
        state.add_trial(number, chain, {})
    assert state.snapshot().remaining is None
    slot = state.register("slot 1")
    assert state.take("slot 1") == shared
    for step, seconds in ((1, 5.0), (3, 2.0)):
        clock.now += seconds
        state.report("slot 1", slot, Progress(shared.key, step, 8, step * tokens // 8))
    assert state.snapshot().remaining is None  # two seconds of steps tell little
    clock.now += 2.0
    state.report("slot 1", slot, Progress(shared.key, 5, 8, 5 * tokens // 8))
    work = state.snapshot().remaining
    assert work is not None and not work.covers_evaluations and not work.is_upper_bound
    speed = tokens / 8  # a step per second
    assert work.job_seconds == pytest.approx(3 + 3 * own_tokens / speed)
    assert work.trial_seconds == pytest.approx(own_tokens / speed)
    assert work.longest_seconds == pytest.approx(3 + own_tokens / speed)
    assert work.num_trials == 3

    clock.now += 3.0
    state.report("slot 1", slot, Progress(shared.key, 8, 8, tokens))
    clock.now += 1.0
    state.end("slot 1", slot, shared.key, JobEnd.FINISH, None)  # 13 s, of which 7 were steps
    assert state.take("slot 1") == own
    state.end("slot 1", slot, own.key, JobEnd.FINISH, None)
    assert state.take("slot 1") == evaluation
    clock.now += 4.0
    state.report("slot 1", slot, Progress(evaluation.key, items=16, num_items=64))
    work = state.snapshot().remaining
    assert work is not None and work.covers_evaluations
    whole = 16.0  # seconds, as a quarter of its items lets expect
    stage = own_tokens / speed + (6.0 + 0.0) / 2  # what ended stages took beside their steps
    assert work.job_seconds == pytest.approx(2 * stage + (2 + 0.75) * whole)
    assert work.trial_seconds == pytest.approx(stage + whole)
    assert seconds_left(work, num_further_trials=1, num_slots=3) == pytest.approx(
        (work.job_seconds + stage + whole) / 3
    )
