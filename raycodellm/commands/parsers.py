"""Parsers of the command line that name the command, the option or the value that was probably meant."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from raycodellm.config import without_credentials
from raycodellm.config.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser whose errors print no key of an address, and name the choice that is nearest to an unknown one."""

    def error(self, message: str) -> NoReturn:
        super().error(without_credentials(message))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _hint(value, action.choices)
            raise


class CommandParser(Parser):
    """The parser of one command, which refuses an unknown option itself, so that its own options stand in the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        options = self._option_string_actions
        hints = [_hint(argument.partition("=")[0], options) for argument in unknown if argument.startswith("-")]
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hints[0] if hints else ''}")
        return parsed, unknown


def _hint(value: object, choices: Any) -> str:
    """The end of a message, which names the choice that was probably meant; empty if no choice is near."""
    nearest_choice = nearest(value, choices or ())
    return f"; did you mean {nearest_choice}?" if nearest_choice else ""
