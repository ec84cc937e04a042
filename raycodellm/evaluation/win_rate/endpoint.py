"""Asks a model behind an OpenAI-compatible endpoint, patiently and no faster than allowed."""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from raycodellm.config import Judge as JudgeSettings
from raycodellm.config import UserError
from raycodellm.retrying import WAITS_SECONDS

logger = logging.getLogger(__name__)

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP answers after which the same request may succeed."""
_MOST_WAIT_SECONDS = 600.0
"""Longest wait that a server's `Retry-After` is granted."""
_LONG_SECONDS = 10.0
"""A wait that is worth a warning. A busy endpoint refuses many requests for a second or two."""
_CAUSE_LENGTH = 200


_PLACE_REFUSED = frozenset({401, 403, 404, 405})
"""HTTP answers that refuse every question alike: a wrong key, a wrong address, a wrong model."""


class JudgeFailed(OSError):
    """The endpoint did not answer, however often it was asked."""


class JudgeRefuses(UserError):
    """The endpoint refuses a request: asking again would not help."""

    def __init__(self, words: str, refuses_all: bool) -> None:
        """`refuses_all`: True if it would refuse any other question as well."""
        super().__init__(words)
        self.refuses_all = refuses_all


def address_of(settings: JudgeSettings) -> str:
    """The address of the endpoint's chat completions. `base_url` may be that address itself."""
    url = settings.base_url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def key_of(settings: JudgeSettings) -> str | None:
    """The endpoint's key. Raises UserError where the variable that should hold it is not set."""
    name = settings.key_variable
    if name is None:
        return None
    if not os.environ.get(name):
        raise UserError(
            f"the judge's key: the environment variable {name} is not set; put the key of {settings.base_url} into it"
        )
    return os.environ[name]


class Pace:
    """Lets requests begin one after the other with a least time between them, in all threads together."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
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

    def __init__(self, settings: JudgeSettings, sleep: Callable[[float], object] | None = None) -> None:
        """Raises UserError where the key is missing. `sleep`: None for waits that `close` ends."""
        self.settings = settings
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._key = key_of(settings)
        self._address = address_of(settings)
        self._pace = Pace(settings.requests_per_minute, sleep=self._sleep)
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": settings.verdict_tokens}

    def close(self) -> None:
        """No request begins any more; a question that waits fails."""
        self._closed.set()

    def ask(self, question: str) -> str:
        """The judge's answer; empty where it says nothing.

        A request that fails for a passing reason is made again, after the time that the server asks for or ever longer
        ones. Raises JudgeRefuses for a request that the endpoint refuses, and JudgeFailed when patience ends.
        """
        for seconds in (*WAITS_SECONDS, None):
            self._pace.wait()
            if self._closed.is_set():
                raise JudgeFailed("the judge is not asked any more")
            options = self._options
            try:
                return self._answer(question, options)
            except urllib.error.HTTPError as error:
                body = error.read().decode("utf-8", "replace")
                said = f"HTTP {error.code}: {_cause(body)}"
                if error.code == 400 and seconds is not None and self._asks_otherwise(body, options):
                    continue
                if error.code not in _PASSING:
                    refused = f"the judge at {self._address} refuses the request ({said})"
                    raise JudgeRefuses(refused, error.code in _PLACE_REFUSED) from error
                asked_wait = _retry_after(error.headers.get("Retry-After"))
                if asked_wait is not None:
                    self._pace.pause(asked_wait)
                    seconds = None if seconds is None else 0.0
            except (OSError, ValueError, http.client.HTTPException) as error:  # no connection, no answer, no JSON
                said = _cause(str(error) or type(error).__name__)
            if seconds is None:
                raise JudgeFailed(f"the judge at {self._address} does not answer ({said})")
            level = logging.WARNING if seconds >= _LONG_SECONDS else logging.INFO
            logger.log(level, "the judge does not answer (%s); asked again in %.0f s", said, seconds)
            if seconds:
                self._sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def _asks_otherwise(self, refusal: str, asked: Mapping[str, Any]) -> bool:
        """Leaves out an option that the endpoint refuses, or names it as the endpoint wants; False where the refusal is
        about something else. Models that reason take no temperature, and their length has another name. `asked`: the
        options of the refused request, which other threads may have changed since."""
        if asked != self._options:
            return True
        options = dict(asked)
        if "max_completion_tokens" in refusal and "max_tokens" in options:
            options["max_completion_tokens"] = options.pop("max_tokens")
        elif "temperature" in refusal:
            options.pop("temperature", None)
        self._options = options
        return options != asked

    def _answer(self, question: str, options: Mapping[str, Any]) -> str:
        asked = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": question}],
            **options,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._address, json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.settings.timeout_seconds) as response:
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
