"""Reads the commands out of the fenced code blocks of a page, and checks them against the programs' own options."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GLOBAL_AWS_OPTIONS = {"region", "output", "query", "profile"}
"""Options of the `aws` command itself."""
OWN_AWS_COMMANDS = {("s3", "mb"), ("s3", "rb"), ("ecr", "get-login-password")}
"""Commands of `aws` that are more than one operation of a service."""


def commands(page: Path) -> Iterator[str]:
    """The commands of the page's `console` blocks: lines after `$ ` or `> `, without what they feed to `cat`."""
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        inside_text = False
        for line in block.splitlines():
            if inside_text:
                inside_text = line != "END"
                continue
            inside_text = line.endswith("<<END")
            if line.startswith(("$ ", "> ")):
                yield line[2:].strip()


def calls(page: Path, program: str) -> Iterator[list[str]]:
    """The words of each call of `program` on the page, wherever it stands in a line of a shell."""
    for command in commands(page):
        if program not in command:
            continue
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        call: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&") or word in ("do", "done", "then", "fi"):
                if call[:1] == [program]:
                    yield call
                call = []
            else:
                call.append(word)


def check_raycodellm(words: list[str]) -> None:
    """Raises `SystemExit`, as the command line does, for an option that it does not have."""
    from raycodellm.cli import _parser

    _parser().parse_args(words[1:])


def check_ray(words: list[str]) -> None:
    """Raises click's `UsageError` for an option that `ray` does not have."""
    from ray.scripts.scripts import cli

    command = cli.commands[words[1]]
    command.make_context(words[1], words[2:], resilient_parsing=False)


@functools.cache
def aws_description(service: str) -> Any:
    """AWS's own description of a service, a file of megabytes."""
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def check_aws(words: list[str]) -> None:
    """Fails for an operation or an option that AWS's description of its services does not have."""
    from botocore import xform_name

    service, operation = words[1:3]
    if (service, operation) in OWN_AWS_COMMANDS:
        return
    model = aws_description(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in names, f"aws {service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    options = {xform_name(member, "-") for member in shape.members}
    given_options = {word[2:] for word in words[3:] if word.startswith("--")}
    flags = {option.removeprefix("no-") for option in given_options - options}
    assert not flags - options - GLOBAL_AWS_OPTIONS, f"aws {service} {operation} has no --{flags - options}"
    required = {xform_name(member, "-") for member in shape.required_members}
    assert required <= given_options, f"aws {service} {operation} needs --{required - given_options}"
