"""Asks a judge many questions, some at a time, until all are answered, it is given up, or someone stops it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from raycodellm.evaluation.win_rate.endpoint import Judge, JudgeFailed, JudgeRefuses, Said
from raycodellm.evaluation.workers import Stopped

MOST_FAILED = 3
"""Questions that fail one after the other, with no answer to any between, after which the endpoint is given up: each of
them has had its whole patience. A single question that the endpoint cannot answer costs only itself."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether someone wishes to stop."""


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
) -> str:
    """Asks each question, by its key; `on_answer(key, answer)` hears the answers, in this thread and in any order.

    Returns why the judge was given up, in words; empty where each question was asked. A question that the judge did not
    answer, or refused, is passed over. Raises Stopped within a second of `should_stop` saying yes: what is on its way
    is not waited for.
    """
    asked, failed_since, num_heard = _Asked(judge, questions), 0, 0
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
                failed_since = 0
                on_answer(key, said)
            elif isinstance(said, JudgeFailed | JudgeRefuses):
                failed_since += 1
                if failed_since >= MOST_FAILED or (isinstance(said, JudgeRefuses) and said.refuses_all):
                    return str(said)
            else:
                raise said
            if should_stop():
                raise Stopped
    finally:
        asked.close()
    return ""
