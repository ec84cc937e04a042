"""The stage tree trains an equal prefix once, survives deaths, and never gives a job to two slots."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

from raycodellm.dispatch import (
    Action,
    Demand,
    DispatchState,
    JobEnd,
    JobTree,
    PlacementWatch,
    Sight,
    SlotActivity,
    SlotState,
    SlotView,
)
from raycodellm.dispatch.nodes import OPEN, JobState
from raycodellm.records import Progress


@dataclass(frozen=True)
class FakeJob:
    key: str
    kind: str = "evaluation"


def chain(*names: str) -> SimpleNamespace:
    return SimpleNamespace(jobs=tuple(FakeJob(name) for name in names))


def tree(**chains: tuple[str, ...]) -> JobTree:
    made = JobTree(max_deaths=1)
    for name, keys in chains.items():
        made.add(int(name[1:]), chain(*keys))
    return made


def test_an_equal_prefix_is_trained_once_for_both_trials() -> None:
    made = tree(t0=("a", "b0", "e0"), t1=("a", "b1", "e1"))
    assert made.take("s0").key == "a"
    assert made.take("s1") is None
    made.finish("s0", "a", "A")
    assert {made.take("s0").key, made.take("s1").key} == {"b0", "b1"}


def test_a_trial_ends_with_the_outcomes_of_all_its_jobs() -> None:
    made = tree(t0=("a", "e0"))
    for key in ("a", "e0"):
        assert made.outcome(0) is None
        assert made.take("s").key == key
        made.finish("s", key, key.upper())
    assert made.outcome(0).outcomes == {"a": "A", "e0": "E0"}
    assert made.outcome(0).error is None


def test_the_oldest_trial_is_finished_first() -> None:
    made = tree(t0=("a", "e0"), t1=("b", "e1"))
    assert made.take("s").key == "a"
    made.finish("s", "a", 1)
    assert made.take("s").key == "e0"


def test_a_slot_does_other_work_while_another_sweep_trains_a_stage_and_waits_only_where_none_is_left() -> None:
    state = DispatchState(max_deaths=1)
    for number, names in enumerate((("a", "e0"), ("b", "e1"))):
        state.add_trial(number, chain(*names), {})
    state.register("s")
    assert state.take("s").key == "a"
    assert state.report("s", 1, Progress("a", note="waits", is_elsewhere=True))
    state.end("s", 1, "a", JobEnd.RELEASE, None)
    for key in ("b", "e1"):
        assert state.take("s").key == key
        state.end("s", 1, key, JobEnd.FINISH, key)
    assert state.take("s").key == "a"
    assert not state.report("s", 1, Progress("a", note="waits", is_elsewhere=True))
    state.add_trial(2, chain("c"), {})
    assert state.report("s", 1, Progress("a", note="waits", is_elsewhere=True))
    assert not state.report("s", 1, Progress("a", step=1, num_steps=2))


def test_a_failed_job_fails_every_trial_that_needs_it_and_no_other() -> None:
    made = tree(t0=("a", "b0"), t1=("a", "b1"), t2=("c",))
    made.take("s")
    made.fail("s", "a", "TrainingError: loss is nan at step 3")
    assert "loss is nan" in made.outcome(0).error
    assert "loss is nan" in made.outcome(1).error
    assert made.outcome(2) is None
    assert made.take("s").key == "c"


def test_a_dead_slots_job_is_taken_again_until_it_has_died_too_often() -> None:
    made = tree(t0=("a",))
    made.take("s0")
    assert [node.job.key for node in made.lose("s0", "killed")] == ["a"]
    assert made.take("s1").key == "a"
    made.lose("s1", "killed again")
    assert "died 2 times" in made.outcome(0).error
    assert "killed again" in made.outcome(0).error


def test_a_slot_that_was_given_up_can_change_nothing_any_more() -> None:
    made = tree(t0=("a",))
    made.take("s0")
    made.lose("s0", "no word")
    assert made.take("s1").key == "a"
    made.finish("s0", "a", "late")
    made.fail("s0", "a", "late")
    assert made.nodes["a"].state == JobState.RUNNING
    assert made.should_stop("s0", "a")
    assert not made.should_stop("s1", "a")


def test_a_cancelled_trial_drops_only_the_jobs_that_nobody_else_needs() -> None:
    made = tree(t0=("a", "b0"), t1=("a", "b1"))
    made.take("s")
    made.cancel(0)
    assert made.nodes["b0"].state == JobState.CANCELLED
    assert not made.should_stop("s", "a")
    made.cancel(1)
    assert made.should_stop("s", "a")
    made.release("s", "a")
    assert made.nodes["a"].state == JobState.CANCELLED
    made.add(2, chain("a", "b2"))
    assert made.take("s").key == "a"


def test_a_stopping_sweep_gives_out_nothing_and_takes_its_jobs_back() -> None:
    made = tree(t0=("a",), t1=("b",))
    made.take("s")
    made.stopping = True
    assert made.take("s1") is None
    assert made.should_stop("s", "a")
    made.release("s", "a")
    assert made.nodes["a"].state == JobState.WAITING
    assert made.num_running() == 0


def test_what_the_tree_says_of_all_its_jobs_is_so_whatever_happens_to_each() -> None:
    """It keeps account of the jobs that have not ended, and looks at no other."""
    draw, made = random.Random(0), JobTree(max_deaths=1, max_preemptions=1)
    for number in range(200):
        arm = draw.randint(0, 60)
        made.add(number, chain("a", f"b{arm % 20}", f"e{arm}"), {} if number % 3 else {"a": "A"})
        for place in range(3):
            holder = f"s{place}#{number}"
            if (job := made.take(holder)) is not None:
                end = draw.choice((made.finish, made.finish, made.finish, made.fail, made.preempt))
                _ = end(holder, job.key, "so") if draw.random() < 0.8 else made.lose(holder, "killed")
        if draw.random() < 0.3:
            made.cancel(draw.randint(0, number))
        nodes = list(made.nodes.values())
        assert {node.job.key for node in made.open_nodes()} == {one.job.key for one in nodes if one.state in OPEN}
        assert made.num_done == sum(node.state == JobState.DONE for node in nodes)
        assert made.num_deaths == sum(node.deaths for node in nodes)
        assert made.num_preemptions == sum(node.preemptions for node in nodes)
        waiting = {trial for trial, keys in made.chains.items() if any(made.nodes[key].state in OPEN for key in keys)}
        assert set(made.open_chains()) == waiting
    assert made.num_done and made.num_deaths and made.num_preemptions


def test_jobs_that_the_store_has_are_not_given_out() -> None:
    made = JobTree(max_deaths=0)
    made.add(0, chain("a", "b", "e"), finished={"a": "A", "b": "B"})
    assert made.nodes["b"].state == JobState.DONE
    assert made.take("s").key == "e"


def test_nothing_placeable_fails_every_waiting_job_with_the_reason() -> None:
    made = tree(t0=("a", "b"), t1=("c",))
    made.fail_all("cannot be placed: needs 1 GPU, the cluster has none")
    for trial in (0, 1):
        assert "needs 1 GPU" in made.outcome(trial).error


def test_a_preempted_job_is_taken_again_and_counts_as_no_death() -> None:
    made = JobTree(max_deaths=0, max_preemptions=2)
    made.add(0, chain("a"))
    for slot in ("s0", "s1"):
        assert made.take(slot).key == "a"
        made.preempt(slot, "a", "the node leaves")
    assert (made.nodes["a"].state, made.nodes["a"].deaths, made.nodes["a"].preemptions) == (JobState.WAITING, 0, 2)
    made.take("s2")
    made.finish("s2", "a", "A")
    assert (made.outcome(0).deaths, made.outcome(0).preemptions) == (0, 2)


def test_workers_that_died_after_their_notice_were_preempted() -> None:
    made = JobTree(max_deaths=0, max_preemptions=1)
    made.add(0, chain("a"))
    made.take("s0")
    assert len(made.lose("s0", "the node left", is_preempted=True)) == 1
    assert made.nodes["a"].state == JobState.WAITING
    made.take("s1")
    made.lose("s1", "the node left again", is_preempted=True)
    assert "preempted 2 times; the last time: the node left again" in made.outcome(0).error


def test_deaths_and_preemptions_have_budgets_of_their_own() -> None:
    made = JobTree(max_deaths=1, max_preemptions=1)
    made.add(0, chain("a"))
    made.take("s#1")
    made.lose("s#1", "killed")
    made.take("s#2")
    made.preempt("s#2", "a", "notice")
    assert made.nodes["a"].state == JobState.WAITING
    made.take("s#2")
    made.lose("s#2", "killed")
    assert "died 2 times" in made.outcome(0).error
    assert (made.outcome(0).deaths, made.outcome(0).preemptions) == (2, 1)


def test_a_preempted_job_that_nobody_needs_any_more_is_dropped() -> None:
    made = tree(t0=("a",))
    made.take("s")
    made.cancel(0)
    made.preempt("s", "a", "notice")
    assert made.nodes["a"].state == JobState.CANCELLED


def test_a_slot_that_was_given_up_cannot_give_a_job_back_for_another() -> None:
    made = tree(t0=("a",))
    made.take("s0")
    made.lose("s0", "no word")
    made.take("s1")
    made.preempt("s0", "a", "late")
    assert made.nodes["a"].state == JobState.RUNNING
    assert made.nodes["a"].preemptions == 0


def test_workers_that_died_take_no_job_any_more_and_their_slots_next_ones_do() -> None:
    made = tree(t0=("a",))
    made.take("s#1")
    made.lose("s#1", "killed")
    assert made.take("s#1") is None
    assert made.nodes["a"].state == JobState.WAITING
    assert made.take("s#2").key == "a"


def test_a_postponed_job_is_nobodys_until_it_is_resumed_and_counts_as_no_death() -> None:
    made = tree(t0=("a", "b"))
    made.take("s")
    assert made.postpone("s", "a") == 1
    assert made.postpone("s", "a") == 0  # the other ranks say the same
    assert (made.nodes["a"].state, made.nodes["a"].deaths, made.outcome(0)) == (JobState.POSTPONED, 0, None)
    assert made.take("s") is None and made.num_active() == 0
    made.resume("a")
    assert made.take("t").key == "a"
    assert made.postpone("t", "a") == 2
    made.cancel(0)
    made.resume("a")
    assert made.nodes["a"].state == JobState.CANCELLED


# ------------------------------------------------------------------------------------------------- slots


def state_with(*keys: str, clock=lambda: 0.0) -> DispatchState:
    made = DispatchState(max_deaths=1, clock=clock)
    made.add_trial(0, chain(*keys), {})
    return made


def test_a_slot_is_ready_then_leaving_then_down_and_ready_again_as_another_incarnation() -> None:
    made = state_with("a")
    assert made.register("s") == 1 and made.slots["s"].state == SlotState.READY
    made.told_to_leave("s", 1, "SIGTERM")
    made.told_to_leave("s", 1, "the node leaves")
    assert (made.slots["s"].state, made.slots["s"].notice) == (SlotState.LEAVING, "SIGTERM")
    assert not made.may_ask("s", 1)
    made.workers_died("s", "killed", is_preempted=False)
    assert made.slots["s"].state == SlotState.DOWN and made.demand() == Demand(num_jobs=1, num_starting=1)
    assert made.register("s") == 2 and made.may_ask("s", 2) and not made.may_ask("s", 1)
    assert made.take("s").key == "a" and made.demand() == Demand(num_jobs=1, has_slot=True)
    assert made.slot_gone("s", "ended") and made.slots["s"].state == SlotState.GONE
    made.workers_died("s", "heard late", is_preempted=False)
    assert made.snapshot().slots == 0 and not made.has_begun()


def test_only_the_time_that_a_slot_holds_a_job_is_busy_and_the_rest_is_idle() -> None:
    now = 100.0
    made = state_with("a", clock=lambda: now)
    made.register("s")
    now = 103.0
    assert made.idle_seconds("s") == 3.0
    made.take("s")
    now = 110.0
    made.end("s", 1, "a", JobEnd.FINISH, "A")
    now = 112.0
    found = made.snapshot()
    assert found.busy_seconds == {"training": 0.0, "evaluation": 7.0} and found.first_slot_seconds == 0.0
    assert made.idle_seconds("s") == 2.0


def test_people_see_what_each_slot_does_and_for_how_long() -> None:
    now = 0.0
    made = state_with("a", clock=lambda: now)
    made.slot_asked_for("slot 1")
    made.slot_asked_for("slot 2")

    def views() -> tuple[SlotView, ...]:
        return made.snapshot().slot_views

    now = 5.0
    starting = SlotView("slot 2", SlotActivity.STARTING, None, 5.0)
    assert views() == (SlotView("slot 1", SlotActivity.STARTING, None, 5.0), starting)
    made.register("slot 1")
    assert views() == (SlotView("slot 1", SlotActivity.IDLE, None, 0.0), starting)
    made.take("slot 1")
    now = 7.0
    assert views()[0] == SlotView("slot 1", SlotActivity.WORKING, "a", 2.0)
    made.told_to_leave("slot 1", 1, "SIGTERM")
    assert views()[0] == SlotView("slot 1", SlotActivity.WORKING, "a", 2.0)  # it saves the job
    made.workers_died("slot 1", "killed", is_preempted=False)
    now = 8.0
    assert views()[0] == SlotView("slot 1", SlotActivity.LOST, None, 1.0)
    made.slot_gone("slot 1", "ended")
    assert [one.name for one in views()] == ["slot 2"]


def test_a_snapshot_says_why_no_slot_can_start_only_while_one_waits() -> None:
    made = state_with("a")
    made.see(Sight(3, waiting_reason="needs 2 CPU; a node is starting"))
    assert (made.snapshot().waiting_reason, made.snapshot().num_nodes) == (None, 3)
    made.slot_asked_for("slot 1")
    assert made.snapshot().waiting_reason == "needs 2 CPU; a node is starting"
    made.see(Sight(1, placement_problem="no node has 2 CPU"))
    assert made.snapshot().waiting_reason == "no node has 2 CPU"
    made.register("slot 1")
    assert made.snapshot().waiting_reason is None
    made.workers_died("slot 1", "its node died", is_preempted=False)
    assert made.snapshot().waiting_reason == "no node has 2 CPU"


def test_a_slot_that_still_waits_for_a_place_when_there_is_no_job_for_it_is_surplus() -> None:
    now = 0.0
    made = state_with("a", clock=lambda: now)
    for name in ("slot 1", "slot 2", "slot 3"):
        made.slot_asked_for(name)
    made.register("slot 1")
    made.add_trial(1, chain("b"), {})
    now = 59.0
    assert made.demand(idle_seconds=60).surplus == ()
    now = 61.0
    assert made.demand(idle_seconds=60).surplus == ("slot 3",)  # slot 2 has a job to wait for
    assert made.demand().surplus == ()  # while the token stores are made
    made.cancel_trial(1)
    assert made.demand(idle_seconds=60).surplus == ("slot 2", "slot 3")


# ------------------------------------------------------------------------------------------------- placement

NEVER, FULL = Sight(1, placement_problem="needs 1 GPU"), Sight(1, waiting_reason="needs 1 GPU; all are in use")
WAITS, LIVES, RESTS = Demand(num_jobs=1), Demand(num_jobs=1, has_slot=True), Demand()


def test_a_sweep_that_can_never_have_a_place_fails_its_trials_within_a_minute() -> None:
    watch = PlacementWatch(now=0)
    assert watch.decide(NEVER, WAITS, now=30) is None
    assert watch.decide(NEVER, WAITS, now=50) == (Action.FAIL, "cannot be placed: needs 1 GPU")


def test_a_sweep_that_may_get_a_place_waits_for_it() -> None:
    watch = PlacementWatch(now=0)
    assert watch.decide(FULL, WAITS, now=5000) is None
    assert watch.decide(NEVER, WAITS, now=5030) is None  # nodes come and go while a cluster starts
    assert watch.decide(NEVER, WAITS, now=5050) is not None


def test_a_sweep_whose_nodes_went_says_so_waits_for_others_and_then_ends_with_its_trials_open() -> None:
    watch = PlacementWatch(now=0)
    assert watch.decide(FULL, LIVES, now=10) is None
    action, said = watch.decide(NEVER, WAITS, now=60)
    assert action == Action.SAY and "waiting for nodes, up to 600 s" in said
    assert watch.decide(NEVER, WAITS, now=200) is None  # said once
    assert watch.decide(NEVER, LIVES, now=210) is None
    assert watch.decide(NEVER, WAITS, now=300)[0] == Action.SAY
    assert watch.decide(NEVER, WAITS, now=900)[0] == Action.ABANDON


def test_a_sweep_without_work_is_not_missing_slots() -> None:
    watch = PlacementWatch(now=0)
    watch.decide(FULL, LIVES, now=10)
    assert watch.decide(NEVER, RESTS, now=900) is None
