"""The process of the model's code: executes it, then answers the checker's requests about what it defined.

Nothing that this process says is trusted. It can only send values of built-in types, which the checker compares.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from raycodellm.evaluation.sandbox.inside import frames
from raycodellm.evaluation.sandbox.inside.values import MOST_VALUES, decode, encode

NAME = "candidate"


def serve(program: str, requests: int, answers: int) -> None:
    """Answers requests until the checker ends. `requests`, `answers`: descriptors of pipes."""
    served = _Served(program)
    while True:
        try:
            request = frames.receive(requests)
        except frames.Closed:
            return
        frames.send(answers, {"id": request["id"], **served.answer(request)})


class _Served:
    """The model's program, loaded on request, and the objects that the checker holds handles of."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._module = types.ModuleType(NAME)
        self._objects: list[Any] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            result = getattr(self, f"_{request['do']}")(request)
            return {"value": encode(result, self._keep)}
        except BaseException as error:  # also SystemExit: the checker asked for a value and gets none
            is_exception = isinstance(error, Exception) and not isinstance(error, StopIteration)
            return {"error": type(error).__name__, "is_exception": is_exception, "why": _text(error)}

    def _keep(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _value(self, data: Any) -> Any:
        return decode(data, self._objects.__getitem__)

    def _load(self, request: dict[str, Any]) -> None:
        sys.modules[NAME] = self._module  # dataclasses look their module up
        exec(compile(self._program, f"<{NAME}>", "exec"), self._module.__dict__)

    def _find(self, request: dict[str, Any]) -> bool:
        return request["name"] in self._module.__dict__

    def _call(self, request: dict[str, Any]) -> Any:
        target: Callable[..., Any] = self._target(request)
        keywords = {name: self._value(value) for name, value in request["keywords"].items()}
        return target(*(self._value(value) for value in request["arguments"]), **keywords)

    def _get(self, request: dict[str, Any]) -> Any:
        return getattr(self._target(request), request["attribute"])

    def _set(self, request: dict[str, Any]) -> None:
        setattr(self._target(request), request["attribute"], self._value(request["value"]))

    def _truth(self, request: dict[str, Any]) -> bool:
        return bool(self._target(request))

    def _items(self, request: dict[str, Any]) -> list[Any]:
        items: Iterator[Any] = iter(self._target(request))
        return list(islice(items, MOST_VALUES))

    def _target(self, request: dict[str, Any]) -> Any:
        target = request["target"]
        return self._module.__dict__[target] if isinstance(target, str) else self._objects[target]


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:  # the model's own exception class: its message may do anything
        return ""
