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
these questions has been asked until patience ended. One question that the endpoint cannot answer ends nothing."""
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


class _AskingThreads:
    """The threads that ask the questions. They are daemons, so that a thread that waits for an answer keeps no process
    from ending."""

    def __init__(self, judge: Judge, questions: Mapping[str, str]) -> None:
        self._judge = judge
        self._questions: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[tuple[str, Said | BaseException]] = queue.SimpleQueue()
        for keyed_question in questions.items():
            self._questions.put(keyed_question)
        for _ in range(min(judge.settings.concurrency, len(questions))):
            threading.Thread(target=self._work, daemon=True, name="judge").start()

    def _work(self) -> None:
        while True:
            try:
                key, question = self._questions.get_nowait()
            except queue.Empty:
                return
            try:
                self.replies.put((key, self._judge.ask(question)))
            except BaseException as error:  # raised by the thread that reads the replies
                self.replies.put((key, error))

    def close(self) -> None:
        """Asks no further question."""
        self._judge.close()
        while True:
            try:
                self._questions.get_nowait()
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
    Raises Stopped within a second of `should_stop` saying yes: answers on their way are not waited for.
    """
    threads, num_replies = _AskingThreads(judge, questions), 0
    failed_in_a_row, num_refused, has_answered = 0, 0, False
    try:
        while num_replies < len(questions):
            try:
                key, reply = threads.replies.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if should_stop():
                    raise Stopped from None
                continue
            num_replies += 1
            if isinstance(reply, Said):
                failed_in_a_row, has_answered = 0, True
                on_answer(key, reply)
            elif isinstance(reply, JudgeFailed):
                failed_in_a_row += 1
                if failed_in_a_row >= MOST_FAILED:
                    return GivenUp(str(reply), for_all=True)
            elif isinstance(reply, JudgeRefuses):
                failed_in_a_row, num_refused = 0, num_refused + 1
                if reply.refuses_all or (num_refused >= MOST_REFUSED and not has_answered):
                    return GivenUp(str(reply), reply.refuses_all)
            else:
                raise reply
            if should_stop():
                raise Stopped
    finally:
        threads.close()
    return GivenUp()
