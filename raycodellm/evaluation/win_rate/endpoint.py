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
from typing import IO, Any, NamedTuple

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
_SHORTEST_SECRET = 6
"""Least characters of a key that is hidden in messages. A shorter one, such as the `x` that a local server is given, is
no secret, and a part of many words."""
_MOST_BYTES = 16 * 2**20
"""Longest answer that is read; a verdict has some hundred bytes."""
_PART_BYTES = 2**16

_REFUSE_ALL = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
"""HTTP answers that refuse every question alike: a wrong key, a wrong address, a wrong model."""


class JudgeFailed(OSError):
    """The endpoint did not answer, however often it was asked."""


class JudgeRefuses(UserError):
    """The endpoint refuses a request: asking again would not help."""

    def __init__(self, words: str, refuses_all: bool) -> None:
        """`refuses_all`: True if it would refuse any other question as well."""
        super().__init__(words)
        self.refuses_all = refuses_all


class Said(NamedTuple):
    """A judge's answer to a question."""

    words: str
    """The text of the answer; empty where the judge says nothing."""
    model: str
    """The name of the model that answered, as the endpoint tells it; empty where it tells none."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for the endpoint's address, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


_open = urllib.request.build_opener(_NoRedirects).open


def address_of(settings: JudgeSettings) -> str:
    """The address of the endpoint's chat completions. `base_url` may be that address itself."""
    url = settings.base_url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def key_of(settings: JudgeSettings) -> str | None:
    """The endpoint's key. Raises UserError where the variable that should hold it is not set, or holds no key."""
    name = settings.key_variable
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(
            f"the judge's key: the environment variable {name} is not set; put the key of {settings.base_url} into it"
        )
    if (
        not key.isascii() or not key.isprintable()
    ):  # a header with such a key cannot be sent, and the error would show the key
        raise UserError(
            f"the judge's key: the environment variable {name} holds a line break or another character "
            "that no key has; put the key alone into it"
        )
    return key


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
        """Begins no request within so many seconds."""
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
        """Begins no further request; a question that waits fails."""
        self._closed.set()

    def ask(self, question: str) -> Said:
        """The judge's answer.

        A request that fails for a passing reason is made again, after the time that the server asks for or ever longer
        ones. Raises JudgeRefuses for a request that the endpoint refuses, and JudgeFailed when patience ends.
        """
        for wait_seconds in (*WAITS_SECONDS, None):  # None: the last try
            self._pace.wait()
            if self._closed.is_set():
                raise JudgeFailed("the judge is not asked any more")
            options = self._options
            try:
                return self._answer(question, options)
            except urllib.error.HTTPError as error:
                body = _body(error)
                problem = f"HTTP {error.code}: {self._cause(body)}"
                if error.code == 400 and wait_seconds is not None and self._adapt_options(body, options):
                    continue
                if error.code not in _PASSING:
                    location = error.headers.get("Location") if error.code < 400 else None
                    if location:
                        problem += f"; moved to {self._cause(location)}, which is not followed: give that address"
                    message = f"the judge at {self._address} refuses the request ({problem})"
                    raise JudgeRefuses(message, error.code in _REFUSE_ALL) from None  # its text may hold the key
                retry_after_seconds = _retry_after(error.headers.get("Retry-After"))
                if retry_after_seconds is not None:
                    self._pace.pause(retry_after_seconds)
                    wait_seconds = None if wait_seconds is None else 0.0
            except (OSError, ValueError, http.client.HTTPException) as error:  # no connection, no answer, no JSON
                problem = self._cause(str(error) or type(error).__name__)
            if wait_seconds is None:
                raise JudgeFailed(f"the judge at {self._address} does not answer ({problem})")
            level = logging.WARNING if wait_seconds >= _LONG_SECONDS else logging.INFO
            logger.log(level, "the judge does not answer (%s); asked again in %.0f s", problem, wait_seconds)
            if wait_seconds:
                self._sleep(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def _adapt_options(self, refusal: str, refused_options: Mapping[str, Any]) -> bool:
        """Leaves out an option that the endpoint refuses, or names it as the endpoint wants; False where the refusal is
        about something else. Models that reason take no temperature, and their length has another name.
        `refused_options`: those of the refused request; `self._options` may have been changed by another thread
        since."""
        if refused_options != self._options:
            return True
        options = dict(refused_options)
        if "max_completion_tokens" in refusal and "max_tokens" in options:
            options["max_completion_tokens"] = options.pop("max_tokens")
        elif "temperature" in refusal:
            options.pop("temperature", None)
        self._options = options
        return options != refused_options

    def _cause(self, text: str) -> str:
        """The text in one line, without the key: some endpoints repeat it."""
        is_secret = self._key is not None and len(self._key) >= _SHORTEST_SECRET
        safe_text = text.replace(self._key or "", "***") if is_secret else text
        return " ".join(safe_text.split())[:_CAUSE_LENGTH]

    def _answer(self, question: str, options: Mapping[str, Any]) -> Said:
        payload = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": question}],
            **options,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._address, json.dumps(payload).encode(), headers)
        seconds = self.settings.timeout_seconds
        with _open(request, timeout=seconds) as response:
            return _parse_reply(_read(response, seconds))


def _read(response: IO[bytes], seconds: float) -> bytes:
    """The whole answer. Raises TimeoutError where reading takes longer than `seconds`, also where bytes keep coming,
    and ValueError for an answer of more than `_MOST_BYTES`."""
    began, parts, num_bytes = time.monotonic(), [], 0
    while part := response.read1(_PART_BYTES):  # type: ignore[attr-defined]  # of every HTTP answer
        parts.append(part)
        num_bytes += len(part)
        if num_bytes > _MOST_BYTES:
            raise ValueError(f"an answer of more than {_MOST_BYTES:,} bytes")
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"no whole answer in {seconds:g} s")
    return b"".join(parts)


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_PART_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):  # the answer ends before its length
        return ""


def _parse_reply(body: bytes) -> Said:
    """The text of a chat completion, and the name of its model. Raises ValueError for anything else."""
    excerpt = " ".join(body[:_CAUSE_LENGTH].decode("utf-8", "replace").split())
    try:
        answer = json.loads(body)
        content = answer["choices"][0]["message"].get("content")
        if isinstance(content, list):  # parts of a message
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON, but {excerpt!r}" if excerpt else "an empty answer") from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"no chat completion: {excerpt}") from error
    if not isinstance(content, str | None):
        raise ValueError(f"no chat completion: {excerpt}")
    return Said(_text(content), _text(answer.get("model")))


def _text(value: Any) -> str:
    """The value if it is text, without halves of characters, which a cut answer may end with; else nothing."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else ""


def _retry_after(header: str | None) -> float | None:
    try:
        return min(_MOST_WAIT_SECONDS, max(0.0, float(header))) if header else None
    except ValueError:  # a date
        return None
