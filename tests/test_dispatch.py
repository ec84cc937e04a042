"""The stage tree trains an equal prefix once, survives deaths, and never gives a job to two slots."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from raycodellm.dispatch import CANCELLED, DONE, POSTPONED, RUNNING, WAITING, Dispatch


@dataclass(frozen=True)
class FakeJob:
    key: str


def chain(*names: str) -> SimpleNamespace:
    return SimpleNamespace(jobs=tuple(FakeJob(name) for name in names))


def tree(**chains: tuple[str, ...]) -> Dispatch:
    made = Dispatch(max_deaths=1)
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
    assert made.lost("s0", "killed") == ["a"]
    assert made.take("s1").key == "a"
    made.lost("s1", "killed again")
    assert "died 2 times" in made.outcome(0).error
    assert "killed again" in made.outcome(0).error


def test_a_slot_that_was_given_up_can_change_nothing_any_more() -> None:
    made = tree(t0=("a",))
    made.take("s0")
    made.lost("s0", "no word")
    assert made.take("s1").key == "a"
    made.finish("s0", "a", "late")
    made.fail("s0", "a", "late")
    assert made.nodes["a"].state == RUNNING
    assert made.should_stop("s0", "a")
    assert not made.should_stop("s1", "a")


def test_a_cancelled_trial_drops_only_the_jobs_that_nobody_else_needs() -> None:
    made = tree(t0=("a", "b0"), t1=("a", "b1"))
    made.take("s")
    made.cancel(0)
    assert made.nodes["b0"].state == CANCELLED
    assert not made.should_stop("s", "a")
    made.cancel(1)
    assert made.should_stop("s", "a")
    made.release("s", "a")
    assert made.nodes["a"].state == CANCELLED
    made.add(2, chain("a", "b2"))
    assert made.take("s").key == "a"


def test_a_stopping_sweep_gives_out_nothing_and_takes_its_jobs_back() -> None:
    made = tree(t0=("a",), t1=("b",))
    made.take("s")
    made.stopping = True
    assert made.take("s1") is None
    assert made.should_stop("s", "a")
    made.release("s", "a")
    assert made.nodes["a"].state == WAITING
    assert made.num_running() == 0


def test_jobs_that_the_store_has_are_not_given_out() -> None:
    made = Dispatch(max_deaths=0)
    made.add(0, chain("a", "b", "e"), finished={"a": "A", "b": "B"})
    assert made.nodes["b"].state == DONE
    assert made.take("s").key == "e"


def test_nothing_placeable_fails_every_waiting_job_with_the_reason() -> None:
    made = tree(t0=("a", "b"), t1=("c",))
    made.fail_all("cannot be placed: needs 1 GPU, the cluster has none")
    for trial in (0, 1):
        assert "needs 1 GPU" in made.outcome(trial).error


def test_a_preempted_job_is_taken_again_and_counts_as_no_death() -> None:
    made = Dispatch(max_deaths=0, max_preemptions=2)
    made.add(0, chain("a"))
    for slot in ("s0", "s1"):
        assert made.take(slot).key == "a"
        made.preempted(slot, "a", "the node leaves")
    assert (made.nodes["a"].state, made.nodes["a"].deaths, made.nodes["a"].preemptions) == (WAITING, 0, 2)
    made.take("s2")
    made.finish("s2", "a", "A")
    assert (made.outcome(0).deaths, made.outcome(0).preemptions) == (0, 2)


def test_workers_that_died_after_their_notice_were_preempted() -> None:
    made = Dispatch(max_deaths=0, max_preemptions=1)
    made.add(0, chain("a"))
    made.take("s0")
    assert made.lost("s0", "the node left", preempted=True) == ["a"]
    assert made.nodes["a"].state == WAITING
    made.take("s1")
    made.lost("s1", "the node left again", preempted=True)
    assert "preempted 2 times; the last time: the node left again" in made.outcome(0).error


def test_deaths_and_preemptions_have_budgets_of_their_own() -> None:
    made = Dispatch(max_deaths=1, max_preemptions=1)
    made.add(0, chain("a"))
    made.take("s#1")
    made.lost("s#1", "killed")
    made.take("s#2")
    made.preempted("s#2", "a", "notice")
    assert made.nodes["a"].state == WAITING
    made.take("s#2")
    made.lost("s#2", "killed")
    assert "died 2 times" in made.outcome(0).error
    assert (made.outcome(0).deaths, made.outcome(0).preemptions) == (2, 1)


def test_a_preempted_job_that_nobody_needs_any_more_is_dropped() -> None:
    made = tree(t0=("a",))
    made.take("s")
    made.cancel(0)
    made.preempted("s", "a", "notice")
    assert made.nodes["a"].state == CANCELLED


def test_a_slot_that_was_given_up_cannot_give_a_job_back_for_another() -> None:
    made = tree(t0=("a",))
    made.take("s0")
    made.lost("s0", "no word")
    made.take("s1")
    made.preempted("s0", "a", "late")
    assert made.nodes["a"].state == RUNNING
    assert made.nodes["a"].preemptions == 0


def test_workers_that_died_take_no_job_any_more_and_their_slots_next_ones_do() -> None:
    made = tree(t0=("a",))
    made.take("s#1")
    made.lost("s#1", "killed")
    assert made.take("s#1") is None
    assert made.nodes["a"].state == WAITING
    assert made.take("s#2").key == "a"


def test_a_postponed_job_is_nobodys_until_it_is_resumed_and_counts_as_no_death() -> None:
    made = tree(t0=("a", "b"))
    made.take("s")
    assert made.postpone("s", "a") == 1
    assert made.postpone("s", "a") == 0  # the other ranks say the same
    assert (made.nodes["a"].state, made.nodes["a"].deaths, made.outcome(0)) == (POSTPONED, 0, None)
    assert made.take("s") is None and made.num_active() == 0 and made.is_open("a")
    made.resume("a")
    assert made.take("t").key == "a"
    assert made.postpone("t", "a") == 2
    made.cancel(0)
    made.resume("a")
    assert made.nodes["a"].state == CANCELLED
