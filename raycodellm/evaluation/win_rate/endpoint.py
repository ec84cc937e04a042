"""Asks a model behind an OpenAI-compatible endpoint, patiently and no faster than allowed."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raycodellm.config import UserError
from raycodellm.retrying import WAITS_SECONDS

logger = logging.getLogger(__name__)

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP answers after which the same request may succeed."""
_MOST_WAIT_SECONDS = 600.0
"""Longest wait that a server's `Retry-After` is granted."""
_CAUSE_LENGTH = 200


class JudgeFailed(OSError):
    """The endpoint did not answer, however often it was asked."""


@dataclass(frozen=True)
class JudgeSettings:
    """A judge, and how it may be asked."""

    url: str
    """The endpoint: up to and with `/v1`, or the whole address of its chat completions."""
    model: str
    """The judge's name at the endpoint."""
    key_variable: str | None = None
    """Environment variable that holds the endpoint's key; None for an endpoint that asks for none."""
    requests_per_minute: float | None = None
    """Most requests that are begun in a minute; None for as many as `workers` manage."""
    workers: int = 4
    """Requests at a time."""
    max_tokens: int = 512
    """Length of the judge's answer."""
    timeout_seconds: float = 120.0
    """Wait for one answer."""

    @property
    def address(self) -> str:
        """The address of the chat completions."""
        url = self.url.rstrip("/")
        return url if url.endswith("/chat/completions") else f"{url}/chat/completions"

    def key(self) -> str | None:
        """The endpoint's key. Raises UserError where the variable that should hold it is not set."""
        if self.key_variable is None:
            return None
        if not os.environ.get(self.key_variable):
            raise UserError(
                f"--judge-key {self.key_variable}: this environment variable is not set; put the endpoint's key into it"
            )
        return os.environ[self.key_variable]


class Pace:
    """Lets requests begin one after the other with a least time between them, in all threads together."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Returns when the next request may begin."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._next)
            self._next = begin + self._gap
        if begin > now:
            self._sleep(begin - now)

    def pause(self, seconds: float) -> None:
        """No request begins within so many seconds."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class Judge:
    """A model behind an endpoint."""

    def __init__(self, settings: JudgeSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises UserError where the key is missing."""
        self._settings, self._sleep = settings, sleep
        self._key = settings.key()
        self._pace = Pace(settings.requests_per_minute, sleep=sleep)

    def ask_all(self, questions: Sequence[str], on_answer: Callable[[int], None] = lambda asked: None) -> list[str]:
        """The answer to each question, in order; `on_answer` hears how many have been answered. Raises as `ask`."""
        found: list[str] = []
        with ThreadPoolExecutor(self._settings.workers) as pool:
            try:
                for answer in pool.map(self.ask, questions):
                    found.append(answer)
                    on_answer(len(found))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else the questions that wait would be asked first
                raise
        return found

    def ask(self, question: str) -> str:
        """The judge's answer; empty where it says nothing.

        A request that fails for a passing reason is made again, after the time that the server asks for or ever longer
        ones. Raises UserError for a request that the endpoint refuses, and JudgeFailed when patience ends.
        """
        for seconds in (*WAITS_SECONDS, None):
            self._pace.wait()
            try:
                return self._answer(question)
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code}: {_cause(error.read().decode('utf-8', 'replace'))}"
                if error.code not in _PASSING:
                    raise UserError(f"the judge at {self._settings.address} refuses the request ({said})") from error
                asked_wait = _retry_after(error.headers.get("Retry-After"))
                if asked_wait is not None:
                    self._pace.pause(asked_wait)
                    seconds = None if seconds is None else 0.0
            except (OSError, ValueError) as error:  # no connection, no answer in time, or no JSON
                said = _cause(str(error) or type(error).__name__)
            if seconds is None:
                raise JudgeFailed(f"the judge at {self._settings.address} does not answer ({said})")
            logger.warning("the judge does not answer (%s); asked again in %.0f s", said, seconds)
            if seconds:
                self._sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def _answer(self, question: str) -> str:
        asked = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._settings.address, json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request, timeout=self._settings.timeout_seconds) as response:
            return _content(json.loads(response.read()))


def _content(answer: Any) -> str:
    """The text of a chat completion. Raises ValueError for anything else."""
    try:
        content = answer["choices"][0]["message"].get("content")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"no chat completion: {_cause(json.dumps(answer))}") from error
    if isinstance(content, list):  # parts of a message
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _retry_after(header: str | None) -> float | None:
    try:
        return min(_MOST_WAIT_SECONDS, max(0.0, float(header))) if header else None
    except ValueError:  # a date
        return None


def _cause(text: str) -> str:
    return " ".join(text.split())[:_CAUSE_LENGTH]
