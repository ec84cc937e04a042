"""The process of the checker: runs the task's test, whose calls of the model's functions go to the other process.

The test is the task's own code. It sees a stand-in for each name that the model's program should define. A call of a
stand-in sends the arguments, and returns a value of built-in types, or raises.
"""

from __future__ import annotations

import builtins
import secrets
import types
from collections.abc import Iterator
from typing import Any

from raycodellm.evaluation.sandbox.inside import frames
from raycodellm.evaluation.sandbox.inside.values import Unsendable, decode, encode

PASSED, FAILED, NOT_RUN = "passed", "failed", "not_run"

_PASSED_ON = frozenset(
    {"ArithmeticError", "AttributeError", "EOFError", "IndexError", "KeyError", "LookupError", "NotImplementedError"}
    | {"OSError", "OverflowError", "RecursionError", "RuntimeError", "TypeError", "ValueError", "ZeroDivisionError"}
)
"""Exceptions of the model's code that reach the test as themselves: a test may ask for one. StopIteration is none of
them: it would end a `map` or a `for` of the test early, and so pass `all(map(candidate, inputs))`."""


class CandidateFailed(Exception):
    """The model's program ended, raised, or sent an answer that is no value."""


class CannotAsk(Exception):
    """The test passes the program a value that cannot be sent: nothing is known of the program."""


def check(prompt: str, test: str, entry_point: str, requests: int, answers: int) -> tuple[str, str]:
    """(result, why) of the test. `requests`, `answers`: descriptors of pipes to the process of the model's code.

    `test`: statements; where they define `check`, it is called with the function `entry_point`, as in HumanEval.
    """
    try:
        code = compile(test, "<test>", "exec")
    except (SyntaxError, ValueError) as error:
        return NOT_RUN, f"the test cannot be compiled: {error}"
    channel = _Channel(requests, answers)
    try:
        channel.ask("load")
        if not channel.ask("find", name=entry_point):
            return FAILED, f"the program defines no {entry_point}"
        stored = set(_stored_names(code))
        names = _visible_names(prompt, code, stored, entry_point, channel)
        exec(code, names)
        if "check" in stored:
            checks = names["check"]
            names[entry_point] = program = _StandIn(channel, entry_point)  # the function may be named `check` too
            checks(program)
        if channel.lost is not None:  # a test that catches every exception has caught this one
            return FAILED, channel.lost
    except CannotAsk as error:
        return NOT_RUN, str(error)
    except CandidateFailed as error:
        return FAILED, str(error)
    except AssertionError as error:
        return FAILED, f"the test does not hold{f': {error}' if str(error) else ''}"[:300]
    except Exception as error:
        return FAILED, f"the test ends in {type(error).__name__}: {error}"[:300]
    return PASSED, ""


def _visible_names(
    prompt: str, code: types.CodeType, stored: set[str], entry_point: str, channel: _Channel
) -> dict[str, Any]:
    """The names that the test sees: those of the prompt, and stand-ins for the entry point and other names."""
    names: dict[str, Any] = {"__name__": "test"}
    try:
        exec(compile(prompt, "<prompt>", "exec"), names)
    except Exception:
        names = {"__name__": "test"}  # a prompt that ends inside a statement defines nothing alone
    for name in {entry_point, *_loaded_names(code)}:
        is_known = name in names or name in stored or hasattr(builtins, name)
        if name == entry_point or (not is_known and channel.ask("find", name=name)):
            names[name] = _StandIn(channel, name)
    return names


def _all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_codes(constant)


def _loaded_names(code: types.CodeType) -> Iterator[str]:
    for inner_code in _all_codes(code):
        yield from inner_code.co_names


def _stored_names(code: types.CodeType) -> Iterator[str]:
    """Names that the test's top level gives values to."""
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            yield str(instruction.argval)


class _Channel:
    """Requests to the process of the model's code."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self.lost: str | None = None
        """Why the process can be asked no more, or gave no answer that a test could ask for."""

    def ask(self, do: str, **request: Any) -> Any:
        """The answer's value. Raises `CandidateFailed`, or the exception of the model's code where a test may ask for
        that kind."""
        nonce = secrets.token_hex(8)
        try:
            frames.send(self._requests, {"id": nonce, "do": do, **request})
            answer = frames.receive(self._answers)
        except frames.Closed as error:
            raise self._mark_lost(f"the program ended before it answered ({error})") from error
        if not isinstance(answer, dict) or answer.get("id") != nonce:
            raise self._mark_lost("the program answered what was not asked")
        if "error" in answer:
            name, why = str(answer["error"])[:100], str(answer.get("why", ""))[:300]
            if do == "call" and name in _PASSED_ON:
                raise getattr(builtins, name)(why)
            message = f"the program raises {name}{f': {why}' if why else ''}"
            raise CandidateFailed(message) if answer.get("is_exception") is True else self._mark_lost(message)
        try:
            return decode(answer.get("value"), lambda number: _StandIn(self, number))
        except ValueError as error:
            raise self._mark_lost(f"the program answered {error}") from error

    def _mark_lost(self, why: str) -> CandidateFailed:
        """Keeps the first reason why the process can be asked no more; returns the exception to raise."""
        self.lost = self.lost or why
        return CandidateFailed(why)


class _StandIn:
    """Stands in for an object of the model's process: a function, a class, or a value of no built-in type.

    It can be called, iterated, and asked for attributes, each of which gives built-in values or other stand-ins. It
    equals itself alone. Whether it is true, as a match of `re.search` is, the program says: it could as well have
    returned True or False.
    """

    __slots__ = ("_channel", "_target")

    def __init__(self, channel: _Channel, target: str | int) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_target", target)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        encoded_arguments = [_encoded(argument) for argument in arguments]
        encoded_keywords = {name: _encoded(value) for name, value in keywords.items()}
        return self._channel.ask("call", target=self._target, arguments=encoded_arguments, keywords=encoded_keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.ask("get", target=self._target, attribute=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("set", target=self._target, attribute=name, value=_encoded(value))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._channel.ask("items", target=self._target))

    def __bool__(self) -> bool:
        return self._channel.ask("truth", target=self._target) is True


def _encoded(value: Any) -> Any:
    try:
        return encode(value, _handle)
    except Unsendable as error:
        raise CannotAsk(str(error)) from error


def _handle(value: Any) -> int:
    if isinstance(value, _StandIn) and isinstance(value._target, int):
        return value._target
    raise Unsendable(f"the test passes a {type(value).__name__} to the program, which cannot be sent")
