"""Judges programs that a model wrote by their tasks' tests, in the sandbox, some at once.

A program may compute ten times as long as the task's own solution, and two seconds at least, so that a slow machine
changes no verdict. Few programs need more than that least time, so the own solution of a task runs only where a program
failed: a task whose own solution fails here as well says nothing about the program.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raycodellm.evaluation import sandbox
from raycodellm.evaluation.sandbox import (
    FAILED,
    NOT_RUN,
    PASSED,
    Isolation,
    Limits,
    Program,
    SandboxUnavailable,
    Verdict,
)

FIRST_LIMITS = Limits(cpu_seconds=2)
"""Limits of a program's first run: the least that `sandbox.limits_for` gives."""


@dataclass(frozen=True)
class Attempt:
    """A program that a model wrote for a task, and the task's own solution."""

    program: Program
    reference: Program


def verdicts(attempts: Sequence[Attempt], at_once: int) -> list[Verdict]:
    """The verdict on each attempt, `at_once` of them at a time; equal attempts are run once. Where no sandbox works,
    each is `not_run` with the reason."""
    try:
        isolation = sandbox.find_isolation()
    except SandboxUnavailable as error:
        _warn(str(error))
        return [Verdict(NOT_RUN, str(error))] * len(attempts)
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        verdict_by_attempt = _verdicts(dict.fromkeys(attempts), functools.partial(_run_all, pool, isolation))
    return [verdict_by_attempt[attempt] for attempt in attempts]


@functools.cache
def _warn(why: str) -> None:
    """Warns once per process."""
    logging.getLogger(__name__).warning("%s", why)


Runs = Mapping[Program, Limits]


def _verdicts(attempts: Iterable[Attempt], run_all: Callable[[Runs], dict[Program, Verdict]]) -> dict[Attempt, Verdict]:
    """The rule: see the top of this file. `run_all` runs each program within its limits."""
    attempts = list(attempts)
    first_verdicts = run_all({attempt.program: FIRST_LIMITS for attempt in attempts})
    failed = [attempt for attempt in attempts if first_verdicts[attempt.program].result == FAILED]
    reference_verdicts = run_all({attempt.reference: Limits() for attempt in failed})
    limits_by_attempt = {
        attempt: sandbox.limits_for(reference_verdicts[attempt.reference])
        for attempt in failed
        if reference_verdicts[attempt.reference].result == PASSED
    }
    longer_limits = {attempt.program: limits for attempt, limits in limits_by_attempt.items() if limits != FIRST_LIMITS}
    second_verdicts = run_all(
        {program: limits for program, limits in longer_limits.items() if _ran_out(first_verdicts[program])}
    )
    verdict_by_attempt = {
        attempt: second_verdicts.get(attempt.program, first_verdicts[attempt.program]) for attempt in attempts
    }
    for attempt in failed:
        if attempt not in limits_by_attempt:
            reason = reference_verdicts[attempt.reference].why
            verdict_by_attempt[attempt] = Verdict(NOT_RUN, f"the task's own solution does not pass here: {reason}")
    return verdict_by_attempt


def _ran_out(verdict: Verdict) -> bool:
    """True if the program used up the computing time or the elapsed time of its first run."""
    return (
        verdict.cpu_seconds > FIRST_LIMITS.cpu_seconds - 0.5 or verdict.wall_seconds > FIRST_LIMITS.wall_seconds - 0.5
    )


def _run_all(pool: ThreadPoolExecutor, isolation: Isolation, runs: Runs) -> dict[Program, Verdict]:
    program_verdicts = pool.map(lambda program: _run(program, isolation, runs[program]), runs)
    return dict(zip(runs, program_verdicts, strict=True))


def _run(program: Program, isolation: Isolation, limits: Limits) -> Verdict:
    # The tasks' own solutions, which run with these limits alone, come again with each block and each model.
    kept_verdict = _passed.get((program, isolation)) if limits == Limits() else None
    verdict = kept_verdict or sandbox.run(program, isolation, limits)
    # A solution that did not pass may do so the next time, if the machine was at fault.
    if limits == Limits() and verdict.result == PASSED:
        if len(_passed) >= _MOST_PASSED:
            _passed.clear()
        _passed[program, isolation] = verdict
    return verdict


_passed: dict[tuple[Program, Isolation], Verdict] = {}
"""The verdicts on own solutions that passed in this process."""
_MOST_PASSED = 4096
