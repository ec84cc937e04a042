"""Asks a judge many questions, some at a time, until all are answered, it is given up, or someone stops it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from raycodellm.evaluation.win_rate.endpoint import Judge, JudgeFailed, JudgeRefuses, Said
from raycodellm.evaluation.workers import Stopped

MOST_FAILED = 3
"""Questions that fail one after the other, with no answer to any between, after which the endpoint is given up: each of
them has had its whole patience. A single question that the endpoint cannot answer costs only itself."""
MOST_REFUSED = 20
"""Questions that are refused one after the other, with no answer before, after which no more of them are asked: a
refusal takes a moment only, and is often about one question, such as one that is too long for the judge."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether someone wishes to stop."""


class GivenUp(NamedTuple):
    """Why no more questions were asked."""

    why: str = ""
    """In words; empty where each question was asked."""
    for_all: bool = False
    """True if any other question would have no answer either."""


class _Asked:
    """The threads that ask. They are daemons: one that waits for an answer keeps no process from ending."""

    def __init__(self, judge: Judge, questions: Mapping[str, str]) -> None:
        self._judge = judge
        self._left: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.heard: queue.SimpleQueue[tuple[str, Said | BaseException]] = queue.SimpleQueue()
        for one in questions.items():
            self._left.put(one)
        for _ in range(min(judge.settings.concurrency, len(questions))):
            threading.Thread(target=self._work, daemon=True, name="judge").start()

    def _work(self) -> None:
        while True:
            try:
                key, question = self._left.get_nowait()
            except queue.Empty:
                return
            try:
                self.heard.put((key, self._judge.ask(question)))
            except BaseException as error:  # told to the thread that reads what was heard
                self.heard.put((key, error))

    def close(self) -> None:
        """No further question is asked."""
        self._judge.close()
        while True:
            try:
                self._left.get_nowait()
            except queue.Empty:
                return


def ask_each(
    judge: Judge,
    questions: Mapping[str, str],
    on_answer: Callable[[str, Said], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> GivenUp:
    """Asks each question, by its key; `on_answer(key, answer)` hears the answers, in this thread and in any order.

    Returns why the judge was given up, if it was. A question that the judge did not answer, or refused, is passed over.
    Raises Stopped within a second of `should_stop` saying yes: what is on its way is not waited for.
    """
    asked, num_heard = _Asked(judge, questions), 0
    failed_since, num_refused, has_answered = 0, 0, False
    try:
        while num_heard < len(questions):
            try:
                key, said = asked.heard.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if should_stop():
                    raise Stopped from None
                continue
            num_heard += 1
            if isinstance(said, Said):
                failed_since, has_answered = 0, True
                on_answer(key, said)
            elif isinstance(said, JudgeFailed):
                failed_since += 1
                if failed_since >= MOST_FAILED:
                    return GivenUp(str(said), for_all=True)
            elif isinstance(said, JudgeRefuses):
                failed_since, num_refused = 0, num_refused + 1
                if said.refuses_all or (num_refused >= MOST_REFUSED and not has_answered):
                    return GivenUp(str(said), said.refuses_all)
            else:
                raise said
            if should_stop():
                raise Stopped
    finally:
        asked.close()
    return GivenUp()
