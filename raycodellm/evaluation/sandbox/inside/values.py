"""Values of built-in types as JSON: the only values that leave the process of the model's code.

An object that is no built-in value is written as a handle, a number that the process of the model's code keeps for the
object. A subclass is written as the built-in value that it holds, by the methods of the built-in type: an `__eq__`
of its own stays behind.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

MOST_VALUES = 1_000_000
"""Values in one message, nested ones included."""
DEEPEST = 100
"""Levels of nesting."""
_SAFE_INT = 1 << 53


class Unsendable(Exception):
    """A value is too large or too deep to be sent."""


class _Budget:
    def __init__(self) -> None:
        self.left = MOST_VALUES

    def take(self, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise Unsendable(f"a value holds over {MOST_VALUES:,} values, or is nested over {DEEPEST} levels deep")


def encode(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """The value as JSON's types. `keep` gives the handle of an object that is no built-in value; without it such an
    object raises `Unsendable`, as does a value that is too large or too deep."""
    return _encode(value, keep, _Budget(), 0)


def _encode(value: Any, keep: Callable[[Any], int] | None, budget: _Budget, depth: int) -> Any:
    budget.take(depth)
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_SAFE_INT < number < _SAFE_INT else ["int", hex(number)]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", float.hex(complex.real.__get__(value)), float.hex(complex.imag.__get__(value))]
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", bytes(value).hex()]
    for label, container in _CONTAINERS.items():
        if isinstance(value, container):
            return [label, *(_encode(item, keep, budget, depth + 1) for item in container.__iter__(value))]
    if isinstance(value, dict):
        return [
            "dict",
            *(
                [_encode(key, keep, budget, depth + 1), _encode(item, keep, budget, depth + 1)]
                for key, item in dict.items(value)
            ),
        ]
    if kind is range:
        return ["range", *(_encode(part, None, budget, depth + 1) for part in (value.start, value.stop, value.step))]
    if kind is type and (name := type.__getattribute__(value, "__name__")) in _TYPES and _TYPES[name] is value:
        return ["type", name]
    if keep is None:
        raise Unsendable(f"a value of type {kind.__name__} cannot be sent")
    return ["handle", keep(value)]


_TYPES: dict[str, type] = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def decode(data: Any, object_of: Callable[[int], Any]) -> Any:
    """The value that `encode` wrote. `object_of` gives a handle's object. Raises `ValueError` for anything else."""
    try:
        return _decode(data, object_of, _Budget(), 0)
    except (TypeError, IndexError, KeyError, Unsendable) as error:
        raise ValueError(f"not a value: {error}") from error


def _decode(data: Any, object_of: Callable[[int], Any], budget: _Budget, depth: int) -> Any:
    budget.take(depth)
    if data is None or isinstance(data, bool | int | str):
        return data
    if not isinstance(data, list):
        raise ValueError(f"not a value: {type(data).__name__}")
    name, *parts = data

    def item(part: Any) -> Any:
        return _decode(part, object_of, budget, depth + 1)

    if name in _CONTAINERS:
        return _CONTAINERS[name](item(part) for part in parts)
    match name, parts:
        case "dict", _:
            return {item(key): item(value) for key, value in parts}
        case "int", [digits]:
            return int(digits, 16)
        case "float", [digits]:
            return float.fromhex(digits)
        case "complex", [real, imag]:
            return complex(float.fromhex(real), float.fromhex(imag))
        case "bytes", [digits]:
            return bytes.fromhex(digits)
        case "bytearray", [digits]:
            return bytearray.fromhex(digits)
        case "range", [start, stop, step]:
            return range(item(start), item(stop), item(step))
        case "type", [str(built_in)]:
            return _TYPES[built_in]
        case "handle", [int(number)]:
            return object_of(number)
    raise ValueError(f"not a value: {str(name)[:40]!r}")
